//! Gates as they are typed in one argument: `KIND; SETTING; SETTING`. Pure.
//!
//! Only the form is judged here, and every error names the piece that is wrong; which metrics, sources and ranges there are is
//! judged by the hub, which may be newer.

use switchyard_proto::api::v1 as pb;

use crate::parse;

/// RFC 1123 labels end here; the hub judges the rest.
const MOST_NAME: usize = 63;
const COMPARISONS: [&str; 6] = ["<=", ">=", "==", "!=", "<", ">"];

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GateError {
    #[error(
        "'{0}' is no kind of gate; write health[=PERCENT], 'prometheus/SOURCE: QUERY; success < 0.01', \
         'cloudwatch: METRIC STATISTIC; success < 0.01' or webhook/ENDPOINT"
    )]
    Kind(String),
    #[error("'{0}' is not a percentage; write for example health=90")]
    Percent(String),
    #[error("'{0}' names no source; write for example 'prometheus/main: up; success == 1'")]
    NoSource(String),
    #[error("'{0}' has no query; write for example 'prometheus/main: up; success == 1'")]
    NoQuery(String),
    #[error("'{0}' names no endpoint; write for example webhook/checks")]
    NoEndpoint(String),
    #[error(
        "'{0}' is not METRIC STATISTIC or METRIC STATISTIC / METRIC; write for example \
         'cloudwatch: HTTPCode_Target_5XX_Count Sum / RequestCount; success < 0.01'"
    )]
    CloudWatch(String),
    #[error("'{0}' is not a setting of this gate; use {1}")]
    Setting(String, &'static str),
    #[error("'{0}' is given twice; give it once")]
    Twice(&'static str),
    #[error("'{0}' is not a comparison with a number; write for example success < 0.01 (or <=, >, >=, ==, !=)")]
    Comparison(String),
    #[error("'{0}' is not a whole number; write for example {1} 4")]
    Number(String, &'static str),
    #[error("in '{piece}': {source}")]
    Time { piece: String, source: parse::ParseError },
    #[error("'{0}' is not a value that a gate can have; give more than 0, or leave it out for the default")]
    Zero(String),
    #[error("'{0}' has a quotation mark that is not closed; close it")]
    Quote(String),
    #[error("the gate lacks 'success'; say which values are a success, for example success < 0.01")]
    NoSuccess,
}

/// One gate. Where no name is given it gets one after its kind; [`name_all`] makes these unique.
pub fn parse(text: &str) -> Result<pb::Gate, GateError> {
    let mut pieces = split(text)?.into_iter();
    let head = pieces.next().unwrap_or_default();
    let mut gate = kind(&head)?;
    let mut seen = Vec::new();
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        setting(&mut gate, &piece, &mut seen)?;
    }
    if compares(&gate) && gate.success.is_empty() {
        return Err(GateError::NoSuccess);
    }
    Ok(gate)
}

/// Names for gates that were given none: `health`, `prometheus-main`; the second of a kind is `prometheus-main-2`.
pub fn name_all(gates: &mut [pb::Gate]) {
    for index in 0..gates.len() {
        if !gates[index].name.is_empty() {
            continue;
        }
        let base = default_name(&gates[index]);
        let taken = |name: &str| gates.iter().any(|gate| gate.name == name);
        let name = std::iter::once(base.clone())
            .chain((2..).map(|n| format!("{base}-{n}")))
            .find(|name| !taken(name))
            .unwrap_or(base);
        gates[index].name = name;
    }
}

fn default_name(gate: &pb::Gate) -> String {
    let name = if let Some(prometheus) = &gate.prometheus {
        format!("prometheus-{}", prometheus.source)
    } else if let Some(webhook) = &gate.webhook {
        format!("webhook-{}", webhook.endpoint)
    } else if gate.cloud_watch.is_some() {
        "cloudwatch".to_owned()
    } else {
        "health".to_owned()
    };
    // Room for the number of a second one; a label does not end with a dash.
    name.chars().take(MOST_NAME - 3).collect::<String>().trim_end_matches('-').to_owned()
}

fn compares(gate: &pb::Gate) -> bool {
    gate.prometheus.is_some() || gate.cloud_watch.is_some()
}

/// The pieces between semicolons; those inside quotes (of a query's matchers) do not count.
fn split(text: &str) -> Result<Vec<String>, GateError> {
    let (mut pieces, mut piece) = (Vec::new(), String::new());
    let (mut quote, mut escaped) = (None, false);
    for c in text.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            // In PromQL a backslash escapes inside ' and ", not inside `.
            Some('"' | '\'') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            None if c == ';' => {
                pieces.push(std::mem::take(&mut piece).trim().to_owned());
                continue;
            }
            _ => {}
        }
        piece.push(c);
    }
    if quote.is_some() {
        return Err(GateError::Quote(piece.trim().to_owned()));
    }
    pieces.push(piece.trim().to_owned());
    Ok(pieces)
}

fn kind(head: &str) -> Result<pb::Gate, GateError> {
    let (subject, rest) = match head.split_once(':') {
        Some((subject, rest)) => (subject.trim(), Some(rest.trim())),
        None => (head, None),
    };
    let (word, name) = match subject.split_once('/') {
        Some((word, name)) => (word.trim(), Some(name.trim())),
        None => (subject, None),
    };
    let mut gate = pb::Gate::default();
    match (word, name, rest) {
        ("prometheus", name, rest) => {
            let source = name.filter(|name| !name.is_empty()).ok_or_else(|| GateError::NoSource(head.into()))?;
            let query = rest.filter(|query| !query.is_empty()).ok_or_else(|| GateError::NoQuery(head.into()))?;
            gate.prometheus = Some(pb::PrometheusGate { source: source.into(), query: query.into() });
        }
        ("webhook", name, None) => {
            let endpoint = name.filter(|name| !name.is_empty()).ok_or_else(|| GateError::NoEndpoint(head.into()))?;
            gate.webhook = Some(pb::WebhookGate { endpoint: endpoint.into() });
        }
        ("cloudwatch", None, rest) => gate.cloud_watch = Some(cloud_watch(rest.unwrap_or_default())?),
        (word, None, None) if word == "health" || word.starts_with("health=") => {
            let percent = word.strip_prefix("health=").map(|text| {
                text.trim().parse().ok().filter(|n| (1..=100).contains(n)).ok_or(GateError::Percent(text.into()))
            });
            gate.target_health = Some(pb::TargetHealthGate { min_healthy_percent: percent.transpose()?.unwrap_or(0) });
        }
        _ => return Err(GateError::Kind(head.into())),
    }
    Ok(gate)
}

fn cloud_watch(text: &str) -> Result<pb::CloudWatchGate, GateError> {
    let bad = || GateError::CloudWatch(text.into());
    let (measured, divided_by) = match text.split_once('/') {
        Some((measured, metric)) => (measured, Some(metric.trim())),
        None => (text, None),
    };
    let words: Vec<&str> = measured.split_whitespace().collect();
    let [metric, statistic] = words.as_slice() else { return Err(bad()) };
    if divided_by.is_some_and(|metric| metric.is_empty() || metric.contains(char::is_whitespace)) {
        return Err(bad());
    }
    Ok(pb::CloudWatchGate {
        metric: (*metric).into(),
        statistic: (*statistic).into(),
        period_seconds: 0,
        divided_by: divided_by.unwrap_or_default().into(),
    })
}

/// `success < 0.01`, `every 30s`, `name=errors`: the word, then the value after a blank or an equals sign.
fn setting(gate: &mut pb::Gate, piece: &str, seen: &mut Vec<&'static str>) -> Result<(), GateError> {
    let known = match (compares(gate), gate.cloud_watch.is_some()) {
        (_, true) => "name, success, failure, every, count, failure-limit or period",
        (true, false) => "name, success, failure, every, count or failure-limit",
        (false, false) => "name, every, count or failure-limit",
    };
    let unknown = || GateError::Setting(piece.into(), known);
    let end = piece.find(|c: char| !(c.is_ascii_alphabetic() || c == '-')).unwrap_or(piece.len());
    let (word, value) = (&piece[..end], piece[end..].trim());
    // A comparison may begin with an equals sign, the other values do not.
    let plain = value.strip_prefix('=').unwrap_or(value).trim();
    let mut once = |word| {
        let first = !seen.contains(&word);
        seen.push(word);
        if first { Ok(()) } else { Err(GateError::Twice(word)) }
    };
    let number =
        |word| plain.parse().map_err(|_| GateError::Number(if plain.is_empty() { piece } else { plain }.into(), word));
    let time = || parse::whole_seconds(plain).map_err(|source| GateError::Time { piece: piece.into(), source });
    // In the API 0 stands for a number that was left out.
    let some = |number: u32| if number == 0 { Err(GateError::Zero(piece.into())) } else { Ok(number) };
    match word {
        "name" if !plain.is_empty() => {
            once("name")?;
            gate.name = plain.into();
        }
        "success" if compares(gate) => {
            once("success")?;
            gate.success = comparison(piece, value)?;
        }
        "failure" if compares(gate) => {
            once("failure")?;
            gate.failure = comparison(piece, value)?;
        }
        "every" => {
            once("every")?;
            gate.interval_seconds = some(time()?)?;
        }
        "count" => {
            once("count")?;
            gate.count = some(number("count")?)?;
        }
        "failure-limit" => {
            once("failure-limit")?;
            gate.failure_limit = number("failure-limit")?;
        }
        "period" => {
            let watch = gate.cloud_watch.as_mut().ok_or_else(unknown)?;
            once("period")?;
            watch.period_seconds = some(time()?)?;
        }
        _ => return Err(unknown()),
    }
    Ok(())
}

fn comparison(piece: &str, value: &str) -> Result<String, GateError> {
    let bad = || GateError::Comparison(piece.into());
    let operator = COMPARISONS.into_iter().find(|operator| value.starts_with(operator)).ok_or_else(bad)?;
    let number = value[operator.len()..].trim();
    match number.parse::<f64>() {
        Ok(parsed) if parsed.is_finite() => Ok(format!("{operator} {number}")),
        _ => Err(bad()),
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
