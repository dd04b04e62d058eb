//! What a verification finds, and what it cannot be deceived about.

use proptest::prelude::*;
use switchyard_core::audit::BEFORE_THE_FIRST;

use super::*;

/// A log whose hashes are right. Ids have gaps: a transaction that was rolled back leaves one.
fn log(count: u64) -> Vec<pb::AuditEntry> {
    let mut previous = BEFORE_THE_FIRST;
    let entry = |index: u64| {
        let mut entry = pb::AuditEntry {
            id: index * 2 + 1,
            at: Some(prost_types::Timestamp { seconds: 1_767_322_800 + index as i64, nanos: 123_456_000 }),
            actor: "token:ci".into(),
            action: "shift-create".into(),
            policy: "shop/checkout".into(),
            reason: format!("release {index}"),
            detail_json: "{\"step\": 1}".into(),
            source: "10.0.0.1".into(),
            result: "done".into(),
            previous_hash: previous.to_vec(),
            ..Default::default()
        };
        previous = audit_link(&entry).unwrap().hash(&previous);
        entry.hash = previous.to_vec();
        entry
    };
    (0..count).map(entry).collect()
}

fn head(log: &[pb::AuditEntry]) -> Option<(u64, Vec<u8>)> {
    log.last().map(|entry| (entry.id, entry.hash.clone()))
}

fn hash(entry: &pb::AuditEntry) -> Hash {
    entry.hash.as_slice().try_into().unwrap()
}

fn verdict(mut chain: Chain, log: &[pb::AuditEntry]) -> Verdict {
    // As the command does: it stops reading at the first entry that does not fit.
    for entry in log {
        if !chain.take(entry) {
            break;
        }
    }
    chain.verdict()
}

fn problem(log: &[pb::AuditEntry]) -> String {
    let verdict = verdict(Chain::new(0, None, head(log)), log);
    assert!(!verdict.verified);
    verdict.problem.unwrap()
}

#[test]
fn a_log_that_fits_gives_its_head_to_keep() {
    let log = log(5);
    let found = verdict(Chain::new(0, None, head(&log)), &log);
    let expected = Verdict {
        verified: true,
        entries: 5,
        first_id: Some(1),
        last_id: Some(9),
        head: Some(hex(&log[4].hash)),
        kept_id: None,
        problem: None,
    };
    assert_eq!(found, expected);
    let nothing = verdict(Chain::new(0, None, None), &[]);
    assert_eq!((nothing.verified, nothing.entries, nothing.head), (true, 0, None));
}

#[test]
fn entries_that_came_after_the_head_was_asked_for_are_verified_too() {
    let log = log(5);
    let found = verdict(Chain::new(0, None, head(&log[..3])), &log);
    assert_eq!((found.verified, found.last_id), (true, Some(9)));
}

#[test]
fn the_first_entry_that_was_tampered_with_is_named() {
    let change: [fn(&mut pb::AuditEntry); 8] = [
        |entry| entry.actor = "token:other".into(),
        |entry| entry.action = "shift-abort".into(),
        |entry| entry.policy.clear(),
        |entry| entry.reason.push('!'),
        |entry| entry.detail_json = "{\"step\": 2}".into(),
        |entry| entry.source = "10.0.0.2".into(),
        |entry| entry.result = "refused".into(),
        |entry| entry.at.as_mut().unwrap().nanos += 1000,
    ];
    for (number, change) in change.iter().enumerate() {
        let mut log = log(5);
        change(&mut log[2]);
        change(&mut log[3]);
        assert_eq!(problem(&log), "entry 5 was changed after it was written", "change {number}");
    }
    let mut log = log(3);
    log[1].at = None;
    assert_eq!(problem(&log), "entry 3 has no time");
}

#[test]
fn a_missing_entry_is_noticed_at_the_beginning_in_the_middle_and_at_the_end() {
    let whole = log(5);
    let without = |index: usize| {
        let mut log = whole.clone();
        log.remove(index);
        verdict(Chain::new(0, None, head(&whole)), &log).problem.unwrap()
    };
    assert!(without(0).starts_with("entry 3 does not follow entry 0"), "{}", without(0));
    assert!(without(2).starts_with("entry 7 does not follow entry 3"), "{}", without(2));
    assert_eq!(without(4), "the entries end with 7, and the hub says that its newest is entry 9");
    let none = verdict(Chain::new(0, None, head(&whole)), &[]);
    assert_eq!(none.problem.unwrap(), "no entry came, and the hub says that its newest is entry 9");
}

#[test]
fn entries_in_another_order_are_noticed_also_with_their_ids_exchanged() {
    let mut swapped = log(5);
    swapped.swap(1, 2);
    assert!(problem(&swapped).starts_with("entry 5 does not follow entry 1"));
    let (first, second) = (swapped[1].id, swapped[2].id);
    (swapped[1].id, swapped[2].id) = (second, first);
    assert!(problem(&swapped).starts_with("entry 3 does not follow entry 1"));
    let mut twice = log(3);
    twice.insert(1, twice[0].clone());
    assert_eq!(problem(&twice), "entry 1 comes after entry 1");
}

#[test]
fn a_log_that_was_written_anew_does_not_hold_the_hash_that_was_kept() {
    let log = log(5);
    let kept = hash(&log[1]);
    let found = verdict(Chain::new(0, Some(kept), head(&log)), &log);
    assert_eq!((found.verified, found.kept_id), (true, Some(3)));

    // Somebody who can write the database makes all hashes anew: the chain fits, the kept hash tells.
    let mut anew = log.clone();
    let mut previous = BEFORE_THE_FIRST;
    anew[0].reason = "another".into();
    for entry in &mut anew {
        entry.previous_hash = previous.to_vec();
        previous = audit_link(entry).unwrap().hash(&previous);
        entry.hash = previous.to_vec();
    }
    assert!(verdict(Chain::new(0, None, head(&anew)), &anew).verified);
    let told = verdict(Chain::new(0, Some(kept), head(&anew)), &anew).problem.unwrap();
    assert!(told.contains(&hex(&kept)) && told.contains("written anew"), "{told}");
    // The same when only its end is cut off.
    let newest = hash(&log[4]);
    assert!(!verdict(Chain::new(0, Some(newest), head(&log[..4])), &log[..4]).verified);
}

#[test]
fn another_newest_entry_than_the_hub_named_is_noticed() {
    let log = log(3);
    let promised = Some((5, vec![7; 32]));
    let told = verdict(Chain::new(0, None, promised), &log).problem.unwrap();
    assert!(told.starts_with("entry 5 is another one"), "{told}");
}

#[test]
fn a_verification_may_begin_later_and_says_so_when_the_kept_hash_is_older() {
    let mut log = log(5);
    log[0].reason = "changed".into();
    let found = verdict(Chain::new(4, Some(hash(&log[3])), head(&log)), &log);
    assert_eq!((found.verified, found.entries, found.first_id, found.kept_id), (true, 3, Some(5), Some(7)));
    let told = verdict(Chain::new(4, Some(hash(&log[1])), head(&log)), &log).problem.unwrap();
    assert!(told.starts_with("no entry from entry 4 on has the hash"), "{told}");
    let beyond = verdict(Chain::new(100, None, head(&log)), &log);
    assert_eq!((beyond.verified, beyond.entries), (true, 0));
    log[2].previous_hash = vec![1];
    assert_eq!(
        verdict(Chain::new(4, None, head(&log)), &log).problem.unwrap(),
        "the hash before entry 5 is no SHA-256"
    );
}

proptest! {
    /// Whatever one does to a log but leave it as it is, is noticed.
    #[test]
    fn no_single_alteration_passes(at in 0_usize..6, what in 0_u8..6, byte in 0_usize..32, bit in 0_u8..8) {
        let whole = log(6);
        let mut log = whole.clone();
        match what {
            0 => { log.remove(at); }
            1 => { let copy = log[at].clone(); log.insert(at, copy); }
            2 => log[at].hash[byte] ^= 1 << bit,
            3 => log[at].previous_hash[byte] ^= 1 << bit,
            4 => { let other = (at + 1 + byte % 5) % 6; log.swap(at, other); }
            _ => { log[at].reason.push(char::from(b'a' + bit)); }
        }
        prop_assert!(!verdict(Chain::new(0, None, head(&whole)), &log).verified);
    }
}
