//! Writing Services and endpoints: batches of columns for `unnest`, within a transaction that holds the cluster's row. Rows
//! that would not change are not written, so that a snapshot of an unchanged cluster costs reads only.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use switchyard_core::{
    ids::ClusterName,
    inventory::{EndpointKey, Evidence, ServiceKey, ServiceState},
};

use super::{
    Store,
    error::{Query, StoreError},
    mirror_fetch::{KeyRow, condition_word},
    sessions::Snapshot,
    values::{Conn, evidence_word, text, to_json},
};

/// Rows in one statement: some 5 MB with pods, far from the statement timeout.
const CHUNK: usize = 5_000;

/// How a Service stands, with its node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewServiceState {
    /// Condition and sentence; at most 1024 characters are kept.
    pub state: ServiceState,
    /// 0 when the Service port has none.
    pub node_port: u16,
    /// 0 unless externalTrafficPolicy is Local.
    pub health_check_node_port: u16,
}

/// An endpoint as the agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEndpoint {
    /// May get new requests.
    pub ready: bool,
    /// Answers requests, also while terminating.
    pub serving: bool,
    /// Its pod has a deletionTimestamp.
    pub terminating: bool,
    /// The pod's name, for people.
    pub pod_name: String,
    /// The node, for people.
    pub node: String,
    /// The zone, may be empty.
    pub zone: String,
    /// ENI ids of the pod.
    pub eni_ids: Vec<String>,
    /// The whole PodInfo, as the store keeps it for people and later versions.
    pub pod: Value,
}

/// One change that an agent reports, in the order in which it saw them.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointChange {
    /// How a Service stands.
    Service(ServiceKey, NewServiceState),
    /// An endpoint is there.
    Upsert(EndpointKey, NewEndpoint),
    /// An endpoint is gone. Gone again, or never known, is fine; absence never replaces stronger evidence.
    Gone(EndpointKey, Evidence),
}

impl EndpointChange {
    pub(super) fn endpoint(&self) -> Option<&EndpointKey> {
        match self {
            EndpointChange::Service(..) => None,
            EndpointChange::Upsert(key, _) | EndpointChange::Gone(key, _) => Some(key),
        }
    }
}

/// Under which number and time a transaction writes. One time for the whole transaction, read behind the cluster's lock:
/// the order of first sights decides who owns an address.
pub(super) struct Mark<'a> {
    pub cluster: &'a ClusterName,
    pub rev: i64,
    pub at: jiff_sqlx::Timestamp,
}

/// Which Services are to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forget {
    These,
    AllButThese,
}

/// Changes of which no two speak of the same thing, so that their order does not matter.
#[derive(Default)]
pub(super) struct Phase<'a> {
    services: BTreeMap<&'a ServiceKey, &'a NewServiceState>,
    upserts: BTreeMap<&'a EndpointKey, &'a NewEndpoint>,
    gone: BTreeMap<&'a EndpointKey, Evidence>,
}

impl<'a> Phase<'a> {
    fn speaks_of(&self, change: &'a EndpointChange) -> bool {
        match change {
            EndpointChange::Service(key, _) => self.services.contains_key(key),
            EndpointChange::Upsert(key, _) | EndpointChange::Gone(key, _) => {
                self.upserts.contains_key(key) || self.gone.contains_key(key)
            }
        }
    }

    fn add(&mut self, change: &'a EndpointChange) {
        match change {
            EndpointChange::Service(key, report) => drop(self.services.insert(key, report)),
            EndpointChange::Upsert(key, new) => drop(self.upserts.insert(key, new)),
            EndpointChange::Gone(key, evidence) => drop(self.gone.insert(key, *evidence)),
        }
    }
}

/// Splits changes into as few phases as keep the meaning of their order: usually one.
pub(super) fn phases(changes: &[EndpointChange]) -> Vec<Phase<'_>> {
    let mut phases = vec![Phase::default()];
    for change in changes {
        if phases.last().is_some_and(|phase| phase.speaks_of(change)) {
            phases.push(Phase::default());
        }
        if let Some(phase) = phases.last_mut() {
            phase.add(change);
        }
    }
    phases
}

/// The columns of endpoint keys.
#[derive(Default)]
struct Keys {
    namespaces: Vec<String>,
    services: Vec<String>,
    ports: Vec<String>,
    addresses: Vec<String>,
    target_ports: Vec<i32>,
    pod_uids: Vec<String>,
}

impl Keys {
    fn push(&mut self, key: &EndpointKey) {
        self.namespaces.push(key.service.namespace.to_string());
        self.services.push(key.service.name.to_string());
        self.ports.push(key.service.port.to_string());
        self.addresses.push(key.target.address.to_string());
        self.target_ports.push(i32::from(key.target.port));
        self.pod_uids.push(key.pod_uid.to_string());
    }
}

impl Store {
    pub(super) async fn phase_write(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        phase: &Phase<'_>,
    ) -> Result<(), StoreError> {
        let services: Vec<_> = phase.services.iter().map(|(key, report)| (*key, *report)).collect();
        self.services_upsert(conn, mark, &services).await?;
        let upserts: Vec<_> = phase.upserts.iter().map(|(key, new)| (*key, *new)).collect();
        self.endpoints_upsert(conn, mark, &upserts).await?;
        let gone: Vec<_> = phase.gone.iter().map(|(key, evidence)| (*key, *evidence)).collect();
        self.endpoints_gone(conn, mark, &gone).await
    }

    /// Upserts, sweeps, forgets; see [`Store::session_snapshot`].
    pub(super) async fn snapshot_write(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        snapshot: &Snapshot<'_>,
    ) -> Result<(), StoreError> {
        let watched: BTreeSet<&ServiceKey> = snapshot.watch_set.iter().collect();
        let services: BTreeMap<_, _> = snapshot.services.iter().map(|(key, report)| (key, report)).collect();
        let services: Vec<_> = services.into_iter().filter(|(key, _)| watched.contains(key)).collect();
        self.services_upsert(conn, mark, &services).await?;
        let endpoints: BTreeMap<_, _> = snapshot.endpoints.iter().map(|(key, new)| (key, new)).collect();
        let upserts: Vec<_> =
            endpoints.iter().map(|(k, n)| (*k, *n)).filter(|(key, _)| watched.contains(&key.service)).collect();
        self.endpoints_upsert(conn, mark, &upserts).await?;
        let swept: Vec<EndpointKey> = self.endpoints_present(conn, mark.cluster).await?;
        let absent = |key: &&EndpointKey| watched.contains(&key.service) && !endpoints.contains_key(*key);
        let swept: Vec<_> = swept.iter().filter(absent).map(|key| (key, Evidence::Absent)).collect();
        self.endpoints_gone(conn, mark, &swept).await?;
        self.forget_services(conn, mark, snapshot.watch_set.iter(), Forget::AllButThese).await
    }

    async fn services_upsert(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        services: &[(&ServiceKey, &NewServiceState)],
    ) -> Result<(), StoreError> {
        for chunk in services.chunks(CHUNK) {
            let column = |value: fn(&ServiceKey) -> String| chunk.iter().map(|(key, _)| value(key)).collect::<Vec<_>>();
            let reports = || chunk.iter().map(|(_, report)| *report);
            let upsert = "insert into services as s (cluster, namespace, name, port, condition, message, node_port, \
                          health_check_node_port, forgotten, updated_at, rev) \
                          select $1, n.namespace, n.name, n.port, n.condition, n.message, n.node_port, n.health, false, $3, $2 \
                          from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::int[], $10::int[]) \
                          as n (namespace, name, port, condition, message, node_port, health) \
                          on conflict (cluster, namespace, name, port) do update set condition = excluded.condition, \
                          message = excluded.message, node_port = excluded.node_port, \
                          health_check_node_port = excluded.health_check_node_port, forgotten = false, \
                          updated_at = excluded.updated_at, rev = excluded.rev \
                          where s.forgotten or (s.condition, s.message, s.node_port, s.health_check_node_port) is distinct from \
                          (excluded.condition, excluded.message, excluded.node_port, excluded.health_check_node_port)";
            let upsert = sqlx::query(upsert)
                .bind(mark.cluster.as_str())
                .bind(mark.rev)
                .bind(mark.at)
                .bind(column(|key| key.namespace.to_string()))
                .bind(column(|key| key.name.to_string()))
                .bind(column(|key| key.port.to_string()))
                .bind(reports().map(|r| condition_word(r.state.condition)).collect::<Vec<_>>())
                .bind(reports().map(|r| text(&r.state.message, 1024)).collect::<Vec<_>>())
                .bind(reports().map(|r| i32::from(r.node_port)).collect::<Vec<_>>())
                .bind(reports().map(|r| i32::from(r.health_check_node_port)).collect::<Vec<_>>());
            self.run(Query::ServicesUpsert, upsert.execute(&mut *conn)).await?;
        }
        Ok(())
    }

    async fn endpoints_upsert(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        endpoints: &[(&EndpointKey, &NewEndpoint)],
    ) -> Result<(), StoreError> {
        let upsert = "insert into endpoints as e (cluster, namespace, service, service_port, address, target_port, pod_uid, state, \
                      ready, serving, terminating, pod, pod_name, node, zone, eni_ids, first_seen, updated_at, rev) \
                      select $1, n.namespace, n.service, n.port, n.address::inet, n.target_port, n.pod_uid, 'present', n.ready, \
                      n.serving, n.terminating, n.pod, n.pod_name, n.node, n.zone, n.eni_ids, $3, $3, $2 \
                      from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::bool[], \
                      $11::bool[], $12::bool[], $13::jsonb[], $14::text[], $15::text[], $16::text[], $17::jsonb[]) \
                      as n (namespace, service, port, address, target_port, pod_uid, ready, serving, terminating, pod, pod_name, \
                      node, zone, eni_ids) \
                      on conflict (cluster, namespace, service, service_port, address, target_port, pod_uid) do update set \
                      state = 'present', evidence = null, ready = excluded.ready, serving = excluded.serving, \
                      terminating = excluded.terminating, pod = excluded.pod, pod_name = excluded.pod_name, \
                      node = excluded.node, zone = excluded.zone, eni_ids = excluded.eni_ids, \
                      first_seen = case when e.state = 'present' then e.first_seen else excluded.first_seen end, \
                      updated_at = excluded.updated_at, rev = excluded.rev \
                      where e.state <> 'present' or (e.ready, e.serving, e.terminating, e.pod, e.pod_name, e.node, e.zone, e.eni_ids) \
                      is distinct from (excluded.ready, excluded.serving, excluded.terminating, excluded.pod, excluded.pod_name, \
                      excluded.node, excluded.zone, excluded.eni_ids)";
        for chunk in endpoints.chunks(CHUNK) {
            let mut keys = Keys::default();
            let mut pods = Vec::with_capacity(chunk.len());
            let mut enis = Vec::with_capacity(chunk.len());
            for (key, new) in chunk {
                keys.push(key);
                pods.push(to_json("a pod", &new.pod)?);
                enis.push(to_json("ENI ids", &new.eni_ids)?);
            }
            let news = || chunk.iter().map(|(_, new)| *new);
            let upsert = sqlx::query(upsert)
                .bind(mark.cluster.as_str())
                .bind(mark.rev)
                .bind(mark.at)
                .bind(keys.namespaces)
                .bind(keys.services)
                .bind(keys.ports)
                .bind(keys.addresses)
                .bind(keys.target_ports)
                .bind(keys.pod_uids)
                .bind(news().map(|new| new.ready).collect::<Vec<_>>())
                .bind(news().map(|new| new.serving).collect::<Vec<_>>())
                .bind(news().map(|new| new.terminating).collect::<Vec<_>>())
                .bind(pods)
                .bind(news().map(|new| text(&new.pod_name, 253)).collect::<Vec<_>>())
                .bind(news().map(|new| text(&new.node, 253)).collect::<Vec<_>>())
                .bind(news().map(|new| text(&new.zone, 64)).collect::<Vec<_>>())
                .bind(enis);
            self.run(Query::EndpointsUpsert, upsert.execute(&mut *conn)).await?;
        }
        Ok(())
    }

    async fn endpoints_gone(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        gone: &[(&EndpointKey, Evidence)],
    ) -> Result<(), StoreError> {
        let update = "update endpoints e set state = 'gone', evidence = g.evidence, ready = false, serving = false, \
                      terminating = false, updated_at = $3, rev = $2 \
                      from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::text[]) \
                      as g (namespace, service, port, address, target_port, pod_uid, evidence) \
                      where e.cluster = $1 and e.namespace = g.namespace and e.service = g.service and e.service_port = g.port \
                      and e.address = g.address::inet and e.target_port = g.target_port and e.pod_uid = g.pod_uid \
                      and (e.state = 'present' or (e.state = 'gone' and e.evidence = 'Absent' and g.evidence <> 'Absent'))";
        for chunk in gone.chunks(CHUNK) {
            let mut keys = Keys::default();
            chunk.iter().for_each(|(key, _)| keys.push(key));
            let update = sqlx::query(update)
                .bind(mark.cluster.as_str())
                .bind(mark.rev)
                .bind(mark.at)
                .bind(keys.namespaces)
                .bind(keys.services)
                .bind(keys.ports)
                .bind(keys.addresses)
                .bind(keys.target_ports)
                .bind(keys.pod_uids)
                .bind(chunk.iter().map(|(_, evidence)| evidence_word(*evidence)).collect::<Vec<_>>());
            self.run(Query::EndpointsGone, update.execute(&mut *conn)).await?;
        }
        Ok(())
    }

    async fn endpoints_present(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<Vec<EndpointKey>, StoreError> {
        let read = "select cluster, namespace, service, service_port, host(address) as address, target_port, pod_uid \
                    from endpoints where cluster = $1 and state = 'present'";
        let read = sqlx::query_as::<_, KeyRow>(read).bind(cluster.as_str());
        let rows = self.run(Query::EndpointsPresent, read.fetch_all(conn)).await?;
        rows.into_iter().map(KeyRow::read).collect()
    }

    /// Marks rows as forgotten, evidence included; see [`super::purge`] for how they leave.
    pub(super) async fn forget_services<'a>(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        services: impl Iterator<Item = &'a ServiceKey> + Clone,
        which: Forget,
    ) -> Result<(), StoreError> {
        let endpoints = "update endpoints set state = 'forgotten', evidence = null, ready = false, serving = false, \
                         terminating = false, updated_at = $3, rev = $2 where cluster = $1 and state <> 'forgotten' \
                         and $7 = ((namespace, service, service_port) in (select * from unnest($4::text[], $5::text[], $6::text[])))";
        let rows = "update services set forgotten = true, updated_at = $3, rev = $2 where cluster = $1 and not forgotten \
                    and $7 = ((namespace, name, port) in (select * from unnest($4::text[], $5::text[], $6::text[])))";
        for statement in [endpoints, rows] {
            let column = |value: fn(&ServiceKey) -> String| services.clone().map(value).collect::<Vec<_>>();
            let update = sqlx::query(statement)
                .bind(mark.cluster.as_str())
                .bind(mark.rev)
                .bind(mark.at)
                .bind(column(|key| key.namespace.to_string()))
                .bind(column(|key| key.name.to_string()))
                .bind(column(|key| key.port.to_string()))
                .bind(which == Forget::These);
            self.run(Query::InventoryForget, update.execute(&mut *conn)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use switchyard_core::inventory::ServiceCondition;

    use super::*;

    fn key(address: &str) -> EndpointKey {
        EndpointKey {
            cluster: "blue".parse().unwrap(),
            service: ServiceKey {
                namespace: "shop".parse().unwrap(),
                name: "checkout".parse().unwrap(),
                port: "http".parse().unwrap(),
            },
            target: switchyard_core::observed::Target { address: address.parse().unwrap(), port: 8080 },
            pod_uid: "uid".parse().unwrap(),
        }
    }

    fn report() -> NewServiceState {
        NewServiceState {
            state: ServiceState { condition: ServiceCondition::Resolved, message: String::new() },
            node_port: 0,
            health_check_node_port: 0,
        }
    }

    #[test]
    fn changes_of_different_things_are_one_phase_and_a_second_word_on_one_thing_opens_another() {
        let gone = |address: &str| EndpointChange::Gone(key(address), Evidence::Absent);
        let service = EndpointChange::Service(key("10.0.0.1").service, report());
        assert_eq!(phases(&[gone("10.0.0.1"), gone("10.0.0.2"), service.clone()]).len(), 1);
        let stronger = EndpointChange::Gone(key("10.0.0.1"), Evidence::PodDeleted);
        assert_eq!(phases(&[gone("10.0.0.1"), stronger]).len(), 2);
        assert_eq!(phases(&[service.clone(), service]).len(), 2);
    }
}
