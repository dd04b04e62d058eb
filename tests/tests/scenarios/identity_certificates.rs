//! Certificates that end and are renewed, authorities that are exchanged, under traffic: agents' own ones, and those of the ports.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use switchyard_tests::{
    audit,
    authority::Authority,
    guard,
    guarded::{Guarded, TAKEN_AWAY_WITHIN, Watch, sum},
    wait,
};

const POLICY: &str = "shop/checkout";
/// Life of agents' certificates: renewed after some 27 s, with as many left as a busy machine needs.
const SHORT: &str = "40s";
/// Long enough for a renewal on a machine that is busy.
const RENEWED_WITHIN: Duration = Duration::from_secs(120);

fn short_lives() -> guard::Settings {
    guard::Settings { certificate_ttl: SHORT, ..guard::Settings::default() }
}

/// What takes traffic away; pods that are replaced leave their groups.
const DELETING: [&str; 5] = ["DeleteRule", "DeleteTargetGroup", "ModifyRule", "ModifyListener", "RemoveTags"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_renew_certificates_of_a_short_life_while_pods_are_replaced_and_nobody_notices() {
    const RENEWALS: usize = 4;
    let place = Guarded::set(short_lives()).await;
    let begun = place.sessions().await;
    let mut version = 1;
    let done = wait::until_within("four renewals of each agent", RENEWALS as u32 * RENEWED_WITHIN, async || {
        let settled = async |name| {
            let seen = place.stage.world.cluster(name).workload("checkout").await;
            seen.is_ok_and(|seen| !seen.rolling && seen.pods.len() == seen.replicas && seen.ready == seen.replicas)
        };
        if settled("blue").await && settled("green").await {
            version += 1;
            place.stage.world.begin_rolling_update(&format!("v{version}")).await;
        }
        // At each look, in the midst of renewals, both are there. A look a second: each is some calls of one caller.
        place.stage.seconds(1).await;
        place.none_is_stale().await;
        let issued = (place.issued("blue").await, place.issued("green").await);
        wait::check(issued.0 > RENEWALS && issued.1 > RENEWALS, || format!("{issued:?}"))
    });
    done.await.expect("certificates are renewed in time");
    let log = audit::entries(&place.stage.world.yardctl).await.expect("the audit log");
    let of =
        |cluster: &'static str| log.iter().filter(move |e| e.action == "certificate.issue" && e.cluster() == cluster);
    for cluster in ["blue", "green"] {
        let proofs: Vec<&Value> = of(cluster).map(|entry| &entry.detail["proof"]).collect();
        assert!(proofs[0] == "join-token" && proofs[1..].iter().all(|proof| *proof == "certificate"), "{proofs:?}");
        assert!(of(cluster).skip(1).all(|entry| entry.actor == format!("agent:{cluster}")), "{log:#?}");
    }
    // One session after each renewal, and no other: an agent does not storm its hub.
    let renewals = of("blue").count() + of("green").count() - 2;
    let opened = place.sessions().await - begun;
    assert!(opened <= renewals as u64 + 1, "{opened} sessions were opened for {renewals} renewals");
    assert!(version > 2, "pods were replaced meanwhile");

    place.stage.world.rolled().await;
    place.stage.world.all_healthy(POLICY).await;
    let writes = place.stage.writes().await;
    let deleting: Vec<_> = writes.iter().filter(|call| DELETING.contains(&call.operation.as_str())).collect();
    assert!(deleting.is_empty(), "{deleting:#?}");
    place.all_is_well().await;
}

/// The id of the authority that issues, and of all that are trusted.
async fn authorities(place: &Guarded) -> (String, Vec<String>) {
    let list = place.shown(&["authority", "list"]).await;
    let all = list["authorities"].as_array().cloned().unwrap_or_default();
    let id = |authority: &Value| authority["id"].as_str().unwrap_or_default().to_owned();
    let now = jiff::Timestamp::now();
    let trusted = |authority: &&Value| {
        let until = authority["trusted_until"].as_str().and_then(|until| until.parse::<jiff::Timestamp>().ok());
        until.is_none_or(|until| until > now)
    };
    let issuing = all.iter().find(|authority| authority["issuing"] == true).map(id).unwrap_or_default();
    (issuing, all.iter().filter(trusted).map(id).collect())
}

/// Waits until every certificate that has not ended is of this authority.
async fn all_are_of(place: &Guarded, authority: &str) {
    let done =
        wait::until_within("both agents to have a certificate of the new authority", RENEWED_WITHIN, async || {
            let list = place.shown(&["cluster", "certificates"]).await;
            let all = list["certificates"].as_array().cloned().unwrap_or_default();
            let newest = |cluster: &str| {
                let of = all.iter().filter(|certificate| certificate["cluster"] == cluster);
                of.max_by_key(|certificate| certificate["issued_at"].as_str().map(str::to_owned)).cloned()
            };
            let moved =
                ["blue", "green"].iter().all(|name| newest(name).is_some_and(|one| one["authority"] == authority));
            wait::check(moved, || list.to_string())
        });
    done.await.expect("agents get certificates of the new authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_rotated_twice_and_the_old_ones_are_trusted_for_as_long_as_they_are_needed() {
    let mut place = Guarded::set(short_lives()).await;
    let begun = place.sessions().await;
    let (first, trusted) = authorities(&place).await;
    assert_eq!(trusted, std::slice::from_ref(&first));
    let mut known = vec![first];
    for reason in ["a drill", "another drill"] {
        place.stage.world.yardctl.expect(&["authority", "rotate", "--reason", reason], "").await;
        let (_, trusted) = authorities(&place).await;
        let new = trusted.iter().find(|id| !known.contains(id)).expect("the new one is trusted at once").clone();
        assert!(trusted.contains(known.last().expect("one")), "the one before is trusted: {trusted:?}");
        all_are_of(&place, &new).await;
        assert_eq!(authorities(&place).await.0, new, "it issues");
        place.none_is_stale().await;
        known.push(new);
    }
    // Certificates of the first have ended. Replicas that are behind get five minutes more, which pass here at once: in the store all
    // authorities are an hour older.
    let older = "update authorities set created_at = created_at - interval '1 hour', issues_from = issues_from - interval '1 hour'";
    let mut connection = PgConnection::connect(&place.database).await.expect("the database");
    for statement in [
        "alter table authorities disable trigger user",
        older,
        "alter table authorities enable trigger user",
        "update access_version set version = version + 1",
    ] {
        sqlx::query(statement).execute(&mut connection).await.expect("a superuser may");
    }
    connection.close().await.expect("the connection ends");
    let newest = known.last().expect("one").clone();
    let done = wait::until_within("the old authorities to be trusted no more", RENEWED_WITHIN, async || {
        let (issuing, trusted) = authorities(&place).await;
        wait::check(issuing == newest && trusted == [newest.as_str()], || format!("{issuing} of {trusted:?}"))
    });
    done.await.expect("an authority that is not needed is not trusted");
    // Agents go on with the one that is left.
    let issued = place.issued("blue").await;
    let done = wait::until_within("another renewal", RENEWED_WITHIN, async || {
        let now = place.issued("blue").await;
        wait::check(now > issued, || now.to_string())
    });
    done.await.expect("agents go on");
    place.none_is_stale().await;

    let renewals = place.issued("blue").await + place.issued("green").await - 2;
    let opened = place.sessions().await - begun;
    assert!(opened <= renewals as u64 + 1, "{opened} sessions were opened for {renewals} renewals");
    let yardctl = place.stage.world.yardctl.clone();
    let rotated =
        audit::says(&yardctl, "who rotated", |e| e.action == "authority.rotate" && e.reason == "a drill").await;
    assert!(rotated.actor.starts_with("certificate:CN=administrator") && rotated.result == "done", "{rotated:?}");
    place.stage.nothing_was_removed().await;
    place.stage.forget().await;
    place.all_is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_the_ports_and_the_authority_of_callers_are_exchanged_under_open_streams() {
    let place = Guarded::set(guard::Settings::default()).await;
    let (guard, url) = (place.guard(), place.url());
    let channel = guard.channel(&url, Some(&guard.administrator)).await.expect("a connection");
    let watch = Watch::open(channel, None).await.expect("a stream");
    let channel = guard.channel(&url, None).await.expect("a connection");
    let words = ["token", "create", "ci", "--role", "viewer", "--namespaces", "*", "--clusters", "*"];
    let made = place.shown(&words).await;
    let kept = Watch::open(channel, made["secret"].as_str()).await.expect("a stream");
    let begun = place.sessions().await;
    let reloads = async || sum(&place.stage.world.hub, "switchyard_hub_certificate_reloads_total").await;
    let before = reloads().await;

    // The hub gets a certificate of another authority. Who trusts only the one before does not get in any more.
    let others = Authority::make(guard.folder(), "other-servers").expect("files");
    others.serve(&guard.serving()).expect("files");
    let trusting = |authority: &Authority| {
        let files = [("SWITCHYARD_TLS_CA", authority.file())];
        guard.by_administrator(&url).expect("yardctl").with(&files)
    };
    wait::until_within("new connections to get the new certificate", TAKEN_AWAY_WITHIN, async || {
        let seen = trusting(&others).run(&["whoami"], "").await.map_err(|error| error.to_string())?;
        wait::check(seen.code == 0, || seen.to_string())
    })
    .await
    .expect("the certificate on the disk is served");
    let refused = trusting(&guard.servers).run(&["whoami", "--timeout", "2s"], "").await.expect("yardctl runs");
    assert_ne!(refused.code, 0, "{refused}");
    assert!(reloads().await > before && watch.is_open());

    // Callers get another authority: first both, then the new one alone.
    let callers = Authority::make(guard.folder(), "other-callers").expect("files");
    let newcomer = callers.client(guard.folder(), "newcomer", "newcomer", &[]).expect("files");
    let newcomer =
        guard.by_certificate(&url, &newcomer).expect("yardctl").with(&[("SWITCHYARD_TLS_CA", others.file())]);
    let both = format!("{}{}", guard.callers.pem(), callers.pem());
    std::fs::write(guard.client_authorities(), both).expect("the file is written");
    wait::until_within("the new authority of callers to be trusted", TAKEN_AWAY_WITHIN, async || {
        let seen = newcomer.run(&["whoami"], "").await.map_err(|error| error.to_string())?;
        wait::check(seen.code == 0 && seen.stdout.contains("newcomer"), || seen.to_string())
    })
    .await
    .expect("the authorities on the disk are trusted");
    trusting(&others).expect(&["whoami"], "").await;
    std::fs::write(guard.client_authorities(), callers.pem()).expect("the file is written");
    wait::until_within("the old authority of callers to be trusted no more", TAKEN_AWAY_WITHIN, async || {
        let seen =
            trusting(&others).run(&["whoami", "--timeout", "2s"], "").await.map_err(|error| error.to_string())?;
        wait::check(seen.code != 0, || seen.to_string())
    })
    .await
    .expect("who is not trusted any more does not get in");
    newcomer.expect(&["whoami"], "").await;

    // What was opened with a certificate of it ends, and nothing else: nobody else had to connect again.
    watch.ended().await;
    assert!(kept.is_open(), "a stream that no certificate opened goes on");
    assert_eq!(place.sessions().await, begun, "the agents' streams go on");
    place.stage.nothing_was_removed().await;
    // All is well with the files from before.
    std::fs::write(guard.client_authorities(), guard.callers.pem()).expect("the file is written");
    guard.servers.serve(&guard.serving()).expect("files");
    wait::until("the administrator to be back", async || {
        let seen = place.stage.world.yardctl.run(&["whoami"], "").await.map_err(|error| error.to_string())?;
        wait::check(seen.code == 0, || seen.to_string())
    })
    .await;
    assert!(kept.is_open(), "to the end");
    drop(kept);
    place.all_is_well().await;
}
