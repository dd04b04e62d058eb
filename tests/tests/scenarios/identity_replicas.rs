//! What one replica knows of certificates, tokens and revocations the others know too, after a death as well; and who is known stays
//! known while the database is away.

use switchyard_tests::{
    audit,
    chaos::holds_the_lease,
    guard,
    guarded::{Guarded, Watch, soon},
    wait,
    yardctl::Yardctl,
};

const POLICY: &str = "shop/checkout";
const DENIED: i32 = 9;
/// Exit code for a hub that cannot do it now.
const UNAVAILABLE: i32 = 6;

/// The administrator makes a service token.
async fn token(yardctl: &Yardctl, name: &str) -> String {
    let words =
        ["token", "create", name, "--role", "operator", "--namespaces", "shop", "--clusters", "*", "-o", "json"];
    let finished = yardctl.expect(&words, "").await;
    let made: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    made["secret"].as_str().expect("a secret").to_owned()
}

async fn refused(yardctl: &Yardctl) {
    soon("a revoked token to be refused", async || {
        let finished = yardctl.run(&["status", POLICY], "").await.map_err(|error| error.to_string())?;
        wait::check(finished.code == DENIED, || finished.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_know_the_same_proofs_also_after_one_was_killed() {
    let mut place = Guarded::set(guard::Settings::default()).await;
    let mut second = place.second_replica().await;
    let (first_url, second_url) = (place.url(), second.grpc_url());
    let administrator = place.stage.world.yardctl.clone();
    let there = place.guard().by_administrator(&second_url).expect("yardctl");
    let (kept, gone) = (token(&administrator, "kept").await, token(&there, "gone").await);
    let at = |url: &str, name: &str, token: &str| place.guard().by_token(url, name, token).expect("yardctl");
    let kept = [at(&first_url, "kept", &kept), at(&second_url, "kept", &kept)];
    let gone = [at(&first_url, "gone", &gone), at(&second_url, "gone", &gone)];
    for yardctl in kept.iter().chain(&gone) {
        yardctl.expect(&["status", POLICY], "").await;
    }
    // Revoked at one, refused at both.
    there.expect(&["token", "revoke", "gone"], "").await;
    for yardctl in &gone {
        refused(yardctl).await;
    }
    let certificates =
        async |yardctl: &Yardctl| yardctl.expect(&["cluster", "certificates", "-o", "json"], "").await.stdout;
    assert_eq!(certificates(&administrator).await, certificates(&there).await);

    place.stage.world.begin_rolling_update("v2").await;
    place.stage.world.hub.kill_9();
    holds_the_lease(&second, true).await;
    kept[1].expect(&["status", POLICY], "").await;
    refused(&gone[1]).await;
    place.stage.world.hub.start_again().await.expect("the first replica comes back");
    place.stage.world.connected().await;
    place.stage.world.rolled().await;
    kept[0].expect(&["status", POLICY], "").await;
    refused(&gone[0]).await;
    assert_eq!(certificates(&administrator).await, certificates(&there).await);
    let issued = (place.issued("blue").await, place.issued("green").await);
    assert_eq!(issued, (1, 1), "nobody needed a new certificate");

    // A certificate that is revoked at the second ends the streams of the first.
    there.expect(&["cluster", "revoke", "green", "--reason", "a drill"], "").await;
    soon("green to be out", async || {
        let open = place.open_sessions().await;
        wait::check(open == 1, || open.to_string())
    })
    .await;
    place.guard().join(&there, "green").await.expect("a new token");
    place.stage.world.agent("green").stop().await.expect("the agent ends well");
    place.stage.world.agent("green").start_again().expect("the agent starts again");
    place.stage.world.connected().await;
    second.stop().await.expect("the second replica ends well");
    holds_the_lease(&place.stage.world.hub, true).await;
    place.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_and_agents_that_are_known_stay_known_while_the_database_is_away() {
    let mut place = Guarded::with_postgres(guard::Settings::default()).await;
    let (url, administrator) = (place.url(), place.stage.world.yardctl.clone());
    let secret = token(&administrator, "ci").await;
    let ci = place.guard().by_token(&url, "ci", &secret).expect("yardctl");
    ci.expect(&["status", POLICY], "").await;
    let channel = place.guard().channel(&url, None).await.expect("a connection");
    let watch = Watch::open(channel, Some(&secret)).await.expect("a stream");
    let begun = place.sessions().await;

    place.postgres.as_mut().expect("a Postgres of its own").stop_immediately().await.expect("Postgres ends at once");
    place.stage.seconds(4).await;
    ci.expect(&["status", POLICY], "").await;
    administrator.expect(&["status", POLICY], "").await;
    assert!(watch.is_open(), "a stream goes on");
    assert_eq!(place.sessions().await, begun, "agents' streams go on");
    let refused = administrator.run(&["cluster", "join", "red", "--timeout", "2s"], "").await.expect("yardctl runs");
    assert_eq!(refused.code, UNAVAILABLE, "nobody is let in without the store: {refused}");
    let unknown =
        place.guard().by_token(&url, "unknown", "sys_aaaaaaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let unknown =
        unknown.expect("yardctl").run(&["status", POLICY, "--timeout", "2s"], "").await.expect("yardctl runs");
    assert_ne!(unknown.code, 0, "{unknown}");
    assert!(!unknown.stderr.contains("AAAAAAAAAAAA"), "a token is not shown: {unknown}");

    place.postgres.as_mut().expect("a Postgres of its own").start_again().await.expect("Postgres starts again");
    place.stage.world.connected().await;
    wait::until("changes to be taken again", async || {
        let finished = administrator.run(&["cluster", "join", "red"], "").await.map_err(|error| error.to_string())?;
        wait::check(finished.code == 0, || finished.to_string())
    })
    .await;
    assert!(watch.is_open());
    drop(watch);
    audit::verified(&administrator).await;
    place.stage.nothing_was_removed().await;
    place.all_is_well().await;
}
