//! What to type to let an agent in with a new join token. Pure.
//!
//! The token must not become an argument of a program, where everybody on the machine sees it: it goes in through a file, or through
//! standard input. Texts of the hub and of the caller are quoted before they become part of a command.

use std::path::Path;

/// The Secret with the join token, in the namespace of the agent.
const SECRET: &str = "switchyard-agent-join";

/// Where the token is.
#[derive(Clone, Copy, Debug)]
pub enum At<'a> {
    Text(&'a str),
    File(&'a Path),
}

/// The commands in their order, each on one line.
pub fn commands(cluster: &str, hub: &str, token: At<'_>) -> Vec<String> {
    let from = match token {
        At::Text(text) => format!("--from-file=token=/dev/stdin <<< {}", quoted(text)),
        At::File(path) => quoted(&format!("--from-file=token={}", path.display())),
    };
    let values = [
        format!("cluster.name={cluster}"),
        "cluster.region=REGION".to_owned(),
        "cluster.vpcId=VPC_ID".to_owned(),
        format!("hub.url={}", for_agents(hub)),
        "hub.tls.secretName=switchyard-hub-ca".to_owned(),
        format!("identity.joinToken.secretName={SECRET}"),
        "image.repository=IMAGE".to_owned(),
    ];
    let set: Vec<String> = values.iter().map(|value| format!("--set {}", quoted(value))).collect();
    vec![
        format!("kubectl -n switchyard create secret generic {SECRET} {from}"),
        format!("helm -n switchyard upgrade --install switchyard-agent charts/switchyard-agent {}", set.join(" ")),
    ]
}

/// The hub's address as an agent can use it: what is plain text here is a tunnel or a hub on this machine.
fn for_agents(hub: &str) -> &str {
    if hub.starts_with("https://") { hub.trim_end_matches('/') } else { "https://HUB:7400" }
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
        let by_hand = commands("blue", "https://hub.example.com:7400/", At::Text("syj_1_abc"));
        assert_eq!(
            by_hand[0],
            "kubectl -n switchyard create secret generic switchyard-agent-join --from-file=token=/dev/stdin <<< syj_1_abc"
        );
        assert!(
            by_hand[1].contains("--set cluster.name=blue ")
                && by_hand[1].contains("hub.url=https://hub.example.com:7400 ")
        );
        assert!(by_hand[1].contains("identity.joinToken.secretName=switchyard-agent-join"), "{by_hand:?}");
        let by_file = commands("blue", "http://127.0.0.1:7400", At::File(Path::new("join token")));
        assert!(by_file[0].ends_with(" '--from-file=token=join token'"), "{by_file:?}");
        assert!(by_file[1].contains("hub.url=https://HUB:7400"), "agents do not reach this machine: {by_file:?}");
        let literal = by_hand.iter().chain(&by_file).any(|command| command.contains("--from-literal"));
        assert!(!literal, "others would see it among the arguments");
    }

    #[test]
    fn what_another_machine_said_is_one_word_of_the_command() {
        let evil = commands("blue", "https://h", At::Text("x'; rm -rf / #$(id)"));
        assert!(evil[0].ends_with(r"<<< 'x'\''; rm -rf / #$(id)'"), "{evil:?}");
        assert!(commands("a b", "https://h", At::Text("x"))[1].contains("--set 'cluster.name=a b'"));
    }
}
