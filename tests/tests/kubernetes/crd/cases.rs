//! The table of cases that runs through both judges.

use super::{Fault, base, changed, core_judges, core_judges_update, lay, server, server_judges, server_judges_update};
use k8s_openapi::jiff::tz::TimeZoneDatabase;
use serde_json::json;

const LB: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/shared/50dc6c495c0c9188";
const LISTENER: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/50dc6c495c0c9188/f2f7";

/// A change of the base's spec that both refuse.
struct Refused {
    change: String,
    /// The field that both name.
    field: &'static str,
    /// What the server's message says of the way out.
    remedy: &'static str,
}

fn no(change: impl Into<String>, field: &'static str, remedy: &'static str) -> Refused {
    Refused { change: change.into(), field, remedy }
}

fn long(n: usize) -> String {
    "a".repeat(n)
}

fn listener(text: &str) -> String {
    format!("{{listener: {text}}}")
}

fn matching(text: &str) -> String {
    format!("{{match: {text}}}")
}

/// Conditions in place of the base's.
fn only(text: &str) -> String {
    format!("{{match: {{paths: null, {text}}}}}")
}

fn backend(text: &str) -> String {
    format!("{{backend: {text}}}")
}

fn check(text: &str) -> String {
    backend(&format!("{{healthCheck: {text}}}"))
}

fn codes(version: &str, codes: &str) -> String {
    backend(&format!("{{protocolVersion: {version}, healthCheck: {{successCodes: '{codes}'}}}}"))
}

fn tags(n: usize) -> String {
    (0..n).map(|i| format!("t{i}: v")).collect::<Vec<_>>().join(", ")
}

const BETWEEN: &str = "should be";
const LABEL: &str = "use at most 63 lower-case letters, digits and hyphens";

fn refused_listeners() -> Vec<Refused> {
    let (all, port, lb, arn) =
        ("spec.listener", "spec.listener.port", "spec.listener.loadBalancer", "spec.listener.arn");
    let only_arn = |arn: &str| listener(&format!("{{loadBalancer: null, port: null, arn: '{arn}'}}"));
    let only_tags = |tags: &str| listener(&format!("{{loadBalancer: null, tags: {{{tags}}}}}"));
    let tags_field = "spec.listener.tags";
    vec![
        no(listener("{loadBalancer: null}"), all, "give exactly one of arn, loadBalancer and tags"),
        no(listener("{loadBalancer: null, tags: {}}"), all, "give exactly one of"),
        no(listener("{tags: {team: shop}}"), all, "give exactly one of"),
        no(listener(&format!("{{arn: '{LISTENER}', port: null}}")), all, "give exactly one of"),
        no(listener(&format!("{{loadBalancer: null, arn: '{LISTENER}'}}")), port, "leave it out"),
        no(only_arn(LB), arn, "listener/..."),
        no(only_arn("arn:aws:elasticloadbalancing::123456789012:listener/app/a/b/c"), arn, "REGION"),
        no(only_arn("arn:aws:elasticloadbalancing:eu:1:listener/"), arn, "listener/..."),
        no(only_arn(&format!("{LISTENER}ä")), arn, "listener/..."),
        no(only_arn(&format!("{LISTENER}{}", long(512))), arn, "may not be more than 512"),
        no(listener("{port: null}"), port, "give the listener's port"),
        no(listener("{loadBalancer: null, port: null, tags: {a: b}}"), port, "give the listener's port"),
        no(listener("{port: 0}"), port, BETWEEN),
        no(listener("{port: 65536}"), port, BETWEEN),
        no(listener("{loadBalancer: ''}"), lb, BETWEEN),
        no(listener("{loadBalancer: my_lb}"), lb, "at most 32 letters"),
        no(listener(&format!("{{loadBalancer: {}}}", long(33))), lb, "at most 32 letters"),
        no(listener(&format!("{{loadBalancer: '{LISTENER}'}}")), lb, "loadbalancer/..."),
        no(listener("{loadBalancer: 'arn:aws:s3:::bucket'}"), lb, "loadbalancer/..."),
        no(only_tags("'': b"), tags_field, "use the keys as AWS shows them"),
        no(only_tags(&format!("{}: b", "k".repeat(129))), tags_field, "use the keys as AWS shows them"),
        no(only_tags(&tags(51)), tags_field, "must have at most 50 items"),
    ]
}

fn refused_conditions() -> Vec<Refused> {
    let all = "spec.match";
    let host = |text: &str| only(&format!("hostnames: ['{text}']"));
    let header = |name: &str, value: &str| only(&format!("headers: [{{name: \"{name}\", values: [{value}]}}]"));
    let hosts = |n: usize| (0..n).map(|i| format!("h{i}.example.com")).collect::<Vec<_>>().join(", ");
    let hostname = "spec.match.hostnames[0]";
    let values = "use fewer values (a Prefix path counts as two)";
    let wild = "use fewer (a Prefix path counts as one)";
    vec![
        no(matching("{paths: null}"), all, "give at least one, such as hostnames or paths"),
        no(only("hostnames: []"), all, "give at least one"),
        no(host("shop"), hostname, "such as shop.example.com"),
        no(host("shop."), hostname, "such as shop.example.com"),
        no(host("shop.example.c0m"), hostname, "such as shop.example.com"),
        no(host("shop.example.com:80"), hostname, "use only letters, digits"),
        no(host("shöp.example.com"), hostname, "use only letters, digits"),
        no(host(""), hostname, BETWEEN),
        no(host(&format!("{}.com", long(125))), hostname, "may not be more than 128"),
        no(header("Host", "a"), "spec.match.headers[0].name", "use spec.match.hostnames"),
        no(header("a b", "a"), "spec.match.headers[0].name", "use the name as in the HTTP request"),
        no(header("", "a"), "spec.match.headers[0].name", BETWEEN),
        no(header(&long(41), "a"), "spec.match.headers[0].name", "may not be more than 40"),
        no(header("a", ""), "spec.match.headers[0].values", "should have at least 1 items"),
        no(header("a", "ä"), "spec.match.headers[0].values[0]", "use only printable ASCII"),
        no(header("a", &long(129)), "spec.match.headers[0].values[0]", "may not be more than 128"),
        no(only("methods: [get]"), "spec.match.methods[0]", "use upper-case letters, such as GET"),
        no(only(&format!("methods: [{}]", "A".repeat(41))), "spec.match.methods[0]", "may not be more than 40"),
        no(only("query: [{value: ''}]"), "spec.match.query[0].value", BETWEEN),
        no(only("query: [{key: \"a\\tb\", value: a}]"), "spec.match.query[0].key", "use only printable ASCII"),
        no(only("query: [{key: a, value: ä}]"), "spec.match.query[0].value", "use only printable ASCII"),
        no(only(&format!("query: [{{key: {}, value: a}}]", long(129))), "spec.match.query[0].key", "more than 128"),
        no(only("sourceIps: [10.1.2.3/8]"), "spec.match.sourceIps[0]", "such as 10.0.0.0/8"),
        no(only("sourceIps: [10.0.0.0]"), "spec.match.sourceIps[0]", "such as 10.0.0.0/8"),
        no(only("sourceIps: [10.0.0.0/33]"), "spec.match.sourceIps[0]", "ADDRESS/LENGTH"),
        no(only("sourceIps: [10.0.0.0/08]"), "spec.match.sourceIps[0]", "ADDRESS/LENGTH"),
        no(only("sourceIps: [010.0.0.0/8]"), "spec.match.sourceIps[0]", "ADDRESS/LENGTH"),
        no(only("sourceIps: ['::ffff:10.0.0.0/104']"), "spec.match.sourceIps[0]", "ADDRESS/LENGTH"),
        no(only("sourceIps: ['2001:db8::1/32']"), "spec.match.sourceIps[0]", "has address bits behind its length"),
        no(only(&format!("hostnames: [{}], methods: [GET]", hosts(5))), all, values),
        no(matching("{paths: [{value: /a}, {value: /b}, {value: /c}]}"), all, values),
        no(matching("{paths: [{value: /a}, {value: /a}], methods: [GET, GET]}"), all, values),
        no(only("headers: [{name: a, values: [a, b, c]}, {name: b, values: [a, b, c]}]"), all, values),
        no(matching(&format!("{{hostnames: [{}], sourceIps: [10.0.0.0/8]}}", hosts(3))), all, values),
        no(only("hostnames: ['??????.example.com']"), all, wild),
        no(only("query: [{key: '*', value: '*****'}]"), all, wild),
        no(matching("{paths: [{value: /a}], hostnames: ['?????.example.com']}"), all, wild),
        no(only("headers: [{name: a, values: ['***', '***']}]"), all, wild),
    ]
}

fn refused_paths() -> Vec<Refused> {
    let field = "spec.match.paths[0].value";
    let path = |kind: &str, value: &str| matching(&format!("{{paths: [{{type: {kind}, value: '{value}'}}]}}"));
    vec![
        no(path("Prefix", "checkout"), field, "write /checkout"),
        no(path("Exact", "*/a"), field, "write /*/a"),
        no(path("Prefix", "/a*"), field, "use type: Pattern"),
        no(path("Exact", "/a?"), field, "use type: Pattern"),
        no(path("Pattern", "?/a"), field, "write /?/a"),
        no(path("Pattern", "/a b"), field, "use only letters, digits and _ - . $ /"),
        no(path("Exact", "/ä"), field, "use only letters, digits and _ - . $ /"),
        no(path("Exact", ""), field, BETWEEN),
        no(path("Exact", &format!("/{}", long(128))), field, "may not be more than 128"),
        no(path("Prefix", &format!("/{}", long(126))), field, "shorten it"),
    ]
}

fn refused_backends() -> Vec<Refused> {
    let service = |text: &str| backend(&format!("{{service: {text}}}"));
    let (name, port) = ("spec.backend.service.name", "spec.backend.service.port");
    vec![
        no(service("{name: Checkout}"), name, LABEL),
        no(service("{name: a.b}"), name, LABEL),
        no(service("{name: ''}"), name, BETWEEN),
        no(service(&format!("{{name: {}}}", long(64))), name, "may not be more than 63"),
        no(service("{port: 0}"), port, "from 1 to 65535"),
        no(service("{port: 65536}"), port, "from 1 to 65535"),
        no(service("{port: HTTP}"), port, LABEL),
        no(service("{port: ''}"), port, LABEL),
        no(service(&format!("{{port: {}}}", long(64))), port, "may not be more than 63"),
        no(backend("{deregistrationDelaySeconds: 3601}"), "spec.backend.deregistrationDelaySeconds", BETWEEN),
        no(check("{path: healthz}"), "spec.backend.healthCheck.path", "such as /healthz"),
        no(check("{path: ''}"), "spec.backend.healthCheck.path", BETWEEN),
        no(check("{path: '/a b'}"), "spec.backend.healthCheck.path", "printable characters"),
        no(check("{path: '/ä'}"), "spec.backend.healthCheck.path", "printable characters"),
        no(check(&format!("{{path: /{}}}", long(1024))), "spec.backend.healthCheck.path", "may not be more than 1024"),
        no(check("{port: 0}"), "spec.backend.healthCheck.port", BETWEEN),
        no(check("{port: 65536}"), "spec.backend.healthCheck.port", BETWEEN),
        no(check("{intervalSeconds: 4, timeoutSeconds: 3}"), "spec.backend.healthCheck.intervalSeconds", BETWEEN),
        no(check("{intervalSeconds: 301}"), "spec.backend.healthCheck.intervalSeconds", BETWEEN),
        no(check("{timeoutSeconds: 1}"), "spec.backend.healthCheck.timeoutSeconds", BETWEEN),
        no(check("{timeoutSeconds: 121, intervalSeconds: 300}"), "spec.backend.healthCheck.timeoutSeconds", BETWEEN),
        no(check("{timeoutSeconds: 15}"), "spec.backend.healthCheck.timeoutSeconds", "or check less often"),
        no(check("{intervalSeconds: 5}"), "spec.backend.healthCheck.timeoutSeconds", "or check less often"),
        no(check("{healthyThreshold: 1}"), "spec.backend.healthCheck.healthyThreshold", BETWEEN),
        no(check("{healthyThreshold: 11}"), "spec.backend.healthCheck.healthyThreshold", BETWEEN),
        no(check("{unhealthyThreshold: 1}"), "spec.backend.healthCheck.unhealthyThreshold", BETWEEN),
        no(check("{unhealthyThreshold: 11}"), "spec.backend.healthCheck.unhealthyThreshold", BETWEEN),
        no(codes("HTTP1", &["200"; 65].join(",")), "spec.backend.healthCheck.successCodes", "more than 255"),
    ]
    .into_iter()
    .chain(refused_codes())
    .collect()
}

fn refused_codes() -> impl Iterator<Item = Refused> {
    let field = "spec.backend.healthCheck.successCodes";
    let http = ["199", "500", "abc", ",", "200,", ",200", "200,,201", "299-200", "200-", "-299", "200-299-300", "0200"];
    let http = http.into_iter().chain(["200 201", "+200", "200-500", "200,299-200"]);
    let http = http.map(move |bad| no(codes("HTTP2", bad), field, "use codes from 200 to 499, such as 200"));
    let grpc = ["100", "-1", "00", "01", "12,", "5-3", "10-9", "+1"];
    http.chain(grpc.into_iter().map(move |bad| no(codes("GRPC", bad), field, "use codes from 0 to 99, such as 12")))
}

fn refused_rest() -> Vec<Refused> {
    let clusters = |text: &str| format!("{{clusters: [{text}]}}");
    let six = ["a", "b", "c", "d", "e", "f"].map(|name| format!("{{name: {name}, weight: 1}}")).join(", ");
    vec![
        no("{order: 0}", "spec.order", BETWEEN),
        no("{order: 49001}", "spec.order", BETWEEN),
        no("{mode: Pooled}", "spec.mode", "use Weighted"),
        no(clusters(""), "spec.clusters", "should have at least 1 items"),
        no(clusters(&six), "spec.clusters", "must have at most 5 items"),
        no(clusters("{name: a, weight: 0}, {name: b, weight: 0}"), "spec.clusters", "delete the policy"),
        no(clusters("{name: Blue, weight: 1}"), "spec.clusters[0].name", LABEL),
        no(clusters("{name: a.b, weight: 1}"), "spec.clusters[0].name", LABEL),
        no(clusters("{name: '', weight: 1}"), "spec.clusters[0].name", BETWEEN),
        no(clusters(&format!("{{name: {}, weight: 1}}", long(64))), "spec.clusters[0].name", "more than 63"),
        no(clusters("{name: a, weight: 1000}"), "spec.clusters[0].weight", BETWEEN),
        no("{safety: {deregistrationBudgetPercent: 101}}", "spec.safety.deregistrationBudgetPercent", BETWEEN),
    ]
}

/// Two clusters, the second with these fields beside its name.
fn second(text: &str) -> String {
    format!("{{failover: {{}}, clusters: [{{name: blue, weight: 1}}, {{name: dr, {text}}}]}}")
}

fn refused_failover() -> Vec<Refused> {
    let of = |field: &'static str, path: &'static str, value: u32| {
        no(format!("{{failover: {{{field}: {value}}}}}"), path, BETWEEN)
    };
    vec![
        of("overprovisioningPercent", "spec.failover.overprovisioningPercent", 99),
        of("overprovisioningPercent", "spec.failover.overprovisioningPercent", 1001),
        of("panicThresholdPercent", "spec.failover.panicThresholdPercent", 0),
        of("panicThresholdPercent", "spec.failover.panicThresholdPercent", 101),
        of("unhealthyAfterSeconds", "spec.failover.unhealthyAfterSeconds", 3601),
        of("healthyAfterSeconds", "spec.failover.healthyAfterSeconds", 86_401),
        of("failbackStepPercent", "spec.failover.failbackStepPercent", 0),
        of("failbackStepPercent", "spec.failover.failbackStepPercent", 101),
        of("failbackStepSeconds", "spec.failover.failbackStepSeconds", 86_401),
        of("deadBandPercent", "spec.failover.deadBandPercent", 51),
        of("holdDownMaxSeconds", "spec.failover.holdDownMaxSeconds", 86_401),
        of("maxMovesPerHour", "spec.failover.maxMovesPerHour", 0),
        of("maxMovesPerHour", "spec.failover.maxMovesPerHour", 61),
        no(second("weight: 1, priority: 5"), "spec.clusters[1].priority", BETWEEN),
        no(
            second("weight: 0, priority: 1"),
            "spec.clusters[1].weight",
            "give it its share among the clusters of its priority",
        ),
        no(
            "{failover: {}, clusters: [{name: dr, weight: 1, priority: 1}]}",
            "spec.clusters",
            "give at least one cluster of priority 0 a weight",
        ),
        no(
            "{failover: {}, clusters: [{name: blue, weight: 1}, {name: dr, weight: 1, priority: 1}], safety: \
             {minActiveClusters: 2}}",
            "spec.safety.minActiveClusters",
            "give more clusters a weight, or lower it",
        ),
    ]
}

fn refused_safety() -> Vec<Refused> {
    let least = "spec.safety.minActiveClusters";
    let window = |text: &str| format!("{{safety: {{maintenanceWindows: [{text}]}}}}");
    let (days, from, to, zone) = (
        "spec.safety.maintenanceWindows[0].days",
        "spec.safety.maintenanceWindows[0].from",
        "spec.safety.maintenanceWindows[0].to",
        "spec.safety.maintenanceWindows[0].timeZone",
    );
    let in_zone = |zone: &str| window(&format!("{{from: '09:00', to: '10:00', timeZone: '{zone}'}}"));
    let capacity = |peak: u32, each: u32| {
        format!("{{capacity: {{peakRequestsPerSecond: {peak}, requestsPerSecondPerTarget: {each}}}}}")
    };
    let mut rows = vec![
        no("{safety: {minActiveClusters: 0}}", least, BETWEEN),
        no("{safety: {minActiveClusters: 6}}", least, BETWEEN),
        no("{safety: {minActiveClusters: 2}}", least, "give more clusters a weight, or lower it"),
        no("{safety: {maxStepPercent: 0}}", "spec.safety.maxStepPercent", BETWEEN),
        no("{safety: {maxStepPercent: 101}}", "spec.safety.maxStepPercent", BETWEEN),
        no("{safety: {minStepIntervalSeconds: 86401}}", "spec.safety.minStepIntervalSeconds", BETWEEN),
        no(window("{days: [], from: '09:00', to: '10:00'}"), days, "should have at least 1 items"),
        no(window("{days: [Mon, Sun, Mon], from: '09:00', to: '10:00'}"), days, "name each day once"),
        no(window("{from: '24:00', to: '10:00'}"), from, "write it as HH:MM, 00:00 to 23:59"),
        no(window("{from: '9:000', to: '10:00'}"), from, "write it as HH:MM"),
        no(window("{from: '9:00', to: '10:00'}"), from, "should be at least 5 chars long"),
        no(window("{from: '09:00', to: '24:01'}"), to, "write it as HH:MM, 00:00 to 24:00"),
        no(window("{from: '09:00', to: '10:60'}"), to, "write it as HH:MM"),
        no(window("{from: '09:00', to: '10:00:00'}"), to, "may not be more than 5"),
        no(window("{from: '09:00', to: '09:00'}"), to, "let it close later"),
        no(in_zone(""), zone, BETWEEN),
        no(in_zone(&"A".repeat(65)), zone, "may not be more than 64"),
        no(
            window(&vec!["{from: '09:00', to: '10:00'}"; 21].join(", ")),
            "spec.safety.maintenanceWindows",
            "must have at most 20 items",
        ),
        no(capacity(0, 1), "spec.capacity.peakRequestsPerSecond", BETWEEN),
        no(capacity(10_000_001, 1), "spec.capacity.peakRequestsPerSecond", BETWEEN),
        no(capacity(1, 0), "spec.capacity.requestsPerSecondPerTarget", BETWEEN),
        no(capacity(1, 100_001), "spec.capacity.requestsPerSecondPerTarget", BETWEEN),
    ];
    let unknown = [
        "Europe/Entenhausen",
        "europe/berlin",
        "utc",
        "Local",
        "+02:00",
        "02:00",
        "Z",
        "Etc/Unknown",
        "../UTC",
        "Europe",
    ];
    rows.extend(unknown.map(|name| no(in_zone(name), zone, "such as Europe/Berlin or UTC")));
    rows
}

/// Both refuse, and both name the field; the server's message says what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_would_refuse_the_server_refuses_by_the_same_field_and_says_what_helps() {
    let client = server().await.client().await.expect("a client");
    let mut rows = refused_listeners();
    rows.extend(refused_conditions());
    rows.extend(refused_paths());
    rows.extend(refused_backends());
    rows.extend(refused_rest());
    rows.extend(refused_failover());
    rows.extend(refused_safety());
    assert!(rows.len() > 100, "the table is read");
    let mut wrong = Vec::new();
    for Refused { change, field, remedy } in rows {
        let document = changed(&change);
        let names = |fault: &&Fault| fault.field == field;
        match core_judges(&document) {
            Ok(()) => wrong.push(format!("{change}: core takes it")),
            Err(faults) if faults.iter().all(|fault| fault.field != field) => {
                wrong.push(format!("{change}: core names {faults:?}, not {field}"));
            }
            Err(_) => {}
        }
        match server_judges(&client, &document).await {
            Ok(()) => wrong.push(format!("{change}: the server takes it")),
            Err(faults) => match faults.iter().filter(names).find(|fault| fault.message.contains(remedy)) {
                Some(_) => {}
                None => wrong.push(format!("{change}: the server says {faults:#?}, not {field}: {remedy}")),
            },
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What both take: the bounds themselves, every form of a value, and everything that may be left out.
fn taken() -> Vec<String> {
    let path = |kind: &str, value: &str| matching(&format!("{{paths: [{{type: {kind}, value: {value}}}]}}"));
    let mut changes = vec![
        "{}".to_owned(),
        listener("{port: 1}"),
        listener("{port: 65535}"),
        listener(&format!("{{loadBalancer: {}}}", long(32))),
        listener("{loadBalancer: null, tags: {team: ''}}"),
        listener("{tags: {}}"),
        listener(&format!("{{loadBalancer: null, tags: {{{}: {}}}}}", "k".repeat(128), "v".repeat(256))),
        listener(&format!("{{loadBalancer: null, tags: {{{}}}}}", tags(50))),
        listener(&format!("{{loadBalancer: null, tags: {{{}: {}}}}}", "ä".repeat(128), "ä".repeat(256))),
        only("hostnames: [A.example.COM, '*.example.com', 'a?.example.c?m']"),
        only(&format!("hostnames: [{}.com]", long(124))),
        only("headers: [{name: \"a!#$%&'*+-.^_`|~9\", values: ['a b', '~!']}]"),
        only(&format!("headers: [{{name: {}, values: [{}]}}]", long(40), long(128))),
        only(&format!("methods: [{}, M-SEARCH, A_B]", "A".repeat(40))),
        only(&format!("query: [{{key: {}, value: {}}}, {{value: x}}, {{key: '', value: y}}]", long(128), long(128))),
        only("sourceIps: [0.0.0.0/0, 10.1.2.3/32, '::/0', '2001:DB8:0:0::/32', '2001:db8::1/128']"),
        only("hostnames: ['?????.example.com']"),
        only("hostnames: [a.b, a.b, a.b, a.b, a.b]"),
        path("Prefix", "/"),
        path("Prefix", "//"),
        path("Prefix", &format!("/{}", long(125))),
        path("Prefix", &"/".repeat(128)),
        path("Exact", &format!("/{}", long(127))),
        path("Exact", "\"/azAZ09_-.$/~\\\"'@:+&\""),
        path("Pattern", "'*/img/?'"),
        matching("{paths: [{value: /a}, {value: /b}, {value: /}], hostnames: []}"),
        backend("{service: {port: 8080}}"),
        backend("{service: {port: 65535, name: 9a}}"),
        backend("{service: {port: '80'}}"),
        backend("{targetType: instance, protocol: HTTPS, protocolVersion: HTTP2}"),
        backend("{deregistrationDelaySeconds: 0}"),
        backend("{deregistrationDelaySeconds: 3600}"),
        check(&format!("{{path: /{}}}", long(1023))),
        check("{path: '/a?b=c&d=%20', port: 65535}"),
        check("{intervalSeconds: 5, timeoutSeconds: 4, healthyThreshold: 2, unhealthyThreshold: 10}"),
        check("{intervalSeconds: 300, timeoutSeconds: 120, healthyThreshold: 10, unhealthyThreshold: 2}"),
        "{order: 1, mode: Weighted, safety: {deregistrationBudgetPercent: 0, freeze: true}}".to_owned(),
        "{order: 49000, safety: {deregistrationBudgetPercent: 100}}".to_owned(),
        format!("{{clusters: [{{name: {}, weight: 999}}]}}", long(63)),
        "{safety: {}}".to_owned(),
        "{safety: {minActiveClusters: 1, maxStepPercent: 1, minStepIntervalSeconds: 86400, maintenanceWindows: []}}"
            .to_owned(),
        "{clusters: [{name: blue, weight: 1}, {name: green, weight: 999}], safety: {minActiveClusters: 2}}".to_owned(),
        "{failover: {}}".to_owned(),
        "{failover: {overprovisioningPercent: 100, panicThresholdPercent: 1, unhealthyAfterSeconds: 0, healthyAfterSeconds: 0, \
         failback: Auto, failbackStepPercent: 1, failbackStepSeconds: 0, deadBandPercent: 0, holdDownMaxSeconds: 0, \
         maxMovesPerHour: 1}}"
            .to_owned(),
        "{failover: {overprovisioningPercent: 1000, panicThresholdPercent: 100, unhealthyAfterSeconds: 3600, \
         healthyAfterSeconds: 86400, failback: Manual, failbackStepPercent: 100, failbackStepSeconds: 86400, \
         deadBandPercent: 50, holdDownMaxSeconds: 86400, maxMovesPerHour: 60}}"
            .to_owned(),
        second("weight: 999, priority: 1"),
        second("weight: 0, priority: 0"),
        "{failover: {}, clusters: [{name: e, weight: 1, priority: 4}, {name: d, weight: 1, priority: 3}, {name: c, weight: 1, \
         priority: 2}, {name: b, weight: 1, priority: 1}, {name: a, weight: 1}]}"
            .to_owned(),
        "{capacity: {peakRequestsPerSecond: 10000000, requestsPerSecondPerTarget: 100000}}".to_owned(),
        "{capacity: {peakRequestsPerSecond: 1, requestsPerSecondPerTarget: 1}}".to_owned(),
    ];
    let window = |text: &str| format!("{{safety: {{maintenanceWindows: [{text}]}}}}");
    changes.push(window("{days: [Sun, Mon, Tue, Wed, Thu, Fri, Sat], from: '00:00', to: '24:00'}"));
    changes.push(window("{from: '23:59', to: '00:00'}, {days: [Sat], from: '08:00', to: '20:00'}"));
    changes.push(window(&vec!["{from: '09:00', to: '10:00', timeZone: America/New_York}"; 20].join(", ")));
    for zone in ["UTC", "Etc/UTC", "GMT", "Etc/GMT+12", "Asia/Kathmandu", "America/Argentina/ComodRivadavia", "EST5EDT"]
    {
        changes.push(window(&format!("{{from: '09:00', to: '10:00', timeZone: '{zone}'}}")));
    }
    for partition in ["aws", "aws-cn", "aws-us-gov", "aws-iso-b", "aws-eusc"] {
        let of = |arn: &str| arn.replacen(":aws:", &format!(":{partition}:"), 1);
        changes.push(listener(&format!("{{loadBalancer: '{}'}}", of(LB))));
        changes.push(listener(&format!("{{loadBalancer: null, port: null, arn: '{}'}}", of(LISTENER))));
    }
    changes
        .extend(["", "200", "499", "200,204", "200-499", "200-200", "200,204-206,301-302"].map(|c| codes("HTTP1", c)));
    changes.extend(["", "0", "99", "0-99", "0,12", "9-10"].map(|c| codes("GRPC", c)));
    changes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_takes_the_server_takes() {
    let client = server().await.client().await.expect("a client");
    let mut wrong = Vec::new();
    for change in taken() {
        let document = changed(&change);
        for (judge, said) in [("core", core_judges(&document)), ("the server", server_judges(&client, &document).await)]
        {
            if let Err(faults) = said {
                wrong.push(format!("{change}: {judge} refuses it: {faults:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is no policy at all: unknown fields, values of another type, fields that are missing. The hub's parser tells one fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_hub_cannot_read_the_server_refuses_and_names_the_field() {
    let client = server().await.client().await.expect("a client");
    for (change, field) in [
        ("{replicas: 1}", "spec.replicas"),
        ("{listener: {host: a}}", "spec.listener.host"),
        ("{match: {hosts: [a]}}", "spec.match.hosts"),
        ("{match: {paths: [{value: /a, kind: Exact}]}}", "spec.match.paths[0].kind"),
        ("{match: {headers: [{name: a, values: [b], regex: c}]}}", "spec.match.headers[0].regex"),
        ("{match: {query: [{key: a, value: b, exact: true}]}}", "spec.match.query[0].exact"),
        ("{backend: {port: 80}}", "spec.backend.port"),
        ("{backend: {service: {targetPort: 80}}}", "spec.backend.service.targetPort"),
        ("{backend: {healthCheck: {interval: 5}}}", "spec.backend.healthCheck.interval"),
        ("{clusters: [{name: a, weight: 1, level: 1}]}", "spec.clusters[0].level"),
        ("{clusters: [{name: a, weight: 1, priority: -1}]}", "spec.clusters[0].priority"),
        ("{clusters: [{name: a, weight: 1, priority: first}]}", "spec.clusters[0].priority"),
        ("{failover: true}", "spec.failover"),
        ("{failover: {panic: 1}}", "spec.failover.panic"),
        ("{failover: {failback: Sometimes}}", "spec.failover.failback"),
        ("{failover: {healthyAfterSeconds: '60'}}", "spec.failover.healthyAfterSeconds"),
        ("{safety: {budget: 5}}", "spec.safety.budget"),
        ("{order: -1}", "spec.order"),
        ("{order: 1.5}", "spec.order"),
        ("{order: first}", "spec.order"),
        ("{mode: weighted}", "spec.mode"),
        ("{listener: null}", "spec.listener"),
        ("{match: null}", "spec.match"),
        ("{backend: null}", "spec.backend"),
        ("{clusters: null}", "spec.clusters"),
        ("{clusters: {a: 1}}", "spec.clusters.a"),
        ("{clusters: blue}", "spec.clusters"),
        ("{clusters: [{name: a}]}", "spec.clusters[0].weight"),
        ("{clusters: [{name: a, weight: -1}]}", "spec.clusters[0].weight"),
        ("{clusters: [{name: a, weight: '1'}]}", "spec.clusters[0].weight"),
        ("{backend: {service: {name: null}}}", "spec.backend.service.name"),
        ("{backend: {service: {port: null}}}", "spec.backend.service.port"),
        ("{backend: {service: {port: -1}}}", "spec.backend.service.port"),
        ("{backend: {protocol: TCP}}", "spec.backend.protocol"),
        ("{backend: {protocolVersion: HTTP3}}", "spec.backend.protocolVersion"),
        ("{backend: {targetType: lambda}}", "spec.backend.targetType"),
        ("{match: {paths: [{type: Regex, value: /a}]}}", "spec.match.paths[0].type"),
        ("{match: {paths: [{type: Exact}]}}", "spec.match.paths[0].value"),
        ("{match: {headers: [{name: a}]}}", "spec.match.headers[0].values"),
        ("{match: {hostnames: shop.example.com}}", "spec.match.hostnames"),
        ("{safety: {freeze: 1}}", "spec.safety.freeze"),
        ("{safety: {maintenanceWindows: [{to: '10:00'}]}}", "spec.safety.maintenanceWindows[0].from"),
        ("{safety: {maintenanceWindows: [{from: 9, to: '10:00'}]}}", "spec.safety.maintenanceWindows[0].from"),
        (
            "{safety: {maintenanceWindows: [{days: [Monday], from: '09:00', to: '10:00'}]}}",
            "spec.safety.maintenanceWindows[0].days[0]",
        ),
        ("{safety: {maintenanceWindows: [{zone: UTC, from: a, to: b}]}}", "spec.safety.maintenanceWindows[0].zone"),
        ("{capacity: {peakRequestsPerSecond: 1}}", "spec.capacity.requestsPerSecondPerTarget"),
    ] {
        let document = changed(change);
        let unread = core_judges(&document).expect_err(change);
        assert_eq!(unread[0].field, "", "{change}: core reads it and finds {unread:?}");
        let faults = server_judges(&client, &document).await.expect_err(change);
        let named = |fault: &Fault| fault.field == field || fault.message.contains(&format!("\"{field}\""));
        assert!(faults.iter().any(named), "{change}: the server says {faults:#?}, not {field}");
    }
}

/// Priorities that need something else of the policy: the server names the list, the hub the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_with_a_gap_or_without_failover_are_refused_by_both() {
    let client = server().await.client().await.expect("a client");
    let gap = "{failover: {}, clusters: [{name: blue, weight: 1}, {name: dr, weight: 1, priority: 2}]}";
    let alone = "{clusters: [{name: blue, weight: 1}, {name: dr, weight: 1, priority: 1}]}";
    for (change, remedy) in [(gap, "without a gap"), (alone, "add spec.failover")] {
        let document = changed(change);
        let ours = core_judges(&document).expect_err(change);
        assert!(ours.iter().any(|fault| fault.field == "spec.clusters[1].priority"), "{change}: {ours:?}");
        let faults = server_judges(&client, &document).await.expect_err(change);
        let named = |fault: &Fault| fault.field == "spec.clusters" && fault.message.contains(remedy);
        assert!(faults.iter().any(named), "{change}: the server says {faults:#?}");
    }
}

/// A cluster that is named twice: the server names the list, the hub the second entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_named_twice_is_refused_by_both() {
    let client = server().await.client().await.expect("a client");
    let document = changed("{clusters: [{name: a, weight: 1}, {name: a, weight: 2}]}");
    let faults = core_judges(&document).expect_err("core");
    assert_eq!(faults[0].field, "spec.clusters[1].name");
    let faults = server_judges(&client, &document).await.expect_err("the server");
    assert!(faults.iter().any(|fault| fault.field == "spec.clusters[1]"), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.message.contains("name each cluster once")), "{faults:?}");
}

/// Where the name of a field differs: a value of a map has another notation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_whose_value_is_too_long_is_refused_by_both() {
    let client = server().await.client().await.expect("a client");
    let document = changed(&listener(&format!("{{loadBalancer: null, tags: {{team: {}}}}}", "v".repeat(257))));
    assert_eq!(core_judges(&document).expect_err("core")[0].field, "spec.listener.tags[team]");
    let faults = server_judges(&client, &document).await.expect_err("the server");
    assert_eq!(faults[0].field, "spec.listener.tags.team", "{faults:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_the_hub_refuses_are_refused_by_the_server() {
    let client = server().await.client().await.expect("a client");
    for (name, good) in [
        (long(253), true),
        ("a.b-c.9".to_owned(), true),
        (long(254), false),
        ("Checkout".to_owned(), false),
        ("a..b".to_owned(), false),
        ("-a".to_owned(), false),
        ("a_b".to_owned(), false),
    ] {
        let mut document = base();
        lay(&mut document, json!({"metadata": {"name": name}}));
        assert_eq!(core_judges(&document).is_ok(), good, "core: {name}");
        let said = server_judges(&client, &document).await;
        assert_eq!(said.is_ok(), good, "the server: {name}: {said:?}");
        if let Err(faults) = said {
            assert!(faults.iter().all(|fault| fault.field == "metadata.name"), "{faults:?}");
        }
    }
}

/// What only one of them refuses, and why that is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_judges_differ_they_are_known_to() {
    let client = server().await.client().await.expect("a client");
    // The server drops a null before it judges, as if the field were left out: the hub never sees one from a resource.
    for change in ["order", "mode", "safety"] {
        let mut document = base();
        document["spec"][change] = json!(null);
        assert!(core_judges(&document).is_err(), "{change}");
        assert_eq!(server_judges(&client, &document).await, Ok(()), "{change}");
    }
    // The hub takes what it does not know beside spec, so that a resource copied from somewhere is taken.
    let mut document = base();
    document["extra"] = json!(1);
    assert_eq!(core_judges(&document), Ok(()));
    assert!(server_judges(&client, &document).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_change_in_a_policys_life_the_server_keeps() {
    let client = server().await.client().await.expect("a client");
    let named = |change: &str, name: &str| {
        let mut document = changed(change);
        document["metadata"]["name"] = json!(name);
        document
    };
    let fixed: [(&str, &[&str]); 8] = [
        ("{listener: {port: 80}}", &["spec.listener"]),
        ("{listener: {loadBalancer: other}}", &["spec.listener"]),
        ("{listener: {loadBalancer: null, tags: {a: b}}}", &["spec.listener"]),
        ("{backend: {protocol: HTTPS}}", &["spec.backend.protocol"]),
        ("{backend: {protocolVersion: GRPC}}", &["spec.backend.protocolVersion"]),
        ("{backend: {targetType: instance}}", &["spec.backend.targetType"]),
        ("{backend: {targetType: instance, protocol: HTTPS}}", &["spec.backend.protocol", "spec.backend.targetType"]),
        ("{listener: {port: 80}, backend: {protocol: HTTPS}}", &["spec.backend.protocol", "spec.listener"]),
    ];
    for (change, fields) in fixed {
        let (standing, new) = (named("{}", "fixed"), named(change, "fixed"));
        let core = core_judges_update(&standing, &new).expect_err(change);
        let server = server_judges_update(&client, &standing, &new).await.expect_err(change);
        for (judge, faults) in [("core", &core), ("the server", &server)] {
            let mut found: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
            found.sort_unstable();
            assert_eq!(found, fields, "{change}: {judge}: {faults:#?}");
            let helps = |fault: &Fault| fault.message.contains("cannot change; delete the policy and create it anew");
            assert!(faults.iter().all(helps), "{change}: {judge}: {faults:#?}");
        }
    }
    for change in [
        "{order: 7, match: {paths: [{value: /other}]}, safety: {freeze: true}}",
        "{clusters: [{name: red, weight: 5}]}",
        "{backend: {service: {name: next, port: 80}, healthCheck: {path: /up}, deregistrationDelaySeconds: 5}}",
        "{backend: {protocol: HTTP, protocolVersion: HTTP1, targetType: ip}}",
    ] {
        let (standing, new) = (named("{}", "changing"), named(change, "changing"));
        assert_eq!(core_judges_update(&standing, &new), Ok(()), "{change}");
        assert_eq!(server_judges_update(&client, &standing, &new).await, Ok(()), "{change}");
    }
}

/// The hub has its own database of time zones, the server that of its programming language.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_time_zone_that_the_hub_knows_the_server_knows() {
    let client = server().await.client().await.expect("a client");
    let zones: Vec<String> = TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
    assert!(zones.len() > 400, "the database is there: {}", zones.len());
    let mut differ = Vec::new();
    // As many at once as a policy may have.
    for some in zones.chunks(20) {
        let window = |zone: &String| json!({"from": "09:00", "to": "10:00", "timeZone": zone});
        let mut document = base();
        document["spec"]["safety"] = json!({"maintenanceWindows": some.iter().map(window).collect::<Vec<_>>()});
        let (core, server) = (core_judges(&document), server_judges(&client, &document).await);
        if core.is_err() || server.is_err() {
            differ.push(format!("{some:?}\ncore: {core:#?}\nserver: {server:#?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
