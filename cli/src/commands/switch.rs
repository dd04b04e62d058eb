//! `switch`: gating switches, which stop every shift of a group of policies.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;

use super::{Context, request_id};
use crate::{
    args::{Switch, SwitchChange},
    error::{Exit, Failure, Kind},
    hub::Hub,
    model::GatingSwitch,
    render,
};

pub async fn run(context: &Context, what: Switch) -> Result<(), Failure> {
    match what {
        Switch::List => list(context).await,
        Switch::Off { name, change, reason } => set(context, name, false, change, reason).await,
        Switch::On { name, change, reason } => set(context, name, true, change, reason).await,
        Switch::Delete { name, reason, expected_version, request_id: id } => {
            delete(
                context,
                pb::DeleteGatingSwitchRequest { request_id: request_id(id), name, reason, expected_version },
            )
            .await
        }
    }
}

async fn list(context: &Context) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let send = async |channel, request| Hub::safety(channel).list_gating_switches(request).await;
    let message = pb::ListGatingSwitchesRequest {};
    let answer = hub.call("cannot list the gating switches", Kind::Read, message, send).await?;
    #[derive(Serialize)]
    struct Switches {
        switches: Vec<GatingSwitch>,
    }
    let list = Switches { switches: answer.switches.into_iter().map(GatingSwitch::from).collect() };
    context.output.show(&list, |paint, now| render::switches(&list.switches, paint, now))
}

async fn set(context: &Context, name: String, on: bool, change: SwitchChange, reason: String) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let what = format!("cannot turn gating switch {name} {}", if on { "on" } else { "off" });
    let request_id = request_id(change.request_id);
    let message = pb::SetGatingSwitchRequest {
        request_id: request_id.clone(),
        name,
        policies: change.policies,
        on,
        reason,
        expected_version: change.expected_version,
    };
    let send = async |channel, request| Hub::safety(channel).set_gating_switch(request).await;
    let answer = hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await?;
    let switch = answer.switch.map(GatingSwitch::from).ok_or_else(|| {
        Failure::new(Exit::Internal, what, "the hub answered without a switch", "look into the hub's log")
    })?;
    #[derive(Serialize)]
    struct Set {
        request_id: String,
        switch: GatingSwitch,
    }
    let set = Set { request_id, switch };
    context.output.show(&set, |_, _| render::switch_line(&set.switch))
}

async fn delete(context: &Context, message: pb::DeleteGatingSwitchRequest) -> Result<(), Failure> {
    let hub = context.hub(false)?;
    let (name, request_id) = (message.name.clone(), message.request_id.clone());
    let what = format!("cannot delete gating switch {name}");
    let send = async |channel, request| Hub::safety(channel).delete_gating_switch(request).await;
    hub.call(&what, Kind::Write { request_id: &request_id }, message, send).await?;
    #[derive(Serialize)]
    struct Deleted {
        request_id: String,
        name: String,
    }
    let deleted = Deleted { request_id, name };
    context.output.show(&deleted, |_, _| format!("gating switch {} was deleted\n", crate::text::plain(&deleted.name)))
}
