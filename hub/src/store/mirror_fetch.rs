//! Reading what moved since the last time, for the mirror. First the heads (two small statements), then only the rows behind
//! heads that moved. Rows are read after their heads, so a row may be newer than its head says: it is then read once more at
//! the next refresh, which does no harm. Policies and shifts are read by [`super::mirror_intents`].

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use jiff::Timestamp;
use serde_json::Value;
use sqlx::types::Json;
use switchyard_core::{
    ids::{ClusterName, Epoch, VpcId},
    inventory::{Cluster, Endpoint, EndpointKey, EndpointState, Link, ServiceCondition, ServiceKey, ServiceState},
    observed::Target,
    policy::{spec::TargetType, validate::target_type_word},
};
use uuid::Uuid;

use super::{
    Store,
    error::{Query, StoreError},
    features::AgentFeature,
    mirror::ClusterInfo,
    mirror_intents::Intents,
    source_rows::ClaimPart,
    values::{at, evidence, from_json, unreadable, unsigned},
};

/// How far a reader has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The policies' change number; none: nothing read yet.
    pub policies: Option<i64>,
    /// The change number of the shifts and switches; none: nothing read yet.
    pub shifts: Option<i64>,
    /// The change number of what operators want of clusters; none: nothing read yet.
    pub fleet: Option<i64>,
    /// The claims' change number; none: nothing read yet.
    pub claims: Option<i64>,
    /// The rev of each cluster.
    pub clusters: BTreeMap<ClusterName, i64>,
}

/// What was read; applied by [`super::Mirror::apply`].
#[derive(Debug)]
pub struct Fetched {
    pub(super) refreshed_at: Timestamp,
    pub(super) intents: Intents,
    pub(super) claims: Option<ClaimPart>,
    pub(super) clusters: Vec<ClusterPart>,
}

#[derive(Debug)]
pub(super) struct ClusterPart {
    pub cluster: Cluster,
    pub info: ClusterInfo,
    pub rev: i64,
    pub rows: Option<Rows>,
}

#[derive(Debug, Default)]
pub(super) struct Rows {
    /// All of the cluster, in place of what is known.
    pub whole: bool,
    pub services: Vec<(ServiceKey, Option<ServiceState>)>,
    pub endpoints: Vec<(EndpointKey, Option<Endpoint>)>,
}

#[derive(sqlx::FromRow)]
struct HeadRow {
    name: String,
    region: String,
    vpc_id: String,
    agent_version: String,
    session_id: Option<Uuid>,
    hub_instance: Option<Uuid>,
    opened_at: Option<jiff_sqlx::Timestamp>,
    complete_in_epoch: Option<i64>,
    problems: Json<Value>,
    features: Json<Value>,
    rev: i64,
    purged_rev: i64,
    policies_failing: Option<String>,
    heard_at: Option<jiff_sqlx::Timestamp>,
    fresh: bool,
}

impl HeadRow {
    fn read(self, epoch: Option<Epoch>) -> Result<(ClusterPart, i64), StoreError> {
        let what = format!("cluster {}", self.name);
        let complete = self.complete_in_epoch.map(|epoch| unsigned(&what, epoch).map(Epoch)).transpose()?;
        let link = match (self.fresh, complete.is_some() && complete == epoch) {
            (true, true) => Link::Connected,
            (true, false) => Link::Syncing,
            (false, _) => Link::Stale,
        };
        let cluster = Cluster {
            name: ClusterName::new(self.name).map_err(|error| unreadable(&what, error))?,
            region: self.region,
            vpc_id: VpcId::new(self.vpc_id).map_err(|error| unreadable(&what, error))?,
            link,
            session_since: self.opened_at.map(at),
            problems: from_json(&what, self.problems)?,
            reports_nodes: AgentFeature::InstanceTargets.is_in(&self.features.0),
        };
        let info = ClusterInfo {
            agent_version: self.agent_version,
            last_seen: self.heard_at.map(at),
            session_id: self.session_id,
            hub_instance: self.hub_instance,
            complete_in_epoch: complete,
            policies_failing: self.policies_failing,
        };
        let part = ClusterPart { cluster, info, rev: self.rev, rows: None };
        Ok((part, self.purged_rev))
    }
}

/// The key of an endpoint as a row.
#[derive(sqlx::FromRow)]
pub(super) struct KeyRow {
    target_type: String,
    cluster: String,
    namespace: String,
    service: String,
    service_port: String,
    address: String,
    target_port: i32,
    pod_uid: String,
}

impl KeyRow {
    pub fn read(self) -> Result<EndpointKey, StoreError> {
        let broken = |error: &dyn std::fmt::Display| unreadable("an endpoint's key", error);
        Ok(EndpointKey {
            cluster: self.cluster.parse().map_err(|error| broken(&error))?,
            service: service_key(&self.target_type, self.namespace, self.service, self.service_port)?,
            target: Target {
                id: self.address.parse().map_err(|error| broken(&error))?,
                port: u16::try_from(self.target_port).map_err(|error| broken(&error))?,
            },
            pod_uid: self.pod_uid.parse().map_err(|error| broken(&error))?,
        })
    }
}

#[derive(sqlx::FromRow)]
struct EndpointRow {
    #[sqlx(flatten)]
    key: KeyRow,
    state: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    evidence: Option<String>,
    pod_name: String,
    node: String,
    zone: String,
    eni_ids: Json<Value>,
    gates: Json<Value>,
    first_seen: jiff_sqlx::Timestamp,
    updated_at: jiff_sqlx::Timestamp,
}

impl EndpointRow {
    fn read(self) -> Result<(EndpointKey, Option<Endpoint>), StoreError> {
        let key = self.key.read()?;
        let state = match (self.state.as_str(), self.evidence) {
            ("present", _) => {
                EndpointState::Present { ready: self.ready, serving: self.serving, terminating: self.terminating }
            }
            ("gone", Some(word)) => EndpointState::Gone(evidence(&word)?),
            ("forgotten", _) => return Ok((key, None)),
            (other, _) => return Err(unreadable("an endpoint's state", format!("the word {other:?}"))),
        };
        let endpoint = Endpoint {
            state,
            pod_name: self.pod_name,
            node: self.node,
            zone: self.zone,
            eni_ids: from_json("an endpoint's ENI ids", self.eni_ids)?,
            gates: from_json("an endpoint's gates", self.gates)?,
            first_seen: at(self.first_seen),
            updated_at: at(self.updated_at),
        };
        Ok((key, Some(endpoint)))
    }
}

#[derive(sqlx::FromRow)]
struct ServiceRow {
    target_type: String,
    namespace: String,
    name: String,
    port: String,
    condition: String,
    message: String,
    health_check_node_port: i32,
    forgotten: bool,
}

impl ServiceRow {
    fn read(self) -> Result<(ServiceKey, Option<ServiceState>), StoreError> {
        let key = service_key(&self.target_type, self.namespace, self.name, self.port)?;
        if self.forgotten {
            return Ok((key, None));
        }
        let health = u16::try_from(self.health_check_node_port);
        let health = health.map_err(|error| unreadable("a health check node port", error))?;
        let state = ServiceState {
            condition: condition(&self.condition)?,
            message: self.message,
            health_check_node_port: Some(health).filter(|port| *port > 0),
        };
        Ok((key, Some(state)))
    }
}

fn service_key(target_type: &str, namespace: String, name: String, port: String) -> Result<ServiceKey, StoreError> {
    let broken = |error| unreadable("a Service's key", error);
    let all = [TargetType::Ip, TargetType::Instance];
    let target_type = all.into_iter().find(|known| target_type_word(*known) == target_type);
    Ok(ServiceKey {
        namespace: namespace.parse().map_err(broken)?,
        name: name.parse().map_err(broken)?,
        port: port.parse().map_err(broken)?,
        target_type: target_type.ok_or_else(|| unreadable("a Service's key", "an unknown target type"))?,
    })
}

pub(super) fn condition_word(condition: ServiceCondition) -> &'static str {
    match condition {
        ServiceCondition::Resolved => "Resolved",
        ServiceCondition::NotFound => "NotFound",
        ServiceCondition::PortNotFound => "PortNotFound",
        ServiceCondition::NoSelectedPods => "NoSelectedPods",
        ServiceCondition::NoNodePort => "NoNodePort",
    }
}

fn condition(word: &str) -> Result<ServiceCondition, StoreError> {
    let all = [
        ServiceCondition::Resolved,
        ServiceCondition::NotFound,
        ServiceCondition::PortNotFound,
        ServiceCondition::NoSelectedPods,
        ServiceCondition::NoNodePort,
    ];
    let found = all.into_iter().find(|condition| condition_word(*condition) == word);
    found.ok_or_else(|| unreadable("a Service's condition", format!("the word {word:?}")))
}

macro_rules! service_select {
    ($word:literal, $table:literal) => {
        concat!(
            "select '",
            $word,
            "' as target_type, namespace, name, port, condition, message, health_check_node_port, forgotten \
             from ",
            $table
        )
    };
}

macro_rules! endpoint_select {
    ($word:literal, $address:literal, $table:literal) => {
        concat!(
            "select '", $word, "' as target_type, cluster, namespace, service, service_port, ", $address, " as address, \
             target_port, pod_uid, state, ready, serving, terminating, evidence, pod_name, node, zone, eni_ids, gates, \
             first_seen, updated_at from ", $table
        )
    };
}

impl Store {
    /// Reads what a reader that has come as far as `seen` does not know.
    pub(super) async fn mirror_read(
        &self,
        seen: &Seen,
        epoch: Option<Epoch>,
        stale_after: Duration,
    ) -> Result<Fetched, StoreError> {
        let heads = "select last, claims, clock_timestamp() from policy_changes";
        let heads = sqlx::query_as::<_, (i64, i64, jiff_sqlx::Timestamp)>(heads);
        let (head, claims, now) = self.run(Query::MirrorHeads, heads.fetch_one(&self.pool)).await?;
        let rows = "select c.name, c.region, c.vpc_id, c.agent_version, c.session_id, c.hub_instance, c.opened_at, c.complete_in_epoch, \
                    c.problems, c.features, c.rev, c.purged_rev, ps.failing as policies_failing, h.at as heard_at, \
                    coalesce(h.session_id = c.session_id and h.at > clock_timestamp() - make_interval(secs => $1), false) as fresh \
                    from clusters c left join heartbeats h on h.cluster = c.name \
                    left join policy_sources ps on ps.cluster = c.name order by c.name collate \"C\"";
        let rows = sqlx::query_as::<_, HeadRow>(rows).bind(stale_after.as_secs_f64());
        let mut clusters = Vec::new();
        for row in self.run(Query::MirrorHeads, rows.fetch_all(&self.pool)).await? {
            let (mut part, purged_rev) = row.read(epoch)?;
            part.rows = self.cluster_rows(&part, purged_rev, seen).await?;
            clusters.push(part);
        }
        let intents = self.intent_parts(head, seen).await?;
        Ok(Fetched { refreshed_at: at(now), intents, claims: self.claim_part(claims, seen.claims).await?, clusters })
    }

    async fn cluster_rows(&self, part: &ClusterPart, purged_rev: i64, seen: &Seen) -> Result<Option<Rows>, StoreError> {
        let name = &part.cluster.name;
        let seen = seen.clusters.get(name).copied();
        if seen == Some(part.rev) {
            return Ok(None);
        }
        // Behind what was purged, or ahead of what there is (another database): read the whole cluster.
        let since = seen.filter(|seen| (purged_rev..part.rev).contains(seen));
        let services = concat!(
            service_select!("ip", "services"),
            " where cluster = $1 and rev > $2 union all ",
            service_select!("instance", "node_services"),
            " where cluster = $1 and rev > $2"
        );
        let services = sqlx::query_as::<_, ServiceRow>(services).bind(name.as_str()).bind(since.unwrap_or(0));
        let services = self.run(Query::MirrorServices, services.fetch_all(&self.pool)).await?;
        let endpoints = concat!(
            endpoint_select!("ip", "host(address)", "endpoints"),
            " where cluster = $1 and rev > $2 union all ",
            endpoint_select!("instance", "address", "node_endpoints"),
            " where cluster = $1 and rev > $2"
        );
        let endpoints = sqlx::query_as::<_, EndpointRow>(endpoints).bind(name.as_str()).bind(since.unwrap_or(0));
        // Read row by row: 100,000 raw rows beside 100,000 read ones would be twice the memory.
        let endpoints = endpoints.fetch(&self.pool).map_ok(EndpointRow::read).try_collect::<Vec<_>>();
        let endpoints = self.run(Query::MirrorEndpoints, endpoints).await?;
        Ok(Some(Rows {
            whole: since.is_none(),
            services: services.into_iter().map(ServiceRow::read).collect::<Result<_, _>>()?,
            endpoints: endpoints.into_iter().collect::<Result<_, _>>()?,
        }))
    }
}
