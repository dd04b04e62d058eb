-- Nodes as targets (targetType instance), and the readiness gates of pods.
--
-- What agents report for policies with instance targets has tables of its own, of the same shape as those for pods: the key of an
-- endpoint is an instance id here and an address there, and a hub of the version before goes on reading and writing its own
-- tables without noticing.

-- What an agent of this cluster can do beside the first version of the protocol, as it said in its last Hello.
alter table clusters add column features jsonb not null default '[]' check (jsonb_typeof(features) = 'array');

-- Names of the policies whose target health the pod's readiness gates wait for.
alter table endpoints add column gates jsonb not null default '[]' check (jsonb_typeof(gates) = 'array');

-- Conditions of a Service: with nodes as targets it may lack a node port.
create table node_services (
    cluster text not null references clusters (name) on delete cascade,
    namespace text not null check (length(namespace) between 1 and 63),
    name text not null check (length(name) between 1 and 63),
    port text not null check (length(port) between 1 and 63),
    condition text not null check (condition in ('Resolved', 'NotFound', 'PortNotFound', 'NoSelectedPods', 'NoNodePort')),
    message text not null check (length(message) <= 1024),
    node_port integer not null check (node_port between 0 and 65535),
    health_check_node_port integer not null check (health_check_node_port between 0 and 65535),
    forgotten boolean not null default false,
    updated_at timestamptz not null,
    rev bigint not null check (rev > 0),
    primary key (cluster, namespace, name, port)
);
create index node_services_by_rev on node_services (cluster, rev);

-- One row a node and Service port. The node's UID is part of the key, as a pod's is in `endpoints`.
create table node_endpoints (
    cluster text not null references clusters (name) on delete cascade,
    namespace text not null check (length(namespace) between 1 and 63),
    service text not null check (length(service) between 1 and 63),
    service_port text not null check (length(service_port) between 1 and 63),
    address text not null check (address ~ '^i-([0-9a-f]{8}|[0-9a-f]{17})$'),
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
    gates jsonb not null default '[]' check (jsonb_typeof(gates) = 'array'),
    primary key (cluster, namespace, service, service_port, address, target_port, pod_uid),
    constraint node_evidence_belongs_to_gone check ((state = 'gone') = (evidence is not null)),
    constraint node_only_present_has_conditions check (state = 'present' or not (ready or serving or terminating))
);
create index node_endpoints_by_rev on node_endpoints (cluster, rev);
create index node_endpoints_to_purge on node_endpoints (updated_at) where state <> 'present';
