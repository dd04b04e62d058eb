//! Whole clusters over real gRPC and a real Postgres, with an engine played by hand: cordon, drain, game days, the way back, removal;
//! why weights are what they are; and every refusal.

mod fleet_support;
mod grpc_support;
mod rights_support;
mod shift_support;
mod store_support;

use std::collections::BTreeMap;

use fleet_support::{Engine, agent, cluster, explain, policy};
use grpc_support::{Agent, Hub, PATIENCE, Setup, hub, hub_on, hub_set_up, policy_ref, weights};
use prost::Message;
use rights_support::{Port, bindings};
use shift_support::{map, request_id};
use switchyard_proto::api::v1::{
    self as api, ClusterMode, ClusterOperationKind, ConditionStatus, FailoverState, ForecastVerdict,
    cluster_service_client::ClusterServiceClient,
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

/// Policies over blue and green with three pods each, in force at AWS.
async fn world(policies: &[String]) -> (Hub, Engine, [Agent; 2]) {
    world_on(hub().await, policies).await
}

async fn world_on(hub: Hub, policies: &[String]) -> (Hub, Engine, [Agent; 2]) {
    for policy in policies {
        hub.apply(policy).await.unwrap();
    }
    let agents = [agent(&hub, "blue", 1, 3).await, agent(&hub, "green", 2, 3).await];
    let mut engine = Engine::new();
    engine.settle(&hub).await;
    (hub, engine, agents)
}

fn half(name: &str) -> String {
    policy(name, &[("blue", 50), ("green", 50)], "")
}

fn violations(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let found = api::Violations::decode(status.details()).unwrap().violations;
    found.into_iter().map(|violation| violation.field).collect()
}

/// (guard, policy) of what stands in the way.
fn findings(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let found = api::Findings::decode(status.details()).unwrap().findings;
    assert!(found.iter().all(|one| !one.message.is_empty() && !one.overridable), "{found:?}");
    found.into_iter().map(|one| (one.guard, one.policy.unwrap_or_default().name)).collect()
}

fn draining(cluster: &str) -> api::DrainClusterRequest {
    api::DrainClusterRequest {
        request_id: request_id(),
        cluster: cluster.to_owned(),
        reason: "an upgrade".to_owned(),
        step_percent: 50,
        ..Default::default()
    }
}

fn drilling(cluster: &str) -> api::DrillClusterLossRequest {
    api::DrillClusterLossRequest {
        request_id: request_id(),
        cluster: cluster.to_owned(),
        duration_seconds: 600,
        ..Default::default()
    }
}

async fn drain(hub: &Hub, request: api::DrainClusterRequest) -> Result<api::DrainClusterResponse, Status> {
    Ok(hub.clusters().drain_cluster(request).await?.into_inner())
}

async fn drill(hub: &Hub, request: api::DrillClusterLossRequest) -> Result<api::DrillClusterLossResponse, Status> {
    Ok(hub.clusters().drill_cluster_loss(request).await?.into_inner())
}

fn cordoning(cluster: &str) -> api::CordonClusterRequest {
    api::CordonClusterRequest { request_id: request_id(), cluster: cluster.to_owned(), ..Default::default() }
}

async fn cordon(hub: &Hub, request: api::CordonClusterRequest) -> Result<api::Cluster, Status> {
    Ok(hub.clusters().cordon_cluster(request).await?.into_inner().cluster.unwrap())
}

async fn uncordon(hub: &Hub, cluster: &str) -> Result<api::Cluster, Status> {
    let request =
        api::UncordonClusterRequest { request_id: request_id(), cluster: cluster.to_owned(), ..Default::default() };
    Ok(hub.clusters().uncordon_cluster(request).await?.into_inner().cluster.unwrap())
}

async fn remove(hub: &Hub, cluster: &str) -> Result<api::Cluster, Status> {
    let request =
        api::RemoveClusterRequest { request_id: request_id(), cluster: cluster.to_owned(), ..Default::default() };
    Ok(hub.clusters().remove_cluster(request).await?.into_inner().cluster.unwrap())
}

fn operation(cluster: &api::Cluster) -> &api::ClusterOperation {
    cluster.operation.as_ref().unwrap()
}

/// Each policy's verdict.
fn verdicts(forecast: &[api::PolicyForecast]) -> Vec<(&str, ForecastVerdict)> {
    forecast.iter().map(|one| (one.policy.as_ref().unwrap().name.as_str(), one.verdict())).collect()
}

async fn watch(hub: &Hub, cluster: &str) -> Streaming<api::WatchClustersResponse> {
    let request = api::WatchClustersRequest { cluster: cluster.to_owned() };
    hub.clusters().watch_clusters(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<api::WatchClustersResponse>) -> api::Cluster {
    timeout(PATIENCE, stream.message()).await.expect("nothing is told").unwrap().unwrap().cluster.unwrap()
}

#[tokio::test]
async fn a_cluster_is_drained_in_steps_in_all_its_policies_and_comes_back_in_the_same_steps() {
    let (hub, mut engine, _agents) = world(&[half("api"), policy("web", &[("blue", 20), ("green", 80)], "")]).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 20), ("green", 80)]));
    let mut stream = watch(&hub, "blue").await;

    let tried = drain(&hub, api::DrainClusterRequest { dry_run: true, ..draining("blue") }).await.unwrap();
    assert_eq!(verdicts(&tried.forecast), [("api", ForecastVerdict::Unproven), ("web", ForecastVerdict::Unproven)]);
    let green = tried.forecast[1].clusters.iter().find(|one| one.cluster == "green").unwrap();
    assert_eq!((green.share_before_permille, green.share_after_permille, green.healthy_targets), (800, 1000, 3));
    assert!(tried.forecast[1].message.contains("80.0 % -> 100.0 % with 3 healthy targets"), "{tried:?}");
    assert_eq!(tried.cluster.unwrap().mode(), ClusterMode::Draining, "as it would be");
    assert_eq!(cluster(&hub, "blue").await.operation, None, "a dry run stores nothing");

    let request = draining("blue");
    let begun = drain(&hub, request.clone()).await.unwrap();
    assert_eq!(verdicts(&begun.forecast), verdicts(&tried.forecast));
    let begun = begun.cluster.unwrap();
    let asked = operation(&begun);
    assert_eq!((begun.mode(), asked.kind(), asked.version), (ClusterMode::Draining, ClusterOperationKind::Drain, 1));
    assert_eq!((asked.percent, asked.step_percent, asked.step_seconds), (100, 50, 0));
    assert_eq!((asked.actor.as_str(), asked.reason.as_str()), ("development", "an upgrade"));
    engine.turn(&hub).await;
    engine.turn(&hub).await;
    let half_way = engine.in_force(&hub, "api");
    assert!(half_way["blue"] > 0 && half_way["blue"] < half_way["green"], "{half_way:?}");
    engine.settle(&hub).await;
    let drained = cluster(&hub, "blue").await;
    let done = operation(&drained);
    assert_eq!((drained.mode(), done.why.as_str(), done.percent), (ClusterMode::Drained, "Done", 0), "{drained:?}");
    assert!(done.ended_at.is_some() && done.progress.iter().all(|one| one.done), "{done:?}");
    let named: Vec<&str> = done.progress.iter().map(|one| one.policy.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(named, ["api", "web"]);
    for name in ["api", "web"] {
        assert_eq!(engine.in_force(&hub, name), map(&[("green", 100)]));
    }
    assert_eq!((engine.registered("blue"), engine.registered("green")), (0, 6));
    let again = drain(&hub, request).await.unwrap().cluster.unwrap();
    assert_eq!((again.mode(), operation(&again).version), (ClusterMode::Draining, 1), "the first answer");

    let back = uncordon(&hub, "blue").await.unwrap();
    assert_eq!((back.mode(), operation(&back).step_percent), (ClusterMode::Returning, 50));
    engine.settle(&hub).await;
    assert_eq!(cluster(&hub, "blue").await.mode(), ClusterMode::Active);
    assert_eq!(engine.in_force(&hub, "api"), map(&[("blue", 50), ("green", 50)]));
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 20), ("green", 80)]));
    assert_eq!(engine.registered("blue"), 6);

    let (mut modes, mut last) = (Vec::new(), 0);
    while modes.len() < 2 || modes.last() != Some(&ClusterMode::Active) {
        let told = next(&mut stream).await;
        let version = told.operation.as_ref().map_or(0, |operation| operation.version);
        assert!(version >= last, "{told:?}");
        last = version;
        modes.push(told.mode());
    }
    modes.dedup();
    use ClusterMode::{Active, Drained, Draining, Returning};
    assert_eq!(modes, [Active, Draining, Drained, Returning, Active]);
    hub.stop().await;
}

#[tokio::test]
async fn a_policy_that_nobody_else_carries_keeps_its_weight_and_the_drain_says_so() {
    let (hub, mut engine, _agents) = world(&[policy("solo", &[("blue", 100), ("green", 0)], ""), half("web")]).await;
    let begun = drain(&hub, draining("blue")).await.unwrap();
    let expected = [("solo", ForecastVerdict::NotCarried), ("web", ForecastVerdict::Unproven)];
    assert_eq!(verdicts(&begun.forecast), expected, "taken all the same: {begun:?}");
    engine.settle(&hub).await;
    let shown = cluster(&hub, "blue").await;
    assert_eq!((shown.mode(), operation(&shown).why.as_str()), (ClusterMode::Draining, "Blocked"), "{shown:?}");
    let solo = &operation(&shown).progress[0];
    assert!(!solo.done && !solo.reason.is_empty() && !solo.message.is_empty(), "{solo:?}");
    assert_eq!((solo.programmed_weight, solo.targets), (Some(100), 3));
    assert_eq!(engine.in_force(&hub, "solo")["blue"], 100);
    assert_eq!(engine.in_force(&hub, "web"), map(&[("green", 100)]));
    assert_eq!(engine.registered("blue"), 3, "those of the policy that it still carries");
    hub.stop().await;
}

#[tokio::test]
async fn a_game_day_takes_a_cluster_out_for_a_time_and_leaves_its_targets() {
    let (hub, mut engine, _agents) = world(&[half("web")]).await;
    let tried = api::DrillClusterLossRequest {
        request_id: String::new(),
        duration_seconds: 0,
        dry_run: true,
        ..drilling("blue")
    };
    let tried = drill(&hub, tried).await.unwrap();
    assert_eq!((verdicts(&tried.forecast), tried.cluster), (vec![("web", ForecastVerdict::Unproven)], None));
    let request = drilling("blue");
    let begun = drill(&hub, request.clone()).await.unwrap();
    let shown = begun.cluster.unwrap();
    let (started, until) = (operation(&shown).started_at.unwrap(), operation(&shown).until.unwrap());
    assert_eq!(until.seconds - started.seconds, 600);
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("green", 100)]));
    let shown = cluster(&hub, "blue").await;
    assert_eq!((shown.mode(), operation(&shown).why.as_str()), (ClusterMode::Drained, "DrillRunning"));
    assert_eq!(engine.registered("blue"), 3, "so that they are there when it ends");
    let again = drill(&hub, request).await.unwrap().cluster.unwrap();
    assert_eq!(operation(&again).id, operation(&shown).id, "the first answer, not a second exercise");
    let second = drill(&hub, drilling("blue")).await.unwrap_err();
    assert_eq!(findings(&second), [("ClusterMode".to_owned(), String::new())]);
    assert!(second.message().contains("blue is Drained") && second.message().contains("uncordon"), "{second:?}");
    uncordon(&hub, "blue").await.unwrap();
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 50), ("green", 50)]));
    assert_eq!(cluster(&hub, "blue").await.mode(), ClusterMode::Active);
    hub.stop().await;
}

#[tokio::test]
async fn a_game_day_that_would_cost_requests_needs_force_a_reason_and_the_right() {
    let solo = policy("solo", &[("blue", 100)], "");
    let (hub, _engine, _agents) = world(&[solo.clone(), half("web")]).await;
    let refused = drill(&hub, drilling("blue")).await.unwrap_err();
    assert_eq!(findings(&refused), [("NotCarried".to_owned(), "solo".to_owned())]);
    assert!(
        refused.message().contains("in 1 of the 2 policies") && refused.message().contains("shop/solo"),
        "{refused:?}"
    );
    let forced = api::DrillClusterLossRequest { force: true, ..drilling("blue") };
    assert_eq!(violations(&drill(&hub, forced.clone()).await.unwrap_err()), ["reason"]);
    let forced = api::DrillClusterLossRequest { reason: "an exercise".to_owned(), ..forced };
    let begun = drill(&hub, forced.clone()).await.unwrap();
    assert!(operation(&begun.cluster.unwrap()).force);
    hub.stop().await;

    let (access, _file) =
        bindings("{role: operator, namespaces: ['*'], clusters: ['*'], subjects: [{certificate: {commonName: ann}}]}");
    let strict = hub_set_up(&store_support::database_url().await, Setup { access, ..Setup::default() }).await;
    let (strict, _engine, _agents) = world_on(strict, &[solo, half("web")]).await;
    let mut ann = ClusterServiceClient::new(Port::caller(strict.routes.clone(), "ann"));
    let denied = ann.drill_cluster_loss(forced).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    assert!(denied.message().contains("may not override Capacity"), "{denied:?}");
    let force = api::DrainClusterRequest { force: true, reason: "an exercise".to_owned(), ..draining("blue") };
    let drained = ann.drain_cluster(force).await.unwrap_err();
    assert_eq!(drained.code(), Code::PermissionDenied);
    drain(&strict, draining("blue")).await.unwrap();
    strict.stop().await;
}

#[tokio::test]
async fn a_cordoned_cluster_keeps_what_it_has_and_what_is_asked_for_it_waits() {
    let (hub, mut engine, _agents) = world(&[half("web")]).await;
    let cordoned = cordon(&hub, cordoning("green")).await.unwrap();
    assert_eq!((cordoned.mode(), operation(&cordoned).why.as_str()), (ClusterMode::Cordoned, "Done"));
    assert!(operation(&cordoned).ended_at.is_some());
    let more = api::SetWeightsRequest {
        request_id: request_id(),
        policy: Some(policy_ref("web")),
        weights: weights(&[("blue", 20), ("green", 80)]),
        ..Default::default()
    };
    let tried = api::SetWeightsRequest { dry_run: true, ..more.clone() };
    let notes = hub.policies().set_weights(tried).await.unwrap().into_inner().plan.unwrap().notes;
    assert!(
        notes.iter().any(|note| (note.cluster.as_str(), note.reason.as_str()) == ("green", "Cordoned")),
        "{notes:?}"
    );
    hub.policies().set_weights(more).await.unwrap();
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 50), ("green", 50)]), "no new weight");
    let explained = explain(&hub, "web").await;
    let explanation = explained.explanation.unwrap();
    assert_eq!(explanation.state(), FailoverState::FailedOver);
    let green = explanation.clusters.iter().find(|one| one.cluster == "green").unwrap();
    assert_eq!((green.mode(), green.reason.as_str()), (ClusterMode::Cordoned, "Cordoned"), "{green:?}");
    assert_eq!((green.requested_weight, green.programmed_weight), (80, Some(50)));

    let answer = hub.apply(&half("api")).await.unwrap();
    let warned = answer.warnings.iter().any(|text| text.contains("green") && text.contains("yardctl uncordon green"));
    assert!(warned, "{answer:?}");
    uncordon(&hub, "green").await.unwrap();
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 20), ("green", 80)]));
    hub.stop().await;
}

#[tokio::test]
async fn a_cluster_is_removed_when_no_policy_gives_it_requests_and_may_return() {
    let (hub, mut engine, _agents) = world(&[half("api"), half("web")]).await;
    let refused = remove(&hub, "blue").await.unwrap_err();
    let both = ["api", "web"].map(|name| ("StillCarries".to_owned(), name.to_owned()));
    assert_eq!(findings(&refused), both);
    assert!(refused.message().contains("yardctl drain blue"), "{refused:?}");
    drain(&hub, draining("blue")).await.unwrap();
    engine.settle(&hub).await;
    assert_eq!(findings(&remove(&hub, "blue").await.unwrap_err()), both, "their specs still do");
    for name in ["api", "web"] {
        hub.apply(&policy(name, &[("green", 100)], "")).await.unwrap();
    }
    engine.settle(&hub).await;
    let removed = remove(&hub, "blue").await.unwrap();
    assert_eq!((removed.mode(), removed.link()), (ClusterMode::Removed, api::ClusterLink::Removed));
    engine.settle(&hub).await;
    let shown = cluster(&hub, "blue").await;
    assert_eq!((operation(&shown).why.as_str(), shown.link()), ("Done", api::ClusterLink::Removed), "{shown:?}");
    let late = cordon(&hub, cordoning("blue")).await.unwrap_err();
    assert_eq!(findings(&late), [("ClusterMode".to_owned(), String::new())]);
    uncordon(&hub, "blue").await.unwrap();
    engine.settle(&hub).await;
    assert_eq!(cluster(&hub, "blue").await.mode(), ClusterMode::Active);
    hub.stop().await;
}

#[tokio::test]
async fn refusals_name_the_field_the_clusters_that_are_known_and_the_version_that_is_there() {
    let hub = hub().await;
    hub.apply(&half("web")).await.unwrap();
    let unknown = cordon(&hub, cordoning("red")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("the hub knows blue, green"), "{unknown:?}");
    let request = api::WatchClustersRequest { cluster: "red".to_owned() };
    assert_eq!(hub.clusters().watch_clusters(request).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(violations(&cordon(&hub, cordoning("Blue!")).await.unwrap_err()), ["cluster"]);
    let anonymous = api::CordonClusterRequest { request_id: String::new(), ..cordoning("blue") };
    assert_eq!(violations(&cordon(&hub, anonymous).await.unwrap_err()), ["request_id"]);
    let steps = api::DrainClusterRequest { step_percent: 101, step_seconds: 100_000, ..draining("blue") };
    assert_eq!(violations(&drain(&hub, steps).await.unwrap_err()), ["step_percent", "step_seconds"]);
    let endless = api::DrillClusterLossRequest { duration_seconds: 0, ..drilling("blue") };
    assert_eq!(violations(&drill(&hub, endless).await.unwrap_err()), ["duration_seconds"]);
    let unread = drill(&hub, drilling("blue")).await.unwrap_err();
    assert_eq!(unread.code(), Code::Unavailable, "nobody can say what it would do: {unread:?}");

    let request = cordoning("blue");
    let first = cordon(&hub, request.clone()).await.unwrap();
    assert_eq!(operation(&first).version, 1);
    assert_eq!(cordon(&hub, request.clone()).await.unwrap(), first);
    let other = api::CordonClusterRequest { cluster: "green".to_owned(), ..request };
    assert_eq!(cordon(&hub, other).await.unwrap_err().code(), Code::AlreadyExists);
    let stale = api::DrainClusterRequest { expected_version: 7, ..draining("blue") };
    for dry_run in [false, true] {
        hub.aws_was_read();
        let stale = api::DrainClusterRequest { dry_run, ..stale.clone() };
        let refused = drain(&hub, stale).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted);
        let conflict = api::VersionConflict::decode(refused.details()).unwrap();
        assert_eq!((conflict.expected_version, conflict.present_version), (7, 1));
    }
    let entries = api::ListAuditEntriesRequest::default();
    let entries = hub.audit().list_audit_entries(entries).await.unwrap().into_inner().entries;
    let cordons: Vec<_> = entries.iter().filter(|entry| entry.action == "cluster.cordon").collect();
    assert_eq!(cordons.len(), 1, "what is so already, and what was refused, is no entry");
    hub.stop().await;
}

/// In an emergency AWS may be what is away: what was asked for is stored, and the answer says that nobody knows what it will do.
#[tokio::test]
async fn a_drain_and_a_forced_game_day_are_taken_without_a_forecast_and_say_so() {
    let hub = hub().await;
    for name in ["api", "web"] {
        hub.apply(&half(name)).await.unwrap();
    }
    hub.apply(&policy("other", &[("green", 1)], "")).await.unwrap();
    let tried = drain(&hub, api::DrainClusterRequest { dry_run: true, ..draining("blue") }).await.unwrap_err();
    assert_eq!(tried.code(), Code::Unavailable, "{tried:?}");
    let drained = drain(&hub, draining("blue")).await.unwrap();
    assert_eq!(drained.cluster.unwrap().mode(), ClusterMode::Draining);
    let forced = api::DrillClusterLossRequest { force: true, reason: "it burns".to_owned(), ..drilling("green") };
    let drilled = drill(&hub, forced).await.unwrap();
    assert_eq!(drilled.cluster.unwrap().mode(), ClusterMode::Drained);
    let unknown =
        |names: &[&'static str]| names.iter().map(|name| (*name, ForecastVerdict::Unspecified)).collect::<Vec<_>>();
    assert_eq!(verdicts(&drained.forecast), unknown(&["api", "web"]));
    assert_eq!(verdicts(&drilled.forecast), unknown(&["api", "other", "web"]));
    for one in drained.forecast.iter().chain(&drilled.forecast) {
        assert_eq!(one.reason, "NotPlanned");
        assert!(one.message.contains("without a forecast: AWS was not read by this replica yet"), "{one:?}");
    }
    hub.stop().await;
}

/// The hub was away for longer than an agent may be silent: both agents of one cluster come back, the relieved one first.
#[tokio::test]
async fn a_relieved_agent_does_not_take_its_cluster_back_by_a_restart_of_the_hub() {
    let first = hub().await;
    let url = first.url.clone();
    let (old, new) = (grpc_support::hello("blue"), grpc_support::hello("blue"));
    let mut older = Agent::connect(&first, old.clone()).await;
    older.welcome().await;
    let mut newer = Agent::connect(&first, new.clone()).await;
    newer.welcome().await;
    assert_eq!(older.end().await.code(), Code::FailedPrecondition);
    first.stop().await;
    drop(newer);
    let raw = sqlx::PgPool::connect(&url).await.unwrap();
    sqlx::query("update heartbeats set at = now() - interval '1 hour'").execute(&raw).await.unwrap();
    let second = hub_on(&url).await;
    let refused = Agent::connect(&second, old).await.end().await;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("was relieved"), "{refused:?}");
    Agent::connect(&second, new).await.welcome().await;
    // One that was restarted together with the hub is new, and waits for nobody.
    Agent::connect(&second, grpc_support::hello("blue")).await.welcome().await;
    second.stop().await;
}

#[tokio::test]
async fn a_watch_of_all_tells_of_clusters_that_change_and_of_no_others() {
    let (hub, _engine, _agents) = world(&[half("web")]).await;
    let mut stream = watch(&hub, "").await;
    let first: BTreeMap<String, u32> = [next(&mut stream).await, next(&mut stream).await]
        .into_iter()
        .map(|cluster| (cluster.name, cluster.endpoints))
        .collect();
    assert_eq!(first, map(&[("blue", 3), ("green", 3)]));
    cordon(&hub, cordoning("green")).await.unwrap();
    let told = next(&mut stream).await;
    assert_eq!((told.name.as_str(), told.mode(), told.endpoints), ("green", ClusterMode::Cordoned, 3));
    hub.stop().await;
    assert_eq!(timeout(PATIENCE, stream.message()).await.unwrap().unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn failover_explains_itself_and_waits_for_somebodys_word() {
    let rules =
        "  failover: {unhealthyAfterSeconds: 0, healthyAfterSeconds: 0, failback: Manual, maxMovesPerHour: 60}\n";
    let web = policy("web", &[("blue", 50), ("green", 50)], rules);
    let hub = hub().await;
    hub.apply(&web).await.unwrap();
    assert_eq!(explain(&hub, "web").await.explanation, None, "it was not planned yet");
    let (hub, mut engine, _agents) = world_on(hub, &[web]).await;
    let calm = explain(&hub, "web").await.explanation.unwrap();
    assert_eq!((calm.state(), calm.max_moves_per_hour), (FailoverState::AsRequested, 60));
    let failback = |id: String| api::FailbackPolicyRequest {
        request_id: id,
        policy: Some(policy_ref("web")),
        reason: "looked at it".to_owned(),
        ..Default::default()
    };
    let nothing = hub.policies().failback_policy(failback(request_id())).await.unwrap_err();
    assert_eq!(nothing.code(), Code::FailedPrecondition);
    assert!(nothing.message().contains("nothing is out in policy shop/web"), "{nothing:?}");

    engine.sick.insert("blue".to_owned());
    engine.turn(&hub).await;
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("green", 100)]));
    let explained = explain(&hub, "web").await;
    let failed = explained.explanation.unwrap();
    assert_eq!(failed.state(), FailoverState::FailedOver);
    let blue = failed.clusters.iter().find(|one| one.cluster == "blue").unwrap();
    assert_eq!((blue.expected_targets, blue.healthy_targets, blue.unhealthy_targets), (3, 0, 3), "{blue:?}");
    assert_eq!((blue.score_permille, blue.used_permille, blue.share_permille), (0, 0, 0));
    assert_eq!((blue.link(), blue.mode()), (api::ClusterLink::Connected, ClusterMode::Active), "its agent is fine");
    assert!(blue.out_since.is_some() && !blue.message.is_empty(), "{blue:?}");
    let conditions = explained.policy.unwrap().status.unwrap().conditions;
    let failed_over = conditions.iter().find(|one| one.r#type == "FailedOver").unwrap();
    assert_eq!(failed_over.status(), ConditionStatus::True);

    let entries = async || {
        let entries = api::ListAuditEntriesRequest { policy: Some(policy_ref("web")), ..Default::default() };
        let entries = hub.audit().list_audit_entries(entries).await.unwrap().into_inner().entries;
        entries.into_iter().filter(|entry| entry.action.starts_with("failover.")).collect::<Vec<_>>()
    };
    let [out] = &entries().await[..] else { panic!("one entry") };
    assert_eq!((out.action.as_str(), out.reason.as_str()), ("failover.out", failed.message.as_str()));
    assert!(out.detail_json.contains(r#""wentOut": ["blue"]"#), "{out:?}");

    engine.sick.clear();
    engine.turn(&hub).await;
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("green", 100)]), "it waits for somebody");
    let waits = explain(&hub, "web").await.explanation.unwrap();
    let pending = waits.clusters.iter().find(|one| one.cluster == "blue").unwrap().pending.unwrap();
    assert!(pending.back && pending.at.is_none(), "{pending:?}");
    let id = request_id();
    let told = hub.policies().failback_policy(failback(id.clone())).await.unwrap().into_inner().policy.unwrap();
    engine.settle(&hub).await;
    assert_eq!(engine.in_force(&hub, "web"), map(&[("blue", 50), ("green", 50)]));
    assert_eq!(entries().await[0].action, "failover.back");
    let again = hub.policies().failback_policy(failback(id)).await.unwrap().into_inner().policy.unwrap();
    assert_eq!(again.version, told.version, "the first answer, although nothing is out any more");
    let nobody = api::FailbackPolicyRequest { policy: Some(policy_ref("none")), ..failback(request_id()) };
    assert_eq!(hub.policies().failback_policy(nobody).await.unwrap_err().code(), Code::NotFound);
    hub.stop().await;
}
