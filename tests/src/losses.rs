//! Losses of what serves: clusters, zones and machines that the network does not reach any more, and policies that say what happens
//! then. How long it is felt is told by `loss_time`.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

pub use crate::loss_time::StopWatch;
use crate::{
    chaos::{POLICY, RPS, Stage},
    client::Client,
    hub::Times,
    load::{Load, Report},
    loss_time::between,
    policy::Policy,
    sandbox::{NAMESPACE, Settings},
    shifts::Weights,
    wait,
    world::{Builder, HOST, World},
};

/// Health checks of the load balancer each second, two of them decide; the data plane uses a new rule after half a second at the
/// latest; the hub looks at target health each second.
pub fn quick(clusters: &[&str]) -> Builder {
    let builder = Builder::default();
    let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
    let sandbox =
        Settings { clusters, time_scale: 5.0, propagation: Duration::from_millis(2_500), ..builder.sandbox.clone() };
    Builder { sandbox, times: Times { health: "1s", ..Times::default() }, ..builder }
}

/// `spec.failover` that goes out at once and comes back after two seconds; `more` is laid over it.
pub fn failover(more: Value) -> Value {
    let mut spec = json!({"unhealthyAfterSeconds": 0, "healthyAfterSeconds": 2, "failback": "Auto"});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    spec
}

/// `shop/checkout` with these weights and `spec.failover`.
pub fn policy(weights: &[(&str, u32)], failover: Value) -> Policy {
    Policy::new("checkout", weights).with("/spec/failover", failover)
}

impl Stage {
    /// A stage with a policy that knows failover. Standbys have a priority in the policy, and no weight before it is there.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn with_failover(builder: Builder, policy: &Policy) -> Self {
        let clusters = policy.0["spec"]["clusters"].as_array().cloned().unwrap_or_default();
        let weights: Vec<(String, u32)> = clusters
            .iter()
            .map(|cluster| {
                let weight = cluster["weight"].as_u64().and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0);
                let standby = cluster["priority"].as_u64().unwrap_or(0) > 0;
                (cluster["name"].as_str().unwrap_or_default().to_owned(), if standby { 0 } else { weight })
            })
            .collect();
        let weights: Vec<(&str, u32)> = weights.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
        let mut stage = Self::set(builder, &weights).await;
        stage.world.yardctl.apply_until_converged(policy).await;
        stage.world.hub_knows(POLICY).await;
        stage.forget().await;
        stage
    }

    /// The same with clients that give up after a while: those of before would wait for a cluster that swallows requests.
    ///
    /// # Panics
    /// When the sandbox refuses it, or a request of those before has failed.
    #[must_use]
    pub async fn with_clients_that_give_up_after(mut self, time: Duration) -> Self {
        self.load.finish_without_failures().await;
        let address = &self.world.load_balancer.listeners[0].address;
        let (target, control) = (format!("http://{address}/checkout"), self.world.sandbox.control());
        self.load = Load::impatient(control, &target, HOST, RPS, time).await.expect("the load starts");
        self.seconds(1).await;
        self
    }

    /// Waits until the rule has these weights.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn weights_are(&self, weights: &[(&str, u32)]) {
        let wanted: Weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        let what = format!("the rule to have the weights {wanted:?}");
        wait::until(&what, async || {
            let state = self.world.elb().state().await.map_err(|error| error.to_string())?;
            let seen = state.weights(POLICY);
            let page = || async { self.world.yardctl.status_page(POLICY).await.unwrap_or_default() };
            match seen.as_ref() == Some(&wanted) {
                true => Ok(()),
                false => Err(format!("{seen:?}\n{}", page().await)),
            }
        })
        .await;
    }

    /// Waits until the weight of a cluster is such a one.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn weight_of(&self, cluster: &str, what: &str, holds: impl Fn(u32) -> bool) {
        wait::until(&format!("the weight of {cluster} to be {what}"), async || {
            let state = self.world.elb().state().await.map_err(|error| error.to_string())?;
            let weight = state.weights(POLICY).and_then(|weights| weights.get(cluster).copied());
            wait::check(weight.is_some_and(&holds), || format!("{weight:?}"))
        })
        .await;
    }

    /// Waits until the hub knows that so many targets of a cluster are healthy.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn hub_sees(&self, cluster: &str, healthy: u64) {
        wait::until(&format!("the hub to see {healthy} healthy targets of {cluster}"), async || {
            let status = self.world.yardctl.status(POLICY).await.map_err(|error| error.to_string())?;
            let clusters = status["status"]["clusters"].as_array().cloned().unwrap_or_default();
            let named = clusters.iter().find(|seen| seen["cluster"] == cluster);
            let seen = named.and_then(|seen| seen["targets"]["healthy"].as_u64());
            wait::check(seen == Some(healthy), || status["status"].to_string())
        })
        .await;
    }

    /// Waits until requests were sent and none failed for a second and a half, and those that hang have given up; then begins a
    /// window in which none may fail.
    ///
    /// # Panics
    /// When that does not come true.
    pub async fn quiet_from_here(&self, name: &str) {
        let begun = Timestamp::now();
        let enough = Duration::from_millis(1_500) + self.load.gives_up_after();
        // By the clock, not by a number of requests: after a pause of the machine those that were due come all at once.
        wait::until("requests to fail no more", async || {
            let report = self.load.report().await.map_err(|error| error.to_string())?;
            let until = report.failing_until.as_deref().map(str::parse::<Timestamp>).transpose();
            let until = until.map_err(|error| error.to_string())?.map_or(begun, |until| until.max(begun));
            let quiet = between(until, Timestamp::now()) > enough;
            let quiet = quiet && report.window.sent > 0 && report.window.failed == 0;
            wait::check(quiet, || report.failures_shown())
        })
        .await;
        self.load.mark(name).await.expect("a mark is set");
        self.seconds(1).await;
    }

    /// What of the world is told by the status page, all of these words at a time.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn says(&self, words: &[&str]) -> String {
        self.world.yardctl.status_says(POLICY, words).await
    }

    /// The share of a cluster in the answers of a window, 0 to 1, and its failures.
    ///
    /// # Panics
    /// When there was no such window.
    pub async fn window(&self, name: &str) -> Report {
        let report = self.load.report().await.expect("the load generator answers");
        let window = report.windows.into_iter().find(|window| window.name == name);
        window.unwrap_or_else(|| panic!("there is a window {name}")).report
    }

    /// Ends everything; requests may have failed before, none in this window.
    ///
    /// # Panics
    /// When one has, or the witness saw something bad.
    pub async fn ends_quietly(self, window: &str) -> Report {
        let report = self.load.finish().await.expect("the load generator answers");
        let quiet = report.windows.iter().find(|seen| seen.name == window).expect("the window that was begun");
        assert_eq!(quiet.report.failed, 0, "in {window}: {}", quiet.report.failures_shown());
        assert!(quiet.report.sent > 0, "{window} had no request");
        self.witness.finish().await;
        self.world.stop().await;
        report
    }
}

/// What the network reaches of one cluster.
#[derive(Clone, Debug)]
pub struct Reach {
    control: Client,
    cluster: String,
}

impl Reach {
    /// Of a cluster of this world.
    pub fn of(world: &World, cluster: &str) -> Self {
        Self { control: world.sandbox.control().clone(), cluster: cluster.to_owned() }
    }

    async fn say(&self, rest: &str, body: Value) {
        let path = format!("/clusters/{}{rest}", self.cluster);
        self.control.post::<Value>(&path, &body).await.expect("the sandbox does it");
    }

    /// Connections are refused.
    ///
    /// # Panics
    /// When the sandbox refuses it, as with every method here.
    pub async fn dead(&self) {
        self.say("/dataplane", json!({"state": "dead"})).await;
    }

    /// Connections are taken and never answered.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn silent(&self) {
        self.say("/dataplane", json!({"state": "silent"})).await;
    }

    /// Everything is reached.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn alive(&self) {
        self.say("/dataplane", json!({"state": "alive"})).await;
    }

    /// Dies and comes back by the clock.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn flaps(&self, down: Duration, up: Duration) {
        let flap = json!({"down_ms": down.as_millis() as u64, "up_ms": up.as_millis() as u64});
        self.say("/dataplane", json!({"state": "dead", "flap": flap})).await;
    }

    /// The zone of this letter is dead.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn zone_dead(&self, region: &str, letter: char) {
        self.say("/dataplane", json!({"state": "dead", "zones": [format!("{region}{letter}")]})).await;
    }

    /// Machines die, from 1; the cluster notices after a while.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn lose_node(&self, number: usize, noticed_after: Duration) {
        let body = json!({"noticed_after_ms": noticed_after.as_millis() as u64});
        self.say(&format!("/nodes/{}-node-{number}/lose", self.cluster), body).await;
    }

    /// The number, from 1, of the node with the most pods of a workload.
    ///
    /// # Panics
    /// When there is no such workload.
    pub async fn fullest_node(&self, workload: &str) -> usize {
        let path = format!("/clusters/{}/namespaces/{NAMESPACE}/workloads/{workload}", self.cluster);
        let seen: Value = self.control.get(&path).await.expect("the workload is there");
        let pods = seen["pods"].as_array().cloned().unwrap_or_default();
        let on = |number: &usize| {
            let name = format!("{}-node-{number}", self.cluster);
            pods.iter().filter(|pod| pod["node"] == name.as_str()).count()
        };
        // The first of equals, so that asking again gives the same.
        (1..=3).rev().max_by_key(on).unwrap_or(1)
    }

    /// They are back.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn return_node(&self, number: usize) {
        self.say(&format!("/nodes/{}-node-{number}/return", self.cluster), json!({})).await;
    }

    /// Pod addresses are used again at once, also by other clusters that do so.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn addresses_go_round(&self) {
        self.say("/pods/ip-reuse", json!({"mode": "vpc"})).await;
    }

    /// All pods answer so much later.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn slow(&self, latency: Duration) {
        self.say("/pods/mode", json!({"mode": "slow", "latency_ms": latency.as_millis() as u64})).await;
    }

    /// Deletes a pod.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn delete_pod(&self, pod: &str) {
        let path = format!("/clusters/{}/pods/{NAMESPACE}/{pod}", self.cluster);
        self.control.call::<Value>(Method::DELETE, &path, None::<&()>).await.expect("the pod is deleted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_wants_is_laid_over_the_quick_rules() {
        let spec = failover(json!({"failback": "Manual", "deadBandPercent": 1}));
        assert_eq!(spec["unhealthyAfterSeconds"], 0);
        assert_eq!((spec["failback"].as_str(), spec["deadBandPercent"].as_u64()), (Some("Manual"), Some(1)));
    }
}
