"""Kafka with three nodes, each killed in turn under load: what was acknowledged stays, and what was not is said again."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from chargehand_schemas.execution import AttemptAccepted, AttemptEnded, AttemptFact, AttemptStarted
from chargehand_schemas.proxies import AgentStarted
from chargehand_schemas.reasons import Stream
from integration.agent.agent_process import site
from support.kafka_cluster import NODES, KafkaCluster, running_cluster

ATTEMPTS = 30
SCRIPT = "echo one; sleep 2; echo two"


@pytest.fixture
def cluster(tmp_path: Path, kafka_home: Path) -> Iterator[KafkaCluster]:
    with running_cluster(tmp_path) as made:
        yield made


async def test_each_of_three_nodes_is_killed_in_turn_and_every_attempt_is_told_once(
    cluster: KafkaCluster, tmp_path: Path
) -> None:
    (tmp_path / "agent").mkdir()
    async with site(cluster.address, tmp_path / "agent", replication_factor=3) as world:
        world.agent.start()
        await world.first(AgentStarted)
        for node in NODES:
            commands = [world.run(SCRIPT, host=f"web{number}-{node}") for number in range(ATTEMPTS)]
            await world.command(*commands)
            await world.first(AttemptStarted, commands[0])
            cluster.kill(node)
            for command in commands:
                ended = await world.first(AttemptEnded, command, within_s=60)
                assert ended.exit_status == 0
                assert [type(item) for item in world.items(AttemptFact, command)] == [
                    AttemptAccepted, AttemptStarted, AttemptEnded,
                ]  # fmt: skip
                assert world.starts_on_hosts(command) == 1
                await world.until(lambda one=command: len(world.output(one)) == 8)  # type: ignore[misc]
                assert world.output(command) == b"one\ntwo\n"
                assert ended.digests[Stream.STDOUT] == hashlib.sha256(b"one\ntwo\n").hexdigest()
            cluster.start(node)
            cluster.await_listening(node)
        assert world.rejected() == []
