//! The call `ShiftSourceService.SyncShifts`: between the session's own types and protobuf. Everything that comes is bounded here.

use prost_types::Timestamp;
use switchyard_proto::agent::v1::{
    self as proto, SyncShiftsRequest, SyncShiftsResponse, shift_source_service_client::ShiftSourceServiceClient,
    sync_shifts_request::Message as Saying, sync_shifts_response::Message as Heard,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{convert::UnreadableMessage, messages::Identity, transport::Call};
use crate::{
    policies::objects::Key,
    shifts::{
        session::{Incoming, Outgoing},
        status::ShiftStatus,
    },
    text::truncated,
};

/// Characters of a message; a condition in Kubernetes has at most 32768.
const MAX_MESSAGE: usize = 8192;
/// Characters of a word.
const MAX_WORD: usize = 256;
/// Characters of the weights: 20 policies of 5 clusters with names of usual length.
const MAX_WEIGHTS: usize = 4096;
/// What stands where the hub gave no reason: Kubernetes requires one.
const NO_REASON: &str = "Unknown";

/// The stream of shifts.
#[derive(Debug)]
pub struct ShiftCall;

impl Call for ShiftCall {
    const STREAM: &'static str = "shifts";
    const COMPLAINT: &'static str = "stream of shifts";
    type Outgoing = SyncShiftsRequest;
    type Wire = SyncShiftsResponse;
    type Incoming = Incoming;

    async fn open(
        channel: Channel,
        messages: ReceiverStream<SyncShiftsRequest>,
    ) -> Result<Streaming<SyncShiftsResponse>, Status> {
        Ok(ShiftSourceServiceClient::new(channel).sync_shifts(messages).await?.into_inner())
    }

    fn read(wire: SyncShiftsResponse) -> Result<Incoming, UnreadableMessage> {
        match wire.message.ok_or(UnreadableMessage::UnknownKind)? {
            Heard::Welcome(welcome) => Ok(Incoming::Welcome {
                epoch: welcome.epoch,
                is_source: welcome.is_source,
                message: truncated(&welcome.message, MAX_MESSAGE),
            }),
            Heard::Status(status) => Ok(from_proto_status(status)),
        }
    }
}

/// As it goes over the wire.
#[must_use]
pub fn to_proto_message(message: Outgoing, identity: &Identity) -> SyncShiftsRequest {
    let message = match message {
        Outgoing::Hello { highest_epoch } => Saying::Hello(proto::ShiftSourceHello {
            cluster: identity.cluster.clone(),
            agent_instance_id: identity.instance_id.clone(),
            agent_version: identity.version.clone(),
            highest_epoch_seen: highest_epoch,
        }),
        Outgoing::Resource { key, uid, generation, spec } => Saying::Resource(proto::TrafficShiftResource {
            namespace: key.namespace,
            name: key.name,
            uid,
            generation,
            spec_json: spec.to_string(),
        }),
    };
    SyncShiftsRequest { message: Some(message) }
}

fn from_proto_status(said: proto::TrafficShiftStatus) -> Incoming {
    let text = |text: &str, most: usize| (!text.is_empty()).then(|| truncated(text, most));
    let reason = text(&said.reason, MAX_WORD).unwrap_or_else(|| NO_REASON.to_owned());
    let status = ShiftStatus {
        observed_generation: Some(said.observed_generation),
        shift_id: text(&said.shift_id, MAX_WORD),
        state: text(&said.state, MAX_WORD),
        reason: Some(reason),
        message: text(&said.message, MAX_MESSAGE),
        step: Some(said.step),
        steps: Some(said.steps),
        programmed: Some(said.programmed),
        converged: Some(said.converged),
        ended: Some(said.ended),
        since: said.since.as_ref().and_then(in_kubernetes),
        weights: text(&said.weights, MAX_WEIGHTS),
        paused: Some(said.paused),
        conditions: Vec::new(),
    };
    let status = Box::new(status.with_conditions());
    Incoming::Status { key: Key { namespace: said.namespace, name: said.name }, uid: said.uid, status }
}

/// RFC 3339 in UTC, whole seconds.
fn in_kubernetes(at: &Timestamp) -> Option<String> {
    Some(jiff::Timestamp::from_second(at.seconds).ok()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_says_too_much_is_cut_short_and_one_that_says_little_leaves_gaps() {
        let said = proto::TrafficShiftStatus {
            message: "x".repeat(100_000),
            weights: "y".repeat(100_000),
            since: Some(Timestamp { seconds: 0, nanos: 5 }),
            ..proto::TrafficShiftStatus::default()
        };
        let Incoming::Status { status, .. } = from_proto_status(said) else { panic!("not a status") };
        assert_eq!(status.message.as_ref().map(|text| text.chars().count()), Some(MAX_MESSAGE));
        assert_eq!(status.weights.as_ref().map(|text| text.chars().count()), Some(MAX_WEIGHTS));
        assert_eq!((status.state, status.shift_id), (None, None));
        assert_eq!(status.since.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert!(status.conditions.iter().all(|condition| condition.reason == NO_REASON && condition.status == "False"));
    }

    #[test]
    fn messages_of_a_newer_hub_are_left_unread() {
        assert!(ShiftCall::read(SyncShiftsResponse { message: None }).is_err());
    }
}
