//! A witness that looks at the load balancer during a whole scenario: no target group that carries weight may be emptied (I1),
//! and there is one rule for a policy at any time once there was one (I6).

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::elb::{Elb, State};

/// Between two looks. An emptied group stays empty for longer than this: the hub that emptied it has to come back to it.
const LOOK_EVERY: Duration = Duration::from_millis(40);

/// A running witness.
#[derive(Debug)]
pub struct Witness {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    had_targets: BTreeSet<String>,
    had_rule: BTreeSet<String>,
    faults: Vec<String>,
}

impl Seen {
    fn look(&mut self, state: &State) {
        self.looks += 1;
        let carrying = state.carrying();
        for group in &state.target_groups {
            if group.registered().next().is_some() {
                self.had_targets.insert(group.arn.clone());
            } else if carrying.contains(group.arn.as_str()) && self.had_targets.contains(&group.arn) {
                self.fault(format!("{} carries weight and was emptied", group.name));
            }
        }
        let rules: BTreeSet<&str> = state
            .load_balancers
            .iter()
            .flat_map(|lb| &lb.listeners)
            .flat_map(|l| &l.rules)
            .map(|r| r.arn.as_str())
            .collect();
        for gone in self.had_rule.iter().filter(|arn| !rules.contains(arn.as_str())).cloned().collect::<Vec<_>>() {
            self.fault(format!("the rule {gone} is gone"));
        }
        self.had_rule.extend(rules.into_iter().map(str::to_owned));
    }

    fn fault(&mut self, text: String) {
        if !self.faults.contains(&text) {
            self.faults.push(text);
        }
    }
}

impl Witness {
    /// Begins to look.
    pub fn start(elb: Elb) -> Self {
        let (seen, stop, tasks) = (Arc::new(Mutex::new(Seen::default())), CancellationToken::new(), TaskTracker::new());
        let (ours, stopped) = (seen.clone(), stop.clone());
        tasks.spawn(async move {
            while !stopped.is_cancelled() {
                match elb.state().await {
                    Ok(state) => ours.lock().unwrap_or_else(PoisonError::into_inner).look(&state),
                    Err(error) => {
                        let text = format!("the load balancer could not be looked at: {error:#}");
                        ours.lock().unwrap_or_else(PoisonError::into_inner).fault(text);
                    }
                }
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        });
        tasks.close();
        Self { seen, stop, tasks }
    }

    /// Ends it; nothing bad may have been seen.
    ///
    /// # Panics
    /// When something was.
    pub async fn finish(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.looks > 0, "the witness never looked");
        assert!(seen.faults.is_empty(), "seen at the load balancer: {:#?}", seen.faults);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(targets: &[&str], weight: u32) -> State {
        let targets: Vec<_> = targets.iter().map(|s| json!({"id": "127.0.0.1", "port": 80, "state": s})).collect();
        serde_json::from_value(json!({
            "load_balancers": [{"name": "lb", "listeners": [{"arn": "l", "port": 80, "rules": [{
                "arn": "r", "priority": "1", "tags": {},
                "actions": [{"type": "forward", "target_groups": [{"target_group_arn": "g", "weight": weight}]}],
            }]}]}],
            "target_groups": [{"arn": "g", "name": "group", "tags": {}, "targets": targets}],
        }))
        .expect("a state")
    }

    fn faults(states: &[State]) -> Vec<String> {
        let mut seen = Seen::default();
        states.iter().for_each(|state| seen.look(state));
        seen.faults
    }

    #[test]
    fn a_group_that_carries_weight_and_loses_its_last_target_is_a_fault() {
        assert_eq!(
            faults(&[state(&["healthy"], 1), state(&["draining"], 1)]),
            ["group carries weight and was emptied"]
        );
        assert!(faults(&[state(&["healthy"], 1), state(&["unhealthy"], 1)]).is_empty());
        assert!(faults(&[state(&["healthy"], 0), state(&[], 0)]).is_empty());
        assert!(faults(&[state(&[], 1)]).is_empty(), "it never had a target");
    }

    #[test]
    fn a_rule_that_goes_away_is_a_fault() {
        let mut without = state(&["healthy"], 1);
        without.load_balancers[0].listeners[0].rules.clear();
        assert_eq!(faults(&[state(&["healthy"], 1), without]), ["the rule r is gone"]);
    }
}
