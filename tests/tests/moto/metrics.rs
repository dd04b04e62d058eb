//! The sandbox's GetMetricData against moto's: the same numbers of real traffic in both, the same calls, made by AWS's Python client,
//! which reads the sandbox's CBOR as a second opinion beside the SDK. What differs is listed with its reason.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use switchyard_tests::{
    moto::{self, Moto},
    wait,
    world::World,
};

/// Calls that are answered differently, and why. One that is not here fails the test, and so does one here that does not differ.
const KNOWN: &[(&str, &str)] = &[
    (
        "a start between two periods",
        "moto counts periods from the start that was asked for; AWS rounds it down to the clock (GetMetricData, StartTime)",
    ),
    (
        "another namespace",
        "moto finds a metric by its name and dimensions in any namespace; at AWS the namespace is part of what a metric is",
    ),
    ("a period that is none", "moto takes any number of seconds; AWS: 1, 5, 10, 20, 30 or a multiple of 60"),
    ("a statistic that is none", "moto answers with periods without a value; AWS refuses what is no statistic"),
];

/// A call: its name and its parameters.
type Call = (&'static str, Value);

struct Stage {
    dimensions: Value,
    /// Seconds.
    start: i64,
    end: i64,
}

impl Stage {
    fn query(&self, metric: &str, stat: &str, period: u32) -> Value {
        let metric = json!({"Namespace": "AWS/ApplicationELB", "MetricName": metric, "Dimensions": self.dimensions});
        json!({"Id": "q", "Label": "asked", "MetricStat": {"Metric": metric, "Period": period, "Stat": stat}})
    }

    fn call(&self, queries: Value) -> Value {
        json!({"StartTime": self.start, "EndTime": self.end, "MetricDataQueries": queries, "ScanBy": "TimestampAscending"})
    }

    fn one(&self, metric: &str, stat: &str, period: u32) -> Value {
        self.call(json!([self.query(metric, stat, period)]))
    }

    fn with(mut call: Value, path: &str, value: Value) -> Value {
        *call.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
        call
    }

    fn calls(&self) -> Vec<Call> {
        let base = || self.one("RequestCount", "Sum", 5);
        let statistic = "/MetricDataQueries/0/MetricStat";
        let mut newest = base();
        newest.as_object_mut().expect("a map").remove("ScanBy");
        let mut several = vec![self.query("RequestCount", "Sum", 60)];
        several.push(Self::with(self.query("HTTPCode_Target_2XX_Count", "Sum", 60), "/Id", json!("r")));
        several.push(Self::with(self.query("HTTPCode_Target_5XX_Count", "Sum", 60), "/Id", json!("s")));
        let mut calls = vec![
            ("sums of five seconds", base()),
            ("newest first, when nothing is said", newest),
            ("every second", self.one("RequestCount", "Sum", 1)),
            ("several at once, one without data", self.call(json!(several))),
            ("a metric that nobody counts", self.one("NoSuchMetric", "Sum", 5)),
            (
                "fewer dimensions",
                Self::with(base(), &format!("{statistic}/Metric/Dimensions"), json!([self.dimensions[0]])),
            ),
            ("another namespace", Self::with(base(), &format!("{statistic}/Metric/Namespace"), json!("AWS/ELB"))),
            ("the first seconds only", Self::with(base(), "/EndTime", json!(self.start + 5))),
            ("a start between two periods", Self::with(base(), "/StartTime", json!(self.start + 1))),
            ("no time at all", Self::with(base(), "/EndTime", json!(self.start))),
            ("the wrong way round", Self::with(base(), "/EndTime", json!(self.start - 60))),
            ("no metric", self.call(json!([{"Id": "q"}]))),
            ("a period that is none", Self::with(base(), &format!("{statistic}/Period"), json!(7))),
            ("a statistic that is none", Self::with(base(), &format!("{statistic}/Stat"), json!("Middle"))),
        ];
        for stat in ["Average", "Minimum", "Maximum", "SampleCount"] {
            calls.push(("another statistic of a count", self.one("RequestCount", stat, 60)));
            calls.push(("a statistic of times", self.one("TargetResponseTime", stat, 60)));
        }
        calls
    }
}

/// What the script says.
fn asked(question: &Value) -> Value {
    let mut python = Command::new(moto::python().unwrap_or_else(|error| panic!("{error}")));
    python.arg("-B").arg(moto::tools().join("metrics.py"));
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().expect("Python starts");
    child.stdin.take().expect("a pipe").write_all(question.to_string().as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Sums of floating-point numbers differ in their last digits by the order in which they are added.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= 1e-9 * a.abs().max(1.0)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| alike(value, other)))
        }
        _ => one == other,
    }
}

fn dimension(arn: &str) -> &str {
    let resource = arn.rsplit(':').next().unwrap_or(arn);
    resource.strip_prefix("loadbalancer/").unwrap_or(resource)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_told_as_moto_tells_them_but_for_the_known_differences() {
    let moto = Moto::shared().await;
    let world = World::with_policy(&[("blue", 100), ("green", 0)]).await;
    let state = world.elb().state().await.expect("the state");
    let group = state.group("shop/checkout", "blue").expect("the group of blue").arn.clone();
    let dimensions = json!([
        {"Name": "TargetGroup", "Value": dimension(&group)},
        {"Name": "LoadBalancer", "Value": dimension(&world.load_balancer.arn)},
    ]);
    // Whole minutes around everything.
    let minute = jiff::Timestamp::now().as_second().div_euclid(60) * 60;
    let load = world.load("checkout", 50).await;
    load.more(200).await;
    let sent = load.finish().await.expect("the load ends").sent;
    let stage = Stage { dimensions, start: minute - 120, end: minute + 300 };
    let question = |calls: &[Call]| {
        json!({
            "sandbox": world.sandbox.info().cloudwatch_url, "moto": moto.url(), "region": world.sandbox.info().region,
            "groups": [stage.dimensions], "start": stage.start, "end": stage.end,
            "counts": if calls.len() > 1 { json!(["RequestCount", "HTTPCode_Target_2XX_Count"]) } else { json!([]) },
            "times": if calls.len() > 1 { json!(["TargetResponseTime"]) } else { json!([]) },
            "calls": calls.iter().map(|(_, call)| call).collect::<Vec<_>>(),
        })
    };
    let all = [("all", stage.one("RequestCount", "Sum", 60))];
    wait::until("all requests to be told", async || {
        let answer = asked(&question(&all));
        let points = answer["answers"][0]["sandbox"]["results"][0]["points"].as_array().cloned().unwrap_or_default();
        let told: f64 = points.iter().filter_map(|point| point[1].as_f64()).sum();
        // Other requests than those of the load came before it.
        wait::check(told >= sent as f64, || format!("{told} of {sent}"))
    })
    .await;

    let calls = stage.calls();
    let answer = asked(&question(&calls));
    assert!(answer["put"].as_u64().is_some_and(|put| put >= 9), "too few points to compare: {}", answer["put"]);
    let answers = answer["answers"].as_array().expect("answers");
    assert_eq!(answers.len(), calls.len());
    let mut wrong = Vec::new();
    for ((name, call), both) in calls.iter().zip(answers) {
        let same = alike(&both["sandbox"], &both["moto"]);
        let known = KNOWN.iter().find(|(known, _)| known == name);
        match (same, known) {
            (true, None) | (false, Some(_)) => {}
            (false, None) => {
                wrong.push(format!("{name}: {call}\n  sandbox {}\n  moto {}", both["sandbox"], both["moto"]))
            }
            (true, Some((_, why))) => wrong.push(format!("{name} does not differ any more, but is listed: {why}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.stop().await;
}
