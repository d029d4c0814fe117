"""Writes what follows from code: commands, settings, topics, metrics, the requirements that tests show. `--check` only says what is stale.

Owns the form of these pages; every word in them stands in the code they come from.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import click
from chargehand.main import cli
from chargehand_chassis.metrics import REGISTRY
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import TOPICS, WEEK_MS, Topic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
REQUIREMENTS = ROOT / "docs" / "requirements.md"
NOT_YET = "not yet"
PACKAGES = (
    "chargehand_chassis",
    "chargehand_planner",
    "chargehand_dispatcher",
    "chargehand_proxy_agent",
    "chargehand_reporter",
    "chargehand",
)
_GENERATED = "Generated from the code by `make docs`; a test checks that it is up to date.\n"


def settings_classes() -> Iterator[type[BaseSettings]]:
    """Every settings class: those that any module named `settings` defines, the common ones first."""
    for name in _settings_modules():
        for value in vars(import_module(name)).values():
            is_one = isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == name
            if is_one and value.model_fields:
                yield value


def _settings_modules() -> Iterator[str]:
    for package in PACKAGES:
        root = Path(*import_module(package).__path__)
        for path in sorted(root.rglob("settings.py")):
            yield ".".join((package, *path.relative_to(root).with_suffix("").parts))


def environment_names() -> set[str]:
    """Every environment variable that a service reads."""
    return {_variable(cls, name) for cls in settings_classes() for name in cls.model_fields}


def settings_page() -> str:
    """A table of its own fields for each settings class."""
    forms = "Durations are written `30s`, `5m` or `1h30m`."
    parts = [
        f"# Settings\n\nEvery service reads its settings from the environment, and only there. {forms} {_GENERATED}"
    ]
    for cls in settings_classes():
        inherited = {name for base in cls.__bases__ for name in getattr(base, "model_fields", {})}
        own = {name: field for name, field in cls.model_fields.items() if name not in inherited}
        rows = [(f"`{_variable(cls, name)}`", _default(field), field.description or "") for name, field in own.items()]
        parts.append(f"## {cls.__name__}\n\n{_summary(cls)}\n\n{_table(('variable', 'default', 'meaning'), rows)}")
    return "\n".join(parts)


def topics_page() -> str:
    """Who writes and reads each topic, how it is kept, and its message types."""
    rows = [
        (
            f"`{topic.of('PROXY') if topic.is_per_proxy else topic.name}`",
            topic.keyed_by,
            ", ".join(sorted(role.value for role in topic.writers)),
            ", ".join(topic.readers),
            _kept(topic),
        )
        for topic in TOPICS
    ]
    parts = [
        f"# Topics\n\n{_GENERATED}",
        _table(("topic", "partitioned by", "written by", "read by", "kept"), rows),
        "## Message types\n",
    ]
    for topic in TOPICS:
        types = [(f"`{message.name}`", _summary(message.model)) for message in MESSAGE_TYPES if message.topic is topic]
        parts.append(f"### {topic.base}\n\n{_table(('type', 'meaning'), types)}")
    return "\n".join(parts)


def metrics_page() -> str:
    """Every metric of every service."""
    rows = [
        (f"`{metric.name}{'_total' if metric.type == 'counter' else ''}`", metric.type, metric.documentation)
        for metric in sorted(REGISTRY.collect(), key=lambda metric: metric.name)
    ]
    head = f"# Metrics\n\nEvery service answers `/metrics` in Prometheus' format on its health address. {_GENERATED}"
    return f"{head}\n{_table(('metric', 'type', 'meaning'), rows)}"


def commands_page() -> str:
    """Every command with its arguments and options, those that all have listed once."""
    parts = [f"# Commands\n\n{_GENERATED}\n{cli.epilog}\n", "## Options of every command\n"]
    shared = [option for option in cli.params if isinstance(option, click.Option)]
    parts.append(_table(("option", "meaning"), map(_option_row, shared)))
    names = {option.name for option in shared}
    for path, command in commands(cli, ("chargehand",)):
        usage = " ".join((*path, *command.collect_usage_pieces(click.Context(command))))
        parts.append(f"## {' '.join(path[1:])}\n\n```text\n{usage}\n```\n\n{_prose(command.help or '')}\n")
        own = [option for option in command.params if isinstance(option, click.Option) and option.name not in names]
        if own:
            parts.append(_table(("option", "meaning"), map(_option_row, own)))
    return "\n".join(parts)


def _prose(text: str) -> str:
    """A help text. What click keeps line by line, a paragraph marked with a backspace, is a block."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(f"```text\n{one[2:]}\n```" if one.startswith("\b\n") else one for one in paragraphs)


def commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below a group with its path, in the order in which help lists them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None and not command.hidden:
            yield (*path, name), command


def _option_row(option: click.Option) -> tuple[str, str]:
    record = option.get_help_record(click.Context(click.Command("")))
    names, meaning = record or ("", "")
    return f"`{names}`", meaning


def rows_shown() -> dict[str, list[Path]]:
    """For each requirement that a test under tests/end_to_end names, the files of these tests."""
    shown: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "tests" / "end_to_end").rglob("test_*.py")):
        for row in sorted(set(re.findall(r"\bS\d{1,3}\b", path.read_text(encoding="utf-8")))):
            shown.setdefault(row, []).append(path)
    return shown


def requirements_page(text: str) -> str:
    """The page with its last column filled in."""

    def filled(match: re.Match[str]) -> str:
        tests = [f"[{path.name}](../{path.relative_to(ROOT)})" for path in rows_shown().get(match["row"], [])]
        return f"{match['kept']} {', '.join(tests) or NOT_YET} |"

    return re.sub(r"^(?P<kept>\| (?P<row>S\d+) \| [^|]+ \|) [^|]* \|$", filled, text, flags=re.MULTILINE)


def readme_page(text: str) -> str:
    """The README with its table of what works."""
    rows: list[tuple[str, str, str]] = []
    for area, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", _read(REQUIREMENTS), flags=re.MULTILINE | re.DOTALL):
        found = re.findall(r"^\| (S\d+) \|", body, flags=re.MULTILINE)
        for status, is_shown in (("works", True), (NOT_YET, False)):
            these = [row for row in found if (row in rows_shown()) is is_shown]
            if these:
                rows.append((", ".join(these), status, area))
    begin, end = (f"<!-- {word} -->\n" for word in ("rows: written by make docs", "end of rows"))
    head, _, rest = text.partition(begin)
    return f"{head}{begin}{_table(('rows', 'status', 'about'), rows)}{end}{rest.partition(end)[2]}"


def pages() -> dict[Path, str]:
    """Each generated page and what it should hold."""
    return {
        ROOT / "README.md": readme_page(_read(ROOT / "README.md")),
        REQUIREMENTS: requirements_page(_read(REQUIREMENTS)),
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "topics.md": topics_page(),
        REFERENCE / "metrics.md": metrics_page(),
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _variable(cls: type[BaseSettings], field: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    match value:
        case timedelta():
            return f"`{value.total_seconds():g}s`"
        case None | "" | ():
            return "none"
        case _ if value is PydanticUndefined:
            return "computed"
        case _:
            return f"`{value}`"


def _kept(topic: Topic) -> str:
    age = {-1: "for ever", WEEK_MS: "7 days"}.get(topic.retention_ms, f"{topic.retention_ms} ms")
    return f"{age}, compacted" if topic.is_compacted else age


def _summary(cls: type) -> str:
    words = (inspect.getdoc(cls) or "").split("\n\n")[0].split()
    return " ".join(words) if "__doc__" in vars(cls) and vars(cls)["__doc__"] else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are out of date (status 1)."""
    stale = [path for path, text in pages().items() if not path.exists() or _read(path) != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
