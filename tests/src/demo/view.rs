//! What is shown of the demo: a page that is redrawn on a terminal, a line a second elsewhere, and the summary. Pure but for the
//! screen, which writes to standard output.

use std::{
    fmt::Write as _,
    io::{Write as _, stdout},
    time::Duration,
};

use serde_json::Value;

use super::story::Move;
use crate::{
    load::Report,
    world::{HOST, World},
};

/// Characters of a bar that stands for all requests: the row of a cluster just fits on a terminal of 80.
const BAR: usize = 20;
/// A line that wrapped would be counted as one and spoil the next page.
const MOST_COLUMNS: usize = 79;

/// A rolling update in one cluster.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// The cluster.
    pub cluster: String,
    /// Pods that are ready and stay.
    pub ready: usize,
    /// Pods that there should be.
    pub wanted: usize,
    /// Pods on their way out.
    pub leaving: usize,
    /// Under way.
    pub rolling: bool,
}

/// Everything that a look shows.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Since the first request.
    pub elapsed: Duration,
    /// What happens just now.
    pub phase: String,
    /// The traffic.
    pub load: Report,
    /// The policy as yardctl gives it.
    pub status: Option<Value>,
    /// The updates.
    pub rollouts: Vec<Rollout>,
    /// The number of the version that is rolled out.
    pub version: u32,
}

/// Where the looks are shown.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    lines: usize,
    shown: Option<(u64, String)>,
}

impl Screen {
    /// On a terminal the page is redrawn in place.
    pub fn new(terminal: bool) -> Self {
        Self { terminal, lines: 0, shown: None }
    }

    /// Shows a look; elsewhere than on a terminal one a second, and each change of phase.
    pub fn show(&mut self, picture: &Picture) {
        if self.terminal {
            let page = page(picture);
            if self.lines > 0 {
                // Up to the first line of the last page, and clear from there to the end.
                print!("\x1b[{}A\x1b[J", self.lines);
            }
            self.lines = page.lines().count();
            print!("{page}");
        } else {
            let now = (picture.elapsed.as_secs(), picture.phase.clone());
            if self.shown.as_ref() == Some(&now) {
                return;
            }
            println!("{}", line(picture));
            self.shown = Some(now);
        }
        // A screen that is gone is no reason to stop the demo.
        let _gone = stdout().flush();
    }
}

/// One cluster's weights, as text.
struct Weights {
    name: String,
    requested: String,
    effective: String,
    programmed: String,
    healthy: String,
}

fn weights(status: Option<&Value>) -> Vec<Weights> {
    let clusters = status.and_then(|s| s["status"]["clusters"].as_array()).cloned().unwrap_or_default();
    let text = |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
    clusters
        .iter()
        .map(|cluster| Weights {
            name: cluster["cluster"].as_str().unwrap_or_default().to_owned(),
            requested: text(&cluster["requested_weight"]),
            effective: text(&cluster["effective_weight"]),
            programmed: text(&cluster["programmed_weight"]),
            healthy: text(&cluster["targets"]["healthy"]),
        })
        .collect()
}

/// Whether the present version is served, or why it is not.
fn converged(status: Option<&Value>) -> String {
    let Some(status) = status else { return "the hub does not answer".to_owned() };
    if status["status"]["observed_version"] != status["version"] {
        return "no: the change was not looked at yet".to_owned();
    }
    let conditions = status["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let first = conditions.iter().find(|condition| condition["status"] != "true");
    match first {
        None if conditions.is_empty() => "not known yet".to_owned(),
        None => "yes".to_owned(),
        Some(no) => format!("no: {}", no["message"].as_str().unwrap_or_default()),
    }
}

/// The page for terminals.
fn page(picture: &Picture) -> String {
    let mut page = String::new();
    let load = &picture.load;
    let mut row = |text: &str| {
        page.extend(text.trim_end().chars().take(MOST_COLUMNS));
        page.push('\n');
    };
    row(&format!("{:>3} s  {}", picture.elapsed.as_secs(), picture.phase));
    row("");
    row("cluster  requested  effective  programmed  healthy  share of the last second");
    for cluster in weights(picture.status.as_ref()) {
        let share = load.window.share.get(&cluster.name).copied().unwrap_or_default();
        row(&format!(
            "{:<7}  {:>9}  {:>9}  {:>10}  {:>7}  {:>5.1}% {}",
            cluster.name,
            cluster.requested,
            cluster.effective,
            cluster.programmed,
            cluster.healthy,
            share * 100.0,
            bar(share)
        ));
    }
    row("");
    row(&format!("converged  {}", converged(picture.status.as_ref())));
    for rollout in &picture.rollouts {
        row(&format!("pods       {}: {}", rollout.cluster, pods(rollout, picture.version)));
    }
    let p99 = load.latency_ms.get("p99").copied().unwrap_or_default();
    row(&format!("requests   {} sent, {} a second, p99 {p99:.0} ms", load.sent, load.window.sent));
    row(&format!("failed     {}", load.failed));
    page
}

fn bar(share: f64) -> String {
    // A share is 0 to 1; what is not is shown as one of the ends.
    let filled = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    "#".repeat(filled)
}

fn pods(rollout: &Rollout, version: u32) -> String {
    let doing = if rollout.rolling { format!("update to v{version} under way") } else { format!("all at v{version}") };
    format!("{}/{} ready, {} leaving, {doing}", rollout.ready, rollout.wanted, rollout.leaving)
}

/// The line for logs.
fn line(picture: &Picture) -> String {
    let load = &picture.load;
    let clusters = weights(picture.status.as_ref());
    let join = |text: fn(&Weights) -> &str| clusters.iter().map(text).collect::<Vec<_>>().join("/");
    let shares: Vec<String> =
        load.window.share.iter().map(|(name, share)| format!("{name} {:.0}%", share * 100.0)).collect();
    let pods: Vec<String> =
        picture.rollouts.iter().map(|r| format!("{} {}/{}+{}", r.cluster, r.ready, r.wanted, r.leaving)).collect();
    format!(
        "{:>3}s {}; {}; requested {} effective {} programmed {} converged {}; pods {} (v{}); failed {} of {}",
        picture.elapsed.as_secs(),
        picture.phase,
        shares.join(" "),
        join(|w| &w.requested),
        join(|w| &w.effective),
        join(|w| &w.programmed),
        // The reason has its place on the page; here a word has to do.
        converged(picture.status.as_ref()).split(':').next().unwrap_or_default(),
        pods.join(" "),
        picture.version,
        load.failed,
        load.sent
    )
}

/// The end; its first line is the number of failed requests.
pub fn summary(report: &Report, moves: &[Move], rollouts: u32, complaints: &[String]) -> String {
    let mut text = format!("failed requests: {} of {}\n", report.failed, report.sent);
    for made in moves {
        let total: u64 = made.served.values().sum();
        let shares: Vec<String> = made
            .served
            .iter()
            .map(|(name, n)| format!("{name} {:.1}%", *n as f64 * 100.0 / total.max(1) as f64))
            .collect();
        // Writing into a String does not fail.
        let _ = writeln!(
            text,
            "moved to blue {:>3}, green {:>3}: converged after {:>4.1} s, then served {}",
            made.weights.0,
            made.weights.1,
            made.took.as_secs_f64(),
            shares.join(", ")
        );
    }
    if rollouts > 0 {
        let _ = writeln!(text, "meanwhile every pod of both clusters was replaced {rollouts} times");
    }
    let at = |name: &str| report.latency_ms.get(name).copied().unwrap_or_default();
    let _ = writeln!(
        text,
        "latency in ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, max {:.1}",
        at("p50"),
        at("p90"),
        at("p99"),
        at("max")
    );
    for complaint in complaints {
        let _ = writeln!(text, "NOT AS PROMISED: {complaint}");
    }
    text
}

/// What to try while the world stays up.
pub fn what_next(world: &World, load: u64) -> String {
    let yardctl = world.yardctl.program().display();
    let control = &world.sandbox.info().control_url;
    let address = &world.load_balancer.listeners[0].address;
    let json = "-H 'content-type: application/json'";
    format!(
        "Everything stays up, traffic included, until Ctrl-C. In another terminal:

  export SWITCHYARD_HUB={hub}
  {yardctl} status shop/checkout --watch
  {yardctl} weights shop/checkout blue=90 green=10 --wait converged
  {yardctl} get endpoints --cluster blue

  curl -H 'Host: {HOST}' http://{address}/checkout      # one request through the load balancer
  curl -s {control}/load/{load}                   # what became of all the others
  curl -s {hub_http}/metrics

Make trouble, look at `status`, and put it right again:

  curl -X POST {control}/clusters/blue/namespaces/shop/workloads/checkout/rollout {json} -d '{{\"version\":\"next\"}}'
  curl -X DELETE {control}/clusters/blue/namespaces/shop/services/checkout     # nothing is emptied: status says what is held
  curl -X POST {control}/clusters/blue/namespaces/shop/services {json} \\
    -d '{{\"name\":\"checkout\",\"selector\":{{\"app\":\"checkout\"}},\"ports\":[{{\"name\":\"http\",\"port\":80,\"target_port\":\"http\"}}]}}'
  curl -X POST {control}/clusters/green/pods/mode {json} -d '{{\"mode\":\"failing\"}}'   # or normal, hung, crashed, slow
  curl -s {control}/elb/state                     # what AWS would show

The logs are in {logs}",
        hub = world.hub.grpc_url(),
        hub_http = world.hub.http_url(),
        logs = world.folder().display(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn picture() -> Picture {
        let mut load = Report { sent: 2_400, failed: 3, ..Report::default() };
        load.window.share = BTreeMap::from([("blue".to_owned(), 0.25), ("green".to_owned(), 0.75)]);
        Picture {
            elapsed: Duration::from_secs(12),
            phase: "moving".to_owned(),
            load,
            status: Some(json!({
                "version": 2,
                "status": {
                    "observed_version": 2,
                    "conditions": [{"type": "Converged", "status": "false", "message": "the settle time is running"}],
                    "clusters": [
                        {"cluster": "blue", "requested_weight": 25, "effective_weight": 25, "programmed_weight": null,
                         "targets": {"healthy": 4}},
                        {"cluster": "green", "requested_weight": 75, "effective_weight": 75, "programmed_weight": 0,
                         "targets": {"healthy": 3}},
                    ],
                },
            })),
            rollouts: vec![Rollout { cluster: "blue".to_owned(), ready: 4, wanted: 4, leaving: 1, rolling: true }],
            version: 2,
        }
    }

    #[test]
    fn the_page_shows_weights_shares_errors_and_what_is_missing() {
        let page = page(&picture());
        assert!(page.contains("blue            25         25           -        4   25.0% #####"), "{page}");
        assert!(page.contains("converged  no: the settle time is running"), "{page}");
        assert!(page.contains("failed     3"), "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= MOST_COLUMNS), "{page}");
        assert!(page.contains("blue: 4/4 ready, 1 leaving, update to v2 under way"), "{page}");
    }

    #[test]
    fn the_line_stands_alone() {
        assert_eq!(
            line(&picture()),
            " 12s moving; blue 25% green 75%; requested 25/75 effective 25/75 programmed -/0 converged no; pods blue 4/4+1 (v2); failed 3 of 2400"
        );
    }

    #[test]
    fn the_summary_begins_with_the_number_of_failed_requests() {
        let report = Report { sent: 10, failed: 1, ..Report::default() };
        let text = summary(&report, &[], 2, &["something".to_owned()]);
        assert_eq!(text.lines().next(), Some("failed requests: 1 of 10"));
        assert!(text.contains("replaced 2 times") && text.contains("NOT AS PROMISED: something"), "{text}");
    }

    #[test]
    fn a_verdict_on_an_older_version_is_no_verdict() {
        let mut status = picture().status.expect("a status");
        status["version"] = json!(3);
        assert_eq!(converged(Some(&status)), "no: the change was not looked at yet");
        assert_eq!(converged(None), "the hub does not answer");
    }
}
