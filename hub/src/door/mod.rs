//! How agents and callers come in: one accept loop for every port, with TLS, bounds and the identity of the connection. It says who is
//! at the other end ([`PeerInfo`]) and nothing about rights. Must not import `grpc`, `gateway`, `access`, `store` or `engine`.

pub mod peer;

pub use peer::{PeerCertificate, PeerInfo, RootSet, source_of};

/// An authority that agents' certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRoot {
    /// Its id, which [`PeerCertificate::authority`] gives back.
    pub id: String,
    /// Its certificate.
    pub der: Vec<u8>,
}

/// The authorities that are trusted for agents at this moment. Whoever keeps them sends new ones through a
/// `tokio::sync::watch::Sender<Arc<AgentRoots>>`; connections that are open stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentRoots(pub Vec<AgentRoot>);
