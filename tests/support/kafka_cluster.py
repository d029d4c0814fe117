"""Three Kafka nodes on loopback, each broker and controller, every topic on all of them: any one may be killed.

Owns their folders and processes. The launcher of the product runs a single node; this is how others run it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from chargehand.embedded.configuration import LOGGING, java_options
from chargehand.embedded.jars import kafka_jars
from chargehand.embedded.java import Java, find_java
from chargehand.embedded.kafka import KafkaAddress, new_cluster_id
from chargehand.embedded.ports import Ports, choose_ports

from support.processes import track
from support.waiting import wait_until

NODES = (1, 2, 3)
_HEAP_MIB = 256
_PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=data
auto.create.topics.enable=false
min.insync.replicas=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=3
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
background.threads=2
log.segment.bytes=16777216
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=4194304
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""


@dataclass
class KafkaCluster:
    """The nodes by number, from 1."""

    directory: Path
    java: Java
    ports: dict[int, Ports]
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> KafkaAddress:
        """All of them; whoever comes is let in."""
        empty = self.directory / "no-password"
        empty.touch()
        return KafkaAddress(",".join(f"127.0.0.1:{self.ports[node].broker}" for node in NODES), "", empty)

    def format(self, jars: list[Path]) -> None:
        voters = ",".join(f"{node}@127.0.0.1:{self.ports[node].controller}" for node in NODES)
        cluster_id = new_cluster_id()
        for node in NODES:
            folder = self._folder(node)
            (folder / "tmp").mkdir(parents=True)
            ports = self.ports[node]
            properties = _PROPERTIES.format(node=node, voters=voters, broker=ports.broker, controller=ports.controller)
            (folder / "server.properties").write_text(properties)
            (folder / "log4j2.properties").write_text(LOGGING)
            (folder / "java.options").write_text(
                java_options(jars, smallest_heap_mib=_HEAP_MIB // 2, largest_heap_mib=_HEAP_MIB)
            )
        formats = [
            self._spawn(node, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "server.properties")
            for node in NODES
        ]
        assert [one.wait(60) for one in formats] == [0, 0, 0], self.last_words(1)

    def start(self, node: int) -> None:
        self.processes[node] = self._spawn(node, "kafka.Kafka", "server.properties")
        track(self.processes[node].pid)

    def kill(self, node: int) -> None:
        """kill -9."""
        self.processes[node].kill()
        self.processes[node].wait()

    def await_listening(self, node: int) -> None:
        wait_until(lambda: _listens(self.ports[node].broker), within=timedelta(seconds=30))

    def last_words(self, node: int) -> str:
        return (self._folder(node) / "console").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()

    def _folder(self, node: int) -> Path:
        return self.directory / f"node{node}"

    def _spawn(self, node: int, *arguments: str) -> subprocess.Popen[bytes]:
        folder = self._folder(node)
        with (folder / "console").open("ab") as console:
            command = [str(self.java.command), "@java.options", *arguments]
            return subprocess.Popen(command, cwd=folder, stdout=console, stderr=console, stdin=subprocess.DEVNULL)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def running_cluster(directory: Path) -> Iterator[KafkaCluster]:
    """Three nodes that listen, for as long as the context is open."""
    cluster = KafkaCluster(directory, find_java(), {node: choose_ports() for node in NODES})
    cluster.format(list(kafka_jars(print)))
    try:
        for node in NODES:
            cluster.start(node)
        for node in NODES:
            cluster.await_listening(node)
        yield cluster
    finally:
        cluster.stop()
