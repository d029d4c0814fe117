"""The life of one attempt in the agent, told as stories: what comes, the attempt after it, and all that is to be done, in order.

docs/protocol.md, section 1, "What an agent does"; each test names the rule it holds.
"""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from chargehand_proxy_agent.core.attempt import Attempt, Step, Visit, may_start, restored, start_terms, step
from chargehand_proxy_agent.core.effects import (
    CommitOffset,
    Connect,
    Effect,
    Follow,
    Forget,
    Journal,
    JournalLater,
    Leave,
    Look,
    Publish,
    PublishAndAwait,
    PublishOutput,
    SendWrapper,
    WakeAfter,
)
from chargehand_proxy_agent.core.entry import Entry, Offsets, Phase
from chargehand_proxy_agent.core.facts import AgentFacts
from chargehand_proxy_agent.core.inputs import (
    CancelReceived,
    Connected,
    ConnectionCut,
    CouldNotConnect,
    EndSeen,
    FollowWanted,
    Input,
    InterruptionSeen,
    JournalFailed,
    NeverStartedSeen,
    OmissionSeen,
    OutputAcked,
    OutputSeen,
    RefusalSeen,
    Restarted,
    ResumeReceived,
    RunReceived,
    StartSeen,
    Stopping,
    Woken,
)
from chargehand_proxy_agent.core.output import OutputLimits
from chargehand_proxy_agent.core.policy import Policy
from chargehand_schemas.commands import HostRecord
from chargehand_schemas.execution import (
    AttemptAccepted,
    AttemptEnded,
    AttemptFact,
    AttemptInterrupted,
    AttemptNeverStarted,
    AttemptReleased,
    AttemptStarted,
)
from chargehand_schemas.progress import OutputOmitted, ProgressReport
from chargehand_schemas.proxy_commands import CancelProxyCommand, ProxyCommand, ResumeProxyCommand, RunProxyCommand
from chargehand_schemas.reasons import EndCause, NeverStartedWhy, ReleaseReason, Stream

T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SCRIPT = "uptime\n"
FACTS = AgentFacts(
    agent_id="agent-1",
    agent_boot_id=UUID(int=1),
    journal_id=UUID(int=2),
    proxy="local",
    journal_birth=T0 - timedelta(days=1),
    clock_offset=timedelta(0),
    providers={"ssh": True, "ansible": False},
)


def run(**more: Any) -> RunProxyCommand:
    script = more.get("script", SCRIPT)
    fields: dict[str, Any] = {
        "id": UUID(int=10),
        "time": T0,
        "job_invocation_id": UUID(int=11),
        "job_task_id": UUID(int=12),
        "attempt": 2,
        "host_id": UUID(int=13),
        "host": HostRecord(name="web1"),
        "proxy": "local",
        "provider_type": "ssh",
        "lock_path": ".chargehand/run/x",
        "issued_at": T0,
        "run_deadline": T0 + timedelta(hours=1),
        "not_after": T0 + 30 * SECOND,
        "execution_timeout": timedelta(minutes=50),
        "grace": 10 * SECOND,
        "script": script,
        "script_digest": hashlib.sha256(script.encode()).hexdigest(),
        "earlier": (1,),
    }
    return RunProxyCommand(**{**fields, **more})


def resume(**more: Any) -> ResumeProxyCommand:
    return ResumeProxyCommand(**{**run().model_dump(), "id": uuid4(), **more})


def cancel(**more: Any) -> CancelProxyCommand:
    return CancelProxyCommand(**{**run().model_dump(), "id": uuid4(), **more})


class Story:
    """One attempt and what was said and done of it so far."""

    def __init__(self, facts: AgentFacts = FACTS, attempt: Attempt | None = None) -> None:
        self.attempt = attempt
        self.facts = facts
        self.now = T0
        self.effects: Any = ()  # a tuple of Effect; as such, a comparison would narrow it for the type checker

    def given(self, *events: Input, after: timedelta = timedelta(0)) -> "Story":
        for event in events:
            self.now += after
            reached: Step = step(self.attempt, event, self.now, self.facts)
            self.attempt, self.effects = reached
        return self

    @property
    def kinds(self) -> list[type[Effect]]:
        return [type(effect) for effect in self.effects]

    @property
    def phase(self) -> Phase:
        assert self.attempt is not None
        return self.attempt.phase

    @property
    def said(self) -> list[AttemptFact]:
        items = [effect.item for effect in self.effects if isinstance(effect, Publish | PublishAndAwait)]
        return [item for item in items if isinstance(item, AttemptFact)]

    @property
    def journaled(self) -> list[Entry]:
        return [effect.entry for effect in self.effects if isinstance(effect, Journal)]

    def only_said(self) -> AttemptFact:
        (fact,) = self.said
        return fact


def accepted(facts: AgentFacts = FACTS, **more: Any) -> Story:
    return Story(facts).given(RunReceived(run(**more)))


def starting(facts: AgentFacts = FACTS, **more: Any) -> Story:
    return accepted(facts, **more).given(Connected(1))


def following(facts: AgentFacts = FACTS, **more: Any) -> Story:
    return starting(facts, **more).given(StartSeen(1, "boot-1", timedelta(0)))


def end(visit: int = 1, stdout: int = 0, stderr: int = 0, status: int = 0) -> EndSeen:
    lengths = {Stream.STDOUT: stdout, Stream.STDERR: stderr}
    return EndSeen(visit, status, None, EndCause.EXITED, lengths, 2 * SECOND, "boot-1")


# --- the straight way ------------------------------------------------------------------------------------------------------


def test_a_command_is_journaled_then_its_offset_then_accepted_and_only_then_connected() -> None:
    """ACK."""
    story = accepted()
    assert story.kinds == [Journal, CommitOffset, PublishAndAwait, Connect]
    assert story.phase is Phase.ACCEPTED
    assert isinstance(story.only_said(), AttemptAccepted)
    assert story.only_said().journal_id == FACTS.journal_id
    (entry,) = story.journaled
    assert (entry.phase, entry.is_said) == (Phase.ACCEPTED, False)
    assert isinstance(entry.order, RunProxyCommand) and entry.order.script == "", "the journal holds no script"


def test_connected_journals_starting_before_the_wrapper_is_sent() -> None:
    story = starting()
    assert story.kinds == [Journal, SendWrapper]
    assert story.journaled[0].phase is Phase.STARTING
    assert story.phase is Phase.STARTING


def test_the_wrapper_is_told_its_deadlines_from_the_instant_it_is_sent() -> None:
    """HDL, BOOT."""
    story = starting()
    assert story.attempt is not None
    terms = start_terms(story.attempt, T0 + 4 * SECOND)
    assert terms is not None
    assert (terms.not_after_in, terms.issued_ago) == (26 * SECOND, 4 * SECOND)
    assert terms.run_deadline_in == timedelta(hours=1) - 4 * SECOND
    assert (terms.run.script, terms.run.earlier) == (SCRIPT, (1,))


def test_started_is_said_with_the_digest_of_what_was_started() -> None:
    story = following()
    assert story.kinds == [Publish]
    fact = story.only_said()
    assert isinstance(fact, AttemptStarted)
    assert (fact.host_boot_id, fact.started_at) == ("boot-1", T0)
    assert fact.script_digest == hashlib.sha256(SCRIPT.encode()).hexdigest()
    assert story.attempt is not None and story.attempt.run is None, "the script is dropped from memory"


def test_output_is_published_by_offset_and_the_end_waits_for_its_acknowledgement() -> None:
    """OUTORD."""
    story = following().given(OutputSeen(1, Stream.STDOUT, 0, b"one\ntwo\n"))
    (published,) = story.effects
    assert isinstance(published, PublishOutput) and isinstance(published.item, ProgressReport)
    assert (published.item.offset, published.item.length, published.item.newlines) == (0, 8, 2)
    assert (published.raw, published.up_to) == (b"one\ntwo\n", Offsets(8, 0))
    story.given(end(stdout=8, status=3))
    assert story.effects == () and story.phase is Phase.FOLLOWING
    story.given(OutputAcked(Offsets(8, 0)))
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]
    (entry,) = story.journaled
    assert (entry.phase, entry.acked) == (Phase.ENDED, Offsets(8, 0))
    fact = story.only_said()
    assert isinstance(fact, AttemptEnded)
    assert (fact.exit_status, fact.lengths, fact.kept) == (
        3,
        {Stream.STDOUT: 8, Stream.STDERR: 0},
        {Stream.STDOUT: 8, Stream.STDERR: 0},
    )
    assert fact.digests[Stream.STDOUT] == hashlib.sha256(b"one\ntwo\n").hexdigest()
    assert fact.digests[Stream.STDERR] == hashlib.sha256(b"").hexdigest()
    assert fact.newlines == {Stream.STDOUT: 2, Stream.STDERR: 0}


def test_an_end_without_output_is_said_at_once() -> None:
    story = following().given(end(status=0))
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]
    assert story.phase is Phase.ENDED


def test_what_comes_after_the_end_changes_nothing() -> None:
    story = following().given(end())
    before = story.attempt
    for event in (
        StartSeen(1, "x", SECOND),
        end(status=9),
        OutputSeen(1, Stream.STDOUT, 0, b"x"),
        NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE),
        ConnectionCut(1, "cut"),
        Woken(),
        OutputAcked(Offsets(9, 9)),
        OmissionSeen(1, Stream.STDOUT, 0, 5),
    ):
        story.given(event)
        assert (story.attempt, story.effects) == (before, ()), event


# --- not started ------------------------------------------------------------------------------------------------------------


def objections() -> list[tuple[ReleaseReason, AgentFacts, dict[str, Any]]]:
    return [
        (ReleaseReason.EXPIRED, FACTS, {"not_after": T0}),
        (ReleaseReason.CLOCK_OFFSET, replace(FACTS, clock_offset=6 * SECOND), {}),
        (ReleaseReason.CLOCK_OFFSET, replace(FACTS, clock_offset=-6 * SECOND), {"not_after": T0}),
        (ReleaseReason.CLOCK_OFFSET, replace(FACTS, clock_offset=None), {}),
        (ReleaseReason.NOT_VALID, FACTS, {"script_digest": "0" * 64}),
        (ReleaseReason.NOT_SUPPORTED, FACTS, {"provider_type": "salt"}),
        (ReleaseReason.NOT_SUPPORTED, FACTS, {"sealed": {"x": "y"}}),
        (ReleaseReason.STOPPING, replace(FACTS, is_stopping=True), {}),
        (
            ReleaseReason.POLICY,
            replace(FACTS, policy=Policy(denied_effective_users=frozenset({"root"}))),
            {"effective_user": "root"},
        ),
        (
            ReleaseReason.POLICY,
            replace(FACTS, policy=Policy(allowed_effective_users=frozenset({"web"}))),
            {"effective_user": "root"},
        ),
        (ReleaseReason.POLICY, replace(FACTS, policy=Policy(denied_scripts=(r"\brm\s",))), {"script": "rm -rf x"}),
        (
            ReleaseReason.JOURNAL,
            replace(FACTS, journal_birth=T0 - SECOND),
            {"provider_type": "ansible"},
        ),
    ]


def test_each_objection_is_a_release_that_never_connects_and_proves_only_where_nobody_should_try_again() -> None:
    """CLK, SOLO, ONE, and the agent's own policy."""
    for why, facts, more in objections():
        story = accepted(facts, **more)
        assert story.kinds == [Journal, CommitOffset, PublishAndAwait, JournalLater, Forget], why
        fact = story.only_said()
        assert isinstance(fact, AttemptReleased)
        is_final = why in (ReleaseReason.POLICY, ReleaseReason.NOT_SUPPORTED) and "provider_type" not in more
        assert (fact.why, fact.proves_never_started) == (why, is_final)
        assert story.phase is Phase.RELEASED


def test_a_policy_proves_nothing_where_the_journal_may_not_know() -> None:
    """JID."""
    policy = Policy(denied_effective_users=frozenset({"root"}))
    fact = accepted(replace(FACTS, policy=policy, journal_birth=T0 - SECOND), effective_user="root").only_said()
    assert isinstance(fact, AttemptReleased) and fact.why is ReleaseReason.POLICY and not fact.proves_never_started


@pytest.mark.parametrize(
    ("allowed", "denied", "user", "is_let"),
    [
        ({"*"}, set(), "root", True),
        ({"app-*"}, set(), "app-web", True),
        ({"app-*"}, set(), "app", False),
        ({"*"}, {"r??t"}, "root", False),
        ({"app-*"}, {"*-db"}, "app-db", False),
        (set(), set(), "app", False),
    ],
)
def test_s99_effective_users_are_allowed_by_name_or_pattern(
    allowed: set[str], denied: set[str], user: str, is_let: bool
) -> None:
    facts = replace(FACTS, policy=Policy(frozenset(allowed), frozenset(denied)))
    assert (accepted(facts, effective_user=user).phase is Phase.ACCEPTED) == is_let


def test_a_provider_that_knows_no_other_user_says_so_before_it_connects() -> None:
    facts = replace(FACTS, same_user_only=frozenset(FACTS.providers))
    fact = accepted(facts, effective_user="app").only_said()
    assert isinstance(fact, AttemptReleased) and fact.why is ReleaseReason.NOT_SUPPORTED
    assert "cannot run scripts as another user" in fact.detail
    assert accepted(facts).phase is Phase.ACCEPTED


def test_the_password_of_the_effective_user_is_not_journaled() -> None:
    story = accepted(FACTS, effective_user="app", sealed_effective_user_password="c2VhbGVk")
    assert story.attempt is not None and "c2VhbGVk" not in repr(story.attempt.entry)


def test_a_user_the_host_refuses_is_never_started_with_words() -> None:
    seen = NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE, refusal="cannot run as app: wrong password")
    story = accepted(FACTS, effective_user="app").given(Connected(1)).given(seen)
    fact = story.only_said()
    assert isinstance(fact, AttemptNeverStarted) and fact.refusal == "cannot run as app: wrong password"


def test_the_connecting_user_is_no_effective_user_and_needs_no_leave() -> None:
    story = accepted(replace(FACTS, policy=Policy(allowed_effective_users=frozenset())))
    assert story.phase is Phase.ACCEPTED


def test_no_connection_is_a_release_that_proves_never_started() -> None:
    """ONE (a)."""
    story = accepted().given(CouldNotConnect(1, "refused", "port 22"))
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]
    fact = story.only_said()
    assert isinstance(fact, AttemptReleased)
    assert (fact.why, fact.detail, fact.proves_never_started) == (
        ReleaseReason.COULD_NOT_CONNECT,
        "refused: port 22",
        True,
    )


def test_a_release_proves_nothing_when_the_journal_may_not_know_or_the_clock_is_not_trusted() -> None:
    """JID, ONE."""
    doubtful = [
        replace(FACTS, journal_birth=T0 - 4 * SECOND),
        replace(FACTS, journal_birth=None),
    ]
    for facts in doubtful:
        fact = accepted(facts).given(CouldNotConnect(1, "refused", "")).only_said()
        assert isinstance(fact, AttemptReleased) and not fact.proves_never_started
    story = accepted()
    story.facts = replace(FACTS, clock_offset=9 * SECOND)
    fact = story.given(CouldNotConnect(1, "refused", "")).only_said()
    assert isinstance(fact, AttemptReleased) and not fact.proves_never_started


def test_connected_after_not_after_is_released_and_the_wrapper_is_not_sent() -> None:
    story = accepted().given(Connected(1), after=31 * SECOND)
    assert story.kinds == [Leave, Journal, PublishAndAwait, JournalLater, Forget]
    fact = story.only_said()
    assert isinstance(fact, AttemptReleased)
    assert (fact.why, fact.proves_never_started) == (ReleaseReason.EXPIRED, True)


def test_the_last_question_before_the_wrapper_asks_time_clock_stop_and_cancel() -> None:
    story = starting()
    assert story.attempt is not None
    assert may_start(story.attempt, T0, FACTS)
    assert not may_start(story.attempt, T0 + 30 * SECOND, FACTS)
    assert not may_start(story.attempt, T0, replace(FACTS, clock_offset=6 * SECOND))
    assert not may_start(story.attempt, T0, replace(FACTS, is_stopping=True))
    story.given(CancelReceived(cancel()))
    assert not may_start(story.attempt, T0, FACTS)


def test_a_wrapper_that_was_not_even_sent_proves_but_one_that_refused_does_not() -> None:
    """JID: a release is no proof when the wrapper was sent."""
    unsent = starting().given(RefusalSeen(1, "start_not_allowed", ""), after=31 * SECOND).only_said()
    refused = starting().given(RefusalSeen(1, "disk_full", "no room")).only_said()
    rebooted = starting().given(RefusalSeen(1, "rebooted", "")).only_said()
    assert isinstance(unsent, AttemptReleased) and isinstance(refused, AttemptReleased)
    assert isinstance(rebooted, AttemptReleased)
    assert (unsent.why, unsent.proves_never_started) == (ReleaseReason.EXPIRED, True)
    assert (refused.why, refused.proves_never_started) == (ReleaseReason.HOST_REFUSED, False)
    assert (rebooted.why, rebooted.proves_never_started) == (ReleaseReason.HOST_REBOOTED, False)


def test_a_connection_lost_with_nothing_sent_is_as_no_connection_and_otherwise_a_look() -> None:
    unsent = starting().given(ConnectionCut(1, "gone", was_sent=False))
    assert isinstance(unsent.only_said(), AttemptReleased) and unsent.phase is Phase.RELEASED
    sent = starting().given(ConnectionCut(1, "gone"))
    assert sent.effects == (WakeAfter(SECOND),) and sent.phase is Phase.STARTING


def test_late_at_the_host_is_never_started() -> None:
    """HDL."""
    story = starting().given(NeverStartedSeen(1, NeverStartedWhy.LATE))
    fact = story.only_said()
    assert isinstance(fact, AttemptNeverStarted) and fact.why is NeverStartedWhy.LATE
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]


def test_fenced_says_never_started_and_follows_the_one_that_fences() -> None:
    """FENCE."""
    story = starting().given(NeverStartedSeen(1, NeverStartedWhy.FENCED, 1))
    assert story.kinds == [Journal, PublishAndAwait, Follow, JournalLater, Forget]
    fact = story.only_said()
    assert isinstance(fact, AttemptNeverStarted) and fact.fenced_by == 1
    (follow,) = [effect for effect in story.effects if isinstance(effect, Follow)]
    assert (follow.command.attempt, follow.command.lock_path) == (1, ".chargehand/run/x"), "PIN: the same place"
    assert Story().given(FollowWanted(follow.command)).kinds == [CommitOffset, Connect]


# --- repeats -----------------------------------------------------------------------------------------------------------------


def test_a_repeated_command_repeats_the_last_report_and_nothing_else() -> None:
    for story, last in ((accepted(), AttemptAccepted), (following(), AttemptStarted)):
        before = story.attempt
        story.given(RunReceived(run()))
        assert story.kinds == [CommitOffset, Publish] and story.attempt == before
        assert isinstance(story.only_said(), last)


def test_a_repeated_command_for_what_is_over_repeats_its_end_from_the_journal() -> None:
    over = following().given(end())
    entry = over.journaled[0]
    story = Story(attempt=restored(entry)).given(RunReceived(run()))
    assert story.kinds == [CommitOffset, Publish, Forget]
    assert story.only_said() == entry.report


def test_a_command_for_what_is_being_looked_for_starts_nothing() -> None:
    """TOMB: the look may be taking the lock right now."""
    story = Story().given(ResumeReceived(resume()), RunReceived(run()))
    assert story.effects == (CommitOffset(),) and story.phase is Phase.LOOKING


# --- resume --------------------------------------------------------------------------------------------------------------------


def test_resume_of_the_unknown_looks_at_the_host() -> None:
    """TRUTH: an empty journal says nothing."""
    story = Story().given(ResumeReceived(resume()))
    assert story.effects == (CommitOffset(), Connect(1)) and story.phase is Phase.LOOKING
    story.given(Connected(1))
    assert story.effects == (Look(1, is_cancel=False, offsets=Offsets(0, 0)),)
    tomb = story.given(NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE))
    assert isinstance(tomb.only_said(), AttemptNeverStarted)


def test_resume_of_what_is_followed_is_answered_without_a_visit_and_with_an_id_of_its_own() -> None:
    story = following()
    first = story.only_said()
    story.given(ResumeReceived(resume()))
    assert story.kinds == [CommitOffset, Publish]
    assert isinstance(story.only_said(), AttemptStarted) and story.only_said().id != first.id


def test_resume_finds_it_running_and_journals_before_it_follows() -> None:
    asked = resume()
    story = Story().given(ResumeReceived(asked), Connected(1), StartSeen(1, "boot-1", 9 * SECOND, existed=True))
    assert story.kinds == [Journal, Publish]
    fact = story.only_said()
    assert isinstance(fact, AttemptStarted)
    assert (fact.causation_id, fact.started_at, fact.script_digest) == (asked.id, T0 - 9 * SECOND, "")


def test_resume_while_a_start_is_in_flight_looks_on_a_second_connection() -> None:
    story = starting().given(ResumeReceived(resume()))
    assert story.effects == (CommitOffset(), Connect(2))
    story.given(ResumeReceived(resume()))
    assert story.effects == (CommitOffset(),), "one look at a time"


def test_resume_of_what_this_agent_released_looks_since_another_may_have_started_it() -> None:
    """ACCEPTORS, TRUTH."""
    entry = accepted().given(CouldNotConnect(1, "refused", "")).journaled[0]
    story = Story(attempt=restored(entry)).given(ResumeReceived(resume()))
    assert story.effects == (CommitOffset(), Connect(1)) and story.phase is Phase.LOOKING


def test_unreachable_is_no_answer_and_is_tried_again_later_and_later() -> None:
    """TRUTH."""
    story = Story().given(ResumeReceived(resume()))
    delays = []
    for visit in range(1, 9):
        story.given(CouldNotConnect(visit, "timed_out", ""))
        (wake,) = story.effects
        assert isinstance(wake, WakeAfter)
        delays.append(wake.delay / SECOND)
        story.given(Woken())
        assert story.effects == (Connect(visit + 1),)
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]


def test_what_was_only_asked_for_is_given_up_after_its_deadline_without_a_word() -> None:
    story = Story().given(ResumeReceived(resume()), CouldNotConnect(1, "timed_out", ""))
    story.given(Woken(), after=timedelta(hours=2))
    assert story.effects == (Forget(),)


def test_a_tombstone_proves_nothing_of_what_is_older_than_hosts_remember() -> None:
    """KEEP."""
    old = resume(issued_at=T0 - timedelta(days=15))
    story = Story().given(ResumeReceived(old), Connected(1), NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE))
    assert isinstance(story.only_said(), AttemptInterrupted)


def test_a_host_that_denies_what_it_said_before_is_not_believed() -> None:
    story = following().given(NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE))
    assert isinstance(story.only_said(), AttemptInterrupted)


def test_dead_on_its_host_is_interrupted_after_its_output() -> None:
    story = following().given(OutputSeen(1, Stream.STDERR, 0, b"oh"), ConnectionCut(1, "cut"), Woken(), Connected(2))
    assert story.effects == (Look(2, is_cancel=False, offsets=Offsets(0, 2)),)
    story.given(InterruptionSeen(2, "rebooted", "boot-2", {Stream.STDERR: 2}))
    assert story.effects == ()
    fact = story.given(OutputAcked(Offsets(0, 2))).only_said()
    assert isinstance(fact, AttemptInterrupted)
    assert (fact.host_boot_id, fact.lengths[Stream.STDERR], fact.kept[Stream.STDERR]) == ("boot-2", 2, 2)


# --- cancel ----------------------------------------------------------------------------------------------------------------------


def test_cancel_before_the_connection_turns_the_start_into_a_look_that_takes_the_lock() -> None:
    """CANC, TOMB."""
    story = accepted().given(CancelReceived(cancel()))
    assert story.effects == (CommitOffset(),)
    story.given(Connected(1))
    assert story.effects == (Look(1, is_cancel=True, offsets=Offsets(0, 0)),)
    assert isinstance(story.given(NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE)).only_said(), AttemptNeverStarted)


def test_cancel_of_what_runs_ends_it_from_a_second_connection_and_both_may_see_the_end() -> None:
    story = following().given(CancelReceived(cancel()))
    assert story.effects == (CommitOffset(), Connect(2))
    story.given(CancelReceived(cancel()))
    assert story.effects == (CommitOffset(),), "a repeated cancel does not visit again"
    story.given(Connected(2))
    assert story.effects == (Look(2, is_cancel=True, offsets=Offsets(0, 0)),)
    cancelled = EndSeen(1, None, "SIGTERM", EndCause.CANCELLED, {}, SECOND)
    story.given(cancelled)
    assert story.kinds == [Leave, Journal, PublishAndAwait, JournalLater, Forget]
    assert story.effects[0] == Leave(2)
    fact = story.only_said()
    assert isinstance(fact, AttemptEnded) and (fact.cause, fact.signal) == (EndCause.CANCELLED, "SIGTERM")


def test_cancel_of_the_unknown_looks_and_of_what_is_over_repeats_the_end() -> None:
    story = Story().given(CancelReceived(cancel()), Connected(1))
    assert story.effects == (Look(1, is_cancel=True, offsets=Offsets(0, 0)),)
    entry = following().given(end()).journaled[0]
    over = Story(attempt=restored(entry)).given(CancelReceived(cancel()))
    assert over.kinds == [CommitOffset, Publish, Forget]
    assert isinstance(over.only_said(), AttemptEnded)


def test_a_cancel_that_wins_over_the_wrapper_leads_to_a_look_and_not_to_a_release() -> None:
    story = starting().given(CancelReceived(cancel()), ConnectionCut(2, "cut"), RefusalSeen(1, "start_not_allowed", ""))
    assert story.effects == (Connect(3),)
    assert story.attempt is not None and story.attempt.visits == (Visit(3, is_cancel=True),)


# --- output ----------------------------------------------------------------------------------------------------------------------


def test_two_visits_that_see_the_same_bytes_publish_them_once() -> None:
    """RANGE."""
    story = following().given(CancelReceived(cancel()), Connected(2), OutputSeen(1, Stream.STDOUT, 0, b"abcd"))
    story.given(OutputSeen(2, Stream.STDOUT, 0, b"abcdef"))
    (published,) = story.effects
    assert isinstance(published, PublishOutput) and published.raw == b"ef"


def test_an_end_before_all_output_is_seen_is_looked_at_again_from_where_it_stopped() -> None:
    story = following().given(OutputSeen(1, Stream.STDOUT, 0, b"abc"), end(stdout=9))
    assert story.effects == (Connect(2),) and story.phase is Phase.FOLLOWING
    story.given(Connected(2))
    assert story.effects == (Look(2, is_cancel=False, offsets=Offsets(3, 0)),)


def test_output_that_a_host_never_gives_is_named_as_omitted_in_the_end() -> None:
    story = following()
    for visit in range(1, 5):
        story.given(end(visit, stdout=9))
    (published,) = story.effects
    assert isinstance(published, PublishOutput) and isinstance(published.item, OutputOmitted)
    assert (published.item.start, published.item.end, published.raw) == (0, 9, None)
    fact = story.given(OutputAcked(Offsets(9, 0))).only_said()
    assert isinstance(fact, AttemptEnded)
    assert (fact.lengths[Stream.STDOUT], fact.kept[Stream.STDOUT]) == (9, 0)


def test_acknowledged_offsets_are_journaled_now_and_then_without_waiting() -> None:
    story = following(replace(FACTS, limits=OutputLimits(report_bytes=4 * 1024 * 1024)))
    megabyte = b"x" * 1024 * 1024
    story.given(OutputSeen(1, Stream.STDOUT, 0, megabyte), OutputAcked(Offsets(1024 * 1024, 0)))
    (later,) = story.effects
    assert isinstance(later, JournalLater) and later.entry.acked == Offsets(1024 * 1024, 0)


# --- the journal -------------------------------------------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_takes_nothing_and_says_nothing() -> None:
    story = accepted().given(JournalFailed())
    assert (story.attempt, story.effects) == (None, (Forget(),))
    released = accepted(not_after=T0).given(JournalFailed())
    assert (released.attempt, released.effects) == (None, (Forget(),))


def test_starting_that_cannot_be_journaled_is_not_started_and_released_when_the_disk_is_back() -> None:
    story = starting().given(JournalFailed())
    assert story.effects == (Leave(1), WakeAfter(SECOND)) and story.said == []
    assert story.attempt is not None and not may_start(story.attempt, T0, FACTS)
    story.given(Woken(), JournalFailed())
    assert story.effects == (WakeAfter(SECOND),)
    story.given(Woken())
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]
    fact = story.only_said()
    assert isinstance(fact, AttemptReleased) and not fact.proves_never_started


def test_a_release_that_cannot_be_journaled_is_not_said() -> None:
    """ONE: releases are journaled before they are sent."""
    story = accepted().given(CouldNotConnect(1, "refused", ""), JournalFailed())
    assert story.effects == (WakeAfter(SECOND),) and story.said == []
    story.given(ResumeReceived(resume()))
    assert story.effects == (CommitOffset(),)


def test_the_truth_from_a_host_is_said_also_when_the_journal_is_full() -> None:
    story = following().given(end(), JournalFailed())
    assert story.kinds == [PublishAndAwait, Forget]
    assert isinstance(story.only_said(), AttemptEnded)


# --- restarts ------------------------------------------------------------------------------------------------------------------------


def entry_of(phase: Phase, **more: Any) -> Entry:
    order: ProxyCommand = resume()
    return Entry(accepted().journaled[0].id, order, phase, T0 + timedelta(hours=1), **more)


def test_what_was_only_accepted_before_a_restart_is_released_without_proof() -> None:
    """ONE."""
    story = Story(attempt=restored(entry_of(Phase.ACCEPTED))).given(Restarted())
    assert story.kinds == [Journal, PublishAndAwait, JournalLater, Forget]
    fact = story.only_said()
    assert isinstance(fact, AttemptReleased)
    assert (fact.why, fact.proves_never_started) == (ReleaseReason.JOURNAL, False)


def test_what_may_have_been_started_before_a_restart_is_looked_at_and_its_output_read_again() -> None:
    """TRUTH, OUTORD: the digest is over all of it, the publishing goes on where it was acknowledged."""
    for phase in (Phase.STARTING, Phase.FOLLOWING):
        story = Story(attempt=restored(entry_of(phase, acked=Offsets(4, 0)))).given(Restarted())
        assert story.effects == (Connect(1),)
        story.given(Connected(1))
        assert story.effects == (Look(1, is_cancel=False, offsets=Offsets(0, 0)),)
        story.given(StartSeen(1, "boot-1", SECOND, existed=True), OutputSeen(1, Stream.STDOUT, 0, b"abcdef"))
        (published,) = story.effects
        assert isinstance(published, PublishOutput) and isinstance(published.item, ProgressReport)
        assert (published.item.offset, published.raw) == (4, b"ef")
        fact = story.given(end(stdout=6), OutputAcked(Offsets(6, 0))).only_said()
        assert isinstance(fact, AttemptEnded)
        assert fact.digests[Stream.STDOUT] == hashlib.sha256(b"abcdef").hexdigest()
        assert fact.kept[Stream.STDOUT] == 6


def test_an_end_that_was_not_acknowledged_is_said_again_with_the_same_id() -> None:
    entry = following().given(end()).journaled[0]
    story = Story(attempt=restored(entry)).given(Restarted())
    assert story.kinds == [PublishAndAwait, JournalLater, Forget]
    assert story.only_said() == entry.report
    said = Story(attempt=restored(entry._replace(is_said=True))).given(Restarted())
    assert said.effects == (Forget(),)


def test_a_provider_without_a_lock_is_never_looked_at_nor_answered_for() -> None:
    """SOLO."""
    order = resume(provider_type="ansible")
    story = Story().given(ResumeReceived(order))
    assert (story.attempt, story.effects) == (None, (CommitOffset(), Forget()))
    unresolved = entry_of(Phase.STARTING)._replace(order=order)
    restarted = Story(attempt=restored(unresolved)).given(Restarted())
    assert restarted.effects == (Forget(),) and restarted.phase is Phase.STARTING


SOLO = replace(FACTS, providers={"ssh": False})


def test_solo_a_lost_connection_leaves_the_attempt_unknown_and_nothing_is_said() -> None:
    story = Story(SOLO).given(RunReceived(run()), Connected(1))
    journaled = story.journaled[-1]
    story.given(ConnectionCut(1, "cut", was_sent=True))
    assert story.effects == (Forget(),) and story.phase is Phase.STARTING
    again = Story(SOLO, attempt=restored(journaled)).given(ResumeReceived(resume()))
    assert again.said == [] and Forget() in again.effects
    repeated = Story(SOLO, attempt=restored(journaled)).given(RunReceived(run()))
    assert not {Connect, SendWrapper, Journal} & set(repeated.kinds)


def test_solo_a_cancel_before_the_start_releases_without_a_proof_and_looks_at_nothing() -> None:
    story = Story(SOLO).given(RunReceived(run()), CancelReceived(cancel()), Connected(1))
    fact = story.only_said()
    assert isinstance(fact, AttemptReleased) and not fact.proves_never_started
    assert not {Look, SendWrapper} & set(story.kinds)


def test_solo_an_end_with_less_output_than_it_should_have_had_is_an_end_all_the_same() -> None:
    """There is no second look that could bring the rest."""
    story = Story(SOLO).given(RunReceived(run()), Connected(1), StartSeen(1, "boot", 0 * SECOND, existed=False))
    story.given(end(stdout=10))
    assert story.kinds == [PublishOutput]
    assert isinstance(story.given(OutputAcked(Offsets(10, 0))).only_said(), AttemptEnded)


# --- stopping ------------------------------------------------------------------------------------------------------------------------


def test_stopping_releases_what_is_not_started_and_leaves_what_runs() -> None:
    facts = replace(FACTS, is_stopping=True)
    early = accepted()
    early.facts = facts
    fact = early.given(Stopping()).only_said()
    assert isinstance(fact, AttemptReleased)
    assert (fact.why, fact.proves_never_started) == (ReleaseReason.STOPPING, True)
    running = following().given(OutputSeen(1, Stream.STDOUT, 0, b"ab"), OutputAcked(Offsets(2, 0)))
    running.facts = facts
    running.given(Stopping())
    assert running.kinds == [Leave, JournalLater] and running.said == []
    assert running.phase is Phase.FOLLOWING
    assert running.given(Woken()).effects == ()


def test_only_what_is_in_hand_and_connected_is_named_as_followed() -> None:
    def is_followed(story: Story) -> bool:
        return story.attempt is not None and story.attempt.is_followed

    assert is_followed(accepted()) and is_followed(starting()) and is_followed(following())
    assert not is_followed(following().given(ConnectionCut(1, "cut")))
    assert not is_followed(Story().given(ResumeReceived(resume())))


def test_what_is_told_of_a_host_is_told_by_the_brokers_clock() -> None:
    """Rule CLK: this clock is known to be a minute ahead; nothing is started by it, but what runs is told of in true times."""
    ahead = replace(FACTS, clock_offset=60 * SECOND)
    story = Story(ahead).given(ResumeReceived(resume()), Connected(1))
    began = story.given(StartSeen(1, "boot", 4 * SECOND, existed=True)).only_said()
    assert isinstance(began, AttemptStarted) and began.started_at == T0 - 64 * SECOND


def test_a_tombstone_proves_nothing_to_an_agent_that_cannot_tell_the_time() -> None:
    """Rules BOOT and CLK: it cannot know whether the host has booted since the attempt was issued."""
    story = Story(replace(FACTS, clock_offset=None)).given(ResumeReceived(resume()), Connected(1))
    said = story.given(NeverStartedSeen(1, NeverStartedWhy.TOMBSTONE)).only_said()
    assert isinstance(said, AttemptInterrupted) and "clock" in said.detail
