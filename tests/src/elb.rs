//! The sandbox's load balancers as the scenarios see them: state, call log, faults, limits. Reads of the control API are in no
//! call log and are never throttled, so looking changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;

/// The tag by which the hub finds its own.
pub const POLICY_TAG: &str = "switchyard.dev/policy";
/// The tag of the cluster that a target group belongs to.
pub const CLUSTER_TAG: &str = "switchyard.dev/cluster";

/// What `GET /elb/state` says, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// All of them.
    pub load_balancers: Vec<LoadBalancer>,
    /// All of them.
    pub target_groups: Vec<TargetGroup>,
}

/// One load balancer.
#[derive(Clone, Debug, Deserialize)]
pub struct LoadBalancer {
    /// Its name.
    pub name: String,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

/// One listener.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    /// Its ARN.
    pub arn: String,
    /// Its port.
    pub port: u16,
    /// Its rules, the default rule included.
    pub rules: Vec<Rule>,
}

/// One rule.
#[derive(Clone, Debug, Deserialize)]
pub struct Rule {
    /// Its ARN.
    pub arn: String,
    /// A number, or `default`.
    pub priority: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its actions.
    pub actions: Vec<Action>,
}

/// One action.
#[derive(Clone, Debug, Deserialize)]
pub struct Action {
    /// Of a forward action.
    #[serde(default)]
    pub target_groups: Vec<Forward>,
}

/// One target group of a forward action.
#[derive(Clone, Debug, Deserialize)]
pub struct Forward {
    /// The group.
    pub target_group_arn: String,
    /// Its weight.
    pub weight: u32,
}

/// One target group.
#[derive(Clone, Debug, Deserialize)]
pub struct TargetGroup {
    /// Its ARN.
    pub arn: String,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Draining ones included.
    pub targets: Vec<Target>,
}

/// One target.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// Its address.
    pub id: String,
    /// Its port.
    pub port: u16,
    /// `initial`, `healthy`, `unhealthy`, `draining` or `unused`.
    pub state: String,
}

impl State {
    /// The rules that a policy made.
    pub fn rules_of(&self, policy: &str) -> Vec<&Rule> {
        let listeners = self.load_balancers.iter().flat_map(|lb| &lb.listeners);
        let rules = listeners.flat_map(|listener| &listener.rules);
        rules.filter(|rule| rule.tags.get(POLICY_TAG).is_some_and(|name| name == policy)).collect()
    }

    /// The target groups that a policy made.
    pub fn groups_of(&self, policy: &str) -> Vec<&TargetGroup> {
        let groups = self.target_groups.iter();
        groups.filter(|group| group.tags.get(POLICY_TAG).is_some_and(|name| name == policy)).collect()
    }

    /// The one group of a policy in a cluster.
    pub fn group(&self, policy: &str, cluster: &str) -> Option<&TargetGroup> {
        let of_cluster = |group: &&TargetGroup| group.tags.get(CLUSTER_TAG).is_some_and(|name| name == cluster);
        self.groups_of(policy).into_iter().find(of_cluster)
    }

    /// The weights of a policy's rule by cluster; none when there is not exactly one rule.
    pub fn weights(&self, policy: &str) -> Option<BTreeMap<String, u32>> {
        let rules = self.rules_of(policy);
        let [rule] = rules.as_slice() else { return None };
        let forwards = rule.actions.iter().flat_map(|action| &action.target_groups);
        let named = forwards.map(|forward| {
            let group = self.target_groups.iter().find(|group| group.arn == forward.target_group_arn)?;
            Some((group.tags.get(CLUSTER_TAG)?.clone(), forward.weight))
        });
        named.collect()
    }

    /// Groups that get requests by some rule.
    pub fn carrying(&self) -> BTreeSet<&str> {
        let rules = self.load_balancers.iter().flat_map(|lb| &lb.listeners).flat_map(|listener| &listener.rules);
        let forwards = rules.flat_map(|rule| &rule.actions).flat_map(|action| &action.target_groups);
        forwards.filter(|forward| forward.weight > 0).map(|forward| forward.target_group_arn.as_str()).collect()
    }
}

impl TargetGroup {
    /// Targets that may get requests.
    pub fn registered(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.state != "draining")
    }

    /// Addresses of the registered targets.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.registered().map(|target| target.id.clone()).collect()
    }

    /// How many are healthy.
    pub fn healthy(&self) -> usize {
        self.targets.iter().filter(|target| target.state == "healthy").count()
    }
}

/// One call of the log.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// Its place in the log.
    pub seq: u64,
    /// Such as `ModifyRule`.
    pub operation: String,
    /// Its parameters in the flat form of the query protocol.
    pub parameters: BTreeMap<String, String>,
    /// `ok`, or the code of the refusal.
    pub outcome: String,
}

/// A page of the log.
#[derive(Clone, Debug, Deserialize)]
pub struct Calls {
    /// The place after the last call.
    pub next: u64,
    /// The calls.
    pub calls: Vec<Call>,
}

/// A load balancer that was there before the hub.
#[derive(Clone, Debug, Deserialize)]
pub struct Existing {
    /// Its ARN.
    pub arn: String,
    /// Its listeners.
    pub listeners: Vec<ExistingListener>,
}

/// One listener of it.
#[derive(Clone, Debug, Deserialize)]
pub struct ExistingListener {
    /// Its ARN.
    pub arn: String,
    /// Where it really listens.
    pub address: String,
}

/// All load balancers of a sandbox.
#[derive(Clone, Debug)]
pub struct Elb {
    control: Client,
}

impl Elb {
    pub(crate) fn new(control: Client) -> Self {
        Self { control }
    }

    /// Makes a load balancer with one HTTP listener, as a platform team would have done.
    ///
    /// # Errors
    /// When the sandbox refuses it, as with every method here.
    pub async fn create(&self, name: &str, port: u16, tags: &[(&str, &str)]) -> anyhow::Result<Existing> {
        let tags: BTreeMap<&str, &str> = tags.iter().copied().collect();
        let body = json!({"name": name, "listeners": [{"port": port, "protocol": "HTTP"}], "tags": tags});
        self.control.post("/elb/load-balancers", &body).await
    }

    /// Says that there is an instance, which targets may name.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn add_instance(&self, id: &str, ip: &str) -> anyhow::Result<()> {
        self.control.post::<Value>("/elb/instances", &json!({"id": id, "ip": ip})).await?;
        Ok(())
    }

    /// Everything there is.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn state(&self) -> anyhow::Result<State> {
        self.control.get("/elb/state").await
    }

    /// Everything there is, as it is written.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn raw_state(&self) -> anyhow::Result<Value> {
        self.control.get("/elb/state").await
    }

    /// Writing calls after a place in the log.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn writes_since(&self, seq: u64) -> anyhow::Result<Calls> {
        self.control.get(&format!("/elb/calls?since={seq}&mutating=true")).await
    }

    /// All calls after a place in the log.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn calls_since(&self, seq: u64) -> anyhow::Result<Calls> {
        self.control.get(&format!("/elb/calls?since={seq}")).await
    }

    /// The present end of the log.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn position(&self) -> anyhow::Result<u64> {
        Ok(self.control.get::<Calls>(&format!("/elb/calls?since={}", u64::MAX)).await?.next)
    }

    /// Arms a fault.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn fault(&self, fault: Value) -> anyhow::Result<()> {
        self.control.post::<Value>("/elb/faults", &fault).await?;
        Ok(())
    }

    /// Faults that have not struck, or not often enough.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn armed(&self) -> anyhow::Result<Vec<Value>> {
        self.control.get("/elb/faults").await
    }

    /// Takes all faults back.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn clear_faults(&self) -> anyhow::Result<()> {
        self.control.call::<Value>(Method::DELETE, "/elb/faults", None::<&()>).await?;
        Ok(())
    }

    /// Sets quotas and rates.
    ///
    /// # Errors
    /// When the sandbox refuses it.
    pub async fn limit(&self, limits: Value) -> anyhow::Result<()> {
        self.control.post::<Value>("/elb/limits", &limits).await?;
        Ok(())
    }

    /// Cuts the API off, or connects it again. The data plane goes on.
    ///
    /// # Errors
    /// When the sandbox does not answer.
    pub async fn partition(&self, on: bool) -> anyhow::Result<()> {
        self.control.post::<Value>("/elb/partition", &json!({"on": on})).await?;
        Ok(())
    }
}
