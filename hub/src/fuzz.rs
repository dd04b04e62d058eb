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

/// The header of a call with its token.
pub mod bearer {
    use http::HeaderMap;

    use crate::access::authenticate;

    /// The token, or what is said of the header.
    ///
    /// # Errors
    /// What the log is told.
    pub fn parse(headers: &HeaderMap) -> Result<Option<&str>, String> {
        authenticate::bearer(headers).map_err(|error| error.to_string())
    }
}

/// Tokens of pages.
pub mod pages {
    use crate::grpc::{errors::to_status, page};

    pub use page::token;

    /// The key that a token was made from.
    ///
    /// # Errors
    /// What the caller is told.
    pub fn parse(token: &str, parts: usize) -> Result<Option<Vec<String>>, String> {
        page::parse(token, parts).map_err(|error| to_status(&error).message().to_owned())
    }
}

/// A cluster's stream of policies.
pub mod policies {
    use switchyard_proto::agent::v1::{PolicyChanges, SyncPoliciesRequest};

    use crate::grpc::sources::parse;

    pub use parse::{Body, Changes, Hello, MOST_ITEMS};

    /// The first message.
    ///
    /// # Errors
    /// What the agent is told.
    pub fn hello(message: SyncPoliciesRequest) -> Result<Hello, String> {
        parse::hello(message).map_err(|end| end.to_string())
    }

    /// Any later one.
    ///
    /// # Errors
    /// What the agent is told.
    pub fn body(message: SyncPoliciesRequest) -> Result<(u64, Body), String> {
        parse::body(message).map_err(|end| end.to_string())
    }

    /// The resources of one.
    ///
    /// # Errors
    /// What the agent is told.
    pub fn changes(list: PolicyChanges) -> Result<Changes, String> {
        parse::changes(list).map_err(|end| end.to_string())
    }
}

/// A cluster's stream of shifts.
pub mod shifts {
    use switchyard_proto::agent::v1::SyncShiftsRequest;

    use crate::grpc::shift_sources::parse;

    pub use parse::{Hello, Resource, Rights};

    /// The first message.
    ///
    /// # Errors
    /// What the agent is told.
    pub fn hello(message: SyncShiftsRequest) -> Result<Hello, String> {
        parse::hello(message).map_err(|end| end.to_string())
    }

    /// Any later one.
    ///
    /// # Errors
    /// What the agent is told.
    pub fn resource(message: SyncShiftsRequest, rights: Rights<'_>) -> Result<Resource, String> {
        parse::resource(message, rights).map_err(|end| end.to_string())
    }
}
