//! What operators are told of the authority in time: gauges, and a line in the log when this replica cannot issue or the authority of
//! files ends soon. Decides nothing. Tests: `hub/tests/grpc_enrollment.rs`.

use jiff::{SignedDuration, Timestamp};
use switchyard_core::access::authority::issuing;

use super::{Authority, Keys};

/// The store is asked for the first end of agents' certificates after so many looks: a minute.
const LOOKS_UNTIL_MEASURED: u32 = 60;
/// An authority of files that ends within a week is about to be forgotten by whoever renews it, however short certificates live.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// That there is no key here.
    no_key: bool,
    /// That this authority ends soon.
    ends_soon: Option<String>,
}

impl Authority {
    /// Sets the gauges of the authority that issues, and says once what somebody has to mend.
    pub(super) fn report(&self) {
        let now = Timestamp::now();
        let mut state = self.state();
        let judged = state.judged();
        let present = issuing(&judged, now);
        let can_issue = present.is_some_and(|one| state.signers.contains_key(&one.id));
        self.0.metrics.authority_can_issue.set(i64::from(can_issue));
        self.0.metrics.authority_ends.set(present.map_or(0, |one| one.not_after.as_second()));
        // Where a sealed key cannot be opened that was said when it was tried.
        let no_key = !can_issue && state.trouble.is_none() && self.0.options.keys != Keys::None;
        if no_key && !state.told.no_key {
            let authority = present.map(|one| one.id.as_str());
            tracing::warn!(
                authority,
                "this replica has no key of the authority that issues agents' certificates; was it started with other files than the others?"
            );
        } else if !no_key && state.told.no_key && can_issue {
            tracing::info!("this replica has the key of the authority that issues agents' certificates");
        }
        state.told.no_key = no_key;
        let twice = SignedDuration::try_from(self.0.options.ttl).unwrap_or(ENDS_SOON).saturating_mul(2);
        let Some(present) = present.filter(|_| matches!(self.0.options.keys, Keys::Files { .. })) else { return };
        let left = present.not_after.duration_since(now);
        if left < ENDS_SOON.max(twice) && state.told.ends_soon.as_ref() != Some(&present.id) {
            let (authority, not_after) = (present.id.as_str(), present.not_after);
            tracing::warn!(
                authority, %not_after,
                "the authority of --ca-cert ends soon, and agents' certificates with it; write a new certificate and key into its files"
            );
            state.told.ends_soon = Some(present.id.clone());
        }
    }

    /// Asks the store from time to time when the first cluster will be without a certificate.
    pub(super) async fn measure(&self, looks: u32) {
        if looks % LOOKS_UNTIL_MEASURED != 1 {
            return;
        }
        match self.0.store.certificates_end_first().await {
            Ok(first) => {
                self.0.metrics.agent_certificates_end_first.set(first.map_or(0, Timestamp::as_second));
            }
            // The look before said that the store is away.
            Err(error) => tracing::debug!(%error, "when agents' certificates end could not be read"),
        }
    }
}
