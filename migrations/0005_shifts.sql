-- Shifts: operations that move the requested weights of policies; gating switches; which entries of the audit log are of which shift.
--
-- A hub of the version before ignores what is new here: it goes on serving policies with the weights that shifts set over their
-- specs, and moves no shift itself.

-- Counts with `last`: the number of the last transaction that wrote a shift or a gating switch.
alter table policy_changes add column shifts bigint not null default 0 check (shifts >= 0);

-- One row a shift. `doc` is all of it; the columns repeat what is searched for.
create table shifts (
    id text primary key check (id ~ '^[!-~]{1,64}$'),
    -- The order in which they were made.
    number bigint generated always as identity unique,
    version bigint not null check (version > 0),
    state text not null check (state in (
        'Pending', 'Preflight', 'Stepping', 'Baking', 'AwaitingApproval', 'Converging', 'Succeeded', 'Aborting', 'Aborted',
        'Superseded', 'Failed'
    )),
    active boolean not null generated always as (state not in ('Succeeded', 'Aborted', 'Superseded', 'Failed')) stored,
    doc jsonb not null check (jsonb_typeof(doc) = 'object'),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    change bigint not null check (change > 0),
    constraint columns_repeat_the_document check (
        doc ->> 'id' = id and doc ->> 'state' = state and (doc ->> 'version')::bigint = version
        and (doc -> 'endedAt' is null or doc -> 'endedAt' = 'null') = active
    ),
    unique (id, active)
);
create index shifts_by_change on shifts (change);
create index shifts_active on shifts (id) where active;
create index shifts_ended on shifts (change) where not active;

create function shifts_keep_order() returns trigger language plpgsql as $$
begin
    if new.version <= old.version then
        raise exception 'the version of shift % cannot go from % to %', old.id, old.version, new.version
            using errcode = 'check_violation';
    end if;
    if not old.active then
        raise exception 'shift % has ended and cannot be changed', old.id using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger shifts_keep_order before update on shifts for each row execute function shifts_keep_order();

-- The policies of a shift, by what identified them when it was made: a policy may be gone before its shifts are forgotten.
create table shift_policies (
    shift_id text not null references shifts (id) on delete cascade,
    policy_uid text not null check (policy_uid ~ '^[!-~]{1,64}$'),
    namespace text not null check (length(namespace) between 1 and 63),
    name text not null check (length(name) between 1 and 253),
    -- True while the shift moves this policy; null: it is over, or the policy left it. Only an active shift moves policies.
    active boolean check (active),
    foreign key (shift_id, active) references shifts (id, active) deferrable initially deferred,
    primary key (shift_id, policy_uid)
);
-- At most one shift moves a policy.
create unique index shift_policies_one_active on shift_policies (policy_uid) where active;
create index shift_policies_by_uid on shift_policies (policy_uid);
create index shift_policies_by_name on shift_policies (namespace, name);

-- The memory of TrafficShift resources, kept for good: one UID makes one shift, ever. The shift may be forgotten before its resource.
create table shift_resources (
    cluster text not null check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    uid text not null check (uid ~ '^[!-~]{1,128}$'),
    shift_id text check (shift_id ~ '^[!-~]{1,64}$'),
    refused text check (length(refused) between 1 and 8192),
    -- The generation whose pause, approval and abort the shift was told.
    generation bigint not null default 0 check (generation >= 0),
    first_seen timestamptz not null,
    primary key (cluster, uid),
    constraint made_or_refused check ((shift_id is null) <> (refused is null))
);

-- A switch over a group of policies: while it is off, their weights do not move.
create table gating_switches (
    name text primary key check (name ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    version bigint not null check (version > 0),
    doc jsonb not null check (jsonb_typeof(doc) = 'object' and doc ->> 'name' = name),
    actor text not null check (length(actor) between 1 and 256),
    changed_at timestamptz not null,
    change bigint not null check (change > 0)
);

-- Null: not of a shift.
alter table audit add column shift_id text check (shift_id ~ '^[!-~]{1,64}$');
create index audit_by_shift on audit (shift_id, id) where shift_id is not null;
create index audit_by_namespace on audit (split_part(policy, '/', 1), id);
create index audit_by_actor on audit (actor, id);
create index audit_by_time on audit (at);
