//! What a caller should know of a policy that is accepted and yet may not do what is meant. Pure.

use switchyard_core::{
    fleet::Mode,
    inventory::{Inventory, Link, ServiceCondition},
    policy::ValidatedPolicy,
};

use crate::feed::Fleet;

/// One sentence for each cluster that operators hold back, that was never seen, is away, or does not have the Service.
pub fn warnings(policy: &ValidatedPolicy, inventory: &Inventory, fleet: &Fleet) -> Vec<String> {
    let mut found = Vec::new();
    for (name, weight) in &policy.clusters {
        let mode = fleet.get(name).map_or(Mode::Active, |state| state.mode);
        if let Some(text) = held_back(mode) {
            found.push(format!("cluster {name}: {text}; yardctl uncordon {name} ends that"));
        }
        // Its agent is refused, and what it reported was forgotten on purpose.
        if mode == Mode::Removed {
            continue;
        }
        let Some(cluster) = inventory.clusters.get(name) else {
            let text = "no agent of this cluster was ever seen; check the name, or start its agent";
            found.push(format!("cluster {name}: {text}"));
            continue;
        };
        if cluster.link == Link::Stale {
            let text = "its agent is away; what it reported last stays in force";
            found.push(format!("cluster {name}: {text}"));
        }
        let service = &policy.service;
        if service.targets_nodes() && !cluster.reports_nodes {
            found.push(format!("cluster {name}: its agent is too old for targetType instance; upgrade it"));
            continue;
        }
        // A Service that was not watched before has no state yet, which is no fault.
        let state = inventory.services.get(&(name.clone(), service.clone()));
        let fault = match state.map(|state| state.condition) {
            None | Some(ServiceCondition::Resolved) => continue,
            Some(ServiceCondition::NotFound) => "there is no such Service".to_owned(),
            Some(ServiceCondition::PortNotFound) => format!("the Service has no port {}", service.port),
            Some(ServiceCondition::NoSelectedPods) => "the Service selects no pods".to_owned(),
            Some(ServiceCondition::NoNodePort) => {
                "the Service has no node port, which targetType instance needs".to_owned()
            }
        };
        let share = if weight.carries() { ", and its share waits for targets" } else { "" };
        found.push(format!("cluster {name}: Service {}/{}: {fault}{share}", service.namespace, service.name));
    }
    found
}

fn held_back(mode: Mode) -> Option<&'static str> {
    match mode {
        Mode::Active | Mode::Returning => None,
        Mode::Cordoned => Some("it is cordoned, so it gets no new weight"),
        Mode::Draining => Some("it is being drained, so its share goes down in every policy"),
        Mode::Drained => Some("it is drained, so it gets no share as long as another cluster carries the policy"),
        Mode::Removed => Some("it was removed, so it takes part in nothing"),
    }
}
