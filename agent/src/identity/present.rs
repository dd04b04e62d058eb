//! What connections to the hub are made with at this moment. The keeper of the identity writes it, the dialer reads it at every dial.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::values::Identity;

/// Doubts that may wait; one is as good as many.
const DOUBTS: usize = 1;

/// How the agent shows itself to the hub.
#[derive(Clone, Debug)]
pub enum Presented {
    /// As nobody, which only a hub with --dev takes.
    Nobody,
    /// Not at all yet, and why.
    NotYet(String),
    /// With this certificate.
    With(Arc<Identity>),
}

/// The authorities that the hub's certificate must come from, and how the agent shows itself. Clones share both.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// PEM.
    pub authorities: watch::Receiver<Arc<[u8]>>,
    /// As it stands now.
    pub presented: watch::Receiver<Presented>,
    /// Serials of certificates that the hub did not take.
    pub doubts: mpsc::Sender<String>,
}

/// The writing ends of [`Credentials`].
#[derive(Debug)]
pub struct Source {
    /// PEM.
    pub authorities: watch::Sender<Arc<[u8]>>,
    /// How the agent shows itself from now on.
    pub presented: watch::Sender<Presented>,
    /// Serials of certificates that the hub did not take.
    pub doubts: mpsc::Receiver<String>,
}

impl Credentials {
    /// Credentials that change when their source says so.
    #[must_use]
    pub fn new(authorities: &[u8], presented: Presented) -> (Source, Self) {
        let (authorities, authorities_read) = watch::channel(authorities.into());
        let (presented, presented_read) = watch::channel(presented);
        let (doubts, doubts_read) = mpsc::channel(DOUBTS);
        let source = Source { authorities, presented, doubts: doubts_read };
        (source, Self { authorities: authorities_read, presented: presented_read, doubts })
    }

    /// Credentials that never change.
    #[must_use]
    pub fn fixed(authorities: &[u8], presented: Presented) -> Self {
        Self::new(authorities, presented).1
    }

    /// Has the identity looked at: the hub did not take it. Never waits; a doubt that is under way says the same.
    pub fn doubt(&self, identity: &Identity) {
        let _ = self.doubts.try_send(identity.certificate.serial.clone());
    }
}

/// How long a stream may go on with a certificate that was replaced: a random part of the first half of what is left of it, so that
/// the streams of many agents do not come at once, and each has come before the old certificate ends.
#[must_use]
pub fn redial_in(now: Timestamp, old_ends: Timestamp, dice: f64) -> Duration {
    let left = Duration::try_from(old_ends.duration_since(now)).unwrap_or_default();
    let dice = if dice.is_finite() { dice.clamp(0.0, 1.0) } else { 0.0 };
    (left / 2).mul_f64(dice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_dialled_anew_within_half_of_what_is_left_of_the_old_certificate() {
        let now: Timestamp = "2026-11-21T16:00:00Z".parse().expect("a moment");
        let ends: Timestamp = "2026-11-22T00:00:00Z".parse().expect("a moment");
        assert_eq!(redial_in(now, ends, 1.0), Duration::from_secs(4 * 3600));
        assert_eq!(redial_in(now, ends, 0.5), Duration::from_secs(2 * 3600));
        assert_eq!(redial_in(ends, now, 1.0), Duration::ZERO, "one that has ended is left at once");
        for odd in [f64::NAN, -1.0] {
            assert_eq!(redial_in(now, ends, odd), Duration::ZERO);
        }
    }
}
