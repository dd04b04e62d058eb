//! Jobs as a cluster carries them out: a real API server takes them (strictly: no field that it does not know), its Job controller
//! makes and replaces the pods and judges their exit codes, and this is the kubelet: it runs the container's command with the pod's
//! variables and labels, and writes how it ended.

use std::time::Duration;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use switchyard_tests::{
    process::Finished,
    realkube::{self, RealKube},
    wait,
};

use crate::{
    expressions::filled,
    scene::Scene,
    shell::{self, Variables},
};

/// The controller makes a failed pod's successor after 10 s.
const REPLACED_WITHIN: Duration = Duration::from_secs(90);
/// Where the examples mount the Secret with the token.
const MOUNT: &str = "/etc/switchyard";

/// One Job in a namespace of its own.
pub struct Running<'a> {
    scene: &'a Scene,
    jobs: Api<Job>,
    pods: Api<Pod>,
    name: String,
    run: Vec<String>,
}

impl<'a> Running<'a> {
    /// Has the server make it, with these variables instead of the example's.
    ///
    /// # Panics
    /// When the server refuses it.
    pub async fn make(scene: &'a Scene, mut manifest: Value, variables: &[(&str, &str)]) -> Self {
        let kube = realkube::shared().await;
        let namespace = kube.namespace("cd").await.expect("a namespace");
        manifest["metadata"]["namespace"] = json!(namespace);
        let env = manifest.pointer_mut("/spec/template/spec/containers/0/env").expect("variables");
        for (name, value) in variables {
            let mut list = env.as_array_mut().expect("a list").iter_mut();
            let found = list.find(|variable| variable["name"] == *name);
            found.unwrap_or_else(|| panic!("{name} is no variable"))["value"] = json!(value);
        }
        for dry in [true, false] {
            apply(kube, &manifest, dry).await;
        }
        let client = kube.client().await.expect("a client");
        let name = manifest["metadata"]["name"].as_str().expect("a name").to_owned();
        let (jobs, pods) = (Api::namespaced(client.clone(), &namespace), Api::namespaced(client, &namespace));
        Self { scene, jobs, pods, name, run: Vec::new() }
    }

    /// The next pod that was not run yet.
    async fn next(&self) -> Pod {
        let list = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", self.name));
        let what = format!("pod number {} of the Job {}", self.run.len() + 1, self.name);
        let found = wait::until_within(&what, REPLACED_WITHIN, async || {
            let pods = self.pods.list(&list).await.map_err(|error| error.to_string())?.items;
            let new = pods.iter().find(|pod| !self.run.contains(&name(pod))).cloned();
            new.ok_or_else(|| format!("{:?}", pods.iter().map(|pod| &pod.status).collect::<Vec<_>>()))
        });
        found.await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Runs the next pod; stops it as soon as it says this word, if one is given.
    ///
    /// # Panics
    /// When there is none.
    pub async fn pod(&mut self, stopped_at: Option<&str>) -> Finished {
        let pod = self.next().await;
        self.run.push(name(&pod));
        let command = self.command(&pod);
        let finished = match stopped_at {
            Some(word) => shell::run_until(command, word).await,
            None => shell::run(command).await,
        };
        self.tell(&name(&pod), finished.code).await;
        finished
    }

    /// What the container runs, with its variables.
    fn command(&self, pod: &Pod) -> tokio::process::Command {
        let spec = pod.spec.as_ref().expect("a spec");
        let container = &spec.containers[0];
        let mounts = container.volume_mounts.iter().flatten();
        assert_eq!(mounts.map(|mount| mount.mount_path.as_str()).collect::<Vec<_>>(), [MOUNT]);
        let credentials = self.scene.credentials();
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let mut variables = Variables::new();
        for variable in container.env.iter().flatten() {
            let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
            let value = match field.map(|field| field.field_path.as_str()) {
                Some(path) => {
                    let label = path.strip_prefix("metadata.labels['").and_then(|path| path.strip_suffix("']"));
                    label.and_then(|label| labels.get(label)).unwrap_or_else(|| panic!("{path}: {labels:?}")).clone()
                }
                None => variable.value.clone().unwrap_or_default(),
            };
            // The Secret is mounted there.
            variables.insert(variable.name.clone(), value.replacen(MOUNT, &credentials.display().to_string(), 1));
        }
        let words =
            [container.command.clone().unwrap_or_default(), container.args.clone().unwrap_or_default()].concat();
        let words: Vec<String> = words.iter().map(|word| filled(word, "$(", ")", &variables)).collect();
        let mut command = shell::command(self.scene, &words[0], &credentials, &variables);
        command.args(&words[1..]);
        command
    }

    /// Writes into the pod's status how its container ended.
    async fn tell(&self, pod: &str, code: i32) {
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let ended = json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }}});
        let status = json!({"phase": phase, "containerStatuses": [{
            "name": "yardctl", "image": "registry.example.com/tools/yardctl:0.1.0", "imageID": "", "ready": false,
            "restartCount": 0, "started": false, "state": ended,
        }]});
        let patch = Patch::Strategic(json!({"status": status}));
        let patched = self.pods.patch_status(pod, &PatchParams::default(), &patch).await;
        patched.expect("the status is written");
    }

    /// Waits until the Job has ended, and gives the condition that says how, such as `Failed PodFailurePolicy`.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self) -> String {
        wait::until(&format!("the Job {} to end", self.name), async || {
            let job = self.jobs.get(&self.name).await.map_err(|error| error.to_string())?;
            let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
            let found =
                conditions.iter().find(|one| one.status == "True" && ["Complete", "Failed"].contains(&&*one.type_));
            let words = |found: &k8s_openapi::api::batch::v1::JobCondition| {
                format!("{} {}", found.type_, found.reason.clone().unwrap_or_default())
            };
            found.map(words).ok_or_else(|| format!("{conditions:?}"))
        })
        .await
    }
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().expect("a pod has a name")
}

async fn apply(kube: &RealKube, manifest: &Value, dry: bool) {
    let mut arguments = vec!["apply", "--server-side", "--validate=strict", "-f", "-"];
    if dry {
        arguments.push("--dry-run=server");
    }
    let applied = kube.kubectl_with(&arguments, &manifest.to_string()).await.expect("kubectl runs");
    assert!(applied.code == 0 && !applied.stderr.contains("Warning"), "{applied}");
}
