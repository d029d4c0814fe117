"""Small pure parts of the command line: durations, server-sent events, when to ask, summaries, restarts."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import click
import pytest
from chargehand.client.sse import EventParser, ServerEvent
from chargehand.commands.host import _fields
from chargehand.commands.targets import Ask, how_to_ask, targeting
from chargehand.commands.types import Moment, NameAndValue
from chargehand.errors import CommandError
from chargehand.terminal.progress import Progress
from chargehand.terminal.summary import cut, heading, in_order, job_document, last_line
from chargehand.up.backoff import is_crash_loop, restart_delay_s, why_it_ended
from chargehand_chassis.durations import parse_duration
from chargehand_schemas.api import HostDocument, JobInvocationDocument, JobTaskDocument, OutputGroup
from chargehand_schemas.reasons import JobInvocationStatus, JobTaskStatus, Reason
from hypothesis import given
from hypothesis import strategies as st

ID = UUID("11111111-1111-4111-8111-111111111111")
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def job_task(host: str, **more: object) -> JobTaskDocument:
    fields = {"job_task_id": UUID(int=hash(host) % 2**128), "job_invocation_id": ID, "host_id": ID, "host": host}
    return JobTaskDocument.model_validate({**fields, "status": JobTaskStatus.FAILED, **more})


def invocation(**more: object) -> JobInvocationDocument:
    return JobInvocationDocument.model_validate(
        {"job_invocation_id": ID, "status": JobInvocationStatus.FAILED, "total": 3, **more}
    )


# --- durations, times, inputs ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25), ("1.5h", 5400)],
)
def test_durations_are_written_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5x", "m5", "5 m", "-5m", "1h30"])
def test_what_is_no_duration_is_none(text: str) -> None:
    assert parse_duration(text) is None


def test_a_time_without_a_zone_is_local_and_every_time_has_one() -> None:
    assert Moment().convert("2026-11-24T18:00", None, None).tzinfo is not None
    assert Moment().convert("2026-11-24T18:00Z", None, None) == datetime(2026, 11, 24, 18, tzinfo=UTC)
    with pytest.raises(click.BadParameter, match="is no time"):
        Moment().convert("tomorrow", None, None)


def test_an_input_may_hold_the_sign_that_ends_its_name() -> None:
    assert NameAndValue().convert("command=a=b", None, None) == ("command", "a=b")
    with pytest.raises(click.BadParameter):
        NameAndValue().convert("command", None, None)


# --- server-sent events ---


def test_an_event_is_complete_with_its_empty_line() -> None:
    parser = EventParser()
    assert list(parser.feed(b"id: 7\nevent: job_tasks\ndata: {\ndata: }\n")) == []
    assert list(parser.feed(b"\n")) == [ServerEvent("job_tasks", "{\n}", "7")]
    assert parser.last_id == "7"


def test_comments_and_fields_without_data_are_no_events() -> None:
    assert list(EventParser("3").feed(b": ping\n\nevent: x\nid: 4\n\n")) == []


@given(st.lists(st.integers(0, 60), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_where_the_pieces_are_cut_makes_no_difference(cuts: list[int], end: bytes) -> None:
    stream = end.join([b"id: 1", b"data: a", b"", "data: é\u2028x".encode(), b"id: 2", b"", b": z", b""])
    places = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    parser = EventParser()
    found = [e for a, b in pairwise(places) for e in parser.feed(stream[a:b])]
    assert found == [ServerEvent("message", "a", "1"), ServerEvent("message", "é\u2028x", "2")]


# --- asking ---


@pytest.mark.parametrize(
    ("count", "total", "is_all", "ask"),
    [
        (50, 50, False, Ask.NOTHING),
        (51, 10_000, False, Ask.YES),
        (1000, 10_000, False, Ask.YES),
        (1001, 10_000, False, Ask.NUMBER),
        (1, 1, True, Ask.NUMBER),
    ],
)
def test_many_hosts_are_asked_about_and_a_large_share_by_number(count: int, total: int, is_all: bool, ask: Ask) -> None:
    assert how_to_ask(count, total, is_all=is_all) is ask


def test_hosts_are_names_or_whole_ids_and_each_once() -> None:
    chosen = targeting(["web1", str(ID), "web1"], False)
    assert (chosen.host_names, chosen.host_ids) == (("web1",), (ID,))


@pytest.mark.parametrize(("hosts", "is_all"), [([], False), (["web1"], True), (["-oProxyCommand=x"], False)])
def test_no_hosts_or_both_or_a_name_that_is_none_is_refused(hosts: list[str], is_all: bool) -> None:
    with pytest.raises(CommandError):
        targeting(hosts, is_all)


# --- what is shown ---


def test_a_host_that_fails_is_told_once() -> None:
    progress = Progress()
    failed = job_task("web1", reason=Reason.EXIT_STATUS, exit_status=3)
    assert progress.take((failed,)) == ["web1: exit status 3"]
    assert progress.take((failed, job_task("web2", status=JobTaskStatus.SUCCEEDED))) == []


def test_after_fifty_failures_the_rest_is_left_to_the_summary() -> None:
    lines = Progress().take(tuple(job_task(f"h{n}", reason=Reason.TIMED_OUT) for n in range(60)))
    assert len(lines) == 51
    assert "summary" in lines[-1]


def test_what_a_host_said_is_harmless_in_a_line() -> None:
    (line,) = Progress().take((job_task("web1", reason=Reason.COULD_NOT_CONNECT, detail="\x1b[2Jrefused"),))
    assert line == "web1: could not connect: ^[[2Jrefused"


def test_the_counts_are_said_in_words() -> None:
    progress = Progress()
    progress.take(invocation(total=5, counts={"succeeded": 2, "failed": 1, "running": 1, "waiting": 1}))
    assert progress.line() == "3 of 5 ended, 2 succeeded, 1 failed, 1 under way"
    progress.take(invocation(total=3, counts={"succeeded": 1, "waiting_for_check_in": 2}))
    assert progress.line() == "1 of 3 ended, 1 succeeded, 2 waiting for their check-in"


def test_a_host_is_shown_with_what_it_says_of_itself_marked_as_its_own_words() -> None:
    document = HostDocument.model_validate(
        {
            "host_id": ID, "host": {"name": "web1", "address": "10.0.0.1"}, "last_check_in": NOON,
            "reported_facts": {"os.name": "Debian 12", "proxy": "lab"}, "facts_reported_at": NOON,
        }
    )  # fmt: skip
    rows = dict(_fields(document))
    assert rows["last check-in"] == "2026-11-24T12:00:00+00:00"
    assert (rows["reported os.name"], rows["reported proxy"]) == ("Debian 12", "lab")
    assert "proxy" not in rows, "what a host reports is never taken for what people assigned"


def group(status: str, count: int, **more: object) -> OutputGroup:
    hosts = tuple(f"web{n}" for n in range(1, count + 1))
    return OutputGroup.model_validate(
        {"status": status, "count": count, "hosts": hosts, "example_job_task_id": ID, **more}
    )


def test_failures_come_first_and_the_largest_group_of_each() -> None:
    groups = [group("succeeded", 9), group("failed", 1), group("cancelled", 2), group("failed", 3)]
    assert [(g.status.value, g.count) for g in in_order(groups)] == [
        ("failed", 3),
        ("failed", 1),
        ("cancelled", 2),
        ("succeeded", 9),
    ]


def test_a_group_is_headed_by_what_became_of_it_and_its_folded_hosts() -> None:
    assert heading(group("succeeded", 3)) == "succeeded · 3 hosts: web[1-3]"
    assert heading(group("failed", 1, reason="exit_status", exit_status=3)) == "failed, exit status 3 · 1 host: web1"
    assert heading(group("failed", 1, reason="could_not_connect", detail="refused")).startswith(
        "failed, could not connect: refused · "
    )


def test_long_output_is_cut_and_says_how_much_is_left() -> None:
    assert cut("a\nb\nc\n", 2) == ("a\nb", 1)
    assert cut("a\nb\nc\n", 0) == ("a\nb\nc", 0)
    assert cut("", 5) == ("", 0)


def test_the_last_line_sums_up() -> None:
    document = invocation(
        counts={"succeeded": 1, "failed": 2},
        reasons={"exit_status": 2},
        started_at=NOON,
        ended_at=NOON + timedelta(seconds=3.2),
    )
    assert last_line(document) == "3 hosts: 1 succeeded, 2 failed (2 exit status), in 3.2 s"


def test_the_document_has_the_names_that_programs_rely_on() -> None:
    document = job_document(invocation(), [job_task("web1", exit_status=3, attempts=2)])
    assert {"job_invocation_id", "status", "counts", "job_tasks"} <= document.keys()
    rows = document["job_tasks"]
    assert isinstance(rows, list)
    assert {
        "job_task_id", "host", "status", "reason", "exit_status", "attempts", "started_at", "ended_at",
    } <= rows[0].keys()  # fmt: skip


# --- restarts ---


def test_each_further_end_within_a_minute_doubles_the_delay() -> None:
    assert [restart_delay_s([0.0] * n, 0.0) for n in (1, 2, 3, 4)] == [0.2, 0.4, 0.8, 1.6]
    assert restart_delay_s([0.0] * 30, 0.0) == 30.0
    assert restart_delay_s([0.0, 0.0, 100.0], 100.0) == 0.2


def test_four_ends_within_a_minute_are_a_crash_loop() -> None:
    assert not is_crash_loop([0.0, 1.0, 2.0], 2.0)
    assert is_crash_loop([0.0, 1.0, 2.0, 3.0], 3.0)
    assert not is_crash_loop([0.0, 1.0, 2.0, 90.0], 90.0)


def test_an_end_is_told_in_words() -> None:
    assert why_it_ended(-9) == "was ended by signal 9"
    assert "set right first" in why_it_ended(78)
