"""The dispatcher's tables, as numbered steps; the same text for both databases but for the word for bytes.

Owns the schema. A step that was released is never changed: a new one is added.
"""

from __future__ import annotations

BYTES = {"sqlite": "blob", "postgresql": "bytea"}

STEPS = (
    """
create table partition_owner (partition integer primary key, owner text not null, clock_us bigint not null,
                              own_log_offset bigint not null, log_clock_us bigint not null);
create table inbox (partition integer not null, topic text not null, next_offset bigint not null,
                    primary key (partition, topic));
create table invocation (job_invocation_id {bytes} primary key, partition integer not null, look_at bigint,
    is_ended integer not null, is_swept integer not null, body text not null);
create index invocation_look on invocation (partition, look_at) where look_at is not null;
create index invocation_swept on invocation (partition) where is_swept = 0;
create table queue (job_invocation_id {bytes} not null, proxy text not null, partition integer not null,
    next_due bigint not null, primary key (job_invocation_id, proxy));
create index queue_due on queue (partition, next_due);
create table job_task (job_task_id {bytes} primary key, partition integer not null, job_invocation_id {bytes} not null,
    host_id {bytes} not null, proxy text not null, ordinal integer not null, state text not null,
    due_at bigint not null, look_at bigint, is_cancelling integer not null, body text not null);
create index job_task_waiting on job_task (job_invocation_id, proxy, due_at, ordinal) where state = 'waiting';
create index job_task_slots on job_task (job_invocation_id) where state in ('due', 'accepted', 'running');
create index job_task_proxy_slots on job_task (proxy) where state in ('due', 'accepted', 'running');
create index job_task_check_in on job_task (host_id) where state = 'check_in';
create index job_task_look on job_task (partition, look_at) where look_at is not null;
create index job_task_invocation on job_task (job_invocation_id);
create table check_in (host_id {bytes} primary key, at bigint not null);
create table proxy_slots (proxy text primary key);
create table outbox (partition integer not null, number bigint not null, at bigint not null, model text not null,
    items text not null, primary key (partition, number));
""",
    """
alter table inbox add column append_ms bigint not null default 0;
alter table partition_owner add column own_log_ms bigint not null default 0;
alter table partition_owner add column kept_from bigint not null default 0;
update partition_owner set kept_from = own_log_offset;
alter table outbox add column next_offset bigint;
""",
    # Whose check-in it was is known from here on; those kept before are read again, the topic has the latest of each host.
    """
drop table check_in;
create table check_in (host_id {bytes} not null, proxy text not null, at bigint not null, primary key (host_id, proxy));
delete from inbox where topic = 'chargehand.host-events.v1';
""",
    """
create index job_task_state on job_task (job_invocation_id, state);
drop index job_task_slots;
drop index job_task_invocation;
create index invocation_open on invocation (partition) where is_ended = 0;
""",
    # A change of state touches the indexes of what has that state, which are small, and none over all job tasks.
    """
create index job_task_held on job_task (proxy, job_invocation_id) where state in ('due', 'accepted', 'running');
create index job_task_invocation on job_task (job_invocation_id);
create index job_task_check_in_of on job_task (job_invocation_id) where state = 'check_in';
drop index job_task_state;
drop index job_task_proxy_slots;
""",
)
