"""The template language: what a template may use, what is read from it without rendering, and rendering itself.

Owns the sandbox. It runs in a worker process only, is given plain data, and imports Jinja2 and the standard library alone:
limits on time and memory are the process's (zygote.py), since nothing inside a process can end `10 ** 100000000`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, nodes
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

T = TypeVar("T")

MAX_SCRIPT_BYTES = 128 * 1024
MAX_MESSAGE = 500
MAX_NUMBER_BITS = 4096
MAX_ITEMS = 100_000

_FILTERS = (
    "abs", "batch", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "indent", "int", "items",
    "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round",
    "select", "selectattr", "slice", "sort", "string", "sum", "title", "tojson", "trim", "truncate", "unique", "upper",
    "urlencode", "wordcount",
)  # fmt: skip
_ATTRIBUTES: Mapping[type, frozenset[str]] = {
    str: frozenset(
        (
            "capitalize", "count", "endswith", "find", "isalnum", "isalpha", "isdigit", "join", "lower", "lstrip",
            "partition", "removeprefix", "removesuffix", "replace", "rpartition", "rsplit", "rstrip", "split", "splitlines",
            "startswith", "strip", "title", "upper", "zfill",
        )
    ),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
}  # fmt: skip


class RenderFault(Exception):
    """What a template did wrong; `line` counts from 1, 0 if none is to blame."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line, self.message = line, message[:MAX_MESSAGE]


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2 with listed filters and attributes only, undefined values as errors, and arithmetic of bounded size."""

    intercepted_binops = frozenset(("**", "*", "%"))

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, keep_trailing_newline=True, cache_size=0, auto_reload=False)
        self.filters = {name: self.filters[name] for name in _FILTERS} | {"quote": _quote}
        self.globals = {"range": safe_range}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, LoopContext):
            return not attr.startswith("_")
        return attr in _ATTRIBUTES.get(type(obj), ())

    def getattr(self, obj: Any, attribute: str) -> Any:
        # A parameter named like a method of dict is meant as the parameter.
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check = {"**": _check_power, "*": _check_product, "%": _check_remainder}[operator]
        check(left, right)
        return super().call_binop(context, operator, left, right)


def _quote(value: Any) -> str:
    """`value` as one word of a POSIX shell."""
    return shlex.quote(str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > MAX_NUMBER_BITS:
        raise SecurityError(f"the power has more than {MAX_NUMBER_BITS} bits")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > MAX_NUMBER_BITS:
            raise SecurityError(f"the product has more than {MAX_NUMBER_BITS} bits")
    elif not (_is_number(left) and _is_number(right)):
        times, value = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(times, int) and times * len(value) > MAX_ITEMS:
            raise SecurityError(f"the repetition has more than {MAX_ITEMS} items")


def _check_remainder(left: Any, right: Any) -> None:
    if not (_is_number(left) and _is_number(right)):
        raise SecurityError("% is for numbers here; join strings with ~")


class Script:
    """A compiled template."""

    def __init__(self, environment: Sandbox, body: str) -> None:
        self._template = _explained(lambda: environment.from_string(body))

    def render(self, inputs: Mapping[str, str], host: Mapping[str, Any] | None) -> str:
        """The script for one host. RenderFault with the line if the template fails, or gives too much."""
        context: dict[str, Any] = {"input": _reader(inputs)}
        if host is not None:
            context["host"] = host
        script = _explained(lambda: _joined(self._template, context))
        if "\0" in script:
            raise RenderFault(0, "the script has a NUL character, which no shell can read")
        return script


def _reader(inputs: Mapping[str, str]) -> Callable[[str], str]:
    def read(name: str) -> str:
        value = inputs.get(name)
        if value is None:
            raise UndefinedError(f"input {str(name)[:64]!r} is not defined by this template")
        return value

    return read


def _joined(template: Template, context: Mapping[str, Any]) -> str:
    parts: list[str] = []
    size = 0
    for part in template.generate(context):
        size += len(part)
        parts.append(part)
        if size > MAX_SCRIPT_BYTES:
            break
    script = "".join(parts)
    if size > MAX_SCRIPT_BYTES or len(script.encode()) > MAX_SCRIPT_BYTES:
        raise RenderFault(0, f"the script is longer than {MAX_SCRIPT_BYTES // 1024} KiB")
    return script


def analyse(environment: Sandbox, body: str) -> dict[str, Any]:
    """What a body says without being rendered: `inputs` [[name, line]], `uses_host`. RenderFault if it cannot be used."""
    return _explained(lambda: _analysed(environment, body))


def _analysed(environment: Sandbox, body: str) -> dict[str, Any]:
    tree = environment.parse(body)
    _check_no_loading(tree)
    _check_names(environment, tree)
    Script(environment, body)
    uses_host = any(name.name == "host" for name in tree.find_all(nodes.Name))
    return {"inputs": list(_inputs(tree)), "uses_host": uses_host}


def _check_no_loading(tree: nodes.Template) -> None:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise RenderFault(node.lineno, "a template cannot load another one")


def _check_names(environment: Environment, tree: nodes.Template) -> None:
    unknown = find_undeclared_variables(tree) - {"input", "host", *environment.globals}
    for name in tree.find_all(nodes.Name):
        if name.name in unknown:
            raise RenderFault(name.lineno, f'{name.name!r} is not defined; there are input("name"), host and range')


def _inputs(tree: nodes.Template) -> Iterator[tuple[str, int]]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "input" and call.args:
            first = call.args[0]
            if isinstance(first, nodes.Const) and isinstance(first.value, str):
                yield first.value, call.lineno


_FAULTS = (
    TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError, NameError,
    RuntimeError, SyntaxError, StopIteration, OSError,
)  # fmt: skip


def _explained(work: Callable[[], T]) -> T:
    """Any failure of a template as a RenderFault with the line it happened in. MemoryError goes on: the process is spent."""
    try:
        return work()
    except (RenderFault, MemoryError):
        raise
    except TemplateSyntaxError as error:
        raise RenderFault(error.lineno or 0, error.message or "syntax error") from None
    except RecursionError as error:
        raise RenderFault(_line(error.__traceback__), "it is nested too deep") from None
    except _FAULTS as error:
        raise RenderFault(_line(error.__traceback__), str(error) or type(error).__name__) from None


def _line(traceback: TracebackType | None) -> int:
    """The last line of the template in a traceback; Jinja2 puts the template's own lines into it."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
