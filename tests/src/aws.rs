//! Somebody else who works at the same load balancers: Terraform, a person at the console, another controller. Speaks the query
//! protocol of ELBv2 by hand, so that nothing of the hub is involved.

use std::fmt::Write;

use anyhow::Context;
use http::Method;

use crate::client::Client;

/// The API version of ELBv2.
const VERSION: &str = "2015-12-01";

/// A caller of the ELBv2 API.
#[derive(Clone, Debug)]
pub struct Aws {
    client: Client,
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            // Writing into a String does not fail.
            other => _ = write!(encoded, "%{other:02X}"),
        }
    }
    encoded
}

/// The text of the first element of this name.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let begin = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = xml[begin..].find(&format!("</{name}>"))?;
    Some(&xml[begin..begin + end])
}

impl Aws {
    /// For the API at this URL.
    pub fn new(url: &str) -> Self {
        Self { client: Client::new(url) }
    }

    /// One call; gives the answer's XML.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> anyhow::Result<String> {
        let mut body = format!("Action={action}&Version={VERSION}");
        for (name, value) in parameters {
            write!(body, "&{name}={}", encode(value))?;
        }
        let (status, xml) = self.client.send(Method::POST, "/", body.into_bytes()).await?;
        let xml = String::from_utf8_lossy(&xml).into_owned();
        anyhow::ensure!(status.is_success(), "{action} was refused with {status}: {xml}");
        Ok(xml)
    }

    /// Makes a target group and gives its ARN.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_target_group(&self, name: &str, vpc_id: &str) -> anyhow::Result<String> {
        let parameters =
            [("Name", name), ("Protocol", "HTTP"), ("Port", "80"), ("VpcId", vpc_id), ("TargetType", "ip")];
        let xml = self.call("CreateTargetGroup", &parameters).await?;
        element(&xml, "TargetGroupArn").map(str::to_owned).with_context(|| xml.clone())
    }

    /// Makes a rule that forwards a path to a group and gives its ARN.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_rule(&self, listener: &str, priority: u32, path: &str, group: &str) -> anyhow::Result<String> {
        let priority = priority.to_string();
        let parameters = [
            ("ListenerArn", listener),
            ("Priority", &priority),
            ("Conditions.member.1.Field", "path-pattern"),
            ("Conditions.member.1.PathPatternConfig.Values.member.1", path),
            ("Actions.member.1.Type", "forward"),
            ("Actions.member.1.TargetGroupArn", group),
        ];
        let xml = self.call("CreateRule", &parameters).await?;
        element(&xml, "RuleArn").map(str::to_owned).with_context(|| xml.clone())
    }

    /// Makes a rule that answers by itself, so that it needs no group.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_fixed_rule(&self, listener: &str, priority: u32, path: &str) -> anyhow::Result<()> {
        let priority = priority.to_string();
        let parameters = [
            ("ListenerArn", listener),
            ("Priority", &priority),
            ("Conditions.member.1.Field", "path-pattern"),
            ("Conditions.member.1.PathPatternConfig.Values.member.1", path),
            ("Actions.member.1.Type", "fixed-response"),
            ("Actions.member.1.FixedResponseConfig.StatusCode", "200"),
        ];
        self.call("CreateRule", &parameters).await?;
        Ok(())
    }

    /// Writes the weights of a rule.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn set_rule_weights(&self, rule: &str, weights: &[(&str, u32)]) -> anyhow::Result<()> {
        let mut parameters = vec![("RuleArn".to_owned(), rule.to_owned())];
        parameters.push(("Actions.member.1.Type".to_owned(), "forward".to_owned()));
        for (i, (group, weight)) in weights.iter().enumerate() {
            let at = format!("Actions.member.1.ForwardConfig.TargetGroups.member.{}", i + 1);
            parameters.push((format!("{at}.TargetGroupArn"), (*group).to_owned()));
            parameters.push((format!("{at}.Weight"), weight.to_string()));
        }
        let borrowed: Vec<(&str, &str)> = parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.call("ModifyRule", &borrowed).await?;
        Ok(())
    }

    /// Takes targets out of a group.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn deregister(&self, group: &str, targets: &[(&str, u16)]) -> anyhow::Result<()> {
        let mut parameters = vec![("TargetGroupArn".to_owned(), group.to_owned())];
        for (i, (address, port)) in targets.iter().enumerate() {
            parameters.push((format!("Targets.member.{}.Id", i + 1), (*address).to_owned()));
            parameters.push((format!("Targets.member.{}.Port", i + 1), port.to_string()));
        }
        let borrowed: Vec<(&str, &str)> = parameters.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        self.call("DeregisterTargets", &borrowed).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_and_elements_found() {
        assert_eq!(encode("a/b c&d"), "a%2Fb%20c%26d");
        assert_eq!(element("<a><b>1</b><b>2</b></a>", "b"), Some("1"));
        assert_eq!(element("<a/>", "b"), None);
    }
}
