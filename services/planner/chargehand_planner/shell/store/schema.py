"""The tables beside the event streams, as numbered steps; one text for both engines (see engines.Transaction).

Owns the schema. A step that was released is never changed: a new one follows it.
"""

from __future__ import annotations

STEPS: tuple[str, ...] = (
    """
    create table hosts (
        host_id text primary key,
        name text not null,
        version bigint not null,
        is_removed integer not null default 0,
        proxy text,
        document text not null
    );
    create unique index hosts_by_name on hosts (name) where is_removed = 0;
    create table templates (
        template_id text primary key,
        name text not null unique,
        version bigint not null,
        document text not null
    );
    create table invocations (
        job_invocation_id text primary key,
        version bigint not null,
        is_ended integer not null default 0,
        state text not null,
        host_ids {bytes}
    );
    create table sealed_inputs (
        job_invocation_id text not null,
        name text not null,
        sealed text not null,
        primary key (job_invocation_id, name)
    );
    create table users (
        login text primary key,
        version bigint not null,
        role text not null,
        is_disabled integer not null default 0
    );
    create table tokens (
        token_id text primary key,
        login text not null,
        token_sha256 text not null unique,
        expires_at text not null,
        is_revoked integer not null default 0
    );
    create table keys (
        kid text primary key,
        version bigint not null,
        role text not null,
        subject text not null,
        document text not null,
        is_used integer not null default 0,
        is_revoked integer not null default 0
    );
    create table offers (
        proxy text not null,
        agent_id text not null,
        providers text not null,
        primary key (proxy, agent_id)
    );
    create table host_reports (
        host_id text not null,
        kind text not null,
        reported_at text not null,
        document text not null,
        primary key (host_id, kind)
    );
    create table handled (
        command_id text primary key,
        handled_at text not null
    );
    create table owners (
        partition_name text primary key,
        epoch bigint not null,
        token text not null
    );
    create table bindings (
        job_task_id text not null,
        attempt integer not null,
        job_invocation_id text not null,
        host_id text not null,
        kind text not null,
        host_version bigint not null,
        proxy text not null,
        lock_path text not null,
        connecting_user text not null,
        provider_type text not null,
        effective_user text not null,
        script_digest text not null,
        template_id text,
        template_version bigint not null,
        reason text,
        detail text not null,
        bound_at text not null,
        primary key (job_task_id, attempt)
    );
    create index bindings_by_age on bindings (bound_at);
    create table scripts (
        job_invocation_id text not null,
        digest text not null,
        rendered_at text not null,
        primary key (job_invocation_id, digest)
    );
    create table parked (
        job_task_id text not null,
        attempt integer not null,
        partition_name text not null,
        document text not null,
        primary key (job_task_id, attempt)
    );
    create table outbox (
        id {serial},
        type text not null,
        document {bytes} not null
    );
    create table relay (
        id integer primary key,
        position bigint not null
    );
    insert into relay (id, position) values (1, 0);
    create table marks (
        partition_name text primary key,
        next_offset bigint not null
    )
    """,
    """
    alter table marks add column append_ms bigint not null default 0;
    create table heard (
        partition_name text primary key,
        next_offset bigint not null,
        append_ms bigint not null
    );
    alter table outbox add column is_sent integer not null default 0;
    create index outbox_unsent on outbox (id) where is_sent = 0;
    create table sendings (
        partition_name text not null,
        next_offset bigint not null,
        notification_id bigint not null,
        outbox_id bigint not null,
        sent_at text not null,
        primary key (partition_name, next_offset)
    )
    """,
)
