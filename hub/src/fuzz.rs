//! What the fuzz targets of the folder `fuzz/` reach of this crate: the functions that read what comes from outside, and nothing that
//! has an effect. No part of the hub uses this module, and nobody outside of this repository should.

/// An agent's stream.
pub mod agents {
    pub use crate::grpc::agents::{
        parse::{MOST_ITEMS, Parsed, message},
        state::{Effect, Inbound, Input, State, Work},
        watch_set::WatchSet,
    };
}

/// The JSON gateway.
pub mod gateway {
    pub use crate::gateway::{
        refusal::Refusal,
        routes::{Found, Route, Table},
        transcode::{Sent, answer, request},
    };
}

/// Manifests of policies.
pub mod manifest {
    pub use crate::grpc::policies::manifest::{MOST_BYTES, parse};
}
