//! Keeps the webhook's certificate: its own, in a Secret that all replicas share, or one in files that somebody else renews.

use std::{sync::Arc, time::Duration};

use jiff::civil::Date;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    certificate::{CertificateError, Data, bundle, certified, certified_from, is_due, renewed},
    server::Served,
};
use crate::{
    args::gates::{CertificateSource, ObjectName},
    complaints::Complaints,
    text::causes,
    watch::webhook::{Objects, ObjectsError, Stored},
};

/// How often the certificate is looked at. A replica that serves with the old one is trusted until the next renewal but one.
const INTERVAL: Duration = Duration::from_secs(30);
/// After a failure, or when another replica was faster.
const SOON: Duration = Duration::from_secs(5);
const COMPLAINT: &str = "webhook certificate";

/// Why the webhook cannot be served with a certificate that the API server trusts.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The API server does not let the agent do it.
    #[error("the webhook's certificate cannot be kept")]
    Objects(#[from] ObjectsError),
    /// There is none that can be used.
    #[error("the webhook's certificate cannot be used")]
    Certificate(#[from] CertificateError),
    /// A file cannot be read.
    #[error("{path} cannot be read; name a PEM file that this process may read")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the keeper works with.
pub struct Keeper {
    /// Where the certificate comes from.
    pub source: CertificateSource,
    /// The API server.
    pub objects: Objects,
    /// Set here.
    pub served: Arc<Served>,
    /// Raised here.
    pub complaints: Complaints,
}

/// What one look came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    /// All is as it should be.
    Kept,
    /// Another replica changed the Secret at the same moment.
    Again,
}

impl Keeper {
    /// Runs until the token is cancelled.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut last: Option<Data> = None;
        loop {
            let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
            let wait = match self.look(&mut last, today).await {
                Ok(Looked::Kept) => {
                    if self.complaints.clear(COMPLAINT) {
                        info!("The webhook's certificate is as it should be again");
                    }
                    INTERVAL
                }
                Ok(Looked::Again) => SOON,
                Err(error) => {
                    let message = causes(&error);
                    if self.complaints.raise(COMPLAINT, &message) {
                        warn!(
                            error = message,
                            "The webhook cannot be served with a certificate that is trusted; pods are made without gates meanwhile"
                        );
                    }
                    SOON
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One look; `last` is what was served with at the end of the one before.
    pub(super) async fn look(&self, last: &mut Option<Data>, today: Date) -> Result<Looked, KeeperError> {
        match &self.source {
            CertificateSource::Own { service, secret, configuration } => {
                self.own(service, secret, configuration, last, today).await
            }
            CertificateSource::Files { certificate, key } => {
                let read = async |path: &std::path::Path| {
                    let in_file = |source| KeeperError::File { path: path.display().to_string(), source };
                    tokio::fs::read(path).await.map_err(in_file)
                };
                let files = [("tls.crt", read(certificate).await?), ("tls.key", read(key).await?)];
                let data: Data = files.map(|(name, bytes)| (name.to_owned(), bytes)).into();
                if last.as_ref() != Some(&data) {
                    self.served.set(certified_from(&data["tls.crt"], &data["tls.key"])?);
                    info!(path = %certificate.display(), "The webhook serves with the certificate of this file");
                    *last = Some(data);
                }
                Ok(Looked::Kept)
            }
        }
    }

    /// Renew, then make the new authority trusted, then serve with it: in this order every handshake succeeds on the way.
    async fn own(
        &self,
        service: &ObjectName,
        secret: &ObjectName,
        configuration: &str,
        last: &mut Option<Data>,
        today: Date,
    ) -> Result<Looked, KeeperError> {
        let mut stored = self.objects.secret(secret).await?;
        if is_due(&stored.data, service, today) {
            let data = renewed(&stored.data, service, today)?;
            if !self.objects.store(secret, &Stored { data: data.clone(), version: stored.version }).await? {
                return Ok(Looked::Again);
            }
            info!(secret = secret.name, "The webhook has a new certificate");
            stored = Stored { data, version: String::new() };
        }
        let serve = |last: &mut Option<Data>| -> Result<(), KeeperError> {
            if last.as_ref() != Some(&stored.data) {
                self.served.set(certified(&stored.data)?);
                *last = Some(stored.data.clone());
            }
            Ok(())
        };
        if !self.served.is_set() {
            serve(last)?;
        }
        self.objects.trust(configuration, service, &bundle(&stored.data)).await?;
        serve(last)?;
        Ok(Looked::Kept)
    }
}
