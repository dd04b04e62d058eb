//! Tests of the conversions of what is known and wanted of clusters.

use switchyard_core::{
    fleet::{Operation, Why},
    inventory::{Cluster, Link, SourceProblem},
};

use super::*;

fn key(name: &str) -> PolicyKey {
    PolicyKey::new("shop", name).unwrap()
}

fn progress(i: usize, done: bool) -> Progress {
    Progress {
        policy: key(&format!("p{i}")),
        done,
        programmed: Some(Weight::new(25).unwrap()),
        targets: 4,
        reason: if done { Reason::AsRequested } else { Reason::Settling },
        message: if done { String::new() } else { "settles".to_owned() },
    }
}

fn state(mode: Mode, kind: Kind, policies: usize) -> ClusterState {
    ClusterState {
        cluster: "blue".parse().unwrap(),
        version: 7,
        mode,
        percent: 50,
        deregister: true,
        operation: Operation {
            id: "op-1".to_owned(),
            kind,
            actor: "somebody".to_owned(),
            reason: "upgrade".to_owned(),
            started_at: "2026-11-21T10:00:00Z".parse().unwrap(),
            until: Some("2026-11-21T11:00:00Z".parse().unwrap()),
            ended_at: None,
            step_percent: 25,
            step_seconds: 60,
            stepped_at: None,
            force: true,
            why: Why::InProgress,
            message: "at 50 %".to_owned(),
            progress: (0..policies).map(|i| progress(i, i == 0)).collect(),
        },
    }
}

fn announced() -> Cluster {
    Cluster {
        name: "blue".parse().unwrap(),
        region: "eu-central-1".to_owned(),
        vpc_id: "vpc-1".parse().unwrap(),
        link: Link::Connected,
        session_since: None,
        reports_nodes: true,
        problems: vec![SourceProblem {
            namespace: "shop".to_owned(),
            kind: "Pod".to_owned(),
            message: "forbidden".to_owned(),
        }],
    }
}

fn shown(announced: Option<&Cluster>, state: Option<&ClusterState>) -> proto::Cluster {
    let name = "blue".parse().unwrap();
    to_proto_cluster(&ClusterParts { name: &name, announced, info: None, state, endpoints: 3 })
}

#[test]
fn a_cluster_that_nobody_touched_is_active_and_one_never_seen_has_no_link() {
    let plain = shown(Some(&announced()), None);
    assert_eq!((plain.mode(), plain.link()), (proto::ClusterMode::Active, proto::ClusterLink::Connected));
    assert_eq!((plain.operation, plain.endpoints, plain.problems.len()), (None, 3, 1));
    let unseen = shown(None, None);
    assert_eq!((unseen.name.as_str(), unseen.link()), ("blue", proto::ClusterLink::Unknown));
    assert_eq!((unseen.region.as_str(), unseen.vpc_id.as_str()), ("", ""));
}

#[test]
fn an_operation_keeps_every_field() {
    let made = shown(Some(&announced()), Some(&state(Mode::Draining, Kind::Drain, 2)));
    assert_eq!((made.mode(), made.link()), (proto::ClusterMode::Draining, proto::ClusterLink::Connected));
    let operation = made.operation.unwrap();
    assert_eq!((operation.id.as_str(), operation.kind()), ("op-1", proto::ClusterOperationKind::Drain));
    assert_eq!((operation.actor.as_str(), operation.reason.as_str()), ("somebody", "upgrade"));
    assert!(operation.started_at.is_some() && operation.until.is_some() && operation.ended_at.is_none());
    let numbers = [operation.percent, operation.step_percent, operation.step_seconds];
    assert_eq!((numbers, operation.force, operation.version), ([50, 25, 60], true, 7));
    assert_eq!((operation.why.as_str(), operation.message.as_str()), ("InProgress", "at 50 %"));
    let (done, waits) = (&operation.progress[0], &operation.progress[1]);
    assert_eq!((done.done, done.reason.as_str(), done.programmed_weight, done.targets), (true, "", Some(25), 4));
    assert_eq!((waits.done, waits.reason.as_str(), waits.message.as_str()), (false, "Settling", "settles"));
}

#[test]
fn a_removed_cluster_is_shown_as_such_whatever_its_agent_does() {
    for announced in [Some(&announced()), None] {
        let removed = shown(announced, Some(&state(Mode::Removed, Kind::Remove, 0)));
        assert_eq!((removed.mode(), removed.link()), (proto::ClusterMode::Removed, proto::ClusterLink::Removed));
    }
}

#[test]
fn the_progress_is_bounded() {
    let made = shown(None, Some(&state(Mode::Draining, Kind::Drain, MOST_PROGRESS + 5)));
    assert_eq!(made.operation.unwrap().progress.len(), MOST_PROGRESS);
}

#[test]
fn every_mode_kind_and_verdict_has_its_word() {
    let modes = [Mode::Active, Mode::Cordoned, Mode::Draining, Mode::Drained, Mode::Returning, Mode::Removed];
    let words = modes.map(|mode| to_proto_mode(mode).as_str_name().trim_start_matches("CLUSTER_MODE_").to_owned());
    assert_eq!(words, modes.map(|mode| mode.to_string().to_uppercase()));
    let kinds = [Kind::Cordon, Kind::Drain, Kind::Uncordon, Kind::Remove, Kind::Drill];
    let words = kinds.map(|kind| to_proto_kind(kind).as_str_name().to_owned());
    assert_eq!(words, kinds.map(|kind| format!("CLUSTER_OPERATION_KIND_{}", kind.to_string().to_uppercase())));
    use Verdict::{Carried, NotCarried, Overloaded, Unproven, Untouched};
    let words = [Untouched, Carried, Unproven, Overloaded, NotCarried].map(|one| to_proto_verdict(one).as_str_name());
    let expected = ["UNTOUCHED", "CARRIED", "UNPROVEN", "OVERLOADED", "NOT_CARRIED"];
    assert_eq!(words.map(|word| word.trim_start_matches("FORECAST_VERDICT_")), expected);
}

#[test]
fn a_forecast_keeps_its_numbers() {
    let forecast = Forecast {
        verdict: Verdict::Unproven,
        reason: Reason::FailedOver,
        message: "green takes it".to_owned(),
        clusters: vec![ClusterForecast {
            cluster: "green".parse().unwrap(),
            before: Weight::new(50).unwrap(),
            after: Weight::new(100).unwrap(),
            share_before: 500,
            share_after: 1000,
            healthy: 4,
            capacity: None,
        }],
    };
    let made = to_proto_forecast(&key("web"), &forecast);
    assert_eq!((made.verdict(), made.reason.as_str()), (proto::ForecastVerdict::Unproven, "FailedOver"));
    assert_eq!(made.message, "green takes it");
    let one = &made.clusters[0];
    let numbers = [one.weight_before, one.weight_after, one.share_before_permille, one.share_after_permille];
    assert_eq!((numbers, one.healthy_targets, one.capacity_permille), ([50, 100, 500, 1000], 4, None));
}
