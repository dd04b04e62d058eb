//! The chain of the audit log: whatever is done to a written entry shows.

use jiff::Timestamp;
use proptest::prelude::*;
use switchyard_core::audit::{BEFORE_THE_FIRST, Broken, Hash, Link, Verifier};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: u64,
    at: i64,
    texts: [String; 9],
    previous: Hash,
    hash: Hash,
}

impl Row {
    fn link(&self) -> Link<'_> {
        let [actor, action, policy, shift_id, detail, reason, request_id, source, result] = &self.texts;
        let at = Timestamp::from_microsecond(self.at).unwrap();
        Link { id: self.id, at, actor, action, policy, shift_id, detail, reason, request_id, source, result }
    }
}

fn chained(mut rows: Vec<Row>) -> Vec<Row> {
    let mut previous = BEFORE_THE_FIRST;
    for row in &mut rows {
        row.previous = previous;
        row.hash = row.link().hash(&previous);
        previous = row.hash;
    }
    rows
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let text = "[a-c:0-9é]{0,4}";
    let texts = (text, text, text, text, text, text, text, text, text);
    proptest::collection::vec((1..4u64, 0..5_000_000i64, texts), 1..12).prop_map(|steps| {
        let mut id = 0;
        let rows = steps.into_iter().map(|(step, at, (a, b, c, d, e, f, g, h, i))| {
            id += step;
            Row { id, at, texts: [a, b, c, d, e, f, g, h, i], previous: [0; 32], hash: [0; 32] }
        });
        chained(rows.collect())
    })
}

fn verify(rows: &[Row]) -> Result<Verifier, Broken> {
    let mut verifier = Verifier::from_the_first();
    for row in rows {
        verifier.take(&row.link(), &row.previous, &row.hash)?;
    }
    Ok(verifier)
}

proptest! {
    #[test]
    fn a_chain_as_it_was_written_holds_and_can_be_gone_on_with(rows in rows(), cut in 0..12usize) {
        let whole = verify(&rows).unwrap();
        prop_assert_eq!(whole.count(), rows.len() as u64);
        prop_assert_eq!(whole.head(), rows.last().map(|row| (row.id, row.hash)));
        let cut = cut.min(rows.len() - 1);
        let mut rest = Verifier::after(rows[cut].id, rows[cut].hash);
        for row in &rows[cut + 1..] {
            rest.take(&row.link(), &row.previous, &row.hash).unwrap();
        }
    }

    #[test]
    fn a_changed_text_shows_even_when_its_own_hash_is_made_anew(rows in rows(), at in 0..12usize, field in 0..9usize, with in "[a-c:0-9]{1,4}", anew: bool) {
        let at = at % rows.len();
        let mut forged = rows.clone();
        forged[at].texts[field] = format!("{}x{with}", forged[at].texts[field]);
        if anew {
            forged[at].hash = forged[at].link().hash(&forged[at].previous);
        }
        // The newest entry can be made anew by somebody who can write; the hash that was kept elsewhere shows it.
        match verify(&forged) {
            Err(_) => {}
            Ok(verifier) => {
                prop_assert!(anew && at == rows.len() - 1);
                prop_assert_ne!(verifier.head(), verify(&rows).unwrap().head());
            }
        }
    }

    #[test]
    fn a_missing_a_moved_and_a_doubled_entry_show(rows in rows(), at in 0..12usize) {
        let at = at % rows.len();
        let mut without = rows.clone();
        without.remove(at);
        if at < rows.len() - 1 {
            prop_assert!(verify(&without).is_err());
        }
        let mut twice = rows.clone();
        twice.insert(at, rows[at].clone());
        prop_assert!(verify(&twice).is_err());
        if at > 0 {
            let mut swapped = rows.clone();
            swapped.swap(at - 1, at);
            prop_assert!(verify(&swapped).is_err());
        }
    }

    #[test]
    fn characters_cannot_wander_from_one_field_into_the_next(rows in rows(), at in 0..12usize, field in 0..8usize) {
        let row = &rows[at % rows.len()];
        let mut other = row.clone();
        let Some(moved) = other.texts[field].pop() else { return Ok(()) };
        other.texts[field + 1].insert(0, moved);
        prop_assert_ne!(other.link().hash(&row.previous), row.hash);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let rows = chained(
        (1..=3).map(|id| Row { id, at: 0, texts: Default::default(), previous: [0; 32], hash: [0; 32] }).collect(),
    );
    let missing = [rows[0].clone(), rows[2].clone()];
    let text = verify(&missing).unwrap_err().to_string();
    assert_eq!(text, "entry 3 does not follow entry 1: an entry between them is missing, was put in, or was moved");
    let mut changed = rows.clone();
    changed[1].texts[0].push('x');
    assert_eq!(verify(&changed).unwrap_err().to_string(), "entry 2 was changed after it was written");
    let swapped = [rows[0].clone(), rows[0].clone()];
    assert_eq!(verify(&swapped).unwrap_err(), Broken::OutOfOrder { id: 1, after: 1 });
    // A value by hand: SHA-256 over 32 zero bytes and "1:11:0" and nine times "0:".
    let hex: String = rows[0].hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "2bce513400fcbad117529ad4b5f96bcc504f3e28fd988378075b3e2f444d2fba");
}
