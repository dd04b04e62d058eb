//! The service account that an agent of a scenario runs as, and what it may do. Taken away and given back as a cluster's
//! administrator would: by changing a role. Which of these permissions the chart gives is for the chart's own tests.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::RealKube;

const NAMESPACE: &str = "switchyard-system";
const NAME: &str = "switchyard-agent";
const RBAC: &str = "rbac.authorization.k8s.io";

/// API group, resource, verbs.
const PERMISSIONS: [(&str, &str, &[&str]); 10] = [
    ("", "services", READ),
    ("", "pods", READ),
    ("", "nodes", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    ("", "pods/status", &["get", "patch"]),
    ("switchyard.dev", "clustertrafficpolicies", READ),
    ("switchyard.dev", "clustertrafficpolicies/status", &["get", "patch"]),
    ("switchyard.dev", "trafficshifts", READ),
    ("switchyard.dev", "trafficshifts/status", &["get", "patch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];
const READ: &[&str] = &["get", "list", "watch"];

/// One rule a verb, without what is denied; `*` denies all.
fn rules(denied: &[(&str, &str)]) -> Value {
    let matches = |pattern: &str, text: &str| pattern == "*" || pattern == text;
    let each = PERMISSIONS.into_iter().flat_map(|(group, resource, verbs)| {
        let kept =
            verbs.iter().filter(move |verb| !denied.iter().any(|(v, r)| matches(v, verb) && matches(r, resource)));
        kept.map(move |verb| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}))
    });
    each.collect()
}

impl RealKube {
    /// Makes the agent's account, with all permissions, and gives a kubeconfig for it.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn kubeconfig_for_agent(&self) -> anyhow::Result<PathBuf> {
        let subject = json!({"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE});
        let named = json!({"name": NAME});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}},
            {"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": named, "subjects": [subject],
             "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": NAME}},
        ]});
        self.try_apply(&list).await?;
        self.set_agent_permissions(&[]).await?;
        self.kubeconfig_for_service_account(NAMESPACE, NAME).await
    }

    /// Gives the agent all permissions but these, as verb and resource. A watch that was allowed when it began goes on: that is
    /// how Kubernetes is, and only a restart of the server ends it.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn set_agent_permissions(&self, denied: &[(&str, &str)]) -> anyhow::Result<()> {
        let role = json!({"apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": NAME},
            "rules": rules(denied)});
        self.try_apply(&role).await
    }

    async fn try_apply(&self, object: &Value) -> anyhow::Result<()> {
        let finished = self.kubectl_with(&["apply", "--server-side", "-f", "-"], &object.to_string()).await?;
        anyhow::ensure!(finished.code == 0, "{object:#}\n{finished}");
        Ok(())
    }

    /// What a scenario does to an API server, by the names that the sandbox's control API has for it.
    ///
    /// # Errors
    /// When there is no such thing for a real server, or it does not come back.
    pub async fn act(&self, action: &str) -> anyhow::Result<()> {
        match action {
            "stop" => self.stop_apiserver(),
            "start" => self.start_apiserver().await?,
            "restart" => self.restart_apiserver().await?,
            // Only after a restart does a real server refuse older versions.
            "compact" => {
                self.compact_etcd().await?;
                self.restart_apiserver().await.context("after a compaction")?;
            }
            _ => anyhow::bail!("a real API server knows no {action}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_verb_is_missing_and_every_other_is_there() {
        let count = |denied: &[(&str, &str)]| rules(denied).as_array().map_or(0, Vec::len);
        let all = count(&[]);
        assert_eq!(count(&[("watch", "pods")]), all - 1);
        assert_eq!(count(&[("*", "pods")]), all - 3);
        assert_eq!(count(&[("*", "*")]), 0);
    }
}
