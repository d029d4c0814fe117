"""`completion`: the script that a shell reads once. Owns nothing but which shells there are; click writes the scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ..errors import CommandError
from ..help import Command

_WHERE = {
    "bash": "echo 'eval \"$(chargehand completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(chargehand completion zsh)\"' >> ~/.zshrc",
    "fish": "chargehand completion fish > ~/.config/fish/completions/chargehand.fish",
}


@click.command(cls=Command, epilog="For good, for instance: " + _WHERE["bash"])
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> int:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if kind is None:
        raise CommandError(
            f"there is no completion for {shell}.", why="click does not know it.", do="use another shell."
        )
    # The template itself: `source()` would start the shell to see whether it is new enough.
    completer = kind(root, {}, "chargehand", "_CHARGEHAND_COMPLETE")
    click.echo(completer.source_template % completer.source_vars())
    return 0
