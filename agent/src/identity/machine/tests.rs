//! One history each. The random ones are in `properties`.

use jiff::ToSpan;

use super::*;

const CLUSTER: &str = "blue";

fn start() -> Timestamp {
    "2026-11-21T00:00:00Z".parse().expect("a moment")
}

fn hours(count: i64) -> Timestamp {
    start() + count.hours()
}

fn key(name: &str) -> Key {
    Key::from_pem(name)
}

fn token(letter: char) -> TokenId {
    TokenId::new(&letter.to_string().repeat(12)).expect("an id")
}

/// A day from then on, with its renewal after sixteen hours.
fn certificate(serial: &str, from: Timestamp) -> Certificate {
    Certificate {
        chain: "pem".into(),
        serial: serial.to_owned(),
        cluster: Some(CLUSTER.to_owned()),
        not_before: from,
        not_after: from + 24.hours(),
        renew_at: from + 16.hours(),
    }
}

fn identity(name: &str, serial: &str, from: Timestamp) -> Identity {
    Identity { key: key(name), certificate: certificate(serial, from) }
}

const JOIN: Ways = Ways { join_token: true, account: false };
const ACCOUNT: Ways = Ways { join_token: false, account: true };

/// A machine whose store is this.
fn with(ways: Ways, kept: &Kept, now: Timestamp) -> Machine {
    let mut machine = Machine::new(CLUSTER, ways);
    assert_eq!(machine.next(now), Next::Load);
    machine.hear(Heard::Loaded(kept.clone()), now, 0.0);
    machine
}

fn joined(now: Timestamp) -> Machine {
    with(JOIN, &Kept { identity: Some(identity("k", "1", start())), ..Kept::default() }, now)
}

fn stuck(next: &Next) -> &str {
    match next {
        Next::Wait { stuck: Some(stuck), .. } => stuck,
        other => panic!("not stuck: {other:?}"),
    }
}

fn store(machine: &mut Machine, now: Timestamp) -> Kept {
    let Next::Store(kept) = machine.next(now) else { panic!("nothing to keep") };
    machine.hear(Heard::Stored, now, 0.0);
    kept
}

#[test]
fn the_key_and_its_token_are_kept_before_the_hub_hears_of_them() {
    let mut machine = with(JOIN, &Kept::default(), start());
    machine.hear(Heard::Token(Some(token('a'))), start(), 0.0);
    assert_eq!(machine.next(start()), Next::Generate);
    machine.hear(Heard::Made(key("k")), start(), 0.0);
    let kept = store(&mut machine, start());
    assert_eq!(kept.pending, Some(Pending { key: key("k"), tokens: vec![token('a')] }));
    let ask = Next::Enroll { key: key("k"), way: Way::JoinToken(token('a')) };
    assert_eq!(machine.next(start()), ask);
    // The answer is lost, and the process with it.
    let mut machine = with(JOIN, &kept, hours(1));
    machine.hear(Heard::Token(Some(token('a'))), hours(1), 0.0);
    assert_eq!(machine.next(hours(1)), ask);
    machine.hear(Heard::Certified(certificate("1", start())), hours(1), 0.0);
    assert!(machine.is_good(hours(1)));
    let kept = store(&mut machine, hours(1));
    assert_eq!((kept.identity, kept.pending), (Some(identity("k", "1", start())), None));
    assert_eq!(kept.spent, [token('a')]);
}

#[test]
fn a_certificate_is_renewed_at_its_time_with_a_new_key_and_the_old_one_is_used_until_then() {
    let mut machine = joined(hours(1));
    let until = hours(16);
    assert_eq!(machine.next(hours(1)), Next::Wait { until, stuck: None });
    assert_eq!(machine.next(hours(16)), Next::Load, "another replica may have renewed it");
    let kept = Kept { identity: Some(identity("k", "1", start())), ..Kept::default() };
    machine.hear(Heard::Loaded(kept), hours(16), 0.0);
    assert_eq!(machine.next(hours(16)), Next::Generate);
    machine.hear(Heard::Made(key("n")), hours(16), 0.0);
    let ask = Next::Renew { key: key("n"), with: identity("k", "1", start()) };
    assert_eq!(machine.next(hours(16)), ask);
    machine.hear(Heard::Failed("away".to_owned()), hours(16), 1.0);
    assert_eq!((machine.present(), machine.trouble()), (Some(&identity("k", "1", start())), Some("away")));
    let Next::Wait { until, stuck: None } = machine.next(hours(16)) else { panic!("no pause") };
    assert_eq!(until, hours(16) + 1.second());
    assert_eq!(machine.next(until), ask);
    machine.hear(Heard::Certified(certificate("2", hours(16))), until, 0.0);
    assert_eq!(machine.present(), Some(&identity("n", "2", hours(16))));
    assert_eq!((store(&mut machine, until).identity, machine.trouble()), (Some(identity("n", "2", hours(16))), None));
}

#[test]
fn renewals_of_agents_that_began_together_are_spread_over_a_tenth_of_what_is_left() {
    let mut machine = Machine::new(CLUSTER, JOIN);
    machine.next(start());
    let kept = Kept { identity: Some(identity("k", "1", start())), ..Kept::default() };
    machine.hear(Heard::Loaded(kept), start(), 1.0);
    let until = hours(16) + 48.minutes();
    assert_eq!(machine.next(hours(1)), Next::Wait { until, stuck: None });
}

#[test]
fn what_another_replica_renewed_is_taken_up_instead() {
    let mut machine = joined(hours(1));
    assert_eq!(machine.next(hours(16)), Next::Load);
    let other = Kept { identity: Some(identity("o", "2", hours(16))), ..Kept::default() };
    machine.hear(Heard::Loaded(other), hours(16), 0.0);
    assert_eq!(machine.present(), Some(&identity("o", "2", hours(16))));
    assert_eq!(machine.next(hours(16)), Next::Wait { until: hours(32), stuck: None });
}

#[test]
fn two_replicas_that_begin_together_ask_with_one_key() {
    let mut machine = with(JOIN, &Kept::default(), start());
    machine.hear(Heard::Token(Some(token('a'))), start(), 0.0);
    machine.next(start());
    machine.hear(Heard::Made(key("mine")), start(), 0.0);
    assert!(matches!(machine.next(start()), Next::Store(_)));
    machine.hear(Heard::Conflict, start(), 0.0);
    assert_eq!(machine.next(start()), Next::Load);
    let theirs = Pending { key: key("theirs"), tokens: vec![token('a')] };
    machine.hear(Heard::Loaded(Kept { pending: Some(theirs), ..Kept::default() }), start(), 0.0);
    assert_eq!(machine.next(start()), Next::Enroll { key: key("theirs"), way: Way::JoinToken(token('a')) });
}

#[test]
fn a_token_that_is_used_up_or_refused_is_not_shown_again_and_a_new_one_is() {
    let kept = Kept { spent: vec![token('a')], ..Kept::default() };
    let mut machine = with(JOIN, &kept, start());
    machine.hear(Heard::Token(Some(token('a'))), start(), 0.0);
    let next = machine.next(start());
    assert!(
        stuck(&next).contains("the join token aaaaaaaaaaaa was used before; run `yardctl cluster join blue`"),
        "{next:?}"
    );

    machine.hear(Heard::Token(Some(token('b'))), start(), 0.0);
    assert_eq!(machine.next(start()), Next::Generate);
    machine.hear(Heard::Made(key("k")), start(), 0.0);
    store(&mut machine, start());
    assert!(matches!(machine.next(start()), Next::Enroll { .. }));
    machine.hear(Heard::Refused("it has expired".to_owned()), start(), 0.0);
    let next = machine.next(start());
    assert!(stuck(&next).contains("the hub refused the join token bbbbbbbbbbbb: it has expired"), "{next:?}");

    machine.hear(Heard::Token(Some(token('c'))), start(), 0.0);
    assert_eq!(store(&mut machine, start()).pending.map(|pending| pending.key), Some(key("k")));
    assert_eq!(machine.next(start()), Next::Enroll { key: key("k"), way: Way::JoinToken(token('c')) });
}

#[test]
fn without_any_token_it_says_what_an_operator_has_to_do() {
    let mut machine = with(JOIN, &Kept::default(), start());
    let expected = "this agent has no certificate, and no join token is given; run `yardctl cluster join blue` and give \
                    this agent the token that it prints";
    assert_eq!(stuck(&machine.next(start())), expected);
    assert_eq!(machine.next(hours(1)), Next::Load, "another replica may have got one meanwhile");
}

#[test]
fn a_revoked_certificate_is_replaced_with_the_service_accounts_token() {
    let kept = Kept { identity: Some(identity("k", "1", start())), ..Kept::default() };
    let mut machine = with(ACCOUNT, &kept, hours(1));
    machine.hear(Heard::Doubted("0".to_owned()), hours(1), 0.0);
    assert!(matches!(machine.next(hours(1)), Next::Wait { .. }), "that was another certificate");
    machine.hear(Heard::Doubted("1".to_owned()), hours(1), 0.0);
    assert_eq!(machine.next(hours(1)), Next::Generate, "the hub is asked at once");
    machine.hear(Heard::Made(key("n")), hours(1), 0.0);
    assert!(matches!(machine.next(hours(1)), Next::Renew { .. }));
    machine.hear(Heard::Refused("revoked".to_owned()), hours(1), 0.0);
    assert!(!machine.is_good(hours(1)) && machine.present().is_some());
    assert_eq!(machine.next(hours(1)), Next::Generate, "for the enrolment");
    machine.hear(Heard::Made(key("e")), hours(1), 0.0);
    store(&mut machine, hours(1));
    assert_eq!(machine.next(hours(1)), Next::Enroll { key: key("e"), way: Way::Account });
    machine.hear(Heard::Certified(certificate("2", hours(1))), hours(1), 0.0);
    assert!(machine.is_good(hours(1)));
}

#[test]
fn a_revoked_certificate_without_another_way_says_so_and_asks_now_and_then_whether_it_was_meant() {
    let mut machine = joined(hours(16));
    assert_eq!(machine.next(hours(16)), Next::Generate);
    machine.hear(Heard::Made(key("n")), hours(16), 0.0);
    assert!(matches!(machine.next(hours(16)), Next::Renew { .. }));
    machine.hear(Heard::Refused("revoked by ann".to_owned()), hours(16), 1.0);
    let next = machine.next(hours(16));
    assert!(stuck(&next).starts_with("the hub does not take this agent's certificate any more: revoked by ann, and"));
    let again = hours(16) + 1.minute();
    assert_eq!(machine.next(again), Next::Load);
    machine.hear(Heard::Loaded(Kept { identity: Some(identity("k", "1", start())), ..Kept::default() }), again, 0.0);
    assert!(matches!(machine.next(again), Next::Renew { .. }));
    machine.hear(Heard::Certified(certificate("2", again)), again, 0.0);
    assert!(machine.is_good(again));
}

#[test]
fn a_certificate_that_ended_stays_for_the_clock_may_be_wrong() {
    let mut machine = joined(hours(30));
    let next = machine.next(hours(30));
    assert!(stuck(&next).starts_with("this agent's certificate ended at 2026-11-22T00:00:00Z, and"), "{next:?}");
    assert!(machine.present().is_some() && !machine.is_good(hours(30)));
    assert!(machine.is_good(hours(2)), "the clock was set right");
    assert!(matches!(machine.next(hours(2)), Next::Wait { stuck: None, .. }));
}

#[test]
fn a_store_that_is_away_keeps_no_good_certificate_from_being_renewed() {
    let mut machine = joined(hours(1));
    assert_eq!(machine.next(hours(16)), Next::Load);
    machine.hear(Heard::Unloaded, hours(16), 1.0);
    assert_eq!(machine.next(hours(16)), Next::Generate);
    machine.hear(Heard::Made(key("n")), hours(16), 0.0);
    assert!(matches!(machine.next(hours(16)), Next::Renew { .. }));
    machine.hear(Heard::Certified(certificate("2", hours(16))), hours(16), 0.0);
    assert!(machine.is_good(hours(16)));
    let Next::Wait { until, .. } = machine.next(hours(16)) else { panic!("the store is away") };
    assert_eq!(until, hours(16) + 1.second());
    assert_eq!(machine.next(until), Next::Load);
    machine.hear(Heard::Loaded(Kept { identity: Some(identity("k", "1", start())), ..Kept::default() }), until, 0.0);
    assert_eq!(store(&mut machine, until).identity, Some(identity("n", "2", hours(16))));
}

#[test]
fn the_last_tries_of_a_renewal_come_before_the_end() {
    let mut machine = joined(hours(16));
    machine.next(hours(16));
    machine.hear(Heard::Made(key("n")), hours(16), 0.0);
    let (mut now, mut tries) = (hours(24) - 100.seconds(), 0);
    while now < hours(24) {
        match machine.next(now) {
            Next::Wait { until, .. } => now = until,
            Next::Load => machine.hear(Heard::Unloaded, now, 1.0),
            Next::Renew { .. } => {
                tries += 1;
                machine.hear(Heard::Failed("away".to_owned()), now, 1.0);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((8..100).contains(&tries), "{tries} tries");
}

#[test]
fn a_clock_that_was_set_back_does_not_make_a_pause_longer() {
    let mut machine = with(ACCOUNT, &Kept::default(), hours(1000));
    machine.next(hours(1000));
    machine.hear(Heard::Made(key("k")), hours(1000), 0.0);
    store(&mut machine, hours(1000));
    assert!(matches!(machine.next(hours(1000)), Next::Enroll { .. }));
    machine.hear(Heard::Failed("away".to_owned()), hours(1000), 1.0);
    assert_eq!(machine.next(start()), Next::Load, "the reading is one of the future");
    machine.hear(Heard::Loaded(Kept { pending: machine.kept.pending.clone(), ..Kept::default() }), start(), 0.0);
    assert!(matches!(machine.next(start()), Next::Enroll { .. }));
}
