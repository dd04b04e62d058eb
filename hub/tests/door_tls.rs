//! TLS of the ports: who gets in and as what, and that certificates and authorities change under open streams without one failed
//! request.

mod door_support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use door_support::{Authority, Call, Files, Leaf, PATIENCE, client, door, eventually, old_client};
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

/// Asks on an open connection until it is ended.
async fn ended(call: &mut Call) {
    eventually("the connection to be ended", async || call.get("/who").await.err()).await;
}

#[tokio::test]
async fn connections_of_agents_end_with_the_trust_in_their_authority_and_others_stay() {
    let (ours, first, second) = (Authority::new("ours"), Authority::new("first"), Authority::new("second"));
    let door = door(Files::new(&ours.server(), None).tls(), vec![first.root("1")], |_| {}).await;
    let (old, new) = (client(&ours, Some(&first.agent("blue"))), client(&ours, Some(&second.agent("blue"))));
    let (mut of_old, mut of_nobody) =
        (old.connect(door.address).await.unwrap(), client(&ours, None).connect(door.address).await.unwrap());
    let mut lines = of_old.open("/stream").await.unwrap().into_body();
    lines.frame().await.unwrap().unwrap();
    assert!(of_old.get("/who").await.unwrap().contains("Some(\"1\")"));
    assert!(new.who(door.address).await.is_err());
    door.roots.send_replace(Arc::new(AgentRoots(vec![first.root("1"), second.root("2")])));
    assert!(old.who(door.address).await.unwrap().contains("Some(\"1\")"), "both are trusted while they overlap");
    let mut of_new = new.connect(door.address).await.unwrap();
    assert!(of_new.get("/who").await.unwrap().contains("Some(\"2\")"));
    lines.frame().await.expect("what is open stays").unwrap();

    door.roots.send_replace(Arc::new(AgentRoots(vec![second.root("2")])));
    ended(&mut of_old).await;
    // An open stream keeps nothing alive.
    let rest = async { while let Some(Ok(_)) = lines.frame().await {} };
    tokio::time::timeout(PATIENCE, rest).await.expect("the stream to end with its connection");
    assert!(old.who(door.address).await.is_err(), "a session is not resumed past its authority");
    assert!(of_new.get("/who").await.is_ok() && of_nobody.get("/who").await.is_ok(), "nobody else is touched");
    assert_eq!(door.refused("authority"), 1);
    door.stop().await;
}

#[tokio::test]
async fn of_two_authorities_with_one_name_and_key_the_younger_one_gets_the_certificates() {
    let ours = Authority::new("ours");
    let [first, renewed] = Authority::renewed("agents");
    let door = door(Files::new(&ours.server(), None).tls(), vec![first.root("1"), renewed.root("2")], |_| {}).await;
    let agent = client(&ours, Some(&first.agent("blue")));
    let mut open = agent.connect(door.address).await.unwrap();
    let who = open.get("/who").await.unwrap();
    assert!(who.contains("authority: Some(\"2\")"), "{who}");
    door.roots.send_replace(Arc::new(AgentRoots(vec![renewed.root("2")])));
    let who = agent.who(door.address).await.unwrap();
    assert!(who.contains("authority: Some(\"2\")"), "{who}");
    assert!(
        open.get("/who").await.is_ok() && door.refused("authority") == 0,
        "the older one leaves and takes nobody along"
    );
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
async fn connections_of_callers_end_with_the_trust_in_their_authority_and_others_stay() {
    let (ours, leaves, stays) = (Authority::new("ours"), Authority::new("leaves"), Authority::new("stays"));
    let [first, renewed] = Authority::renewed("renewed");
    let files = Files::new(&ours.server(), Some(&leaves));
    let door = door(files.tls(), vec![], |_| {}).await;
    let caller = |authority: &Authority| client(&ours, Some(&authority.leaf("a", |_| {})));
    let (old, new, same) = (caller(&leaves), caller(&stays), caller(&first));
    let mut of_old = old.connect(door.address).await.unwrap();
    assert!(of_old.get("/who").await.is_ok() && new.who(door.address).await.is_err());
    files.write("ca", &format!("{}{}{}", leaves.pem(), stays.pem(), first.pem()));
    eventually("the new authority to be trusted", async || new.who(door.address).await.ok()).await;
    assert!(old.who(door.address).await.is_ok(), "all are trusted while they overlap");
    let (mut of_new, mut of_same) =
        (new.connect(door.address).await.unwrap(), same.connect(door.address).await.unwrap());
    let mut of_nobody = client(&ours, None).connect(door.address).await.unwrap();
    assert!(of_new.get("/who").await.is_ok() && of_same.get("/who").await.is_ok() && of_old.get("/who").await.is_ok());

    files.write("ca", &format!("{}{}", renewed.pem(), stays.pem()));
    ended(&mut of_old).await;
    assert!(old.who(door.address).await.is_err());
    for (which, call) in
        [("another authority", &mut of_new), ("renewed with its key", &mut of_same), ("none", &mut of_nobody)]
    {
        assert!(call.get("/who").await.is_ok(), "{which}");
    }
    assert_eq!(door.refused("authority"), 1);
    files.write("ca", &Authority::new("other").pem());
    ended(&mut of_new).await;
    ended(&mut of_same).await;
    assert!(of_nobody.get("/who").await.is_ok());
    door.stop().await;
}
