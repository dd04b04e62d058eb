//! Between the session's own types and protobuf. Free functions, and the only place that knows the generated types' fields.

use std::time::Duration;

use prost_types::Timestamp;
use switchyard_proto::agent::v1 as proto;
use thiserror::Error;

use super::messages::{Body, Identity, Incoming, Outgoing};
use crate::{
    index::objects::{
        Batch, EndpointView, Health, PodObject, ServiceCondition, ServiceRef, ServiceStatus, SourceStatus, TargetKind,
        TombstoneReason, TombstoneView,
    },
    text::truncated,
};

/// The contract's bound on messages for people, in characters.
const MAX_MESSAGE: usize = 1024;

/// What this agent can do beside the first version of the protocol; see the .proto file.
const FEATURES: [&str; 1] = ["instance-targets"];

/// A message of the hub that is not what the contract promises.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnreadableMessage {
    /// Empty, or of a kind that this version of the agent does not know.
    #[error("a message of an unknown kind; the hub may be newer than this agent")]
    UnknownKind,
}

/// `now` is the wall clock, which only heartbeats carry.
pub fn to_proto_message(message: &Outgoing, identity: &Identity, now: jiff::Timestamp) -> proto::AgentMessage {
    use proto::agent_message::Message;
    let body = match &message.body {
        Body::Hello { highest_epoch, last_acked_seq, watch_set_version } => Message::Hello(proto::Hello {
            cluster: identity.cluster.clone(),
            region: identity.region.clone(),
            vpc_id: identity.vpc_id.clone(),
            agent_instance_id: identity.instance_id.clone(),
            agent_version: identity.version.clone(),
            highest_epoch_seen: *highest_epoch,
            last_acked_seq: *last_acked_seq,
            watch_set_version: *watch_set_version,
            features: FEATURES.map(str::to_owned).into(),
        }),
        Body::SnapshotBegin { snapshot_id, watch_set_version } => Message::SnapshotBegin(proto::SnapshotBegin {
            snapshot_id: snapshot_id.clone(),
            watch_set_version: *watch_set_version,
        }),
        Body::Changes(batch) => Message::Changes(to_proto_changes(batch)),
        Body::SnapshotEnd { snapshot_id, services, endpoints } => Message::SnapshotEnd(proto::SnapshotEnd {
            snapshot_id: snapshot_id.clone(),
            service_count: count(*services),
            endpoint_count: count(*endpoints),
        }),
        Body::Live { watch_set_version } => Message::Live(proto::Live { watch_set_version: *watch_set_version }),
        Body::Heartbeat => Message::Heartbeat(proto::Heartbeat { sent_at: Some(to_proto_timestamp(now)) }),
        Body::SourceStates(states) => {
            let sources = states.iter().map(to_proto_source).collect();
            Message::SourceStates(proto::SourceStates { sources })
        }
    };
    proto::AgentMessage { seq: message.seq, message: Some(body) }
}

/// A message of the hub in the session's own terms.
pub fn from_proto_message(message: proto::HubMessage) -> Result<Incoming, UnreadableMessage> {
    use proto::hub_message::Message;
    Ok(match message.message.ok_or(UnreadableMessage::UnknownKind)? {
        Message::Welcome(welcome) => Incoming::Welcome {
            epoch: welcome.epoch,
            session_id: truncated(&welcome.session_id, MAX_MESSAGE),
            heartbeat: Duration::from_millis(u64::from(welcome.heartbeat_interval_ms)),
            resume_after: welcome.resume.then_some(welcome.resume_after_seq),
        },
        Message::WatchSet(set) => Incoming::WatchSet {
            version: set.version,
            services: set.services.into_iter().map(from_proto_reference).collect(),
        },
        Message::Ack(ack) => Incoming::Ack { seq: ack.seq },
        Message::Resync(resync) => Incoming::Resync { reason: truncated(&resync.reason, MAX_MESSAGE) },
        Message::Heartbeat(_) => Incoming::Heartbeat,
    })
}

fn from_proto_reference(reference: proto::ServiceRef) -> ServiceRef {
    // A hub names kinds that an agent of this version announced, and no others.
    let targets = match proto::TargetType::try_from(reference.target_type) {
        Ok(proto::TargetType::Instance) => TargetKind::Nodes,
        Ok(proto::TargetType::Unspecified) | Err(_) => TargetKind::Pods,
    };
    ServiceRef { namespace: reference.namespace, name: reference.name, port: reference.port, targets }
}

fn to_proto_reference(reference: &ServiceRef) -> proto::ServiceRef {
    proto::ServiceRef {
        namespace: reference.namespace.clone(),
        name: reference.name.clone(),
        port: reference.port.clone(),
        target_type: match reference.targets {
            TargetKind::Pods => proto::TargetType::Unspecified,
            TargetKind::Nodes => proto::TargetType::Instance,
        }
        .into(),
    }
}

fn to_proto_changes(batch: &Batch) -> proto::Changes {
    proto::Changes {
        services: batch.services.iter().map(|(reference, status)| to_proto_service(reference, status)).collect(),
        upserts: batch.upserts.iter().map(|view| to_proto_endpoint(view)).collect(),
        tombstones: batch.tombstones.iter().map(to_proto_tombstone).collect(),
    }
}

fn to_proto_service(reference: &ServiceRef, status: &ServiceStatus) -> proto::ServiceState {
    let condition = match status.condition {
        ServiceCondition::Resolved => proto::ServiceCondition::Resolved,
        ServiceCondition::NotFound => proto::ServiceCondition::NotFound,
        ServiceCondition::PortNotFound => proto::ServiceCondition::PortNotFound,
        ServiceCondition::NoSelectedPods => proto::ServiceCondition::NoSelectedPods,
        ServiceCondition::NoNodePort => proto::ServiceCondition::NoNodePort,
    };
    proto::ServiceState {
        service: Some(to_proto_reference(reference)),
        condition: condition.into(),
        message: truncated(&status.message, MAX_MESSAGE),
        node_port: status.node_port,
        health_check_node_port: status.health_check_node_port,
    }
}

fn to_proto_endpoint(view: &EndpointView) -> proto::Endpoint {
    let mut pod = view
        .pod
        .as_deref()
        .map(to_proto_pod)
        .unwrap_or_else(|| proto::PodInfo { ips: vec![view.address.to_string()], ..proto::PodInfo::default() });
    if view.service.targets == TargetKind::Pods {
        pod.namespace.clone_from(&view.service.namespace);
    }
    pod.node.clone_from(&view.node);
    pod.zone.clone_from(&view.zone);
    proto::Endpoint {
        service: Some(to_proto_reference(&view.service)),
        address: view.address.to_string(),
        port: u32::from(view.port),
        ready: view.ready,
        serving: view.serving,
        terminating: view.terminating,
        pod: Some(pod),
    }
}

fn to_proto_pod(pod: &PodObject) -> proto::PodInfo {
    let eni = |eni: &crate::index::objects::Eni| proto::EniInfo {
        eni_id: eni.eni_id.clone(),
        private_ip: eni.private_ip.clone(),
        if_address: eni.if_address.clone(),
        vlan_id: eni.vlan_id,
        subnet_cidr: eni.subnet_cidr.clone(),
    };
    let port = |port: &crate::index::objects::ContainerPort| proto::ContainerPort {
        name: port.name.clone(),
        port: u32::from(port.port),
        protocol: port.protocol.clone(),
    };
    let condition =
        |(kind, status): &(String, String)| proto::PodCondition { r#type: kind.clone(), status: status.clone() };
    proto::PodInfo {
        namespace: String::new(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        ips: pod.ips.clone(),
        enis: pod.enis.iter().map(eni).collect(),
        container_ports: pod.container_ports.iter().map(port).collect(),
        readiness_gates: pod.readiness_gates.clone(),
        conditions: pod.conditions.iter().map(condition).collect(),
        node: String::new(),
        zone: String::new(),
        deletion_timestamp: pod.deletion_timestamp.map(to_proto_timestamp),
    }
}

fn to_proto_tombstone(gone: &TombstoneView) -> proto::Tombstone {
    let reason = match gone.reason {
        TombstoneReason::PodDeleted => proto::TombstoneReason::PodDeleted,
        TombstoneReason::NotSelected => proto::TombstoneReason::NotSelected,
        TombstoneReason::ServiceDeleted => proto::TombstoneReason::ServiceDeleted,
        TombstoneReason::PortChanged => proto::TombstoneReason::PortChanged,
        TombstoneReason::AbsentFromList => proto::TombstoneReason::AbsentFromList,
    };
    proto::Tombstone {
        service: Some(to_proto_reference(&gone.service)),
        address: gone.address.to_string(),
        port: u32::from(gone.port),
        pod_uid: gone.pod_uid.clone(),
        reason: reason.into(),
    }
}

fn to_proto_source(status: &SourceStatus) -> proto::SourceState {
    let (health, message) = match &status.health {
        Health::Syncing => (proto::SourceHealth::Syncing, String::new()),
        Health::Synced => (proto::SourceHealth::Synced, String::new()),
        Health::Failing(message) => (proto::SourceHealth::Failing, truncated(message, MAX_MESSAGE)),
    };
    proto::SourceState {
        namespace: status.source.namespace.clone(),
        kind: status.source.kind.as_str().to_owned(),
        health: health.into(),
        message,
    }
}

fn to_proto_timestamp(at: jiff::Timestamp) -> Timestamp {
    let whole = Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() };
    // Before 1970 jiff counts both parts down; protobuf wants the fraction counted up.
    if whole.nanos < 0 { Timestamp { seconds: whole.seconds - 1, nanos: whole.nanos + 1_000_000_000 } } else { whole }
}

fn count(items: usize) -> u32 {
    u32::try_from(items).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::fixtures::{Feed, deleting, one_pod_reported, pod, ready, reference, service, slice};

    fn identity() -> Identity {
        let text = |text: &str| text.to_owned();
        Identity {
            cluster: text("blue"),
            region: text("eu-central-1"),
            vpc_id: text("vpc-1"),
            instance_id: text("i"),
            version: text("0"),
        }
    }

    fn body_of(body: Body) -> proto::agent_message::Message {
        let message = to_proto_message(&Outgoing { seq: 7, body }, &identity(), jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(message.seq, 7);
        message.message.expect("a body")
    }

    #[test]
    fn an_endpoint_carries_its_pod_with_namespace_and_deletion_timestamp() {
        let mut feed = one_pod_reported();
        feed.apply(deleting(pod("web-0", "web-0/1", "10.0.0.1")));
        let proto::agent_message::Message::Changes(changes) = body_of(Body::Changes(feed.changes().into())) else {
            panic!("not changes")
        };
        let endpoint = &changes.upserts[0];
        assert_eq!((endpoint.address.as_str(), endpoint.port), ("10.0.0.1", 8080));
        assert!(endpoint.terminating && !endpoint.ready);
        let pod = endpoint.pod.as_ref().expect("a pod");
        assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("shop", "web-0", "web-0/1"));
        assert_eq!(pod.deletion_timestamp, Some(Timestamp { seconds: 0, nanos: 0 }));
    }

    #[test]
    fn an_endpoint_without_a_pod_carries_its_address_and_no_uid() {
        let mut feed = Feed::watching(&[reference("checkout", "http")]);
        feed.apply(service("checkout", &[("http", 80)]));
        let by_hand = crate::index::objects::SliceEndpoint { pod: None, ..ready("10.9.0.1", "", "") };
        feed.apply(slice("s", "checkout", &[("http", 8080)], vec![by_hand]));
        let endpoint = to_proto_endpoint(&feed.endpoints()[0]);
        let pod = endpoint.pod.expect("a pod");
        assert_eq!((pod.uid.as_str(), pod.ips), ("", vec!["10.9.0.1".to_owned()]));
    }

    #[test]
    fn a_tombstone_carries_the_uid_and_the_reason() {
        let mut feed = one_pod_reported();
        feed.delete(pod("web-0", "web-0/1", "10.0.0.1"));
        let gone = to_proto_tombstone(&feed.changes().tombstones[0]);
        assert_eq!((gone.pod_uid.as_str(), gone.reason()), ("web-0/1", proto::TombstoneReason::PodDeleted));
        assert_eq!(gone.service.expect("a service").port, "http");
    }

    #[test]
    fn a_welcome_resumes_only_when_it_says_so() {
        let welcome = |resume| proto::HubMessage {
            message: Some(proto::hub_message::Message::Welcome(proto::Welcome {
                epoch: 3,
                session_id: "s".to_owned(),
                heartbeat_interval_ms: 500,
                resume,
                resume_after_seq: 9,
            })),
        };
        let after = |message| match from_proto_message(message) {
            Ok(Incoming::Welcome { resume_after, heartbeat, .. }) => (resume_after, heartbeat),
            other => panic!("not a welcome: {other:?}"),
        };
        assert_eq!(after(welcome(true)), (Some(9), Duration::from_millis(500)));
        assert_eq!(after(welcome(false)).0, None);
    }

    #[test]
    fn a_message_of_an_unknown_kind_is_an_error() {
        assert_eq!(from_proto_message(proto::HubMessage { message: None }), Err(UnreadableMessage::UnknownKind));
    }

    #[test]
    fn times_before_1970_keep_their_fraction_positive() {
        let at = jiff::Timestamp::new(-1, -250_000_000).expect("a timestamp");
        assert_eq!(to_proto_timestamp(at), Timestamp { seconds: -2, nanos: 750_000_000 });
    }
}
