"""Writes the reference pages that follow from code: settings, topics, metrics. `--check` only says what is out of date.

Owns the form of these pages; every word in them stands in the code they come from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import timedelta
from importlib import import_module
from inspect import getdoc
from pathlib import Path

from chargehand_chassis.metrics import REGISTRY
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import TOPICS, WEEK_MS, Topic
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

REFERENCE = Path(__file__).parent / "reference"
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
            if isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == name:
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
    parts = [f"# Settings\n\nEvery service reads its settings from the environment, and only there. {_GENERATED}"]
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


def pages() -> dict[Path, str]:
    """Each generated page and what it should hold."""
    return {
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "topics.md": topics_page(),
        REFERENCE / "metrics.md": metrics_page(),
    }


def _variable(cls: type[BaseSettings], field: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    match value:
        case timedelta():
            return f"{value.total_seconds():g} s"
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
    words = (getdoc(cls) or "").split("\n\n")[0].split()
    return " ".join(words) if "__doc__" in vars(cls) and vars(cls)["__doc__"] else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` name those that are out of date (status 1)."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(REFERENCE.parent.parent)} is out of date: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(REFERENCE.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
