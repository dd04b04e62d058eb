//! Who calls, for the audit log and for rights: the fingerprint of the client's certificate, or that there is none, and the
//! address.

use sha2::{Digest, Sha256};
use tonic::Request;

use crate::store::Caller;

/// A text such as `certificate sha256:0123456789abcdef from 10.0.0.7`. The port is left out: it says nothing after the call.
pub fn actor<T>(request: &Request<T>) -> String {
    let address = request.remote_addr().map_or_else(|| "an unknown address".to_owned(), |at| at.ip().to_string());
    match fingerprint(request) {
        Some(fingerprint) => format!("certificate {fingerprint} from {address}"),
        None => format!("unauthenticated from {address}"),
    }
}

/// What rights are given to: `sha256:0123456789abcdef`, or `unauthenticated`.
pub fn identity<T>(request: &Request<T>) -> String {
    fingerprint(request).unwrap_or_else(|| "unauthenticated".to_owned())
}

fn fingerprint<T>(request: &Request<T>) -> Option<String> {
    let digest = request.peer_certs().and_then(|chain| chain.first().map(|leaf| Sha256::digest(leaf.as_ref())))?;
    // 64 bits tell apart all certificates that one installation will ever see.
    let head: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(format!("sha256:{head}"))
}

/// The caller of a change. A dry run stores nothing and needs no id.
pub fn caller<T>(request: &Request<T>, request_id: &str, dry_run: bool, reason: &str) -> Caller {
    let request_id = if dry_run { "dry-run" } else { request_id };
    Caller { request_id: request_id.to_owned(), actor: actor(request), reason: reason.to_owned() }
}
