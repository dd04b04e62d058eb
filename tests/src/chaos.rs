//! What the rows of the failure table share: a world under live traffic with a witness at its load balancer, what was written
//! there, and random choices that can be repeated.

use std::{collections::BTreeSet, io::Write, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    elb::Call,
    hub::{Database, Hub, Times},
    load::Load,
    member::Agent,
    policy::Policy,
    postgres::Postgres,
    sandbox::WorkloadSpec,
    shifts::{Weights, written},
    wait,
    watcher::Witness,
    world::{Builder, World},
};

/// The policy of every row.
pub const POLICY: &str = "shop/checkout";
/// Requests a second in every row.
pub const RPS: u32 = 200;
/// A number to begin random choices with, to repeat a run.
const SEED: &str = "SWITCHYARD_SEED";
/// Calls at AWS that take something away from traffic. A rule is changed by giving it other weights: that takes from one to give
/// to another, and in a world that stands still nobody asked for it.
const REMOVING: [&str; 9] = [
    "DeregisterTargets",
    "DeleteRule",
    "DeleteTargetGroup",
    "DeleteListener",
    "DeleteLoadBalancer",
    "ModifyRule",
    "ModifyListener",
    "SetRulePriorities",
    "RemoveTags",
];

/// Random choices of a row. The seed is shown whatever becomes of the test; with SWITCHYARD_SEED it is given.
///
/// # Panics
/// When the variable is no number.
pub fn dice(row: &str) -> StdRng {
    let seed = match std::env::var(SEED) {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("{SEED}={text} is no number; take one from 0 to {}", u64::MAX))
        }
        Err(_) => rand::rng().random_range(0..1_000_000),
    };
    // Past the capture of the test harness: shown also when the test passes, or is killed. A closed stderr is no reason to fail.
    let _closed = writeln!(std::io::stderr(), "{row}: {SEED}={seed}");
    StdRng::seed_from_u64(seed)
}

/// Pods that serve on for longer than the longest outage here, what a preStop sleep is for; and a hub that reads everything at AWS
/// every two seconds, so that what an audit finds is found within the row.
pub fn patient(builder: Builder) -> Builder {
    let workload = WorkloadSpec { termination_grace: Duration::from_secs(20), ..builder.workload.clone() };
    let times = Times { audit: "2s", ..builder.times };
    Builder { workload, times, ..builder }
}

/// A world under traffic.
pub struct Stage {
    /// The world.
    pub world: World,
    /// Its traffic.
    pub load: Load,
    /// Looks at the load balancer all the time: no group that carries is emptied, no rule goes away.
    pub witness: Witness,
    since: u64,
}

impl Stage {
    /// `shop/checkout` is served with these weights, and requests are sent. The policy has failover, which is quick: what only the
    /// control plane suffers from must not move any traffic.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn set(builder: Builder, weights: &[(&str, u32)]) -> Self {
        let world = builder.start().await.expect("the world starts");
        let failover = json!({"unhealthyAfterSeconds": 2, "healthyAfterSeconds": 2});
        let policy = Policy::new("checkout", weights).with("/spec/failover", failover);
        world.yardctl.apply_until_converged(&policy).await;
        world.all_healthy(POLICY).await;
        world.hub_knows(POLICY).await;
        world.yardctl.converged(POLICY).await;
        let load = world.load("checkout", RPS).await;
        load.more(100).await;
        let since = world.elb().position().await.expect("the call log");
        let witness = Witness::start(world.elb());
        Self { world, load, witness, since }
    }

    /// Half of the traffic to blue, half to green.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn halves(builder: Builder) -> Self {
        Self::set(builder, &[("blue", 50), ("green", 50)]).await
    }

    /// Traffic goes on for so long.
    ///
    /// # Panics
    /// When it does not.
    pub async fn seconds(&self, seconds: u64) {
        self.load.more(seconds * u64::from(RPS)).await;
    }

    /// Every writing call that AWS got since the stage was set, or since [`Stage::forget`].
    ///
    /// # Panics
    /// When the sandbox does not answer.
    pub async fn writes(&self) -> Vec<Call> {
        self.world.elb().writes_since(self.since).await.expect("the call log").calls
    }

    /// The weights that were written since then, in order.
    ///
    /// # Panics
    /// When the sandbox does not answer.
    pub async fn weights_written(&self) -> Vec<Weights> {
        written(&self.world.elb(), self.since, POLICY).await
    }

    /// From here on writing calls are counted anew.
    ///
    /// # Panics
    /// When the sandbox does not answer.
    pub async fn forget(&mut self) {
        self.since = self.world.elb().position().await.expect("the call log");
    }

    /// Nothing at AWS was taken away from traffic, and no such call was tried.
    ///
    /// # Panics
    /// When one was.
    pub async fn nothing_was_removed(&self) {
        let writes = self.writes().await;
        let removing = writes.iter().filter(|call| REMOVING.contains(&call.operation.as_str()));
        let removing: Vec<&Call> = removing.collect();
        assert!(removing.is_empty(), "in a world that stands still something was taken away: {removing:#?}");
    }

    /// No target, group or rule was taken away; weights and targets of pods that came may have been written.
    ///
    /// # Panics
    /// When one was.
    pub async fn nothing_was_deleted(&self) {
        let writes = self.writes().await;
        let deleting = writes.iter().filter(|call| {
            call.operation.starts_with("Delete")
                || ["DeregisterTargets", "RemoveTags"].contains(&call.operation.as_str())
        });
        let deleting: Vec<&Call> = deleting.collect();
        assert!(deleting.is_empty(), "something was taken away: {deleting:#?}");
    }

    /// One of the faults that the sandbox's load balancer can be given.
    ///
    /// # Panics
    /// When the sandbox refuses it.
    pub async fn fault(&self, fault: Value) {
        self.world.elb().fault(fault).await.expect("the fault is armed");
    }

    /// Waits until the hub has read everything at AWS once more, and looked at it.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn audited(&self) {
        let elb = self.world.elb();
        let begin = elb.position().await.expect("the call log");
        wait::until("the hub to audit", async || {
            let calls = elb.calls_since(begin).await.map_err(|e| e.to_string())?.calls;
            let audits = calls.iter().filter(|call| call.operation == "DescribeLoadBalancers" && call.outcome == "ok");
            // The second begins after what the first one read was judged.
            wait::check(audits.count() >= 2, || format!("{} calls", calls.len()))
        })
        .await;
    }

    /// Waits until no agent says that it cannot read something. A watch that died without a word is noticed when it should have
    /// ended, after 65 s at most.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn nothing_is_failing(&self) {
        let done = wait::until_within("the agents to read everything again", 2 * wait::PATIENCE, async || {
            let page = self.world.yardctl.status_page(POLICY).await.map_err(|e| e.to_string())?;
            wait::check(!page.contains("SourceFailing"), || page.clone())
        });
        done.await.expect("the agents recover");
    }

    /// The addresses of a policy's registered targets, of all clusters.
    ///
    /// # Panics
    /// When the sandbox does not answer.
    pub async fn targets(&self, policy: &str) -> BTreeSet<String> {
        let state = self.world.elb().state().await.expect("the load balancer");
        state.groups_of(policy).iter().flat_map(|group| group.addresses()).collect()
    }

    /// The metrics page of the hub: the number behind this name, which may have labels.
    ///
    /// # Panics
    /// After the deadline without one.
    pub async fn metric(&self, name: &str) -> f64 {
        metric(&self.world.hub.http_url(), name).await
    }

    /// Everything works: agents are there, every pod that is ready is a target, a change of weights is served, and not one
    /// request of the whole row has failed.
    ///
    /// # Panics
    /// When something does not.
    pub async fn all_is_well(self) {
        self.world.connected().await;
        self.world.rolled().await;
        self.world.all_healthy(POLICY).await;
        self.world.yardctl.weights_until_converged(POLICY, &["blue=0", "green=100"]).await;
        self.load.mark("after").await.expect("a mark is set");
        self.load.more(200).await;
        let report = self.load.finish_without_failures().await;
        let after = report.windows.last().expect("the window that was begun");
        let answered: Vec<&str> = after.report.by_cluster.keys().map(String::as_str).collect();
        assert_eq!(answered, ["green"], "the change of weights is served: {after:?}");
        self.witness.finish().await;
        self.world.stop().await;
    }
}

/// A number of a metrics page.
///
/// # Panics
/// After the deadline without one.
pub async fn metric(http_url: &str, name: &str) -> f64 {
    let pages = crate::client::Client::new(http_url);
    wait::until(&format!("{http_url} to show {name}"), async || {
        let (_, page) =
            pages.send(http::Method::GET, "/metrics", Vec::new()).await.map_err(|error| format!("{error:#}"))?;
        let page = String::from_utf8_lossy(&page).into_owned();
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        found.ok_or_else(|| "no such line".to_owned())
    })
    .await
}

/// Waits until a replica says that it holds the lease, or that it does not.
///
/// # Panics
/// After the deadline.
pub async fn holds_the_lease(hub: &Hub, held: bool) {
    let wanted = if held { 1.0 } else { 0.0 };
    wait::until(&format!("the lease of {} to be held: {held}", hub.http_url()), async || {
        let shown = metric(&hub.http_url(), "switchyard_hub_lease_held").await;
        wait::check((shown - wanted).abs() < 0.5, || shown.to_string())
    })
    .await;
}

/// What a row of the failure table strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The only replica.
    Hub,
    /// Those of all clusters.
    Agents,
    /// All of its processes.
    Postgres,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hub, Self::Agents, Self::Postgres];
}

/// How it is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// `kill -9`, and started again afterwards.
    Kill,
    /// `kill -STOP`, and `kill -CONT` afterwards: it believes that no time has passed.
    Stop,
}

/// A stage with a Postgres of its own, whose programs can be struck.
pub struct Mortals {
    /// The stage.
    pub stage: Stage,
    postgres: Postgres,
}

impl Mortals {
    /// Half of the traffic to blue, half to green; pods serve on for long when they are asked to end.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn set() -> Self {
        let postgres = Postgres::start().await.expect("Postgres starts");
        let url = postgres.database().await.expect("a database");
        let database = Some(Database::Url(url));
        let stage = Stage::halves(patient(Builder { database, ..Builder::default() })).await;
        Self { stage, postgres }
    }

    /// It is gone, or stands still.
    ///
    /// # Panics
    /// When it cannot be struck.
    pub async fn strike(&mut self, victim: Victim, blow: Blow) {
        let world = &mut self.stage.world;
        match (victim, blow) {
            (Victim::Hub, Blow::Kill) => world.hub.kill_9(),
            (Victim::Hub, Blow::Stop) => world.hub.pause(),
            (Victim::Agents, Blow::Kill) => world.agents.values_mut().for_each(Agent::kill_9),
            (Victim::Agents, Blow::Stop) => world.agents.values().for_each(Agent::pause),
            (Victim::Postgres, Blow::Kill) => self.postgres.kill_9().await.expect("Postgres ends"),
            (Victim::Postgres, Blow::Stop) => self.postgres.pause().expect("Postgres stands still"),
        }
    }

    /// It is there again.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn mend(&mut self, victim: Victim, blow: Blow) {
        let world = &mut self.stage.world;
        match (victim, blow) {
            (Victim::Hub, Blow::Kill) => world.hub.start_again().await.expect("the hub starts again"),
            (Victim::Hub, Blow::Stop) => world.hub.resume(),
            (Victim::Agents, Blow::Kill) => {
                for agent in world.agents.values_mut() {
                    agent.start_again().expect("the agent starts again");
                }
            }
            (Victim::Agents, Blow::Stop) => world.agents.values().for_each(Agent::resume),
            (Victim::Postgres, Blow::Kill) => self.postgres.start_again().await.expect("Postgres starts again"),
            (Victim::Postgres, Blow::Stop) => self.postgres.resume().expect("Postgres goes on"),
        }
    }

    /// These are struck at once, traffic goes on for so long without them, and they come back in the order of their needs.
    ///
    /// # Panics
    /// When a part does not come up.
    pub async fn without(&mut self, victims: &[Victim], blow: Blow, seconds: u64) {
        for victim in victims {
            self.strike(*victim, blow).await;
        }
        self.stage.seconds(seconds).await;
        for victim in [Victim::Postgres, Victim::Hub, Victim::Agents] {
            if victims.contains(&victim) {
                self.mend(victim, blow).await;
            }
        }
    }

    /// While pods stand still: what was struck is back, has looked at everything, and has taken nothing away.
    ///
    /// # Panics
    /// When something was.
    pub async fn nothing_came_of_it(self) {
        self.stage.world.connected().await;
        self.stage.audited().await;
        self.stage.world.yardctl.converged(POLICY).await;
        self.stage.nothing_was_removed().await;
        self.stage.all_is_well().await;
    }
}

/// Longer than a lease (3 s) and than a cluster may be silent (6 s) in the worlds of the rows.
pub const TOO_LONG: u64 = 9;
