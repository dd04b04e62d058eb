//! What can be judged on one ClusterTrafficPolicy, as rules of the API server. `core/src/policy/validate.rs` and `conditions.rs`
//! say the same, and a table of cases runs through both (`tests/tests/kubernetes/crd`). Bounds of numbers and lengths are in the
//! schema, which the server judges first.
//!
//! The rules use the server's libraries for lists and regular expressions (Kubernetes 1.25) and for CIDR blocks (1.31).

use crate::rules::{LABEL, LABEL_MESSAGE, Reason, Rule, rule};

/// Printable ASCII, the space included.
const PRINTABLE: &str = "self.matches('^[ -~]*$')";
const PRINTABLE_MESSAGE: &str = "holds a character that is not printable ASCII; use only printable ASCII";
const FIXED: &str = "cannot change; delete the policy and create it anew, or create a second one under another name and move \
the traffic";

/// A code of HTTP that a health check may take for success, and one of gRPC.
const HTTP_CODE: &str = "[234][0-9][0-9]";
const GRPC_CODE: &str = "(0|[1-9][0-9]?)";
/// Carries what is asked for: no standby.
const ACTIVE: &str = "cluster.weight > 0 && (!has(cluster.priority) || cluster.priority == 0)";
/// HH:MM, 00:00 to 23:59.
const TIME: &str = "([01][0-9]|2[0-3]):[0-5][0-9]";

/// All of them.
pub fn rules() -> Vec<Rule> {
    let groups =
        [listener(), conditions(), paths(), match_totals(), backend(), health_check(), failover(), safety(), rest()];
    groups.into_iter().flatten().collect()
}

/// The ARN of an ELBv2 resource of this kind.
fn arn(kind: &str) -> String {
    // [!-9;-~] is everything that can be seen but the colon.
    format!("self.matches('^arn:[!-9;-~]+:elasticloadbalancing:[!-9;-~]+:[!-9;-~]+:{kind}/[!-~]+$')")
}

fn listener() -> Vec<Rule> {
    let at = "spec.listener";
    let tags = "has(self.tags) && size(self.tags) > 0";
    vec![
        rule(at, "self == oldSelf", FIXED),
        rule(
            at,
            format!("[has(self.arn), has(self.loadBalancer), {tags}].filter(given, given).size() == 1"),
            "does not name one listener; give exactly one of arn, loadBalancer and tags",
        ),
        Rule {
            field: Some(".port"),
            reason: Reason::Forbidden,
            ..rule(at, "!(has(self.arn) && has(self.port))", "is given beside arn; leave it out")
        },
        Rule {
            field: Some(".port"),
            reason: Reason::Required,
            ..rule(at, "has(self.arn) || has(self.port)", "is missing; give the listener's port")
        },
        rule(
            "spec.listener.arn",
            arn("listener"),
            "is not the ARN of a listener; it reads arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:listener/...",
        ),
        rule(
            "spec.listener.loadBalancer",
            format!("self.startsWith('arn:') ? {} : self.matches('^[A-Za-z0-9-]{{1,32}}$')", arn("loadbalancer")),
            "is not the name or the ARN of a load balancer; use its name (at most 32 letters, digits, hyphens) or its ARN \
             (arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:loadbalancer/...)",
        ),
        rule(
            "spec.listener.tags",
            "self.all(key, size(key) >= 1 && size(key) <= 128)",
            "has a key that is not of 1 to 128 characters; use the keys as AWS shows them",
        ),
    ]
}

fn conditions() -> Vec<Rule> {
    vec![
        rule(
            "spec.match.hostnames[]",
            "self.matches('^[A-Za-z0-9.*?-]*$')",
            "holds a character that a host name cannot have; use only letters, digits, - . and the wildcards * ?",
        ),
        rule(
            "spec.match.hostnames[]",
            "self.matches('[.][A-Za-z*?]+$')",
            "has no dot, or something else than letters after its last dot; use a full host name such as shop.example.com",
        ),
        rule(
            "spec.match.headers[].name",
            r"self.matches('^[A-Za-z0-9!#$%&\'*+.^_`|~-]*$')",
            "is not a header name of 1 to 40 characters; use the name as in the HTTP request",
        ),
        rule(
            "spec.match.headers[].name",
            "!self.matches('(?i)^host$')",
            "cannot be matched as a header; use spec.match.hostnames",
        ),
        rule("spec.match.headers[].values[]", PRINTABLE, PRINTABLE_MESSAGE),
        rule(
            "spec.match.methods[]",
            "self.matches('^[A-Z_-]*$')",
            "is not a method name; use upper-case letters, such as GET",
        ),
        rule("spec.match.query[].key", PRINTABLE, PRINTABLE_MESSAGE),
        rule("spec.match.query[].value", PRINTABLE, PRINTABLE_MESSAGE),
        rule(
            "spec.match.sourceIps[]",
            "isCIDR(self)",
            "is not a CIDR block; write it as ADDRESS/LENGTH, such as 10.0.0.0/8",
        ),
        rule(
            "spec.match.sourceIps[]",
            "!isCIDR(self) || cidr(self) == cidr(self).masked()",
            "has address bits behind its length; write them as 0, such as 10.0.0.0/8 for 10.1.2.3/8",
        ),
    ]
}

fn paths() -> Vec<Rule> {
    let at = "spec.match.paths[]";
    let value = |rule: Rule| Rule { field: Some(".value"), ..rule };
    vec![
        rule(
            "spec.match.paths[].value",
            r#"self.matches('^[A-Za-z0-9_.$/~"\'@:+&*?-]*$')"#,
            "holds a character that a path cannot have; use only letters, digits and _ - . $ / ~ \" ' @ : + & * ?",
        ),
        value(Rule {
            message_expression: Some("'does not start with /; write /' + self.value".to_owned()),
            ..rule(
                at,
                "self.value.startsWith('/') || (self.type == 'Pattern' && self.value.startsWith('*'))",
                "does not start with /; put one before it",
            )
        }),
        value(rule(
            at,
            "self.type == 'Pattern' || !self.value.matches('[*?]')",
            "holds a wildcard; remove it, or use type: Pattern",
        )),
        value(rule(
            at,
            "self.type != 'Prefix' || self.value.matches('^.{0,126}/*$')",
            "has more than 128 characters together with the /* that a Prefix needs; shorten it",
        )),
    ]
}

/// A sum over the items of a list that may be left out.
fn sum(list: &str, item: &str) -> String {
    format!("(has(self.{list}) ? self.{list}.map(item, {item}).sum() : 0)")
}

fn match_totals() -> Vec<Rule> {
    let at = "spec.match";
    let wild = |text: &str| format!("size({text}.findAll('[*?]'))");
    let counted = |list: &str| format!("(has(self.{list}) ? size(self.{list}) : 0)");
    let values = [
        counted("hostnames"),
        // A prefix is the path itself and everything below it; that of / is one pattern.
        sum("paths", "item.type == 'Prefix' && !item.value.matches('^/+$') ? 2 : 1"),
        sum("headers", "size(item.values)"),
        counted("methods"),
        counted("query"),
        counted("sourceIps"),
    ]
    .join(" + ");
    let wildcards = [
        sum("hostnames", &wild("item")),
        sum("paths", &format!("(item.type == 'Prefix' ? 1 : 0) + {}", wild("item.value"))),
        sum("headers", &format!("item.values.map(value, {}).sum()", wild("value"))),
        sum("query", &format!("(has(item.key) ? {} : 0) + {}", wild("item.key"), wild("item.value"))),
    ]
    .join(" + ");
    vec![
        Rule {
            reason: Reason::Required,
            ..rule(at, format!("{values} > 0"), "has no condition; give at least one, such as hostnames or paths")
        },
        rule(
            at,
            format!("{values} <= 5"),
            "needs more condition values than the 5 that an ELBv2 rule takes; use fewer values (a Prefix path counts as two), \
             or split the policy",
        ),
        rule(
            at,
            format!("{wildcards} <= 5"),
            "holds more wildcards than the 5 that an ELBv2 rule takes; use fewer (a Prefix path counts as one), or split the \
             policy",
        ),
    ]
}

fn backend() -> Vec<Rule> {
    let label = format!("self.matches('{LABEL}')");
    vec![
        rule("spec.backend.service.name", label.clone(), LABEL_MESSAGE),
        rule(
            "spec.backend.service.port",
            "type(self) != int || (self >= 1 && self <= 65535)",
            "is outside 1 to 65535; use a whole number from 1 to 65535",
        ),
        rule("spec.backend.service.port", format!("type(self) != string || {label}"), LABEL_MESSAGE),
        rule("spec.backend.targetType", "self == oldSelf", FIXED),
        rule("spec.backend.protocol", "self == oldSelf", FIXED),
        rule("spec.backend.protocolVersion", "self == oldSelf", FIXED),
        rule("spec.clusters[].name", label, LABEL_MESSAGE),
    ]
}

fn health_check() -> Vec<Rule> {
    let at = "spec.backend.healthCheck";
    vec![
        Rule {
            field: Some(".timeoutSeconds"),
            ..rule(
                at,
                "self.timeoutSeconds < self.intervalSeconds",
                "is not less than intervalSeconds; shorten it, or check less often",
            )
        },
        rule(
            "spec.backend.healthCheck.path",
            "self.matches('^/[!-~]*$')",
            "is not a path; use an absolute path of at most 1024 printable characters, such as /healthz",
        ),
        codes(
            "self.protocolVersion == 'GRPC'",
            HTTP_CODE,
            "is not a list of codes; use codes from 200 to 499, such as 200, separated by commas, or ranges",
        ),
        codes(
            "self.protocolVersion != 'GRPC'",
            GRPC_CODE,
            "is not a list of codes; use codes from 0 to 99, such as 12, separated by commas, or ranges",
        ),
    ]
}

/// Codes and ranges of them, separated by commas; a range begins with the smaller one.
fn codes(others: &str, code: &str, message: &'static str) -> Rule {
    let list = "self.healthCheck.successCodes";
    let absent = format!("!has({list}) || {list} == ''");
    let form = format!("{list}.matches('^{code}(-{code})?(,{code}(-{code})?)*$')");
    // Only what has the right form is compared: int() of anything else is an error.
    let ranges = format!(
        "{list}.split(',').all(part, !part.contains('-') || int(part.split('-')[0]) <= int(part.split('-')[1]))"
    );
    let rule = rule("spec.backend", format!("{others} || {absent} || ({form} && {ranges})"), message);
    Rule { field: Some(".healthCheck.successCodes"), ..rule }
}

fn failover() -> Vec<Rule> {
    vec![
        Rule {
            field: Some(".weight"),
            ..rule(
                "spec.clusters[]",
                "!has(self.priority) || self.priority == 0 || self.weight > 0",
                "is the weight of a standby: it would get nothing when it is needed; give it its share among the clusters of its \
                 priority, such as 100, or leave the cluster out",
            )
        },
        // The server cannot name the entry of a list by what another holds.
        rule(
            "spec.clusters",
            "self.all(one, !has(one.priority) || one.priority == 0 || self.exists(other, (has(other.priority) ? \
             other.priority : 0) == one.priority - 1))",
            "leaves out a priority; use priorities 0, 1, 2 and so on without a gap; 0 is the level that carries the requests",
        ),
        Rule {
            field: Some(".clusters"),
            ..rule(
                "spec",
                "has(self.failover) || self.clusters.all(cluster, !has(cluster.priority) || cluster.priority == 0)",
                "has a priority above 0, which makes a standby, and spec.failover is not set, so it would never get a request; \
                 add spec.failover (failover: {} takes the defaults), or leave the priority out",
            )
        },
    ]
}

fn safety() -> Vec<Rule> {
    let windows = "spec.safety.maintenanceWindows[]";
    vec![
        Rule {
            field: Some(".safety.minActiveClusters"),
            ..rule(
                "spec",
                format!("self.clusters.filter(cluster, {ACTIVE}).size() >= self.safety.minActiveClusters"),
                "is more than the clusters of priority 0 with a weight above 0 in spec.clusters; give more clusters a weight, or \
                 lower it",
            )
        },
        rule(
            "spec.safety.maintenanceWindows[].days",
            "self.all(one, self.exists_one(other, other == one))",
            "names a day twice; name each day once",
        ),
        rule(
            "spec.safety.maintenanceWindows[].from",
            format!("self.matches('^{TIME}$')"),
            "is not a time of the day; write it as HH:MM, 00:00 to 23:59",
        ),
        rule(
            "spec.safety.maintenanceWindows[].to",
            format!("self.matches('^({TIME}|24:00)$')"),
            "is not a time of the day; write it as HH:MM, 00:00 to 24:00",
        ),
        Rule {
            field: Some(".to"),
            ..rule(
                windows,
                "self.from != self.to",
                "is when the window opens; let it close later; a whole day is from 00:00 to 24:00",
            )
        },
        // A name that is not in the server's database makes the expression an error, which refuses the value with this message.
        // What the language knows as a zone beside the database's names (Local, +02:00) is kept out before.
        rule(
            "spec.safety.maintenanceWindows[].timeZone",
            "self.matches('^[A-Z][A-Za-z0-9_+/-]*$') && self != 'Local' \
             && timestamp('2026-01-01T00:00:00Z').getHours(self) >= 0",
            "is not a known time zone; use a name of the IANA time zone database, such as Europe/Berlin or UTC",
        ),
    ]
}

fn rest() -> Vec<Rule> {
    vec![
        rule("spec.mode", "self == 'Weighted'", "is not supported by this version; use Weighted"),
        rule(
            "spec.clusters",
            format!("self.exists(cluster, {ACTIVE})"),
            "has no weight above 0, so all requests would get a 503; give at least one cluster of priority 0 a weight; to stop \
             all traffic delete the policy",
        ),
        // The list's own type refuses it as well, and does not say what helps.
        rule(
            "spec.clusters",
            "self.all(one, self.exists_one(other, other.name == one.name))",
            "names a cluster twice; name each cluster once",
        ),
    ]
}
