"""What commands that talk to a server have in common: the client's errors as three lines, and printing documents.

Owns the words of those errors, and the exit status each has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import CommandError, ExitStatus
from ..terminal.escapes import visible

if TYPE_CHECKING:
    from ..client.errors import ClientError
    from ..options import Asked

_WHAT_TO_DO = {
    "no_such_host": "see `chargehand host list`, or register it with `chargehand host import`.",
    "no_hosts": "name hosts with --host, or all of them with --all.",
    "no_such_template": "name an existing template; `Run Command` is always there.",
    "unexpected_hosts": "look at `chargehand host list`, then give the number that is right.",
    "input_missing": "give it with --input NAME=VALUE.",
    "input_unknown": "leave it out, or mend its name.",
    "already_ended": "nothing: it is over. See `chargehand job show`.",
    "still_running": "wait for its end: `chargehand job watch`.",
    "not_halted": "use --failed.",
    "no_such_proxy": "see `chargehand proxy list`.",
    "not_allowed": "ask an administrator for the right.",
    "login_required": "log in first: name a file with a token in CHARGEHAND_TOKEN_FILE, or in a context.",
}


@contextmanager
def client_errors(asked: Asked) -> Iterator[None]:
    """Turn errors of the client into those of the command line."""
    from ..client.errors import ClientError

    try:
        yield
    except ClientError as error:
        raise command_error(asked, error) from error


def command_error(asked: Asked, error: ClientError) -> CommandError:
    """What, why, what to do; and the exit status."""
    from ..client.errors import LoginRequired, NotFound, Pending, Refused, Unreachable

    server = asked.server
    detail = visible(error.detail) or error.code
    match error:
        case Unreachable():
            what, do, status = f"{server.url} cannot be reached.", _how_to_reach(server.origin), ExitStatus.UNREACHABLE
        case LoginRequired():
            what, do, status = (
                f"{server.url} wants to know who you are.",
                _WHAT_TO_DO["login_required"],
                ExitStatus.LOG_IN,
            )
            detail = f"{detail} (token: {server.token_origin or 'none'})"
        case Refused():
            what, do, status = f"refused: {error.code.replace('_', ' ')}.", _do_about(error.code), ExitStatus.REFUSED
        case NotFound():
            what, do, status = (
                "there is no such thing.",
                "look at the list, and give more of its id.",
                ExitStatus.REFUSED,
            )
        case Pending():
            what, do, status = "not decided yet.", "look again with `chargehand job list`.", ExitStatus.TIMED_OUT
        case _:
            what, do = f"{server.url} gave an answer that cannot be used.", "see the log of the gateway."
            status = ExitStatus.UNREACHABLE
    return CommandError(what, why=detail, do=do, status=status)


def _how_to_reach(origin: str) -> str:
    return f"see `chargehand status`, start it with `chargehand up`, or name another server ({origin} named this one)."


def _do_about(code: str) -> str:
    return _WHAT_TO_DO.get(code, "set right what the second line says, and try again.")


def print_documents(
    asked: Asked,
    documents: Iterable[Any],
    columns: Sequence[str],
    row: Callable[[Any], Sequence[str]],
    *,
    empty: str,
) -> None:
    """A list of models: a table for people, else their JSON."""
    match asked.screen.output:
        case "table":
            asked.screen.table(columns, (row(document) for document in documents), empty=empty)
        case "json":
            asked.screen.json([document.model_dump(mode="json") for document in documents])
        case _:
            asked.screen.json_lines(document.model_dump(mode="json") for document in documents)
