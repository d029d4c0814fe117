"""Text that comes from hosts, servers and libraries, made fit to be shown to people: short, one line, no control characters.

Owns that one rule. What a host says stays data: nothing here is rendered, parsed or believed.
"""

from __future__ import annotations

import unicodedata

MAX_DETAIL_CHARACTERS = 300


def harmless(text: str | bytes, limit: int = MAX_DETAIL_CHARACTERS) -> str:
    """One line of at most `limit` characters without control, format or unassigned characters; those appear as escapes."""
    raw = text[: limit * 4]
    decoded = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    shown = "".join(_shown(character) for character in " ".join(decoded.split()))
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _shown(character: str) -> str:
    if character == " " or unicodedata.category(character)[0] not in "CZ":
        return character
    return character.encode("unicode_escape").decode("ascii") if not character.isascii() else f"\\x{ord(character):02x}"
