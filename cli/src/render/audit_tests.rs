//! The pages of the audit log. The docs show the same pages.

use super::*;
use crate::model::{fixtures::SHIFT, shift::Weights};

const BARE: Paint = Paint { colored: false };
const DOCS: &str = include_str!("../../../docs/yardctl.md");

fn entry(action: &str, from: Weights, to: Weights) -> AuditEntry {
    AuditEntry {
        id: 7,
        at: Some("2026-01-02T03:04:05Z".parse().unwrap()),
        actor: "token:ci".into(),
        action: action.into(),
        policy: "shop/checkout".into(),
        shift_id: SHIFT.into(),
        from_weights: from,
        to_weights: to,
        reason: "release 42".into(),
        source: "10.0.3.7".into(),
        result: "done".into(),
        ..AuditEntry::default()
    }
}

#[test]
fn the_audit_log_shows_who_moved_what_from_where_to_where_and_why() {
    let weights = |blue, green| Weights::from([("blue".to_owned(), blue), ("green".to_owned(), green)]);
    let step = AuditEntry { source: String::new(), ..entry("shift-step", weights(100, 0), weights(75, 25)) };
    let mut created = entry("shift-create", Weights::new(), Weights::new());
    created.overrides = vec!["MaxStepPercent".into()];
    let refused = AuditEntry {
        actor: "corp:ann@example.com".into(),
        action: "PolicyService/ApplyPolicy".into(),
        policy: String::new(),
        shift_id: String::new(),
        reason: String::new(),
        result: "refused".into(),
        detail: serde_json::json!({
            "rpc": "/switchyard.api.v1.PolicyService/ApplyPolicy", "code": "permission_denied", "count": 3,
            "message": "the role admin over policies of namespace shop is needed",
        }),
        ..entry("", Weights::new(), Weights::new())
    };
    let text = audit(&[step, created, refused], BARE);
    let expected = "\
TIME                  ACTOR                 ACTION                     RESULT   POLICY         FROM              TO                OVERRIDES       SHIFT                                 SOURCE    REASON
2026-01-02T03:04:05Z  token:ci              shift-step                 done     shop/checkout  blue=100,green=0  blue=75,green=25  -               019b0c3e-7c00-7000-8000-000000000001  -         release 42
2026-01-02T03:04:05Z  token:ci              shift-create               done     shop/checkout  -                 -                 MaxStepPercent  019b0c3e-7c00-7000-8000-000000000001  10.0.3.7  release 42
2026-01-02T03:04:05Z  corp:ann@example.com  PolicyService/ApplyPolicy  refused  -              -                 -                 -               -                                     10.0.3.7  3 times: the role admin over policies of namespace shop is needed
";
    assert_eq!(text, expected, "\n{text}");
    assert!(DOCS.contains(expected), "docs/yardctl.md shows another table than the program");
    assert_eq!(audit(&[], BARE), "No entries.\n");
}

#[test]
fn an_operation_on_a_cluster_shows_its_modes() {
    let drain = AuditEntry {
        actor: "alice".into(),
        action: "cluster.drain".into(),
        detail: serde_json::json!({"cluster": "blue", "fromMode": "Active", "toMode": "Draining", "percent": 75}),
        ..AuditEntry::default()
    };
    let text = audit(&[drain], BARE);
    assert!(text.contains("cluster.drain  -       cluster blue  active  draining 75%"), "{text}");
}

#[test]
fn a_token_and_a_switch_are_named() {
    for (action, about) in
        [("service-token.revoke", "token ci"), ("set-switch", "switch ci"), ("authority.rotate", "-")]
    {
        let detail = serde_json::json!({"name": "ci", "id": "q7Hs2LmX0aBc"});
        let one = AuditEntry { action: action.into(), result: "done".into(), detail, ..AuditEntry::default() };
        let text = audit(&[one], BARE);
        assert!(text.contains(&format!("{action}  done    {about} ")), "{text}");
    }
}

#[test]
fn a_verification_shows_the_head_to_keep_and_a_broken_one_the_entry() {
    let head = "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9".to_owned();
    let good = Verdict {
        verified: true,
        entries: 1432,
        first_id: Some(1),
        last_id: Some(1440),
        head: Some(head.clone()),
        kept_id: Some(1201),
        problem: None,
    };
    let text = verified(&good, BARE);
    assert!(DOCS.contains(&text), "docs/yardctl.md shows another page than the program:\n{text}");
    let problem = Some("entry 7 was changed after it was written".to_owned());
    let bad = Verdict { verified: false, entries: 1, last_id: Some(1), kept_id: None, problem, ..good };
    let text = verified(&bad, BARE);
    assert_eq!(
        text,
        format!("1 entry fits together, 1 to 1\nhead  {head}\nentry 7 was changed after it was written\n")
    );
    let none =
        Verdict { verified: true, entries: 0, first_id: None, last_id: None, head: None, kept_id: None, problem: None };
    assert_eq!(verified(&none, BARE), "0 entries fit\n");
}
