//! An AWS account in moto, furnished as a platform team would have done: a load balancer with a listener, and a role for the hub
//! with a policy. Made with the open key; who takes the role is judged.

use anyhow::Context;
use serde_json::{Value, json};

use super::{Moto, query::Api};

/// The role of the hub, and the name of its one policy.
const ROLE: &str = "switchyard-hub";
/// What moto does not look at, but has to be there.
const TRUST: &str = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"Service":"pods.eks.amazonaws.com"},"Action":["sts:AssumeRole","sts:TagSession"]}]}"#;

/// An account of moto, in one region.
#[derive(Clone, Debug)]
pub struct Account {
    /// Twelve digits.
    pub id: String,
    /// Which also says the partition.
    pub region: String,
    url: String,
}

/// Temporary credentials, as EKS Pod Identity and IRSA hand them out.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// `AWS_ACCESS_KEY_ID`.
    pub key: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
    /// `AWS_SESSION_TOKEN`.
    pub token: String,
}

/// What was there before the hub.
#[derive(Clone, Debug)]
pub struct Furniture {
    /// The VPC of the load balancer.
    pub vpc_id: String,
    /// Its ARN.
    pub load_balancer: String,
    /// The ARN of its listener.
    pub listener: String,
}

fn text(value: &Value, path: &str) -> anyhow::Result<String> {
    let found = value.pointer(path).and_then(Value::as_str);
    Ok(found.with_context(|| format!("no {path} in {value}"))?.to_owned())
}

impl Account {
    /// An account that nobody else uses, as long as the id differs.
    pub fn new(moto: &Moto, id: &str, region: &str) -> Self {
        Self { id: id.to_owned(), region: region.to_owned(), url: moto.url().to_owned() }
    }

    fn api(&self, service: &str, version: &'static str) -> Api {
        Api::new(&self.url, service, version, &self.region).in_account(&self.id)
    }

    /// ELBv2, without being judged.
    pub fn elb(&self) -> Api {
        Api::elb(&self.url, &self.region).in_account(&self.id)
    }

    /// Makes a load balancer with an HTTP listener whose default action answers 404.
    ///
    /// # Errors
    /// When moto refuses it, as with every method here.
    pub async fn furnish(&self, load_balancer: &str, port: u16) -> anyhow::Result<Furniture> {
        let (vpc_id, subnets) = self.subnets().await?;
        let parameters =
            [("Name", load_balancer), ("Subnets.member.1", &subnets[0]), ("Subnets.member.2", &subnets[1])];
        let made = self.elb().call("CreateLoadBalancer", &parameters).await?;
        let load_balancer = text(&made, "/LoadBalancers/0/LoadBalancerArn")?;
        let port = port.to_string();
        let parameters = [
            ("LoadBalancerArn", load_balancer.as_str()),
            ("Protocol", "HTTP"),
            ("Port", &port),
            ("DefaultActions.member.1.Type", "fixed-response"),
            ("DefaultActions.member.1.FixedResponseConfig.StatusCode", "404"),
        ];
        let made = self.elb().call("CreateListener", &parameters).await?;
        Ok(Furniture { vpc_id, load_balancer, listener: text(&made, "/Listeners/0/ListenerArn")? })
    }

    /// The VPC that is there from the start, and two of its subnets.
    ///
    /// # Errors
    /// When there are none.
    pub async fn subnets(&self) -> anyhow::Result<(String, [String; 2])> {
        // EC2 answers in a form of its own: lists are `item`s, and there is no result element.
        let answer = self.api("ec2", "2016-11-15").send("DescribeSubnets", &[]).await?;
        let root = answer.xml()?;
        let set = root.child("subnetSet").with_context(|| answer.body.clone())?;
        let field = |index: usize, name: &str| {
            let found = set.children.get(index).and_then(|item| item.child(name));
            found.map(|found| found.text.clone()).with_context(|| format!("no {name} in {}", answer.body))
        };
        Ok((field(0, "vpcId")?, [field(0, "subnetId")?, field(1, "subnetId")?]))
    }

    /// Starts an instance and gives its id.
    ///
    /// # Errors
    /// When moto refuses it.
    pub async fn instance(&self) -> anyhow::Result<String> {
        let parameters = [("ImageId", "ami-12c6146b"), ("MinCount", "1"), ("MaxCount", "1")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = self.api("ec2", "2016-11-15").send("RunInstances", &parameters).await?;
        let root = answer.xml()?;
        let instance = root.child("instancesSet").and_then(|set| set.children.first());
        let id = instance.and_then(|instance| instance.child("instanceId"));
        Ok(id.with_context(|| answer.body.clone())?.text.clone())
    }

    /// Makes the hub's role with this policy and takes it.
    ///
    /// # Errors
    /// When moto refuses it.
    pub async fn role(&self, policy: &Value) -> anyhow::Result<Credentials> {
        let parameters = [("RoleName", ROLE), ("AssumeRolePolicyDocument", TRUST)];
        let made = self.api("iam", "2010-05-08").call("CreateRole", &parameters).await?;
        self.set_policy(policy).await?;
        let parameters = [("RoleArn", text(&made, "/Role/Arn")?), ("RoleSessionName", "the-hub".to_owned())];
        let borrowed: Vec<(&str, &str)> = parameters.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let taken = self.api("sts", "2011-06-15").call("AssumeRole", &borrowed).await?;
        Ok(Credentials {
            key: text(&taken, "/Credentials/AccessKeyId")?,
            secret: text(&taken, "/Credentials/SecretAccessKey")?,
            token: text(&taken, "/Credentials/SessionToken")?,
        })
    }

    /// Gives the role another policy; it holds from the next call on.
    ///
    /// # Errors
    /// When moto refuses it.
    pub async fn set_policy(&self, policy: &Value) -> anyhow::Result<()> {
        let document = policy.to_string();
        let parameters = [("RoleName", ROLE), ("PolicyName", ROLE), ("PolicyDocument", &document)];
        self.api("iam", "2010-05-08").call("PutRolePolicy", &parameters).await?;
        Ok(())
    }

    /// Takes the policy away.
    ///
    /// # Errors
    /// When moto refuses it.
    pub async fn no_policy(&self) -> anyhow::Result<()> {
        self.set_policy(&json!({"Version": "2012-10-17", "Statement": []})).await
    }
}

impl Credentials {
    /// As the AWS SDKs take them from the environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        [("AWS_ACCESS_KEY_ID", &self.key), ("AWS_SECRET_ACCESS_KEY", &self.secret), ("AWS_SESSION_TOKEN", &self.token)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into()
    }
}
