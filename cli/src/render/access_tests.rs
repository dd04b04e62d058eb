//! The pages about who may do what. The docs show the same pages.

use super::*;
use crate::model::access::Role;

const BARE: Paint = Paint { colored: false };
const DOCS: &str = include_str!("../../../docs/yardctl.md");

fn now() -> Timestamp {
    at("2026-01-02T03:04:05Z").unwrap()
}

fn at(text: &str) -> Option<Timestamp> {
    Some(text.parse().unwrap())
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn grant(role: Role, namespaces: &[&str], clusters: &[&str], overrides: bool) -> Grant {
    Grant { role, namespaces: names(namespaces), clusters: names(clusters), overrides }
}

fn documented(text: &str) {
    assert!(DOCS.contains(text), "docs/yardctl.md shows another page than the program:\n{text}");
}

#[test]
fn a_caller_sees_who_he_is_how_he_proved_it_and_what_he_may_do() {
    let ann = Caller {
        identity: "corp:ann@example.com".into(),
        method: "jwt".into(),
        grants: vec![
            grant(Role::Operator, &["shop", "pay"], &["*"], false),
            grant(Role::Viewer, &["*"], &["*"], false),
        ],
        expires_at: at("2026-01-02T03:59:05Z"),
    };
    documented(&caller(&ann, BARE, now()));
    let nobody = Caller { grants: vec![], expires_at: None, ..ann.clone() };
    let text = caller(&nobody, BARE, now());
    assert_eq!(
        text,
        "corp:ann@example.com, proved by jwt\nmay do nothing but ask this; an admin of the hub gives rights\n"
    );
    let dev = Caller { identity: "development".into(), method: "none".into(), ..ann };
    assert!(caller(&dev, BARE, now()).starts_with("development, not proved (the hub runs in development mode), until"));
}

#[test]
fn only_a_grant_over_all_namespaces_and_all_clusters_sees_everything() {
    let sees =
        |grants| Caller { identity: "x".into(), method: "jwt".into(), grants, expires_at: None }.sees_everything();
    assert!(sees(vec![grant(Role::Operator, &["shop"], &["*"], false), grant(Role::Viewer, &["*"], &["*"], false)]));
    // Two halves are not the whole: entries of no policy are shown only to who sees all by one grant.
    assert!(!sees(vec![grant(Role::Admin, &["*"], &["blue"], true), grant(Role::Admin, &["shop"], &["*"], true)]));
    assert!(!sees(vec![grant(Role::Unspecified, &["*"], &["*"], false)]) && !sees(vec![]));
}

#[test]
fn a_join_token_is_open_used_revoked_or_ended() {
    let open = JoinToken {
        id: "k3jd2apq7xzt".into(),
        cluster: "blue".into(),
        created_by: "corp:ann@example.com".into(),
        created_at: at("2026-01-02T03:00:00Z"),
        expires_at: at("2026-01-02T04:00:00Z"),
        ..JoinToken::default()
    };
    let used = JoinToken {
        id: "zr67mw2c7lbh".into(),
        cluster: "green".into(),
        used_at: at("2026-01-02T03:01:00Z"),
        ..open.clone()
    };
    documented(&join_tokens(&[open.clone(), used.clone()], BARE, now()));
    let revoked = JoinToken { revoked_at: at("2026-01-02T03:02:00Z"), ..used };
    let ended = JoinToken { expires_at: at("2026-01-02T03:04:05Z"), ..open };
    let text = join_tokens(&[revoked, ended], BARE, now());
    assert!(text.contains("  revoked  ") && text.contains("  ended    0s ago"), "{text}");
    assert_eq!(join_tokens(&[], BARE, now()), "No join tokens.\n");
}

#[test]
fn a_certificate_is_good_ended_or_revoked_by_somebody() {
    let good = AgentCertificate {
        serial: "5c1f09a7d2".into(),
        cluster: "blue".into(),
        fingerprint: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        authority: "a2".into(),
        agent_instance_id: "i".into(),
        proof: "certificate".into(),
        issued_at: at("2026-01-01T21:04:05Z"),
        not_after: at("2026-01-02T21:04:05Z"),
        ..AgentCertificate::default()
    };
    let revoked = AgentCertificate {
        serial: "41be77c0e9".into(),
        cluster: "green".into(),
        proof: "join-token".into(),
        revoked_at: at("2026-01-02T03:00:00Z"),
        revoked_by: "corp:ann@example.com".into(),
        ..good.clone()
    };
    documented(&certificates(&[good.clone(), revoked], BARE, now()));
    let ended = AgentCertificate { not_after: at("2026-01-01T03:04:05Z"), ..good };
    assert!(certificates(&[ended], BARE, now()).contains("ended  1d0h ago"));
    assert_eq!(certificates(&[], BARE, now()), "No certificates.\n");
}

#[test]
fn a_service_token_shows_what_it_may_do_and_when_it_was_last_used() {
    let ci = ServiceToken {
        name: "ci".into(),
        id: "q7Hs2LmX0aBc".into(),
        grants: vec![grant(Role::Operator, &["shop", "pay"], &["*"], true), grant(Role::Viewer, &["*"], &["*"], false)],
        created_by: "corp:ann@example.com".into(),
        created_at: at("2026-01-01T03:04:05Z"),
        expires_at: at("2026-04-01T03:04:05Z"),
        last_used_at: at("2026-01-02T03:00:00Z"),
        revoked_at: None,
    };
    let old = ServiceToken {
        name: "old-ci".into(),
        id: "p0Rk5TnV8wQe".into(),
        grants: vec![grant(Role::Viewer, &["shop"], &["blue", "green"], false)],
        last_used_at: None,
        revoked_at: at("2026-01-02T03:00:00Z"),
        ..ci.clone()
    };
    documented(&service_tokens(&[ci.clone(), old], BARE, now()));
    let ended = ServiceToken { expires_at: at("2026-01-02T03:00:00Z"), ..ci };
    assert!(service_tokens(&[ended], BARE, now()).contains("ended  4m05s ago"));
    assert_eq!(service_tokens(&[], BARE, now()), "No service tokens.\n");
}

#[test]
fn an_authority_issues_is_trusted_or_has_ended() {
    let new = Authority {
        id: "a2".into(),
        fingerprint: format!("sha256:{}", "fedcba9876543210".repeat(4)),
        issuing: true,
        external: false,
        created_at: at("2026-01-01T03:04:05Z"),
        not_after: at("2035-12-30T03:04:05Z"),
        trusted_until: None,
        certificate_pem: String::new(),
    };
    let old = Authority {
        id: "a1".into(),
        issuing: false,
        external: true,
        created_at: at("2025-01-01T03:04:05Z"),
        trusted_until: at("2026-01-02T05:04:05Z"),
        ..new.clone()
    };
    documented(&authorities(&[new, old.clone()], BARE, now()));
    let ended = Authority { trusted_until: at("2026-01-02T03:00:00Z"), ..old };
    assert!(authorities(&[ended], BARE, now()).contains("a1  ended"));
    assert!(authorities(&[], BARE, now()).starts_with("No authorities"));
}

#[test]
fn nothing_of_another_machine_reaches_the_terminal_as_an_escape_sequence() {
    let evil = "x\u{1b}[2J\u{202e}\ny".to_owned();
    let caller_of = Caller {
        identity: evil.clone(),
        method: evil.clone(),
        grants: vec![Grant { namespaces: vec![evil.clone()], ..grant(Role::Viewer, &[], &["*"], false) }],
        expires_at: None,
    };
    let token = ServiceToken { name: evil.clone(), created_by: evil.clone(), ..ServiceToken::default() };
    let certificate =
        AgentCertificate { revoked_by: evil.clone(), revoked_at: at("2026-01-02T03:00:00Z"), ..Default::default() };
    let authority = Authority { id: evil.clone(), fingerprint: evil, ..Authority::default() };
    for text in [
        caller(&caller_of, BARE, now()),
        service_tokens(&[token], BARE, now()),
        certificates(&[certificate], BARE, now()),
        authorities(&[authority], BARE, now()),
    ] {
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'), "{text:?}");
    }
}
