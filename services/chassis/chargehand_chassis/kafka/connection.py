"""How a client reaches the brokers, and which partition a key has. Owns both."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.partitioner import murmur2

from ..errors import FatalFailure
from ..settings import KafkaSettings

__all__ = ["TopicPartition", "connection", "partition_of"]


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments of aiokafka's clients. FatalFailure if the password file cannot be read."""
    arguments: dict[str, Any] = {"bootstrap_servers": settings.kafka_bootstrap.split(",")}
    tls = settings.kafka_ca_file is not None
    if tls:
        arguments["ssl_context"] = ssl.create_default_context(cafile=str(settings.kafka_ca_file))
    if settings.kafka_username:
        arguments["sasl_mechanism"] = "SCRAM-SHA-256"
        arguments["sasl_plain_username"] = settings.kafka_username
        arguments["sasl_plain_password"] = _password(settings.kafka_password_file)
    protocol = ("SASL_" if settings.kafka_username else "") + ("SSL" if tls else "PLAINTEXT")
    return arguments | {"security_protocol": protocol}


def _password(path: Path | None) -> str:
    if path is None:
        raise FatalFailure("CHARGEHAND_KAFKA_USERNAME is given without CHARGEHAND_KAFKA_PASSWORD_FILE")
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise FatalFailure(f"CHARGEHAND_KAFKA_PASSWORD_FILE: {error}") from error


@lru_cache(maxsize=65_536)
def partition_of(key: str, partitions: int) -> int:
    """The partition of a key, as every Kafka client's default partitioner computes it (murmur2)."""
    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)
