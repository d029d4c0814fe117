"""The generated documents: one JSON Schema and one AsyncAPI 3 document of all messages, from registry.py and topics.py.

Owns how the documents are put together. `python -m chargehand_schemas FOLDER` writes them; a test compares.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from .registry import MESSAGE_TYPES, MessageType
from .topics import TOPICS, Topic

Document = dict[str, Any]


def json_schema() -> Document:
    """Every message type's item as JSON Schema 2020-12, under `$defs`; a message's value is an object with `items`."""
    definitions, titles = _definitions("#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Messages of Chargehand",
        "description": "The value of a message is {'items': [...]}, 1 to 500 items of the type its ce_type header names.",
        "oneOf": [
            {"title": f"{m.topic.base}: {m.name}", **_batch({"$ref": f"#/$defs/{titles[m.model]}"})}
            for m in MESSAGE_TYPES
        ],
        "$defs": definitions,
    }


def asyncapi(version: str) -> Document:
    """The AsyncAPI 3 document: a channel per topic, a message per type, who sends and who receives."""
    definitions, titles = _definitions("#/components/schemas/{model}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Chargehand",
            "version": version,
            "description": "Topics and messages. CloudEvents 1.0 in binary mode; every message is signed by its writer.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.base: _channel(topic) for topic in TOPICS},
        "operations": {
            f"{verb}-{topic.base}": _operation(topic, action) for topic in TOPICS for verb, action in _ACTIONS
        },
        "components": {
            "messages": {_message_key(m): _message(m, titles[m.model]) for m in MESSAGE_TYPES},
            "schemas": definitions,
        },
    }


_ACTIONS = (("write", "send"), ("read", "receive"))


def _definitions(template: str) -> tuple[Document, dict[type[Any], str]]:
    models = list(dict.fromkeys(m.model for m in MESSAGE_TYPES))
    refs, schema = models_json_schema([(model, "validation") for model in models], ref_template=template)
    titles = {model: refs[(model, "validation")]["$ref"].rpartition("/")[2] for model in models}
    return schema["$defs"], titles


def _batch(item: Document) -> Document:
    return {
        "type": "object",
        "required": ["items"],
        "properties": {"items": {"type": "array", "minItems": 1, "maxItems": 500, "items": item}},
    }


def _message_key(message: MessageType) -> str:
    return f"{message.topic.base}.{message.noun}.{message.verb}"


def _message(message: MessageType, title: str) -> Document:
    roles = message.topic.writers if message.writers is None else message.writers
    return {
        "name": message.name,
        "title": message.model.__name__,
        "summary": (message.model.__doc__ or "").strip().split("\n\n")[0],
        "contentType": "application/json",
        "description": "Written by: " + ", ".join(sorted(role.value for role in roles)),
        "payload": _batch({"$ref": f"#/components/schemas/{title}"}),
    }


def _channel(topic: Topic) -> Document:
    members = [m for m in MESSAGE_TYPES if m.topic is topic]
    channel: Document = {
        "address": topic.of("{proxy}") if topic.is_per_proxy else topic.name,
        "description": f"Keyed by {topic.keyed_by}. Readers: {', '.join(topic.readers)}. Settings: {topic.config}.",
        "messages": {_message_key(m): {"$ref": f"#/components/messages/{_message_key(m)}"} for m in members},
    }
    if topic.is_per_proxy:
        channel["parameters"] = {"proxy": {"description": "Name of the proxy: [a-z0-9-]{1,63}."}}
    return channel


def _operation(topic: Topic, action: str) -> Document:
    who = ", ".join(sorted(role.value for role in topic.writers)) if action == "send" else ", ".join(topic.readers)
    return {"action": action, "channel": {"$ref": f"#/channels/{topic.base}"}, "summary": f"{action}: {who}"}
