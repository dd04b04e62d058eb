//! Carries a plan out: asks the machine in core what comes next, waits for the request budget, checks the lease, records the
//! intent, makes the one call, and reports. Everything that a call touched is unknown from before the call until it was read.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use switchyard_core::{
    budget::Class,
    execute::{Call, Execution, Outcome, Urgency},
    ids::{Epoch, PolicyKey},
    plan::Step,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    cache::{Cache, Object},
    lease::Lease,
    observer::Wanted,
};
use crate::{
    elb::{Elb, bucket_of},
    metrics::{Metrics, Outcome as OutcomeLabels},
    store::Store,
};

/// What carrying out needs.
#[derive(Clone)]
pub struct Carrier {
    /// The adaptor.
    pub elb: Elb,
    /// Where intents are recorded.
    pub store: Store,
    /// `account/region`.
    pub scope: String,
    /// What is known of AWS.
    pub cache: Cache,
    /// Who reads back.
    pub wanted: Wanted,
    /// The lease.
    pub lease: watch::Receiver<Option<Lease>>,
    /// The longest time of one call.
    pub call_timeout: Duration,
    /// Metrics.
    pub metrics: Metrics,
}

/// What became of one step.
#[derive(Debug)]
pub struct Report {
    /// The step, with ARNs filled in.
    pub step: Step,
    /// Its outcome; none: it was not started.
    pub outcome: Option<Outcome>,
    /// What has to be read before its policy is planned again.
    pub touched: Vec<Object>,
}

impl Carrier {
    /// Carries out until everything is done, or until `interrupt`: then calls in flight are finished and the rest is dropped.
    pub async fn carry_out(
        &self,
        epoch: Epoch,
        steps: Vec<Step>,
        interrupt: CancellationToken,
        mut report: impl FnMut(Report),
    ) {
        let mut execution = Execution::new(steps);
        let mut calls = FuturesUnordered::new();
        loop {
            if !interrupt.is_cancelled() {
                for call in execution.ready() {
                    execution.start(&call.step.policy);
                    calls.push(self.one(epoch, call, interrupt.clone()));
                }
            }
            let Some((policy, ended)) = calls.next().await else { return };
            // A step that was not started is like one that never reached AWS: its lane ends here, the next plan has it again.
            let unreachable = Outcome::Unreachable { message: "not started".to_owned() };
            execution.report(&policy, ended.outcome.as_ref().unwrap_or(&unreachable));
            report(ended);
        }
    }

    async fn one(&self, epoch: Epoch, call: Call, interrupt: CancellationToken) -> (PolicyKey, Report) {
        let policy = call.step.policy.clone();
        let class = class_of(call.urgency);
        // A token that cannot be used is not taken.
        let may_call = self.time_for_a_call(epoch).is_some();
        let admitted = may_call
            && tokio::select! {
                biased;
                () = interrupt.cancelled() => false,
                () = self.elb.budget().acquire(bucket_of(&call.step.action), class) => true,
            };
        let outcome = if admitted { self.call(epoch, &call.step).await } else { None };
        let touched = match &outcome {
            None => Vec::new(),
            // Whatever came of it, only a read says what is there now.
            Some(outcome) => {
                let objects = self.cache.settle(&call.step.action, outcome);
                self.wanted.read_back(&objects);
                objects
            }
        };
        (policy, Report { step: call.step, outcome, touched })
    }

    /// The time that a call may take now under this lease; none: no call may be made (I7).
    fn time_for_a_call(&self, epoch: Epoch) -> Option<Duration> {
        let lease = (*self.lease.borrow()).filter(|lease| lease.epoch == epoch)?;
        Some(lease.time_for_a_call()?.min(self.call_timeout))
    }

    async fn call(&self, epoch: Epoch, step: &Step) -> Option<Outcome> {
        self.time_for_a_call(epoch)?;
        let operation = step.action.operation();
        let intent = match self.store.intent_open(&self.scope, epoch, step).await {
            Ok(intent) => intent,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, policy = %step.policy, operation, "the intent was not recorded, so the call is not made");
                return None;
            }
        };
        // The lease is looked at again after the await and right before the call.
        let outcome = match self.time_for_a_call(epoch) {
            None => None,
            Some(limit) => {
                // Unknown from here on, also if this process ends within the call.
                self.cache.invalidate(&step.action);
                Some(self.elb.apply(&step.action, limit).await)
            }
        };
        let (word, detail) = describe(outcome.as_ref());
        self.metrics.steps.get_or_create(&OutcomeLabels { operation, outcome: word }).inc();
        log(step, epoch, word, &detail);
        if let Err(error) = self.store.intent_close(intent, word, &detail).await {
            warn!(error = &error as &dyn std::error::Error, intent, policy = %step.policy, operation, outcome = word, "the outcome of a call was not recorded");
        }
        outcome
    }
}

fn log(step: &Step, epoch: Epoch, outcome: &'static str, detail: &str) {
    let (policy, operation, why) = (&step.policy, step.action.operation(), &step.why);
    let action = step.action.to_string();
    if outcome == "done" {
        info!(%policy, operation, %epoch, %action, %why, "AWS was changed");
    } else {
        warn!(%policy, operation, %epoch, %action, %why, outcome, detail, "AWS was not changed as planned");
    }
}

fn describe(outcome: Option<&Outcome>) -> (&'static str, String) {
    match outcome {
        None => ("not_started", "the lease ran out".to_owned()),
        Some(Outcome::Done { .. }) => ("done", String::new()),
        Some(Outcome::Refused { code, message }) => ("refused", format!("{code}: {message}")),
        Some(Outcome::Throttled { message }) => ("throttled", message.clone()),
        Some(Outcome::Unreachable { message }) => ("unreachable", message.clone()),
        Some(Outcome::Unknown { message }) => ("unknown", message.clone()),
    }
}

/// The budget class of an urgency.
fn class_of(urgency: Urgency) -> Class {
    match urgency {
        Urgency::WeightShift => Class::WeightShift,
        Urgency::Deregister => Class::DeregisterDead,
        Urgency::Register => Class::Register,
        Urgency::Create => Class::Create,
    }
}
