//! The accept loop of every port: a place, a handshake in its time, the identity of the peer, and then the port's own protocol. What is
//! turned away costs no more than an accept and a counter, and a flood of it does not flood the log.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    PeerInfo,
    metrics::{DoorMetrics, Port},
    peer::{self, canonical},
    rooms::{Full, Place, Rooms},
    seats::{Seat, Seats},
    tls::Tls,
    trust::Root,
};

/// After an error of accept, such as no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For what is under way when the hub stops; less than the hub's own patience with its tasks.
const FAREWELL: Duration = Duration::from_secs(5);
/// For what is under way on a connection whose authority is not trusted any more.
pub(super) const LEAVE: Duration = Duration::from_secs(2);
/// Between two lines of the log about connections that were turned away for one reason.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A connection, encrypted or not.
pub(super) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Times and numbers that bound what connections can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the first stream on an HTTP/2 connection.
    pub first_stream: Duration,
    /// Without a stream on an HTTP/2 connection, until it is closed.
    pub idle: Duration,
    /// For the first message of a call. Every call of this API begins with one.
    pub first_message: Duration,
    /// For an answer to be taken: a peer that does not read for so long is closed. 4 MiB in it are 70 KiB a second.
    pub taken: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_stream: Duration::from_secs(30),
            idle: Duration::from_secs(600),
            first_message: Duration::from_secs(30),
            taken: Duration::from_secs(60),
        }
    }
}

/// Connections of a hub in all: each costs some 100 KiB when it is used, so 400 MiB at the worst.
pub const MOST_CONNECTIONS: usize = 4096;
/// Connections from one source address, unless told otherwise: many agents, or a fleet of CD runners, behind one address.
pub const CONNECTIONS_PER_ADDRESS: usize = 1024;

/// How a port is guarded.
#[derive(Clone, Debug)]
pub struct Guard {
    /// None: plain text.
    pub tls: Option<Arc<Tls>>,
    /// Shared by the ports that share a bound.
    pub rooms: Rooms,
    /// Bounds of one connection.
    pub bounds: Bounds,
    /// Where there is no room, the connection that was silent the longest makes it, and not the new one; for HTTP/1.1.
    pub silent_yield: bool,
    /// Counts.
    pub metrics: DoorMetrics,
}

impl Default for Guard {
    /// Plain text, the usual bounds, and counts that nobody sees.
    fn default() -> Self {
        Self {
            tls: None,
            rooms: Rooms::new(MOST_CONNECTIONS, CONNECTIONS_PER_ADDRESS),
            bounds: Bounds::default(),
            silent_yield: false,
            metrics: DoorMetrics::default(),
        }
    }
}

/// What the certificate of a connection was verified against.
pub(super) struct Trusted(Option<(Arc<Tls>, Root)>);

impl Trusted {
    /// Ends when that is not trusted any more; a connection without a certificate has nothing to lose.
    pub async fn left(&self) {
        match &self.0 {
            Some((tls, root)) => tls.left(root).await,
            None => std::future::pending().await,
        }
    }
}

/// What a port speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speech {
    /// A word for logs and metrics.
    pub port: &'static str,
    /// As ALPN names it.
    pub protocol: &'static [u8],
}

/// One connection that was let in.
pub(super) struct Guest {
    pub stream: Stream,
    pub peer: PeerInfo,
    pub trusted: Trusted,
    pub place: Arc<Place>,
    pub seat: Arc<Seat>,
    pub shutdown: CancellationToken,
}

/// Serves until the token, and then until what is under way has ended.
pub(super) async fn run<F>(
    listener: TcpListener,
    guard: Guard,
    speech: Speech,
    shutdown: CancellationToken,
    serve: impl Fn(Guest) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let door = Arc::new(Door { guard, speech, seats: Seats::default(), quiet: Quiet::default() });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                door.not_accepted(&error);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // One too many is closed at once: nothing can be said to it before a handshake.
        let Some(place) = door.place(address) else { continue };
        let seat = Arc::new(door.seats.sit(address.ip()));
        let (door, serve, shutdown) = (Arc::clone(&door), serve.clone(), shutdown.clone());
        connections.spawn(async move {
            let open = Open::new(&door);
            let greeted = tokio::select! {
                () = shutdown.cancelled() => return,
                () = seat.lost() => return,
                greeted = door.greet(stream, address) => greeted,
            };
            if let Some((stream, peer, trusted)) = greeted {
                serve(Guest { stream, peer, trusted, place, seat, shutdown }).await;
            }
            drop(open);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(FAREWELL, ended).await.is_err() {
        tracing::warn!(port = speech.port, "connections did not end in time and are cut off");
        connections.shutdown().await;
    }
}

struct Door {
    guard: Guard,
    speech: Speech,
    seats: Seats,
    quiet: Quiet,
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the handshake took too long")]
    Slow,
    #[error("the handshake failed")]
    Tls(#[source] io::Error),
    #[error("the connection broke off")]
    Gone(#[source] io::Error),
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    #[error("the client's certificate cannot be used")]
    Certificate(#[source] peer::BadCertificate),
}

impl Door {
    fn place(&self, address: SocketAddr) -> Option<Arc<Place>> {
        let full = match self.guard.rooms.enter(address.ip()) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        let of = (full == Full::Source).then(|| address.ip());
        if self.guard.silent_yield && self.seats.free_one(of) {
            let why = "it asked nothing, and another one needed its place";
            self.turned_away("silent", address, &why);
            return Some(self.guard.rooms.follow(address.ip()));
        }
        let (reason, text) = match full {
            Full::All => ("all", "the hub has as many connections as it may have"),
            Full::Source => {
                ("source", "this address has as many connections as it may have; see --connections-per-address")
            }
        };
        self.turned_away(reason, address, &text);
        None
    }

    /// Such as for want of file descriptors: tried again ten times a second, and told once in ten.
    fn not_accepted(&self, error: &io::Error) {
        let port = self.speech.port;
        self.guard.metrics.refuse(port, "accept");
        if let Some(others) = self.quiet.may_speak("accept", Instant::now()) {
            tracing::warn!(port, others, %error, "a connection could not be accepted");
        }
    }

    fn turned_away(&self, reason: &'static str, address: SocketAddr, why: &dyn std::fmt::Display) {
        let port = self.speech.port;
        self.guard.metrics.refuse(port, reason);
        if let Some(others) = self.quiet.may_speak(reason, Instant::now()) {
            tracing::warn!(port, %address, reason, others, "a connection was turned away: {why}");
        }
    }

    async fn greet(&self, stream: TcpStream, address: SocketAddr) -> Option<(Stream, PeerInfo, Trusted)> {
        match self.shake_hands(stream, address).await {
            Ok(greeted) => Some(greeted),
            // A probe of a load balancer, or a client that changed its mind.
            Err(Failed::Gone(error)) => {
                tracing::debug!(port = self.speech.port, %address, %error, "a connection ended before it began");
                None
            }
            Err(failed) => {
                let reason = if matches!(failed, Failed::Slow) { "slow" } else { "handshake" };
                self.turned_away(reason, address, &chain(&failed));
                None
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream, address: SocketAddr) -> Result<(Stream, PeerInfo, Trusted), Failed> {
        stream.set_nodelay(true).map_err(Failed::Gone)?;
        let Some(tls) = &self.guard.tls else {
            return Ok((Either::Left(stream), PeerInfo::plain(address), Trusted(None)));
        };
        let handshake = tls.handshake(self.speech.protocol).map_err(Failed::Setup)?;
        let accepted = timeout(self.guard.bounds.handshake, TlsAcceptor::from(handshake.config).accept(stream));
        let stream = accepted.await.map_err(|_| Failed::Slow)?.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Failed::Gone(error)
            }
            _ => Failed::Tls(error),
        })?;
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(|chain| chain.first());
        let (certificate, root) = match (leaf, handshake.verifier.found()) {
            (Some(leaf), Some(found)) => {
                let read = peer::read(leaf, found.set, found.authority).map_err(Failed::Certificate)?;
                (Some(Arc::new(read)), Some(found.root))
            }
            _ => (None, None),
        };
        let peer = PeerInfo { address: canonical(address), encrypted: true, certificate };
        let trusted = Trusted(root.map(|root| (Arc::clone(tls), root)));
        Ok((Either::Right(Box::new(stream)), peer, trusted))
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Counts a connection as long as it is there.
struct Open(DoorMetrics, Port);

impl Open {
    fn new(door: &Door) -> Self {
        let (metrics, port) = (door.guard.metrics.clone(), Port { port: door.speech.port });
        metrics.connections.get_or_create(&port).inc();
        Self(metrics, port)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.get_or_create(&self.1).dec();
    }
}

/// Says something at once, and then at most every ten seconds for each reason, with the number of those in between.
#[derive(Default)]
struct Quiet(Mutex<Vec<(&'static str, Instant, u64)>>);

impl Quiet {
    fn may_speak(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, last, silent)) = said.iter_mut().find(|(known, _, _)| *known == reason) else {
            said.push((reason, now, 0));
            return Some(0);
        };
        if now.duration_since(*last) < LOG_EVERY {
            *silent += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_in_ten_seconds_with_its_number() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.may_speak("all", now), Some(0));
        assert!((0..1000).all(|_| quiet.may_speak("all", now).is_none()));
        assert_eq!(quiet.may_speak("source", now), Some(0));
        assert_eq!(quiet.may_speak("all", now + LOG_EVERY), Some(1000));
        assert_eq!(quiet.may_speak("all", now + LOG_EVERY), None);
    }
}
