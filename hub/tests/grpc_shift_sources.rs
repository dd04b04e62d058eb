//! The stream of a cluster's TrafficShift resources, by hand over real gRPC: who is taken, what is made of each, what each is told.
//! No engine runs here, so shifts stay where callers put them.

mod grpc_support;
mod rights_support;
mod store_support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use grpc_support::{
    EPOCH, FLOOD, Hub, LARGE, PATIENCE, Setup, eventually, hub, hub_set_up, is_paced, manifest, policy_ref,
};
use rights_support::bindings;
use serde_json::{Value, json};
use store_support::database_url;
use switchyard_hub::access::AccessSettings;
use switchyard_proto::{
    agent::v1::{
        self as agent, SyncShiftsRequest, SyncShiftsResponse, TrafficShiftStatus,
        shift_source_service_client::ShiftSourceServiceClient, sync_shifts_request::Message as Say,
        sync_shifts_response::Message as Heard,
    },
    api::v1 as api,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

/// A stream of shifts of a cluster.
struct Source {
    outbox: mpsc::Sender<SyncShiftsRequest>,
    inbox: Streaming<SyncShiftsResponse>,
    statuses: BTreeMap<String, TrafficShiftStatus>,
}

fn hello(cluster: &str) -> agent::ShiftSourceHello {
    agent::ShiftSourceHello {
        cluster: cluster.to_owned(),
        agent_instance_id: Uuid::new_v4().to_string(),
        agent_version: "0.1.0".to_owned(),
        highest_epoch_seen: EPOCH.0,
    }
}

impl Source {
    async fn open(hub: &Hub, hello: agent::ShiftSourceHello) -> Self {
        let (outbox, receiver) = mpsc::channel(64);
        let mut client = ShiftSourceServiceClient::new(hub.channel.clone());
        let inbox = client.sync_shifts(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        let source = Self { outbox, inbox, statuses: BTreeMap::new() };
        source.say(Say::Hello(hello)).await;
        source
    }

    /// A stream on which shifts are taken.
    async fn connect(hub: &Hub, cluster: &str) -> Self {
        let mut source = Self::open(hub, hello(cluster)).await;
        let welcome = source.welcome().await;
        assert!(welcome.is_source && welcome.message.is_empty() && welcome.epoch == EPOCH.0, "{welcome:?}");
        source
    }

    async fn say(&self, message: Say) {
        // A stream that the hub ended already takes nothing; the test sees its status.
        let _ = self.outbox.send(SyncShiftsRequest { message: Some(message) }).await;
    }

    async fn report(&self, name: &str, uid: &str, generation: u64, spec: &Value) {
        self.say(Say::Resource(agent::TrafficShiftResource {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            generation,
            spec_json: spec.to_string(),
        }))
        .await;
    }

    async fn next(&mut self) -> Result<Heard, Status> {
        let next = timeout(PATIENCE, self.inbox.message()).await.expect("the hub says nothing");
        let heard = next?.ok_or_else(|| Status::ok("the stream ended"))?.message.expect("a message");
        if let Heard::Status(status) = &heard {
            self.statuses.insert(status.name.clone(), status.clone());
        }
        Ok(heard)
    }

    async fn welcome(&mut self) -> agent::ShiftSourceWelcome {
        match self.next().await.unwrap() {
            Heard::Welcome(welcome) => welcome,
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// Reads until the resource is told what is wanted.
    async fn told(&mut self, name: &str, wanted: impl Fn(&TrafficShiftStatus) -> bool) -> TrafficShiftStatus {
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

fn to_green() -> Value {
    json!({"policies": [{"name": "checkout", "to": "green"}]})
}

async fn with_policy() -> Hub {
    let hub = hub().await;
    hub.apply(&manifest("checkout", &[("blue", 100), ("green", 0)])).await.unwrap();
    hub
}

async fn shifts(hub: &Hub) -> Vec<api::Shift> {
    hub.shifts().list_shifts(api::ListShiftsRequest::default()).await.unwrap().into_inner().shifts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_makes_one_shift_however_often_it_is_reported() {
    let hub = with_policy().await;
    let mut source = Source::connect(&hub, "blue").await;
    source.report("move", "u-1", 1, &to_green()).await;
    let first = source.told("move", |status| !status.shift_id.is_empty()).await;
    assert_eq!((first.state.as_str(), first.steps, first.ended, first.observed_generation), ("Pending", 1, false, 1));
    assert_eq!(first.weights, "checkout: blue=100,green=0");
    // An agent that starts anew reports everything that has not ended.
    drop(source);
    let mut again = Source::connect(&hub, "blue").await;
    again.report("move", "u-1", 1, &to_green()).await;
    let second = again.told("move", |status| !status.shift_id.is_empty()).await;
    assert_eq!(second.shift_id, first.shift_id);
    let all = shifts(&hub).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let resource = all[0].resource.clone().expect("made by a resource");
    assert_eq!((resource.cluster.as_str(), resource.name.as_str(), resource.uid.as_str()), ("blue", "move", "u-1"));
    assert!(all[0].actor.starts_with("cluster:blue"), "{}", all[0].actor);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_resource_waits_for_its_turn_and_runs_after_the_first() {
    let hub = with_policy().await;
    let mut source = Source::connect(&hub, "blue").await;
    source.report("first", "u-1", 1, &to_green()).await;
    let first = source.told("first", |status| !status.shift_id.is_empty()).await;
    source.report("second", "u-2", 1, &to_green()).await;
    let waiting = source.told("second", |status| status.state == "Waiting").await;
    assert_eq!(waiting.reason, "Busy");
    assert!(waiting.message.contains(&first.shift_id) && waiting.since.is_some(), "{waiting:?}");
    let abort = api::AbortShiftRequest {
        request_id: Uuid::new_v4().to_string(),
        id: first.shift_id,
        reason: "not now".to_owned(),
    };
    hub.shifts().abort_shift(abort).await.unwrap();
    let ended = source.told("first", |status| status.ended).await;
    assert_eq!((ended.state.as_str(), ended.reason.as_str()), ("Aborted", "AbortRequested"));
    source.told("second", |status| status.state == "Pending").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_come_later() {
    let hub = hub().await;
    let mut source = Source::connect(&hub, "blue").await;
    source.report("move", "u-1", 1, &to_green()).await;
    let waiting = source.told("move", |status| status.state == "Waiting").await;
    assert_eq!(waiting.reason, "PolicyNotReady");
    assert!(waiting.message.contains("shop/checkout"), "{}", waiting.message);
    hub.apply(&manifest("checkout", &[("blue", 100), ("green", 0)])).await.unwrap();
    source.told("move", |status| !status.shift_id.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_out_is_refused_with_every_fault_and_stays_so() {
    let hub = with_policy().await;
    let mut source = Source::connect(&hub, "blue").await;
    let cases = [
        (
            "two-goals",
            json!({"policies": [{"name": "checkout", "to": "green", "weights": {"blue": 1}}]}),
            "exactly one of to and weights",
        ),
        ("no-policy", json!({"policies": []}), "spec.policies"),
        ("misspelt", json!({"policy": []}), "unknown field `policy`"),
        (
            "elsewhere",
            json!({"policies": [{"namespace": "bank", "name": "checkout", "to": "green"}]}),
            "own namespace only",
        ),
        (
            "no-source",
            json!({"policies": [{"name": "checkout", "to": "green"}], "gates": [{"name": "g", "success": "> 1",
            "prometheus": {"source": "unknown", "query": "up"}}]}),
            "--prometheus",
        ),
    ];
    for (i, (name, spec, why)) in cases.iter().enumerate() {
        source.report(name, &format!("u-{i}"), 1, spec).await;
        let refused = source.told(name, |status| status.ended).await;
        assert_eq!(refused.state, "Refused", "{name}");
        assert!(refused.message.contains(why), "{name}: {}", refused.message);
    }
    assert!(shifts(&hub).await.is_empty());
    // Whoever reports it again hears the same.
    drop(source);
    let mut again = Source::connect(&hub, "blue").await;
    again.report("two-goals", "u-0", 1, &to_green()).await;
    let refused = again.told("two-goals", |status| status.ended).await;
    assert!(refused.message.contains("exactly one of to and weights"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_approval_and_abort_of_a_resource_reach_its_shift_once() {
    let hub = with_policy().await;
    let mut source = Source::connect(&hub, "blue").await;
    let with = |field: &str, value: Value| {
        let mut spec = to_green();
        spec[field] = value;
        spec
    };
    source.report("move", "u-1", 1, &to_green()).await;
    let made = source.told("move", |status| !status.shift_id.is_empty()).await;
    source.report("move", "u-1", 2, &with("paused", json!(true))).await;
    let paused = source.told("move", |status| status.paused).await;
    assert_eq!(paused.observed_generation, 2);
    // A caller lets it go on; the same generation, told again by a new stream, does not hold it anew.
    let resume = api::ResumeShiftRequest {
        request_id: Uuid::new_v4().to_string(),
        id: made.shift_id.clone(),
        ..api::ResumeShiftRequest::default()
    };
    hub.shifts().resume_shift(resume).await.unwrap();
    source.told("move", |status| !status.paused).await;
    drop(source);
    let mut source = Source::connect(&hub, "blue").await;
    source.report("move", "u-1", 2, &with("paused", json!(true))).await;
    let told = source.told("move", |status| status.observed_generation == 2).await;
    assert!(!told.paused, "{told:?}");
    source.report("move", "u-1", 3, &with("abort", json!(true))).await;
    let ended = source.told("move", |status| status.ended).await;
    assert_eq!(ended.state, "Aborted");
    let mut audit = hub.audit();
    let entries = audit.list_audit_entries(api::ListAuditEntriesRequest {
        shift_id: made.shift_id,
        oldest_first: true,
        ..api::ListAuditEntriesRequest::default()
    });
    let entries = entries.await.unwrap().into_inner().entries;
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["shift-create", "shift-pause", "shift-resume", "shift-abort"]);
    assert!(entries[3].actor.starts_with("cluster:blue TrafficShift shop/move"), "{}", entries[3].actor);
}

#[tokio::test(flavor = "multi_thread")]
async fn safety_rules_are_crossed_only_from_clusters_that_the_hub_names() {
    let (access, _file) = bindings(
        "{role: operator, namespaces: [shop], clusters: ['*'], overrides: true, subjects: [{cluster: green}]}",
    );
    let access = AccessSettings { refusals_every: Duration::from_millis(100), ..access };
    let hub = hub_set_up(&database_url().await, Setup { access, ..Setup::default() }).await;
    hub.apply(&manifest("checkout", &[("blue", 100), ("green", 0)])).await.unwrap();
    let mut spec = to_green();
    spec["overrides"] = json!(["MaxStepPercent"]);
    spec["reason"] = json!("incident");
    let mut blue = Source::connect(&hub, "blue").await;
    blue.report("move", "u-1", 1, &spec).await;
    let refused = blue.told("move", |status| status.ended).await;
    for part in ["by resources of cluster blue", "{cluster: blue}", "overrides: true", "docs/access.md"] {
        assert!(refused.message.contains(part), "{}", refused.message);
    }
    let mut green = Source::connect(&hub, "green").await;
    green.report("move", "u-2", 1, &spec).await;
    green.told("move", |status| !status.shift_id.is_empty()).await;
    // It comes again with each stream, and is in the log once; its next generation is something new.
    let mut again = Source::connect(&hub, "blue").await;
    again.report("move", "u-1", 1, &spec).await;
    again.told("move", |status| status.ended).await;
    let refusals = async || {
        let request =
            api::ListAuditEntriesRequest { result: "refused".to_owned(), page_size: 100, ..Default::default() };
        hub.audit().list_audit_entries(request).await.unwrap().into_inner().entries
    };
    let count = |entries: &[api::AuditEntry]| -> u64 {
        let detail = |entry: &api::AuditEntry| serde_json::from_str::<Value>(&entry.detail_json).unwrap();
        entries.iter().map(|entry| detail(entry)["count"].as_u64().unwrap()).sum()
    };
    let noted = eventually("the refusal in the log", async || {
        let noted = refusals().await;
        (!noted.is_empty()).then_some(noted)
    })
    .await;
    let entry = &noted[0];
    let said = (entry.actor.as_str(), entry.action.as_str(), entry.source.as_str());
    assert_eq!(said, ("cluster:blue", "ShiftSourceService/SyncShifts", "127.0.0.1"));
    assert!(entry.detail_json.contains("TrafficShift shop/move: spec.overrides"), "{entry:?}");
    again.report("move", "u-1", 2, &spec).await;
    again.told("move", |status| status.observed_generation == 2).await;
    let both = eventually("the refusal of the next generation", async || {
        let noted = refusals().await;
        (count(&noted) >= 2).then_some(noted)
    })
    .await;
    assert_eq!(count(&both), 2, "{both:?}");
}

/// The pace of the agents' streams decides; this sees that this stream asks it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_large_resources_is_read_no_faster_than_the_pace() {
    let hub = hub().await;
    let begun = Instant::now();
    let mut source = Source::connect(&hub, "blue").await;
    let large = Value::String("x".repeat(LARGE));
    for i in 1..=FLOOD {
        source.report("move", "u-1", i as u64, &large).await;
        source.told("move", |status| status.observed_generation == i as u64).await;
        is_paced(i * LARGE, begun);
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shift_of_a_resource_is_in_the_audit_log_with_where_it_came_from() {
    let hub = with_policy().await;
    let mut source = Source::connect(&hub, "blue").await;
    source.report("move", "u-1", 1, &to_green()).await;
    source.told("move", |status| !status.shift_id.is_empty()).await;
    let request = api::ListAuditEntriesRequest { page_size: 100, ..Default::default() };
    let entries = hub.audit().list_audit_entries(request).await.unwrap().into_inner().entries;
    let made = entries.iter().find(|entry| entry.actor.starts_with("cluster:blue TrafficShift")).expect("an entry");
    assert_eq!(made.source, "127.0.0.1", "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_no_source_is_told_how_to_become_one() {
    let hub = hub().await;
    let mut source = Source::open(&hub, hello("red")).await;
    let welcome = source.welcome().await;
    assert!(!welcome.is_source && welcome.message.contains("--policy-source red"), "{welcome:?}");
    source.report("move", "u-1", 1, &to_green()).await;
    assert_eq!(source.end().await.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_on_the_stream_ends_it_with_the_reason() {
    let hub = with_policy().await;
    let late = Source::open(&hub, agent::ShiftSourceHello { highest_epoch_seen: EPOCH.0 + 1, ..hello("blue") }).await;
    assert_eq!(late.end().await.code(), Code::FailedPrecondition);
    let nameless = Source::open(&hub, hello("Not A Name")).await.end().await;
    assert!(nameless.code() == Code::InvalidArgument && nameless.message().contains("hello.cluster"), "{nameless:?}");
    let source = Source::connect(&hub, "blue").await;
    source.report("move", "", 1, &to_green()).await;
    let status = source.end().await;
    assert!(status.code() == Code::InvalidArgument && status.message().contains("resource.uid"), "{status:?}");
    let source = Source::connect(&hub, "blue").await;
    let newer = Source::connect(&hub, "blue").await;
    assert_eq!(source.end().await.code(), Code::FailedPrecondition, "a newer stream takes over");
    drop(newer);
    let mut policies = hub.policies();
    let policy = policies.get_policy(api::GetPolicyRequest { policy: Some(policy_ref("checkout")) });
    policy.await.expect("the hub goes on");
}
