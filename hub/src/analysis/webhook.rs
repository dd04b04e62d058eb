//! A question to a webhook: it is told the shift, the step and its weights, and answers `Pass`, `Fail` or `Wait`. What is not
//! exactly that is no data.

use std::collections::BTreeMap;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use switchyard_core::{
    ids::SourceName,
    shift::analysis::{Measure, Reading},
};

use super::{
    outside::{Answer, Outside, Question, shortened},
    settings::Place,
};

/// A verdict and a message.
const MOST_BYTES: usize = 64 << 10;

/// What is sent.
#[derive(Serialize)]
struct Asked<'a> {
    shift: &'a str,
    /// From 1, as everywhere where people read it.
    step: usize,
    percent: u32,
    gate: &'a str,
    policies: Vec<AskedPolicy<'a>>,
}

#[derive(Serialize)]
struct AskedPolicy<'a> {
    policy: String,
    /// What the step asks for, by cluster.
    weights: BTreeMap<&'a str, u32>,
    /// The clusters that gain.
    gaining: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Body {
    verdict: String,
    #[serde(default)]
    message: String,
}

/// Asks for a verdict.
pub(super) async fn measure(outside: &Outside, name: &SourceName, place: &Place, ask: &Measure) -> Reading {
    let who = format!("the webhook {name}");
    let body = match serde_json::to_string(&asked(ask)) {
        Ok(body) => body,
        Err(error) => return Reading::NoData(format!("{who} was not asked: {error}")),
    };
    // One key for one question: a question that is asked again at its next time is another one, and may be answered otherwise.
    let key = format!("{}.{}.{}.{}", ask.shift, ask.step + 1, ask.name, Timestamp::now().as_second());
    let question = Question {
        place,
        url: place.url.clone(),
        content_type: "application/json",
        headers: vec![("idempotency-key", key)],
        body,
        most: MOST_BYTES,
    };
    match outside.ask(question).await {
        Err(error) => Reading::NoData(format!("{who} {error}")),
        Ok(answer) => read(&answer).unwrap_or_else(|why| Reading::NoData(format!("{who} {why}"))),
    }
}

fn asked(ask: &Measure) -> Asked<'_> {
    let policies = ask.policies.iter().map(|measured| AskedPolicy {
        policy: measured.policy.to_string(),
        weights: measured.weights.iter().map(|(cluster, weight)| (cluster.as_str(), weight.get())).collect(),
        gaining: measured.gaining.iter().map(|(cluster, _)| cluster.as_str()).collect(),
    });
    Asked {
        shift: ask.shift.as_str(),
        step: ask.step + 1,
        percent: ask.percent,
        gate: ask.name.as_str(),
        policies: policies.collect(),
    }
}

/// The verdict of an answer, or why there is none; the text goes on a sentence.
fn read(answer: &Answer) -> Result<Reading, String> {
    if answer.status != StatusCode::OK {
        let remedy = match answer.status.as_u16() {
            300..=399 => "redirects are not followed, name the address where it ends",
            401 | 403 => "give its token with --webhook-token",
            _ => "a verdict comes with 200",
        };
        return Err(format!("answered {}; {remedy}", answer.status));
    }
    let body: Body =
        serde_json::from_slice(&answer.body).map_err(|error| format!("gave an answer without a verdict: {error}"))?;
    let pass = match body.verdict.as_str() {
        "Pass" => Some(true),
        "Fail" => Some(false),
        "Wait" => None,
        other => return Err(format!("gave the verdict {:?}; it takes Pass, Fail or Wait", shortened(other))),
    };
    Ok(Reading::Verdict { pass, message: shortened(&body.message) })
}

#[cfg(test)]
mod tests {
    use switchyard_core::{
        ids::{ClusterName, PolicyKey, ShiftId, Weight},
        shift::analysis::{GateQuery, MeasuredPolicy},
    };

    use super::*;

    fn judged(status: u16, body: &str) -> Result<Reading, String> {
        read(&Answer { status: StatusCode::from_u16(status).unwrap(), body: body.to_owned().into_bytes().into() })
    }

    #[test]
    fn the_three_verdicts_are_taken() {
        for (verdict, wanted) in [("Pass", Some(true)), ("Fail", Some(false)), ("Wait", None)] {
            let body = format!(r#"{{"verdict":"{verdict}","message":"because","more":1}}"#);
            let wanted = Reading::Verdict { pass: wanted, message: "because".to_owned() };
            assert_eq!(judged(200, &body), Ok(wanted));
        }
        let plain = Reading::Verdict { pass: Some(true), message: String::new() };
        assert_eq!(judged(200, r#"{"verdict":"Pass"}"#), Ok(plain));
    }

    #[test]
    fn anything_else_is_no_verdict() {
        for (status, body, word) in [
            (200, r#"{"verdict":"pass"}"#, "Pass, Fail or Wait"),
            (200, r#"{"message":"ok"}"#, "without a verdict"),
            (200, "ok", "without a verdict"),
            (200, "", "without a verdict"),
            (201, r#"{"verdict":"Pass"}"#, "201"),
            (302, r#"{"verdict":"Pass"}"#, "redirects"),
            (403, r#"{"verdict":"Pass"}"#, "--webhook-token"),
            (500, r#"{"verdict":"Fail"}"#, "500"),
        ] {
            let why = judged(status, body).unwrap_err();
            assert!(why.contains(word), "{body}: {why}");
        }
    }

    #[test]
    fn the_question_names_shift_step_and_weights() {
        let cluster = |name: &str| ClusterName::new(name).unwrap();
        let ask = Measure {
            shift: ShiftId::new("s-1").unwrap(),
            step: 1,
            percent: 25,
            gate: 0,
            name: SourceName::new("smoke").unwrap(),
            query: GateQuery::Webhook { endpoint: SourceName::new("tests").unwrap() },
            policies: vec![MeasuredPolicy {
                policy: PolicyKey::new("shop", "checkout").unwrap(),
                weights: vec![
                    (cluster("blue"), Weight::new(75).unwrap()),
                    (cluster("green"), Weight::new(25).unwrap()),
                ],
                load_balancer: None,
                gaining: vec![(cluster("green"), None)],
            }],
        };
        let wanted = serde_json::json!({
            "shift": "s-1", "step": 2, "percent": 25, "gate": "smoke",
            "policies": [{"policy": "shop/checkout", "weights": {"blue": 75, "green": 25}, "gaining": ["green"]}],
        });
        assert_eq!(serde_json::to_value(asked(&ask)).unwrap(), wanted);
    }
}
