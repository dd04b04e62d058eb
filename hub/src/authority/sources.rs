//! What the keeper takes from the files: the sealing key, or an authority with its key. They are read again when they change; what cannot
//! be used is said once, and what they held before stays in force. Tests: `hub/tests/grpc_enrollment.rs`.

use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Authority, Keys, OpenError, SealedUnder, SealingKey, files};
use crate::store::access::authorities::NewAuthority;

impl Authority {
    /// Says once what is wrong with the files. What was taken before stays in force.
    pub(super) fn say(&self, error: Option<OpenError>) {
        let Some(error) = error else { return };
        let words = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let mut state = self.state();
        if state.file_trouble.as_ref() != Some(&words) {
            let error = words.as_str();
            tracing::error!(error, "the files of the authority cannot be used; what they held before stays in force");
            state.file_trouble = Some(words);
        }
    }

    /// Reads the sealing key whether it seems to have changed or not.
    ///
    /// # Errors
    /// [`OpenError`] when there is none that can be used now, also when there was one before.
    pub(super) async fn sealing_read_now(&self) -> Result<(), OpenError> {
        self.state().seen = None;
        self.look_at_files().await
    }

    /// Where files give an authority and this replica can sign with none, since a replica that was started without them made one of its
    /// own meanwhile: takes the files once more at the next look. Not when other files came after these: then these are the old ones.
    pub(super) fn may_adopt_again(&self) {
        if !matches!(self.0.options.keys, Keys::Files { .. }) || self.signer(Timestamp::now()).is_ok() {
            return;
        }
        let mut state = self.state();
        if state.stored.last().is_some_and(|youngest| youngest.authority.sealed_key.is_some()) {
            state.seen = None;
        }
    }

    /// Takes what the files hold, when that changed since the last look.
    pub(super) async fn look_at_files(&self) -> Result<(), OpenError> {
        match &self.0.options.keys {
            Keys::Own(under) => self.look_at_sealing_key(under).await,
            Keys::Files { certificate, key } => {
                let (certificate, key) = (files::text(certificate).await?, files::text(key).await?);
                self.take_files(&certificate, &key).await
            }
            Keys::None => Ok(()),
        }
    }

    async fn look_at_sealing_key(&self, under: &SealedUnder) -> Result<(), OpenError> {
        let text = match under {
            SealedUnder::File(path) => files::text(path).await?,
            SealedUnder::Key(key) => Zeroizing::new(key.expose().to_owned()),
        };
        if !self.is_news(&text) {
            return Ok(());
        }
        let key = SealingKey::parse(&text)?;
        // Keys that were opened with the one before stay in use: an authority that is sealed under the new one comes by a rotation, and
        // until then agents must not go without.
        let (stored, again) = {
            let mut state = self.state();
            if state.sealing.as_ref() == Some(&key) {
                return Ok(());
            }
            let again = state.sealing.replace(key).is_some();
            (state.stored.clone(), again)
        };
        self.0.metrics.authority_sealing_key_reads.inc();
        if again {
            tracing::info!("the sealing key was read again: authorities that are made from now on are sealed under it");
        }
        self.take(stored, None);
        Ok(())
    }

    async fn take_files(&self, certificate: &str, key: &str) -> Result<(), OpenError> {
        let both = Zeroizing::new(format!("{certificate}\n{key}"));
        if !self.is_news(&both) {
            return Ok(());
        }
        let found = files::external(certificate, key, Timestamp::now())?;
        let (id, not_after) = (found.signer.id.clone(), found.signer.not_after);
        let new = NewAuthority { id: id.clone(), certificate_pem: found.pem, sealed_key: None, not_after };
        let stored = match self.0.store.authority_adopt(&new).await {
            Ok(stored) => stored,
            Err(error) => {
                // Looked at again: the files are good, the store was away.
                self.state().seen = None;
                return Err(error.into());
            }
        };
        self.state().signers.insert(id.clone(), Arc::new(found.signer));
        self.take(stored, None);
        tracing::info!(authority = id, "the authority of agents' certificates comes from files");
        Ok(())
    }

    fn is_news(&self, text: &Zeroizing<String>) -> bool {
        let mut state = self.state();
        let news = state.seen.as_ref() != Some(text);
        state.seen = Some(text.clone());
        news
    }
}
