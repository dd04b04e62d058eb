//! TLS of the ports: who gets in and as what, and that certificates and authorities change under open streams without one failed
//! request.

mod door_support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use door_support::{Authority, Files, Leaf, client, door, eventually, old_client};
use http_body_util::BodyExt;
use switchyard_hub::door::{
    AgentRoots,
    peer::fingerprint,
    tls::{MinVersion, Tls, TlsError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

fn der(leaf: &Leaf) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(leaf.chain.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn a_certificate_says_who_calls_and_belongs_to_one_set_of_authorities() {
    let (ours, agents, callers) = (Authority::new("ours"), Authority::new("agents"), Authority::new("callers"));
    let files = Files::new(&ours.server(), Some(&callers));
    let door = door(files.tls(), vec![agents.root("a1")], |_| {}).await;

    let nobody = client(&ours, None).who(door.address).await.unwrap();
    assert!(nobody.contains("encrypted: true, certificate: None"), "{nobody}");

    let deploy = callers.leaf("deploy", |_| {});
    let caller = client(&ours, Some(&deploy)).who(door.address).await.unwrap();
    assert!(caller.contains("set: Callers") && caller.contains("common_name: Some(\"deploy\")"), "{caller}");
    assert!(caller.contains(&fingerprint(&der(&deploy))) && caller.contains("authority: None"), "{caller}");

    let agent = client(&ours, Some(&agents.agent("blue"))).who(door.address).await.unwrap();
    assert!(agent.contains("set: Agents") && agent.contains("authority: Some(\"a1\")"), "{agent}");
    assert!(agent.contains("uris: [\"spiffe://switchyard/cluster/blue\"]"), "{agent}");

    // Whatever it says of itself: the authority counts.
    let pretends = client(&ours, Some(&callers.agent("blue"))).who(door.address).await.unwrap();
    assert!(pretends.contains("set: Callers"), "{pretends}");
    door.stop().await;
}

#[tokio::test]
async fn strangers_ended_certificates_and_old_tls_fail_the_handshake() {
    let (ours, agents, callers) = (Authority::new("ours"), Authority::new("agents"), Authority::new("callers"));
    let files = Files::new(&ours.server(), Some(&callers));
    let door = door(files.tls(), vec![agents.root("a1")], |_| {}).await;
    let between = agents.below("between");
    let mut chained = between.agent("blue");
    chained.chain.push_str(&between.pem());
    let refused = [
        ("foreign", Authority::new("foreign").agent("blue")),
        ("of the same name, another key", Authority::new("agents").agent("blue")),
        ("ended", callers.leaf("late", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))),
        ("not begun", callers.leaf("early", |params| params.not_before = rcgen::date_time_ymd(2090, 1, 1))),
        ("an agent's, ended", agents.leaf("late", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1))),
        ("of an authority below that of agents", chained),
        ("of the server's own authority", ours.leaf("x", |_| {})),
    ];
    for (what, leaf) in refused {
        let error = client(&ours, Some(&leaf)).who(door.address).await.expect_err(what);
        assert!(!error.to_string().is_empty(), "{what}");
    }
    assert_eq!(eventually("all to be counted", async || Some(door.refused("handshake")).filter(|n| *n >= 7)).await, 7);
    assert!(old_client(&ours).who(door.address).await.is_err(), "TLS 1.2 is not spoken");
    let mut plain = TcpStream::connect(door.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _reset_or_end = plain.read_to_end(&mut answer).await;
    assert!(!answer.windows(4).any(|four| four == b"HTTP"), "nothing is said in plain text");
    assert!(client(&ours, None).who(door.address).await.is_ok(), "others are served all the same");
    door.stop().await;

    let mut old = files.tls();
    old.min_version = MinVersion::Tls12;
    let door = door_support::door(old, vec![], |_| {}).await;
    assert!(old_client(&ours).who(door.address).await.is_ok(), "TLS 1.2 when asked for");
    assert!(client(&ours, None).who(door.address).await.is_ok());
    door.stop().await;
}

#[tokio::test]
async fn without_an_authority_of_callers_their_certificates_are_strangers() {
    let (ours, callers) = (Authority::new("ours"), Authority::new("callers"));
    let door = door(Files::new(&ours.server(), None).tls(), vec![], |_| {}).await;
    assert!(client(&ours, None).who(door.address).await.is_ok());
    assert!(client(&ours, Some(&callers.leaf("x", |_| {}))).who(door.address).await.is_err());
    door.stop().await;
}

#[test]
fn one_authority_cannot_stand_for_callers_and_agents() {
    let (ours, both) = (Authority::new("ours"), Authority::new("both"));
    let files = Files::new(&ours.server(), Some(&both));
    let (_sender, roots) = watch::channel(Arc::new(AgentRoots(vec![both.root("a1")])));
    assert!(matches!(Tls::open(files.tls(), roots), Err(TlsError::Shared)));
}

#[tokio::test]
async fn authorities_of_agents_come_and_go_with_the_next_connection() {
    let (ours, first, second) = (Authority::new("ours"), Authority::new("first"), Authority::new("second"));
    let door = door(Files::new(&ours.server(), None).tls(), vec![first.root("1")], |_| {}).await;
    let (old, new) = (client(&ours, Some(&first.agent("blue"))), client(&ours, Some(&second.agent("blue"))));
    let mut open = old.connect(door.address).await.unwrap();
    assert!(open.get("/who").await.unwrap().contains("Some(\"1\")"));
    assert!(new.who(door.address).await.is_err());
    door.roots.send_replace(Arc::new(AgentRoots(vec![first.root("1"), second.root("2")])));
    assert!(old.who(door.address).await.unwrap().contains("Some(\"1\")"), "both are trusted while they overlap");
    assert!(new.who(door.address).await.unwrap().contains("Some(\"2\")"));
    door.roots.send_replace(Arc::new(AgentRoots(vec![second.root("2")])));
    assert!(old.who(door.address).await.is_err(), "a session is not resumed past its authority");
    assert!(open.get("/who").await.is_ok(), "what is open stays");
    door.stop().await;
}

/// Asks without end on new connections until told to stop; the number of answers.
async fn ask(
    door: &door_support::Door,
    client: door_support::Client,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<u32> {
    let address = door.address;
    let asked = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&asked);
    let asking = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            client.who(address).await.expect("no request fails");
            counted.fetch_add(1, Ordering::Relaxed);
        }
        counted.load(Ordering::Relaxed)
    });
    eventually("the first answers", async || (asked.load(Ordering::Relaxed) > 2).then_some(())).await;
    asking
}

#[tokio::test]
async fn the_served_certificate_changes_under_open_streams_without_a_failed_request() {
    let ours = Authority::new("ours");
    let (first, second) = (ours.server(), ours.server());
    let files = Files::new(&first, None);
    let door = door(files.tls(), vec![], |_| {}).await;
    let caller = client(&ours, None);
    let mut open = caller.connect(door.address).await.unwrap();
    let mut lines = open.open("/stream").await.unwrap().into_body();
    lines.frame().await.unwrap().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asking = ask(&door, caller.clone(), Arc::clone(&stop)).await;

    // One file is new and the other is not: nothing changes.
    files.write("cert", &second.chain);
    let kept = switchyard_hub::door::metrics::Reload { outcome: "kept" };
    let kept = || door.guard.metrics.reloads.get_or_create(&kept).get();
    eventually("files that do not fit together to be seen", async || (kept() == 1).then_some(())).await;
    assert_eq!(caller.connect(door.address).await.unwrap().shown, der(&first));
    files.write("key", &second.key);
    eventually("the new certificate to be served", async || {
        (caller.connect(door.address).await.unwrap().shown == der(&second)).then_some(())
    })
    .await;
    for rubbish in ["", "not a certificate", &first.key] {
        files.write("cert", rubbish);
        let before = kept();
        eventually("rubbish to be seen", async || (kept() > before).then_some(())).await;
        assert_eq!(caller.connect(door.address).await.unwrap().shown, der(&second));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(asking.await.unwrap() > 2);
    for _ in 0..20 {
        lines.frame().await.expect("the stream goes on").unwrap();
    }
    assert!(open.get("/who").await.is_ok(), "the old connection, too");
    door.stop().await;
}

#[tokio::test]
async fn the_authority_of_callers_changes_and_open_connections_go_on() {
    let (ours, first, second) = (Authority::new("ours"), Authority::new("first"), Authority::new("second"));
    let files = Files::new(&ours.server(), Some(&first));
    let door = door(files.tls(), vec![], |_| {}).await;
    let (old, new) = (client(&ours, Some(&first.leaf("a", |_| {}))), client(&ours, Some(&second.leaf("b", |_| {}))));
    let mut open = old.connect(door.address).await.unwrap();
    assert!(open.get("/who").await.is_ok() && new.who(door.address).await.is_err());
    files.write("ca", &format!("{}{}", first.pem(), second.pem()));
    eventually("the new authority to be trusted", async || new.who(door.address).await.ok()).await;
    assert!(old.who(door.address).await.is_ok(), "both are trusted while they overlap");
    files.write("ca", &second.pem());
    eventually("the old authority not to be trusted", async || old.who(door.address).await.err()).await;
    assert!(new.who(door.address).await.is_ok());
    assert!(open.get("/who").await.is_ok(), "what is open stays");
    door.stop().await;
}
