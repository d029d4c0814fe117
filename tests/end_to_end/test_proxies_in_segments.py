"""S2: hosts in network segments that cannot see each other, each reached by the agent of its own proxy, enrolled by a token."""

from contextlib import ExitStack
from pathlib import Path

from support.installation import Installation
from support.netns import Segment
from support.site_agent import agent_at


def test_s2_each_segment_is_reached_by_its_own_proxy(
    checked: Installation, segments: tuple[Segment, Segment], tmp_path: Path
) -> None:
    """S2: the hosts answer through their own proxies and through no other."""
    with ExitStack() as stack:
        for segment in segments:
            stack.enter_context(agent_at(segment.site, checked, tmp_path / segment.site.name))
            checked.import_hosts([segment.host], proxy=segment.site.name)
        names = [segment.host.name for segment in segments]
        targets = [option for name in names for option in ("--host", name)]
        good = checked.exec(*targets, command=["hostname"], within_s=90)
        assert good["counts"] == {"succeeded": 2}
        north, south = segments
        checked.import_hosts([south.host], proxy=north.site.name)
        crossed = checked.exec("--host", south.host.name, command=["hostname"], status=1, within_s=120)
        (job_task,) = crossed["job_tasks"]
        assert (job_task["status"], job_task["reason"]) == ("failed", "could_not_connect")
        checked.run("host", "remove", *names, "--yes")
