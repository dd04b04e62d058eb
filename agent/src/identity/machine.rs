//! The state machine of an identity that the agent gets for itself: what comes next, given what is kept, what was heard, and `now`.
//!
//! `next` says which one thing to do; the driver does it and reports back with `hear`. No IO, no clock, no dice.
//!
//! Rules:
//! - A key is kept before the hub hears of it, together with the join token that it will be shown with. A lost answer or a crash at
//!   any moment is then followed by the same token with the same key, which the hub answers with a certificate again.
//! - A join token that was shown with one key is never shown with another.
//! - What was kept is replaced by what was issued later, and by nothing else. A certificate that has ended stays and is still shown:
//!   it is the hub's clock that counts, and this one may be wrong.
//! - Another replica may write at the same time: a write that meets a change is followed by reading it, and the better one is taken up.
//!   Before anything is asked of the hub, what is kept is read again.
//! - The old certificate is used until the new one is there, so a renewal that fails costs nothing; it is tried until the end.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
mod types;

use std::time::Duration;

use jiff::Timestamp;

pub use self::types::{Heard, Next, Way, Ways};
use super::values::{Certificate, Identity, Kept, Key, Pending, TokenId};

/// The first pause after a call that failed.
const BASE: Duration = Duration::from_secs(1);
/// The longest: an agent without a certificate does no work, and a hub has room for a call a minute from each.
const LONGEST: Duration = Duration::from_secs(60);
/// 1 s x 2^6 is past the longest.
const LAST_DOUBLING: u32 = 6;
/// A renewal is tried at least so many times in what is left of the certificate.
const TRIES: u32 = 5;
/// How old a reading of what is kept may be when the hub is asked for something.
const FRESH: Duration = Duration::from_secs(10);
/// No two certificates are asked for within this time, whatever the clocks say.
const SPACING: Duration = Duration::from_secs(10);
/// No two doubts are followed within this time: a hub that takes no certificate at all would be asked at every dial.
const DOUBT_SPACING: Duration = Duration::from_secs(30);
/// The renewals of many agents that began together spread over this part of the life that is left.
const SPREAD: f64 = 0.1;

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    cluster: String,
    ways: Ways,
    /// What the store holds, as far as is known; None when it has to be read.
    stored: Option<Kept>,
    /// What it should hold.
    kept: Kept,
    /// What is being written.
    storing: Option<Kept>,
    /// When it was last tried to read the store.
    looked_at: Option<Timestamp>,
    store_at: Timestamp,
    store_failures: u32,
    /// The key of a renewal, which is not kept: a renewal that is lost is begun anew.
    fresh: Option<Key>,
    /// When the present certificate is to be renewed, spread.
    renew_at: Timestamp,
    /// The serial of a certificate that the hub refused to renew, and its words.
    condemned: Option<(String, String)>,
    doubted: bool,
    doubt_at: Timestamp,
    token: Option<TokenId>,
    token_refused: Option<(TokenId, String)>,
    asked: Option<Asked>,
    retry_at: Timestamp,
    failures: u32,
    /// What came of the last call when it failed.
    trouble: Option<String>,
}

/// What is, or is about to be, asked of the hub.
#[derive(Clone, Debug)]
enum Asked {
    Enroll(Way),
    Renew,
}

impl Machine {
    /// A machine that knows of nothing yet.
    #[must_use]
    pub fn new(cluster: &str, ways: Ways) -> Self {
        Self {
            cluster: cluster.to_owned(),
            ways,
            stored: None,
            kept: Kept::default(),
            storing: None,
            looked_at: None,
            store_at: Timestamp::MIN,
            store_failures: 0,
            fresh: None,
            renew_at: Timestamp::MAX,
            condemned: None,
            doubted: false,
            doubt_at: Timestamp::MIN,
            token: None,
            token_refused: None,
            asked: None,
            retry_at: Timestamp::MIN,
            failures: 0,
            trouble: None,
        }
    }

    /// What the agent proves itself with: the newest that it has, even when this clock says that it has ended.
    #[must_use]
    pub fn present(&self) -> Option<&Identity> {
        self.kept.identity.as_ref()
    }

    /// True when the present certificate is good by this clock, and the hub has not refused it.
    #[must_use]
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.usable(now).is_some() && self.condemned.is_none()
    }

    /// Why the last call failed, until one succeeds.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    fn usable(&self, now: Timestamp) -> Option<&Identity> {
        self.kept.identity.as_ref().filter(|identity| now < identity.certificate.not_after)
    }

    /// The one thing to do now. Asked again without an answer in between, it says the same.
    pub fn next(&mut self, now: Timestamp) -> Next {
        self.mend(now);
        let may_store = self.store_at <= now;
        if may_store && self.stored.is_none() {
            return Next::Load;
        }
        if may_store && self.is_unsaved() {
            return self.store();
        }
        match (self.usable(now).cloned(), self.way()) {
            (Some(identity), _) if self.condemned.is_none() => self.keep_up(&identity, now),
            (_, Ok(way)) => self.enroll(way, now),
            // Should it have been refused by mistake, it is renewed yet.
            (Some(identity), Err(_)) if self.retry_at <= now => self.renew(&identity, now),
            // Another replica may have got one meanwhile.
            (_, Err(_)) if may_store && self.should_look(now) => Next::Load,
            (_, Err(stuck)) => Next::Wait { until: later(now, FRESH), stuck: Some(stuck) },
        }
    }

    /// A clock that was set back must not turn a pause into a year.
    fn mend(&mut self, now: Timestamp) {
        let latest = later(now, LONGEST);
        for at in [&mut self.retry_at, &mut self.store_at, &mut self.doubt_at] {
            if *at > latest {
                *at = now;
            }
        }
    }

    /// The certificate is good: renew it in time.
    fn keep_up(&mut self, identity: &Identity, now: Timestamp) -> Next {
        let due = if self.doubted { now } else { self.renew_at }.max(self.retry_at);
        if due <= now {
            return self.renew(identity, now);
        }
        let mut until = due.min(identity.certificate.not_after);
        if self.stored.is_none() || self.is_unsaved() {
            until = until.min(self.store_at);
        }
        Next::Wait { until, stuck: None }
    }

    /// That what is kept cannot be read at this moment does not keep a good certificate from being renewed.
    fn renew(&mut self, identity: &Identity, now: Timestamp) -> Next {
        if self.should_look(now) && self.store_at <= now {
            return Next::Load;
        }
        self.asked = Some(Asked::Renew);
        match self.fresh.clone() {
            None => Next::Generate,
            Some(key) => Next::Renew { key, with: identity.clone() },
        }
    }

    fn enroll(&mut self, way: Way, now: Timestamp) -> Next {
        let blocked = self.retry_at.max(self.store_at);
        if blocked > now {
            return Next::Wait { until: blocked, stuck: None };
        }
        if self.should_look(now) {
            return Next::Load;
        }
        self.asked = Some(Asked::Enroll(way.clone()));
        let Some(pending) = &mut self.kept.pending else { return Next::Generate };
        if let Way::JoinToken(id) = &way
            && !pending.tokens.contains(id)
        {
            pending.tokens.push(id.clone());
        }
        let key = pending.key.clone();
        if self.is_unsaved() {
            return self.store();
        }
        Next::Enroll { key, way }
    }

    fn store(&mut self) -> Next {
        self.storing = Some(self.kept.clone());
        Next::Store(self.kept.clone())
    }

    fn is_unsaved(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| stored != &self.kept)
    }

    /// True when what is known of the store is too old to ask the hub for something.
    fn should_look(&self, now: Timestamp) -> bool {
        let oldest = now.checked_sub(FRESH).unwrap_or(Timestamp::MIN);
        // A reading of the future is one of before the clock was set back.
        self.looked_at.is_none_or(|at| at < oldest || at > now)
    }

    /// How to enrol now, or what somebody has to do.
    fn way(&self) -> Result<Way, String> {
        let refused = |id: &TokenId| self.token_refused.as_ref().filter(|(refused, _)| refused == id);
        let cluster = &self.cluster;
        let trouble = match &self.token {
            Some(id) if self.kept.spent.contains(id) => {
                format!("the join token {id} was used before")
            }
            Some(id) => match refused(id) {
                None => return Ok(Way::JoinToken(id.clone())),
                Some((_, words)) => format!("the hub refused the join token {id}: {words}"),
            },
            None => "no join token is given".to_owned(),
        };
        if self.ways.account {
            return Ok(Way::Account);
        }
        let lost = match (&self.condemned, &self.kept.identity) {
            (Some((_, words)), _) => format!("the hub does not take this agent's certificate any more: {words}"),
            (None, Some(identity)) => format!("this agent's certificate ended at {}", identity.certificate.not_after),
            (None, None) => "this agent has no certificate".to_owned(),
        };
        Err(format!(
            "{lost}, and {trouble}; run `yardctl cluster join {cluster}` and give this agent the token that it prints"
        ))
    }

    /// Takes in what happened. `jitter` is uniform in 0.0..=1.0.
    pub fn hear(&mut self, heard: Heard, now: Timestamp, jitter: f64) {
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 };
        match heard {
            Heard::Loaded(kept) => {
                self.looked_at = Some(now);
                self.store_failures = 0;
                self.loaded(kept, jitter);
            }
            Heard::Unloaded => {
                self.looked_at = Some(now);
                self.stored = None;
                self.store_failed(now, jitter);
            }
            Heard::Stored => {
                self.store_failures = 0;
                self.stored = self.storing.take();
            }
            Heard::Conflict => {
                self.stored = None;
                // Two that began together should not meet at every step.
                self.store_at = later(now, Duration::from_millis(200).mul_f64(jitter));
            }
            Heard::Unstored => {
                self.stored = None;
                self.store_failed(now, jitter);
            }
            Heard::Made(key) => self.made(key),
            Heard::Certified(certificate) => self.certified(certificate, now, jitter),
            Heard::Refused(words) => self.refused(words, now, jitter),
            Heard::Failed(words) => {
                self.asked = None;
                self.call_failed(words, now, jitter);
            }
            Heard::Token(token) => {
                if self.token != token {
                    self.token = token;
                    // What was wrong with the one before says nothing of this one.
                    self.retry_at = self.retry_at.min(now);
                    self.failures = 0;
                }
            }
            Heard::Doubted(serial) => {
                self.mend(now);
                let of_present = self.present().is_some_and(|identity| identity.certificate.serial == serial);
                if of_present && self.doubt_at <= now {
                    self.doubted = true;
                    self.doubt_at = later(now, DOUBT_SPACING);
                }
            }
        }
    }

    /// What is kept, read anew: the better identity of the two, and the other's key of an enrolment before the own.
    fn loaded(&mut self, stored: Kept, jitter: f64) {
        // Not by the end: a hub may be told to issue for shorter.
        let issued = |kept: &Kept| {
            kept.identity.as_ref().map(|Identity { certificate, .. }| (certificate.not_before, certificate.not_after))
        };
        if issued(&stored) > issued(&self.kept) {
            self.kept.pending = stored.pending.clone();
            self.take_up(stored.identity.clone(), jitter);
        } else if let Some(pending) = &stored.pending {
            if self.present().is_some_and(|identity| identity.key == pending.key) {
                // A certificate just came for it, which is not written yet; another replica may be showing more tokens with it.
                self.kept.spend(pending.tokens.clone());
            } else {
                self.kept.pending = Some(pending.clone());
            }
        }
        let mut spent = stored.spent.clone();
        spent.append(&mut self.kept.spent);
        self.kept.spend(spent);
        self.stored = Some(stored);
    }

    fn made(&mut self, key: Key) {
        match self.asked {
            Some(Asked::Renew) => self.fresh = Some(key),
            Some(Asked::Enroll(Way::JoinToken(ref id))) => {
                self.kept.pending = Some(Pending { key, tokens: vec![id.clone()] });
            }
            Some(Asked::Enroll(Way::Account)) => self.kept.pending = Some(Pending { key, tokens: Vec::new() }),
            None => {}
        }
    }

    fn certified(&mut self, certificate: Certificate, now: Timestamp, jitter: f64) {
        let key = match self.asked.take() {
            Some(Asked::Renew) => self.fresh.take(),
            Some(Asked::Enroll(_)) => self.kept.pending.take().map(|pending| {
                self.kept.spend(pending.tokens);
                pending.key
            }),
            None => None,
        };
        let Some(key) = key else { return };
        self.take_up(Some(Identity { key, certificate }), jitter);
        self.failures = 0;
        self.trouble = None;
        self.retry_at = later(now, SPACING);
    }

    /// A new identity, from the hub or from another replica.
    fn take_up(&mut self, identity: Option<Identity>, jitter: f64) {
        let Some(identity) = identity else { return };
        let Certificate { renew_at, not_after, .. } = identity.certificate;
        let left = Duration::try_from(not_after.duration_since(renew_at)).unwrap_or_default();
        self.renew_at = later(renew_at, left.mul_f64(SPREAD * jitter));
        self.kept.identity = Some(identity);
        self.fresh = None;
        self.condemned = None;
        self.doubted = false;
    }

    fn refused(&mut self, words: String, now: Timestamp, jitter: f64) {
        match self.asked.take() {
            Some(Asked::Enroll(Way::JoinToken(id))) => self.token_refused = Some((id, words.clone())),
            Some(Asked::Renew) => {
                let serial = self.present().map(|identity| identity.certificate.serial.clone());
                self.condemned = serial.map(|serial| (serial, words.clone()));
            }
            Some(Asked::Enroll(Way::Account)) | None => return self.call_failed(words, now, jitter),
        }
        self.call_failed(words, now, jitter);
        // Another way needs no pause. Without one there is nothing to do but to ask now and then whether it was meant.
        self.retry_at = if self.way().is_ok() { now } else { later(now, LONGEST.mul_f64(0.5 + jitter / 2.0)) };
    }

    fn call_failed(&mut self, words: String, now: Timestamp, jitter: f64) {
        self.doubted = false;
        self.trouble = Some(words);
        let mut bound = BASE.saturating_mul(2_u32.pow(self.failures.min(LAST_DOUBLING))).min(LONGEST);
        if let Some(identity) = self.usable(now) {
            let left = Duration::try_from(identity.certificate.not_after.duration_since(now)).unwrap_or_default();
            bound = bound.min((left / TRIES).max(BASE));
        }
        self.failures = self.failures.saturating_add(1);
        self.retry_at = later(now, bound.mul_f64(0.5 + jitter / 2.0));
    }

    fn store_failed(&mut self, now: Timestamp, jitter: f64) {
        let bound = BASE.saturating_mul(2_u32.pow(self.store_failures.min(LAST_DOUBLING))).min(LONGEST);
        self.store_failures = self.store_failures.saturating_add(1);
        self.store_at = later(now, bound.mul_f64(0.5 + jitter / 2.0));
    }
}

fn later(at: Timestamp, wait: Duration) -> Timestamp {
    at.checked_add(wait).unwrap_or(Timestamp::MAX)
}
