//! After the storm: every trouble ends, operators say what only they can say, and then what was asked for has to come true, beside a
//! policy that can never be satisfied (I9, I11), and nothing is written any more (I8).

use std::collections::BTreeMap;

use switchyard_core::{fleet::Mode, status::ConditionType};

use super::{
    Broken, SLOTS, Tick, World,
    event::{App, Event, Place},
    key,
    members::service,
    seconds,
};

/// The longest way back: the hold-down of failover, steps, settle times, waits after refusals, and the shifts under way.
const PATIENCE: Tick = seconds(400);
/// From the loss of a cluster to the end of its share: the checks of the load balancer (2 s), the next look at its health (5 s), the
/// time of the policy for it to last (2 s), a decision and a call, with as much again to spare.
const LOSS: Tick = seconds(20);
/// Nothing may be written for so long at the end.
const QUIET: Tick = seconds(20);

impl World {
    /// Ends every trouble.
    pub fn end_the_storm(&mut self) {
        let now = self.now;
        self.store.set_away(false);
        self.store.slow = false;
        self.aws.calm();
        for zone in 0..3 {
            self.apply(&Event::ZoneBack(zone));
        }
        for place in Place::ALL {
            for event in [Event::Lit(place), Event::ApiBack(place), Event::AgentLags(place, 0), Event::AgentBack(place)]
            {
                self.apply(&event);
            }
            for app in App::ALL {
                for slot in 0..SLOTS {
                    let taken = self.has_shared_address((place, app, slot));
                    let going = self.member(place).pods.get(&(app, slot)).is_none_or(|pod| pod.terminating);
                    // The last slot may stay empty.
                    let going = going && slot < SLOTS - 1;
                    if taken || going {
                        self.apply(&Event::PodMoves((place, app, slot)));
                    }
                    self.member(place).set_answers(app, slot, true, now);
                    self.member(place).set_ready(app, slot, true);
                }
            }
        }
        for hub in 0..2 {
            self.hubs[hub].paused = false;
            // A restored database is looked at by a person, who starts the hubs anew when it is right.
            if !self.hubs[hub].alive || self.store.restored > 0 {
                self.start_hub(hub, self.store.restored > 0);
            }
        }
        for app in App::ALL {
            self.apply(&Event::Freeze(app, false));
            self.apply(&Event::Failback(app));
        }
        Place::ALL.into_iter().for_each(|place| self.apply(&Event::Uncordon(place)));
    }

    fn has_shared_address(&self, (place, app, slot): (Place, App, u8)) -> bool {
        let Some(pod) = self.members[place as usize].pods.get(&(app, slot)) else { return false };
        let pods = self.members.iter().flat_map(|member| member.pods.values());
        pods.filter(|other| other.address == pod.address).count() > 1
    }

    /// The calm, until everything is as it should be.
    pub fn calm(&mut self) -> Result<(), Broken> {
        self.end_the_storm();
        let start = self.now;
        let (mut writes, mut quiet_since) = (self.aws.writes, self.now);
        loop {
            self.tick()?;
            if self.aws.writes != writes {
                (writes, quiet_since) = (self.aws.writes, self.now);
            }
            if !self.now.is_multiple_of(seconds(1)) || self.now - quiet_since < QUIET {
                continue;
            }
            // Failing back is an act of its own; who went out again since is let back again.
            match self.wrong() {
                None => return Ok(()),
                Some(detail) if self.now - start > PATIENCE => {
                    return Err(Broken { invariant: "calm", detail, at: self.now });
                }
                Some(_) => {}
            }
        }
    }

    /// After the calm: a cluster is lost, its share moves within seconds, and it comes back by itself.
    pub fn lose_a_cluster(&mut self) -> Result<(), Broken> {
        let carries = |world: &Self, place: Place| {
            world.weights_of(App::Checkout).get(place.name()).is_some_and(|weight| *weight > 0)
        };
        // Those that share the load, and the standby.
        let takes = |place: &Place| carries(self, *place) || *place == Place::Dr;
        let named = self.weights_of(App::Checkout);
        let others = |lost: Place| {
            Place::ALL.into_iter().any(|place| place != lost && named.contains_key(place.name()) && takes(&place))
        };
        let lost = Place::ALL.into_iter().find(|place| carries(self, *place) && others(*place));
        let Some(lost) = lost else { return Ok(()) };
        self.apply(&Event::Dark(lost));
        for _ in 0..LOSS {
            self.tick()?;
        }
        if carries(self, lost) {
            let detail = format!(
                "{} is dark for {} s and keeps its share: {:?}",
                lost.name(),
                LOSS / seconds(1),
                self.told(App::Checkout)
            );
            return Err(Broken { invariant: "failover", detail, at: self.now });
        }
        self.calm()
    }

    fn told(&self, app: App) -> Option<String> {
        let stored = self.store.content.policies.get(&key(app.name()))?;
        stored.status.as_ref().map(|status| format!("{:?} {:?}", status.conditions, status.notes))
    }

    /// What is not as asked for; none: everything is.
    fn wrong(&self) -> Option<String> {
        if !self.hubs.iter().any(|hub| hub.holds_lease()) {
            return Some("no hub holds the lease".to_owned());
        }
        let content = &self.store.content;
        if let Some(shift) = content.shifts.values().find(|shift| shift.is_active()) {
            return Some(format!("shift {} is {:?}: {}", shift.id, shift.state, shift.message));
        }
        if let Some(state) = content.fleet.values().find(|state| state.mode != Mode::Active) {
            return Some(format!("{} is {:?}: {}", state.cluster, state.mode, state.operation.message));
        }
        let leader = self.hubs.iter().find(|hub| hub.holds_lease())?;
        if leader.last_steps > 0 {
            return Some(format!("the plan of an unchanged world has {} steps", leader.last_steps));
        }
        App::ALL.into_iter().find_map(|app| self.wrong_with(app))
    }

    fn wrong_with(&self, app: App) -> Option<String> {
        let Some(stored) = self.store.content.policies.get(&key(app.name())) else {
            return (!self.weights_of(app).is_empty()).then(|| format!("the rule of {} is left behind", app.name()));
        };
        if stored.record.deleting_since.is_some() {
            return Some(format!("{} is not gone", app.name()));
        }
        let requested: BTreeMap<String, u32> =
            stored.record.requested().into_iter().map(|(name, weight)| (name.to_string(), weight.get())).collect();
        let programmed = self.weights_of(app);
        let told = || self.told(app);
        if programmed != requested {
            return Some(format!("{}: {programmed:?} instead of {requested:?}: {:?}", app.name(), told()));
        }
        let converged = stored.status.as_ref().and_then(|status| status.condition(ConditionType::Converged)?.status);
        if converged != Some(true) {
            return Some(format!("{} has not converged: {:?}", app.name(), told()));
        }
        self.missing_target(app)
    }

    fn missing_target(&self, app: App) -> Option<String> {
        let clusters = &self.store.content.policies[&key(app.name())].record.policy.clusters;
        for (arn, group) in &self.aws.truth.target_groups {
            let of = |tag: &str| group.tags.get(tag).map(String::as_str).unwrap_or_default();
            if of("switchyard.dev/policy") != format!("shop/{}", app.name()) {
                continue;
            }
            let Some(place) = Place::ALL.into_iter().find(|place| place.name() == of("switchyard.dev/cluster")) else {
                continue;
            };
            if !clusters.iter().any(|(name, _)| name.as_str() == place.name()) {
                continue;
            }
            let pods = self.members[place as usize].pods.iter().filter(|((of, _), pod)| *of == app && pod.wanted());
            let missing = pods.map(|(_, pod)| pod.target()).find(|target| !self.aws.targets(arn).contains_key(target));
            if let Some(target) = missing {
                return Some(format!("{target} of {} in {} is not registered", service(app).name, place.name()));
            }
        }
        None
    }
}
