//! Whatever happens between an agent and its API server, the agent's view comes to equal a list taken at rest, and nothing that
//! lives is ever taken back: no target flaps. The agent is the real program, as a service account; the hub only writes down.

use std::{collections::BTreeSet, time::Duration};

use switchyard_tests::{
    member::Agent,
    process::tail,
    proxy::{Proxy, Weather},
    realkube::{
        Options, RealKube,
        crowd::{Crowd, Member},
    },
    recorder::Recorder,
    wait, world,
};
use tempfile::TempDir;

/// An agent of one cluster, and everything around it.
struct Scene {
    kube: RealKube,
    crowd: Crowd,
    services: Vec<String>,
    recorder: Recorder,
    proxy: Proxy,
    agent: Agent,
    folder: TempDir,
    /// Numbers of the pods that were made to see whether changes arrive.
    markers: std::ops::RangeFrom<u32>,
}

impl Scene {
    /// A control plane with these Services and no pods, and an agent that is live.
    async fn begin(options: Options, services: u32) -> Self {
        let kube = RealKube::start(options).await.expect("a control plane");
        let crowd = Crowd::new(&kube).await.expect("a namespace");
        let services: Vec<String> = (0..services).map(|number| format!("service-{number}")).collect();
        for service in &services {
            crowd.service(service).await.expect("a Service");
        }
        let recorder = Recorder::start(&crowd.namespace, &services).await.expect("a hub");
        let proxy = Proxy::start(kube.socket()).await.expect("a proxy");
        let direct = kube.kubeconfig_for_agent().await.expect("the agent's account");
        let proxied = kube.kubeconfig_through(proxy.address(), &direct).expect("a kubeconfig");
        let folder = world::folder().expect("a folder");
        let place = ("eu-central-1", "vpc-1");
        let agent = Agent::launch(folder.path(), "blue", &proxied, place, recorder.url()).expect("the agent starts");
        let scene = Self { kube, crowd, services, recorder, proxy, agent, folder, markers: 60_000.. };
        wait::until("the agent to be live", async || wait::check(scene.recorder.record().live, || scene.log())).await;
        scene
    }

    fn log(&self) -> String {
        tail(&self.folder.path().join("agent-blue.log"), 30)
    }

    /// Everything that the agent ever logged.
    fn whole_log(&self) -> String {
        tail(&self.folder.path().join("agent-blue.log"), usize::MAX)
    }

    /// Waits until the cluster is at rest, with so many targets, and the agent shows what a list of them shows.
    async fn equals_a_list_at_rest(&self, count: usize) {
        let (recorder, crowd) = (&self.recorder, &self.crowd);
        wait::until("the agent's view to equal a list at rest", async || {
            let listed = crowd.at_rest().await.map_err(|e| format!("{e:#}"))?;
            let shown = recorder.record().targets();
            let differ: Vec<_> = shown.symmetric_difference(&listed).take(5).cloned().collect();
            let seen = || {
                let (shown, listed) = (shown.len(), listed.len());
                format!(
                    "{shown} shown, {listed} listed, {count} expected, differing such as {differ:?}\n{}",
                    self.log()
                )
            };
            wait::check(differ.is_empty() && shown.len() == count, seen)
        })
        .await
    }

    /// Proves that the agent follows again: a new pod arrives, through every watch that it takes.
    async fn follows(&mut self) {
        let number = self.markers.next().expect("numbers do not end");
        let service = self.services[0].clone();
        let marker = self.crowd.pods(&service, number..number + 1).await.expect("a pod").remove(0);
        let recorder = &self.recorder;
        wait::until("a new pod to arrive", async || {
            let arrived = recorder.record().targets().iter().any(|target| target.pod_uid == marker.uid);
            wait::check(arrived, || self.log())
        })
        .await;
    }

    /// Nothing was taken back but these pods, and nothing came back or stopped being ready for a while. A pod that died is out of
    /// the view at once, and taken back when its EndpointSlice says so, too, which a controller that was cut off does late.
    async fn nothing_flapped(&self, deleted: &[Member]) {
        let expected: BTreeSet<&str> = deleted.iter().map(|member| member.uid.as_str()).collect();
        wait::until("the dead to be taken back", async || {
            let record = self.recorder.record();
            let alive: Vec<_> = record.removed().difference(&expected).map(ToString::to_string).collect();
            assert!(alive.is_empty(), "taken back but alive: {alive:?}");
            let kept = expected.difference(&record.removed()).count();
            wait::check(kept == 0, || format!("{kept} of {} are not taken back\n{}", expected.len(), self.log()))
        })
        .await;
        assert_eq!(self.recorder.record().flaps(), Vec::<String>::new());
    }

    async fn end(mut self) {
        self.agent.stop().await.expect("the agent ends well");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_api_server_takes_nothing_back() {
    let mut scene = Scene::begin(Options::WITH_CONTROLLERS, 3).await;
    for (service, numbers) in [("service-0", 0..40), ("service-1", 40..60), ("service-2", 60..61)] {
        scene.crowd.pods(service, numbers).await.expect("pods");
    }
    scene.equals_a_list_at_rest(61).await;
    for restarts in 1..=2 {
        scene.kube.restart_apiserver().await.expect("the server comes back");
        scene.follows().await;
        scene.equals_a_list_at_rest(61 + restarts).await;
    }
    scene.nothing_flapped(&[]).await;
    assert_eq!(scene.recorder.record().sessions, 1, "the stream to the hub has nothing to do with it");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_that_expired_while_the_agent_was_cut_off_costs_a_relist_and_no_target() {
    let mut scene = Scene::begin(Options::WITH_CONTROLLERS, 2).await;
    let mut pods = scene.crowd.pods("service-0", 0..30).await.expect("pods");
    scene.crowd.pods("service-1", 30..50).await.expect("pods");
    scene.equals_a_list_at_rest(50).await;

    scene.proxy.set(Weather::Cut);
    let deleted = pods.split_off(20);
    scene.crowd.delete(&deleted).await.expect("pods are deleted");
    scene.crowd.pods("service-0", 100..110).await.expect("more pods");
    // From here on nobody can be told what happened in between.
    scene.kube.compact_etcd().await.expect("the history goes");
    scene.kube.restart_apiserver().await.expect("the server comes back");
    scene.proxy.set(Weather::Clear);

    scene.follows().await;
    scene.equals_a_list_at_rest(51).await;
    scene.nothing_flapped(&deleted).await;
    let log = scene.whole_log();
    assert!(log.contains("(HTTP 410)"), "the server has refused to go on from the old version: {log}");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watch_is_late_and_never_wrong() {
    let mut scene = Scene::begin(Options::WITH_CONTROLLERS, 1).await;
    let mut alive = scene.crowd.pods("service-0", 0..60).await.expect("pods");
    scene.equals_a_list_at_rest(60).await;

    scene.proxy.set(Weather::Slow(Duration::from_millis(20)));
    let mut deleted = Vec::new();
    for round in 0..4 {
        let gone = alive.split_off(alive.len() - 10);
        scene.crowd.delete(&gone).await.expect("pods are deleted");
        deleted.extend(gone);
        let first = 100 + round * 10;
        let more = scene.crowd.pods("service-0", first..first + 10).await.expect("more pods");
        alive.splice(0..0, more);
    }
    scene.follows().await;
    scene.equals_a_list_at_rest(61).await;
    scene.nothing_flapped(&deleted).await;

    // Over while much is on its way: cut in the middle of events, then clear.
    let gone = alive.split_off(alive.len() - 20);
    scene.crowd.delete(&gone).await.expect("pods are deleted");
    deleted.extend(gone);
    scene.proxy.set(Weather::Cut);
    scene.proxy.set(Weather::Clear);
    scene.follows().await;
    scene.equals_a_list_at_rest(42).await;
    scene.nothing_flapped(&deleted).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_pods_are_shown_as_they_are_through_restarts_and_a_great_dying() {
    const SERVICES: u32 = 10;
    const EACH: u32 = 500;
    let scene = Scene::begin(Options::default(), SERVICES).await;
    let mut members = Vec::new();
    for (service, first) in scene.services.iter().zip((0..).step_by(EACH as usize)) {
        let pods = scene.crowd.pods(service, first..first + EACH).await.expect("pods");
        scene.crowd.slices(service, &pods).await.expect("slices");
        members.push(pods);
    }
    scene.equals_a_list_at_rest(5_000).await;

    // A cut makes the agent go on from where it was, a compaction makes it list everything again.
    for (compacted, left) in [(false, 4_999), (true, 4_998)] {
        scene.proxy.set(Weather::Cut);
        if compacted {
            scene.kube.compact_etcd().await.expect("the history goes");
        }
        scene.kube.restart_apiserver().await.expect("the server comes back");
        scene.proxy.set(Weather::Clear);
        let pods = &mut members[0];
        let gone = pods.pop().expect("a pod");
        scene.crowd.delete(std::slice::from_ref(&gone)).await.expect("a pod is deleted");
        scene.crowd.slices("service-0", pods).await.expect("slices");
        scene.equals_a_list_at_rest(left).await;
        scene.nothing_flapped(std::slice::from_ref(&gone)).await;
        scene.recorder.record().forget();
    }

    let mut deleted = Vec::new();
    for (service, pods) in scene.services.iter().zip(&mut members) {
        let gone = pods.split_off(pods.len() - 50);
        scene.crowd.delete(&gone).await.expect("pods are deleted");
        scene.crowd.slices(service, pods).await.expect("slices");
        deleted.extend(gone);
    }
    scene.equals_a_list_at_rest(4_498).await;
    scene.nothing_flapped(&deleted).await;
    scene.end().await;
}
