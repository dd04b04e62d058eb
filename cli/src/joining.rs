//! What to type to let an agent in with a new join token. Pure.
//!
//! The token must not become an argument of a program, where everybody on the machine sees it: it goes in through a file, or through
//! standard input. Texts of the hub and of the caller are quoted before they become part of a command.

use std::path::Path;

/// The Secrets with the join token and with the authority of the hub's certificate, in the namespace of the agent.
const SECRET: &str = "switchyard-agent-join";
const AUTHORITY: &str = "switchyard-hub-ca";

/// Where the token is.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    Text(&'a str),
    File(&'a Path),
}

/// The commands in their order, each on one line. Agents believe the hub by the same authority as the caller does. Without an address
/// of the hub that others can use, there is a word to fill in.
pub fn commands(cluster: &str, hub: Option<&str>, authority: Option<&Path>, token: At<'_>) -> Vec<String> {
    let from = match token {
        At::Text(text) => format!("--from-file=token=/dev/stdin <<< {}", quoted(text)),
        At::File(path) => quoted(&format!("--from-file=token={}", path.display())),
    };
    let authority = authority.map_or_else(|| "HUB_CA_FILE".into(), |path| path.display().to_string());
    let create = "kubectl -n switchyard create secret generic";
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
        format!("{create} {AUTHORITY} {}", quoted(&format!("--from-file=ca.crt={authority}"))),
        format!("{create} {SECRET} {from}"),
        format!("helm -n switchyard upgrade --install switchyard-agent charts/switchyard-agent {}", set.join(" ")),
    ]
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
    fn the_token_goes_into_the_secret_by_a_file_or_by_standard_input() {
        let by_hand =
            commands("blue", Some("https://hub.example.com:7400/"), Some(Path::new("ca.pem")), At::Text("syj_1_abc"));
        assert_eq!(
            by_hand[..2],
            [
                "kubectl -n switchyard create secret generic switchyard-hub-ca --from-file=ca.crt=ca.pem",
                "kubectl -n switchyard create secret generic switchyard-agent-join --from-file=token=/dev/stdin <<< syj_1_abc",
            ]
        );
        let by_file = commands("blue", None, None, At::File(Path::new("join token")));
        assert!(by_file[0].ends_with(" --from-file=ca.crt=HUB_CA_FILE"), "{by_file:?}");
        assert!(by_file[1].ends_with(" '--from-file=token=join token'"), "{by_file:?}");
        let literal = by_hand.iter().chain(&by_file).any(|command| command.contains("--from-literal"));
        assert!(!literal, "others would see it among the arguments");
    }

    #[test]
    fn the_values_are_those_of_the_chart_and_the_hub_is_the_one_that_was_asked() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/switchyard-agent/values.yaml");
        let chart: serde_json::Value = serde_norway::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let command = commands("blue", Some("https://hub.example.com:7400/"), None, At::Text("x")).remove(2);
        let set: Vec<(&str, &str)> = command.split(" --set ").skip(1).map(|set| set.split_once('=').unwrap()).collect();
        for (value, _) in &set {
            let pointer = format!("/{}", value.replace('.', "/"));
            assert!(chart.pointer(&pointer).is_some(), "the chart of the agent has no value {value}");
        }
        for expected in [("cluster.name", "blue"), ("hub.url", "https://hub.example.com:7400")] {
            assert!(set.contains(&expected), "{set:?}");
        }
        let tunnel = commands("blue", None, None, At::Text("x")).remove(2);
        assert!(tunnel.contains(" --set hub.url=https://HUB:7400 "), "there is a word to fill in: {tunnel}");
    }

    #[test]
    fn what_another_machine_said_is_one_word_of_the_command() {
        let evil = commands("blue", Some("https://h"), None, At::Text("x'; rm -rf / #$(id)"));
        assert!(evil[1].ends_with(r"<<< 'x'\''; rm -rf / #$(id)'"), "{evil:?}");
        assert!(commands("a b", Some("https://h"), None, At::Text("x"))[2].contains("--set 'cluster.name=a b'"));
    }
}
