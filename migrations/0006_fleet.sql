-- What operators want of whole clusters (cordon, drain, removal, game days), and when somebody last let clusters return.
--
-- A hub of the version before ignores what is new here: to it every cluster is active. Before a rollback bring drained clusters back
-- and let game days end, or their share returns with the first plan of the older version.

-- When somebody last let clusters return that failover took out before; null: never.
alter table policies add column failback_at timestamptz;

-- Counts with `last`: the number of the last transaction that wrote a row of `cluster_states`.
alter table policy_changes add column fleet bigint not null default 0 check (fleet >= 0);

-- One row a cluster that an operator ever wanted something of; a cluster without one is active. It outlives the cluster's row in
-- `clusters`: a removed cluster is refused by this one.
create table cluster_states (
    cluster text primary key check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    version bigint not null check (version > 0),
    -- Repeats the document, for what must be refused.
    removed boolean not null,
    state jsonb not null check (jsonb_typeof(state) = 'object'),
    updated_at timestamptz not null,
    change bigint not null check (change > 0),
    constraint state_repeats_the_columns check (
        state ->> 'cluster' = cluster and (state ->> 'version')::bigint = version and (state ->> 'mode' = 'Removed') = removed
        and (state ->> 'percent')::integer between 0 and 100
    )
);

create function cluster_states_keep_order() returns trigger language plpgsql as $$
begin
    if new.version <= old.version then
        raise exception 'the version of what is wanted of cluster % cannot go from % to %', old.cluster, old.version, new.version
            using errcode = 'check_violation';
    end if;
    return new;
end $$;
create trigger cluster_states_keep_order before update on cluster_states
    for each row execute function cluster_states_keep_order();
