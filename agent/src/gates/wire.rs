//! The call `TargetHealthService.WatchTargetHealth`, and its messages in the gates' own types.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt;
use switchyard_proto::agent::v1::{
    self as proto, WatchTargetHealthRequest, WatchTargetHealthResponse,
    target_health_service_client::TargetHealthServiceClient, watch_target_health_response::Message as Wire,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{
    objects::{Health, Mode, PolicyHealth, PolicyKey, Target},
    stream::Message,
};
use crate::{
    link::{convert::UnreadableMessage, transport::Call},
    text::truncated,
};

/// Characters of a message for people in a pod's condition.
const MAX_MESSAGE: usize = 512;
/// Characters of names and codes, none of which is longer.
const MAX_NAME: usize = 253;

/// The stream of target health. The one message that is written is the request.
#[derive(Debug)]
pub struct HealthCall;

impl Call for HealthCall {
    const STREAM: &'static str = "target_health";
    const COMPLAINT: &'static str = "stream of target health";
    type Outgoing = WatchTargetHealthRequest;
    type Wire = WatchTargetHealthResponse;
    type Incoming = Message;

    async fn open(
        channel: Channel,
        mut messages: ReceiverStream<WatchTargetHealthRequest>,
    ) -> Result<Streaming<WatchTargetHealthResponse>, Status> {
        let request = messages.next().await.ok_or_else(|| Status::cancelled("nobody asks any more"))?;
        Ok(TargetHealthServiceClient::new(channel).watch_target_health(request).await?.into_inner())
    }

    fn read(wire: WatchTargetHealthResponse) -> Result<Message, UnreadableMessage> {
        Ok(match wire.message.ok_or(UnreadableMessage::UnknownKind)? {
            Wire::Welcome(welcome) => Message::Welcome {
                epoch: welcome.epoch,
                heartbeat: Duration::from_millis(u64::from(welcome.heartbeat_interval_ms)),
            },
            Wire::Policy(health) => {
                let more = health.more;
                Message::Policy { health: from_proto_health(health)?, more }
            }
            Wire::Synced(_) => Message::Synced,
            Wire::Heartbeat(_) => Message::Heartbeat,
        })
    }
}

fn from_proto_health(health: proto::PolicyHealth) -> Result<PolicyHealth, UnreadableMessage> {
    let mode = if health.gone { Mode::Gone } else { from_proto_mode(health.mode()) };
    let policy = health.policy.ok_or(UnreadableMessage::UnknownKind)?;
    let mut targets: HashMap<String, Target> = HashMap::with_capacity(health.targets.len());
    for target in health.targets {
        let verdict = from_proto_verdict(target.health());
        let read = Target { health: verdict, code: truncated(&target.reason, MAX_NAME) };
        // A pod with several targets is as well as the worst of them.
        let known = targets.entry(truncated(&target.pod_uid, MAX_NAME)).or_insert_with(|| read.clone());
        if read.health > known.health {
            *known = read;
        }
    }
    Ok(PolicyHealth {
        policy: PolicyKey {
            namespace: truncated(&policy.namespace, MAX_NAME),
            name: truncated(&policy.name, MAX_NAME),
        },
        service: truncated(&health.service.map(|service| service.name).unwrap_or_default(), MAX_NAME),
        mode,
        reason: health.reason,
        message: truncated(&health.message, MAX_MESSAGE),
        targets,
    })
}

/// A mode that this agent does not know judges nothing it could understand.
fn from_proto_mode(mode: proto::GateMode) -> Mode {
    match mode {
        proto::GateMode::Judged => Mode::Judged,
        proto::GateMode::Suspended | proto::GateMode::Unspecified => Mode::Suspended,
        proto::GateMode::Released => Mode::Released,
    }
}

fn from_proto_verdict(health: proto::TargetHealth) -> Health {
    match health {
        proto::TargetHealth::Unspecified => Health::Unknown,
        proto::TargetHealth::Unregistered => Health::Unregistered,
        proto::TargetHealth::Initial => Health::Initial,
        proto::TargetHealth::Healthy => Health::Healthy,
        proto::TargetHealth::Unhealthy => Health::Unhealthy,
        proto::TargetHealth::Unused => Health::Unused,
        proto::TargetHealth::Draining => Health::Draining,
    }
}

#[cfg(test)]
mod tests {
    use switchyard_proto::api::v1::PolicyRef;

    use super::*;

    fn target(uid: &str, health: proto::TargetHealth) -> proto::GatedTarget {
        proto::GatedTarget { pod_uid: uid.to_owned(), health: health.into(), ..proto::GatedTarget::default() }
    }

    fn read(health: proto::PolicyHealth) -> PolicyHealth {
        match HealthCall::read(WatchTargetHealthResponse { message: Some(Wire::Policy(health)) }) {
            Ok(Message::Policy { health, .. }) => health,
            other => panic!("not a policy: {other:?}"),
        }
    }

    #[test]
    fn the_worst_of_several_targets_of_a_pod_counts() {
        let health = read(proto::PolicyHealth {
            policy: Some(PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() }),
            mode: proto::GateMode::Judged.into(),
            targets: vec![
                target("a", proto::TargetHealth::Healthy),
                target("a", proto::TargetHealth::Initial),
                target("b", proto::TargetHealth::Draining),
                target("b", proto::TargetHealth::Healthy),
            ],
            ..proto::PolicyHealth::default()
        });
        assert_eq!(health.mode, Mode::Judged);
        assert_eq!(health.targets["a"].health, Health::Initial);
        assert_eq!(health.targets["b"].health, Health::Draining);
    }

    #[test]
    fn a_mode_of_a_newer_hub_counts_as_not_judged_and_gone_is_gone_in_any_mode() {
        let policy = Some(PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() });
        let unknown = read(proto::PolicyHealth { policy: policy.clone(), mode: 99, ..proto::PolicyHealth::default() });
        assert_eq!(unknown.mode, Mode::Suspended);
        let gone = read(proto::PolicyHealth { policy, gone: true, mode: 1, ..proto::PolicyHealth::default() });
        assert_eq!(gone.mode, Mode::Gone);
    }

    #[test]
    fn a_message_without_a_policy_or_of_an_unknown_kind_is_left_unread() {
        let empty = proto::PolicyHealth::default();
        let wire = WatchTargetHealthResponse { message: Some(Wire::Policy(empty)) };
        assert_eq!(HealthCall::read(wire), Err(UnreadableMessage::UnknownKind));
        assert_eq!(HealthCall::read(WatchTargetHealthResponse { message: None }), Err(UnreadableMessage::UnknownKind));
    }
}
