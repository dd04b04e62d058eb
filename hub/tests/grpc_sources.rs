//! The stream of a cluster's policies, by hand over real gRPC: who is taken, what is refused, what each resource is told.

mod grpc_support;
mod store_support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use grpc_support::{
    Agent, EPOCH, FLOOD, Hub, LARGE, PATIENCE, Setup, eventually, hub, hub_on, hub_set_up, is_paced, manifest,
    policy_ref, weights,
};
use store_support::{database_url, fence, key};
use switchyard_core::{
    ids::{Epoch, Weight},
    policy::PolicyMemory,
    status::{ClusterStatus, ConditionType, PolicyStatus, Reason, StatusCondition, TargetCounts},
};
use switchyard_hub::{
    access::{
        AccessSettings,
        rates::{AccessRates, Pace},
    },
    store::{EmbeddedOptions, EmbeddedPostgres},
};
use switchyard_proto::{
    agent::v1::{
        self as agent, PolicyClaim, SourcePolicyStatus, SyncPoliciesRequest, SyncPoliciesResponse,
        policy_source_service_client::PolicySourceServiceClient, sync_policies_request::Message as Say,
        sync_policies_response::Message as Heard,
    },
    api::v1::{self as api, OwnerKind},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// A stream of policies of a cluster.
struct Source {
    outbox: mpsc::Sender<SyncPoliciesRequest>,
    inbox: Streaming<SyncPoliciesResponse>,
    seq: u64,
    lists: u64,
    statuses: BTreeMap<String, SourcePolicyStatus>,
    told: usize,
}

fn hello(cluster: &str) -> agent::SourceHello {
    agent::SourceHello {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        highest_epoch_seen: EPOCH.0,
    }
}

impl Source {
    async fn open(hub: &Hub) -> Self {
        let (outbox, receiver) = mpsc::channel(256);
        let mut client = PolicySourceServiceClient::new(hub.channel.clone());
        let inbox = client.sync_policies(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { outbox, inbox, seq: 0, lists: 0, statuses: BTreeMap::new(), told: 0 }
    }

    /// A stream on which policies are taken.
    async fn connect(hub: &Hub, cluster: &str) -> Self {
        let mut source = Self::open(hub).await;
        source.say(0, Say::Hello(hello(cluster))).await;
        let welcome = source.welcome().await;
        assert!(welcome.is_source && welcome.message.is_empty() && welcome.epoch == EPOCH.0, "{welcome:?}");
        source
    }

    async fn say(&self, seq: u64, message: Say) {
        // A stream that the hub ended already takes nothing; the test sees its status.
        let _ = self.outbox.send(SyncPoliciesRequest { seq, message: Some(message) }).await;
    }

    async fn send(&mut self, message: Say) -> u64 {
        self.seq += 1;
        self.say(self.seq, message).await;
        self.seq
    }

    async fn next(&mut self) -> Result<Heard, Status> {
        let next = timeout(PATIENCE, self.inbox.message()).await.expect("the hub says nothing");
        let heard = next?.ok_or_else(|| Status::ok("the stream ended"))?.message.expect("a message");
        if let Heard::Status(status) = &heard {
            self.told += 1;
            let name = status.policy.as_ref().unwrap().name.clone();
            self.statuses.insert(name, status.clone());
        }
        Ok(heard)
    }

    async fn welcome(&mut self) -> agent::SourceWelcome {
        match self.next().await.unwrap() {
            Heard::Welcome(welcome) => welcome,
            other => panic!("not a welcome: {other:?}"),
        }
    }

    async fn acked(&mut self, seq: u64) {
        while self.next().await.unwrap() != Heard::Ack(agent::PolicyAck { seq }) {}
    }

    async fn changes(&mut self, upserts: Vec<agent::SourcePolicy>, deleted: Vec<agent::DeletedPolicy>) {
        let seq = self.send(Say::Changes(agent::PolicyChanges { upserts, deleted })).await;
        self.acked(seq).await;
    }

    async fn list(&mut self, upserts: Vec<agent::SourcePolicy>) {
        let count = u32::try_from(upserts.len()).unwrap();
        self.list_of(upserts, count).await;
    }

    async fn list_of(&mut self, upserts: Vec<agent::SourcePolicy>, count: u32) {
        self.lists += 1;
        let list_id = self.lists.to_string();
        self.send(Say::ListBegin(agent::PolicyListBegin { list_id: list_id.clone() })).await;
        self.send(Say::Changes(agent::PolicyChanges { upserts, deleted: Vec::new() })).await;
        let seq = self.send(Say::ListEnd(agent::PolicyListEnd { list_id, count })).await;
        self.acked(seq).await;
    }

    /// Reads until the resource is told what is wanted.
    async fn told(&mut self, name: &str, wanted: impl Fn(&SourcePolicyStatus) -> bool) -> SourcePolicyStatus {
        loop {
            if let Some(status) = self.statuses.get(name).filter(|status| wanted(status)) {
                return status.clone();
            }
            self.next().await.unwrap();
        }
    }

    /// The status with which the hub ends the stream.
    async fn end(mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

fn spec(clusters: &[(&str, u32)]) -> serde_json::Value {
    let manifest: serde_json::Value = serde_norway::from_str(&manifest("checkout", clusters)).unwrap();
    manifest["spec"].clone()
}

fn resource(name: &str, generation: u64, spec: &serde_json::Value) -> agent::SourcePolicy {
    agent::SourcePolicy {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        generation,
        spec_json: spec.to_string(),
    }
}

fn deleted(name: &str) -> agent::DeletedPolicy {
    agent::DeletedPolicy { namespace: "shop".to_owned(), name: name.to_owned(), uid: format!("uid-{name}") }
}

fn accepted(status: &SourcePolicyStatus) -> (bool, String, String) {
    let conditions = &status.status.as_ref().unwrap().conditions;
    let accepted: Vec<&api::Condition> = conditions.iter().filter(|found| found.r#type == "Accepted").collect();
    assert_eq!(accepted.len(), 1, "{status:?}");
    let is_true = accepted[0].status() == api::ConditionStatus::True;
    (is_true, accepted[0].reason.clone(), accepted[0].message.clone())
}

async fn get(hub: &Hub, name: &str) -> Option<api::Policy> {
    let request = api::GetPolicyRequest { policy: Some(policy_ref(name)) };
    hub.policies().get_policy(request).await.ok().map(|answer| answer.into_inner().policy.unwrap())
}

#[tokio::test]
async fn a_cluster_that_is_not_named_is_told_how_to_name_it_and_the_stream_stays() {
    let hub = hub().await;
    let mut source = Source::open(&hub).await;
    source.say(0, Say::Hello(hello("red"))).await;
    let welcome = source.welcome().await;
    assert!(!welcome.is_source);
    assert!(welcome.message.contains("--policy-source red"), "{}", welcome.message);
    hub.shutdown.cancel();
    assert_eq!(source.end().await.code(), Code::Unavailable);
    hub.stop().await;
}

#[tokio::test]
async fn a_resource_becomes_a_policy_whose_owner_is_shown_and_hears_every_change_of_its_status() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(vec![resource("checkout", 3, &spec(&[("blue", 100)]))]).await;
    let first = blue.told("checkout", |status| status.claim() == PolicyClaim::Owner).await;
    assert_eq!((first.uid.as_str(), first.observed_generation, first.generation_in_force), ("uid-checkout", 3, 3));
    assert!(accepted(&first).0, "{first:?}");
    assert_eq!(first.status.as_ref().unwrap().clusters[0].requested_weight, 100);

    let policy = eventually("the policy is there", async || get(&hub, "checkout").await).await;
    let owner = policy.owner.unwrap();
    assert_eq!((owner.kind(), owner.cluster.as_str()), (OwnerKind::Cluster, "blue"));
    assert_eq!((owner.resource_uid.as_str(), owner.generation, owner.generation_in_force), ("uid-checkout", 3, 3));

    // What the engine says of it.
    let stored = hub.store.policy_get(&key("checkout")).await.unwrap().unwrap();
    let said = PolicyStatus {
        observed_version: 1,
        conditions: Vec::new(),
        clusters: Vec::new(),
        rule: None,
        notes: vec![switchyard_core::status::Note {
            cluster: None,
            reason: switchyard_core::status::Reason::ListenerNotFound,
            message: "there is none".to_owned(),
        }],
        failover: Default::default(),
    };
    let lease = fence(&hub.store).await;
    hub.store.policy_status_save(lease, &stored.record.uid, &said, &PolicyMemory::default()).await.unwrap();
    let second = blue.told("checkout", |told| !told.status.as_ref().unwrap().notes.is_empty()).await;
    assert_eq!(second.status.unwrap().notes[0].reason, "ListenerNotFound");
    hub.stop().await;
}

#[tokio::test]
async fn what_was_programmed_before_is_never_told_as_the_truth_about_a_new_generation() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    blue.told("checkout", |status| status.claim() == PolicyClaim::Owner).await;
    let lease = fence(&hub.store).await;
    let stored = hub.store.policy_get(&key("checkout")).await.unwrap().unwrap();
    let say = async |version: u64, weight: u32| {
        let said = programmed(version, weight);
        hub.store.policy_status_save(lease, &stored.record.uid, &said, &PolicyMemory::default()).await.unwrap();
    };
    let shown = |told: &SourcePolicyStatus| {
        let status = told.status.clone().unwrap();
        let condition = status.conditions.iter().find(|condition| condition.r#type == "Programmed").cloned().unwrap();
        (condition.status(), status.clusters[0].requested_weight)
    };
    say(1, 100).await;
    blue.told("checkout", |told| shown(told) == (api::ConditionStatus::True, 100)).await;
    blue.changes(vec![resource("checkout", 2, &spec(&[("blue", 60)]))], Vec::new()).await;
    let told = blue.told("checkout", |told| told.generation_in_force == 2).await;
    assert_eq!(shown(&told), (api::ConditionStatus::Unknown, 60), "{told:?}");
    say(2, 60).await;
    blue.told("checkout", |told| shown(told) == (api::ConditionStatus::True, 60)).await;
    hub.stop().await;
}

/// What an engine says of a policy of one cluster that is programmed.
fn programmed(version: u64, weight: u32) -> PolicyStatus {
    let weight = Weight::new(weight).unwrap();
    let condition = StatusCondition {
        kind: ConditionType::Programmed,
        status: Some(true),
        reason: Reason::AsRequested,
        message: String::new(),
        last_transition: jiff::Timestamp::UNIX_EPOCH,
    };
    let cluster = ClusterStatus {
        cluster: "blue".parse().unwrap(),
        requested: weight,
        effective: weight,
        programmed: Some(weight),
        reason: Reason::AsRequested,
        message: String::new(),
        targets: TargetCounts::default(),
        target_group: None,
    };
    let (conditions, clusters) = (vec![condition], vec![cluster]);
    PolicyStatus {
        observed_version: version,
        conditions,
        clusters,
        rule: None,
        notes: Vec::new(),
        failover: Default::default(),
    }
}

#[tokio::test]
async fn an_invalid_generation_is_refused_with_field_value_and_remedy_and_the_last_one_stays() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    let mut bad = spec(&[("blue", 1000)]);
    blue.list(vec![resource("never", 1, &bad), resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    let never = blue.told("never", |_| true).await;
    assert_eq!((never.claim(), never.generation_in_force), (PolicyClaim::Refused, 0));
    bad["listener"]["prot"] = 7.into();
    for (generation, faulty, words) in [
        (2, spec(&[("blue", 1000)]), ["spec.clusters[0].weight", "1000", "0 to 999"]),
        (3, bad, ["spec.listener", "prot", "unknown field"]),
    ] {
        blue.changes(vec![resource("checkout", generation, &faulty)], Vec::new()).await;
        let told = blue.told("checkout", |told| told.observed_generation == generation).await;
        assert_eq!((told.claim(), told.generation_in_force), (PolicyClaim::Owner, 1));
        let (is_true, reason, message) = accepted(&told);
        assert!(!is_true && reason == "InvalidSpec", "{told:?}");
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert!(message.contains("generation 1 stays in force"), "{message}");
    }
    let shown = eventually("the note is shown", async || {
        let policy = get(&hub, "checkout").await?;
        policy
            .status
            .unwrap()
            .notes
            .into_iter()
            .find(|note| note.reason == "InvalidSpec" && note.message.contains("prot"))
    })
    .await;
    assert!(shown.message.contains("generation 3 of the resource in blue is not in force, 1 is"), "{}", shown.message);
    hub.stop().await;
}

#[tokio::test]
async fn a_claim_waits_for_the_api_and_takes_over_when_its_policy_is_deleted() {
    let hub = hub().await;
    hub.apply(&manifest("checkout", &[("blue", 100)])).await.unwrap();
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    let waiting = blue.told("checkout", |_| true).await;
    assert_eq!(waiting.claim(), PolicyClaim::Waiting);
    let (is_true, reason, message) = accepted(&waiting);
    assert!(!is_true && reason == "OwnedElsewhere" && message.contains("the API"), "{message}");
    assert!(waiting.status.unwrap().clusters.is_empty(), "the policy of others is not its own");

    let request =
        api::DeletePolicyRequest { policy: Some(policy_ref("checkout")), dry_run: true, ..Default::default() };
    let preview = eventually("the picture holds the claim", async || {
        let policy = hub.policies().delete_policy(request.clone()).await.unwrap().into_inner().policy.unwrap();
        Some(policy).filter(|policy| policy.deleting_since.is_none())
    })
    .await;
    assert_eq!(preview.owner.unwrap().cluster, "blue");
    assert_eq!(get(&hub, "checkout").await.unwrap().owner.unwrap().kind(), OwnerKind::Api, "a dry run");
    let passed = hub.delete("checkout").await.unwrap();
    assert_eq!((passed.deleting_since, passed.version), (None, 1));
    assert_eq!(passed.owner.unwrap().cluster, "blue");
    blue.told("checkout", |told| told.claim() == PolicyClaim::Owner && accepted(told).0).await;
    hub.stop().await;
}

#[tokio::test]
async fn callers_are_told_who_owns_a_policy_and_may_set_its_weights() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100), ("green", 0)]))]).await;
    let text = manifest("checkout", &[("blue", 5), ("green", 0)]);
    for refused in [hub.apply(&text).await.unwrap_err(), hub.delete("checkout").await.unwrap_err()] {
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("cluster blue") && refused.message().contains("kubectl"), "{refused:?}");
    }
    let dry = api::ApplyPolicyRequest { manifest: text, dry_run: true, ..api::ApplyPolicyRequest::default() };
    eventually("a dry run is refused as well", async || {
        let refused = hub.policies().apply_policy(dry.clone()).await.err()?;
        Some(()).filter(|()| refused.code() == Code::FailedPrecondition)
    })
    .await;
    let set = api::SetWeightsRequest {
        request_id: Uuid::new_v4().to_string(),
        policy: Some(policy_ref("checkout")),
        weights: weights(&[("green", 40)]),
        ..api::SetWeightsRequest::default()
    };
    hub.policies().set_weights(set).await.unwrap();
    let told = blue.told("checkout", |told| told.status.as_ref().unwrap().clusters[1].requested_weight == 40).await;
    assert_eq!(told.generation_in_force, 1);
    hub.stop().await;
}

#[tokio::test]
async fn a_second_cluster_waits_and_takes_over_and_a_deletion_that_was_seen_is_acknowledged() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    let mut green = Source::connect(&hub, "green").await;
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    green.list(vec![resource("checkout", 6, &spec(&[("blue", 100)]))]).await;
    let waiting = green.told("checkout", |told| told.claim() == PolicyClaim::Waiting && !accepted(told).0).await;
    assert!(accepted(&waiting).2.contains("cluster blue"), "{waiting:?}");
    blue.changes(Vec::new(), vec![deleted("checkout")]).await;
    let taken = green.told("checkout", |told| told.claim() == PolicyClaim::Owner).await;
    assert_eq!(taken.generation_in_force, 6);
    let policy = eventually("green owns it", async || {
        get(&hub, "checkout").await.filter(|policy| policy.owner.as_ref().unwrap().cluster == "green")
    })
    .await;
    assert_eq!((policy.version, policy.deleting_since), (1, None));
    green.changes(Vec::new(), vec![deleted("checkout")]).await;
    eventually("it leaves", async || get(&hub, "checkout").await?.deleting_since).await;
    hub.stop().await;
}

#[tokio::test]
async fn lists_that_are_empty_incomplete_or_of_a_failing_watch_take_nothing_away() {
    let hub = hub().await;
    let one = spec(&[("blue", 100)]);
    let all = || ["a", "b", "c"].iter().map(|name| resource(name, 1, &one)).collect::<Vec<_>>();
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(all()).await;
    // Two of three by the count, but one of them did not arrive.
    blue.list_of(vec![resource("a", 1, &one)], 2).await;
    let stays = async |name: &str, reason: &str| {
        let stored = hub.store.policy_get(&key(name)).await.unwrap().unwrap();
        assert_eq!(stored.record.deleting_since, None);
        eventually("the hub shows it", async || {
            let policy = get(&hub, name).await?;
            let notes = policy.status.unwrap().notes;
            Some(())
                .filter(|()| reason.is_empty() && notes.is_empty() || notes.iter().any(|note| note.reason == reason))
        })
        .await;
    };
    stays("b", "").await;
    let seq = blue.send(Say::Failing(agent::PolicySourceFailing { message: "forbidden".to_owned() })).await;
    blue.acked(seq).await;
    blue.list(vec![resource("a", 1, &one), resource("b", 1, &one)]).await;
    stays("c", "SourceFailing").await;
    let seq = blue.send(Say::Failing(agent::PolicySourceFailing { message: String::new() })).await;
    blue.acked(seq).await;
    stays("c", "").await;
    blue.list(Vec::new()).await;
    stays("c", "SourceAbsent").await;
    let absent = get(&hub, "a").await.unwrap().owner.unwrap();
    assert!(absent.absent_since.is_some());
    // An operator decides about one; the others are seen again, and a list that lacks one is believed.
    assert!(hub.delete("a").await.unwrap().deleting_since.is_some());
    blue.list(all().split_off(1)).await;
    stays("b", "").await;
    blue.list(vec![resource("b", 1, &one)]).await;
    eventually("what is missing leaves", async || get(&hub, "c").await?.deleting_since).await;
    stays("b", "").await;
    hub.stop().await;
}

#[tokio::test]
async fn a_cluster_whose_policies_cannot_be_seen_is_listed_with_the_reason() {
    let hub = hub().await;
    let mut agent = Agent::connect(&hub, grpc_support::hello("blue")).await;
    agent.welcome().await;
    let mut blue = Source::connect(&hub, "blue").await;
    let shown = async || {
        let answer = hub.clusters().list_clusters(api::ListClustersRequest {}).await.unwrap().into_inner();
        let problems = answer.clusters.into_iter().find(|cluster| cluster.name == "blue")?.problems;
        Some(problems.into_iter().map(|problem| (problem.kind, problem.message)).collect::<Vec<_>>())
    };
    for message in ["forbidden", ""] {
        let seq = blue.send(Say::Failing(agent::PolicySourceFailing { message: message.to_owned() })).await;
        blue.acked(seq).await;
        let expected: Vec<_> = Some(("ClusterTrafficPolicy".to_owned(), message.to_owned()))
            .into_iter()
            .filter(|(_, message)| !message.is_empty())
            .collect();
        eventually("the problem is listed", async || shown().await.filter(|problems| *problems == expected)).await;
    }
    hub.stop().await;
}

#[tokio::test]
async fn the_newer_stream_of_a_cluster_ends_the_older_one_at_this_replica_and_at_another() {
    let hub = hub().await;
    let other = hub_on(&hub.url).await;
    let older = Source::connect(&hub, "blue").await;
    let mut newer = Source::connect(&hub, "blue").await;
    let end = older.end().await;
    assert_eq!(end.code(), Code::FailedPrecondition, "{end:?}");
    newer.list(Vec::new()).await;
    let mut newest = Source::connect(&other, "blue").await;
    newest.list(Vec::new()).await;
    newer
        .send(Say::Changes(agent::PolicyChanges {
            upserts: vec![resource("a", 1, &spec(&[("blue", 1)]))],
            deleted: vec![],
        }))
        .await;
    let end = newer.end().await;
    assert_eq!(end.code(), Code::FailedPrecondition, "{end:?}");
    assert_eq!(hub.store.policy_get(&key("a")).await.unwrap(), None);
    other.stop().await;
    hub.stop().await;
}

#[tokio::test]
async fn what_breaks_the_contract_ends_the_stream_and_is_named() {
    let hub = hub().await;
    let good = || resource("a", 1, &spec(&[("blue", 1)]));
    let changes = |upserts| Say::Changes(agent::PolicyChanges { upserts, deleted: Vec::new() });
    let end = |id: &str| Say::ListEnd(agent::PolicyListEnd { list_id: id.to_owned(), count: 0 });
    let cases: Vec<(u64, Say, &str)> = vec![
        (2, changes(vec![good()]), "count up by one"),
        (1, changes(vec![good(); 51]), "50 are allowed"),
        (1, changes(vec![agent::SourcePolicy { name: "Not A Name".to_owned(), ..good() }]), "changes.upserts[0].name"),
        (1, changes(vec![agent::SourcePolicy { uid: String::new(), ..good() }]), "changes.upserts[0].uid"),
        (1, end("1"), "without PolicyListBegin"),
        (1, Say::ListBegin(agent::PolicyListBegin { list_id: String::new() }), "list_begin.list_id"),
        (1, Say::Hello(hello("blue")), "a second SourceHello"),
    ];
    for (seq, message, words) in cases {
        let source = Source::connect(&hub, "blue").await;
        source.say(seq, message).await;
        let end = source.end().await;
        assert_eq!(end.code(), Code::InvalidArgument, "{words}: {end:?}");
        assert!(end.message().contains(words), "{words}: {end:?}");
    }
    assert_eq!(hub.store.policies_all().await.unwrap().len(), 0);
    hub.stop().await;
}

#[tokio::test]
async fn a_hello_is_asked_for_and_an_older_hub_is_not_followed() {
    let hub = hub().await;
    let silent = Source::open(&hub).await;
    let nameless = Source::open(&hub).await;
    nameless.say(0, Say::Hello(agent::SourceHello { cluster: "Blue!".to_owned(), ..hello("blue") })).await;
    let end = nameless.end().await;
    assert!(end.code() == Code::InvalidArgument && end.message().contains("hello.cluster"), "{end:?}");
    let newer = Source::open(&hub).await;
    newer.say(0, Say::Hello(agent::SourceHello { highest_epoch_seen: EPOCH.0 + 1, ..hello("blue") })).await;
    let end = newer.end().await;
    assert!(end.code() == Code::FailedPrecondition && end.message().contains("older hub"), "{end:?}");
    let hasty = Source::open(&hub).await;
    hasty.say(1, Say::ListBegin(agent::PolicyListBegin { list_id: "1".to_owned() })).await;
    assert_eq!(hasty.end().await.code(), Code::InvalidArgument);
    assert_eq!(silent.end().await.code(), Code::DeadlineExceeded);
    hub.stop().await;
}

#[tokio::test]
async fn a_new_epoch_leaves_the_stream_as_it_is() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    hub.epoch.send_replace(Some(Epoch(EPOCH.0 + 1)));
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    blue.told("checkout", |told| told.claim() == PolicyClaim::Owner).await;
    hub.stop().await;
}

#[tokio::test]
async fn many_changes_at_once_are_told_as_the_last_one_and_what_is_unchanged_is_not_told_again() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(vec![resource("checkout", 1, &spec(&[("blue", 100), ("green", 0)]))]).await;
    blue.told("checkout", |told| told.claim() == PolicyClaim::Owner).await;
    let before = blue.told;
    for generation in 2..=40 {
        let weight = u32::try_from(generation).unwrap();
        blue.changes(vec![resource("checkout", generation, &spec(&[("blue", 100), ("green", weight)]))], Vec::new())
            .await;
    }
    blue.told("checkout", |told| told.generation_in_force == 40).await;
    assert!(blue.told - before < 39, "{} statuses for 39 changes", blue.told - before);
    // The same again, and something else after it: nothing is told of the former.
    let told = blue.told;
    blue.changes(vec![resource("checkout", 40, &spec(&[("blue", 100), ("green", 40)]))], Vec::new()).await;
    blue.changes(vec![resource("other", 1, &spec(&[("blue", 1000)]))], Vec::new()).await;
    blue.told("other", |_| true).await;
    assert_eq!(blue.told, told + 1);
    hub.stop().await;
}

#[tokio::test]
async fn an_agent_that_reads_nothing_has_its_reports_stored_all_the_same() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    for generation in 1..=30 {
        let resources = (0..10).map(|n| resource(&format!("p{n}"), generation, &spec(&[("blue", 1000)]))).collect();
        blue.send(Say::Changes(agent::PolicyChanges { upserts: resources, deleted: Vec::new() })).await;
    }
    eventually("the last report is stored", async || {
        let picture = hub.feed.picture();
        let claims = picture.claims.get(&"blue".parse().unwrap())?;
        Some(()).filter(|()| claims.len() == 10 && claims.values().all(|stored| stored.claim.generation == 30))
    })
    .await;
    blue.acked(30).await;
    hub.stop().await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_stored() {
    let hub = hub().await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(Vec::new()).await;
    let admin = sqlx::PgPool::connect(&hub.url).await.unwrap();
    // Every writer waits behind this lock.
    let mut lock = admin.begin().await.unwrap();
    sqlx::query("select * from policy_changes for update").execute(&mut *lock).await.unwrap();
    let upserts = vec![resource("checkout", 1, &spec(&[("blue", 100)]))];
    let seq = blue.send(Say::Changes(agent::PolicyChanges { upserts, deleted: Vec::new() })).await;
    assert!(
        timeout(Duration::from_millis(300), blue.next()).await.is_err(),
        "nothing is acknowledged before it is stored"
    );
    lock.rollback().await.unwrap();
    blue.acked(seq).await;
    assert!(hub.store.policy_get(&key("checkout")).await.unwrap().is_some());
    hub.stop().await;
}

#[tokio::test]
async fn what_is_told_while_the_store_is_away_is_stored_and_acknowledged_when_it_is_back() {
    let folder = tempfile::Builder::new().prefix("sy").tempdir().unwrap();
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    let hub = hub_on(&postgres.url()).await;
    let mut blue = Source::connect(&hub, "blue").await;
    blue.list(Vec::new()).await;
    postgres.stop().await.unwrap();
    eventually("the outage to be seen", async || (!hub.feed.picture().store_ok).then_some(())).await;
    let upserts = vec![resource("checkout", 1, &spec(&[("blue", 100)]))];
    let seq = blue.send(Say::Changes(agent::PolicyChanges { upserts, deleted: Vec::new() })).await;
    let postgres = EmbeddedPostgres::start(folder.path(), EmbeddedOptions::default()).await.unwrap();
    blue.acked(seq).await;
    blue.told("checkout", |told| told.claim() == PolicyClaim::Owner).await;
    hub.stop().await;
    postgres.stop().await.unwrap();
}

/// The pace of `pace.rs` decides; this sees that the stream asks it.
#[tokio::test]
async fn a_flood_of_large_resources_is_read_no_faster_than_the_pace() {
    let hub = hub().await;
    let begun = Instant::now();
    let mut source = Source::connect(&hub, "blue").await;
    let large = serde_json::Value::String("x".repeat(LARGE));
    for i in 1..=FLOOD {
        source.changes(vec![resource("checkout", i as u64, &large)], Vec::new()).await;
        is_paced(i * LARGE, begun);
    }
    hub.stop().await;
}

/// A development hub multiplies the pace with a hundred.
#[tokio::test]
async fn policies_that_change_without_end_change_no_faster_than_the_pace_of_their_cluster() {
    let rates = AccessRates { source_changes: Pace::new(1, 1), ..AccessRates::default() };
    let access = AccessSettings { development: true, rates, ..AccessSettings::default() };
    let hub = hub_set_up(&database_url().await, Setup { access, ..Setup::default() }).await;
    let begun = Instant::now();
    let mut changed = 0_u32;
    for stream in 0..2 {
        // A stream of its own has no pace of its own.
        let mut source = Source::connect(&hub, "blue").await;
        for round in 1..=5 {
            let report = |i| resource(&format!("policy-{i}"), stream * 10 + round, &serde_json::json!({}));
            source.changes((0..50).map(report).collect(), Vec::new()).await;
            changed += 50;
            let most = 100.0 + 50.0 + begun.elapsed().as_secs_f64() * 100.0;
            assert!(f64::from(changed) <= most, "{changed} changes within {:?}", begun.elapsed());
        }
    }
    // What says nothing new costs nothing.
    let waited = Instant::now();
    let mut source = Source::connect(&hub, "blue").await;
    let report = |i| resource(&format!("policy-{i}"), 15, &serde_json::json!({}));
    for _ in 0..10 {
        source.changes((0..50).map(report).collect(), Vec::new()).await;
    }
    let most = Duration::from_secs(4);
    assert!(waited.elapsed() < most, "{:?}", waited.elapsed());
    hub.stop().await;
}

#[tokio::test]
async fn what_a_resource_changes_is_in_the_audit_log_with_where_it_came_from() {
    let hub = hub().await;
    let mut source = Source::connect(&hub, "blue").await;
    source.list(vec![resource("checkout", 1, &spec(&[("blue", 100)]))]).await;
    source.changes(vec![resource("checkout", 2, &spec(&[("blue", 100), ("green", 0)]))], Vec::new()).await;
    source.changes(Vec::new(), vec![deleted("checkout")]).await;
    let request = api::ListAuditEntriesRequest { page_size: 100, ..Default::default() };
    let entries = hub.audit().list_audit_entries(request).await.unwrap().into_inner().entries;
    let said: Vec<_> = entries.iter().map(|entry| (entry.action.as_str(), entry.source.as_str())).collect();
    let from = "127.0.0.1";
    assert_eq!(said, [("delete", from), ("apply", from), ("apply", from)], "{entries:?}");
    hub.stop().await;
}
