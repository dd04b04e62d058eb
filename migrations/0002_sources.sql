-- Policies that stand in member clusters as resources: who owns a policy, and which resources ask for it.
--
-- A hub of the version before ignores what is new here; a policy that it writes belongs to the API, as all of its policies do.

-- The resource that owns the policy, and its generation that is in force; nulls: the API.
alter table policies
    add column owner_cluster text check (owner_cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    add column owner_uid text check (owner_uid ~ '^[!-~]{1,128}$'),
    add column owner_generation bigint check (owner_generation > 0),
    add constraint owner_as_a_whole check (
        (owner_cluster is null) = (owner_uid is null) and (owner_cluster is null) = (owner_generation is null)
    );

-- Counts the transactions that write claims, under the lock of `policy_changes`.
alter table policy_changes add column claims bigint not null default 0 check (claims >= 0);

-- Clusters that are sources, and the session of each one's agent.
create table policy_sources (
    cluster text primary key check (cluster ~ '^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$'),
    session_id uuid,
    opened_at timestamptz,
    listed_at timestamptz,
    -- Why its agent cannot see the resources now.
    failing text check (length(failing) between 1 and 1024)
);

-- One row a resource, whether or not it owns the policy of its name.
create table policy_claims (
    cluster text not null references policy_sources (cluster),
    namespace text not null check (length(namespace) between 1 and 63),
    name text not null check (length(name) between 1 and 253),
    uid text not null check (uid ~ '^[!-~]{1,128}$'),
    generation bigint not null check (generation > 0),
    -- The policy that it asks for; or why that is not valid.
    manifest jsonb check (jsonb_typeof(manifest) = 'object'),
    refusal text check (length(refusal) between 1 and 8192),
    first_seen timestamptz not null,
    -- When another resource of the name was reported in this one's place, and nobody had seen this one go.
    renewed_at timestamptz,
    changed_at timestamptz not null,
    -- Missing from a complete list, on evidence too weak to remove it.
    absent_since timestamptz,
    change bigint not null check (change > 0),
    primary key (cluster, namespace, name),
    constraint valid_or_refused check ((manifest is null) <> (refusal is null))
);
create index policy_claims_by_name on policy_claims (namespace, name);
create index policy_claims_by_change on policy_claims (change);
