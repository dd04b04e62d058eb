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
    inventory_statements::{ALL, Statements},
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
        self.addresses.push(key.target.id.to_string());
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
        for statements in ALL {
            let of_type = services.iter().filter(|(key, _)| key.target_type == statements.target_type);
            let services: Vec<_> = of_type.copied().collect();
            for chunk in services.chunks(CHUNK) {
                let column =
                    |value: fn(&ServiceKey) -> String| chunk.iter().map(|(key, _)| value(key)).collect::<Vec<_>>();
                let reports = || chunk.iter().map(|(_, report)| *report);
                let health = |report: &NewServiceState| i32::from(report.state.health_check_node_port.unwrap_or(0));
                let upsert = sqlx::query(statements.services_upsert)
                    .bind(mark.cluster.as_str())
                    .bind(mark.rev)
                    .bind(mark.at)
                    .bind(column(|key| key.namespace.to_string()))
                    .bind(column(|key| key.name.to_string()))
                    .bind(column(|key| key.port.to_string()))
                    .bind(reports().map(|r| condition_word(r.state.condition)).collect::<Vec<_>>())
                    .bind(reports().map(|r| text(&r.state.message, 1024)).collect::<Vec<_>>())
                    .bind(reports().map(|r| i32::from(r.node_port)).collect::<Vec<_>>())
                    .bind(reports().map(health).collect::<Vec<_>>());
                self.run(Query::ServicesUpsert, upsert.execute(&mut *conn)).await?;
            }
        }
        Ok(())
    }

    async fn endpoints_upsert(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        endpoints: &[(&EndpointKey, &NewEndpoint)],
    ) -> Result<(), StoreError> {
        for statements in ALL {
            let of_type = endpoints.iter().filter(|(key, _)| key.service.target_type == statements.target_type);
            let endpoints: Vec<_> = of_type.copied().collect();
            for chunk in endpoints.chunks(CHUNK) {
                self.endpoints_upsert_chunk(conn, mark, statements, chunk).await?;
            }
        }
        Ok(())
    }

    async fn endpoints_upsert_chunk(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        statements: &Statements,
        chunk: &[(&EndpointKey, &NewEndpoint)],
    ) -> Result<(), StoreError> {
        let mut keys = Keys::default();
        let mut pods = Vec::with_capacity(chunk.len());
        let mut enis = Vec::with_capacity(chunk.len());
        let mut gates = Vec::with_capacity(chunk.len());
        for (key, new) in chunk {
            keys.push(key);
            pods.push(&*new.pod);
            enis.push(to_json("ENI ids", &new.eni_ids)?);
            gates.push(to_json("gates", &new.gates)?);
        }
        let news = || chunk.iter().map(|(_, new)| *new);
        let upsert = sqlx::query(statements.endpoints_upsert)
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
            .bind(enis)
            .bind(gates);
        self.run(Query::EndpointsUpsert, upsert.execute(&mut *conn)).await?;
        Ok(())
    }

    async fn endpoints_gone(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        gone: &[(&EndpointKey, Evidence)],
    ) -> Result<(), StoreError> {
        for statements in ALL {
            let of_type = gone.iter().filter(|(key, _)| key.service.target_type == statements.target_type);
            let gone: Vec<_> = of_type.copied().collect();
            for chunk in gone.chunks(CHUNK) {
                let mut keys = Keys::default();
                chunk.iter().for_each(|(key, _)| keys.push(key));
                let update = sqlx::query(statements.endpoints_gone)
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
        }
        Ok(())
    }

    async fn endpoints_present(&self, conn: &mut Conn, cluster: &ClusterName) -> Result<Vec<EndpointKey>, StoreError> {
        let mut present = Vec::new();
        for statements in ALL {
            let read = sqlx::query_as::<_, KeyRow>(statements.endpoints_present).bind(cluster.as_str());
            let rows = self.run(Query::EndpointsPresent, read.fetch_all(&mut *conn)).await?;
            for row in rows {
                present.push(row.read()?);
            }
        }
        Ok(present)
    }

    /// Marks rows as forgotten, evidence included; see [`super::purge`] for how they leave.
    async fn forget_unwatched(
        &self,
        conn: &mut Conn,
        mark: &Mark<'_>,
        watched: &[ServiceKey],
    ) -> Result<(), StoreError> {
        for statements in ALL {
            let of_type = |key: &&ServiceKey| key.target_type == statements.target_type;
            let column =
                |value: fn(&ServiceKey) -> String| watched.iter().filter(of_type).map(value).collect::<Vec<_>>();
            for statement in [statements.endpoints_forget, statements.services_forget] {
                let update = sqlx::query(statement)
                    .bind(mark.cluster.as_str())
                    .bind(mark.rev)
                    .bind(mark.at)
                    .bind(column(|key| key.namespace.to_string()))
                    .bind(column(|key| key.name.to_string()))
                    .bind(column(|key| key.port.to_string()));
                self.run(Query::InventoryForget, update.execute(&mut *conn)).await?;
            }
        }
        Ok(())
    }
}
