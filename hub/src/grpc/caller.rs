//! Who calls, for the audit log: the fingerprint of the client's certificate, or that there is none, and the address.

use sha2::{Digest, Sha256};
use tonic::Request;

/// A text such as `certificate sha256:0123456789abcdef from 10.0.0.7`. The port is left out: it says nothing after the call.
pub fn actor<T>(request: &Request<T>) -> String {
    let address = request.remote_addr().map_or_else(|| "an unknown address".to_owned(), |at| at.ip().to_string());
    let certificate = request.peer_certs().and_then(|chain| chain.first().map(|leaf| Sha256::digest(leaf.as_ref())));
    match certificate {
        Some(digest) => {
            // 64 bits tell apart all certificates that one installation will ever see.
            let head: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("certificate sha256:{head} from {address}")
        }
        None => format!("unauthenticated from {address}"),
    }
}
