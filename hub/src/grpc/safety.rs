//! SafetyService: gating switches, which stop every shift of a group of policies. Writes to the store, reads the picture.
//! Tests: `hub/tests/grpc_safety.rs`.

use switchyard_core::{
    access::{Role, Touch},
    ids::SwitchName,
};
use switchyard_proto::api::v1::{self as proto, safety_service_server::SafetyService};
use tonic::{Request, Response, Status};

use super::{Reading, caller::caller, convert::to_proto_time, errors::ApiError};
use crate::store::{Caller, Store, StoredSwitch};

/// The service.
pub struct Safety {
    store: Store,
    reading: Reading,
}

impl Safety {
    /// A service over this store.
    pub fn new(store: Store, reading: Reading) -> Self {
        Self { store, reading }
    }

    fn list(&self) -> Result<proto::ListGatingSwitchesResponse, ApiError> {
        let picture = self.reading.picture()?;
        let mut switches: Vec<&StoredSwitch> = picture.switches.iter().collect();
        switches.sort_by(|a, b| a.switch.name.cmp(&b.switch.name));
        Ok(proto::ListGatingSwitchesResponse { switches: switches.into_iter().map(to_proto_switch).collect() })
    }

    async fn set(
        &self,
        caller: Caller,
        request: proto::SetGatingSwitchRequest,
    ) -> Result<proto::SetGatingSwitchResponse, ApiError> {
        let name = switch_name(&request.name)?;
        // A switch stops shifts of whichever policies its patterns take.
        caller.may(Role::Operator, &Touch::Hub, format_args!("set gating switch {name}"))?;
        let policies = Some(request.policies.as_slice()).filter(|policies| !policies.is_empty());
        let stored = self.store.switch_set(&caller, &name, policies, request.on, request.expected_version).await?;
        tracing::info!(switch = %name, on = request.on, version = stored.version, actor = caller.actor, "a gating switch was set");
        self.reading.feed.refreshed().await;
        Ok(proto::SetGatingSwitchResponse { switch: Some(to_proto_switch(&stored)) })
    }

    async fn delete(
        &self,
        caller: Caller,
        request: proto::DeleteGatingSwitchRequest,
    ) -> Result<proto::DeleteGatingSwitchResponse, ApiError> {
        let name = switch_name(&request.name)?;
        caller.may(Role::Operator, &Touch::Hub, format_args!("delete gating switch {name}"))?;
        self.store.switch_delete(&caller, &name, request.expected_version).await?;
        tracing::info!(switch = %name, actor = caller.actor, "a gating switch was deleted");
        self.reading.feed.refreshed().await;
        Ok(proto::DeleteGatingSwitchResponse {})
    }
}

fn switch_name(name: &str) -> Result<SwitchName, ApiError> {
    name.parse().map_err(|error| ApiError::field("name", error))
}

fn to_proto_switch(stored: &StoredSwitch) -> proto::GatingSwitch {
    let switch = &stored.switch;
    proto::GatingSwitch {
        name: switch.name.to_string(),
        policies: switch.policies.clone(),
        on: switch.on,
        reason: switch.reason.clone(),
        actor: stored.actor.clone(),
        changed_at: Some(to_proto_time(stored.changed_at)),
        version: stored.version,
    }
}

#[tonic::async_trait]
impl SafetyService for Safety {
    async fn list_gating_switches(
        &self,
        _request: Request<proto::ListGatingSwitchesRequest>,
    ) -> Result<Response<proto::ListGatingSwitchesResponse>, Status> {
        self.reading.answer("ListGatingSwitches", self.list())
    }

    async fn set_gating_switch(
        &self,
        request: Request<proto::SetGatingSwitchRequest>,
    ) -> Result<Response<proto::SetGatingSwitchResponse>, Status> {
        let caller = caller(&request, &request.get_ref().request_id, false, &request.get_ref().reason);
        let result = self.set(caller, request.into_inner()).await;
        self.reading.answer("SetGatingSwitch", result)
    }

    async fn delete_gating_switch(
        &self,
        request: Request<proto::DeleteGatingSwitchRequest>,
    ) -> Result<Response<proto::DeleteGatingSwitchResponse>, Status> {
        let caller = caller(&request, &request.get_ref().request_id, false, &request.get_ref().reason);
        let result = self.delete(caller, request.into_inner()).await;
        self.reading.answer("DeleteGatingSwitch", result)
    }
}
