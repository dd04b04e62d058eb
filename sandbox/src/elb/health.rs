//! Target health: when a target is probed, what a verdict does to its state, and the task that probes.
//!
//! The decisions are methods of the state that take the time; `run` at the end is the only part with IO.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    api::health_checks::parse_matcher,
    config::ElbConfig,
    health_log::Change,
    lock,
    model::{Arn, HealthState, TargetGroup, TargetKey, World},
};

/// How long a registration takes before the first check (unscaled). AWS says "seconds".
pub const REGISTRATION: Duration = Duration::from_secs(2);
/// A probe is not given less time than this, however fast the modelled clock runs: the servers are real.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
/// Probes that may be under way together.
const MAX_PROBES: usize = 256;

/// One check that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub group: Arn,
    pub key: TargetKey,
    pub generation: u64,
    pub address: SocketAddr,
    pub path: String,
    /// None for a TCP check: a connection suffices.
    pub matcher: Option<Vec<(u16, u16)>>,
    pub timeout: Duration,
}

/// What a probe saw.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Passed,
    WrongCode(u16),
    TimedOut,
    Failed,
}

/// The port that is probed, as text, like DescribeTargetHealth tells it.
pub fn check_port(group: &TargetGroup, target_port: u16) -> u16 {
    group.health_check.port.parse().unwrap_or(target_port)
}

pub fn describe_reason(reason: &'static str) -> Option<String> {
    let text = match reason {
        "Elb.RegistrationInProgress" => "Target registration is in progress",
        "Elb.InitialHealthChecking" => "Initial health checks in progress",
        "Target.NotInUse" => "Target group is not configured to receive traffic from the load balancer",
        "Target.Timeout" => "Request timed out",
        "Target.FailedHealthChecks" => "Health checks failed",
        _ => return None,
    };
    Some(text.to_owned())
}

impl World {
    /// Lets time pass: forgets drained targets (cutting what is still in flight to them) and follows whether groups
    /// are in use.
    pub fn advance(&mut self, now: Instant, config: &ElbConfig) {
        let in_use: BTreeSet<Arn> = self.groups_in_use().into_iter().map(str::to_owned).collect();
        for group in self.groups.values_mut() {
            group.targets.retain(|_, target| {
                let over = target.draining_until.is_some_and(|until| until <= now);
                if over {
                    target.live.cut.cancel();
                }
                !over
            });
            let used = in_use.contains(&group.arn);
            for target in group.targets.values_mut().filter(|t| !t.is_draining()) {
                match (used, target.state) {
                    (false, HealthState::Unused) => {}
                    (false, _) => {
                        target.state = HealthState::Unused;
                        target.reason = Some("Target.NotInUse");
                        target.description = None;
                        target.next_probe = None;
                        target.slow_start_from = None;
                    }
                    (true, HealthState::Unused) => {
                        target.state = HealthState::Initial;
                        target.reason = Some("Elb.RegistrationInProgress");
                        (target.passes, target.failures) = (0, 0);
                        target.next_probe = Some(now + config.scaled(REGISTRATION));
                        // A probe from before must not judge the new start.
                        target.generation += 1;
                        target.probing = false;
                    }
                    (true, _) => {}
                }
            }
        }
    }

    /// The probes that are due, and when to ask again if nothing changes.
    pub fn due_probes(&mut self, now: Instant, config: &ElbConfig) -> (Vec<Probe>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        let mut ask_at = |at: Instant| next = Some(next.map_or(at, |n: Instant| n.min(at)));
        for group in self.groups.values_mut() {
            let check = group.health_check.clone();
            let interval = config.scaled(Duration::from_secs(check.interval_s.into()));
            let timeout = Duration::from_secs(check.timeout_s.into());
            let fixed_port: Option<u16> = check.port.parse().ok();
            for target in group.targets.values_mut() {
                if let Some(until) = target.draining_until {
                    ask_at(until);
                    continue;
                }
                let Some(at) = target.next_probe else { continue };
                if at > now {
                    ask_at(at);
                    continue;
                }
                // The end of the probe that is still under way wakes the task.
                if target.probing {
                    continue;
                }
                if target.state == HealthState::Initial {
                    target.reason = Some("Elb.InitialHealthChecking");
                }
                target.probing = true;
                target.next_probe = Some(now + interval);
                ask_at(now + interval);
                due.push(Probe {
                    group: group.arn.clone(),
                    key: target.key.clone(),
                    generation: target.generation,
                    address: SocketAddr::new(target.address.ip(), fixed_port.unwrap_or(target.key.port)),
                    path: check.path.clone(),
                    matcher: if check.protocol == "TCP" { None } else { parse_matcher(&check.matcher) },
                    timeout: config.scaled(timeout).max(timeout.min(LEAST_TIMEOUT)),
                });
            }
        }
        (due, next)
    }

    /// Takes a verdict into the state of its target; gives the state before and after where it changed.
    pub fn judge(
        &mut self,
        probe: &Probe,
        verdict: &Verdict,
        now: Instant,
        config: &ElbConfig,
    ) -> Option<(HealthState, HealthState)> {
        let group = self.groups.get_mut(&probe.group)?;
        let check = group.health_check.clone();
        let slow_start = config.scaled(Duration::from_secs(group.attribute_number("slow_start.duration_seconds")));
        // A group without a settled target does not slow-start its first ones: somebody must carry the load.
        let settled = group.targets.values().any(|t| {
            t.effective_state() == HealthState::Healthy
                && !t.is_draining()
                && t.slow_start_from.is_none_or(|from| now.saturating_duration_since(from) >= slow_start)
        });
        let target = group.targets.get_mut(&probe.key).filter(|t| t.generation == probe.generation)?;
        target.probing = false;
        if target.is_draining() || target.state == HealthState::Unused {
            return None;
        }
        let before = target.state;
        if *verdict == Verdict::Passed {
            target.failures = 0;
            target.passes = target.passes.saturating_add(1);
            let enough = target.state == HealthState::Initial || target.passes >= check.healthy_threshold;
            if enough && target.state != HealthState::Healthy {
                target.state = HealthState::Healthy;
                target.slow_start_from = (!slow_start.is_zero() && settled).then_some(now);
                (target.reason, target.description) = (None, None);
            }
            return (target.state != before).then_some((before, target.state));
        }
        target.passes = 0;
        target.failures = target.failures.saturating_add(1);
        if target.failures >= check.unhealthy_threshold || target.state == HealthState::Unhealthy {
            target.state = HealthState::Unhealthy;
            target.slow_start_from = None;
            (target.reason, target.description) = match verdict {
                Verdict::WrongCode(code) => (
                    Some("Target.ResponseCodeMismatch"),
                    Some(format!("Health checks failed with these codes: [{code}]")),
                ),
                Verdict::TimedOut => (Some("Target.Timeout"), None),
                Verdict::Failed | Verdict::Passed => (Some("Target.FailedHealthChecks"), None),
            };
        }
        (target.state != before).then_some((before, target.state))
    }
}

/// Probes until the shutdown; returns when every probe has ended.
pub async fn run(inner: Arc<Inner>, shutdown: CancellationToken) {
    let permits = Arc::new(Semaphore::new(MAX_PROBES));
    let mut probes = JoinSet::new();
    loop {
        let (due, next) = {
            let mut world = inner.world();
            let now = Instant::now();
            world.advance(now, &inner.config);
            world.due_probes(now, &inner.config)
        };
        for probe in due {
            let (inner, permits, shutdown) = (Arc::clone(&inner), Arc::clone(&permits), shutdown.clone());
            probes.spawn(async move {
                let work = async {
                    let _permit = permits.acquire().await;
                    let verdict = probe_once(&probe).await;
                    let change = inner.world().judge(&probe, &verdict, Instant::now(), &inner.config);
                    if let Some((from, to)) = change {
                        note(&inner, &probe, from, to);
                    }
                };
                tokio::select! { () = work => {}, () = shutdown.cancelled() => {} }
            });
        }
        let wake_at = next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600));
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = inner.wake_health.notified() => {}
            () = tokio::time::sleep_until(wake_at.into()) => {}
            Some(_) = probes.join_next() => {}
        }
    }
    while probes.join_next().await.is_some() {}
}

fn note(inner: &Inner, probe: &Probe, from: HealthState, to: HealthState) {
    lock(&inner.health_log).push(Change {
        seq: 0,
        time: jiff::Timestamp::now(),
        target_group_arn: probe.group.clone(),
        id: probe.key.id.clone(),
        port: probe.key.port,
        from: from.as_str(),
        to: to.as_str(),
    });
}

async fn probe_once(probe: &Probe) -> Verdict {
    match tokio::time::timeout(probe.timeout, ask(probe)).await {
        Err(_) => Verdict::TimedOut,
        Ok(None) => Verdict::Failed,
        Ok(Some(code)) => match &probe.matcher {
            Some(ranges) if !ranges.iter().any(|(from, to)| (*from..=*to).contains(&code)) => Verdict::WrongCode(code),
            _ => Verdict::Passed,
        },
    }
}

/// The status of one GET on a connection of its own; None when there is none. A TCP check counts as 200.
async fn ask(probe: &Probe) -> Option<u16> {
    let stream = TcpStream::connect(crate::addresses::socket_at(probe.address)).await.ok()?;
    if probe.matcher.is_none() {
        return Some(200);
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = http::Request::get(&probe.path)
        .header(http::header::HOST, probe.address.to_string())
        .header(http::header::USER_AGENT, "ELB-HealthChecker/2.0")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    // The connection is driven here and not in a task of its own, so that it ends with the probe. It may end in the
    // same moment in which the answer arrives, hence the second look.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    };
    answer.ok().map(|a| a.status().as_u16())
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
