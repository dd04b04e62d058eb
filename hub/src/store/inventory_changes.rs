//! What an agent reports, and how a batch of it is cut into parts whose order does not matter. No statements in here.

use std::collections::BTreeMap;

use switchyard_core::{
    ids::PolicyName,
    inventory::{EndpointKey, Evidence, ServiceKey, ServiceState},
};

/// How a Service stands, with its node port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewServiceState {
    /// Condition and sentence; at most 1024 characters are kept.
    pub state: ServiceState,
    /// 0 when the Service port has none.
    pub node_port: u16,
}

/// An endpoint as the agent reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEndpoint {
    /// May get new requests.
    pub ready: bool,
    /// Answers requests, also while terminating.
    pub serving: bool,
    /// Its pod has a deletionTimestamp.
    pub terminating: bool,
    /// The pod's name, for people.
    pub pod_name: String,
    /// The node, for people.
    pub node: String,
    /// The zone, may be empty.
    pub zone: String,
    /// ENI ids of the pod.
    pub eni_ids: Vec<String>,
    /// The policies whose target health the pod's readiness gates wait for.
    pub gates: Vec<PolicyName>,
    /// The whole PodInfo as one JSON value, as the store keeps it for people and later versions. As text: a snapshot holds a hundred
    /// thousand of them, and as values they would take many times as much memory. Without U+0000, which jsonb cannot hold.
    pub pod: Box<str>,
}

/// One change that an agent reports, in the order in which it saw them.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointChange {
    /// How a Service stands.
    Service(ServiceKey, NewServiceState),
    /// An endpoint is there.
    Upsert(EndpointKey, NewEndpoint),
    /// An endpoint is gone. Gone again, or never known, is fine; absence never replaces stronger evidence.
    Gone(EndpointKey, Evidence),
}

impl EndpointChange {
    pub(super) fn endpoint(&self) -> Option<&EndpointKey> {
        match self {
            EndpointChange::Service(..) => None,
            EndpointChange::Upsert(key, _) | EndpointChange::Gone(key, _) => Some(key),
        }
    }
}

/// Changes of which no two speak of the same thing, so that their order does not matter.
#[derive(Default)]
pub(super) struct Phase<'a> {
    pub services: BTreeMap<&'a ServiceKey, &'a NewServiceState>,
    pub upserts: BTreeMap<&'a EndpointKey, &'a NewEndpoint>,
    pub gone: BTreeMap<&'a EndpointKey, Evidence>,
}

impl<'a> Phase<'a> {
    fn speaks_of(&self, change: &'a EndpointChange) -> bool {
        match change {
            EndpointChange::Service(key, _) => self.services.contains_key(key),
            EndpointChange::Upsert(key, _) | EndpointChange::Gone(key, _) => {
                self.upserts.contains_key(key) || self.gone.contains_key(key)
            }
        }
    }

    fn add(&mut self, change: &'a EndpointChange) {
        match change {
            EndpointChange::Service(key, report) => drop(self.services.insert(key, report)),
            EndpointChange::Upsert(key, new) => drop(self.upserts.insert(key, new)),
            EndpointChange::Gone(key, evidence) => drop(self.gone.insert(key, *evidence)),
        }
    }
}

/// Splits changes into as few phases as keep the meaning of their order: usually one.
pub(super) fn phases(changes: &[EndpointChange]) -> Vec<Phase<'_>> {
    let mut phases = vec![Phase::default()];
    for change in changes {
        if phases.last().is_some_and(|phase| phase.speaks_of(change)) {
            phases.push(Phase::default());
        }
        if let Some(phase) = phases.last_mut() {
            phase.add(change);
        }
    }
    phases
}

#[cfg(test)]
mod tests {
    use switchyard_core::inventory::ServiceCondition;

    use super::*;

    fn key(address: &str) -> EndpointKey {
        EndpointKey {
            cluster: "blue".parse().unwrap(),
            service: ServiceKey {
                namespace: "shop".parse().unwrap(),
                name: "checkout".parse().unwrap(),
                port: "http".parse().unwrap(),
                target_type: switchyard_core::policy::spec::TargetType::Ip,
            },
            target: switchyard_core::observed::Target { id: address.parse().unwrap(), port: 8080 },
            pod_uid: "uid".parse().unwrap(),
        }
    }

    fn report() -> NewServiceState {
        NewServiceState {
            state: ServiceState {
                condition: ServiceCondition::Resolved,
                message: String::new(),
                health_check_node_port: None,
            },
            node_port: 0,
        }
    }

    #[test]
    fn changes_of_different_things_are_one_phase_and_a_second_word_on_one_thing_opens_another() {
        let gone = |address: &str| EndpointChange::Gone(key(address), Evidence::Absent);
        let service = EndpointChange::Service(key("10.0.0.1").service, report());
        assert_eq!(phases(&[gone("10.0.0.1"), gone("10.0.0.2"), service.clone()]).len(), 1);
        let stronger = EndpointChange::Gone(key("10.0.0.1"), Evidence::PodDeleted);
        assert_eq!(phases(&[gone("10.0.0.1"), stronger]).len(), 2);
        assert_eq!(phases(&[service.clone(), service]).len(), 2);
    }
}
