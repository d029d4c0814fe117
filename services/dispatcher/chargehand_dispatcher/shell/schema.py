"""The dispatcher's tables, as numbered steps; the same text for both databases but for `SERIAL`.

Owns the schema. A step that was released is never changed: a new one is added.
"""

from __future__ import annotations

SERIAL = {
    "sqlite": "integer primary key autoincrement",
    "postgresql": "bigint generated always as identity primary key",
}

STEPS = (
    """
create table partition_owner (partition integer primary key, owner text not null, clock_us bigint not null,
                              own_log_offset bigint not null);
create table inbox (partition integer not null, topic text not null, next_offset bigint not null,
                    primary key (partition, topic));
create table invocation (job_invocation_id text primary key, partition integer not null, start_at bigint,
    look_at bigint, concurrency integer, released integer, is_cancelled integer not null, is_halted integer not null,
    is_ended integer not null, body text not null);
create index invocation_active on invocation (partition) where is_ended = 0;
create index invocation_look on invocation (look_at) where look_at is not null;
create table job_task (job_task_id text primary key, partition integer not null, job_invocation_id text not null,
    host_id text not null, host_name text not null, proxy text not null, ordinal integer not null,
    state text not null, due_at bigint not null, look_at bigint, is_cancelling integer not null,
    attempt integer not null, last_attempt integer not null, tried integer not null, unstarted integer not null,
    first_dispatched_at bigint, issued_at bigint, not_after bigint, run_deadline bigint, journals text not null,
    could_not_connect integer not null, release_refused integer not null, detail text not null, holder text not null,
    holder_boot text, last_word_at bigint, asked integer not null, asked_at bigint, unknown_ends text not null,
    status text, reason text, exit_status integer, signal text);
create index job_task_waiting on job_task (job_invocation_id, due_at, ordinal) where state = 'waiting';
create index job_task_slots on job_task (job_invocation_id) where state in ('due', 'accepted', 'running');
create index job_task_proxy_slots on job_task (proxy) where state in ('due', 'accepted', 'running');
create index job_task_look on job_task (look_at) where look_at is not null;
create index job_task_unended on job_task (job_invocation_id) where state <> 'ended' and is_cancelling = 0;
create index job_task_check_in on job_task (host_id) where state = 'check_in';
create table check_in (host_id text primary key, at bigint not null);
create table outbox (number {serial}, partition integer not null, key text not null, model text not null,
    body text not null);
create index outbox_partition on outbox (partition, number);
""",
)
