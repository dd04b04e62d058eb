//! Policies and shifts that nobody would write: a valid one with some fields replaced, removed or added by chance. Server and hub agree on
//! each. A failure names the seed; `SWITCHYARD_SEED` plays it again.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::{Value, json};

use super::{base, core_judges, server, server_judges, shifts};

/// Of each kind. Some 6 s of the server's time.
const DOCUMENTS: usize = 600;

/// Everything set but what only the hub can judge (the namespace of a policy) or does not (how far it was approved), in one of
/// the forms that a strategy can have.
fn whole_shift(random: &mut StdRng) -> Value {
    let mut document = shifts::base();
    let measured = json!({"name": "errors", "prometheus": {"source": "main", "query": "sum(rate(errors[1m]))"},
        "success": "< 0.01", "failure": ">= 0.05", "intervalSeconds": 30, "count": 5, "failureLimit": 1});
    let watched = json!({"name": "latency", "success": "<= 0.25", "cloudWatch": {"metric": "TargetResponseTime",
        "statistic": "p99", "periodSeconds": 120, "dividedBy": "RequestCount"}});
    let strategies = [
        json!({"steps": [
            {"percent": 5, "bakeSeconds": 60, "approval": true, "gates": [measured, watched]},
            {"percent": 50, "bakeSeconds": 604_800, "gates": [{"name": "asked", "webhook": {"endpoint": "tests"}}]},
            {"percent": 100},
        ]}),
        json!({"steps": [{"percent": 99, "gates": [watched]}, {"percent": 100, "gates": [measured]}]}),
        json!({"linear": {"stepPercent": 20, "bakeSeconds": 60}}),
        json!({"exponential": {"firstPercent": 5, "factor": 2, "bakeSeconds": 60}}),
        json!({"canary": {"percent": 5, "bakeSeconds": 60, "approval": true}}),
    ];
    document["spec"] = json!({
        "policies": [
            {"name": "checkout", "to": "green"},
            {"name": "cart.v2", "weights": {"blue": 0, "green": 999}, "expectedVersion": 7},
        ],
        "strategy": strategies.choose(random).expect("there are some"),
        "gates": [{"name": "healthy", "targetHealth": {"minHealthyPercent": 90}}],
        "overrides": ["MaxStepPercent", "Capacity"],
        "reason": "incident 4711",
        "progressDeadlineSeconds": 300,
        "paused": false,
        "abort": false,
    });
    document
}

/// Everything set, so that there is something to spoil.
fn whole() -> Value {
    let mut document = base();
    document["spec"] = json!({
        "listener": {"loadBalancer": "shared", "port": 443},
        "match": {
            "hostnames": ["shop.example.com"],
            "paths": [{"type": "Exact", "value": "/cart"}],
            "headers": [{"name": "X-Canary", "values": ["yes"]}],
            "methods": ["POST"],
            "query": [{"key": "v", "value": "2"}],
        },
        "order": 100,
        "backend": {
            "service": {"name": "cart", "port": 8080},
            "targetType": "ip",
            "protocol": "HTTP",
            "protocolVersion": "HTTP1",
            "healthCheck": {
                "path": "/healthz", "port": 9090, "intervalSeconds": 10, "timeoutSeconds": 3,
                "healthyThreshold": 4, "unhealthyThreshold": 5, "successCodes": "200-204",
            },
            "deregistrationDelaySeconds": 30,
        },
        "mode": "Weighted",
        "clusters": [
            {"name": "blue", "weight": 7}, {"name": "green", "weight": 999}, {"name": "dr", "weight": 1, "priority": 1},
        ],
        "failover": {
            "overprovisioningPercent": 140, "panicThresholdPercent": 50, "unhealthyAfterSeconds": 10,
            "healthyAfterSeconds": 60, "failback": "Manual", "failbackStepPercent": 25, "failbackStepSeconds": 60,
            "deadBandPercent": 5, "holdDownMaxSeconds": 3600, "maxMovesPerHour": 6,
        },
        "safety": {
            "deregistrationBudgetPercent": 25, "freeze": false,
            "minActiveClusters": 2, "maxStepPercent": 50, "minStepIntervalSeconds": 30,
            "maintenanceWindows": [
                {"days": ["Sat", "Sun"], "from": "08:00", "to": "20:00", "timeZone": "Europe/Berlin"},
                {"from": "22:00", "to": "04:00"},
            ],
        },
        "capacity": {"peakRequestsPerSecond": 5000, "requestsPerSecondPerTarget": 250},
    });
    document
}

const TEXTS: [&str; 93] = [
    "",
    "a",
    "shop",
    "shop.example.com",
    "*.*.com",
    "a..b",
    ".com",
    "a.b.",
    "/",
    "//",
    "/a",
    "/a/",
    "/a/*",
    "*",
    "*/a",
    "??????",
    "GET",
    "get",
    "M-SEARCH",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "10.0.0.0/08",
    "10.0.0.0",
    "::/0",
    "2001:DB8::/32",
    "::ffff:1.2.3.4/128",
    "1.2.3.4/32",
    "fe80::1%eth0/64",
    "200",
    "200-299",
    "299-200",
    "200,204",
    "0",
    "00",
    "99",
    "100",
    "5-3",
    "Host",
    "X-A",
    "a b",
    "ä",
    "-a",
    "a-",
    "http",
    "80",
    "70000",
    "Prefix",
    "Exact",
    "Pattern",
    "HTTPS",
    "HTTP2",
    "GRPC",
    "instance",
    "a\nb",
    "a\u{7f}b",
    "\u{0}",
    "Mon",
    "Sunday",
    "00:00",
    "08:00",
    "8:00",
    "24:00",
    "24:01",
    "20:00",
    "UTC",
    "utc",
    "Local",
    "Asia/Kathmandu",
    "Europe/Bremen",
    "-05:00",
    "checkout",
    "cart.v2",
    "cart..v2",
    "healthy",
    "errors",
    "latency",
    "< 0.01",
    ">=99.5",
    " != -1e3 ",
    "==.5",
    "< 1e999",
    "0.5",
    "=< 1",
    "< NaN",
    "<",
    "p99",
    "p99.9",
    "p0",
    "Sum",
    "Freeze",
    "GatingSwitch",
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/50dc6c495c0c9188/f2f7",
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shared/50dc6c495c0c9188",
];

const NUMBERS: [i64; 31] = [
    0,
    1,
    2,
    4,
    5,
    6,
    10,
    11,
    80,
    99,
    100,
    101,
    120,
    121,
    300,
    301,
    999,
    1000,
    3600,
    3601,
    49_000,
    49_001,
    65_535,
    65_536,
    86_400,
    86_401,
    100_001,
    10_000_000,
    10_000_001,
    4_294_967_296,
    -1,
];

const LENGTHS: [usize; 12] = [32, 33, 40, 41, 63, 64, 125, 126, 127, 128, 129, 1025];

fn text(random: &mut StdRng) -> Value {
    match random.random_range(0..10) {
        0 => json!("a".repeat(*LENGTHS.choose(random).expect("there are some"))),
        1 => json!(format!("/{}", "a".repeat(LENGTHS.choose(random).expect("there are some") - 1))),
        _ => json!(TEXTS.choose(random).expect("there are some")),
    }
}

/// Mostly of the same type as what it replaces.
fn other(old: &Value, random: &mut StdRng) -> Value {
    if random.random_range(0..25) == 0 {
        let odd = [json!(1.5), json!(true), json!("7"), json!(7), json!([]), json!({}), json!([1]), json!({"a": "b"})];
        return odd.choose(random).expect("there are some").clone();
    }
    match old {
        Value::Number(_) => json!(NUMBERS.choose(random).expect("there are some")),
        Value::Bool(old) => json!(!old),
        Value::Array(items) => {
            let mut items = items.clone();
            match (items.len(), random.random_range(0..3)) {
                (0, _) => items.push(text(random)),
                (_, 0) => drop(items.pop()),
                (_, _) => {
                    let mut item = items[0].clone();
                    if random.random() {
                        spoil(&mut item, random);
                    }
                    for _ in 0..*[1, 1, 1, 3, 5].choose(random).expect("there are some") {
                        items.push(item.clone());
                    }
                }
            }
            json!(items)
        }
        _ => text(random),
    }
}

/// Walks down by chance and changes what it comes to.
fn spoil(value: &mut Value, random: &mut StdRng) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            match (names.choose(random), random.random_range(0..16)) {
                (Some(name), 0) => drop(fields.remove(name)),
                (_, 1) => drop(fields.insert(field(random), text(random))),
                (Some(name), _) => spoil(fields.get_mut(name).expect("it is one of the names"), random),
                (None, _) => drop(fields.insert("name".to_owned(), text(random))),
            }
        }
        Value::Array(items) if !items.is_empty() && random.random_range(0..3) > 0 => {
            let at = random.random_range(0..items.len());
            spoil(&mut items[at], random);
        }
        // The server drops a null, which is the other test's matter; here there are none.
        leaf => *leaf = other(leaf, random),
    }
}

/// A field that may be known at that place.
fn field(random: &mut StdRng) -> String {
    let names = [
        "arn",
        "tags",
        "key",
        "value",
        "values",
        "name",
        "type",
        "sourceIps",
        "hostnames",
        "port",
        "unknown",
        "to",
        "success",
        "failure",
        "linear",
    ];
    (*names.choose(random).expect("there are some")).to_owned()
}

/// What is made of these documents, server and hub judge alike; some are taken and some are not.
async fn agree(mut whole: impl FnMut(&mut StdRng) -> Value) {
    let given = std::env::var("SWITCHYARD_SEED").ok();
    let seed = given.map_or_else(|| rand::rng().random(), |text| text.parse().expect("SWITCHYARD_SEED is a number"));
    let mut random = StdRng::seed_from_u64(seed);
    let client = server().await.client().await.expect("a client");
    let mut taken = 0;
    for n in 0..DOCUMENTS {
        let mut document = whole(&mut random);
        for _ in 0..random.random_range(1..=3) {
            spoil(&mut document["spec"], &mut random);
        }
        let core = core_judges(&document);
        let server = server_judges(&client, &document).await;
        assert_eq!(
            core.is_ok(),
            server.is_ok(),
            "seed {seed}, document {n}: {document:#}\ncore: {core:#?}\nserver: {server:#?}"
        );
        taken += usize::from(core.is_ok());
    }
    assert!((DOCUMENTS / 20..DOCUMENTS * 19 / 20).contains(&taken), "seed {seed}: {taken} of {DOCUMENTS} were taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_policies_spoilt_by_chance_server_and_hub_agree() {
    agree(|_| whole()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_shifts_spoilt_by_chance_server_and_hub_agree() {
    agree(whole_shift).await;
}
