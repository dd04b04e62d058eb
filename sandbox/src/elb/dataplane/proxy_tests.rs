//! Tests of the small decisions of the proxy; whole requests are in tests/elb_dataplane.rs.

use super::*;

#[test]
fn a_host_loses_its_port_and_nothing_else() {
    for (given, expected) in [
        ("a.b:8080", "a.b"),
        ("a.b", "a.b"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]", "[::1]"),
        ("a:b", "a:b"),
    ] {
        assert_eq!(without_port(given), expected);
    }
}

#[test]
fn headers_of_the_connection_are_not_passed_on() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Mine"),
        ("x-mine", "1"),
        ("te", "trailers"),
        ("accept", "*/*"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    strip(&mut headers);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
}

#[test]
fn a_redirect_fills_in_the_parts_of_the_request() {
    let redirect = Redirect {
        protocol: "HTTPS".into(),
        host: "#{host}".into(),
        port: "443".into(),
        path: "/new/#{path}".into(),
        query: "#{query}".into(),
        status: 301,
    };
    let headers = HeaderMap::new();
    let view = RequestView {
        host: "a.b",
        path: "/x/y",
        query: "q=1",
        method: "GET",
        headers: &headers,
        source: "127.0.0.1".parse().unwrap(),
    };
    let routing = Routing {
        load_balancer: String::new(),
        port: 80,
        https: false,
        idle_timeout: Duration::from_secs(1),
        forwarded_for: String::new(),
        rules: Vec::new(),
    };
    let response = redirect_to(&redirect, &view, &routing);
    assert_eq!(response.status(), 301);
    assert_eq!(response.headers()["location"], "https://a.b:443/new/x/y?q=1");
}
