//! Proofs that are taken back while they are in use, and identities that two agents have, under traffic. Whatever happens to an agent,
//! the targets of its cluster stay where they are.

use std::{fs, path::Path, time::Duration};

use switchyard_tests::{
    audit, guard,
    guarded::{Guarded, Watch, soon, sum},
    member::Agent,
    wait,
};
use tonic::Code;

const POLICY: &str = "shop/checkout";
const DENIED: i32 = 9;
/// An agent whose certificate was refused has a look at it every 30 s at the most, and waits for growing times between tries.
const HEALED_WITHIN: Duration = Duration::from_secs(120);
/// An agent that another one relieved asks again after 30 s at the most.
const BACK_WITHIN: Duration = Duration::from_secs(90);

/// Waits until the hub has exactly so many sessions of agents.
async fn has_sessions(place: &Guarded, number: u64) {
    soon(&format!("{number} agents to be connected"), async || {
        let open = place.open_sessions().await;
        wait::check(open == number, || open.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_and_a_revoked_token_end_their_streams_at_once_and_a_new_join_token_heals() {
    let mut place = Guarded::set(guard::Settings::default()).await;
    let (yardctl, url) = (place.stage.world.yardctl.clone(), place.url());
    let file = place.guard().folder().join("ci.token");
    let out = file.display().to_string();
    let words = ["token", "create", "ci", "--role", "viewer", "--namespaces", "shop", "--clusters", "*", "--out", &out];
    yardctl.expect(&words, "").await;
    let token = fs::read_to_string(&file).expect("the token");
    let token = token.trim();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).expect("the file").permissions());
    assert_eq!(mode & 0o077, 0, "nobody else may read it");
    let ci = place.guard().by_token(&url, "ci-copy", token).expect("yardctl");
    ci.expect(&["status", POLICY], "").await;
    let channel = place.guard().channel(&url, None).await.expect("a connection");
    let watch = Watch::open(channel, Some(token)).await.expect("a stream");
    let before = place.stage.targets(POLICY).await;

    yardctl.expect(&["token", "revoke", "ci", "--reason", "it was in a repository"], "").await;
    let (status, _) = watch.ended().await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let refused = ci.run(&["status", POLICY], "").await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "{refused}");

    assert_eq!(place.open_sessions().await, 2);
    yardctl.expect(&["cluster", "revoke", "blue", "--reason", "node stolen"], "").await;
    has_sessions(&place, 1).await;
    yardctl.status_says(POLICY, &["ClusterStale", "the agent of blue is away"]).await;
    place.stage.audited().await;
    let writes = place.stage.writes().await;
    assert!(writes.is_empty(), "a revoked agent changes nothing at AWS: {writes:#?}");
    assert_eq!(place.stage.targets(POLICY).await, before, "its targets are frozen");
    // The token that it came with is used up; starting it again helps nobody.
    place.stage.world.agent("blue").stop().await.expect("the agent ends well");
    place.stage.world.agent("blue").start_again().expect("the agent starts again");
    audit::says(&yardctl, "that the revoked agent was refused", |entry| {
        entry.result == "refused" && entry.detail.to_string().contains("EnrollmentService")
            || ["certificate.refused", "join-token.replayed"].contains(&entry.action.as_str())
    })
    .await;
    assert_eq!(place.open_sessions().await, 1, "it stays out");

    place.guard().join(&yardctl, "blue").await.expect("a new token");
    let healed = wait::until_within("the agent of blue to be back", HEALED_WITHIN, async || {
        let links = place.links().await;
        wait::check(links == ["connected", "connected"], || format!("{links:?}"))
    });
    healed.await.expect("a new token lets the cluster in again");
    yardctl.converged(POLICY).await;
    assert_eq!(place.stage.targets(POLICY).await, before);
    let log = audit::entries(&yardctl).await.expect("the audit log");
    for (action, reason) in [("certificate.revoke", "node stolen"), ("service-token.revoke", "it was in a repository")]
    {
        let entry = log.iter().find(|entry| entry.action == action).unwrap_or_else(|| panic!("{action}: {log:#?}"));
        assert!(entry.actor.starts_with("certificate:CN=administrator"), "{entry:?}");
        assert!(entry.source.contains("127.0.0.1") && format!("{entry:?}").contains(reason), "{entry:?}");
    }
    place.stage.nothing_was_removed().await;
    place.all_is_well().await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the identity") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// Starts another agent with the identity of a cluster's; `name` is that of its log.
fn copied(place: &Guarded, cluster: &str, name: &str) -> Agent {
    let world = &place.stage.world;
    let identity = place.guard().folder().join(name);
    copy_folder(&place.guard().identity_folder(cluster), &identity);
    let sandbox = world.sandbox.info();
    let kubeconfig = Path::new(&sandbox.clusters[cluster].kubeconfig);
    let (region, vpc) = (sandbox.region.as_str(), sandbox.vpc_id.as_str());
    let proof = place.guard().proof(cluster, &identity);
    let agent = Agent::proving(world.folder(), name, cluster, kubeconfig, (region, vpc), &place.url(), proof);
    agent.expect("the agent starts")
}

/// Waits until an agent has logged this.
async fn logs(agent: &Agent, text: &str) {
    wait::until(&format!("the agent to log {text:?}"), async || {
        let log = agent.whole_log();
        wait::check(log.contains(text), || agent.log())
    })
    .await;
}

async fn taken_over(place: &Guarded) -> u64 {
    sum(&place.stage.world.hub, "switchyard_hub_sessions_ended_total{reason=\"taken_over\"}").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copied_identity_makes_the_older_agent_wait_and_the_two_never_take_turns() {
    let place = Guarded::set(guard::Settings::default()).await;
    let before = place.stage.targets(POLICY).await;
    let begun = place.sessions().await;
    let mut copy = copied(&place, "blue", "agent-blue-copy");
    logs(&place.stage.world.agents["blue"], "another agent").await;
    place.stage.seconds(8).await;
    assert_eq!(place.open_sessions().await, 2, "one of blue, one of green");
    let opened = place.sessions().await - begun;
    assert!(opened <= 3, "the newer one came in once, and the older one was refused: {opened} sessions were opened");
    place.none_is_stale().await;
    assert!(!copy.whole_log().contains("another agent"), "the newer one goes on: {}", copy.log());
    let writes = place.stage.writes().await;
    assert!(writes.is_empty(), "targets do not flap: {writes:#?}");
    assert_eq!(place.stage.targets(POLICY).await, before);

    // The older one comes back when its successor is silent.
    copy.stop().await.expect("the copy ends well");
    let back = wait::until_within("the first agent to be back", BACK_WITHIN, async || {
        let open = place.open_sessions().await;
        let links = place.links().await;
        wait::check(open == 2 && links == ["connected", "connected"], || format!("{open} sessions, {links:?}"))
    });
    back.await.expect("the older one takes over from one that is gone");
    place.stage.world.yardctl.converged(POLICY).await;
    place.stage.nothing_was_removed().await;
    place.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_of_the_agent_hands_the_cluster_over_once() {
    let mut place = Guarded::set(guard::Settings::default()).await;
    let (begun, handed) = (place.sessions().await, taken_over(&place).await);
    // The new pod starts and is ready, then the old one is asked to end.
    let new = copied(&place, "blue", "agent-blue-new");
    logs(&place.stage.world.agents["blue"], "another agent").await;
    place.stage.world.agent("blue").stop().await.expect("the old one ends well");
    place.stage.seconds(3).await;
    assert_eq!(place.sessions().await - begun, 1, "one session for one update");
    assert!(taken_over(&place).await - handed <= 1);
    place.none_is_stale().await;
    let writes = place.stage.writes().await;
    assert!(writes.is_empty(), "{writes:#?}");
    place.stage.world.agents.insert("blue".to_owned(), new);
    place.all_is_well().await;
}
