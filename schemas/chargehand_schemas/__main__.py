"""`python -m chargehand_schemas FOLDER`: write the generated documents there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .documents import asyncapi, json_schema

DOCUMENT_VERSION = "1"


def write(folder: Path) -> None:
    """messages.schema.json and asyncapi.json, stable to the byte."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, document in (("messages.schema.json", json_schema()), ("asyncapi.json", asyncapi(DOCUMENT_VERSION))):
        (folder / name).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
