//! Answers that the load balancer gives by itself, and the headers by which the load generator attributes answers.

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::{
    Routing,
    body::{self, Body},
};
use crate::elb::{actions::Redirect, conditions::RequestView};

/// Names the target group that a request went to, or that was chosen for it.
pub const GROUP_HEADER: HeaderName = HeaderName::from_static("x-sandbox-target-group");
/// Names the target (`ip:port`) that a request went to.
pub const TARGET_HEADER: HeaderName = HeaderName::from_static("x-sandbox-target");

/// An error page; names the group that was chosen, if one was.
pub fn generated(status: StatusCode, group: Option<&str>) -> Response<Body> {
    let reason = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let text =
        format!("<html>\r\n<head><title>{reason}</title></head>\r\n<body><h1>{reason}</h1></body>\r\n</html>\r\n");
    let mut response = fixed(status.as_u16(), Some("text/html"), &text);
    response.headers_mut().extend(group.and_then(|g| HeaderValue::from_str(g).ok()).map(|v| (GROUP_HEADER, v)));
    response
}

pub fn fixed(status: u16, content_type: Option<&str>, text: &str) -> Response<Body> {
    let mut response = Response::new(body::full(text.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set(response.headers_mut(), "server", "awselb/2.0");
    set(response.headers_mut(), "content-type", content_type.unwrap_or("text/plain; charset=utf-8"));
    response
}

pub fn redirect_to(redirect: &Redirect, view: &RequestView<'_>, routing: &Routing) -> Response<Body> {
    let (scheme, port) = (if routing.https { "https" } else { "http" }, routing.port.to_string());
    let fill = |text: &str| {
        text.replace("#{protocol}", scheme)
            .replace("#{host}", view.host)
            .replace("#{port}", &port)
            .replace("#{path}", view.path.trim_start_matches('/'))
            .replace("#{query}", view.query)
    };
    let query = fill(&redirect.query);
    let mark = if query.is_empty() { "" } else { "?" };
    let location = format!(
        "{}://{}:{}{}{mark}{query}",
        fill(&redirect.protocol).to_ascii_lowercase(),
        fill(&redirect.host),
        fill(&redirect.port),
        fill(&redirect.path)
    );
    let mut response = fixed(redirect.status, None, "");
    set(response.headers_mut(), "location", &location);
    response
}

pub fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

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
}
