"""`exec` and `invoke`. Owns their options; which hosts may be meant is in `targets`, what follows in `watching`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import CommandError, ExitStatus
from ..help import Command
from ..options import Asked, common_options
from .completions import complete_hosts
from .types import Batches, Duration, Moment, NameAndSecret, NameAndValue, SecretFile, Share

if TYPE_CHECKING:
    from chargehand_schemas.api import JobInvocationDocument, JobInvocationRequest
    from chargehand_schemas.properties import Rolling

F = TypeVar("F", bound=Callable[..., Any])

RUN_COMMAND = "Run Command"
_OVERRIDES = (
    "concurrency", "tries", "retry_interval", "splay", "time_to_pickup", "execution_timeout_interval", "wait_for_check_in",
)  # fmt: skip

_OPTIONS = (
    click.option(
        "--host", "hosts", multiple=True, metavar="NAME", shell_complete=complete_hosts, help="A host; repeat it."
    ),
    click.option("--all", "is_all", is_flag=True, help="Every host of the inventory."),
    click.option("--user", "effective_user", default="", metavar="NAME", help="The user on the host it runs as."),
    click.option(
        "--effective-user-password",
        "asks_password",
        is_flag=True,
        help="Ask for the password that becoming that user takes.",
    ),
    click.option(
        "--effective-user-password-file",
        "password_file",
        type=SecretFile(),
        metavar="FILE",
        help="Its file; -: standard input.",
    ),
    click.option("--concurrency", type=click.IntRange(1), help="At most so many hosts at once."),
    click.option("--tries", type=click.IntRange(1, 100), help="How often it is tried on a host."),
    click.option("--retry-interval", type=Duration(), help="Wait so long between tries."),
    click.option("--splay", type=Duration(), help="Spread the starts over so long."),
    click.option(
        "--execution-timeout", "execution_timeout_interval", type=Duration(), help="End it on a host after so long."
    ),
    click.option("--time-to-pickup", type=Duration(), help="Fail on hosts where it has not started by then."),
    click.option(
        "--rolling",
        "batches",
        type=Batches(),
        help="One batch of hosts after the other, in the order given: 1 or 1,5,25%; the last size is repeated.",
    ),
    click.option(
        "--failure-limit", type=Share(), help="With --rolling: halt when more hosts than that have failed; default: 0."
    ),
    click.option(
        "--wait-for-check-in/--no-wait-for-check-in",
        default=None,
        help="A host that cannot be reached is tried again when it checks in.",
    ),
    click.option("--start-at", type=Moment(), help="Start then, and not now."),
    click.option("--start-before", type=Moment(), help="Do not start it after that."),
    click.option("--description", default="", help="What it is for."),
    click.option(
        "--expect-hosts", type=click.IntRange(0), metavar="N", help="Refuse unless it is exactly so many hosts."
    ),
    click.option("--yes", "-y", "is_confirmed", is_flag=True, help="Do not ask, however many hosts it is."),
    click.option("--async", "is_async", is_flag=True, help="Do not watch it: print its id."),
    click.option("--timeout", type=Duration(), help="Watch no longer than that; the job goes on."),
    click.option(
        "--lines", type=click.IntRange(0), default=20, show_default=True, help="Lines of output shown; 0: all."
    ),
    click.option("--raw", "is_raw", is_flag=True, help="Print what hosts wrote unchanged, control sequences too."),
)


def job_options(function: F) -> F:
    """What `exec` and `invoke` both take."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command(cls=Command, context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True)
@job_options
@common_options
def exec_(asked: Asked, command: Sequence[str], **options: Any) -> int:
    """Run a command line on hosts: the template "Run Command".

    One word is a line for the host's shell, pipes and all; several words are a command and its arguments, as they are.
    Write options before the command, and -- between them. With --wait-for-check-in --time-to-pickup 2d a laptop that is away
    has two days to come back.
    """
    line = command[0] if len(command) == 1 else shlex.join(command)
    return _invoke(asked, RUN_COMMAND, {"command": line}, {}, options)


@click.command(cls=Command)
@click.argument("template")
@click.option("--input", "inputs", multiple=True, type=NameAndValue(), help="An input of the template; repeat it.")
@click.option(
    "--secret", "secrets", multiple=True, type=NameAndSecret(), help="A hidden input, from a file; -: asks for it."
)
@job_options
@common_options
def invoke(
    asked: Asked, template: str, inputs: Sequence[tuple[str, str]], secrets: Sequence[tuple[str, str]], **options: Any
) -> int:
    """Run a job template on hosts."""
    return _invoke(asked, template, dict(inputs), dict(secrets), options)


def _invoke(
    asked: Asked, template: str, inputs: dict[str, str], secrets: dict[str, str], options: dict[str, Any]
) -> int:
    from .frame import client_errors
    from .targets import confirm, targeting

    chosen = targeting(options["hosts"], options["is_all"])
    options["effective_user_password"] = _password(options["asks_password"], options["password_file"])
    with client_errors(asked):
        expected = confirm(
            asked.screen,
            asked.client,
            chosen,
            is_confirmed=options["is_confirmed"],
            expect_hosts=options["expect_hosts"],
        )
        request = _request(template, inputs, secrets, {**options, "targeting": chosen, "expect_hosts": expected})
        invocation = asked.client.invoke(request)
    if options["is_async"]:
        return print_accepted(asked, invocation)
    return watch_accepted(asked, invocation, options["timeout"], options["lines"], options["is_raw"])


def _password(is_asked_for: bool, from_file: str | None) -> str:
    """Asked for on the terminal, or from a file; empty without either."""
    if from_file is not None:
        if is_asked_for:
            raise click.UsageError(
                "--effective-user-password asks, --effective-user-password-file reads: give one of them."
            )
        return from_file
    if not is_asked_for:
        return ""
    if not sys.stdin.isatty():
        raise click.UsageError(
            "nobody can be asked without a terminal: use --effective-user-password-file FILE, or - for standard input."
        )
    return str(click.prompt("password for becoming that user on the hosts", hide_input=True, err=True))


def _request(
    template: str, inputs: dict[str, str], secrets: dict[str, str], options: dict[str, Any]
) -> JobInvocationRequest:
    from chargehand_schemas.api import JobInvocationRequest
    from chargehand_schemas.properties import ExecutionOverrides
    from pydantic import ValidationError

    try:
        return JobInvocationRequest(
            template=template,
            targeting=options["targeting"],
            inputs=inputs,
            hidden_inputs=secrets,
            overrides=ExecutionOverrides(rolling=_rolling(options), **{name: options[name] for name in _OVERRIDES}),
            effective_user=options["effective_user"],
            effective_user_password=options["effective_user_password"],
            description=options["description"],
            start_at=options["start_at"],
            start_before=options["start_before"],
            expect_hosts=options["expect_hosts"],
        )
    except ValidationError as error:
        row = error.errors(include_url=False, include_input=False)[0]
        raise CommandError(
            "the job cannot be asked for.",
            why=f"{'.'.join(map(str, row['loc']))}: {row['msg']}.",
            do="mend that, and try again.",
        ) from error


def _rolling(options: dict[str, Any]) -> Rolling | None:
    from chargehand_schemas.properties import Rolling

    batches, limit = options["batches"], options["failure_limit"]
    if batches is None and limit is not None:
        raise CommandError(
            "--failure-limit is for rolling jobs.",
            why="--rolling was not given.",
            do="give --rolling 1, or leave it out.",
        )
    return None if batches is None else Rolling(batches=batches, failure_limit=limit or "0")


def print_accepted(asked: Asked, invocation: JobInvocationDocument) -> int:
    from ..terminal.summary import job_document

    ref = str(invocation.job_invocation_id)
    if asked.screen.is_table:
        asked.screen.print(ref)
    elif asked.screen.output == "json":
        asked.screen.json(job_document(invocation, ()))
    else:
        asked.screen.json_lines([job_document(invocation, ())])
    asked.screen.say(f"accepted; watch it: chargehand job watch {ref}")
    return ExitStatus.SUCCEEDED


def watch_accepted(
    asked: Asked, invocation: JobInvocationDocument, timeout: timedelta | None, lines: int, is_raw: bool
) -> int:
    """Watch it to its end, and report."""
    from .watching import start_watching

    start_at: datetime | None = invocation.start_at
    if start_at is not None and start_at > datetime.now(start_at.tzinfo) + timedelta(seconds=2):
        asked.screen.say(f"it starts at {start_at.astimezone().isoformat(timespec='seconds')}")
    return start_watching(asked, str(invocation.job_invocation_id), timeout, lines=lines, is_raw=is_raw)
