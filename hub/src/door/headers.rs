//! Headers of every answer over HTTP/1.1, whatever answers: nothing that is served here is a page, so it is not to be guessed at, run,
//! framed, kept, or read by a page of somebody else.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// For a year; said over TLS only, where it means something.
const STRICT_TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Sets them. An answer cannot have its own: there is no answer here for which others would be right.
pub(super) fn harden(headers: &mut HeaderMap, encrypted: bool) {
    let set: [(HeaderName, &'static str); 7] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if encrypted {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT);
    }
}
