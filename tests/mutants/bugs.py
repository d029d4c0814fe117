"""Bugs planted where they would be easy to make: epoch check, fold, slots, relay, tries, cancels."""

from __future__ import annotations

from .planting import Edit, Mutant

_TABLE = "chargehand_dispatcher.core.table"
_OVER = "chargehand_dispatcher.core.over"
_ENGINE = "chargehand_dispatcher.core.engine"
_INVOCATION = "chargehand_dispatcher.core.invocation"
_CLAIMS = "chargehand_dispatcher.core.claims"
_JOB_TASK = "chargehand_dispatcher.core.job_task"
_ATTEMPT = "chargehand_proxy_agent.core.attempt"
_AGENT_OUTPUT = "chargehand_proxy_agent.core.output"
_OUTPUT = "chargehand_reporter.core.output"
_REPORTER_TASK = "chargehand_reporter.core.job_task"
_STORE = "chargehand.simulation.store"
_DISPATCHER = "chargehand.simulation.dispatcher"
_PLANNER = "chargehand.simulation.planner"

_NO_FENCE = Edit(
    _STORE,
    "lost = [one for one in mine if durable.owners.get(one) != self._owners.get(one) or one not in self._owners]",
    "lost: list[int] = [one for one in mine if one not in self._owners]",
)

BUGS = (
    Mutant("epoch-unchecked", "a transaction does not check who owns the partition", (_NO_FENCE,), ("stop",)),
    Mutant(
        "epoch-not-drawn",
        "taking a partition keeps the token of whoever had it",
        (
            Edit(
                _STORE,
                "durable.owners[partition] = self._owners[partition] = self._new_token()",
                "self._owners[partition] = durable.owners.setdefault(partition, self._new_token())",
            ),
        ),
        ("stop",),
    ),
    Mutant(
        "fold-verdict-twice",
        "verdicts are counted again in each transaction",
        (Edit(_ENGINE, "counted, self.verdicts = self.verdicts, {}", "counted = dict(self.verdicts)"),),
    ),
    Mutant(
        "fold-restored-free",
        "a dispatch found in its own log takes no slot",
        (
            Edit(
                _ENGINE,
                "                state=State.DUE,\n                proxy=item.proxy,",
                "                state=State.WAITING,\n                proxy=item.proxy,",
            ),
        ),
        ("restore",),
    ),
    Mutant(
        "fold-restored-verdict",
        "a verdict found in its own log is not counted",
        (Edit(_ENGINE, "        self._put(count(self._invocation(item), [item]))\n", ""),),
        ("restore",),
    ),
    Mutant(
        "fold-output-hole",
        "output beyond a hole is stored as if it followed",
        (Edit(_OUTPUT, "        if piece.start > self.end:\n            return False\n", ""),),
    ),
    Mutant(
        "fold-agent-overlap",
        "an agent does not trim output that it has seen before",
        (
            Edit(
                _AGENT_OUTPUT, "fresh = data[stream.seen - offset :] if offset < stream.seen else data", "fresh = data"
            ),
        ),
        ("cancel",),
    ),
    Mutant(
        "fold-resumed",
        "after a restart output is skipped beyond what was acknowledged",
        (
            Edit(
                _AGENT_OUTPUT,
                "return StreamOutput(acked=acked, skip_to=acked)",
                "return StreamOutput(acked=acked, skip_to=acked + 7)",
            ),
        ),
        ("crash",),
    ),
    Mutant(
        "fold-read-model",
        "a status said before replaces the verdict in the read model when it is read again",
        (
            Edit(
                _REPORTER_TASK,
                "    if rank <= task.rank:\n"
                "        return task if attempts == task.attempts else replace(task, attempts=attempts)\n"
                "    if task.verdict_rank or changed.status.is_verdict:\n"
                "        return replace(task, rank=rank, attempts=attempts)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "slots-one-more",
        "one job task more than the limit is claimed",
        (
            Edit(
                _CLAIMS, "held[queue.job_invocation_id] >= queue.limit", "held[queue.job_invocation_id] > queue.limit"
            ),
            Edit(_INVOCATION, "max(0, limit - held)", "max(0, limit + 1 - held)"),
        ),
    ),
    Mutant(
        "edit-ignored",
        "an edited concurrency limit is said, and binds nothing",
        (
            Edit(
                _INVOCATION,
                'properties = invocation.properties.model_copy(update={"concurrency": concurrency})',
                "properties = invocation.properties",
            ),
        ),
        ("edit",),
    ),
    Mutant(
        "edit-unsaid",
        "an edited concurrency limit binds, and is not said where claims are",
        (
            Edit(
                _INVOCATION,
                "    return known, say_concurrency(known, now)",
                "    return known, ()",
            ),
        ),
        ("edit",),
    ),
    Mutant(
        "slots-of-proxy",
        "a claim does not count towards the size of the proxy",
        (Edit(_CLAIMS, "        free[queue.proxy] -= 1\n", ""),),
        ("edit",),
    ),
    Mutant(
        "slots-accepted",
        "an accepted attempt holds no slot",
        (
            Edit(
                _JOB_TASK,
                "SLOT_STATES = frozenset({State.DUE, State.ACCEPTED, State.RUNNING})",
                "SLOT_STATES = frozenset({State.DUE, State.RUNNING})",
            ),
        ),
    ),
    Mutant(
        "slots-leaked",
        "a slot is not given back at the verdict",
        (Edit(_STORE, "            durable.slots.subtract(before)\n", "            pass\n"),),
    ),
    Mutant(
        "slots-after-refusal",
        "a release frees the slot after not_after although another agent accepted",
        (Edit(_JOB_TASK, "return self.acceptors <= self.released", "return bool(self.released)"),),
        ("stop", "cut", "crash"),
    ),
    Mutant(
        "relay-before-ack",
        "the dispatcher's relay forgets what it has sent before it is acknowledged",
        (
            Edit(
                _DISPATCHER,
                "        self._publishing_since = self.world.now\n        by_partition",
                "        self._publishing_since = self.world.now\n        self.store.published(rows)\n        by_partition",
            ),
        ),
        ("crash", "outage"),
    ),
    Mutant(
        "relay-planner-before-ack",
        "the planner's relay goes on before it is acknowledged",
        (
            Edit(
                _PLANNER,
                "        by_place: dict[Place, list[tuple[Item, bytes]]] = {}\n",
                "        self._note_sent(end, ())\n        by_place: dict[Place, list[tuple[Item, bytes]]] = {}\n",
            ),
        ),
        ("crash", "outage"),
    ),
    Mutant(
        "relay-planner-adds",
        "a planner that stood still adds what it had sent to a position that another has moved on",
        (
            Edit(
                _PLANNER,
                "                self._note_sent(end, by_place)\n",
                "                self._note_sent(store.published + end - begin, by_place)\n",
            ),
        ),
        ("stop", "crash", "slow"),
    ),
    Mutant(
        "planner-epoch-unchecked",
        "a planner that stood still in a transaction stores it over what the next owner of the partition has decided",
        (
            Edit(
                _PLANNER,
                "        if token is None or self.store.owners.get(number) != token:\n            return\n",
                "",
            ),
            Edit(_PLANNER, "        if self.store.writes == begun:\n", "        if True:\n"),
        ),
        ("stop",),
    ),
    Mutant(
        "relay-backwards",
        "the dispatcher's outbox is published newest first",
        (Edit(_DISPATCHER, "        rows = self.store.outbox()\n", "        rows = self.store.outbox()[::-1]\n"),),
    ),
    Mutant(
        "inbox-skips",
        "the position goes on over a record that was not taken",
        (
            Edit(
                _STORE,
                "            for item in items:\n                self._place(item, partition)\n                desk.take(item)",
                "            for item in items[:1] if len(items) > 2 else items:\n"
                "                self._place(item, partition)\n                desk.take(item)",
            ),
        ),
    ),
    Mutant(
        "tries-one-more",
        "one try more than allowed",
        (Edit(_OVER, "tried.tried >= at.properties.tries", "tried.tried > at.properties.tries"),),
    ),
    Mutant(
        "tries-too-early",
        "a retry is claimed before its interval is over",
        (
            Edit(
                _STORE,
                "        heapq.heappush(queue, (job_task.due_at, job_task.ordinal, job_task.job_task_id))",
                "        heapq.heappush(queue, (job_task.due_at - timedelta(seconds=3), job_task.ordinal, job_task.job_task_id))",
            ),
            Edit(
                _STORE,
                "job_task.state is not State.WAITING or job_task.due_at != due[0]",
                "job_task.state is not State.WAITING",
            ),
        ),
    ),
    Mutant(
        "repeated-run-starts",
        "a repeated command starts an attempt that this agent has released",
        (
            Edit(
                _ATTEMPT,
                "            reached = _repeated_run(attempt)\n",
                "            if attempt.phase is Phase.RELEASED:\n                return _first_run(command, now, facts)\n"
                "            reached = _repeated_run(attempt)\n",
            ),
        ),
        ("repeat", "cut"),
    ),
    Mutant(
        "restart-says-interrupted",
        "a restarted agent says interrupted of what it was following, without looking",
        (
            Edit(
                _ATTEMPT,
                "        case Phase.STARTING | Phase.FOLLOWING | Phase.LOOKING:\n            return _visit(attempt, now, facts)",
                "        case Phase.STARTING | Phase.FOLLOWING | Phase.LOOKING:\n"
                "            return _conclude(attempt, InterruptionSeen(0, 'restarted'), now, facts)",
            ),
        ),
        ("crash",),
    ),
    Mutant(
        "cancel-marks-nothing",
        "a cancel of an invocation whose plan is not there yet leaves no mark",
        (
            Edit(
                _ENGINE,
                "            self._put(replace(invocation, is_cancelled=True))",
                "            self._put(replace(invocation, is_cancelled=invocation.is_plan_complete))",
            ),
        ),
        ("cancel", "slow"),
    ),
    Mutant(
        "check-in-of-anyone",
        "an agent of another proxy wakes what waits for a check-in",
        (
            Edit(
                _ENGINE,
                "self.check_ins.get((job_task.host_id, job_task.proxy)) if self.check_ins else None",
                "max((at for key, at in self.check_ins.items() if key[0] == job_task.host_id), default=None)",
            ),
        ),
        ("cut",),
    ),
    Mutant(
        "splay-anew",
        "the delay of the splay is drawn, not told from the job task",
        (
            Edit(
                _INVOCATION,
                "due_at=start + splay_offset(planned.job_task_id, invocation.properties.splay),",
                "due_at=start + splay_offset(planned.host_id, invocation.properties.splay),",
            ),
        ),
    ),
    Mutant(
        "tries-without-interval",
        "a retry is due at once",
        (Edit(_OVER, "due_at=at.now + at.properties.retry_interval", "due_at=at.now"),),
    ),
    Mutant(
        "tries-whatever",
        "what the template does not retry is retried",
        (Edit(_OVER, " or reason not in at.properties.retry_on", ""),),
    ),
    Mutant(
        "tries-for-want-of-a-slot",
        "time_to_pickup runs while only a slot is missing",
        (
            Edit(
                _TABLE,
                "    number = job_task.last_attempt + 1\n    not_after",
                "    if at.now >= job_task.due_at + at.properties.time_to_pickup:\n"
                "        return end_waiting(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, at.now)\n"
                "    number = job_task.last_attempt + 1\n    not_after",
            ),
        ),
    ),
    Mutant(
        "cancelled-retried",
        "what is being cancelled is tried again when it did not come to that",
        (
            Edit(
                _OVER,
                "    if job_task.is_cancelling:\n        return _over_while",
                "    if job_task.is_cancelling and outcome.how is How.CANCELLED:\n        return _over_while",
            ),
        ),
        ("cancel", "cut", "stop"),
    ),
    Mutant(
        "cancelled-is-a-failure",
        "an attempt that was ended by a cancel counts as an exit of its own",
        (Edit(_OVER, "EndCause.CANCELLED: How.CANCELLED}", "EndCause.CANCELLED: How.EXITED}"),),
        ("cancel",),
    ),
    Mutant(
        "check-in-older",
        "a check-in that is older than the attempt wakes",
        (
            Edit(
                _OVER,
                "return at.last_check_in is not None and job_task.issued_at is not None and at.last_check_in >= job_task.issued_at",
                "return at.last_check_in is not None",
            ),
        ),
        ("cut", "reboot"),
    ),
    Mutant(
        "check-in-holds-slot",
        "what waits for a check-in holds its slot",
        (
            Edit(
                _JOB_TASK,
                "SLOT_STATES = frozenset({State.DUE, State.ACCEPTED, State.RUNNING})",
                "SLOT_STATES = frozenset({State.DUE, State.ACCEPTED, State.RUNNING, State.CHECK_IN})",
            ),
        ),
    ),
    Mutant(
        "rolling-early",
        "the next batch begins when one of the batch before is still to end",
        (
            Edit(
                _INVOCATION,
                "        passed = self.verdicts - len(self.ahead)\n",
                "        passed = self.verdicts - len(self.ahead) + (self.verdicts > 0)\n",
            ),
        ),
    ),
    Mutant(
        "rolling-ahead",
        "a host of a later batch that is cancelled lets the next batch begin",
        (Edit(_INVOCATION, "    if verdict.ordinal >= released:\n", "    if False:\n"),),
        ("cancel",),
    ),
    Mutant(
        "rolling-goes-on",
        "a rolling invocation goes on after more failures than it allows",
        (
            Edit(
                _INVOCATION,
                "    return replace(invocation, is_halted=True, halt=halt)\n",
                "    return replace(invocation, halt=halt)\n",
            ),
        ),
    ),
    Mutant(
        "rolling-restored",
        "a halt that its own log tells of is forgotten",
        (
            Edit(
                _ENGINE,
                "        self._put(count(self._invocation(item), [item]))\n",
                "        self._put(replace(count(self._invocation(item), [item]), is_halted=False))\n",
            ),
        ),
        ("restore",),
    ),
    Mutant(
        "slots-due",
        "an attempt that nobody has accepted yet holds no slot",
        (
            Edit(
                _JOB_TASK,
                "SLOT_STATES = frozenset({State.DUE, State.ACCEPTED, State.RUNNING})",
                "SLOT_STATES = frozenset({State.ACCEPTED, State.RUNNING})",
            ),
        ),
    ),
)
