"""Pages, rendered on the server: escaped by default, without a line of script or style in them.

Owns the template environment and how values read for people. What is on a page is decided by the views.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from chargehand_chassis.clock import now
from chargehand_schemas.api import OutputGroup
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from ...core.groups import Group, group_id
from ...core.terminal import visible

if TYPE_CHECKING:
    from .call import Call
    from .problems import HttpProblem

_HERE = Path(__file__).parent
_ICONS = {
    "succeeded": "✔",
    "failed": "✖",
    "cancelled": "⊘",
    "refused": "⊘",
    "running": "▶",
    "accepted": "▷",
    "due": "▷",
    "cancelling": "◌",
    "waiting": "○",
    "waiting_for_check_in": "☾",
    "scheduled": "◷",
}
_BAR_ORDER = (
    "succeeded", "failed", "cancelled", "running", "cancelling", "accepted", "due", "waiting_for_check_in", "waiting",
)  # fmt: skip
_BAR_WIDTH = 1000
_WORDS = frozenset({"after", "why", "cause", "status", "reason"})


def page(call: Call, template: str, *, http_status: int = 200, **values: Any) -> Response:
    """A template as an answer."""
    html = _ENVIRONMENT.get_template(template).render(call=call, viewer=call.viewer, now=now(), **values)
    return Response(html, http_status, media_type="text/html; charset=utf-8")


def problem_page(call: Call, problem: HttpProblem) -> Response:
    """A problem as a page; one about logging in says how."""
    template = "login.html" if problem.status == 401 else "problem.html"
    response = page(call, template, http_status=problem.status, problem=problem)
    response.headers.update(problem.headers)
    return response


def _words(status: Any) -> str:
    return str(status).replace("_", " ")


def _moment(value: datetime | None) -> str:
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M:%S")


def _iso(value: datetime | None) -> str:
    return "" if value is None else value.isoformat()


def _ago(value: datetime | None) -> str:
    if value is None:
        return ""
    past = now() - value
    return f"in {_duration(-past)}" if past < timedelta(seconds=-1) else f"{_duration(max(past, timedelta()))} ago"


def _duration(value: timedelta | None) -> str:
    """Two units at most."""
    if value is None or value < timedelta():
        return ""
    seconds = value.total_seconds()
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} {int(seconds % size // part)} {small}"
    return ""


def _span(started: datetime | None, ended: datetime | None) -> str:
    """How long it took, or takes."""
    return "" if started is None else _duration((ended or now()) - started)


def _instant(value: datetime) -> str:
    """The time of day to the millisecond."""
    return f"{value:%H:%M:%S}.{value.microsecond // 1000:03d}"


def _gap(later: datetime, earlier: datetime | None) -> str:
    return "" if earlier is None else f"+{_duration(later - earlier)}"


def _facts(facts: dict[str, Any]) -> str:
    """Facts of a step in a line; its instants as those of the steps."""
    return ", ".join(_fact(name, value) for name, value in facts.items())


def _fact(name: str, value: Any) -> str:
    if value is True:
        return _words(name)
    if name.endswith("_at"):
        return f"{_words(name)} {_instant(datetime.fromisoformat(value))}"
    return f"{_words(name)} {_words(value) if name in _WORDS else value}"


def _size(value: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"


def _bar(counts: dict[str, int], total: int) -> list[tuple[str, int, float, float]]:
    """Segments of a bar of counts: status, count, place and width out of 1000. The rest is not planned yet."""
    whole = max(total, sum(counts.values()), 1)
    place, segments = 0.0, []
    for status in _BAR_ORDER:
        count = counts.get(status, 0)
        if count:
            width = _BAR_WIDTH * count / whole
            segments.append((status, count, round(place, 2), round(width, 2)))
            place += width
    return segments


def _group_key(group: OutputGroup) -> str:
    """What names a group in a query."""
    known = Group(group.status, group.reason, group.exit_status, tuple(sorted(group.digests.items())))
    return group_id(known).hex()


def _query(**values: Any) -> str:
    """A query string of the values that are there."""
    return "?" + urlencode({name: value for name, value in values.items() if value not in (None, "")})


def _asset(name: str) -> str:
    """The address of a static file; it changes with the file."""
    digest = hashlib.sha256((_HERE / "static" / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "words": _words,
        "moment": _moment,
        "iso": _iso,
        "ago": _ago,
        "size": _size,
        "instant": _instant,
        "facts": _facts,
        "visible": visible,
        "group_key": _group_key,
    }
    environment.globals |= {
        "icons": _ICONS,
        "bar": _bar,
        "span": _span,
        "gap": _gap,
        "query": _query,
        "style_sheet": _asset("style.css"),
        "script": _asset("page.js"),
        "icon": _asset("icon.svg"),
    }
    return environment


_ENVIRONMENT = _environment()
