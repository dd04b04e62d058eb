//! The call `PolicySourceService.SyncPolicies`: between the session's own types and protobuf. Everything that comes is bounded here.

use prost_types::Timestamp;
use switchyard_proto::{
    agent::v1::{
        self as proto, PolicyClaim, SyncPoliciesRequest, SyncPoliciesResponse,
        policy_source_service_client::PolicySourceServiceClient,
    },
    api::v1::{self as api, ClusterLink, ConditionStatus},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{convert::UnreadableMessage, messages::Identity, transport::Call};
use crate::{
    policies::{
        messages::{Body, Incoming, Outgoing, Upsert},
        objects::Key,
        status::{CONDITION_TYPES, Claim, Cluster, Condition, Note, ResourceStatus, Rule, Targets},
    },
    text::truncated,
};

/// Characters of a condition's message: all violations of one spec; a condition in Kubernetes has at most 32768.
const MAX_MESSAGE: usize = 8192;
/// Characters of what is said of one cluster, and of a note.
const MAX_REMARK: usize = 1024;
/// Characters of a word, a name or an ARN.
const MAX_WORD: usize = 1024;
/// A rule has at most 5 clusters, and a policy that changes its clusters has some that leave.
const MAX_CLUSTERS: usize = 32;
/// Some for each cluster.
const MAX_NOTES: usize = 100;
/// What stands where the hub gave no reason: Kubernetes requires one.
const NO_REASON: &str = "Unknown";

/// The stream of policies.
#[derive(Debug)]
pub struct PolicyCall;

impl Call for PolicyCall {
    const STREAM: &'static str = "policies";
    const COMPLAINT: &'static str = "stream of policies";
    type Outgoing = SyncPoliciesRequest;
    type Wire = SyncPoliciesResponse;
    type Incoming = Incoming;

    async fn open(
        channel: Channel,
        messages: ReceiverStream<SyncPoliciesRequest>,
    ) -> Result<Streaming<SyncPoliciesResponse>, Status> {
        Ok(PolicySourceServiceClient::new(channel).sync_policies(messages).await?.into_inner())
    }

    fn read(wire: SyncPoliciesResponse) -> Result<Incoming, UnreadableMessage> {
        from_proto_message(wire)
    }
}

/// A message to the hub.
#[must_use]
pub fn to_proto_message(message: Outgoing, identity: &Identity) -> SyncPoliciesRequest {
    use proto::sync_policies_request::Message;
    let body = match message.body {
        Body::Hello { highest_epoch } => Message::Hello(proto::SourceHello {
            cluster: identity.cluster.clone(),
            agent_instance_id: identity.instance_id.clone(),
            agent_version: identity.version.clone(),
            highest_epoch_seen: highest_epoch,
        }),
        Body::ListBegin { list_id } => Message::ListBegin(proto::PolicyListBegin { list_id }),
        Body::Changes { upserts, deleted } => Message::Changes(proto::PolicyChanges {
            upserts: upserts.into_iter().map(to_proto_policy).collect(),
            deleted: deleted.into_iter().map(to_proto_deleted).collect(),
        }),
        Body::ListEnd { list_id, count } => {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            Message::ListEnd(proto::PolicyListEnd { list_id, count })
        }
        Body::Failing { message } => Message::Failing(proto::PolicySourceFailing { message }),
    };
    SyncPoliciesRequest { seq: message.seq, message: Some(body) }
}

fn to_proto_policy(upsert: Upsert) -> proto::SourcePolicy {
    proto::SourcePolicy {
        namespace: upsert.key.namespace,
        name: upsert.key.name,
        uid: upsert.uid,
        generation: upsert.generation,
        spec_json: upsert.spec.to_string(),
    }
}

fn to_proto_deleted((key, uid): (Key, String)) -> proto::DeletedPolicy {
    proto::DeletedPolicy { namespace: key.namespace, name: key.name, uid }
}

/// # Errors
/// When the message is none that this agent knows.
fn from_proto_message(message: SyncPoliciesResponse) -> Result<Incoming, UnreadableMessage> {
    use proto::sync_policies_response::Message;
    match message.message.ok_or(UnreadableMessage::UnknownKind)? {
        Message::Welcome(welcome) => Ok(Incoming::Welcome {
            epoch: welcome.epoch,
            is_source: welcome.is_source,
            message: truncated(&welcome.message, MAX_MESSAGE),
        }),
        Message::Ack(ack) => Ok(Incoming::Ack { seq: ack.seq }),
        Message::Status(status) => from_proto_status(status),
    }
}

fn from_proto_status(said: proto::SourcePolicyStatus) -> Result<Incoming, UnreadableMessage> {
    let claim = match said.claim() {
        PolicyClaim::Owner => Claim::Owner,
        PolicyClaim::Refused => Claim::Refused,
        PolicyClaim::Waiting => Claim::Waiting,
        PolicyClaim::Unspecified => return Err(UnreadableMessage::UnknownKind),
    };
    let policy = said.policy.unwrap_or_default();
    let in_force = (said.generation_in_force > 0).then_some(said.generation_in_force);
    let generations = Generations { observed: said.observed_generation, in_force };
    let status = Box::new(to_resource_status(said.status.unwrap_or_default(), claim, &generations));
    Ok(Incoming::Status { key: Key { namespace: policy.namespace, name: policy.name }, uid: said.uid, status })
}

/// What the conditions speak of.
struct Generations {
    observed: u64,
    in_force: Option<u64>,
}

fn to_resource_status(status: api::PolicyStatus, claim: Claim, generations: &Generations) -> ResourceStatus {
    let updated = status.updated_at.as_ref();
    let conditions =
        status.conditions.into_iter().filter(|condition| CONDITION_TYPES.contains(&condition.r#type.as_str()));
    let conditions = conditions.take(CONDITION_TYPES.len());
    ResourceStatus {
        observed_generation: Some(generations.observed),
        claim: Some(claim),
        generation_in_force: generations.in_force,
        weights: None,
        programmed: None,
        reason: None,
        conditions: conditions.map(|condition| to_condition(condition, updated, generations)).collect(),
        clusters: status.clusters.into_iter().take(MAX_CLUSTERS).map(to_cluster).collect(),
        rule: status.rule.map(to_rule).filter(|rule| *rule != Rule::default()),
        notes: status.notes.into_iter().take(MAX_NOTES).map(to_note).collect(),
    }
    .with_columns()
}

fn to_condition(condition: api::Condition, updated: Option<&Timestamp>, generations: &Generations) -> Condition {
    let status = match condition.status() {
        ConditionStatus::True => "True",
        ConditionStatus::False => "False",
        ConditionStatus::Unknown | ConditionStatus::Unspecified => "Unknown",
    };
    // All but Accepted speak of what is in force.
    let observed_generation = match condition.r#type.as_str() {
        "Accepted" => Some(generations.observed),
        _ => generations.in_force,
    };
    Condition {
        status: status.to_owned(),
        reason: if condition.reason.is_empty() { NO_REASON.to_owned() } else { truncated(&condition.reason, MAX_WORD) },
        message: truncated(&condition.message, MAX_MESSAGE),
        observed_generation,
        last_transition_time: time(condition.last_transition_time.as_ref().or(updated)),
        kind: condition.r#type,
    }
}

fn to_cluster(cluster: api::ClusterStatus) -> Cluster {
    let link = match cluster.link() {
        ClusterLink::Connected => "Connected",
        ClusterLink::Syncing => "Syncing",
        ClusterLink::Stale => "Stale",
        ClusterLink::Removed => "Removed",
        ClusterLink::Unknown => "Unknown",
        ClusterLink::Unspecified => "",
    };
    Cluster {
        link: link.to_owned(),
        name: truncated(&cluster.cluster, MAX_WORD),
        requested_weight: cluster.requested_weight,
        effective_weight: cluster.effective_weight,
        programmed_weight: cluster.programmed_weight,
        reason: truncated(&cluster.reason, MAX_WORD),
        message: truncated(&cluster.message, MAX_REMARK),
        target_group_arn: truncated(&cluster.target_group_arn, MAX_WORD),
        targets: cluster.targets.map(|targets| Targets {
            desired: targets.desired,
            registered: targets.registered,
            healthy: targets.healthy,
            unhealthy: targets.unhealthy,
            initial: targets.initial,
            draining: targets.draining,
            unused: targets.unused,
            held: targets.held,
        }),
    }
}

fn to_rule(rule: api::RuleStatus) -> Rule {
    Rule {
        listener_arn: truncated(&rule.listener_arn, MAX_WORD),
        rule_arn: truncated(&rule.rule_arn, MAX_WORD),
        priority: (rule.priority > 0).then_some(rule.priority),
        programmed_at: rule.programmed_at.as_ref().map(|at| time(Some(at))),
    }
}

fn to_note(note: api::PlanNote) -> Note {
    Note {
        cluster: truncated(&note.cluster, MAX_WORD),
        reason: truncated(&note.reason, MAX_WORD),
        message: truncated(&note.message, MAX_REMARK),
    }
}

/// RFC 3339 in whole seconds, as Kubernetes writes its times. A time that is missing or impossible is the beginning of time, which is
/// plainly wrong and always the same: the present moment would make every look at the status a change.
fn time(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::from_second(at.seconds).ok()).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "blue".to_owned(),
            region: "eu-central-1".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            instance_id: "4c8e0a52-8d0a-4c7e-9c8e-111111111111".to_owned(),
            version: "0.1.0".to_owned(),
        }
    }

    fn said(status: api::PolicyStatus, claim: PolicyClaim) -> SyncPoliciesResponse {
        let status = proto::SourcePolicyStatus {
            policy: Some(api::PolicyRef { namespace: "shop".to_owned(), name: "checkout".to_owned() }),
            uid: "u-1".to_owned(),
            observed_generation: 4,
            claim: claim.into(),
            status: Some(status),
            generation_in_force: 3,
        };
        SyncPoliciesResponse { message: Some(proto::sync_policies_response::Message::Status(status)) }
    }

    fn read(status: api::PolicyStatus, claim: PolicyClaim) -> ResourceStatus {
        match from_proto_message(said(status, claim)).expect("a status") {
            Incoming::Status { key, uid, status } => {
                assert_eq!((key.to_string().as_str(), uid.as_str()), ("shop/checkout", "u-1"));
                *status
            }
            other => panic!("not a status: {other:?}"),
        }
    }

    fn condition(kind: &str, status: ConditionStatus, seconds: i64) -> api::Condition {
        api::Condition {
            r#type: kind.to_owned(),
            status: status.into(),
            reason: "AsRequested".to_owned(),
            message: "m".to_owned(),
            observed_version: 9,
            last_transition_time: Some(Timestamp { seconds, nanos: 999_999_999 }),
        }
    }

    #[test]
    fn a_resource_goes_out_with_its_uid_generation_and_spec() {
        let key = Key { namespace: "shop".to_owned(), name: "checkout".to_owned() };
        let upsert = Upsert { key: key.clone(), uid: "u-1".to_owned(), generation: 2, spec: Arc::from("{}") };
        let body = Body::Changes { upserts: vec![upsert], deleted: vec![(key, "u-0".to_owned())] };
        let message = to_proto_message(Outgoing { seq: 7, body }, &identity());
        assert_eq!(message.seq, 7);
        let Some(proto::sync_policies_request::Message::Changes(changes)) = message.message else { panic!("changes") };
        assert_eq!(changes.upserts[0].spec_json, "{}");
        assert_eq!((changes.upserts[0].generation, changes.deleted[0].uid.as_str()), (2, "u-0"));
    }

    #[test]
    fn accepted_speaks_of_the_generation_seen_and_the_others_of_the_one_in_force() {
        let conditions = vec![
            condition("Accepted", ConditionStatus::False, 1_700_000_000),
            condition("Programmed", ConditionStatus::True, 1_700_000_001),
            condition("Strange", ConditionStatus::True, 0),
        ];
        let status = read(api::PolicyStatus { conditions, ..api::PolicyStatus::default() }, PolicyClaim::Owner);
        assert_eq!((status.observed_generation, status.generation_in_force), (Some(4), Some(3)));
        let shown: Vec<_> = status
            .conditions
            .iter()
            .map(|condition| (condition.kind.as_str(), condition.status.as_str(), condition.observed_generation))
            .collect();
        assert_eq!(shown, [("Accepted", "False", Some(4)), ("Programmed", "True", Some(3))]);
        assert_eq!(status.conditions[0].last_transition_time, "2023-11-14T22:13:20Z");
    }

    #[test]
    fn clusters_rule_and_notes_come_over_whole() {
        let cluster = api::ClusterStatus {
            cluster: "blue".to_owned(),
            requested_weight: 90,
            effective_weight: 100,
            programmed_weight: Some(0),
            targets: Some(api::TargetCounts { healthy: 2, ..api::TargetCounts::default() }),
            link: ClusterLink::Stale.into(),
            ..api::ClusterStatus::default()
        };
        let rule = api::RuleStatus { rule_arn: "arn:r".to_owned(), priority: 7, ..api::RuleStatus::default() };
        let note = api::PlanNote { reason: "Settling".to_owned(), message: "m".to_owned(), ..api::PlanNote::default() };
        let status = api::PolicyStatus {
            clusters: vec![cluster],
            rule: Some(rule),
            notes: vec![note],
            ..api::PolicyStatus::default()
        };
        let status = read(status, PolicyClaim::Owner);
        assert_eq!((status.weights.as_deref(), status.programmed.as_deref()), (Some("blue=90"), Some("blue=0")));
        assert_eq!(status.clusters[0].link, "Stale");
        assert_eq!(status.clusters[0].targets.expect("targets").healthy, 2);
        assert_eq!(status.rule.expect("a rule").priority, Some(7));
        assert_eq!(status.notes[0].reason, "Settling");
    }

    #[test]
    fn a_hub_that_says_too_much_is_cut_short() {
        let cluster = api::ClusterStatus { message: "x".repeat(100_000), ..api::ClusterStatus::default() };
        let status = api::PolicyStatus { clusters: vec![cluster; 1000], ..api::PolicyStatus::default() };
        let status = read(status, PolicyClaim::Waiting);
        assert_eq!(status.clusters.len(), MAX_CLUSTERS);
        assert_eq!(status.clusters[0].message.chars().count(), MAX_REMARK);
    }

    #[test]
    fn claims_and_messages_of_a_newer_hub_are_left_unread() {
        assert!(from_proto_message(SyncPoliciesResponse { message: None }).is_err());
        assert!(from_proto_message(said(api::PolicyStatus::default(), PolicyClaim::Unspecified)).is_err());
    }
}
