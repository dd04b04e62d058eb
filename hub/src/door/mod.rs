//! How agents and callers come in: one accept loop for every port, with TLS, bounds and the identity of the connection. It says who is
//! at the other end ([`PeerInfo`]) and nothing about rights. Must not import `grpc`, `gateway`, `access`, `store` or `engine`.
//!
//! Bounded before anyone has said who he is: connections in all and from one address (`rooms.rs`), the handshake (`accept.rs`),
//! streams, headers and silence on HTTP/2 (`http2.rs`, `idle.rs`), heads and bodies of HTTP/1.1 (`head.rs`, `http1.rs`), answers that
//! nobody takes (`kept.rs`). Certificates are read again when their files change (`tls.rs`), and there are two sets of authorities
//! (`trust.rs`); a connection ends with the trust in the one that its certificate came from. Tests: in the files, and
//! `hub/tests/door_*.rs`, `hub/tests/gateway*.rs`.

mod accept;
pub mod head;
mod headers;
pub mod http1;
pub mod http2;
mod idle;
mod kept;
pub mod metrics;
pub mod peer;
mod rooms;
mod seats;
pub mod tls;
mod trust;

pub use accept::{Bounds, CONNECTIONS_PER_ADDRESS, Guard, MOST_CONNECTIONS};
pub use kept::Keep;
pub use peer::{PeerCertificate, PeerInfo, RootSet, source_of};
pub use rooms::{Full, Place, Rooms};

/// An authority that agents' certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRoot {
    /// Its id, which [`PeerCertificate::authority`] gives back.
    pub id: String,
    /// Its certificate.
    pub der: Vec<u8>,
}

/// The authorities that are trusted for agents at this moment. Whoever keeps them sends new ones through a
/// `tokio::sync::watch::Sender<Arc<AgentRoots>>`, the youngest last; connections with a certificate of one that leaves are ended, all
/// others stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentRoots(pub Vec<AgentRoot>);
