//! Writing Services and endpoints: batches of columns for `unnest`, within a transaction that holds the cluster's row. Rows
//! that would not change are not written, so that a snapshot of an unchanged cluster costs reads only.

use std::collections::{BTreeMap, BTreeSet};

use switchyard_core::{
    ids::ClusterName,
    inventory::{EndpointKey, Evidence, ServiceKey},
};

use super::{
    Store,
    error::{Query, StoreError},
    inventory_changes::{NewEndpoint, NewServiceState, Phase},
    mirror_fetch::{KeyRow, condition_word},
    sessions::Snapshot,
    values::{Conn, evidence_word, text, to_json},
};

/// Rows in one statement: some 5 MB with pods, far from the statement timeout.
const CHUNK: usize = 5_000;

/// Under which number and time a transaction writes. One time for the whole transaction, read behind the cluster's lock:
/// the order of first sights decides who owns an address.
pub(super) struct Mark<'a> {
    pub cluster: &'a ClusterName,
    pub rev: i64,
    pub at: jiff_sqlx::Timestamp,
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
        self.forget_unwatched(conn, mark, snapshot.watch_set).await
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
        // The join keeps rows that would not change away from `on conflict`, which would lock, and so write, each of them. The
        // cluster's lock keeps it true until the insert.
        let upsert = "insert into endpoints as e (cluster, namespace, service, service_port, address, target_port, pod_uid, state, \
                      ready, serving, terminating, pod, pod_name, node, zone, eni_ids, first_seen, updated_at, rev) \
                      select $1, n.namespace, n.service, n.port, n.address::inet, n.target_port, n.pod_uid, 'present', n.ready, \
                      n.serving, n.terminating, n.pod, n.pod_name, n.node, n.zone, n.eni_ids, $3, $3, $2 \
                      from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::bool[], \
                      $11::bool[], $12::bool[], $13::jsonb[], $14::text[], $15::text[], $16::text[], $17::jsonb[]) \
                      as n (namespace, service, port, address, target_port, pod_uid, ready, serving, terminating, pod, pod_name, \
                      node, zone, eni_ids) \
                      left join endpoints o on o.cluster = $1 and o.namespace = n.namespace and o.service = n.service \
                      and o.service_port = n.port and o.address = n.address::inet and o.target_port = n.target_port \
                      and o.pod_uid = n.pod_uid \
                      where o.cluster is null or o.state <> 'present' or (o.ready, o.serving, o.terminating, o.pod, o.pod_name, \
                      o.node, o.zone, o.eni_ids) is distinct from (n.ready, n.serving, n.terminating, n.pod, n.pod_name, n.node, \
                      n.zone, n.eni_ids) \
                      on conflict (cluster, namespace, service, service_port, address, target_port, pod_uid) do update set \
                      state = 'present', evidence = null, ready = excluded.ready, serving = excluded.serving, \
                      terminating = excluded.terminating, pod = excluded.pod, pod_name = excluded.pod_name, \
                      node = excluded.node, zone = excluded.zone, eni_ids = excluded.eni_ids, \
                      first_seen = case when e.state = 'present' then e.first_seen else excluded.first_seen end, \
                      updated_at = excluded.updated_at, rev = excluded.rev";
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
    async fn forget_unwatched(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        watched: &[ServiceKey],
    ) -> Result<(), StoreError> {
        let endpoints = "update endpoints set state = 'forgotten', evidence = null, ready = false, serving = false, \
                         terminating = false, updated_at = $3, rev = $2 where cluster = $1 and state <> 'forgotten' \
                         and (namespace, service, service_port) not in (select * from unnest($4::text[], $5::text[], $6::text[]))";
        let rows = "update services set forgotten = true, updated_at = $3, rev = $2 where cluster = $1 and not forgotten \
                    and (namespace, name, port) not in (select * from unnest($4::text[], $5::text[], $6::text[]))";
        for statement in [endpoints, rows] {
            let column = |value: fn(&ServiceKey) -> String| watched.iter().map(value).collect::<Vec<_>>();
            let update = sqlx::query(statement)
                .bind(mark.cluster.as_str())
                .bind(mark.rev)
                .bind(mark.at)
                .bind(column(|key| key.namespace.to_string()))
                .bind(column(|key| key.name.to_string()))
                .bind(column(|key| key.port.to_string()));
            self.run(Query::InventoryForget, update.execute(&mut *conn)).await?;
        }
        Ok(())
    }
}
