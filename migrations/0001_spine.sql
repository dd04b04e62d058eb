-- The spine: identity, leases, what agents report, what users want, what was done. Constraints hold the invariants that code
-- must not be trusted with: one hub, one holder of a lease, weights 0..=999, epochs that never fall, an audit log that only grows.

-- One row: which installation this is. Its id stands in the ownership tag of everything made at AWS.
create table hub (
    only_row boolean primary key default true check (only_row),
    hub_id text not null check (hub_id ~ '^[!-~]{1,64}$'),
    created_at timestamptz not null default now()
);

-- One row a scope, so one holder. The row stays after a release: it remembers the epoch.
create table leases (
    scope text primary key check (length(scope) between 1 and 256),
    holder uuid not null,
    epoch bigint not null check (epoch > 0),
    expires_at timestamptz not null
);

create function leases_keep_order() returns trigger language plpgsql as $$
begin
    if new.epoch < old.epoch then
        raise exception 'the epoch of lease % cannot fall from % to %', old.scope, old.epoch, new.epoch
            using errcode = 'check_violation';
    end if;
    if new.holder <> old.holder and new.epoch = old.epoch then
        raise exception 'lease % cannot change its holder within epoch %', old.scope, old.epoch
            using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger leases_keep_order before update on leases for each row execute function leases_keep_order();

-- Member clusters and the session of each one's agent. `rev` counts the writing transactions of the cluster: the row is locked
-- first, so the order of revs is the order of commits, and a reader that has seen rev n needs only rows with a higher one.
create table clusters (
    name text primary key check (name ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    region text not null check (length(region) <= 64),
    vpc_id text not null check (vpc_id ~ '^[!-~]{1,64}$'),
    agent_instance uuid not null,
    agent_version text not null check (length(agent_version) <= 128),
    session_id uuid,
    hub_instance uuid,
    opened_at timestamptz,
    -- The last message of this agent process whose effect is stored.
    applied_seq bigint check (applied_seq >= 0),
    snapshot_complete boolean not null default false,
    -- The hub epoch in which the agent last said that what is stored is complete.
    complete_in_epoch bigint check (complete_in_epoch >= 0),
    problems jsonb not null default '[]' check (jsonb_typeof(problems) = 'array'),
    rev bigint not null default 0 check (rev >= 0),
    -- The highest rev of a row that was deleted for good; a reader that has not seen it must read the cluster anew.
    purged_rev bigint not null default 0 check (purged_rev between 0 and rev),
    created_at timestamptz not null default now()
);

-- Apart from `clusters`, so that a heartbeat never waits for a snapshot that is being written.
create table heartbeats (
    cluster text primary key references clusters (name) on delete cascade,
    session_id uuid not null,
    at timestamptz not null
);

create table services (
    cluster text not null references clusters (name) on delete cascade,
    namespace text not null check (length(namespace) between 1 and 63),
    name text not null check (length(name) between 1 and 63),
    port text not null check (length(port) between 1 and 63),
    condition text not null check (condition in ('Resolved', 'NotFound', 'PortNotFound', 'NoSelectedPods')),
    message text not null check (length(message) <= 1024),
    node_port integer not null check (node_port between 0 and 65535),
    health_check_node_port integer not null check (health_check_node_port between 0 and 65535),
    forgotten boolean not null default false,
    updated_at timestamptz not null,
    rev bigint not null check (rev > 0),
    primary key (cluster, namespace, name, port)
);
create index services_by_rev on services (cluster, rev);

-- One row an endpoint; the pod is part of the key, so that a late delete for an old pod never hits the address's next owner.
-- 'gone' keeps the evidence; 'forgotten' rows are only there so that readers notice, until they are purged.
create table endpoints (
    cluster text not null references clusters (name) on delete cascade,
    namespace text not null check (length(namespace) between 1 and 63),
    service text not null check (length(service) between 1 and 63),
    service_port text not null check (length(service_port) between 1 and 63),
    address inet not null check (masklen(address) = case family(address) when 4 then 32 else 128 end),
    target_port integer not null check (target_port between 1 and 65535),
    pod_uid text not null check (pod_uid ~ '^[!-~]{1,128}$'),
    state text not null check (state in ('present', 'gone', 'forgotten')),
    ready boolean not null,
    serving boolean not null,
    terminating boolean not null,
    evidence text check (evidence in ('PodDeleted', 'NotSelected', 'ServiceDeleted', 'PortChanged', 'Absent')),
    pod jsonb not null,
    pod_name text not null check (length(pod_name) <= 253),
    node text not null check (length(node) <= 253),
    zone text not null check (length(zone) <= 64),
    eni_ids jsonb not null check (jsonb_typeof(eni_ids) = 'array'),
    first_seen timestamptz not null,
    updated_at timestamptz not null,
    rev bigint not null check (rev > 0),
    primary key (cluster, namespace, service, service_port, address, target_port, pod_uid),
    constraint evidence_belongs_to_gone check ((state = 'gone') = (evidence is not null)),
    constraint only_present_has_conditions check (state = 'present' or not (ready or serving or terminating))
);
create index endpoints_by_rev on endpoints (cluster, rev);
create index endpoints_to_purge on endpoints (updated_at) where state <> 'present';

-- One row: counts the transactions that write policies, their status or memory. It is locked first in each of them, so its
-- order is the order of commits.
create table policy_changes (
    only_row boolean primary key default true check (only_row),
    last bigint not null check (last >= 0)
);
insert into policy_changes (last) values (0);

create table policies (
    uid text primary key check (uid ~ '^[!-~]{1,64}$'),
    namespace text not null check (length(namespace) between 1 and 63),
    name text not null check (length(name) between 1 and 253),
    version bigint not null check (version > 0),
    generation bigint not null check (generation > 0 and generation <= version),
    manifest jsonb not null check (jsonb_typeof(manifest) = 'object'),
    deleting_since timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    change bigint not null check (change > 0),
    unique (namespace, name)
);

-- Weights set by call over those of the spec; no row: the spec's weight holds.
create table policy_overrides (
    uid text not null references policies (uid) on delete cascade,
    cluster text not null check (length(cluster) between 1 and 63),
    weight integer not null check (weight between 0 and 999),
    primary key (uid, cluster)
);

create table policy_status (
    uid text primary key references policies (uid) on delete cascade,
    status jsonb not null check (jsonb_typeof(status) = 'object'),
    saved_at timestamptz not null
);

create table policy_memory (
    uid text primary key references policies (uid) on delete cascade,
    memory jsonb not null check (jsonb_typeof(memory) = 'object')
);

-- The first answer to each request id, kept for a day.
create table idempotency (
    request_id text primary key check (length(request_id) between 1 and 128),
    method text not null check (length(method) between 1 and 64),
    fingerprint bytea not null check (length(fingerprint) = 32),
    response jsonb not null,
    created_at timestamptz not null default now()
);
create index idempotency_by_age on idempotency (created_at);

-- What is about to be written at AWS, recorded before each call under the epoch of the lease, and what came of it.
create table intents (
    id bigint generated always as identity primary key,
    scope text not null,
    epoch bigint not null check (epoch > 0),
    policy text not null check (length(policy) <= 320),
    operation text not null check (length(operation) between 1 and 64),
    step jsonb not null,
    recorded_at timestamptz not null default now(),
    outcome text check (length(outcome) between 1 and 64),
    detail text check (length(detail) <= 4096),
    finished_at timestamptz,
    constraint closed_as_a_whole check ((outcome is null) = (finished_at is null) and (outcome is null) = (detail is null))
);
create index intents_open on intents (scope, epoch) where outcome is null;
create index intents_by_age on intents (recorded_at);

create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    actor text not null check (length(actor) between 1 and 256),
    action text not null check (length(action) between 1 and 64),
    policy text not null check (length(policy) <= 320),
    detail jsonb not null,
    reason text not null check (length(reason) <= 1024),
    request_id text not null check (length(request_id) <= 128)
);
create index audit_by_policy on audit (policy, id);

create function audit_only_grows() returns trigger language plpgsql as $$
begin
    raise exception 'the audit log only grows' using errcode = 'check_violation';
end $$;
create trigger audit_only_grows before update or delete on audit for each row execute function audit_only_grows();
create trigger audit_is_not_truncated before truncate on audit for each statement execute function audit_only_grows();
