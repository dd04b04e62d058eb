//! Golden scripts: commands in, plans and status out, as text. A line that starts with `$ ` is a command, what follows is what
//! it prints. `SWITCHYARD_ACCEPT=1 cargo test -p switchyard-core --test golden` writes what is printed now into the files.

mod support;

use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf};

use support::{Model, NOT_READY, READY, TERMINATING, key, listener_arn, load_balancer_arn, manifest};
use switchyard_core::{
    fleet::{Ceiling, Mode},
    inventory::{EndpointState, Evidence, Link, ServiceCondition},
    observed::{Known, Tags},
    plan::RegionPlan,
    policy::spec::Capacity,
    status::{PolicyStatus, Reason},
};

fn scripts() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut scripts: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "the scripts are found");
    scripts
}

#[test]
fn every_script_prints_what_it_printed_before() {
    let accept = std::env::var_os("SWITCHYARD_ACCEPT").is_some();
    for path in scripts() {
        let before = fs::read_to_string(&path).unwrap();
        let now = run(&before);
        if accept {
            fs::write(&path, &now).unwrap();
        } else {
            assert!(now == before, "{} prints something else now:\n{now}", path.display());
        }
    }
}

fn run(script: &str) -> String {
    let mut model = Model::new();
    let mut out = String::new();
    let mut commands = 0;
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        } else if let Some(command) = line.strip_prefix("$ ") {
            commands += 1;
            writeln!(out, "{line}").unwrap();
            let words: Vec<&str> = command.split_whitespace().collect();
            out.push_str(&perform(&mut model, &words));
        }
    }
    assert!(commands > 0, "a script without commands proves nothing");
    out
}

fn state(word: &str) -> EndpointState {
    match word {
        "ready" => READY,
        "notready" => NOT_READY,
        "terminating" => TERMINATING,
        "deleted" => EndpointState::Gone(Evidence::PodDeleted),
        "absent" => EndpointState::Gone(Evidence::Absent),
        "notselected" => EndpointState::Gone(Evidence::NotSelected),
        "servicedeleted" => EndpointState::Gone(Evidence::ServiceDeleted),
        "portchanged" => EndpointState::Gone(Evidence::PortChanged),
        other => panic!("no such pod state: {other}"),
    }
}

fn link(word: &str) -> Link {
    match word {
        "connected" => Link::Connected,
        "stale" => Link::Stale,
        "syncing" => Link::Syncing,
        other => panic!("no such link: {other}"),
    }
}

fn condition(word: &str) -> ServiceCondition {
    match word {
        "resolved" => ServiceCondition::Resolved,
        "notfound" => ServiceCondition::NotFound,
        "portnotfound" => ServiceCondition::PortNotFound,
        "nopods" => ServiceCondition::NoSelectedPods,
        "nonodeport" => ServiceCondition::NoNodePort,
        other => panic!("no such condition: {other}"),
    }
}

/// `name=weight`, or `name=weight@priority`.
fn pairs<'a>(words: &[&'a str]) -> Vec<(&'a str, u32)> {
    let pair = |word: &&'a str| {
        let (name, weight) = word.split_once('=').expect("name=weight");
        (name, weight.split('@').next().unwrap_or_default().parse().unwrap())
    };
    words.iter().map(pair).collect()
}

fn priorities(words: &[&str]) -> Vec<u32> {
    words.iter().map(|word| word.split_once('@').map_or(0, |(_, priority)| priority.parse().unwrap())).collect()
}

/// What operators want: `cordoned`, `draining=50` (percent of its share that is left), `drained`, `drill`, `removed`, `active`.
fn ceiling(word: &str) -> Ceiling {
    let (mode, percent) = word.split_once('=').unwrap_or((word, "0"));
    let permille = 10 * percent.parse::<u32>().unwrap();
    let of = |mode, permille, deregister| Ceiling { mode, permille, deregister, force: false };
    match mode {
        "active" => Ceiling::default(),
        "cordoned" => of(Mode::Cordoned, 1000, false),
        "draining" => of(Mode::Draining, permille, permille == 0),
        "returning" => of(Mode::Returning, permille, false),
        "drained" => of(Mode::Drained, 0, true),
        "drill" => of(Mode::Drained, 0, false),
        "removed" => of(Mode::Removed, 0, true),
        other => panic!("no such mode: {other}"),
    }
}

fn perform(model: &mut Model, words: &[&str]) -> String {
    match words {
        ["cluster", name, word] => model.cluster(name, link(word)),
        ["service", cluster, name, word] => model.service(cluster, name, condition(word)),
        ["pod", cluster, service, uid, address, word] => model.pod(cluster, service, uid, address, state(word)),
        // Nodes: for policies with `--type=instance`. `nodeservice ... resolved 32000` gives a health check node port.
        ["nodeservice", cluster, name, word, port @ ..] => {
            let health = port.first().map(|port| port.parse().unwrap());
            model.service_state(cluster, Model::node_service_key(name), condition(word), health);
        }
        ["node", cluster, service, uid, at, word] => {
            let (instance, port) = at.split_once(':').expect("instance:port");
            model.node(cluster, service, uid, (instance, port.parse().unwrap()), state(word));
        }
        ["agent", cluster, "reports", "no", "nodes"] => {
            model.inventory.clusters.get_mut(&support::cluster_name(cluster)).unwrap().reports_nodes = false;
        }
        ["vpc", cluster, vpc] => {
            model.inventory.clusters.get_mut(&support::cluster_name(cluster)).unwrap().vpc_id = vpc.parse().unwrap();
        }
        ["policy", name, rest @ ..] => apply(model, name, rest),
        ["weights", name, rest @ ..] => model.weights(name, &pairs(rest)),
        ["delete", name] => model.delete(name),
        ["foreign", "rule", priority] => model.foreign_rule(priority.parse().unwrap()),
        ["tag", "group", name, pair] => tag_group(model, name, pair),
        ["listener", protocol] => {
            model.aws.listeners.get_mut(&listener_arn()).unwrap().protocol = (*protocol).into();
        }
        ["tag", "lb", pair] => {
            let (tag, value) = pair.split_once('=').unwrap();
            let tags = &mut model.aws.load_balancers.get_mut(&load_balancer_arn()).unwrap().tags;
            tags.insert(tag.into(), value.into());
        }
        ["health"] => model.judge_health(),
        ["dies", address] => model.alive.retain(|target| target.id.to_string() != *address),
        // All pods of a cluster at once: `10.1.` begins the addresses of blue's.
        ["die", start] => model.alive.retain(|target| !target.id.to_string().starts_with(start)),
        ["revive", start] => revive(model, start),
        ["operator", cluster, word] => {
            model.fleet.insert(support::cluster_name(cluster), ceiling(word));
        }
        ["failback", name] => {
            model.policies.get_mut(&key(name)).unwrap().failback_at = Some(model.now);
        }
        // Looks every ten seconds, and does what is to be done.
        ["pass", seconds] => {
            for _ in 0..seconds.parse::<u32>().unwrap() / 10 {
                model.judge_health();
                model.advance(10);
                model.reconcile();
            }
        }
        ["advance", seconds] => model.advance(seconds.parse().unwrap()),
        ["limit", "rules", n] => model.aws.limits.rules_per_load_balancer = n.parse().unwrap(),
        ["limit", "groups", n] => model.aws.limits.target_groups_per_load_balancer = n.parse().unwrap(),
        ["limit", "targets", n] => model.aws.limits.targets_per_target_group = n.parse().unwrap(),
        ["unknown", "rules"] => {
            let mut observed = model.aws.clone();
            observed.listeners.get_mut(&listener_arn()).unwrap().rules = Known::Unknown;
            return steps(&model.plan_on(&observed));
        }
        ["unread"] => {
            let mut observed = model.aws.clone();
            observed.audited_at = None;
            return steps(&model.plan_on(&observed));
        }
        ["plan"] => {
            let plan = model.plan();
            model.remember(&plan);
            return steps(&plan);
        }
        ["apply"] => return steps(&model.reconcile()),
        ["settle"] => settle(model),
        ["status", name] => {
            let plan = model.plan();
            model.remember(&plan);
            return status(&plan.policies[&key(name)].status);
        }
        other => panic!("no such command: {other:?}"),
    }
    String::new()
}

fn revive(model: &mut Model, start: &str) {
    let groups = model.aws.target_groups.values();
    let registered = groups.filter_map(|group| group.targets.get()).flatten();
    let back = registered.map(|(target, _)| *target).filter(|target| target.id.to_string().starts_with(start));
    let back: Vec<_> = back.collect();
    model.alive.extend(back);
}

/// Everything that follows by itself, until nothing is left to do.
fn settle(model: &mut Model) {
    for _ in 0..8 {
        model.reconcile();
        model.judge_health();
        model.advance(61);
    }
    assert!(model.plan().policies.values().all(|policy| policy.steps.is_empty()));
}

fn apply(model: &mut Model, name: &str, words: &[&str]) {
    let (options, clusters): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--"));
    let options: BTreeMap<&str, &str> =
        options.iter().map(|o| o[2..].split_once('=').unwrap_or((&o[2..], ""))).collect();
    let mut manifest = manifest(name, &pairs(&clusters), "");
    for (cluster, priority) in manifest.spec.clusters.iter_mut().zip(priorities(&clusters)) {
        cluster.priority = priority;
    }
    for (option, value) in options {
        match option {
            "freeze" => manifest.spec.safety.freeze = true,
            "budget" => manifest.spec.safety.deregistration_budget_percent = value.parse().unwrap(),
            "failover" => manifest.spec.failover = Some(serde_norway::from_str(&format!("{{{value}}}")).unwrap()),
            "capacity" => {
                let (peak, each) = value.split_once('/').expect("peak/target");
                manifest.spec.capacity = Some(Capacity {
                    peak_requests_per_second: peak.parse().unwrap(),
                    requests_per_second_per_target: each.parse().unwrap(),
                });
            }
            "order" => manifest.spec.order = value.parse().unwrap(),
            "port" => manifest.spec.listener.port = Some(value.parse().unwrap()),
            "path" => manifest.spec.matches.paths[0].value = value.into(),
            "delay" => manifest.spec.backend.deregistration_delay_seconds = value.parse().unwrap(),
            "version" => manifest.spec.backend.protocol_version = serde_norway::from_str(value).unwrap(),
            "type" => manifest.spec.backend.target_type = serde_norway::from_str(value).unwrap(),
            "service" => manifest.spec.backend.service.name = value.into(),
            "healthport" => manifest.spec.backend.health_check.port = Some(value.parse().unwrap()),
            "health" => manifest.spec.backend.health_check.path = value.into(),
            other => panic!("no such option: {other}"),
        }
    }
    model.policy(&manifest);
}

/// Another hand writes on a group: `tag group NAME KEY=VALUE` replaces all its tags.
fn tag_group(model: &mut Model, name: &str, pair: &str) {
    let (tag, value) = pair.split_once('=').unwrap();
    let group =
        model.aws.target_groups.values_mut().find(|group| group.name.starts_with(name)).expect("the group exists");
    group.tags = Tags::from([(tag.to_owned(), value.to_owned())]);
}

fn steps(plan: &RegionPlan) -> String {
    let mut out = String::new();
    for (key, policy) in &plan.policies {
        for step in &policy.steps {
            writeln!(out, "  {key}: {}: {} [{}]", step.action.operation(), step.action, step.why).unwrap();
        }
        for note in &policy.status.notes {
            writeln!(out, "  {key}: {}: {}", note.reason, note.message).unwrap();
        }
        if policy.gone {
            writeln!(out, "  {key}: gone").unwrap();
        }
    }
    if out.is_empty() { "  nothing to do\n".to_owned() } else { out }
}

fn status(status: &PolicyStatus) -> String {
    let mut out = String::new();
    for condition in &status.conditions {
        let word = condition.status.map_or("unknown", |s| if s { "true" } else { "false" });
        writeln!(out, "  {:?}={word} {}: {}", condition.kind, condition.reason, condition.message).unwrap();
    }
    for c in &status.clusters {
        let programmed = c.programmed.map_or("-".to_owned(), |w| w.to_string());
        let t = c.targets;
        write!(out, "  {}: requested {} effective {} programmed {programmed}", c.cluster, c.requested, c.effective)
            .unwrap();
        write!(out, ", targets {}/{} healthy {} held {}", t.registered, t.desired, t.healthy, t.held).unwrap();
        if c.reason != Reason::AsRequested {
            write!(out, " ({}: {})", c.reason, c.message).unwrap();
        }
        out.push('\n');
    }
    out
}
