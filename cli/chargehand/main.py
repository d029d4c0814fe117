"""The command line's door: the groups, and what an error looks like (docs/reference/commands.md). What a command does is in `commands`.

Nothing but click is imported before a command is known.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from .errors import CommandError, ExitStatus
from .lazy import LazyGroup, Row
from .options import Asked, common_options

_ROWS: dict[str, Row] = {
    "exec": ("invoke:exec_", "Run a command line on hosts."),
    "invoke": ("invoke:invoke", "Run a job template on hosts."),
    "job": ("groups:job", "List, show, watch, read and cancel jobs."),
    "host": ("groups:host", "List, show, import and remove hosts."),
    "proxy": ("groups:proxy", "List proxies, and let agents and programs in."),
    "event": ("groups:event", "Read the events themselves."),
    "up": ("up:up", "Start everything on this machine."),
    "down": ("up:down", "Stop what `up` started."),
    "repair": ("repair:repair", "Go on after Kafka has lost messages."),
    "status": ("status:status", "Say what runs, and which server a command would talk to."),
    "open": ("status:open_", "Log the browser in."),
    "demo": ("demo:demo", "Show it at work on hosts made for the purpose."),
    "run": ("run:run", "Run one service in the foreground."),
    "simulate": ("simulate:simulate", "Try the rules on simulated hosts, with faults."),
    "config": ("groups:config", "Show the settings in force."),
    "completion": ("completion:completion", "Print the completion script of a shell."),
}


@click.group(
    cls=LazyGroup,
    rows=_ROWS,
    epilog="Exit status: 0 every job task succeeded, 1 some did not, 2 usage or refused (nothing ran), 3 cannot be reached, "
    "4 log in first, 124 watching timed out (the job goes on), 130 interrupted.",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=lambda *a: _version(*a), help="Show it."
)
@common_options
def cli(asked: Asked) -> None:
    """Run jobs on large numbers of hosts, and know for certain what happened."""


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit status. Errors are written to stderr, three lines each."""
    is_debug = "--debug" in arguments[: arguments.index("--")] if "--" in arguments else "--debug" in arguments
    try:
        status = cli.main(arguments, prog_name="chargehand", standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0)
    except CommandError as error:
        return _fail(error, is_debug)
    except click.UsageError as error:
        return _fail(_usage_error(error), is_debug)
    except click.ClickException as error:
        return _fail(CommandError(error.format_message(), why="click says so.", do="see --help."), is_debug)
    except (click.Abort, KeyboardInterrupt):
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; what is left must not be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitStatus.NOT_SUCCEEDED
    except Exception as error:  # noqa: BLE001 (the one place that catches everything: a traceback is no message)
        return _fail(_unforeseen(error), is_debug)


def _fail(error: CommandError, is_debug: bool) -> int:
    if is_debug:
        import traceback

        traceback.print_exc()
    print("\n".join(error.lines()), file=sys.stderr)
    return error.status


def _usage_error(error: click.UsageError) -> CommandError:
    path = error.ctx.command_path if error.ctx is not None else "chargehand"
    return CommandError(
        error.format_message().rstrip("."),
        why=f"`{path}` was not called as it wants to be.",
        do=f"see `{path} --help`.",
    )


def _unforeseen(error: Exception) -> CommandError:
    from chargehand_chassis.settings import WrongSettings

    if isinstance(error, WrongSettings):
        return CommandError(
            "the environment cannot be used as it is.", why=f"{error}.", do="see docs/reference/settings.md."
        )
    return CommandError(
        "something went wrong that this program did not foresee.",
        why=f"{type(error).__name__}: {str(error)[:500] or 'no text'}",
        do="run it again with --debug and report what it prints.",
        status=ExitStatus.NOT_SUCCEEDED,
    )


def _version(ctx: click.Context, _option: Any, is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        click.echo(f"chargehand {version('chargehand')}")
        ctx.exit()


if __name__ == "__main__":
    main()
