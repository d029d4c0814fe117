"""S2: hosts in network segments that cannot see each other, each reached by the agent of its own proxy, enrolled by a token."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from support.installation import Installation
from support.netns import Segment
from support.waiting import wait_until


@contextmanager
def agent_in(segment: Segment, installation: Installation, folder: Path) -> Iterator[str]:
    """An agent of a proxy named after the segment, running in its site; Kafka is all it can see of us."""
    proxy, kafka = segment.name, installation.kafka()
    folder.mkdir()
    installation.run("proxy", "enrol", proxy, "--token-file", str(folder / "token"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CHARGEHAND_")},
        "CHARGEHAND_PROXY": proxy,
        "CHARGEHAND_PROVIDERS": '["ssh"]',
        "CHARGEHAND_DATA": str(folder / "data"),
        "CHARGEHAND_KEY_FILE": str(folder / "keys.json"),
        "CHARGEHAND_ENROLMENT_TOKEN_FILE": str(folder / "token"),
        "CHARGEHAND_PLANNER_KEY_FILE": str(installation.data / "keys" / "planner.pub.json"),
        "CHARGEHAND_KAFKA_BOOTSTRAP": kafka.kafka_bootstrap,
        "CHARGEHAND_KAFKA_USERNAME": kafka.kafka_username,
        "CHARGEHAND_KAFKA_PASSWORD_FILE": str(kafka.kafka_password_file),
    }
    port = int(kafka.kafka_bootstrap.rpartition(":")[2])
    with segment.relay(port), (folder / "agent.log").open("w") as log:
        process = subprocess.Popen(
            segment.command([sys.executable, "-m", "chargehand", "run", "proxy-agent"]),
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_until(
                lambda: any(row["proxy"] == proxy and row["agents"] for row in installation.json("proxy", "list")),
                within=timedelta(seconds=40),
            )
            yield proxy
        finally:
            process.terminate()
            process.wait(20)


def test_s2_each_segment_is_reached_by_its_own_proxy(
    checked: Installation, segments: tuple[Segment, Segment], tmp_path: Path
) -> None:
    """S2: the hosts answer through their own proxies and through no other."""
    with ExitStack() as stack:
        for segment in segments:
            proxy = stack.enter_context(agent_in(segment, checked, tmp_path / segment.name))
            checked.import_hosts([segment.host], proxy=proxy)
        names = [segment.host.name for segment in segments]
        targets = [option for name in names for option in ("--host", name)]
        good = checked.exec(*targets, command=["hostname"], within_s=90)
        assert good["counts"] == {"succeeded": 2}
        north, south = segments
        checked.import_hosts([south.host], proxy=north.name)
        crossed = checked.exec("--host", south.host.name, command=["hostname"], status=1, within_s=120)
        (job_task,) = crossed["job_tasks"]
        assert (job_task["status"], job_task["reason"]) == ("failed", "could_not_connect")
        checked.run("host", "remove", *names, "--yes")
