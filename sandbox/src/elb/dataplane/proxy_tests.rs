//! Tests of the small decisions of the proxy; whole requests are in tests/elb_dataplane.rs.

use super::*;

#[test]
fn a_host_loses_its_port_and_nothing_else() {
    for (given, expected) in
        [("a.b:8080", "a.b"), ("a.b", "a.b"), ("127.0.0.1:80", "127.0.0.1"), ("[::1]", "[::1]"), ("a:b", "a:b")]
    {
        assert_eq!(without_port(given), expected);
    }
}

#[test]
fn headers_of_the_connection_are_not_passed_on() {
    let mut headers = HeaderMap::new();
    for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "*/*")] {
        headers.insert(name, value.parse().unwrap());
    }
    strip(&mut headers);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
}
