//! Who may do what, under traffic: nothing that happens to certificates, tokens and rights costs a request or moves a target. This file:
//! the whole way of a cluster from its join token to traffic, what callers may do, and the access file.

use http::Method;
use serde_json::{Value, json};
use switchyard_tests::{
    audit,
    guard::{self, ADMINISTRATOR, binding},
    guarded::{Guarded, Watch, soon, sum},
    issuer::Algorithm,
    policy::Policy,
    wait,
    world::Builder,
};
use tonic::Code;

const POLICY: &str = "shop/checkout";
/// Exit code of yardctl for those who may not.
const DENIED: i32 = 9;

/// yardctl's words on who calls.
async fn identity(yardctl: &switchyard_tests::yardctl::Yardctl) -> Value {
    serde_json::from_str(&yardctl.expect(&["whoami", "-o", "json"], "").await.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_joins_with_a_token_its_policy_converges_and_everybody_is_named_in_the_audit_log() {
    // The builder has yardctl make a token for each cluster, and starts its agent with that and nothing else.
    let builder = Builder { guarded: Some(guard::Settings::default()), ..Builder::default() };
    let world = builder.start().await.expect("the world starts");
    let hub = world.hub.grpc_url();

    let nobody = world.guard().nobody(&hub).expect("yardctl");
    let refused = nobody.run(&["get", "policies"], "").await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "who proves nothing sees nothing: {refused}");
    let stranger = world.guard().callers.client(world.guard().folder(), "stranger", "stranger", &[]).expect("files");
    let stranger = world.guard().by_certificate(&hub, &stranger).expect("yardctl");
    assert_eq!(identity(&stranger).await["method"], "certificate");
    let policy = Policy::new("checkout", &[("blue", 50), ("green", 50)]);
    let refused = stranger.run(&["apply", "-f", "-"], &policy.yaml()).await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "a certificate without a binding proves who, and allows nothing: {refused}");

    world.yardctl.apply_until_converged(&policy).await;
    world.all_healthy(POLICY).await;
    let load = world.load("checkout", 200).await;
    load.more(400).await;
    world.yardctl.weights_until_converged(POLICY, &["blue=0", "green=100"]).await;
    load.mark("after").await.expect("a mark is set");
    load.more(200).await;
    let report = load.finish_without_failures().await;
    let answered: Vec<&String> = report.windows[0].report.by_cluster.keys().collect();
    assert_eq!(answered, ["green"], "{report:?}");

    let administrator = format!("certificate:CN={ADMINISTRATOR}");
    let log = audit::entries(&world.yardctl).await.expect("the audit log");
    for (action, cluster) in [("join-token.create", "blue"), ("join-token.create", "green")] {
        let made = log.iter().find(|entry| entry.action == action && entry.cluster() == cluster);
        let made = made.unwrap_or_else(|| panic!("{action} {cluster}: {log:#?}"));
        assert!(made.actor.starts_with(&administrator) && made.source.contains("127.0.0.1"), "{made:?}");
    }
    for cluster in ["blue", "green"] {
        let issued = log.iter().filter(|entry| entry.action == "certificate.issue" && entry.cluster() == cluster);
        let issued: Vec<_> = issued.collect();
        assert!(issued.len() == 1 && issued[0].source.contains("127.0.0.1"), "one certificate each: {issued:#?}");
        assert_eq!(issued[0].detail["proof"], "join-token", "{issued:?}");
    }
    let applied = log.iter().find(|entry| entry.policy == POLICY && entry.result == "done").expect("an entry");
    assert!(applied.actor.starts_with(&administrator) && applied.source.contains("127.0.0.1"), "{applied:?}");
    audit::says(&world.yardctl, "that the stranger was refused", |entry| {
        entry.result == "refused" && entry.actor.starts_with("certificate:CN=stranger")
    })
    .await;
    // What is a secret is shown to nobody: not in the log of the hub, not in the audit log.
    let (logs, log) = (std::fs::read_to_string(world.hub.log_file()).expect("the log"), format!("{log:?}"));
    for cluster in ["blue", "green"] {
        let token = std::fs::read_to_string(world.guard().join_token_file(cluster)).expect("the token");
        let secret = token.trim().rsplit('_').next().expect("a secret");
        assert!(!logs.contains(secret) && !log.contains(secret), "the secret of {cluster} was written down");
    }
    audit::verified(&world.yardctl).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_taken_away_is_gone_at_once_and_a_broken_file_changes_nothing() {
    let user = |user: &str| json!({"issuer": guard::ISSUER, "user": user});
    let bindings = vec![
        binding("viewer", &["shop"], &["*"], user("ann")),
        binding("operator", &["shop"], &["blue", "green"], json!({"issuer": guard::ISSUER, "group": "movers"})),
    ];
    let mut place = Guarded::set(guard::Settings { bindings, ..guard::Settings::default() }).await;
    let hub = place.url();
    let guard = place.guard();
    let ann = guard.by_token(&hub, "ann", &guard.token("ann", &[])).expect("yardctl");
    let bob = guard.by_token(&hub, "bob", &guard.token("bob", &["movers"])).expect("yardctl");
    let channel = guard.channel(&hub, None).await.expect("a connection");
    let watch = Watch::open(channel, Some(&guard.token("ann", &[]))).await.expect("a stream");
    ann.expect(&["status", POLICY], "").await;
    let refused = ann.run(&["weights", POLICY, "blue=40", "green=60"], "").await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "who looks does not move: {refused}");
    assert!(refused.stderr.contains("operator"), "it says what is needed: {refused}");
    let refused = bob.run(&["cluster", "join", "red"], "").await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "who moves lets nobody in: {refused}");

    // A fault anywhere refuses the whole file; its good lines are not taken either.
    let mut broken = place.guard().access.clone();
    broken["bindings"][1]["subjects"] = json!([]);
    broken["bindings"][2]["role"] = json!("owner");
    place.guard().write_access(&broken.to_string()).expect("the file is written");
    let not_in_force = async || {
        let ok = sum(&place.stage.world.hub, "switchyard_hub_access_file_ok").await;
        wait::check(ok == 0, || format!("{ok}"))
    };
    soon("the hub to see that the file is broken", not_in_force).await;
    // The good one again in between: what is no YAML at all has to be seen for itself.
    place.guard().write_access(&place.guard().access.to_string()).expect("the file is written");
    let in_force = async || {
        let ok = sum(&place.stage.world.hub, "switchyard_hub_access_file_ok").await;
        wait::check(ok == 1, || format!("{ok}"))
    };
    soon("the hub to take the file from before", in_force).await;
    place.guard().write_access("bindings: [").expect("the file is written");
    soon("the hub to see that the file is no YAML", not_in_force).await;
    ann.expect(&["status", POLICY], "").await;
    assert!(watch.is_open(), "a broken file ends no stream");
    bob.weights_until_converged(POLICY, &["blue=40", "green=60"]).await;
    place.stage.forget().await;

    place
        .stage
        .world
        .guard_mut()
        .change_access(|access| {
            access["bindings"].as_array_mut().expect("bindings").retain(|binding| binding["role"] == "admin");
        })
        .expect("the file is written");
    let taken_away = async || {
        let refused = ann.run(&["get", "policies"], "").await.map_err(|error| error.to_string())?;
        wait::check(refused.code == DENIED, || refused.to_string())
    };
    soon("ann to see nothing any more", taken_away).await;
    let (status, _) = watch.ended().await;
    assert_ne!(status.code(), Code::Ok, "her stream does not outlive her right: {status:?}");
    let refused = bob.run(&["weights", POLICY, "blue=50", "green=50"], "").await.expect("yardctl runs");
    assert_eq!(refused.code, DENIED, "{refused}");
    assert_eq!(sum(&place.stage.world.hub, "switchyard_hub_access_file_ok").await, 1);

    let yardctl = place.stage.world.yardctl.clone();
    let moved = audit::says(&yardctl, "who moved the weights", |entry| {
        entry.action == "set-weights" && entry.result == "done" && entry.actor == "corp:bob"
    })
    .await;
    assert!(moved.source.contains("127.0.0.1") && moved.policy == POLICY, "{moved:?}");
    audit::says(&yardctl, "that bob was refused", |entry| entry.result == "refused" && entry.actor == "corp:bob").await;
    place.stage.nothing_was_removed().await;
    place.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_issuer_roll_over_and_it_goes_away_without_a_failed_call() {
    let bindings = vec![binding("viewer", &["shop"], &["*"], json!({"issuer": guard::ISSUER, "user": "ann"}))];
    // A call every 20 ms is what one caller may ask for in the long run; here it is not what is asked about.
    let hub_arguments = vec!["--caller-read-rate=200:400".to_owned()];
    let settings = guard::Settings { bindings, hub_arguments, ..guard::Settings::default() };
    let mut place = Guarded::set(settings).await;
    let hub = place.url();
    let guard = place.guard();
    let channel = guard.channel(&hub, None).await.expect("a connection");
    let watch = Watch::open(channel.clone(), Some(&guard.token("ann", &[]))).await.expect("a stream");
    let calls = crate::identity_calls::Calls::start(channel.clone(), guard.token("ann", &[]));
    calls.more(50).await;

    let next = switchyard_tests::issuer::Key::make("next", Algorithm::Rs256).expect("a key");
    let last = switchyard_tests::issuer::Key::make("last", Algorithm::EdDsa).expect("a key");
    // An unknown key is looked for at most every 10 s, however many tokens name one.
    place.stage.seconds(11).await;
    let guard = place.guard();
    let asked = guard.issuer.asked();
    guard.issuer.publish(&[&guard.key, &next]);
    calls.use_token(&next.sign(&guard.issuer.claims("ann", &[])));
    calls.more(100).await;
    assert_eq!(guard.issuer.asked(), asked + 1, "the new key was fetched once");
    calls.use_token(&guard.token("ann", &[]));
    calls.more(50).await;
    guard.issuer.publish(&[&next]);
    calls.use_token(&next.sign(&guard.issuer.claims("ann", &[])));
    calls.more(50).await;

    place.stage.seconds(11).await;
    place.stage.world.guard_mut().issuer.stop();
    let guard = place.guard();
    // A key that nobody can ask about now is refused, and costs the others nothing.
    let unknown = guard.by_token(&hub, "unknown", &last.sign(&guard.issuer.claims("ann", &[]))).expect("yardctl");
    let refused = unknown.run(&["get", "policies", "--timeout", "2s"], "").await.expect("yardctl runs");
    assert_ne!(refused.code, 0, "{refused}");
    calls.more(200).await;
    assert!(watch.is_open(), "the stream of a token outlives the rollover of its key");

    place.stage.world.guard_mut().issuer.start_again().await.expect("the issuer comes back");
    let guard = place.guard();
    guard.issuer.publish(&[&next, &last]);
    place.stage.seconds(11).await;
    calls.use_token(&last.sign(&place.guard().issuer.claims("ann", &[])));
    calls.more(100).await;
    let made = calls.finish().await;
    assert!(made > 500, "{made} calls");
    drop(watch);
    place.stage.nothing_was_removed().await;
    place.all_is_well().await;
}

/// The gateway asks for the same proofs as the gRPC port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_and_the_port_of_health_know_the_same_callers() {
    let place = Guarded::set(guard::Settings::default()).await;
    let world = &place.stage.world;
    let pages = switchyard_tests::client::Client::new(world.hub.http_url());
    let (status, _) = pages.send(Method::GET, "/healthz", Vec::new()).await.expect("an answer");
    assert!(status.is_success(), "health is free: {status}");
    let url = format!("{}/v1/policies", world.hub.gateway_url());
    let authority = world.guard().servers.file().display().to_string();
    let curl = async |more: &[&str]| {
        let mut command = tokio::process::Command::new("curl");
        command.args(["-sS", "--max-time", "10", "--cacert", &authority, "-w", "\n%{http_code}", &url]).args(more);
        let output = command.output().await.expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let nobody = curl(&[]).await;
    assert!(nobody.ends_with("\n401"), "{nobody}");
    let pair = &world.guard().administrator;
    let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
    let administrator = curl(&["--cert", &certificate, "--key", &key]).await;
    assert!(administrator.ends_with("\n200") && administrator.contains("checkout"), "{administrator}");
    let ann = format!("Authorization: Bearer {}", world.guard().token("ann", &[]));
    let unbound = curl(&["-H", &ann]).await;
    assert!(unbound.ends_with("\n403"), "a token without a binding allows nothing: {unbound}");
    place.all_is_well().await;
}
