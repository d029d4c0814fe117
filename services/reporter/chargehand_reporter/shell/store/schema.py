"""The tables, step by step from the first version on. A step that was released is never changed; a new one is added.

Owns the DDL of both databases. Ids are 16 bytes, times are microseconds since 1970, small structures are JSON text.
"""

from __future__ import annotations

READ_MODEL = "reporter"
OUTPUT = "reporter_output"

READ_MODEL_STEPS = (
    """
create table meta (name text primary key, value bigint not null);
insert into meta values ('position', 0);
create table store_id (id text not null);
create table positions (topic text not null, partition integer not null, next_position bigint not null,
    primary key (topic, partition));
create table job_invocations (
    job_invocation_id {bytes} primary key,
    created_at bigint not null,
    status text not null,
    definition text,
    refusal text not null,
    refused_by text not null,
    detail text not null,
    refused_at bigint,
    start_at bigint,
    due_at bigint,
    total integer not null,
    is_cancel_requested integer not null,
    ended text,
    ended_at bigint,
    said_counts text not null,
    said_reasons text not null,
    counts text not null,
    reasons text not null,
    told text not null,
    position bigint not null);
create index job_invocations_by_age on job_invocations (created_at, job_invocation_id);
create index job_invocations_by_status on job_invocations (status, created_at, job_invocation_id);
create table job_tasks (
    job_task_id {bytes} primary key,
    job_invocation_id {bytes} not null,
    host_id {bytes} not null,
    host_name text not null,
    is_planned integer not null,
    ordinal integer not null,
    proxy text not null,
    proxy_from integer not null,
    dispatch_rank text not null,
    verdict_rank text not null,
    status text not null,
    reason text,
    exit_status bigint,
    signal text,
    attempts integer not null,
    tried integer not null,
    detail text not null,
    due_at bigint,
    verdict_at bigint,
    shown integer not null,
    started_at bigint,
    attempt_ended_at bigint,
    streams text not null,
    group_id {bytes} not null,
    position bigint not null);
create index job_tasks_by_host on job_tasks (job_invocation_id, host_name, job_task_id);
create index job_tasks_by_status on job_tasks (job_invocation_id, status, host_name, job_task_id);
create index job_tasks_by_reason on job_tasks (job_invocation_id, reason, host_name, job_task_id) where reason is not null;
create index job_tasks_by_group on job_tasks (job_invocation_id, group_id, host_name);
create index job_tasks_by_position on job_tasks (job_invocation_id, position);
create table attempts (
    job_task_id {bytes} not null,
    attempt integer not null,
    proxy text not null,
    facts text not null,
    primary key (job_task_id, attempt, proxy));
create table output_groups (
    job_invocation_id {bytes} not null,
    group_id {bytes} not null,
    ordinal integer not null,
    status text not null,
    reason text,
    exit_status bigint,
    digests text not null,
    lengths text not null,
    count integer not null,
    primary key (job_invocation_id, group_id));
create table hosts (
    host_id {bytes} primary key,
    version bigint not null,
    name text not null,
    record text,
    is_removed integer not null);
create index hosts_by_name on hosts (is_removed, name, host_id);
create table observations (
    host_id {bytes} not null,
    proxy text not null,
    reachable integer,
    why text not null,
    detail text not null,
    observed_at bigint,
    last_check_in bigint,
    primary key (host_id, proxy));
create table agents (
    agent_id text primary key,
    proxy text not null,
    heard_at bigint not null,
    providers text not null,
    version text not null,
    following integer not null,
    clock_offset_s double precision,
    has_stopped integer not null);
create table agent_keys (kid text primary key, proxy text not null, agent_id text not null, is_revoked integer not null);
create table silences (proxy text primary key, silent_since bigint not null);
create table users (login text primary key, role text not null, is_disabled integer not null);
create table tokens (
    token_id {bytes} primary key,
    token_sha256 text not null,
    login text not null,
    expires_at bigint,
    is_revoked integer not null);
create index tokens_by_digest on tokens (token_sha256);
create table command_outcomes (
    command_id {bytes} primary key,
    decision text not null,
    reason text,
    detail text not null,
    counts text not null,
    job_invocation_id {bytes});
create table news (id {bytes} primary key, topic_key text not null, model text not null, document text not null);
""",
    """
alter table positions add column append_ms bigint not null default 0;
""",
    """
alter table job_invocations add column halt text;
alter table job_invocations add column edit text;
create table proxy_sizes (proxy text primary key, concurrency integer, changed_at bigint not null);
create table targets (job_invocation_id {bytes} not null, chunk integer not null, host_ids {bytes} not null,
    primary key (job_invocation_id, chunk));
""",
    """
alter table observations add column facts text not null default '{}';
alter table observations add column facts_reported_at bigint;
""",
    # What was read before ladders were kept is read again, which changes nothing that is known but fills them.
    """
alter table job_invocations add column steps text not null default '';
alter table job_tasks add column steps text not null default '';
delete from positions;
delete from store_id;
""",
)

OUTPUT_STEPS = (
    """
create table streams (
    stream_id {identity},
    job_task_id {bytes} not null,
    attempt integer not null,
    proxy text not null,
    stream text not null,
    stream_end bigint not null,
    stored bigint not null,
    newlines bigint not null,
    tail {bytes} not null,
    omitted text not null,
    unique (job_task_id, attempt, proxy, stream));
create table chunks (
    stream_id bigint not null,
    start bigint not null,
    length integer not null,
    codec integer not null,
    data {bytes} not null,
    primary key (stream_id, start));
create table held (
    stream_id bigint not null,
    start bigint not null,
    until bigint not null,
    data {bytes},
    primary key (stream_id, start));
""",
    """
alter table streams add column landings text not null default '';
""",
)


def sqlite_ddl(step: str) -> str:
    return step.replace("{bytes}", "blob").replace("{identity}", "integer primary key")


def postgres_ddl(step: str) -> str:
    return step.replace("{bytes}", "bytea").replace("{identity}", "bigint generated always as identity primary key")
