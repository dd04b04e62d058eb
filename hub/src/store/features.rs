//! What an agent can do beside the first version of the protocol. An agent that does not name a feature is never asked for it.

use serde_json::Value;

/// A feature, by the word that agents and the store use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentFeature {
    /// Reports nodes as endpoints of Services that are watched for instance targets.
    InstanceTargets,
}

impl AgentFeature {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            AgentFeature::InstanceTargets => "instance-targets",
        }
    }

    /// True when a stored list names it.
    pub(super) fn is_in(self, features: &Value) -> bool {
        features.as_array().is_some_and(|features| features.iter().any(|feature| feature == self.word()))
    }
}
