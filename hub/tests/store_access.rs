//! Tokens, certificates and authorities in a real Postgres: idempotency, what happens at once, what replicas read, what is purged.

mod store_support;

use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp, ToSpan};
use store_support::{Db, caller, cluster, database, eventually, fresh};
use switchyard_core::access::{
    Grant, Grants, Role, Span, authority as judged,
    tokens::{JoinRefused, Token, TokenKind},
};
use switchyard_hub::store::{
    Caller, Retention, Store, StoreError, StoreOptions,
    access::{
        AccessError,
        authorities::NewAuthority,
        certificates::{Asking, IssueError, NewCertificate, Proof, Seen, Shown},
    },
};
use uuid::Uuid;

const ASKING: Asking<'static> = Asking { actor: "agent:blue", source: "192.0.2.7" };

fn token(kind: TokenKind) -> Token {
    let secret = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    Token::new(kind, Uuid::new_v4().into_bytes()[..8].try_into().unwrap(), secret.try_into().unwrap())
}

fn authority(id: &str) -> NewAuthority {
    NewAuthority {
        id: format!("{id:0>16}"),
        certificate_pem: format!("certificate of {id}"),
        sealed_key: Some(vec![7; 64]),
        not_after: Timestamp::now() + 1000.hours(),
    }
}

fn certificate(name: &str, hours: i64) -> NewCertificate {
    let serial = Uuid::new_v4().simple().to_string();
    NewCertificate {
        cluster: cluster(name),
        fingerprint: format!("sha256:{serial}{serial}"),
        serial,
        authority: format!("{:0>16}", "a"),
        instance: Uuid::new_v4().to_string(),
        issued_at: Timestamp::now() - 1000.hours(),
        not_after: Timestamp::now() + hours.hours(),
    }
}

/// As an agent shows it.
fn shown(of: &NewCertificate) -> Shown {
    let NewCertificate { serial, fingerprint, authority, not_after, .. } = of.clone();
    Shown { serial, fingerprint, authority, not_after }
}

/// As if the youngest authority had come long enough ago to issue.
async fn issues_already(db: &Db) {
    sqlx::raw_sql("update authorities set issues_from = created_at").execute(&db.raw).await.unwrap();
}

async fn with_authority() -> Db {
    let db = database().await;
    db.store.authority_found(&authority("a"), |stored| stored.is_empty()).await.unwrap();
    db
}

fn account() -> Proof {
    Proof::ServiceAccount { subject: "system:serviceaccount:switchyard:agent".to_owned() }
}

fn grants() -> Grants {
    let namespaces = Span::Only(["shop".parse().unwrap()].into());
    Grants(vec![Grant { role: Role::Operator, namespaces, clusters: Span::All, overrides: true }])
}

const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_keys_at_once_one_uses_up_a_join_token() {
    let db = with_authority().await;
    let token = token(TokenKind::Join);
    db.store.join_token_create(&fresh(), &cluster("blue"), HOUR, &token).await.unwrap();
    let tries = (0..20u8).map(|i| {
        let (store, token) = (db.store.clone(), token.clone());
        tokio::spawn(async move {
            let proof = Proof::JoinToken { token, key: [i / 2; 32] };
            store.certificate_issue(&ASKING, &certificate("blue", 1), &proof).await
        })
    });
    let results = join_all(tries).await;
    let good = results.iter().filter(|result| result.as_ref().unwrap().is_ok()).count();
    assert_eq!(good, 2, "the two tries with the key that came first");
    let replayed = |error: &IssueError| matches!(error, IssueError::Join(JoinRefused::Replayed));
    assert!(results.iter().filter_map(|result| result.as_ref().unwrap().as_ref().err()).all(replayed));
    assert_eq!(db.store.certificates(None).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_all_certificates_of_a_cluster_are_revoked_none_slips_through() {
    let db = with_authority().await;
    for _ in 0..10 {
        let first = certificate("blue", 1);
        db.store.certificate_issue(&ASKING, &first, &account()).await.unwrap();
        let renewals = (0..8).map(|_| {
            let (store, proof) = (db.store.clone(), Proof::Certificate(shown(&first)));
            tokio::spawn(async move { store.certificate_issue(&ASKING, &certificate("blue", 1), &proof).await.is_ok() })
        });
        let store = db.store.clone();
        let revoke = tokio::spawn(async move { store.certificates_revoke(&fresh(), &cluster("blue"), None).await });
        let renewed = join_all(renewals).await.into_iter().filter(|one| *one.as_ref().unwrap()).count();
        let revoked = revoke.await.unwrap().unwrap();
        assert_eq!(revoked.len(), renewed + 1, "each one came before, and is revoked, or after, and was refused");
    }
    let good = db.store.certificates(None).await.unwrap().into_iter().filter(|one| one.revoked_at.is_none());
    assert_eq!(good.count(), 0);
    let authorities = db.store.authorities().await.unwrap();
    assert_eq!(authorities[0].last_issued_ends, None, "what is revoked keeps no replaced authority trusted");
}

#[tokio::test]
async fn a_secret_is_given_once_for_a_request_and_a_request_id_means_one_thing() {
    let db = database().await;
    let (blue, once) = (cluster("blue"), caller("join-1"));
    let made = db.store.join_token_create(&once, &blue, HOUR, &token(TokenKind::Join)).await.unwrap();
    let again = db.store.join_token_create(&once, &blue, HOUR, &token(TokenKind::Join)).await.unwrap_err();
    assert!(matches!(&again, AccessError::SecretShown { name, .. } if *name == made.id), "{again:?}");
    let other = db.store.join_token_create(&once, &cluster("green"), HOUR, &token(TokenKind::Join)).await.unwrap_err();
    assert!(matches!(other, AccessError::RequestReused { .. }), "{other:?}");
    let other = db.store.service_token_create(&once, "ci", &grants(), HOUR, &token(TokenKind::Service)).await;
    assert!(matches!(other.unwrap_err(), AccessError::RequestReused { .. }));
    let revoke = caller("revoke-1");
    let first = db.store.join_token_revoke(&revoke, &made.id).await.unwrap();
    assert_eq!(db.store.join_token_revoke(&revoke, &made.id).await.unwrap(), first);
    // Eight replicas get the same request at once.
    let same = (0..8).map(|_| {
        let (store, blue) = (db.store.clone(), blue.clone());
        async move { store.join_token_create(&caller("join-2"), &blue, HOUR, &token(TokenKind::Join)).await.is_ok() }
    });
    assert_eq!(join_all(same).await.into_iter().filter(|good| *good).count(), 1);
    assert_eq!(db.store.join_tokens(None).await.unwrap().len(), 2);
}

#[tokio::test]
async fn the_book_holds_what_is_good_and_its_version_rises_with_every_change_of_it() {
    let db = with_authority().await;
    let mut version = db.store.access_version().await.unwrap();
    let mut rises = async |what: &str, by: bool| {
        let now = db.store.access_version().await.unwrap();
        assert_eq!(now > version, by, "{what}");
        version = now;
    };
    let service = token(TokenKind::Service);
    db.store.service_token_create(&fresh(), "ci", &grants(), HOUR, &service).await.unwrap();
    rises("a service token", true).await;
    let ended = token(TokenKind::Service);
    let soon = SignedDuration::from_millis(1);
    db.store.service_token_create(&fresh(), "old", &grants(), soon, &ended).await.unwrap();
    rises("another", true).await;
    let (one, other) = (certificate("blue", 1), certificate("green", 1));
    db.store.certificate_issue(&ASKING, &one, &account()).await.unwrap();
    db.store.certificate_issue(&ASKING, &other, &account()).await.unwrap();
    rises("certificates that are good", false).await;
    db.store.certificates_revoke(&fresh(), &cluster("blue"), Some(&one.serial)).await.unwrap();
    rises("a revocation", true).await;
    db.store.token_used(std::slice::from_ref(&service.id), Timestamp::now()).await.unwrap();
    rises("the use of a token", false).await;
    let book = eventually("the end of the short token", async || {
        let book = db.store.access_book().await.unwrap();
        (book.tokens.len() == 1).then_some(book)
    })
    .await;
    let booked = &book.tokens[&service.id];
    assert_eq!((booked.name.as_str(), booked.hash, &booked.grants), ("ci", service.hash(), &grants()));
    assert_eq!(book.revoked.keys().collect::<Vec<_>>(), [&one.serial]);
    assert_eq!((book.authorities.len(), book.version), (1, db.store.access_version().await.unwrap()));
    // Microseconds are what the database keeps.
    let ends = book.authorities[0].last_issued_ends.unwrap();
    assert!(ends.duration_since(one.not_after.max(other.not_after)).abs() < SignedDuration::from_millis(1));
    db.store.service_token_revoke(&fresh(), "ci").await.unwrap();
    rises("a revoked token", true).await;
    assert!(db.store.access_book().await.unwrap().tokens.is_empty());
    let listed = db.store.service_tokens().await.unwrap();
    assert_eq!(listed.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["old", "ci"]);
    assert!(listed[1].last_used_at.is_some() && listed[1].revoked_at.is_some());
}

#[tokio::test]
async fn grants_that_a_newer_version_wrote_give_nothing_and_spoil_nothing_else() {
    let db = database().await;
    for name in ["new", "ci"] {
        db.store.service_token_create(&fresh(), name, &grants(), HOUR, &token(TokenKind::Service)).await.unwrap();
    }
    let newer = "alter table service_tokens disable trigger user; \
                 update service_tokens set grants = '[{\"role\": \"owner\"}]' where name = 'new'";
    sqlx::raw_sql(newer).execute(&db.raw).await.unwrap();
    let book = db.store.access_book().await.unwrap();
    let of = |name: &str| book.tokens.values().find(|token| token.name == name).unwrap().grants.clone();
    assert_eq!((of("new"), of("ci")), (Grants::none(), grants()));
}

#[tokio::test]
async fn what_has_ended_is_purged_and_names_stay_taken() {
    let db = with_authority().await;
    let (service, join) = (token(TokenKind::Service), token(TokenKind::Join));
    db.store.service_token_create(&fresh(), "ci", &grants(), HOUR, &service).await.unwrap();
    db.store.join_token_create(&fresh(), &cluster("blue"), HOUR, &join).await.unwrap();
    let (good, ended) = (certificate("blue", 1), certificate("blue", -200));
    db.store.certificate_issue(&ASKING, &good, &account()).await.unwrap();
    db.store.certificate_issue(&ASKING, &ended, &account()).await.unwrap();
    db.store.authority_rotate(&fresh(), &authority("b")).await.unwrap();
    let keep = Retention::default();
    assert_eq!(db.store.purge(&keep).await.unwrap().access, 1, "the certificate that ended 200 hours ago");
    assert_eq!(db.store.purge(&keep).await.unwrap().access, 0);
    // As if much time had passed.
    let later = "alter table join_tokens disable trigger user; alter table service_tokens disable trigger user; \
                 alter table agent_certificates disable trigger user; \
                 alter table authorities disable trigger user; \
                 update join_tokens set created_at = created_at - interval '8 days', expires_at = expires_at - interval '8 days'; \
                 update service_tokens set created_at = created_at - interval '92 days', expires_at = expires_at - interval '91 days'; \
                 update agent_certificates set not_after = not_after - interval '8 days'; \
                 update authorities set created_at = created_at - interval '9 days', issues_from = issues_from - interval '8 days'";
    sqlx::raw_sql(later).execute(&db.raw).await.unwrap();
    assert_eq!(db.store.purge(&keep).await.unwrap().access, 4);
    let left = db.store.authorities().await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].authority.id, authority("b").id);
    let again = db.store.service_token_create(&fresh(), "ci", &grants(), HOUR, &token(TokenKind::Service)).await;
    assert!(matches!(again.unwrap_err(), AccessError::NameTaken(name) if name == "ci"));
    let rows = db.store.audit_page(&Default::default(), true, None, 1000).await.unwrap();
    assert_eq!(rows.len(), 7, "the audit log is never purged");
    let retired = (rows[6].actor.as_str(), rows[6].action.as_str(), rows[6].detail["authority"].as_str());
    assert_eq!(retired, ("switchyard-hub", "authority.retire", Some(authority("a").id.as_str())));
}

#[tokio::test]
async fn a_certificate_of_another_cluster_or_of_an_authority_that_is_gone_proves_nothing() {
    let db = with_authority().await;
    let blue = certificate("blue", 1);
    db.store.certificate_issue(&ASKING, &blue, &account()).await.unwrap();
    let proof = Proof::Certificate(shown(&blue));
    let refused = db.store.certificate_issue(&ASKING, &certificate("green", 1), &proof).await.unwrap_err();
    assert!(matches!(refused, IssueError::OtherCluster(_)), "{refused:?}");
    let gone = NewCertificate { authority: format!("{:0>16}", "f"), ..certificate("blue", 1) };
    let refused = db.store.certificate_issue(&ASKING, &gone, &proof).await.unwrap_err();
    assert!(matches!(refused, IssueError::UnknownAuthority(_)), "{refused:?}");
    // One that was issued before the database was restored from a backup.
    let unknown = Proof::Certificate(shown(&certificate("blue", 1)));
    db.store.certificate_issue(&ASKING, &certificate("blue", 1), &unknown).await.unwrap();
    assert_eq!(db.store.certificates(Some(&cluster("green"))).await.unwrap(), []);
    // After a rotation nobody gets over it with one that he made himself with a key that he stole; what was noted is renewed.
    db.store.authority_rotate(&fresh(), &authority("b")).await.unwrap();
    issues_already(&db).await;
    let forged = Proof::Certificate(shown(&certificate("blue", 1)));
    let forged = db.store.certificate_issue(&ASKING, &certificate("blue", 1), &forged).await.unwrap_err();
    assert!(matches!(forged, IssueError::NotNoted(_)), "{forged:?}");
    for noted in [proof, unknown] {
        db.store.certificate_issue(&ASKING, &certificate("blue", 1), &noted).await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_with_the_serial_number_of_another_one_proves_nothing() {
    let db = with_authority().await;
    let real = NewCertificate { authority: authority("b").id, ..certificate("blue", 1) };
    db.store.authority_rotate(&fresh(), &authority("b")).await.unwrap();
    issues_already(&db).await;
    db.store.certificate_issue(&ASKING, &real, &account()).await.unwrap();
    // Whoever stole the key of the authority before writes the number that stands in the list.
    for by in ["a", "b"] {
        let other = certificate("blue", 1);
        let forged = Shown { serial: real.serial.clone(), authority: authority(by).id, ..shown(&other) };
        let new = NewCertificate { authority: authority("b").id, ..certificate("blue", 1) };
        let refused = db.store.certificate_issue(&ASKING, &new, &Proof::Certificate(forged.clone())).await.unwrap_err();
        assert!(matches!(&refused, IssueError::Forged(serial) if *serial == real.serial), "{refused:?}");
        assert_eq!(refused.action(), Some("certificate.refused"));
        let seen = db.store.certificate_seen(&ASKING, &cluster("blue"), "x", &forged).await.unwrap();
        assert_eq!(seen, Seen::Another);
    }
    assert_eq!(db.store.certificates(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_certificate_that_was_not_issued_here_is_noted_when_it_is_seen_and_keeps_its_authority_trusted() {
    let db = with_authority().await;
    let see = async |one: &Shown| db.store.certificate_seen(&ASKING, &cluster("blue"), "x", one).await.unwrap();
    let (blue, late) = (shown(&certificate("blue", 500)), shown(&certificate("blue", 900)));
    assert_eq!(see(&blue).await, Seen::Noted);
    assert_eq!(see(&blue).await, Seen::Known);
    let listed = db.store.certificates(Some(&cluster("blue"))).await.unwrap();
    assert_eq!((listed.len(), listed[0].proof.as_str()), (1, "seen"));
    assert_eq!(listed[0].certificate.fingerprint, blue.fingerprint);
    let rows = db.store.audit_page(&Default::default(), true, None, 1000).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.action == "certificate.seen").count(), 1);

    // New files; the certificates of the old ones are good for weeks.
    let new = NewAuthority { sealed_key: None, ..authority("b") };
    db.store.authority_adopt(&new).await.unwrap();
    issues_already(&db).await;
    let trusted = async |hours: i64| {
        let all: Vec<_> = db.store.authorities().await.unwrap().iter().map(|one| one.judged()).collect();
        judged::trusted(&all, Timestamp::now() + hours.hours()).iter().map(|one| one.id.clone()).collect::<Vec<_>>()
    };
    assert_eq!(trusted(499).await, [authority("a").id, authority("b").id]);
    // Whoever stole the old key does not prolong it.
    assert_eq!(see(&late).await, Seen::Replaced);
    assert_eq!(
        see(&Shown { authority: authority("f").id, ..late.clone() }).await,
        Seen::Replaced,
        "an unknown authority"
    );
    assert_eq!(trusted(501).await, [authority("b").id]);

    assert_eq!(db.store.certificates_revoke(&fresh(), &cluster("blue"), None).await.unwrap().len(), 1);
    assert_eq!(trusted(1).await, [authority("b").id]);
    let new = NewCertificate { authority: authority("b").id, ..certificate("blue", 1) };
    let refused = db.store.certificate_issue(&ASKING, &new, &Proof::Certificate(blue)).await.unwrap_err();
    assert!(matches!(refused, IssueError::Revoked(_)), "{refused:?}");
}

#[tokio::test]
async fn of_calls_with_one_unknown_certificate_at_once_every_one_is_served() {
    let db = with_authority().await;
    let unknown = shown(&certificate("blue", 1));
    let calls = (0..16).map(|i| {
        let (store, unknown) = (db.store.clone(), unknown.clone());
        tokio::spawn(async move {
            if i % 2 == 0 {
                let seen = store.certificate_seen(&ASKING, &cluster("blue"), "x", &unknown).await.unwrap();
                assert!(matches!(seen, Seen::Noted | Seen::Known), "{seen:?}");
            } else {
                let proof = Proof::Certificate(unknown);
                store.certificate_issue(&ASKING, &certificate("blue", 1), &proof).await.unwrap();
            }
        })
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
    assert_eq!(db.store.certificates(None).await.unwrap().len(), 9);
}

#[tokio::test]
async fn a_certificate_that_nobody_saw_is_revoked_by_its_serial_number_and_gives_none_when_it_is_shown() {
    let db = with_authority().await;
    let (blue, lost) = (cluster("blue"), shown(&certificate("blue", 1)));
    let before = db.store.access_version().await.unwrap();
    let revoked = db.store.certificates_revoke(&fresh(), &blue, Some(&lost.serial)).await.unwrap();
    assert_eq!(revoked.len(), 1);
    let certificate_of = &revoked[0].certificate;
    assert_eq!((revoked[0].proof.as_str(), certificate_of.serial.as_str()), ("none", lost.serial.as_str()));
    assert_eq!((certificate_of.fingerprint.as_str(), certificate_of.authority.as_str()), ("", ""));
    assert!(certificate_of.not_after >= lost.not_after);
    assert_eq!(db.store.certificates_revoke(&fresh(), &blue, Some(&lost.serial)).await.unwrap(), [], "once");
    let book = db.store.access_book().await.unwrap();
    assert!(book.revoked.contains_key(&lost.serial) && book.version > before);
    let proof = Proof::Certificate(lost.clone());
    let refused = db.store.certificate_issue(&ASKING, &certificate("blue", 1), &proof).await.unwrap_err();
    assert!(matches!(refused, IssueError::Revoked(_)), "{refused:?}");
    let others = db.store.certificates_revoke(&fresh(), &cluster("green"), Some(&lost.serial)).await.unwrap_err();
    assert!(matches!(others, AccessError::NotFound { .. }), "{others:?}");

    let many = "insert into agent_certificates (serial, cluster, instance, proof, proof_id, issued_at, not_after, revoked_at, revoked_by) \
                select to_hex(4096 + i), 'blue', '', 'none', '', now(), now() + interval '1 year', now(), 'me' from generate_series(1, 999) i";
    sqlx::raw_sql(many).execute(&db.raw).await.unwrap();
    let refused = db.store.certificates_revoke(&fresh(), &blue, Some("0badcafe")).await.unwrap_err();
    assert!(matches!(refused, AccessError::TooMany { most: 1000, .. }), "{refused:?}");
    db.store.certificates_revoke(&fresh(), &blue, None).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_was_replaced_and_of_which_nothing_good_is_left_issues_nothing() {
    let db = with_authority().await;
    let issue = async |name: &str| db.store.certificate_issue(&ASKING, &certificate(name, 1), &account()).await;
    issue("blue").await.unwrap();
    db.store.authority_rotate(&fresh(), &authority("b")).await.unwrap();
    issues_already(&db).await;
    // A replica without the new key goes on with the old one.
    issue("green").await.unwrap();
    for name in ["blue", "green"] {
        db.store.certificates_revoke(&fresh(), &cluster(name), None).await.unwrap();
    }
    let refused = issue("blue").await.unwrap_err();
    assert!(matches!(refused, IssueError::UnknownAuthority(_)), "{refused:?}");
    let new = NewCertificate { authority: authority("b").id, ..certificate("blue", 1) };
    db.store.certificate_issue(&ASKING, &new, &account()).await.unwrap();
}

#[tokio::test]
async fn the_first_end_is_that_of_the_cluster_whose_last_certificate_ends_first() {
    let db = with_authority().await;
    let first = async || db.store.certificates_end_first().await.unwrap();
    assert_eq!(first().await, None);
    let mut ends = std::collections::BTreeMap::new();
    for (name, hours) in [("blue", 1), ("blue", 5), ("green", 3), ("gone", 2)] {
        let one = certificate(name, hours);
        db.store.certificate_issue(&ASKING, &one, &account()).await.unwrap();
        ends.insert(hours, one.not_after.as_second());
    }
    let gone = "insert into cluster_states values ('gone', 1, true, \
                '{\"cluster\": \"gone\", \"version\": 1, \"mode\": \"Removed\", \"percent\": 0}', now(), 1)";
    sqlx::raw_sql(gone).execute(&db.raw).await.unwrap();
    assert_eq!(first().await.map(Timestamp::as_second), Some(ends[&3]), "green; a removed cluster needs none");
    db.store.certificates_revoke(&fresh(), &cluster("green"), None).await.unwrap();
    assert_eq!(first().await.map(Timestamp::as_second), Some(ends[&5]), "the last one of blue");
}

#[tokio::test]
async fn an_agent_that_asks_for_certificates_all_the_time_is_held_up_and_costs_other_clusters_nothing() {
    let db = with_authority().await;
    let many = "insert into agent_certificates (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) \
                select to_hex(i), 'blue', 'sha256:' || lpad(to_hex(i), 64, '0'), lpad('a', 16, '0'), 'x', 'certificate', 'x', now(), \
                now() + interval '1 hour' from generate_series(1, 1000) as i";
    sqlx::raw_sql(many).execute(&db.raw).await.unwrap();
    let refused = db.store.certificate_issue(&ASKING, &certificate("blue", 1), &account()).await.unwrap_err();
    assert!(matches!(refused, IssueError::TooMany(_)), "{refused:?}");
    db.store.certificate_issue(&ASKING, &certificate("green", 1), &account()).await.unwrap();
    let revoked = db.store.certificates_revoke(&fresh(), &cluster("blue"), None).await.unwrap();
    assert_eq!(revoked.len(), 1000, "a revocation is still possible");
    let hidden = "insert into agent_certificates (serial, cluster, fingerprint, authority, instance, proof, proof_id, issued_at, not_after) \
                  values ('fff', 'zz', 'sha256:' || lpad('f', 64, 'f'), lpad('a', 16, '0'), '', 'seen', '', now() - interval '1 day', \
                  now() + interval '1 year')";
    sqlx::raw_sql(hidden).execute(&db.raw).await.unwrap();
    let listed = db.store.certificates(None).await.unwrap();
    let good: Vec<&str> =
        listed.iter().filter(|one| one.revoked_at.is_none()).map(|one| one.certificate.cluster.as_str()).collect();
    assert_eq!((listed.len(), good), (1000, vec!["zz", "green"]), "what is revoked hides nothing that is good");
    // The rightful agent, after the thief was shut out.
    db.store.certificate_issue(&ASKING, &certificate("blue", 1), &account()).await.unwrap();
}

#[tokio::test]
async fn request_ids_of_one_caller_are_not_those_of_another() {
    let db = database().await;
    let (ann, blue) = (caller("the-same"), cluster("blue"));
    let bob = Caller { actor: "corp:bob".to_owned(), ..ann.clone() };
    let of_ann = db.store.join_token_create(&ann, &blue, HOUR, &token(TokenKind::Join)).await.unwrap();
    let of_bob = db.store.join_token_create(&bob, &blue, HOUR, &token(TokenKind::Join)).await.unwrap();
    assert_ne!(of_ann.id, of_bob.id);
    let again = db.store.join_token_create(&ann, &blue, HOUR, &token(TokenKind::Join)).await.unwrap_err();
    assert!(matches!(&again, AccessError::SecretShown { name, .. } if *name == of_ann.id), "{again:?}");
}

#[tokio::test]
async fn of_replicas_that_make_an_authority_at_once_one_wins_and_rotations_are_bounded() {
    let db = database().await;
    let tries = (0..8).map(|i| {
        let store = db.store.clone();
        async move { store.authority_found(&authority(&format!("{i}")), |stored| stored.is_empty()).await.unwrap() }
    });
    let made = join_all(tries).await;
    assert_eq!(made.iter().filter(|(_, made)| *made).count(), 1);
    assert!(made.iter().all(|(stored, _)| stored.len() == 1 && stored[0] == made[0].0[0]));
    assert!(made[0].0[0].issues_from <= Timestamp::now() + 1.second(), "the first one issues at once");
    for i in 10..29 {
        let all = db.store.authority_rotate(&fresh(), &authority(&format!("{i}"))).await.unwrap();
        assert_eq!(all.last().unwrap().authority.id, authority(&format!("{i}")).id, "the youngest, however fast");
    }
    let refused = db.store.authority_rotate(&fresh(), &authority("30")).await.unwrap_err();
    assert!(matches!(refused, AccessError::TooMany { most: 20, .. }), "{refused:?}");
    assert_eq!(db.store.authorities().await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_new_password_is_used_for_new_connections_and_for_the_one_that_listens() {
    use futures::StreamExt;
    use switchyard_hub::store::Notice;

    let db = database().await;
    let options = StoreOptions { acquire_timeout: Duration::from_secs(2), ..StoreOptions::default() };
    let store = Store::connect(&db.url, options).await.unwrap();
    let mut notices = Box::pin(store.listen().await.unwrap());
    let error = store.set_url("postgres://user:secret@host:port/x").unwrap_err();
    assert!(matches!(error, StoreError::Url { .. }) && !format!("{error:?} {error}").contains("secret"));
    // A new role is as good as a new password: sockets of this server ask for none.
    let role = "create role rotated superuser login; alter role rotated set search_path = public";
    sqlx::raw_sql(role).execute(&db.raw).await.unwrap();
    let (scheme, rest) = db.url.split_once("://").unwrap();
    let (_, host) = rest.split_once('@').unwrap();
    store.set_url(&format!("{scheme}://rotated@{host}")).unwrap();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where application_name = 'switchyard-hub' and datname = current_database()";
    sqlx::query(end).execute(&db.raw).await.unwrap();
    eventually("a connection of the new role", async || {
        store.ping().await.ok()?;
        let users = "select count(*) from pg_stat_activity where usename = 'rotated' and datname = current_database()";
        let count: i64 = sqlx::query_scalar(users).fetch_one(&db.raw).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    // Whatever the listener missed, it says that it came back, and hears again.
    let heard = tokio::time::timeout(Duration::from_secs(30), notices.next()).await.unwrap().unwrap();
    assert_eq!(heard, Notice::Reconnected);
}
