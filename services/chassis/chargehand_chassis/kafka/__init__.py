"""Kafka as our services use it: signed batches out, verified batches in. aiokafka enters here and nowhere else."""

from .admin import ensure_topics, topics_ready
from .connection import TopicPartition, connection, partition_of
from .dead_letters import DeadLetters
from .followers import KeyringFollower, TopicFollower
from .publisher import Publisher
from .reader import PartitionReader
from .records import KafkaRecord, Received, Rejected, read_record

__all__ = [
    "DeadLetters",
    "KafkaRecord",
    "KeyringFollower",
    "PartitionReader",
    "Publisher",
    "Received",
    "Rejected",
    "TopicFollower",
    "TopicPartition",
    "connection",
    "ensure_topics",
    "partition_of",
    "read_record",
    "topics_ready",
]
