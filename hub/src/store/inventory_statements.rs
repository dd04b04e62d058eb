//! The statements for what agents report, once for pods and once for nodes: two pairs of tables of one shape, which differ in
//! what an endpoint's key is (see `migrations/0003_instances.sql`). Texts only.

use switchyard_core::policy::spec::TargetType;

/// The statements for one pair of tables; what they bind stands where they are used, in `inventory_write` and `purge`.
pub(super) struct Statements {
    pub target_type: TargetType,
    pub services_upsert: &'static str,
    pub endpoints_upsert: &'static str,
    pub endpoints_gone: &'static str,
    pub endpoints_present: &'static str,
    pub endpoints_forget: &'static str,
    pub services_forget: &'static str,
    pub endpoints_purge: &'static str,
    pub services_purge: &'static str,
    pub endpoints_expire: &'static str,
}

/// Both pairs.
pub(super) const ALL: [&Statements; 2] = [&PODS, &NODES];

/// `$cast` makes an address of a text, `$read` a text of an address.
macro_rules! statements {
    ($target_type:expr, $word:literal, $services:literal, $endpoints:literal, $cast:literal, $read:literal) => {
        Statements {
            target_type: $target_type,
            services_upsert: concat!(
                "insert into ", $services, " as s (cluster, namespace, name, port, condition, message, node_port, \
                 health_check_node_port, forgotten, updated_at, rev) \
                 select $1, n.namespace, n.name, n.port, n.condition, n.message, n.node_port, n.health, false, $3, $2 \
                 from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::int[], $10::int[]) \
                 as n (namespace, name, port, condition, message, node_port, health) \
                 on conflict (cluster, namespace, name, port) do update set condition = excluded.condition, \
                 message = excluded.message, node_port = excluded.node_port, \
                 health_check_node_port = excluded.health_check_node_port, forgotten = false, \
                 updated_at = excluded.updated_at, rev = excluded.rev \
                 where s.forgotten or (s.condition, s.message, s.node_port, s.health_check_node_port) is distinct from \
                 (excluded.condition, excluded.message, excluded.node_port, excluded.health_check_node_port)"
            ),
            // The join keeps rows that would not change away from `on conflict`, which would lock, and so write, each of them.
            // The cluster's lock keeps it true until the insert.
            endpoints_upsert: concat!(
                "insert into ", $endpoints, " as e (cluster, namespace, service, service_port, address, target_port, pod_uid, \
                 state, ready, serving, terminating, pod, pod_name, node, zone, eni_ids, gates, first_seen, updated_at, rev) \
                 select $1, n.namespace, n.service, n.port, n.address", $cast, ", n.target_port, n.pod_uid, 'present', n.ready, \
                 n.serving, n.terminating, n.pod, n.pod_name, n.node, n.zone, n.eni_ids, n.gates, $3, $3, $2 \
                 from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::bool[], \
                 $11::bool[], $12::bool[], $13::jsonb[], $14::text[], $15::text[], $16::text[], $17::jsonb[], $18::jsonb[]) \
                 as n (namespace, service, port, address, target_port, pod_uid, ready, serving, terminating, pod, pod_name, \
                 node, zone, eni_ids, gates) \
                 left join ", $endpoints, " o on o.cluster = $1 and o.namespace = n.namespace and o.service = n.service \
                 and o.service_port = n.port and o.address = n.address", $cast, " and o.target_port = n.target_port \
                 and o.pod_uid = n.pod_uid \
                 where o.cluster is null or o.state <> 'present' or (o.ready, o.serving, o.terminating, o.pod, o.pod_name, \
                 o.node, o.zone, o.eni_ids, o.gates) is distinct from (n.ready, n.serving, n.terminating, n.pod, n.pod_name, \
                 n.node, n.zone, n.eni_ids, n.gates) \
                 on conflict (cluster, namespace, service, service_port, address, target_port, pod_uid) do update set \
                 state = 'present', evidence = null, ready = excluded.ready, serving = excluded.serving, \
                 terminating = excluded.terminating, pod = excluded.pod, pod_name = excluded.pod_name, \
                 node = excluded.node, zone = excluded.zone, eni_ids = excluded.eni_ids, gates = excluded.gates, \
                 first_seen = case when e.state = 'present' then e.first_seen else excluded.first_seen end, \
                 updated_at = excluded.updated_at, rev = excluded.rev"
            ),
            endpoints_gone: concat!(
                "update ", $endpoints, " e set state = 'gone', evidence = g.evidence, ready = false, serving = false, \
                 terminating = false, updated_at = $3, rev = $2 \
                 from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::text[]) \
                 as g (namespace, service, port, address, target_port, pod_uid, evidence) \
                 where e.cluster = $1 and e.namespace = g.namespace and e.service = g.service and e.service_port = g.port \
                 and e.address = g.address", $cast, " and e.target_port = g.target_port and e.pod_uid = g.pod_uid \
                 and (e.state = 'present' or (e.state = 'gone' and e.evidence = 'Absent' and g.evidence <> 'Absent'))"
            ),
            endpoints_present: concat!(
                "select '", $word, "' as target_type, cluster, namespace, service, service_port, ", $read, " as address, \
                 target_port, pod_uid from ", $endpoints, " where cluster = $1 and state = 'present'"
            ),
            endpoints_forget: concat!(
                "update ", $endpoints, " set state = 'forgotten', evidence = null, ready = false, serving = false, \
                 terminating = false, updated_at = $3, rev = $2 where cluster = $1 and state <> 'forgotten' \
                 and (namespace, service, service_port) not in (select * from unnest($4::text[], $5::text[], $6::text[]))"
            ),
            services_forget: concat!(
                "update ", $services, " set forgotten = true, updated_at = $3, rev = $2 where cluster = $1 and not forgotten \
                 and (namespace, name, port) not in (select * from unnest($4::text[], $5::text[], $6::text[]))"
            ),
            endpoints_purge: concat!(
                "with d as (delete from ", $endpoints, " where cluster = $1 and state = 'forgotten' \
                 and updated_at < now() - make_interval(secs => $2) returning rev) select count(*), max(rev) from d"
            ),
            services_purge: concat!(
                "with d as (delete from ", $services, " where cluster = $1 and forgotten \
                 and updated_at < now() - make_interval(secs => $2) returning rev) select count(*), max(rev) from d"
            ),
            endpoints_expire: concat!(
                "update ", $endpoints, " set state = 'forgotten', evidence = null, updated_at = clock_timestamp(), rev = $3 \
                 where cluster = $1 and state = 'gone' and updated_at < now() - make_interval(secs => $2)"
            ),
        }
    };
}

const PODS: Statements = statements!(TargetType::Ip, "ip", "services", "endpoints", "::inet", "host(address)");
const NODES: Statements =
    statements!(TargetType::Instance, "instance", "node_services", "node_endpoints", "", "address");
