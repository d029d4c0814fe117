"""Kafka as our services use it: signed batches out, verified batches in. aiokafka enters here and nowhere else."""

from .admin import ensure_topics, group_members, topics_ready
from .connection import TopicPartition, connection, partition_of
from .dead_letters import DeadLetters
from .followers import KeyringFollower, TopicFollower
from .marks import Cut, Mark, check_log, ends_of, find_cuts, is_cut
from .patience import Patience
from .publisher import Publisher
from .reader import PartitionReader
from .records import KafkaRecord, Received, Rejected, read_record

__all__ = [
    "Cut",
    "DeadLetters",
    "KafkaRecord",
    "KeyringFollower",
    "Mark",
    "PartitionReader",
    "Patience",
    "Publisher",
    "Received",
    "Rejected",
    "TopicFollower",
    "TopicPartition",
    "check_log",
    "connection",
    "ends_of",
    "ensure_topics",
    "find_cuts",
    "group_members",
    "is_cut",
    "partition_of",
    "read_record",
    "topics_ready",
]
