//! An instant query to a Prometheus server, or to anything that answers `/api/v1/query` as it does (Prometheus: "HTTP API").
//! Only one finite number of the present is a value; everything else is no data, with the reason.

use http::{StatusCode, Uri, uri::PathAndQuery};
use jiff::Timestamp;
use serde::Deserialize;
use switchyard_core::{ids::SourceName, shift::analysis::Reading};

use super::{
    outside::{Answer, Outside, Question, shortened},
    settings::Place,
};

/// One number needs some hundred bytes, but labels and warnings can be long.
const MOST_BYTES: usize = 1 << 20;
/// How far the time of an answer may be from this machine's, in seconds: more is a cache between, or a clock that is wrong.
const MOST_APART: f64 = 120.0;

/// Asks for one number.
pub(super) async fn measure(outside: &Outside, name: &SourceName, place: &Place, query: &str) -> Reading {
    let who = format!("the Prometheus server {name}");
    let Some(url) = api_url(&place.url) else {
        return Reading::NoData(format!("the URL of {who} cannot be completed; check --prometheus"));
    };
    let question = Question {
        place,
        url,
        content_type: "application/x-www-form-urlencoded",
        headers: Vec::new(),
        // The server gives up earlier than we do, and says so.
        body: format!(
            "query={}&timeout={}s",
            encoded(query),
            (outside.time_limit().as_secs().saturating_sub(2)).max(1)
        ),
        most: MOST_BYTES,
    };
    match outside.ask(question).await {
        Err(error) => Reading::NoData(format!("{who} {error}")),
        Ok(answer) => match read(&answer, Timestamp::now()) {
            Ok(value) => Reading::Value(value),
            Err(why) => Reading::NoData(format!("{who} {why}")),
        },
    }
}

fn api_url(base: &Uri) -> Option<Uri> {
    let path = format!("{}/api/v1/query", base.path().trim_end_matches('/'));
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path).ok()?);
    Uri::from_parts(parts).ok()
}

/// As HTML forms write it, with %20 for the space, which every reader takes.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            // Writing into a String does not fail.
            other => _ = write!(encoded, "%{other:02X}"),
        }
    }
    encoded
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    status: String,
    data: Option<Data>,
    error_type: Option<String>,
    error: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// The result is read later: what its form is depends on its type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    result_type: String,
    result: serde_json::Value,
}

/// The time in seconds, and the number as text.
type Sample = (f64, String);

#[derive(Deserialize)]
struct Series {
    value: Option<Sample>,
}

/// The one number of an answer, or why there is none; the text goes on a sentence.
fn read(answer: &Answer, now: Timestamp) -> Result<f64, String> {
    let status = answer.status;
    let body: Body = match serde_json::from_slice(&answer.body) {
        Ok(body) => body,
        Err(_) if status != StatusCode::OK => return Err(refused(status)),
        Err(error) => return Err(format!("gave an answer that is not one of Prometheus: {error}")),
    };
    if status != StatusCode::OK || body.status != "success" {
        let kind = body.error_type.unwrap_or_else(|| status.as_u16().to_string());
        let words = body.error.unwrap_or_default();
        return Err(format!("refused the query: {}: {}", shortened(&kind), shortened(&words)));
    }
    // Servers that read from others answer with what they could get, and say here that it is not all.
    if let Some(warning) = body.warnings.first() {
        return Err(format!("warns, so that its number is not taken: {}", shortened(warning)));
    }
    let Some(data) = body.data else { return Err("gave an answer without data".to_owned()) };
    number(&sample(data)?, now)
}

fn refused(status: StatusCode) -> String {
    let remedy = match status.as_u16() {
        300..=399 => "redirects are not followed, name the address where it ends",
        401 | 403 => "give its token with --prometheus-token",
        404 => "check the path of its URL",
        _ => "check the server",
    };
    format!("answered {status}; {remedy}")
}

fn sample(data: Data) -> Result<Sample, String> {
    let unreadable = |error: serde_json::Error| format!("gave a result that cannot be read: {error}");
    match data.result_type.as_str() {
        "scalar" => serde_json::from_value(data.result).map_err(unreadable),
        "vector" => {
            let series: Vec<Series> = serde_json::from_value(data.result).map_err(unreadable)?;
            let count = series.len();
            match <[Series; 1]>::try_from(series) {
                Ok([one]) => {
                    one.value.ok_or_else(|| "gave a histogram; ask for one number, such as a quantile".to_owned())
                }
                Err(_) if count == 0 => Err(
                    "has no data for the query; check its names, and that there is traffic: a counter that nothing \
                     counted does not exist"
                        .to_owned(),
                ),
                Err(_) => Err(format!("gave {count} series; make it one, such as with sum(...)")),
            }
        }
        other => Err(format!("gave a {}; ask for a scalar or a vector of one series", shortened(other))),
    }
}

fn number((time, text): &Sample, now: Timestamp) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("gave {:?}, which is no number", shortened(text)))?;
    let apart = now.as_duration().as_secs_f64() - time;
    if !(-MOST_APART..=MOST_APART).contains(&apart) {
        return Err(format!("answered for a time {apart:.0} s ago; check its clock, the hub's, and caches between"));
    }
    if value.is_nan() {
        return Err("gave NaN, as 0 divided by 0 does: nothing was counted, or the query divides by nothing".to_owned());
    }
    if value.is_infinite() {
        return Err(format!("gave {text}: the query divides by zero"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn judged(status: u16, body: &str) -> Result<f64, String> {
        let answer =
            Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_owned().into_bytes().into() };
        read(&answer, Timestamp::from_second(NOW).unwrap())
    }

    fn success(kind: &str, result: &str) -> String {
        format!(r#"{{"status":"success","data":{{"resultType":"{kind}","result":{result}}}}}"#)
    }

    #[test]
    fn a_scalar_and_a_vector_of_one_are_numbers() {
        let value = format!(r#"[{NOW}.123,"0.25"]"#);
        assert_eq!(judged(200, &success("scalar", &value)), Ok(0.25));
        let vector = format!(r#"[{{"metric":{{"a":"b"}},"value":{value}}}]"#);
        assert_eq!(judged(200, &success("vector", &vector)), Ok(0.25));
    }

    #[test]
    fn everything_else_is_no_data_and_says_why() {
        let at = |text: &str| success("scalar", &format!(r#"[{NOW},"{text}"]"#));
        let many = format!(r#"[{{"metric":{{}},"value":[{NOW},"1"]}},{{"metric":{{}},"value":[{NOW},"2"]}}]"#);
        let histogram = format!(r#"[{{"metric":{{}},"histogram":[{NOW},{{}}]}}]"#);
        let refusal = r#"{"status":"error","errorType":"bad_data","error":"parse error"}"#;
        let warned = at("1").replace("{\"status\"", r#"{"warnings":["remote read failed"],"status""#);
        for (status, body, word) in [
            (200, at("NaN"), "NaN"),
            (200, at("+Inf"), "divides by zero"),
            (200, at("-Inf"), "divides by zero"),
            (200, at("one"), "no number"),
            (200, success("scalar", r#"[1600000000,"1"]"#), "100000000 s ago"),
            (200, success("scalar", r#"[1700000900,"1"]"#), "check its clock"),
            (200, success("vector", "[]"), "no data"),
            (200, success("vector", &many), "2 series"),
            (200, success("vector", &histogram), "histogram"),
            (200, success("matrix", "[]"), "matrix"),
            (200, success("vector", "{}"), "cannot be read"),
            (200, success("scalar", "[1]"), "cannot be read"),
            (200, r#"{"status":"success"}"#.to_owned(), "without data"),
            (200, "<html>".to_owned(), "not one of Prometheus"),
            (200, warned, "remote read failed"),
            (200, refusal.to_owned(), "bad_data: parse error"),
            (400, refusal.to_owned(), "bad_data: parse error"),
            (503, at("1"), "503"),
            (302, String::new(), "redirects"),
            (401, String::new(), "--prometheus-token"),
            (404, "404 page not found".to_owned(), "path"),
            (502, String::new(), "502"),
        ] {
            let why = judged(status, &body).expect_err(&body);
            assert!(why.contains(word), "{body}: {why}");
        }
    }

    #[test]
    fn the_api_is_below_the_path_that_the_server_has() {
        for (base, wanted) in [
            ("http://host:9090", "http://host:9090/api/v1/query"),
            ("https://host/", "https://host/api/v1/query"),
            ("https://host/prometheus/", "https://host/prometheus/api/v1/query"),
        ] {
            assert_eq!(api_url(&base.parse().unwrap()).unwrap().to_string(), wanted);
        }
    }

    #[test]
    fn queries_are_encoded_whole() {
        assert_eq!(encoded(r#"a{b="c d"}+é&x"#), "a%7Bb%3D%22c%20d%22%7D%2B%C3%A9%26x");
    }
}
