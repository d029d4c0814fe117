"""The longer texts of templates that every installation begins with, from the files of `seeded/`.

Owns putting them together: a line `@name.sh@` in one stands for that other one, whole. Which templates there are is the core's.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from ..core.seeds import INSTALL_CHECK_IN, REMOVE_CHECK_IN

_PART = re.compile(r"^@([a-z_]+\.sh)@$", re.MULTILINE)


@cache
def text_of(name: str) -> str:
    """A text of `seeded/`, with the others that it holds."""
    text = (Path(__file__).parent / "seeded" / name).read_text(encoding="utf-8")
    return _PART.sub(lambda part: text_of(part[1]).rstrip("\n"), text)


def seeded_texts() -> dict[str, str]:
    """Bodies by the name of their template."""
    return {
        INSTALL_CHECK_IN: text_of("install_check_in.sh"),
        REMOVE_CHECK_IN: text_of("remove_check_in.sh"),
    }
