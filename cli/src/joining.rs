//! What to type to let an agent in with a new join token. Pure.
//!
//! The token must not become an argument of a program, where everybody on the machine sees it: it goes in through a file, or through
//! standard input. Texts of the hub and of the caller are quoted before they become part of a command.

use std::path::Path;

/// The Secrets with the join token and with the authority of the hub's certificate, in the namespace of the agent.
const SECRET: &str = "switchyard-agent-join";
const AUTHORITY: &str = "switchyard-hub-ca";

/// Where the agent is.
const NAMESPACE: &str = "switchyard";

/// Where the token is.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    Text(&'a str),
    File(&'a Path),
}

/// The commands in their order, each on one line. They may be typed again, for a cluster that joins once more: what is there is kept, the
/// values of the release among it (a set of them without the others would give the agent all namespaces, and take its permissions
/// for policies and gates). Agents believe the hub by the same authority as the caller does. Without an address of the hub that others
/// can use, there is a word to fill in.
pub fn commands(cluster: &str, hub: Option<&str>, authority: Option<&Path>, token: At<'_>) -> Vec<String> {
    let (from, input) = match token {
        At::Text(text) => ("--from-file=token=/dev/stdin".to_owned(), format!(" <<< {}", quoted(text))),
        At::File(path) => (quoted(&format!("--from-file=token={}", path.display())), String::new()),
    };
    let authority = authority.map_or_else(|| "HUB_CA_FILE".into(), |path| path.display().to_string());
    let authority = quoted(&format!("--from-file=ca.crt={authority}"));
    // `create` alone fails where the object is there.
    let written = |what: &str, input: &str| {
        format!(
            "kubectl -n {NAMESPACE} create {what} --dry-run=client -o yaml{input} | kubectl -n {NAMESPACE} apply -f -"
        )
    };
    let values = [
        format!("cluster.name={cluster}"),
        "cluster.region=REGION".to_owned(),
        "cluster.vpcId=VPC_ID".to_owned(),
        format!("hub.url={}", hub.unwrap_or("https://HUB:7400").trim_end_matches('/')),
        format!("hub.tls.secretName={AUTHORITY}"),
        format!("identity.joinToken.secretName={SECRET}"),
        "image.repository=IMAGE".to_owned(),
    ];
    let set: Vec<String> = values.iter().map(|value| format!("--set {}", quoted(value))).collect();
    vec![
        format!("kubectl create namespace {NAMESPACE} --dry-run=client -o yaml | kubectl apply -f -"),
        written(&format!("secret generic {AUTHORITY} {authority}"), ""),
        written(&format!("secret generic {SECRET} {from}"), &input),
        format!(
            "helm -n {NAMESPACE} upgrade --install --reset-then-reuse-values switchyard-agent charts/switchyard-agent {}",
            set.join(" ")
        ),
    ]
}

/// Of which of the commands an agent is in need that is installed already.
pub fn hint() -> String {
    format!(
        "An agent that is installed needs only the line with {SECRET}, when its values name that Secret: it reads the new token by itself."
    )
}

/// One word for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/=@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_goes_into_the_secret_by_a_file_or_by_standard_input_and_what_is_there_is_no_fault() {
        let by_hand =
            commands("blue", Some("https://hub.example.com:7400/"), Some(Path::new("ca.pem")), At::Text("syj_1_abc"));
        assert_eq!(
            by_hand[..3],
            [
                "kubectl create namespace switchyard --dry-run=client -o yaml | kubectl apply -f -",
                "kubectl -n switchyard create secret generic switchyard-hub-ca --from-file=ca.crt=ca.pem --dry-run=client -o yaml | \
                 kubectl -n switchyard apply -f -",
                "kubectl -n switchyard create secret generic switchyard-agent-join --from-file=token=/dev/stdin --dry-run=client \
                 -o yaml <<< syj_1_abc | kubectl -n switchyard apply -f -",
            ]
        );
        assert!(
            by_hand[3].starts_with("helm -n switchyard upgrade --install --reset-then-reuse-values "),
            "{by_hand:?}"
        );
        let by_file = commands("blue", None, None, At::File(Path::new("join token")));
        assert!(by_file[1].contains(" --from-file=ca.crt=HUB_CA_FILE "), "{by_file:?}");
        assert!(by_file[2].contains(" '--from-file=token=join token' "), "{by_file:?}");
        let literal = by_hand.iter().chain(&by_file).any(|command| command.contains("--from-literal"));
        assert!(!literal, "others would see it among the arguments");
    }

    #[test]
    fn the_values_are_those_of_the_chart_and_the_hub_is_the_one_that_was_asked() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/switchyard-agent/values.yaml");
        let chart: serde_json::Value = serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let command = commands("blue", Some("https://hub.example.com:7400/"), None, At::Text("x")).remove(3);
        let set: Vec<(&str, &str)> = command.split(" --set ").skip(1).map(|set| set.split_once('=').unwrap()).collect();
        for (value, _) in &set {
            let pointer = format!("/{}", value.replace('.', "/"));
            assert!(chart.pointer(&pointer).is_some(), "the chart of the agent has no value {value}");
        }
        for expected in [("cluster.name", "blue"), ("hub.url", "https://hub.example.com:7400")] {
            assert!(set.contains(&expected), "{set:?}");
        }
        let tunnel = commands("blue", None, None, At::Text("x")).remove(3);
        assert!(tunnel.contains(" --set hub.url=https://HUB:7400 "), "there is a word to fill in: {tunnel}");
    }

    #[test]
    fn what_another_machine_said_is_one_word_of_the_command() {
        let evil = commands("blue", Some("https://h"), None, At::Text("x'; rm -rf / #$(id)"));
        assert!(evil[2].contains(r" <<< 'x'\''; rm -rf / #$(id)' | kubectl "), "{evil:?}");
        assert!(commands("a b", Some("https://h"), None, At::Text("x"))[3].contains("--set 'cluster.name=a b'"));
    }

    #[test]
    fn the_pages_show_what_is_printed() {
        let printed = commands(
            "blue",
            Some("https://hub.example.com:7400"),
            Some(Path::new("ca.crt")),
            At::File(Path::new("blue.token")),
        );
        for page in ["install.md", "quickstart-eks.md"] {
            let text = std::fs::read_to_string(format!("{}/../docs/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let text = text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ");
            let filled = |word: &str| {
                let word = word.replace("REGION", "eu-central-1").replace("VPC_ID", "vpc-0123456789abcdef0");
                word.replace("IMAGE", "registry.example.com/switchyard-agent")
            };
            for command in &printed {
                assert!(text.contains(&filled(command)), "docs/{page} lacks {}", filled(command));
            }
        }
    }
}
