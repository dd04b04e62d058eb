//! Policies as the scenarios write them.

use serde_json::{Value, json};

/// A policy that is correct until a scenario spoils it.
#[derive(Clone, Debug)]
pub struct Policy(pub Value);

impl Policy {
    /// `shop/<name>`: requests for `shop.example.com/<name>` go to the Service of the same name on its port `http`.
    pub fn new(name: &str, weights: &[(&str, u32)]) -> Self {
        let clusters: Vec<Value> =
            weights.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect();
        Self(json!({
            "apiVersion": "switchyard.dev/v1alpha1",
            "kind": "ClusterTrafficPolicy",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {
                "listener": {"loadBalancer": "shared-public", "port": 80},
                "match": {
                    "hostnames": ["shop.example.com"],
                    "paths": [{"type": "Prefix", "value": format!("/{name}")}],
                },
                "order": 100,
                "backend": {
                    "service": {"name": name, "port": "http"},
                    "healthCheck": {
                        "path": "/healthz", "intervalSeconds": 5, "timeoutSeconds": 4,
                        "healthyThreshold": 2, "unhealthyThreshold": 2,
                    },
                    "deregistrationDelaySeconds": 20,
                },
                "clusters": clusters,
            },
        }))
    }

    /// Changes one value; `path` as in `/spec/backend/service/port`.
    ///
    /// # Panics
    /// When there is nothing above that path.
    #[must_use]
    pub fn with(mut self, path: &str, value: Value) -> Self {
        let (parent, field) = path.rsplit_once('/').expect("a path begins with a slash");
        let parent = self.0.pointer_mut(parent).expect("the field has a parent");
        match parent.as_array_mut() {
            Some(array) => array[field.parse::<usize>().expect("an array takes a number")] = value,
            None => parent[field] = value,
        }
        self
    }

    /// As a file for yardctl: JSON is YAML.
    pub fn yaml(&self) -> String {
        format!("{:#}\n", self.0)
    }
}
