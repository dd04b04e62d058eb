//! Shifts as the scenarios ask for them and judge them: over gRPC, with a connection that outlives the hub, and by what was really
//! written at the load balancer.

use std::collections::BTreeMap;

use switchyard_proto::api::v1::{self as api, ShiftState, shift_service_client::ShiftServiceClient};
use tonic::{Status, transport::Channel};
use uuid::Uuid;

use crate::{
    elb::{CLUSTER_TAG, Elb, POLICY_TAG},
    hub::Hub,
    wait,
};

/// Weights by cluster.
pub type Weights = BTreeMap<String, u32>;

/// Such as `weights(&[("blue", 95), ("green", 5)])`.
pub fn weights(pairs: &[(&str, u32)]) -> Weights {
    pairs.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect()
}

/// `shop/checkout` as a reference.
///
/// # Panics
/// When there is no slash in it.
pub fn policy_ref(policy: &str) -> api::PolicyRef {
    let (namespace, name) = policy.split_once('/').expect("namespace/name");
    api::PolicyRef { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A step that bakes.
pub fn step(percent: u32, bake_seconds: u32) -> api::ShiftStep {
    api::ShiftStep { percent, bake_seconds, ..Default::default() }
}

/// A step that has to be approved.
pub fn approved_step(percent: u32) -> api::ShiftStep {
    api::ShiftStep { percent, approval: true, ..Default::default() }
}

/// All of the traffic of these policies to one cluster, in these steps; none: at once.
pub fn to_cluster(policies: &[&str], cluster: &str, steps: Vec<api::ShiftStep>) -> api::ShiftSpec {
    let target = |policy: &&str| api::ShiftPolicy {
        policy: Some(policy_ref(policy)),
        to_cluster: cluster.to_owned(),
        ..Default::default()
    };
    api::ShiftSpec {
        policies: policies.iter().map(target).collect(),
        strategy: Some(api::ShiftStrategy { steps, ..Default::default() }),
        ..Default::default()
    }
}

/// What happened, in order, such as `StepRequested 1`; an entry that only the passing of a step explains has its step.
///
/// # Panics
/// When the times are not in order, or an entry says nothing.
pub fn told(shift: &api::Shift) -> Vec<String> {
    let status = shift.status.as_ref().expect("a status");
    let at = |event: &api::ShiftEvent| event.at.map(|at| (at.seconds, at.nanos)).expect("each event has its time");
    assert!(status.history.is_sorted_by_key(at), "{:#?}", status.history);
    assert!(status.history.iter().all(|event| !event.message.is_empty()), "{:#?}", status.history);
    status.history.iter().map(|event| format!("{} {}", event.reason, event.step)).collect()
}

/// The beginning of each history.
pub fn beginning() -> Vec<String> {
    ["Created 0", "PreflightStarted 0", "PreflightPassed 0"].map(str::to_owned).into()
}

/// What one step that needs no approval adds.
pub fn stepped(step: usize) -> Vec<String> {
    vec![format!("StepRequested {step}"), format!("StepProgrammed {step}")]
}

/// The history of a shift that went all the way in so many steps that need no approval.
pub fn all_the_way(steps: usize) -> Vec<String> {
    let end = [format!("Settling {steps}"), format!("Converged {steps}")];
    [beginning(), (1..=steps).flat_map(stepped).collect(), end.into()].concat()
}

/// The service.
#[derive(Clone, Debug)]
pub struct Shifts {
    client: ShiftServiceClient<Channel>,
}

impl Shifts {
    /// That of a hub, which may be restarted meanwhile.
    ///
    /// # Panics
    /// When its address is none.
    pub fn of(hub: &Hub) -> Self {
        let endpoint = Channel::from_shared(hub.grpc_url()).expect("an address");
        Self { client: ShiftServiceClient::new(endpoint.connect_lazy()) }
    }

    /// For calls that have no method here.
    pub fn client(&self) -> ShiftServiceClient<Channel> {
        self.client.clone()
    }

    /// Asks for a shift.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn create(&self, request_id: &str, spec: &api::ShiftSpec) -> Result<api::Shift, Status> {
        let request =
            api::CreateShiftRequest { request_id: request_id.to_owned(), spec: Some(spec.clone()), dry_run: false };
        let answer = self.client().create_shift(request).await?.into_inner();
        Ok(answer.shift.expect("an answer has the shift"))
    }

    /// Asks for a shift that has to be taken; its id.
    ///
    /// # Panics
    /// When it is not taken.
    pub async fn begin(&self, spec: &api::ShiftSpec) -> String {
        self.create(&Uuid::now_v7().to_string(), spec).await.expect("the shift is taken").id
    }

    /// The shift as it is.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn get(&self, id: &str) -> Result<api::Shift, Status> {
        let answer = self.client().get_shift(api::GetShiftRequest { id: id.to_owned() }).await?.into_inner();
        Ok(answer.shift.expect("an answer has the shift"))
    }

    /// The shift as soon as it is so.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn until(&self, id: &str, what: &str, holds: impl Fn(&api::ShiftStatus) -> bool) -> api::Shift {
        wait::until(what, async || {
            let shift = self.get(id).await.map_err(|error| error.to_string())?;
            let status = shift.status.as_ref().expect("a status");
            wait::check(holds(status), || format!("{status:#?}")).map(|()| shift.clone())
        })
        .await
    }

    /// The shift as soon as it is in this state in this step, from 1; 0: before the first.
    ///
    /// # Panics
    /// After the deadline.
    pub async fn reaches(&self, id: &str, state: ShiftState, step: u32) -> api::Shift {
        let what = format!("shift {id} to be {} in step {step}", state.as_str_name());
        self.until(id, &what, |status| (status.state(), status.step) == (state, step)).await
    }

    /// The shift at its end, in this state.
    ///
    /// # Panics
    /// When it ends otherwise, or after the deadline.
    pub async fn ends(&self, id: &str, state: ShiftState) -> api::Shift {
        let shift = self.until(id, "the shift to end", |status| status.ended_at.is_some()).await;
        assert_eq!(shift.status.as_ref().expect("a status").state(), state, "{shift:#?}");
        shift
    }

    /// Holds it.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn pause(&self, id: &str) -> Result<(), Status> {
        let request = api::PauseShiftRequest { request_id: fresh(), id: id.to_owned(), ..Default::default() };
        self.client().pause_shift(request).await.map(|_| ())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn resume(&self, id: &str) -> Result<(), Status> {
        let request = api::ResumeShiftRequest { request_id: fresh(), id: id.to_owned(), ..Default::default() };
        self.client().resume_shift(request).await.map(|_| ())
    }

    /// Approves a step, from 1.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn approve(&self, id: &str, step: u32) -> Result<(), Status> {
        let request = api::ApproveShiftRequest { request_id: fresh(), id: id.to_owned(), step, ..Default::default() };
        self.client().approve_shift(request).await.map(|_| ())
    }

    /// Skips what is left of it.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn promote(&self, id: &str) -> Result<(), Status> {
        let request = api::PromoteShiftRequest { request_id: fresh(), id: id.to_owned(), ..Default::default() };
        self.client().promote_shift(request).await.map(|_| ())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// What the hub says.
    pub async fn abort(&self, id: &str) -> Result<(), Status> {
        let request = api::AbortShiftRequest { request_id: fresh(), id: id.to_owned(), ..Default::default() };
        self.client().abort_shift(request).await.map(|_| ())
    }
}

fn fresh() -> String {
    Uuid::now_v7().to_string()
}

/// The weights that were written for a policy since a place in the call log, in order; those whose answer was lost included.
///
/// # Panics
/// When the sandbox does not answer, or a call names an unknown group.
pub async fn written(elb: &Elb, since: u64, policy: &str) -> Vec<Weights> {
    let state = elb.state().await.expect("the load balancer");
    let groups: BTreeMap<&str, &str> = state
        .groups_of(policy)
        .into_iter()
        .map(|group| (group.arn.as_str(), group.tags.get(CLUSTER_TAG).map_or("", String::as_str)))
        .collect();
    let rules: Vec<&str> = state.rules_of(policy).into_iter().map(|rule| rule.arn.as_str()).collect();
    let calls = elb.writes_since(since).await.expect("the call log").calls;
    let modified = calls.iter().filter(|call| call.operation == "ModifyRule" && call.outcome == "ok");
    let ours = modified.filter(|call| call.parameters.get("RuleArn").is_some_and(|arn| rules.contains(&arn.as_str())));
    ours.map(|call| {
        let arns = call.parameters.iter().filter_map(|(name, arn)| Some((name.strip_suffix(".TargetGroupArn")?, arn)));
        let pairs = arns.filter(|(place, _)| place.contains("ForwardConfig")).map(|(place, arn)| {
            let cluster = groups.get(arn.as_str()).unwrap_or_else(|| panic!("{arn} has the tags of {policy}"));
            let weight = call.parameters.get(&format!("{place}.Weight")).and_then(|text| text.parse().ok());
            ((*cluster).to_owned(), weight.expect("a group has a weight"))
        });
        pairs.collect()
    })
    .collect()
}

/// The weights of a policy's rule at the load balancer.
///
/// # Panics
/// When there is not exactly one rule.
pub async fn in_force(elb: &Elb, policy: &str) -> Weights {
    let state = elb.state().await.expect("the load balancer");
    state.weights(policy).unwrap_or_else(|| panic!("there is one rule of {policy}, by {POLICY_TAG}: {state:?}"))
}
