//! Control routes of the load generator.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, Control, ControlError, Shared};
use crate::load::report::WINDOW_LIMIT;
use crate::load::{Load, LoadReport, LoadSpec};

pub fn routes() -> Router<Arc<Control>> {
    Router::new()
        .route("/load", post(start))
        .route("/load/{id}", get(report).delete(finish))
        .route("/load/{id}/mark", post(mark))
}

async fn start(State(control): Shared, Body(spec): Body<LoadSpec>) -> Result<Json<Value>, ControlError> {
    let load = control.loads.start(spec)?;
    Ok(Json(json!({"id": load.report().id})))
}

fn find(control: &Control, id: u64) -> Result<Arc<Load>, ControlError> {
    control.loads.get(id).ok_or_else(|| unknown(control, id))
}

fn unknown(control: &Control, id: u64) -> ControlError {
    let known = control.loads.ids().iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    ControlError::Unknown { what: "load", name: id.to_string(), known }
}

async fn report(State(control): Shared, Path(id): Path<u64>) -> Result<Json<LoadReport>, ControlError> {
    Ok(Json(find(&control, id)?.report()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkRequest {
    #[serde(default)]
    name: Option<String>,
}

async fn mark(
    State(control): Shared,
    Path(id): Path<u64>,
    Body(request): Body<MarkRequest>,
) -> Result<Json<Value>, ControlError> {
    let load = find(&control, id)?;
    let name = load.mark(request.name).ok_or(ControlError::Field {
        field: "mark",
        value: format!("window {}", WINDOW_LIMIT + 1),
        remedy: "delete this load and start another",
    })?;
    Ok(Json(json!({"name": name})))
}

async fn finish(State(control): Shared, Path(id): Path<u64>) -> Result<Json<LoadReport>, ControlError> {
    let load = control.loads.remove(id).ok_or_else(|| unknown(&control, id))?;
    Ok(Json(load.finish().await))
}
