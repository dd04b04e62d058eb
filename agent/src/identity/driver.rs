//! The loop of the identity: it does what the machine says, one thing at a time, follows files, and tells the dialer what to show.
//! It decides nothing: rules belong in `machine`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    enrollment::{Enrollment, Proof},
    files::{self, INTERVAL},
    machine::{Heard, Machine, Next, Way, Ways},
    material,
    present::{Presented, Source},
    store::{Store, Version},
    values::{Certificate, Identity, JoinToken},
};
use crate::{complaints::Complaints, metrics::Metrics, text::causes};

/// Names of complaints.
const IDENTITY: &str = "identity";
const RENEWAL: &str = "certificate renewal";
const KEEPING: &str = "kept identity";
const AUTHORITIES: &str = "authorities of the hub";
const TOKEN: &str = "join token";
/// What the hub takes of a ServiceAccount's token.
const MAX_ACCOUNT_TOKEN: usize = 8192;

/// Where this agent's certificate comes from.
pub enum Origin {
    /// Nowhere: a hub with --dev takes everybody.
    Nobody,
    /// Somebody else renews it in these files.
    Files {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// The hub issues it.
    Hub(Box<FromHub>),
}

/// What it takes to have the hub issue it.
pub struct FromHub {
    /// Asks the hub.
    pub enrollment: Enrollment,
    /// Where it is kept.
    pub store: Store,
    /// A token for the first one.
    pub join_token: TokenPlace,
    /// The file of the ServiceAccount's token, which the kubelet renews.
    pub account_token: Option<PathBuf>,
}

/// Where a join token is looked for.
#[derive(Debug)]
pub enum TokenPlace {
    /// Nowhere.
    None,
    /// In this file, which need not be there.
    File(PathBuf),
    /// It is given.
    Given(JoinToken),
}

/// The parts that the loop drives.
pub struct Driver {
    /// Name of this cluster.
    pub cluster: String,
    /// Where the certificate comes from.
    pub origin: Origin,
    /// The file with the authorities that the hub's certificate must come from.
    pub authorities: PathBuf,
    /// What the dialer shows.
    pub source: Source,
    /// Counted here.
    pub metrics: Metrics,
    /// Raised here.
    pub complaints: Complaints,
}

impl Driver {
    /// Runs until the token is cancelled. What is under way then is dropped, as a crash would do; nothing is lost by it.
    pub async fn run(mut self, shutdown: CancellationToken) {
        match std::mem::replace(&mut self.origin, Origin::Nobody) {
            Origin::Hub(hub) => {
                let ways = Ways {
                    join_token: !matches!(hub.join_token, TokenPlace::None),
                    account: hub.account_token.is_some(),
                };
                let machine = Machine::new(&self.cluster, ways);
                let running = Running { machine, hub: *hub, version: Version::default(), token: None, parts: self };
                running.run(shutdown).await;
            }
            Origin::Nobody => self.follow(None, shutdown).await,
            Origin::Files { certificate, key } => self.follow(Some((certificate, key)), shutdown).await,
        }
    }

    /// Follows files that somebody else renews.
    async fn follow(self, identity: Option<(PathBuf, PathBuf)>, shutdown: CancellationToken) {
        loop {
            self.look_at_authorities();
            if let Some((certificate, key)) = &identity {
                self.look_at_identity(certificate, key);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    fn look_at_identity(&self, certificate: &std::path::Path, key: &std::path::Path) {
        match files::identity(certificate, key, &self.cluster) {
            Ok(identity) => {
                self.metrics.identity_not_after(identity.certificate.not_after);
                if self.complaints.clear(IDENTITY) {
                    info!("The files of this agent's certificate can be used again");
                }
                self.show(&identity, "files");
            }
            Err(error) => {
                let error = causes(&error);
                if self.complaints.raise(IDENTITY, &error) {
                    warn!(error, "The files of this agent's certificate cannot be used; the one before is used on");
                }
            }
        }
    }

    fn look_at_authorities(&self) {
        match files::authorities(&self.authorities) {
            Ok(pem) => {
                self.complaints.clear(AUTHORITIES);
                let is_new = self.source.authorities.send_if_modified(|held| {
                    let differs = held[..] != pem[..];
                    if differs {
                        *held = pem;
                    }
                    differs
                });
                if is_new {
                    info!(path = %self.authorities.display(), "New connections trust the authorities that this file holds now");
                }
            }
            Err(error) => {
                let error = causes(&error);
                if self.complaints.raise(AUTHORITIES, &error) {
                    warn!(error, "The authorities of the hub cannot be read; those from before are trusted on");
                }
            }
        }
    }

    /// Shows this from now on. `from`: a fixed word for the log.
    fn show(&self, identity: &Identity, from: &'static str) {
        let is_new = self.source.presented.send_if_modified(|held| {
            let differs = !matches!(held, Presented::With(held) if **held == *identity);
            if differs {
                *held = Presented::With(Arc::new(identity.clone()));
            }
            differs
        });
        if is_new {
            let Certificate { serial, not_after, .. } = &identity.certificate;
            info!(serial, %not_after, from, "New connections to the hub use this certificate");
        }
    }
}

struct Running {
    parts: Driver,
    hub: FromHub,
    machine: Machine,
    /// The state of the store that was read or written last.
    version: Version,
    /// The join token that is given now.
    token: Option<JoinToken>,
}

impl Running {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut look_at = Instant::now();
        loop {
            if look_at <= Instant::now() {
                self.parts.look_at_authorities();
                self.look_at_token();
                look_at = Instant::now() + INTERVAL;
            }
            let now = Timestamp::now();
            let next = self.machine.next(now);
            self.publish(&next, now);
            let heard = tokio::select! {
                () = shutdown.cancelled() => return,
                heard = self.carry_out(next, now) => heard,
            };
            if let Some(heard) = heard {
                self.machine.hear(heard, Timestamp::now(), rand::random());
            }
        }
    }

    /// Does it, and says what came of it. Cancelled only when the agent stops.
    async fn carry_out(&mut self, next: Next, now: Timestamp) -> Option<Heard> {
        match next {
            Next::Wait { until, .. } => {
                let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default().min(INTERVAL);
                tokio::select! {
                    () = tokio::time::sleep(wait) => None,
                    Some(serial) = self.parts.source.doubts.recv() => Some(Heard::Doubted(serial)),
                }
            }
            Next::Load => match self.hub.store.load(&self.parts.cluster).await {
                Ok((kept, version)) => {
                    self.version = version;
                    self.parts.complaints.clear(KEEPING);
                    Some(Heard::Loaded(kept))
                }
                Err(error) => Some(self.not_kept(&error, Heard::Unloaded)),
            },
            Next::Store(kept) => match self.hub.store.store(&kept, &self.version).await {
                Ok(Some(version)) => {
                    self.version = version;
                    self.parts.complaints.clear(KEEPING);
                    Some(Heard::Stored)
                }
                Ok(None) => {
                    debug!("Another replica wrote what is kept of the identity; it is read again");
                    Some(Heard::Conflict)
                }
                Err(error) => Some(self.not_kept(&error, Heard::Unstored)),
            },
            Next::Generate => Some(match material::new_key() {
                Ok(key) => Heard::Made(key),
                Err(error) => Heard::Failed(causes(&error)),
            }),
            Next::Enroll { key, way } => {
                let (proof, by) = match self.proof(&way) {
                    Ok(proof) => proof,
                    Err(reason) => return Some(Heard::Failed(reason)),
                };
                let heard = self.hub.enrollment.enroll(&key, proof).await;
                self.report(&heard, "enrolled", by);
                Some(heard)
            }
            Next::Renew { key, with } => {
                let heard = self.hub.enrollment.renew(&key, &with).await;
                self.report(&heard, "renewed", "the present certificate");
                Some(heard)
            }
        }
    }

    fn not_kept(&self, error: &super::store::StoreError, heard: Heard) -> Heard {
        let error = causes(error);
        if self.parts.complaints.raise(KEEPING, &error) {
            warn!(error, "The identity of this agent cannot be kept; it is tried again until it can");
        }
        heard
    }

    fn proof(&self, way: &Way) -> Result<(Proof, &'static str), String> {
        match way {
            Way::JoinToken(id) => match &self.token {
                Some(token) if token.id == *id => Ok((Proof::JoinToken(token.clone()), "a join token")),
                _ => Err("the join token was taken away".to_owned()),
            },
            Way::Account => {
                let path = self.hub.account_token.as_deref().ok_or("no ServiceAccount token is configured")?;
                let token = files::read("service-account-token-file", path).map_err(|error| causes(&error))?;
                let token = String::from_utf8(token).ok().map(|token| token.trim().to_owned());
                let is_token = |token: &String| !token.is_empty() && token.len() <= MAX_ACCOUNT_TOKEN;
                let token = token.filter(is_token).ok_or_else(|| {
                    format!(
                        "--service-account-token-file {} holds no token; mount a projected one there",
                        path.display()
                    )
                })?;
                Ok((Proof::Account(token), "the ServiceAccount's token"))
            }
        }
    }

    fn report(&self, heard: &Heard, done: &'static str, by: &'static str) {
        let outcome = match heard {
            Heard::Certified(Certificate { serial, not_after, renew_at, .. }) => {
                info!(serial, %not_after, %renew_at, by, "The hub issued a certificate for this agent");
                done
            }
            Heard::Refused(reason) => {
                warn!(reason, by, "The hub refused to issue a certificate for this agent");
                "refused"
            }
            _ => "failed",
        };
        self.parts.metrics.identity_issued(outcome);
    }

    fn look_at_token(&mut self) {
        let read = match &self.hub.join_token {
            TokenPlace::None => Ok(None),
            TokenPlace::Given(token) => Ok(Some(token.clone())),
            // The Secret may be deleted once the token is used.
            TokenPlace::File(path) if !path.exists() => Ok(None),
            TokenPlace::File(path) => match files::read("join-token-file", path) {
                Ok(bytes) if bytes.trim_ascii().is_empty() => Ok(None),
                Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(JoinToken::parse) {
                    Some(token) => Ok(Some(token)),
                    None => Err(format!(
                        "--join-token-file {} holds no join token; put in what `yardctl cluster join {}` prints, which begins with syj_",
                        path.display(),
                        self.parts.cluster
                    )),
                },
                Err(error) => Err(causes(&error)),
            },
        };
        let token = match read {
            Ok(token) => {
                self.parts.complaints.clear(TOKEN);
                token
            }
            Err(error) => {
                if self.parts.complaints.raise(TOKEN, &error) {
                    warn!(error, "The join token cannot be used");
                }
                None
            }
        };
        let id = token.as_ref().map(|token| token.id.clone());
        self.token = token;
        self.machine.hear(Heard::Token(id), Timestamp::now(), rand::random());
    }

    /// Tells the dialer, the probes, the metrics and the log how things stand.
    fn publish(&self, next: &Next, now: Timestamp) {
        let Driver { complaints, metrics, source, .. } = &self.parts;
        if let Some(identity) = self.machine.present() {
            metrics.identity_not_after(identity.certificate.not_after);
            self.parts.show(identity, "kept");
        }
        let stuck = if let Next::Wait { stuck, .. } = next { stuck.as_deref() } else { None };
        let trouble = self.machine.trouble();
        if self.machine.is_good(now) {
            if complaints.clear(IDENTITY) {
                info!("This agent can prove to the hub who it is");
            }
            self.complain_of_renewal(trouble);
            return;
        }
        complaints.clear(RENEWAL);
        let reason = match (stuck, trouble) {
            (Some(stuck), _) => stuck.to_owned(),
            // While something is under way, what was said last stands.
            (None, None) if complaints.is_raised(IDENTITY) => return,
            (None, Some(trouble)) => format!("the hub has issued no certificate yet: {trouble}"),
            (None, None) => "the first certificate is on its way".to_owned(),
        };
        let is_news = complaints.block(IDENTITY, &reason);
        if is_news && (stuck.is_some() || trouble.is_some()) {
            warn!(reason, "This agent cannot prove to the hub who it is");
        }
        if self.machine.present().is_none() {
            source.presented.send_if_modified(|held| {
                let differs = !matches!(held, Presented::NotYet(held) if *held == reason);
                if differs {
                    *held = Presented::NotYet(reason.clone());
                }
                differs
            });
        }
    }

    fn complain_of_renewal(&self, trouble: Option<&str>) {
        match (trouble, self.machine.present()) {
            (Some(trouble), Some(Identity { certificate, .. })) => {
                let message = format!("cannot be renewed, and ends at {}: {trouble}", certificate.not_after);
                if self.parts.complaints.raise(RENEWAL, &message) {
                    warn!(
                        reason = trouble,
                        not_after = %certificate.not_after,
                        "This agent's certificate cannot be renewed now; it is tried again until its end"
                    );
                }
            }
            _ => {
                if self.parts.complaints.clear(RENEWAL) {
                    info!("This agent's certificate could be renewed");
                }
            }
        }
    }
}
