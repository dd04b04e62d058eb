//! Whether the entries of the audit log fit together. Pure: the entries come in, oldest first, and a verdict comes out.
//!
//! The chain itself shows what was changed, left out or moved. Two things more are looked for, since a chain cannot show that its newest
//! end was cut off, or that all of it was made anew: that the list reaches the head that the hub named before it was read, and that a
//! hash which was kept elsewhere is the hash of an entry.

use serde::Serialize;
use switchyard_core::audit::{Hash, Verifier};
use switchyard_proto::api::v1 as pb;

use crate::{model::audit_link, text::hex};

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub verified: bool,
    /// How many entries fit.
    pub entries: u64,
    pub first_id: Option<u64>,
    pub last_id: Option<u64>,
    /// The hash of the last entry that fits, in hexadecimal digits: what to keep elsewhere.
    pub head: Option<String>,
    /// The entry whose hash was kept.
    pub kept_id: Option<u64>,
    /// Why it is not verified, in a sentence.
    pub problem: Option<String>,
}

/// The entries so far.
pub struct Chain {
    verifier: Option<Verifier>,
    since_id: u64,
    first: Option<u64>,
    kept: Option<Hash>,
    kept_id: Option<u64>,
    /// The newest entry and its hash, as the hub said before the list was read. Nothing: there was none.
    promised: Option<(u64, Vec<u8>)>,
    problem: Option<String>,
}

impl Chain {
    pub fn new(since_id: u64, kept: Option<Hash>, promised: Option<(u64, Vec<u8>)>) -> Self {
        Self { verifier: None, since_id, first: None, kept, kept_id: None, promised, problem: None }
    }

    /// Takes the next entry. False: the rest need not be read.
    pub fn take(&mut self, entry: &pb::AuditEntry) -> bool {
        if entry.id < self.since_id {
            return true;
        }
        self.problem = self.fits(entry).err();
        self.problem.is_none()
    }

    fn fits(&mut self, entry: &pb::AuditEntry) -> Result<(), String> {
        let verifier = match &mut self.verifier {
            Some(verifier) => verifier,
            none => none.insert(begin(self.since_id, entry)?),
        };
        let link = audit_link(entry).ok_or_else(|| format!("entry {} has no time", entry.id))?;
        verifier.take(&link, &entry.previous_hash, &entry.hash).map_err(|broken| broken.to_string())?;
        self.first.get_or_insert(entry.id);
        if self.kept.is_some_and(|kept| entry.hash == kept) {
            self.kept_id = Some(entry.id);
        }
        match &self.promised {
            Some((id, hash)) if *id == entry.id && *hash != entry.hash => {
                Err(format!("entry {id} is another one than the hub named as its newest a moment before"))
            }
            _ => Ok(()),
        }
    }

    /// After the last entry.
    pub fn verdict(self) -> Verdict {
        let head = self.first.and_then(|_| self.verifier.as_ref().and_then(Verifier::head));
        let problem = self.problem.clone().or_else(|| self.cut_off(head)).or_else(|| self.not_kept());
        Verdict {
            verified: problem.is_none(),
            entries: self.verifier.as_ref().map_or(0, Verifier::count),
            first_id: self.first,
            last_id: head.map(|(id, _)| id),
            head: head.map(|(_, hash)| hex(&hash)),
            kept_id: self.kept_id,
            problem,
        }
    }

    fn cut_off(&self, head: Option<(u64, Hash)>) -> Option<String> {
        let (promised, _) = self.promised.as_ref().filter(|(id, _)| *id >= self.since_id)?;
        let last = head.map_or(0, |(id, _)| id);
        (last < *promised).then(|| match last {
            0 => format!("no entry came, and the hub says that its newest is entry {promised}"),
            _ => format!("the entries end with {last}, and the hub says that its newest is entry {promised}"),
        })
    }

    fn not_kept(&self) -> Option<String> {
        let kept = self.kept.filter(|_| self.kept_id.is_none())?;
        let begun = match self.since_id {
            0 => String::new(),
            id => format!(" from entry {id} on"),
        };
        Some(format!(
            "no entry{begun} has the hash {} that was kept: the log was cut off before it, or written anew",
            hex(&kept)
        ))
    }
}

/// From the first entry of all, or from a later one whose hash before it is taken on trust.
fn begin(since_id: u64, entry: &pb::AuditEntry) -> Result<Verifier, String> {
    if since_id == 0 {
        return Ok(Verifier::from_the_first());
    }
    let previous = entry.previous_hash.as_slice().try_into();
    let previous = previous.map_err(|_| format!("the hash before entry {} is no SHA-256", entry.id))?;
    Ok(Verifier::after(entry.id.saturating_sub(1), previous))
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
