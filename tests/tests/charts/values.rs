//! Values: wrong ones are refused with their name and what helps, every one has a default that is shown and a schema, and the
//! programs know every variable that a chart sets.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{path, read, template};

/// Values that are wrong on top of the minimal ones, and what the refusal has to say.
const REFUSED: &[(&str, &[&str], &[&str])] = &[
    ("switchyard-agent", &["cluster.name=Blue"], &["/cluster/name", "'Blue' does not match"]),
    ("switchyard-agent", &["cluster.name="], &["cluster.name: name this cluster as policies do"]),
    ("switchyard-agent", &["cluster.region="], &["cluster.region: name the AWS region"]),
    ("switchyard-agent", &["cluster.vpcId="], &["cluster.vpcId: name the VPC"]),
    ("switchyard-agent", &["hub.url=http://hub:7400"], &["/hub/url", "https://"]),
    ("switchyard-agent", &["hub.url="], &["hub.url: give the hub's https:// URL"]),
    ("switchyard-agent", &["hub.tls.secretName="], &["hub.tls.secretName: name the Secret"]),
    ("switchyard-agent", &["image.repository="], &["image.repository: name the agent's image"]),
    ("switchyard-agent", &["image.digest=latest"], &["/image/digest"]),
    ("switchyard-agent", &["httpPort=80"], &["/httpPort", "1,024"]),
    ("switchyard-agent", &["namespaces={Shop}"], &["/namespaces/0"]),
    ("switchyard-agent", &["namespaces={shop,shop}"], &["/namespaces"]),
    ("switchyard-agent", &["policySource=true"], &["/policySource", "want object"]),
    ("switchyard-agent", &["polisySource.enabled=true"], &["'polisySource' not allowed"]),
    ("switchyard-agent", &["readinessGates.releaseAfterSeconds=0"], &["/readinessGates/releaseAfterSeconds"]),
    ("switchyard-agent", &["readinessGates.webhook.enabled=true"], &["set readinessGates.enabled, too"]),
    (
        "switchyard-agent",
        &[
            "readinessGates.enabled=true",
            "readinessGates.webhook.enabled=true",
            "readinessGates.webhook.certManager.secretName=webhook",
        ],
        &["name both certificateName and secretName"],
    ),
    ("switchyard-agent", &["identity.joinToken.key="], &["/identity/joinToken/key"]),
    // A token is never a value.
    ("switchyard-agent", &["identity.joinToken.token=syj_x"], &["/identity/joinToken", "'token' not allowed"]),
    (
        "switchyard-agent",
        &["identity.serviceAccountToken.expirationSeconds=60"],
        &["/identity/serviceAccountToken/expirationSeconds", "600"],
    ),
    ("switchyard-agent", &["identity.serviceAccountToken.audience="], &["/identity/serviceAccountToken/audience"]),
    ("switchyard-agent", &["serviceMonitor.interval=often"], &["/serviceMonitor/interval"]),
    ("switchyard-hub", &["hubId="], &["hubId: name this installation"]),
    ("switchyard-hub", &["hubId=a b"], &["/hubId"]),
    ("switchyard-hub", &["aws.accountId=123456789012"], &["/aws/accountId", "got number, want string"]),
    ("switchyard-hub", &["aws.region=Frankfurt"], &["/aws/region"]),
    (
        "switchyard-hub",
        &["aws.roleArn=arn:aws-cn:iam::123456789012:role/hub"],
        &["not of the partition aws that region eu-central-1 is in", "arn:aws:iam::ACCOUNT:role/NAME"],
    ),
    (
        "switchyard-hub",
        &["aws.region=us-gov-west-1", "aws.roleArn=arn:aws:iam::123456789012:role/hub"],
        &["arn:aws-us-gov:iam::ACCOUNT:role/NAME"],
    ),
    (
        "switchyard-hub",
        &["aws.roleArn=arn:aws:iam::123456789012:role/hub", "serviceAccount.create=false"],
        &["annotate it yourself"],
    ),
    ("switchyard-hub", &["aws.roleArn=hub"], &["/aws/roleArn"]),
    ("switchyard-hub", &["aws.endpointUrl=http://elb"], &["/aws/endpointUrl"]),
    ("switchyard-hub", &["database.url=postgres://u:p@h/d"], &["/database", "'url' not allowed"]),
    ("switchyard-hub", &["database.secretName="], &["database.secretName: name the Secret that holds the URL"]),
    ("switchyard-hub", &["database.trial.enabled=true"], &["names another Postgres"]),
    (
        "switchyard-hub",
        &["database.secretName=", "database.trial.enabled=true"],
        &["database.trial.passwordSecretName: name a Secret"],
    ),
    (
        "switchyard-hub",
        &["database.secretName=", "database.trial.enabled=true", "database.trial.passwordSecretName=trial"],
        &["database.trial.tlsSecretName: name a Secret with ca.crt", "for the name switchyard-hub-postgres"],
    ),
    ("switchyard-hub", &["tls.secretName="], &["tls.secretName: name the Secret with tls.crt and tls.key"]),
    ("switchyard-hub", &["tls.clientCaSecretName=Callers"], &["/tls/clientCaSecretName"]),
    ("switchyard-hub", &["tls.minVersion=1.1"], &["/tls/minVersion"]),
    (
        "switchyard-hub",
        &["authority.sealingKeySecretName="],
        &["agents need certificates", "authority.sealingKeySecretName", "authority.caSecretName"],
    ),
    ("switchyard-hub", &["authority.caSecretName=agents-ca"], &["use one of the two"]),
    ("switchyard-hub", &["authority.trustDomain=Prod"], &["/authority/trustDomain"]),
    ("switchyard-hub", &["authority.agentCertificateTtl=daily"], &["/authority/agentCertificateTtl"]),
    ("switchyard-hub", &["authority.sealingKey=c2VjcmV0"], &["/authority", "'sealingKey' not allowed"]),
    ("switchyard-hub", &["access.bindings[0].role=root"], &["/access/bindings/0"]),
    ("switchyard-hub", &["access.bindings[1].role=viewer"], &["/access/bindings/1"]),
    // Nobody with a certificate gets in where no authority of callers is named.
    (
        "switchyard-hub",
        &["access.bindings[0].subjects[1].certificate.commonName=operator"],
        &["access.bindings[0]", "tls.clientCaSecretName is empty"],
    ),
    ("switchyard-hub", &["access.users={ann}"], &["/access", "'users' not allowed"]),
    ("switchyard-hub", &["limits.callerReadRate=50"], &["/limits/callerReadRate"]),
    ("switchyard-hub", &["limits.connectionsPerAddress=0"], &["/limits/connectionsPerAddress"]),
    ("switchyard-hub", &["settings.leaseTtl=soon"], &["/settings/leaseTtl", "'soon' does not match"]),
    ("switchyard-hub", &["settings.modifyRate=3"], &["/settings/modifyRate"]),
    ("switchyard-hub", &["shifts.prometheus.main=prometheus:9090"], &["/shifts/prometheus/main"]),
    ("switchyard-hub", &["shifts.prometheus.Main=http://prometheus"], &["/shifts/prometheus", "'Main' not allowed"]),
    ("switchyard-hub", &["shifts.webhooks.ci=https://me:secret@ci.example.com/"], &["/shifts/webhooks/ci"]),
    (
        "switchyard-hub",
        &["shifts.prometheusTokens.main=/etc/switchyard/token"],
        &["shifts.prometheusTokens: main is no name of shifts.prometheus"],
    ),
    (
        "switchyard-hub",
        &["shifts.webhookTokens.ci=/etc/switchyard/token"],
        &["shifts.webhookTokens: ci is no name of shifts.webhooks"],
    ),
    ("switchyard-hub", &["shifts.cloudwatch=yes"], &["/shifts/cloudwatch"]),
    ("switchyard-hub", &["gateway.port=443"], &["/gateway/port", "1,024"]),
    ("switchyard-hub", &["policySources={Blue}"], &["/policySources/0"]),
    ("switchyard-hub", &["replicas=two"], &["/replicas", "want integer"]),
    ("switchyard-hub", &["service.type=ExternalName"], &["/service/type"]),
    ("switchyard-hub", &["image.repository="], &["image.repository: name the hub's image"]),
];

#[tokio::test]
async fn wrong_values_are_refused_by_name_and_with_what_helps() {
    for (chart, wrong, said) in REFUSED {
        let mut arguments =
            vec![format!("--values={}", path(&format!("charts/{chart}/ci/minimal-values.yaml")).display())];
        arguments.extend(wrong.iter().map(|value| format!("--set={value}")));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let finished = template(chart, &arguments).await;
        assert_ne!(finished.code, 0, "{chart} takes {wrong:?}");
        for text in *said {
            assert!(finished.stderr.contains(text), "{chart} {wrong:?} does not say {text:?}\n{finished}");
        }
    }
}

fn parsed(of: &str) -> Value {
    serde_norway::from_str(&read(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

/// Paths of the values that a schema names, down to where anything goes.
fn schema_paths(schema: &Value, here: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            assert_eq!(schema["additionalProperties"], false, "{here:?}: a value that is misspelt has to be noticed");
            for (name, inner) in properties {
                schema_paths(inner, &format!("{here}/{name}"), found);
            }
        }
        None => drop(found.insert(here.to_owned())),
    }
}

#[test]
fn every_value_that_the_schema_allows_stands_in_the_values_with_its_default() {
    for chart in ["switchyard-agent", "switchyard-hub"] {
        let values = parsed(&format!("charts/{chart}/values.yaml"));
        let mut paths = BTreeSet::new();
        schema_paths(&parsed(&format!("charts/{chart}/values.schema.json")), "", &mut paths);
        // helm's own, for charts that include this one.
        paths.remove("/global");
        let missing: Vec<&String> = paths.iter().filter(|path| values.pointer(path).is_none()).collect();
        assert!(missing.is_empty(), "{chart}: values.yaml lacks {missing:?}");
        assert!(paths.len() > 20, "{chart}: the schema was read: {paths:?}");
    }
}

/// Names of environment variables of ours in a text.
fn variables(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    let ours = words.filter(|word| word.starts_with("SWITCHYARD_") || *word == "DATABASE_URL");
    ours.map(str::to_owned).collect()
}

fn templates(chart: &str) -> String {
    let folder = format!("charts/{chart}/templates");
    let files = fs::read_dir(path(&folder)).expect("templates");
    files.map(|file| fs::read_to_string(file.expect("a file").path()).expect("a template")).collect()
}

/// Flags that no pod needs.
const ELSEWHERE: [&str; 9] = [
    // Plain text, and a Postgres of the hub's own, are for trying on one machine.
    "SWITCHYARD_HUB_DEV",
    "SWITCHYARD_HUB_DATA_DIR",
    "SWITCHYARD_AGENT_DEV",
    // The chart mounts the token as a file, and in Kubernetes the certificate is kept in a Secret.
    "SWITCHYARD_AGENT_JOIN_TOKEN",
    "SWITCHYARD_AGENT_IDENTITY_DIR",
    // As the join token.
    "SWITCHYARD_HUB_CA_SEALING_KEY",
    // In a pod it is the service account.
    "SWITCHYARD_AGENT_KUBECONFIG",
    // Only the sandbox's metrics come more often than each minute.
    "SWITCHYARD_HUB_CLOUDWATCH_RESOLUTION_SECONDS",
    // Said in a comment of the arguments.
    "SWITCHYARD_AGENT_",
];

#[test]
fn the_charts_set_every_variable_of_the_programs_and_no_other() {
    let agent =
        ["args.rs", "args/gates.rs", "args/identity.rs"].map(|file| read(&format!("agent/src/{file}"))).concat();
    let hub = read("hub/src/args.rs") + &read("hub/src/analysis/settings.rs");
    for (chart, arguments) in [("switchyard-agent", agent), ("switchyard-hub", hub)] {
        let known: BTreeSet<String> = variables(&arguments);
        let known = known.into_iter().filter(|name| !ELSEWHERE.contains(&name.as_str())).collect::<BTreeSet<_>>();
        assert!(known.len() > 10, "{known:?}");
        assert_eq!(variables(&templates(chart)), known, "{chart}");
    }
}
