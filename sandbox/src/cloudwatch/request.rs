//! A call of GetMetricData, checked as AWS checks it (AWS: API reference of GetMetricData, MetricStat). Pure.

use serde::Deserialize;
use serde_json::Value;

/// Queries of one call (AWS: "as many as 500 MetricDataQuery structures").
const MOST_QUERIES: usize = 500;
/// Data points of one call (AWS: "a total of as many as 100,800").
const MOST_POINTS: f64 = 100_800.0;

/// A refusal: the code of the query protocol, which Smithy's own code of the same error is made from, and the words.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub queries: Vec<Query>,
    /// Milliseconds since 1970, within.
    pub start: i64,
    /// Milliseconds since 1970, without.
    pub end: i64,
    pub newest_first: bool,
}

/// One series that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    pub id: String,
    pub label: String,
    pub namespace: String,
    pub metric: String,
    /// `app/NAME/ID`.
    pub load_balancer: Option<String>,
    /// `targetgroup/NAME/ID`.
    pub target_group: Option<String>,
    /// A dimension that no target group has: then nothing matches.
    pub other_dimension: bool,
    pub period_ms: i64,
    pub statistic: Statistic,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistic {
    Sum,
    Average,
    Minimum,
    Maximum,
    SampleCount,
    /// 0 to 100.
    Percentile(f64),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Input {
    metric_data_queries: Vec<QueryInput>,
    start_time: f64,
    end_time: f64,
    scan_by: Option<String>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct QueryInput {
    id: String,
    metric_stat: Option<StatInput>,
    expression: Option<String>,
    label: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StatInput {
    metric: MetricInput,
    period: i64,
    stat: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricInput {
    namespace: Option<String>,
    metric_name: Option<String>,
    #[serde(default)]
    dimensions: Vec<DimensionInput>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DimensionInput {
    name: String,
    value: String,
}

fn invalid(message: impl Into<String>) -> Refusal {
    Refusal { code: "ValidationError", message: message.into() }
}

impl Request {
    /// Checks a call's body.
    pub fn read(body: Value) -> Result<Self, Refusal> {
        let input: Input = serde_json::from_value(body).map_err(|error| invalid(error.to_string()))?;
        if input.next_token.is_some() {
            return Err(Refusal { code: "InvalidNextToken", message: "no answer here has more pages".into() });
        }
        if input.metric_data_queries.len() > MOST_QUERIES {
            return Err(invalid(format!(
                "The collection MetricDataQueries must not have a size greater than {MOST_QUERIES}."
            )));
        }
        let time = |name: &str, seconds: f64| {
            // A day is more than a clock can be wrong; a year 9999 keeps the arithmetic in range.
            let sound = (0.0..253_402_300_800.0).contains(&seconds);
            if sound {
                Ok((seconds * 1_000.0) as i64)
            } else {
                Err(invalid(format!("The parameter {name} is no time.")))
            }
        };
        let (start, end) = (time("StartTime", input.start_time)?, time("EndTime", input.end_time)?);
        if start == end {
            return Err(invalid("The parameter StartTime must not equal parameter EndTime."));
        }
        if start > end {
            return Err(invalid("The parameter EndTime must be greater than StartTime."));
        }
        let newest_first = match input.scan_by.as_deref() {
            None | Some("TimestampDescending") => true,
            Some("TimestampAscending") => false,
            Some(other) => return Err(invalid(format!("The value {other} for parameter ScanBy is not supported."))),
        };
        let queries: Vec<Query> = input.metric_data_queries.into_iter().map(query).collect::<Result<_, _>>()?;
        let mut ids: Vec<_> = queries.iter().map(|query| query.id.as_str()).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid(format!(
                "The values for parameter id in MetricDataQueries must be unique: {}.",
                pair[0]
            )));
        }
        let points: f64 = queries.iter().map(|query| (end - start) as f64 / query.period_ms as f64).sum();
        if points > MOST_POINTS {
            return Err(invalid("You have requested too many data points: at most 100,800 in one call."));
        }
        Ok(Self { queries, start, end, newest_first })
    }
}

fn query(input: QueryInput) -> Result<Query, Refusal> {
    let proper = input.id.starts_with(|c: char| c.is_ascii_lowercase())
        && input.id.len() <= 255
        && input.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !proper {
        return Err(invalid(format!("The value {} for parameter Id is not matching the expected pattern.", input.id)));
    }
    if input.expression.is_some() {
        return Err(invalid("Expressions are not modelled here; ask for metrics and compute"));
    }
    let Some(stat) = input.metric_stat else {
        return Err(invalid("The parameter MetricDataQueries.member.1.MetricStat is required."));
    };
    let good_period = stat.period > 0 && (stat.period % 60 == 0 || [1, 5, 10, 20, 30].contains(&stat.period));
    if !good_period || stat.period > 86_400 {
        return Err(invalid(format!("The value {} for parameter Period is not a multiple of 60.", stat.period)));
    }
    let statistic = statistic(&stat.stat)
        .ok_or_else(|| invalid(format!("The value {} for parameter Stat is not supported.", stat.stat)))?;
    let required =
        |name: &str, value: Option<String>| value.ok_or_else(|| invalid(format!("The parameter {name} is required.")));
    let metric = required("MetricName", stat.metric.metric_name)?;
    let mut query = Query {
        label: input.label.unwrap_or_else(|| metric.clone()),
        id: input.id,
        namespace: required("Namespace", stat.metric.namespace)?,
        metric,
        load_balancer: None,
        target_group: None,
        other_dimension: false,
        period_ms: stat.period * 1_000,
        statistic,
    };
    for dimension in stat.metric.dimensions {
        match dimension.name.as_str() {
            "LoadBalancer" => query.load_balancer = Some(dimension.value),
            "TargetGroup" => query.target_group = Some(dimension.value),
            _ => query.other_dimension = true,
        }
    }
    Ok(query)
}

fn statistic(text: &str) -> Option<Statistic> {
    Some(match text {
        "Sum" => Statistic::Sum,
        "Average" => Statistic::Average,
        "Minimum" => Statistic::Minimum,
        "Maximum" => Statistic::Maximum,
        "SampleCount" => Statistic::SampleCount,
        _ => {
            let percent: f64 = text.strip_prefix('p')?.parse().ok()?;
            (0.0..=100.0).contains(&percent).then_some(Statistic::Percentile(percent))?
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body() -> Value {
        json!({
            "StartTime": 60.0, "EndTime": 120.0,
            "MetricDataQueries": [{"Id": "q0", "MetricStat": {
                "Metric": {"Namespace": "AWS/ApplicationELB", "MetricName": "RequestCount", "Dimensions": [
                    {"Name": "TargetGroup", "Value": "targetgroup/a/1"}, {"Name": "LoadBalancer", "Value": "app/b/2"}]},
                "Period": 60, "Stat": "Sum"}}],
        })
    }

    #[test]
    fn a_call_is_read_with_its_defaults() {
        let request = Request::read(body()).unwrap();
        assert_eq!((request.start, request.end, request.newest_first), (60_000, 120_000, true));
        let query = &request.queries[0];
        assert_eq!((query.label.as_str(), query.period_ms, query.statistic), ("RequestCount", 60_000, Statistic::Sum));
        assert_eq!(query.target_group.as_deref(), Some("targetgroup/a/1"));
    }

    #[test]
    fn what_aws_refuses_is_refused() {
        let stat = "/MetricDataQueries/0/MetricStat";
        for (place, value, word) in [
            ("/EndTime".to_owned(), json!(60.0), "must not equal"),
            ("/EndTime".to_owned(), json!(1.0), "must be greater"),
            ("/EndTime".to_owned(), json!(1e300), "EndTime is no time"),
            ("/MetricDataQueries/0/Id".to_owned(), json!("Upper"), "pattern"),
            (format!("{stat}/Period"), json!(7), "multiple of 60"),
            (format!("{stat}/Stat"), json!("p101"), "not supported"),
            (format!("{stat}/Stat"), json!("Median"), "not supported"),
        ] {
            let mut changed = body();
            *changed.pointer_mut(&place).unwrap() = value;
            let refusal = Request::read(changed).unwrap_err();
            assert!(refusal.message.contains(word), "{place}: {refusal}");
        }
        let mut twice = body();
        let query = twice["MetricDataQueries"][0].clone();
        twice["MetricDataQueries"].as_array_mut().unwrap().push(query);
        assert!(Request::read(twice).unwrap_err().message.contains("unique"));
        let mut paged = body();
        paged["NextToken"] = json!("x");
        assert_eq!(Request::read(paged).unwrap_err().code, "InvalidNextToken");
    }
}
