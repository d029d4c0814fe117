"""Each rule of docs/protocol.md section 2, taken out of the code that keeps it. Where another rule hides it, both are out."""

from __future__ import annotations

from .planting import Edit, Mutant

_TABLE = "chargehand_dispatcher.core.table"
_OVER = "chargehand_dispatcher.core.over"
_RULES = "chargehand_dispatcher.core.rules"
_ENGINE = "chargehand_dispatcher.core.engine"
_ATTEMPT = "chargehand_proxy_agent.core.attempt"
_FACTS = "chargehand_proxy_agent.core.facts"
_REPORTS = "chargehand_proxy_agent.core.reports"
_POLICY = "chargehand_proxy_agent.core.policy"
_BINDINGS = "chargehand_planner.core.bindings"
_OUTPUT = "chargehand_reporter.core.output"
_HOSTS = "chargehand.simulation.hosts"
_CUTS = "chargehand.simulation.cuts"
_BUS = "chargehand.simulation.bus"
_PROMISES = "chargehand.simulation.promises"

_NO_FENCE = Edit(_HOSTS, "        for number in terms.run.earlier:", "        for number in ():")
_NO_CLOCK = Edit(
    _FACTS, "return self.clock_offset is not None and abs(self.clock_offset) <= self.clock_margin", "return True"
)
_NO_HOST_DEADLINE = Edit(_HOSTS, "        if self.uptime_s > deadline_s:", "        if False:")

RULES = (
    Mutant(
        "ACK",
        "an agent starts before its AttemptAccepted is acknowledged",
        (Edit(_ATTEMPT, "PublishAndAwait(accepted), Connect(1)", "Publish(accepted), Connect(1)"),),
        ("outage", "slow"),
    ),
    Mutant(
        "WM",
        "silence is concluded from without reading the log",
        (
            Edit(
                _RULES,
                "return self.now >= bound and self.log_read_to is not None and self.log_read_to >= bound",
                "return self.now >= bound",
            ),
        ),
        ("lag", "outage"),
    ),
    Mutant(
        "ACCEPTORS",
        "one agent's release ends the attempt",
        (
            Edit(
                _TABLE,
                "if at.has_single_agent and event.proves_never_started and released.acceptors <= {event.journal_id}:",
                "if True:",
            ),
        ),
    ),
    Mutant(
        "TRUTH",
        "an agent that knows nothing says never_started without looking",
        (
            Edit(
                _ATTEMPT,
                "    attempt = Attempt(entry, is_cancelled=is_cancel, question=command)\n    return _visit(attempt, now, facts)",
                "    attempt = Attempt(entry, is_cancelled=is_cancel, question=command)\n"
                "    report = reports.never_started(command, NeverStartedWhy.TOMBSTONE, None, now, facts)\n"
                "    return _over(attempt, entry._replace(phase=Phase.NEVER_STARTED, report=report))",
            ),
        ),
    ),
    Mutant(
        "TOMB",
        "a look that finds nothing leaves nothing",
        (
            Edit(
                _HOSTS,
                "            self.directories[name] = Directory(job_task_id, self.world.now, self.boot, is_buried=True)\n",
                "",
            ),
        ),
    ),
    Mutant("HDL", "the host does not check the deadline", (_NO_HOST_DEADLINE,)),
    Mutant(
        "FENCE",
        "a later attempt does not look for earlier ones; with clocks that are off and not measured",
        (
            _NO_FENCE,
            _NO_CLOCK,
            _NO_HOST_DEADLINE,
            # A late start is a broken promise of its own, and would be seen first.
            Edit(
                _PROMISES, "if due is not None and now > due.not_after + timedelta(seconds=self.margin_s):", "if False:"
            ),
        ),
        ("clock", "lag"),
        "two at once",
    ),
    Mutant(
        "LATE",
        "the end of an attempt given up as unknown is dropped while its retry waits; with FENCE out",
        (
            Edit(_TABLE, "        _row(_WAITS, _end_late, _is_of_unknown_end),\n", ""),
            _NO_FENCE,
        ),
        ("cut", "reboot"),
    ),
    Mutant(
        "PIN",
        "a resume or cancel looks in a directory that is bound late",
        (
            Edit(
                _BINDINGS,
                '        "lock_path": binding.lock_path,\n',
                '        "lock_path": binding.lock_path + "x",\n',
            ),
        ),
    ),
    Mutant(
        "BOOT",
        "absence proves something on a host that booted since",
        (
            Edit(
                _HOSTS,
                "return uptime_s < issued_ago.total_seconds() + self.promises.margin_s",
                "return False",
            ),
        ),
        ("reboot", "crash"),
    ),
    Mutant(
        "BOOT-bar",
        "a look that answers interrupted for a boot does not bar the start",
        (
            Edit(
                _HOSTS,
                "                self.directories[name] = Directory(job_task_id, self.world.now, self.boot, is_buried=True, is_lost=True)",
                "                pass",
            ),
        ),
        first_seed=9_508_086,
    ),
    Mutant(
        "KEEP",
        "an attempt's directory is tidied away when it has ended",
        (
            Edit(
                _HOSTS,
                "        watchers, directory.watchers = directory.watchers, []\n",
                "        watchers, directory.watchers = directory.watchers, []\n"
                "        self.world.after(1.0, lambda: self.directories.pop(name, None))\n",
            ),
        ),
        ("repeat", "crash", "stop", "lag", "journal"),
    ),
    Mutant(
        "LOST",
        "what nobody can say anything of is waited for for ever",
        (
            Edit(
                _TABLE,
                "if at.is_past(job_task.run_deadline) and _was_asked_in_vain(job_task, at):",
                "if False:",
            ),
        ),
        ("cut", "reboot"),
    ),
    Mutant(
        "CANC",
        "a cancel of what is dispatched is acknowledged at once",
        (
            Edit(
                _TABLE,
                "    return _ask(replace(job_task, is_cancelling=True, asked=0), at, is_news=True)",
                "    return end_waiting(job_task, JobTaskStatus.CANCELLED, Reason.CANCELLED, at.now)",
            ),
        ),
        ("cancel",),
    ),
    Mutant(
        "BIND",
        "what the binder decided is not kept",
        (Edit("chargehand.simulation.planner", "        if binding is not None:\n", "        if False:\n"),),
        ("cancel", "lag"),
    ),
    Mutant(
        "REST",
        "a restored dispatcher does not fold its own log",
        (
            Edit(
                _ENGINE,
                "            case AttemptDue():\n                self._restore_due(item)",
                "            case AttemptDue():\n                return",
            ),
            Edit(
                _ENGINE,
                "            case JobTaskEnded():\n                self._restore_end(item)\n",
                "            case JobTaskEnded():\n                return\n",
            ),
        ),
        ("restore",),
    ),
    Mutant(
        "RET-begin",
        "who was away longer than its log reaches back jumps to where the log begins",
        (
            Edit(
                _BUS,
                "            return Cut(place, position, position, is_below=True)\n",
                "            return None\n",
            ),
        ),
        ("retention",),
    ),
    Mutant(
        "RET-end",
        "a position beyond the end of its log is good enough",
        (Edit(_BUS, "        if is_there:\n            return None\n", "        return None\n"),),
        ("tail",),
    ),
    Mutant(
        "RET-word",
        "what agents may have said in a part that was cut is taken for never said",
        (
            Edit(
                "chargehand_dispatcher.core.repair",
                "    if job_task.state not in (State.DUE, State.ACCEPTED):\n        return job_task\n",
                "    if job_task.attempt:\n        return job_task\n",
            ),
        ),
        ("tail", "lag", "crash", "stop"),
    ),
    Mutant(
        "RET-again",
        "a dispatcher does not say again what its own log has lost",
        (
            Edit(
                _CUTS,
                "    kept, kept_from = durable.kept.get(number, []), durable",
                "    kept, kept_from = (), durable",
            ),
        ),
        ("tail",),
    ),
    Mutant(
        "RET-found",
        "what a successor finds in the log is not kept, and cannot be said again when the log loses it",
        (
            Edit(
                "chargehand.simulation.store",
                "                self._durable.kept.setdefault(partition, []).append((end, row))\n",
                "                pass\n",
            ),
        ),
        ("tail", "crash", "slow"),
    ),
    Mutant(
        "CLK",
        "an agent starts whatever its clock says",
        (_NO_CLOCK,),
        ("clock", "lag"),
    ),
    Mutant(
        "CHK",
        "a check-in is an event to be present for",
        (
            Edit(_OVER, "    is_awake = has_checked_in(job_task, at)\n", "    is_awake = False\n"),
            Edit("chargehand.simulation.dispatcher", "        self.store.wake_checked_in(number, self.around())\n", ""),
        ),
        ("cut", "reboot", "crash", "stop"),
    ),
    Mutant(
        "TRY",
        "attempts that never started eat up tries",
        (
            Edit(
                _OVER,
                "    count = job_task.unstarted + 1\n",
                "    job_task = replace(job_task, tried=job_task.tried + 1)\n"
                "    if job_task.tried >= at.properties.tries:\n"
                "        return _verdict(job_task, JobTaskStatus.FAILED, Reason.NOT_PICKED_UP, outcome, at.now)\n"
                "    count = job_task.unstarted + 1\n",
            ),
        ),
    ),
    Mutant(
        "PICK",
        "time_to_pickup is not looked at",
        (
            Edit(
                _OVER,
                "    return first is not None and at.now >= first + at.properties.time_to_pickup",
                "    return False",
            ),
        ),
        ("cut",),
    ),
    Mutant(
        "RANGE",
        "output is not trimmed to what lies beyond the stored end",
        (Edit(_OUTPUT, "self._append(piece.data[self.end - piece.start :])", "self._append(piece.data)"),),
    ),
    Mutant(
        "OUTORD",
        "the end is said before the output is acknowledged",
        (
            Edit(
                _ATTEMPT,
                "    if over.unacknowledged_bytes:\n        return Step(over, tuple(effects))\n",
                "",
            ),
        ),
        ("crash", "outage", "slow"),
    ),
    Mutant(
        "JID",
        "acceptors are counted by agent, and a release needs no journal that would know",
        (
            Edit(
                _REPORTS,
                '    about["journal_id"] = facts.journal_id\n',
                '    about["journal_id"] = item_id(facts.agent_id)\n',
            ),
            Edit(_ATTEMPT, "        and facts.is_within_journal(attempt.order.issued_at)\n", ""),
            Edit(
                _ATTEMPT,
                "_UNSENT_PROOFS = frozenset({ReleaseReason.COULD_NOT_CONNECT, ",
                "_UNSENT_PROOFS = frozenset({ReleaseReason.COULD_NOT_CONNECT, ReleaseReason.JOURNAL, ",
            ),
        ),
        ("journal", "cut", "stop"),
    ),
    Mutant(
        "ONE-sent",
        "a release counts as proof although the wrapper was sent",
        (
            Edit(
                _ATTEMPT,
                "    is_unsent = not event.was_sent and visit is not None and visit.is_start and attempt.phase is Phase.STARTING\n",
                "    is_unsent = visit is not None and visit.is_start and attempt.phase is Phase.STARTING\n",
            ),
        ),
        ("cut",),
    ),
    Mutant(
        "ONE-journal",
        "a release counts as proof from a journal that need not know the attempt",
        (
            Edit(_ATTEMPT, "        and facts.is_within_journal(attempt.order.issued_at)\n", ""),
            Edit(_TABLE, " and released.acceptors <= {event.journal_id}:", ":"),
        ),
        ("journal", "cut", "stop", "repeat"),
    ),
    Mutant(
        "ONE-agents",
        "rule ONE is applied to a proxy with two agents",
        (
            Edit(
                _TABLE,
                "if at.has_single_agent and event.proves_never_started and released.acceptors <= {event.journal_id}:",
                "if event.proves_never_started:",
            ),
        ),
        ("stop", "cut", "crash"),
    ),
    Mutant(
        "ONE-unlooked",
        "one that is over by a journal's word alone is taken for one that cannot start any more",
        (
            Edit(_TABLE, "unlooked=(*released.unlooked, released.attempt)", "unlooked=()"),
            # The rule is for proxies with one agent.
            Edit(
                "chargehand.simulation.scenario",
                "agents = random.choice((1, 2))",
                "agents = min(1, random.choice((1, 2)))",
            ),
        ),
        ("journal", "cut", "repeat"),
    ),
    Mutant(
        "SOLO-agents",
        "a proxy of a provider without a lock on the host has two agents",
        (Edit("chargehand.simulation.scenario", "        agents if has_host_lock else 1,\n", "        2,\n"),),
        ("stop", "crash", "lag"),
    ),
    Mutant(
        "SOLO-birth",
        "without a lock on the host a new journal starts what was issued before its birth",
        (
            Edit(
                _POLICY,
                "    if facts.has_host_lock(command.provider_type) or facts.is_within_journal(command.issued_at):\n",
                "    if True:\n",
            ),
        ),
        ("journal", "repeat", "crash"),
    ),
    Mutant(
        "SOLO-starting",
        "what a journal has as starting is released when the connection is lost, as if it had not been sent",
        (
            Edit(
                _ATTEMPT,
                "    if not _may_look(left.order, facts):\n        return _leave_unknown(left)\n",
                "    if not _may_look(left.order, facts):\n"
                "        return _release(left, ReleaseReason.COULD_NOT_CONNECT, '', now, facts, is_unsent=False)\n",
            ),
        ),
        ("cut", "reboot"),
    ),
)
