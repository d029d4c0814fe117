"""The committed documents are those the models give, and they are valid."""

import json
from pathlib import Path

from chargehand_schemas.__main__ import write
from chargehand_schemas.registry import MESSAGE_TYPES
from chargehand_schemas.topics import TOPICS
from jsonschema import Draft202012Validator
from pydantic_asyncapi.v3 import AsyncAPI

GENERATED = Path(__file__).parents[3] / "schemas" / "generated"


def test_committed_documents_are_what_the_models_give(tmp_path: Path) -> None:
    write(tmp_path)
    for fresh in tmp_path.iterdir():
        assert (GENERATED / fresh.name).read_text() == fresh.read_text(), f"run `make schemas`: {fresh.name} is stale"


def test_json_schema_is_valid_and_has_every_message() -> None:
    document = json.loads((GENERATED / "messages.schema.json").read_text())
    Draft202012Validator.check_schema(document)
    assert len(document["oneOf"]) == len(MESSAGE_TYPES)


def test_asyncapi_document_is_valid_and_has_every_topic() -> None:
    document = json.loads((GENERATED / "asyncapi.json").read_text())
    AsyncAPI.model_validate(document)
    assert set(document["channels"]) == {topic.base for topic in TOPICS}
