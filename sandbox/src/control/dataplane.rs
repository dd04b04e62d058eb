//! Control routes for what a load balancer reaches of a cluster: all of it, some nodes, whole zones; dead, silent, flapping; and
//! for machines that die. Kubernetes notices nothing of the former, and the latter late.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, Control, ControlError, Shared};
use crate::cluster::Cluster;
use crate::workload::reach::{Flap, Reach};

type Answer = Result<Json<Value>, ControlError>;

/// Longest part of a flap and longest time until a lost node is noticed: an hour.
const LONGEST_MS: u64 = 3_600_000;

pub fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/clusters/{cluster}/dataplane", post(set).get(show))
        .route("/clusters/{cluster}/nodes/{node}/lose", post(lose))
        .route("/clusters/{cluster}/nodes/{node}/return", post(give_back))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    state: Reach,
    /// These nodes only.
    #[serde(default)]
    nodes: Option<BTreeSet<String>>,
    /// The nodes of these zones only.
    #[serde(default)]
    zones: Option<BTreeSet<String>>,
    #[serde(default)]
    flap: Option<FlapRequest>,
}

/// Between the state and `alive`, beginning with the state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlapRequest {
    down_ms: u64,
    up_ms: u64,
}

fn milliseconds(field: &'static str, value: u64, least: u64) -> Result<Duration, ControlError> {
    if (least..=LONGEST_MS).contains(&value) {
        return Ok(Duration::from_millis(value));
    }
    let remedy = "use milliseconds up to 3600000, and at least 10 for the parts of a flap";
    Err(ControlError::Field { field, value: value.to_string(), remedy })
}

impl FlapRequest {
    fn flap(&self) -> Result<Flap, ControlError> {
        let (down, up) = (milliseconds("flap.down_ms", self.down_ms, 10)?, milliseconds("flap.up_ms", self.up_ms, 10)?);
        Ok(Flap { down, up })
    }
}

fn known_node(cluster: &Cluster, name: &str) -> Result<(), ControlError> {
    let nodes = cluster.zones();
    if nodes.contains_key(name) {
        return Ok(());
    }
    let known = nodes.into_keys().collect::<Vec<_>>().join(", ");
    Err(ControlError::Unknown { what: "node", name: name.to_owned(), known })
}

/// The nodes that are meant; none: the whole cluster.
fn meant(cluster: &Cluster, change: &Change) -> Result<Option<BTreeSet<String>>, ControlError> {
    if change.nodes.is_none() && change.zones.is_none() {
        return Ok(None);
    }
    let mut nodes = change.nodes.clone().unwrap_or_default();
    for name in &nodes {
        known_node(cluster, name)?;
    }
    let zones = cluster.zones();
    for wanted in change.zones.iter().flatten() {
        if !zones.values().any(|zone| zone == wanted) {
            let known = zones.values().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ");
            return Err(ControlError::Unknown { what: "zone", name: wanted.clone(), known });
        }
        nodes.extend(zones.iter().filter(|(_, zone)| *zone == wanted).map(|(node, _)| node.clone()));
    }
    Ok(Some(nodes))
}

async fn set(State(control): Shared, Path(name): Path<String>, Body(change): Body<Change>) -> Answer {
    let cluster = control.cluster(&name)?;
    let flap = change.flap.as_ref().map(FlapRequest::flap).transpose()?;
    let nodes = meant(cluster, &change)?;
    cluster.reaches.set(nodes, change.state, flap);
    tracing::info!(cluster = %name, change = ?change, "the data plane of a cluster was told to change");
    Ok(Json(json!(cluster.reaches.now())))
}

async fn show(State(control): Shared, Path(cluster): Path<String>) -> Answer {
    Ok(Json(json!(control.cluster(&cluster)?.reaches.now())))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lose {
    /// Until the cluster's control plane gives the node up. Kubernetes waits 40 s (`node-monitor-grace-period`).
    #[serde(default = "forty_seconds")]
    noticed_after_ms: u64,
}

fn forty_seconds() -> u64 {
    40_000
}

async fn lose(
    State(control): Shared,
    Path((cluster, node)): Path<(String, String)>,
    Body(request): Body<Lose>,
) -> Answer {
    let cluster = control.cluster(&cluster)?;
    known_node(cluster, &node)?;
    cluster.lose_node(&node, milliseconds("noticed_after_ms", request.noticed_after_ms, 0)?);
    Ok(Json(json!(cluster.reaches.now())))
}

async fn give_back(State(control): Shared, Path((cluster, node)): Path<(String, String)>) -> Answer {
    let cluster = control.cluster(&cluster)?;
    known_node(cluster, &node)?;
    cluster.return_node(&node).await;
    Ok(Json(json!(cluster.reaches.now())))
}
