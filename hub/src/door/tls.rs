//! TLS of the ports: certificate, key and authorities from files, read again when they change. Every handshake is made with what is in
//! force at that moment. Connections that are open are touched in one case only: the authority of the client's certificate is not trusted
//! any more. Sessions cannot be resumed, so that a certificate is verified on every connection, against the authorities of that moment.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{
    AgentRoots,
    metrics::{DoorMetrics, Reload},
    trust::{Callers, Root, Trust, Verifier},
};

/// How often the files are looked at. Kubernetes swaps a link within a second or so; 2 s more do not matter, and reading three small
/// files costs nothing.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Bytes of a file; a bundle of a hundred authorities has 200 KiB.
const MOST_BYTES: u64 = 1024 * 1024;

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// 1.2 and 1.3.
    Tls12,
    /// 1.3 only.
    #[default]
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
        static NEW: [&SupportedProtocolVersion; 1] = [&TLS13];
        match self {
            Self::Tls12 => &BOTH,
            Self::Tls13 => &NEW,
        }
    }
}

/// Where everything is read from, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `--tls-cert`: the chain.
    pub cert: PathBuf,
    /// `--tls-key`: its key.
    pub key: PathBuf,
    /// `--tls-client-ca`: the authorities of callers; none: no caller proves himself with a certificate.
    pub client_ca: Option<PathBuf>,
    /// `--tls-min-version`.
    pub min_version: MinVersion,
}

impl TlsFiles {
    /// Can they be used?
    ///
    /// # Errors
    /// [`TlsError`] when they cannot.
    pub fn check(&self) -> Result<(), TlsError> {
        served(&read(self)?, &AgentRoots::default(), &Arc::new(aws_lc_rs::default_provider())).map(|_| ())
    }
}

/// Why certificates are not usable. The files are named by their flags.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{flag} {} cannot be read", .path.display())]
    Read {
        /// Which.
        flag: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not PEM, or nothing in it.
    #[error("{flag} is not usable as PEM")]
    Pem {
        /// Which.
        flag: &'static str,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// A file without the certificate that it should hold.
    #[error("{0} holds no certificate that can be used")]
    Empty(&'static str),
    /// The chain and its key.
    #[error("--tls-cert and --tls-key cannot be used together")]
    Identity(#[source] rustls::Error),
    /// One authority for both.
    #[error(
        "--tls-client-ca holds an authority that agents' certificates come from, so that callers could not be told from agents; give callers an authority of their own"
    )]
    Shared,
}

/// The bytes of the files.
struct Pems {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

/// What was made of them.
#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    callers: Option<Callers>,
    ends: Timestamp,
}

/// TLS as it is in force.
pub struct Tls {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    /// Of the files as they were opened.
    opened: Digest,
    served: watch::Sender<Arc<Served>>,
    roots: watch::Receiver<Arc<AgentRoots>>,
    /// What follows from the two above, made anew when one of them is another than it was.
    trust: Mutex<(Arc<Served>, Arc<AgentRoots>, Arc<Trust>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// One handshake.
pub(super) struct Handshake {
    pub config: Arc<ServerConfig>,
    pub verifier: Arc<Verifier>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] when they are not usable.
    pub fn open(files: TlsFiles, roots: watch::Receiver<Arc<AgentRoots>>) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let agents = Arc::clone(&roots.borrow());
        let pems = read(&files)?;
        let served = Arc::new(served(&pems, &agents, &provider)?);
        let trust = Arc::new(Trust::new(&agents, served.callers.clone(), &provider));
        let trust = Mutex::new((Arc::clone(&served), agents, trust));
        Ok(Arc::new(Self { files, provider, opened: pems.digest(), served: watch::Sender::new(served), roots, trust }))
    }

    /// When the certificate that is served ends.
    pub fn certificate_ends(&self) -> Timestamp {
        self.served.borrow().ends
    }

    fn trust(&self, served: &Arc<Served>) -> Arc<Trust> {
        let roots = Arc::clone(&self.roots.borrow());
        let mut kept = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&kept.0, served) || !Arc::ptr_eq(&kept.1, &roots) {
            if served.callers.as_ref().is_some_and(|callers| callers.shares_with(&roots)) {
                // Agents are looked for first, so such a certificate is an agent's and never a caller's.
                tracing::error!(
                    "--tls-client-ca holds an authority that agents' certificates come from; give callers one of their own"
                );
            }
            let trust = Arc::new(Trust::new(&roots, served.callers.clone(), &self.provider));
            *kept = (Arc::clone(served), roots, trust);
        }
        Arc::clone(&kept.2)
    }

    /// For one connection, with what is in force now.
    pub(super) fn handshake(&self, protocol: &'static [u8]) -> Result<Handshake, rustls::Error> {
        let served = Arc::clone(&self.served.borrow());
        let verifier = Arc::new(Verifier::new(self.trust(&served), Arc::clone(&self.provider)));
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let mut config = builder
            .with_protocol_versions(self.files.min_version.versions())?
            .with_client_cert_verifier(Arc::<Verifier>::clone(&verifier))
            .with_cert_resolver(Arc::new(Always(Arc::clone(&served.key))));
        config.alpn_protocols = vec![protocol.to_vec()];
        // A resumed session would bring along a certificate that nobody verifies again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Handshake { config: Arc::new(config), verifier })
    }

    /// Ends when certificates of this authority are not believed any more.
    pub(super) async fn left(&self, root: &Root) {
        let (mut served, mut roots) = (self.served.subscribe(), self.roots.clone());
        loop {
            roots.mark_unchanged();
            let present = Arc::clone(&served.borrow_and_update());
            if !self.trust(&present).holds(root) {
                return;
            }
            tokio::select! {
                Ok(()) = served.changed() => {}
                Ok(()) = roots.changed() => {}
                // Nobody changes anything any more.
                else => std::future::pending().await,
            }
        }
    }

    /// Reads the files again and again until the token, and puts into force what has changed and can be used.
    pub async fn keep(self: Arc<Self>, metrics: DoorMetrics, every: Duration, shutdown: CancellationToken) {
        metrics.certificate_ends.set(self.certificate_ends().as_second());
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut eyes = Eyes::new(self.opened);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let files = self.files.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || read(&files)).await else { continue };
            if eyes.changed(found.as_ref().ok().map(Pems::digest)) {
                match found {
                    Ok(pems) => self.change(&pems, &metrics),
                    Err(error) => kept(&error, &metrics),
                }
            }
        }
    }

    fn change(&self, pems: &Pems, metrics: &DoorMetrics) {
        let agents = Arc::clone(&self.roots.borrow());
        match served(pems, &agents, &self.provider) {
            Ok(served) => {
                metrics.certificate_ends.set(served.ends.as_second());
                metrics.reloads.get_or_create(&Reload { outcome: "done" }).inc();
                tracing::info!(ends = %served.ends, "the certificates of the ports were read again; new connections get them, and those of callers whose authority is gone are ended");
                self.served.send_replace(Arc::new(served));
            }
            Err(error) => kept(&error, metrics),
        }
    }
}

fn kept(error: &TlsError, metrics: &DoorMetrics) {
    metrics.reloads.get_or_create(&Reload { outcome: "kept" }).inc();
    let error: &dyn std::error::Error = error;
    tracing::error!(error, "the changed certificates of the ports cannot be used; those from before stay in force");
}

/// What was seen last, so that a change is acted on once, and only when it was seen twice: between two files that belong together,
/// one may be new and the other old. None stands for files that cannot be read.
struct Eyes {
    acted: Option<Digest>,
    before: Option<Digest>,
}

type Digest = [u8; 32];

impl Eyes {
    fn new(opened: Digest) -> Self {
        Self { acted: Some(opened), before: Some(opened) }
    }

    fn changed(&mut self, found: Option<Digest>) -> bool {
        let steady = self.before == found;
        self.before = found;
        let changed = steady && self.acted != found;
        if changed {
            self.acted = found;
        }
        changed
    }
}

impl Pems {
    fn digest(&self) -> Digest {
        let mut hash = Sha256::new();
        for part in [Some(&self.cert[..]), Some(&self.key[..]), self.client_ca.as_deref()] {
            let part = part.unwrap_or_default();
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn read(files: &TlsFiles) -> Result<Pems, TlsError> {
    let read = |flag: &'static str, path: &Path| {
        read_bounded(path).map_err(|source| TlsError::Read { flag, path: path.to_owned(), source })
    };
    Ok(Pems {
        cert: read("--tls-cert", &files.cert)?,
        key: Zeroizing::new(read("--tls-key", &files.key)?),
        client_ca: files.client_ca.as_deref().map(|path| read("--tls-client-ca", path)).transpose()?,
    })
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "the file is longer than 1 MiB"));
    }
    Ok(bytes)
}

fn served(pems: &Pems, agents: &AgentRoots, provider: &Arc<CryptoProvider>) -> Result<Served, TlsError> {
    let chain = certificates("--tls-cert", &pems.cert)?;
    let ends = chain.first().and_then(|leaf| {
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
    });
    let ends = ends.ok_or(TlsError::Empty("--tls-cert"))?;
    let key = PrivateKeyDer::from_pem_slice(&pems.key).map_err(|source| TlsError::Pem { flag: "--tls-key", source })?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Identity)?;
    let callers = match &pems.client_ca {
        None => None,
        Some(text) => {
            let callers = Callers::new(&certificates("--tls-client-ca", text)?, provider);
            Some(callers.ok_or(TlsError::Empty("--tls-client-ca"))?)
        }
    };
    if callers.as_ref().is_some_and(|callers| callers.shares_with(agents)) {
        return Err(TlsError::Shared);
    }
    Ok(Served { key: Arc::new(key), callers, ends })
}

fn certificates(flag: &'static str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|source| TlsError::Pem { flag, source })
}

/// One chain for everybody, whatever name they ask for.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_acted_on_once_and_only_when_it_has_settled() {
        let (old, half, new) = ([0; 32], [1; 32], [2; 32]);
        let mut eyes = Eyes::new(old);
        let seen: Vec<bool> =
            [old, half, new, new, new, old, new].into_iter().map(|digest| eyes.changed(Some(digest))).collect();
        assert_eq!(seen, [false, false, false, true, false, false, false]);
        let seen: Vec<bool> = [None, None, None, Some(new), Some(new)].map(|found| eyes.changed(found)).into();
        assert_eq!(seen, [false, true, false, false, true]);
    }
}
