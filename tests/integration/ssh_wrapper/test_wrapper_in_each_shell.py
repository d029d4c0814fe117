"""The wrapper under dash, bash, busybox ash and ksh: docs/protocol.md section 1, "Attempt on the host", row by row."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from chargehand_proxy_agent.providers.port import Ended, Interrupted, NeverStarted, Omitted, Output, Refused, Started
from chargehand_proxy_agent.providers.wrapper import Answer
from support.visits import look_order, start_order, text_of
from support.wrapper_host import SHELLS, Conversation, ShellHost, available_shells, marked_below, may_make_cages

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the wrapper is for Linux hosts")
SECOND = timedelta(seconds=1)
KSH_OWN = {"A__z", "_AST_FEATURES"}  # ksh gives these to all its children


@pytest.fixture(params=sorted(SHELLS))
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ShellHost]:
    if request.param not in available_shells():
        pytest.skip(f"no {request.param} on this machine")
    host = ShellHost(request.param, tmp_path)
    yield host
    await host.close()


async def until(is_so: Callable[[], bool], within_s: float = 10) -> None:
    """The one loop that looks again at what processes do."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, "not so in time"
        await asyncio.sleep(0.01)


async def begun(conversation: Conversation) -> Started:
    """Listen until it says that it runs."""
    async for answer in conversation.heard():
        assert isinstance(answer, Started), answer
        return answer
    raise AssertionError("it never started")


def ended(answers: list[Answer]) -> Ended:
    assert isinstance(answers[-1], Ended), answers[-1]
    return answers[-1]


def processes_of(host: ShellHost, marker: str) -> list[psutil.Process]:
    """What runs below this host's home with the marker in its command line."""
    return [process for process in marked_below(host.home) if marker in " ".join(_command_line(process))]


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# --- start, output, end ---


async def test_a_short_script_is_started_told_and_ended(host: ShellHost) -> None:
    answers = await host.run(start_order("printf out; printf err >&2; exit 7"))
    assert isinstance(answers[0], Started) and not answers[0].existed
    assert (text_of(answers), text_of(answers, "stderr")) == (b"out", b"err")
    assert ended(answers).exit_status == 7 and ended(answers).signal is None and ended(answers).cause == "exited"
    assert ended(answers).lengths == {"stdout": 3, "stderr": 3}


@pytest.mark.parametrize(
    ("script", "exit_status", "by_signal"),
    [
        ("exit 137", 137, None),
        ("kill -KILL $$", None, "SIGKILL"),
        ("kill -TERM $$", None, "SIGTERM"),
        ("exit 255", 255, None),
    ],
)
async def test_a_status_and_a_signal_are_told_apart(
    host: ShellHost, script: str, exit_status: int | None, by_signal: str | None
) -> None:
    end = ended(await host.run(start_order(script)))
    assert (end.exit_status, end.signal) == (exit_status, by_signal)


async def test_every_byte_value_comes_back_as_it_was_written(host: ShellHost) -> None:
    (host.home / "bytes").write_bytes(bytes(range(256)) * 3)
    assert text_of(await host.run(start_order("cat bytes"))) == bytes(range(256)) * 3


async def test_ten_megabytes_are_exact_by_digest(host: ShellHost) -> None:
    data = os.urandom(10_000_000)
    (host.home / "big").write_bytes(data)
    answers = await host.run(start_order("cat big; cat big >&2"))
    assert hashlib.sha256(text_of(answers)).digest() == hashlib.sha256(data).digest()
    assert hashlib.sha256(text_of(answers, "stderr")).digest() == hashlib.sha256(data).digest()


async def test_output_is_told_while_the_script_runs(host: ShellHost) -> None:
    conversation = await host.open("live")
    order = start_order("echo first; while [ ! -e go ]; do sleep 0.02; done; echo second", job_task_id="live")
    conversation.give(order)
    pieces = []
    async for answer in conversation.heard():
        if isinstance(answer, Output):
            pieces.append(answer.data)
            (host.home / "go").touch()
    assert pieces == [b"first\n", b"second\n"]


@pytest.mark.parametrize(
    "script", ["echo a; echo b > /dev/stderr; echo c >&2", "echo a; echo b | tee /dev/stderr >/dev/null; echo c >&2"]
)
async def test_a_script_that_opens_dev_stderr_by_name_loses_nothing(host: ShellHost, script: str) -> None:
    answers = await host.run(start_order(f"echo before >&2; {script}"))
    assert (text_of(answers), text_of(answers, "stderr")) == (b"a\n", b"before\nb\nc\n")


async def test_beyond_its_cap_the_first_and_the_last_half_are_kept(host: ShellHost) -> None:
    data = os.urandom(300_000)
    (host.home / "big").write_bytes(data)
    answers = await host.run(start_order("cat big; echo short >&2", output_cap_bytes=100_000))
    pieces = {one.offset: one.data for one in answers if isinstance(one, Output) and one.stream == "stdout"}
    assert [one for one in answers if isinstance(one, Omitted)] == [Omitted("stdout", 50_000, 250_000)]
    assert all(data[offset : offset + len(piece)] == piece for offset, piece in pieces.items())
    assert sum(map(len, pieces.values())) == 100_000
    assert ended(answers).lengths == {"stdout": 300_000, "stderr": 6}


def of_a_child(*fields: str) -> list[str]:
    """What any program started here has: who started the tests may have had signals ignored."""
    expression = "|".join(fields)
    status = subprocess.run(["grep", "-E", expression, "/proc/self/status"], capture_output=True, text=True, check=True)
    return status.stdout.splitlines()


async def test_the_script_sees_nothing_of_the_wrapper(host: ShellHost) -> None:
    script = "umask; cat; ls /proc/self/fd; grep SigIgn /proc/self/status; grep SigBlk /proc/self/status; echo ${name-}${reap-}; env"
    host.variables["LC_ALL"] = "C.UTF-8"
    lines = text_of(await host.run(start_order(script))).decode().splitlines()
    assert lines[0] == "0022"
    # 3 is the script itself, 4 (at most) the directory that ls reads
    assert set(lines[1 : lines.index(next(line for line in lines if "SigIgn" in line))]) <= {"0", "1", "2", "3", "4"}
    assert set(of_a_child("SigIgn", "SigBlk")) <= set(lines), "neither ignored nor blocked by the wrapper"
    environment = {line.partition("=")[0] for line in lines if "=" in line}
    assert environment <= {"HOME", "PATH", "LC_ALL", "CHARGEHAND_ATTEMPT", "PWD", "OLDPWD", "SHLVL", "_"} | KSH_OWN


async def test_what_is_filled_into_a_script_is_in_no_file_argument_or_environment(host: ShellHost) -> None:
    script = "echo SECRET; echo 'not filled'"
    look = 'grep -al "tell-[n]obody" /proc/$$/environ /proc/$$/cmdline'
    filled = f'secret=tell-nobody; echo "${{#secret}}"; readlink /proc/self/fd/3; {look}'
    said = text_of(await host.run(start_order(script, filled=filled))).decode().splitlines()
    assert said[0] == "11"
    assert said[1].endswith(".fl (deleted)")
    assert len(said) == 2
    kept = [path for path in host.home.rglob("*") if path.is_file()]
    assert any(path.read_text() == script for path in kept)
    assert not any("tell-nobody" in path.read_text() for path in kept)


async def test_what_is_filled_in_reaches_the_effective_user_too(host: ShellHost) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user without a password")
    host.home.chmod(0o755)
    order = start_order(
        "echo 'not filled'", filled="id -un; echo filled", effective_user="nobody", effective_user_method="su"
    )
    assert text_of(await host.run(order)).decode().split() == ["nobody", "filled"]
    assert [path.name for path in host.home.rglob("*.fl")] == []


async def test_the_user_has_their_own_umask_and_the_directory_is_nobody_elses(host: ShellHost) -> None:
    host.umask = 0o002
    order = start_order("touch made; umask")
    assert text_of(await host.run(order)) in (b"0002\n", b"002\n")
    assert stat.S_IMODE((host.home / "made").stat().st_mode) == 0o664
    assert stat.S_IMODE(host.directory.stat().st_mode) == stat.S_IMODE(host.directory.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in host.directory.glob(f"{order.job_task_id}*")} == {0o600}


async def test_the_interpreter_of_the_script_is_honoured(host: ShellHost) -> None:
    answers = await host.run(start_order("#!/usr/bin/env perl\nprint 6 * 7, qq(\\n); exit 5;"))
    assert text_of(answers) == b"42\n" and ended(answers).exit_status == 5


async def test_an_interpreter_that_is_not_there_is_the_scripts_failure(host: ShellHost) -> None:
    answers = await host.run(start_order("#!/no/such/interpreter\n"))
    assert ended(answers).exit_status == 127 and text_of(answers, "stderr")


async def test_quotes_line_ends_and_foreign_bytes_of_a_script_arrive_as_they_are(host: ShellHost) -> None:
    script = "cat <<'X'\n'\"`$(id) \\\\ \\n !\u00e9\u4e2d\r\t\x01\x7f\x81\nX\nprintf %s 'no end of line'"
    answers = await host.run(start_order(script))
    assert text_of(answers).decode() == "'\"`$(id) \\\\ \\n !\u00e9\u4e2d\r\t\x01\x7f\x81\nno end of line"


async def test_a_large_script_runs(host: ShellHost) -> None:
    script = "".join(f": {'x' * 70} {number}\n" for number in range(3000)) + "echo the end\n"
    assert text_of(await host.run(start_order(script))) == b"the end\n"


async def test_noise_of_the_login_is_told_from_answers(host: ShellHost) -> None:
    host.before = "echo 'Welcome, chargehand 0000 hello'; printf 'no end'; echo on-stderr >&2"
    assert text_of(await host.run(start_order("echo clean"))) == b"clean\n"


async def test_a_session_that_ends_before_its_order_starts_nothing(host: ShellHost) -> None:
    order = start_order("touch was-here")
    conversation = await host.open(order.job_task_id)
    await conversation.close()
    await conversation.ended()
    assert not (host.home / "was-here").exists() and not host.record(order).exists()


async def test_an_order_cut_off_anywhere_starts_nothing(host: ShellHost) -> None:
    """A connection that goes away in the middle of the order leaves the lock free."""
    order = start_order("touch was-here")
    for share in (0.1, 0.5, 0.9, 0.99, 1.0):
        conversation = await host.open(order.job_task_id)
        sent: list[bytes] = []
        conversation.send = sent.append  # type: ignore[method-assign, assignment]
        conversation.give(order)
        del conversation.send
        text = b"".join(sent)
        conversation.send(text[: min(int(len(text) * share), len(text) - len("t\n"))])
        await conversation.finish()
        await conversation.ended()
    assert not (host.home / "was-here").exists() and not host.record(order).exists()


# --- the lock ---


async def test_of_two_starters_at_once_exactly_one_starts(host: ShellHost) -> None:
    for _ in range(50):
        order = start_order("echo $CHARGEHAND_ATTEMPT >>ledger; echo it")
        conversations = await asyncio.gather(host.open(order.job_task_id), host.open(order.job_task_id))
        for conversation in conversations:
            conversation.give(order)
        both = [[answer async for answer in conversation.heard()] for conversation in conversations]
        assert [text_of(answers) for answers in both] == [b"it\n"] * 2
        assert sum(isinstance(answers[0], Started) and not answers[0].existed for answers in both) == 1
    assert len((host.home / "ledger").read_text().splitlines()) == 50


async def test_of_a_start_and_a_look_at_once_one_has_the_lock_and_both_say_so(host: ShellHost) -> None:
    """Rule TOMB."""
    for number in range(30):
        order = start_order("echo it")
        first, second = await asyncio.gather(host.open(order.job_task_id), host.open(order.job_task_id))
        pair = [(first, order), (second, look_order(order))]
        for conversation, wish in pair if number % 2 else reversed(pair):
            conversation.give(wish)  # type: ignore[arg-type]
        started = [answer async for answer in first.heard()]
        looked = [answer async for answer in second.heard()]
        if isinstance(looked[-1], NeverStarted):
            assert started == [NeverStarted("tombstone")]
        else:
            assert ended(started).exit_status == ended(looked).exit_status == 0


async def test_a_tombstone_is_for_ever(host: ShellHost) -> None:
    order = start_order("touch was-here")
    assert await host.run(look_order(order)) == [NeverStarted("tombstone")]
    assert await host.run(order) == [NeverStarted("tombstone")]
    assert not (host.home / "was-here").exists()


async def test_a_start_after_its_deadline_is_late(host: ShellHost) -> None:
    """Rule HDL: judged on the host's uptime, after the lock and before the point of no return."""
    order = start_order("touch was-here", not_after_in=timedelta(0))
    conversation = await host.open(order.job_task_id)
    conversation.give(order, uptime=conversation.uptime - 3 * SECOND)
    assert [answer async for answer in conversation.heard()] == [NeverStarted("late")]
    assert await host.run(look_order(order)) == [NeverStarted("late")]
    assert not (host.home / "was-here").exists()


async def test_an_attempt_that_ended_is_told_again_with_all_its_output(host: ShellHost) -> None:
    order = start_order("echo it; exit 4")
    await host.run(order)
    for wish in (look_order(order), order):
        answers = await host.run(wish)
        assert text_of(answers) == b"it\n" and ended(answers).exit_status == 4


async def test_a_look_goes_on_from_its_offsets(host: ShellHost) -> None:
    order = start_order("printf 0123456789; printf abcdef >&2")
    await host.run(order)
    answers = await host.run(look_order(order, offsets={"stdout": 4, "stderr": 6}))
    assert [answer for answer in answers if isinstance(answer, Output)] == [Output("stdout", 4, b"456789")]
    assert ended(answers).lengths == {"stdout": 10, "stderr": 6}


async def test_a_cut_session_changes_nothing_for_the_script(host: ShellHost) -> None:
    order = start_order("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 3")
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await conversation.close()
    (host.home / "go").touch()
    answers = await host.run(look_order(order))
    assert text_of(answers) == b"one\ntwo\n" and ended(answers).exit_status == 3


# --- earlier attempts (rule FENCE) ---


async def test_an_earlier_attempt_that_never_came_gets_a_tombstone(host: ShellHost) -> None:
    order = start_order("echo it", attempt=3, earlier=(1, 2), unknown=(1, 2))
    assert text_of(await host.run(order)) == b"it\n"
    for attempt in (1, 2):
        assert await host.run(look_order(order, attempt=attempt)) == [NeverStarted("tombstone")]


async def test_an_earlier_attempt_that_runs_fences_the_later_one(host: ShellHost) -> None:
    first = start_order("while [ ! -e go ]; do sleep 0.02; done")
    conversation = await host.open(first.job_task_id)
    conversation.give(first)
    await begun(conversation)
    second = replace(first, attempt=2, script="touch was-here", earlier=(1,))
    assert await host.run(second) == [NeverStarted("fenced", 1)]
    (host.home / "go").touch()
    assert await host.run(look_order(second)) == [NeverStarted("fenced", 1)]
    assert not (host.home / "was-here").exists()


@pytest.mark.parametrize(("unknown", "starts"), [((), True), ((1,), False)])
async def test_an_end_the_dispatcher_does_not_know_fences_and_one_it_knows_does_not(
    host: ShellHost, unknown: tuple[int, ...], starts: bool
) -> None:
    first = start_order("exit 1")
    await host.run(first)
    answers = await host.run(replace(first, attempt=2, script="exit 0", earlier=(1,), unknown=unknown))
    assert (isinstance(answers[-1], Ended)) == starts
    assert starts or answers == [NeverStarted("fenced", 1)]


# --- dead, rebooted, old ---


async def test_processes_gone_without_a_record_are_an_interruption_with_all_output(host: ShellHost) -> None:
    order = start_order("echo said; sleep 1000")
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: (host.directory / f"{order.job_task_id}.1.out").read_bytes() == b"said\n")
    await host.power_off()
    answers = await host.run(look_order(order))
    assert text_of(answers) == b"said\n"
    assert isinstance(answers[-1], Interrupted) and answers[-1].lengths == {"stdout": 5, "stderr": 0}
    assert "gone" in answers[-1].detail


async def test_a_script_that_outlives_its_supervisor_runs_until_it_does_not(host: ShellHost) -> None:
    order = start_order("while [ ! -e go ]; do sleep 0.02; done; echo done")
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: bool(processes_of(host, "/proc/self/fd/3")))
    os.kill(conversation.pid, signal.SIGKILL)
    looking = await host.open(order.job_task_id)
    looking.give(look_order(order))
    assert (await begun(looking)).existed
    (host.home / "go").touch()
    rest = [answer async for answer in looking.heard()]
    assert text_of(rest) == b"done\n" and isinstance(rest[-1], Interrupted)


async def test_a_record_of_another_boot_is_an_interruption(host: ShellHost) -> None:
    """Rule BOOT, with the boot id as its proof."""
    order = start_order("echo said")
    await host.run(order)
    record = host.record(order)
    started, *_ = record.read_text().splitlines()
    words = started.split()
    record.write_text(" ".join([words[0], "11111111-2222-3333-4444-555555555555", *words[2:]]) + "\n")
    answers = await host.run(look_order(order))
    assert isinstance(answers[-1], Interrupted) and "11111111-2222" in answers[-1].detail


async def test_absence_proves_nothing_on_a_host_that_booted_since(host: ShellHost) -> None:
    order = start_order("true")
    conversation = await host.open(order.job_task_id)
    conversation.give(look_order(order, issued_ago=conversation.uptime + SECOND))
    (answer,) = [answer async for answer in conversation.heard()]
    assert isinstance(answer, Interrupted) and host.record(order).read_text() == "tombstone booted -\n"
    assert isinstance((await host.run(order))[-1], Interrupted)


async def test_absence_proves_nothing_about_an_attempt_older_than_records_are_kept(host: ShellHost) -> None:
    """Rule KEEP."""
    order = start_order("true")
    conversation = await host.open(order.job_task_id)
    conversation.give(look_order(order, issued_ago=timedelta(days=15)), uptime=timedelta(days=100))
    (answer,) = [answer async for answer in conversation.heard()]
    assert isinstance(answer, Interrupted) and "older" in answer.detail
    assert await host.run(order) == [answer]


async def test_a_torn_exit_record_is_none(host: ShellHost) -> None:
    """Written whole or not at all: a line without its end does not count, and a whole one after it does."""
    order = start_order("echo said")
    await host.run(order)
    record = host.record(order)
    whole = record.read_text()
    torn = whole[: whole.index("ended") + len("ended 0 - exi")]
    record.write_text(torn)
    assert isinstance((await host.run(look_order(order)))[-1], Interrupted)
    record.write_text(f"{torn}\nended 0 - exited 1 1 .\n")
    assert ended(await host.run(look_order(order))).exit_status == 0


async def test_an_empty_record_is_an_interruption_after_some_patience(host: ShellHost) -> None:
    await host.run(start_order("true"))
    order = start_order("true")
    host.record(order).touch()
    assert isinstance((await host.run(look_order(order)))[-1], Interrupted)


# --- time limits and cancel ---

STUBBORN = """
trap '' TERM
(trap '' TERM; exec setsid sh -c 'trap "" TERM; while :; do sleep 1; done' {marker}) &
env -i sh -c 'while :; do sleep 1; done' {marker} &
while :; do sleep 1; done
"""


@pytest.fixture
def marker() -> Iterator[str]:
    """A word in the command lines of a test's processes; whatever has it is gone afterwards."""
    word = f"marker-{secrets.token_hex(8)}"
    yield word
    for process in marked(word):
        process.kill()


def marked(marker: str) -> list[psutil.Process]:
    """What runs with the marker in its command line, whatever its environment."""
    return [process for process in psutil.process_iter() if marker in _command_line(process)]


async def test_the_watchdog_ends_the_whole_attempt_whoever_is_still_there(host: ShellHost, marker: str) -> None:
    """Rule LOST: children that left the session, cleared their environment or ignore TERM; and nobody connected."""
    order = start_order(
        STUBBORN.format(marker=marker), execution_timeout=timedelta(seconds=0.4), grace=timedelta(seconds=0.4)
    )
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: len(marked(marker)) >= 2)
    await conversation.close()
    answers = await host.run(look_order(order))
    assert ended(answers).cause == "timed_out"
    assert not marked(marker)


DAEMON = """
sleep 0.3
env -i setsid sh -c '(trap "" TERM HUP; while :; do sleep 1; done) & exec sleep 0' {marker} &
wait
exec env -i sh -c 'while :; do sleep 1; done' {marker}
"""


@pytest.mark.skipif(
    not may_make_cages(), reason="cgroup v2 cannot be written here: the session and the mark are what there is"
)
async def test_with_a_cgroup_even_a_daemon_that_forgot_its_environment_is_ended(host: ShellHost, marker: str) -> None:
    limits = {"execution_timeout": timedelta(seconds=1.5), "grace": timedelta(seconds=0.2)}
    order = start_order(DAEMON.format(marker=marker), **limits)
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: len(marked(marker)) == 2)
    assert ended([answer async for answer in conversation.heard()]).cause == "timed_out"
    assert not marked(marker)


async def test_run_deadline_bounds_the_execution_timeout(host: ShellHost) -> None:
    order = start_order("sleep 1000", run_deadline_in=timedelta(seconds=0.4), execution_timeout=timedelta(hours=1))
    end = ended(await host.run(order))
    assert end.cause == "timed_out" and end.signal == "SIGTERM" and end.ran_for < 3 * SECOND


async def test_a_script_that_obeys_term_has_the_grace_to_tidy_up(host: ShellHost) -> None:
    script = "trap 'echo tidied; exit 9' TERM; while :; do sleep 0.05; done"
    answers = await host.run(start_order(script, execution_timeout=timedelta(seconds=0.3)))
    assert text_of(answers) == b"tidied\n" and ended(answers).exit_status == 9 and ended(answers).cause == "timed_out"


async def test_a_cancel_says_so_when_nothing_runs_any_more(host: ShellHost, marker: str) -> None:
    order = start_order(STUBBORN.format(marker=marker), grace=timedelta(seconds=0.3))
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: len(marked(marker)) >= 2)
    answers = await host.run(look_order(order, cancel=True))
    assert ended(answers).cause == "cancelled"
    assert not marked(marker)
    assert ended([answer async for answer in conversation.heard()]).cause == "cancelled"


async def test_a_cancel_of_what_ended_by_itself_changes_nothing(host: ShellHost) -> None:
    """Rule CANC."""
    order = start_order("exit 5")
    await host.run(order)
    end = ended(await host.run(look_order(order, cancel=True)))
    assert (end.cause, end.exit_status) == ("exited", 5)


async def test_a_cancel_before_the_start_takes_the_lock(host: ShellHost) -> None:
    order = start_order("touch was-here")
    assert await host.run(look_order(order, cancel=True)) == [NeverStarted("tombstone")]
    assert await host.run(order) == [NeverStarted("tombstone")]


async def test_a_cancel_ends_what_outlived_its_supervisor(host: ShellHost) -> None:
    order = start_order("sleep 1000")
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    await until(lambda: bool(processes_of(host, "sleep 1000") or processes_of(host, "1000")))
    os.kill(conversation.pid, signal.SIGKILL)
    answers = await host.run(look_order(order, cancel=True))
    assert ended(answers).cause == "cancelled" and not processes_of(host, "1000")


async def test_children_meant_to_stay_are_left_alone_when_the_script_ends_by_itself(host: ShellHost) -> None:
    answers = await host.run(start_order("setsid sleep 1000 & echo begun"))
    assert ended(answers).exit_status == 0
    assert processes_of(host, "1000")


async def test_nothing_of_the_wrapper_stays_when_all_is_said(host: ShellHost) -> None:
    answers = await host.run(start_order("sleep 0.3; echo done"))
    assert ended(answers).exit_status == 0
    await until(lambda: not marked_below(host.home))


async def test_a_reader_that_takes_nothing_does_not_stop_the_watchdog(host: ShellHost) -> None:
    order = start_order("yes", execution_timeout=timedelta(seconds=0.5), grace=timedelta(seconds=0.5))
    conversation = await host.open(order.job_task_id)
    conversation.give(order)
    await begun(conversation)
    conversation.stop_reading()
    await until(lambda: "\nended " in host.record(order).read_text())
    assert " timed_out " in host.record(order).read_text()


# --- the directory ---


async def test_a_link_in_place_of_the_directory_is_refused(host: ShellHost) -> None:
    (host.home / ".chargehand").mkdir(mode=0o700)
    (host.home / "elsewhere").mkdir(mode=0o700)
    host.directory.symlink_to(host.home / "elsewhere")
    (answer,) = await host.run(start_order("touch was-here"))
    assert isinstance(answer, Refused) and answer.why == "bad_directory" and "link" in answer.detail
    assert not (host.home / "was-here").exists() and not list((host.home / "elsewhere").iterdir())


async def test_a_directory_others_may_write_is_refused_and_one_they_may_read_is_closed(host: ShellHost) -> None:
    host.directory.mkdir(parents=True)
    host.directory.chmod(0o777)
    (answer,) = await host.run(start_order("true"))
    assert isinstance(answer, Refused) and answer.why == "bad_directory"
    host.directory.chmod(0o755)
    assert ended(await host.run(start_order("true"))).exit_status == 0
    assert stat.S_IMODE(host.directory.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
async def test_a_directory_of_another_user_is_refused(host: ShellHost) -> None:
    host.directory.mkdir(parents=True, mode=0o700)
    os.chown(host.directory, 65534, 65534)
    (answer,) = await host.run(start_order("true"))
    assert isinstance(answer, Refused) and answer.why == "bad_directory" and "another user" in answer.detail


async def test_a_link_in_place_of_a_record_is_not_followed(host: ShellHost) -> None:
    await host.run(start_order("true"))
    order = start_order("touch was-here")
    host.record(order).symlink_to(host.home / "target")
    answers = await host.run(order)
    assert not isinstance(answers[-1], Ended)
    assert not (host.home / "target").exists() and not (host.home / "was-here").exists()


async def test_records_are_kept_for_fourteen_days_and_not_longer(host: ShellHost) -> None:
    """Rule KEEP."""
    young, old = start_order("true"), start_order("true")
    await host.run(young)
    await host.run(old)
    for path, days in ((host.record(young), 13), (host.record(old), 16)):
        os.utime(path, (time.time() - days * 86400,) * 2)
    (host.directory / ".ready").unlink()
    await host.run(start_order("true"))
    await until(lambda: not host.record(old).exists())
    assert host.record(young).exists()


async def test_acknowledged_output_is_let_go_and_its_record_kept(host: ShellHost) -> None:
    first = start_order("echo it; exit 2")
    await host.run(first)
    await host.run(start_order("true", tidy=((first.job_task_id, 1),)))
    await until(lambda: not (host.directory / f"{first.job_task_id}.1.out").read_bytes())
    answers = await host.run(look_order(first))
    assert ended(answers).exit_status == 2 and ended(answers).lengths["stdout"] == 3
    assert [answer for answer in answers if isinstance(answer, Omitted)] == [Omitted("stdout", 0, 3)]


async def test_without_setsid_the_attempt_is_still_found_and_ended(host: ShellHost, tmp_path: Path) -> None:
    bare = host.home / "bin"
    bare.mkdir()
    for name in (
        "sh",
        "sleep",
        "wc",
        "dd",
        "grep",
        "mkdir",
        "ls",
        "find",
        "rm",
        "env",
        "cat",
        "stat",
        "chmod",
        host.shell,
    ):
        found = next((Path(part) / name for part in host.path.split(":") if (Path(part) / name).exists()), None)
        if found is not None:
            (bare / name).symlink_to(found)
    host.path = str(bare)
    order = start_order(
        "env sleep 1000 & sleep 1000", execution_timeout=timedelta(seconds=0.3), grace=timedelta(seconds=0.3)
    )
    assert ended(await host.run(order)).cause == "timed_out"
    assert not processes_of(host, "1000")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user without a password")
@pytest.mark.parametrize("script", ["id -un; echo err >&2; exit 7", "id -un; echo err >/dev/stderr; exit 7"])
async def test_a_script_runs_as_another_user_under_each_shell(host: ShellHost, script: str) -> None:
    host.home.chmod(0o755)
    answers = await host.run(start_order(script, effective_user="nobody", effective_user_method="su"))
    assert (text_of(answers), text_of(answers, "stderr")) == (b"nobody\n", b"err\n")
    assert ended(answers).exit_status == 7 and ended(answers).signal is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user without a password")
async def test_a_signal_ends_another_users_script_as_any_other(host: ShellHost) -> None:
    host.home.chmod(0o755)
    order = start_order("kill -KILL $$", effective_user="nobody", effective_user_method="su")
    assert (ended(await host.run(order)).exit_status, ended(await host.run(look_order(order))).signal) == (
        None,
        "SIGKILL",
    )
