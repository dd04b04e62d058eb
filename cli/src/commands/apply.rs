//! `apply`: each document on its own, all results shown, then the waits.

use serde::Serialize;
use switchyard_proto::api::v1 as pb;
use tokio::time::Instant;

use super::{
    Context,
    change::{bounded_reason, present},
    follow::{Waited, wait_for},
    request_id,
};
use crate::{
    args::{Apply, Change, Format},
    error::{Exit, Failure, Kind, Report},
    hub::Hub,
    manifest::{self, Document},
    model::{Plan, Policy},
    output::{note, write},
    render::{self, Paint, Tone},
    text::plain,
    wait::Until,
};

/// What became of one document.
#[derive(Clone, Debug, Serialize)]
struct Applied {
    source: String,
    name: Option<String>,
    /// created, configured, unchanged, failed or not_tried
    outcome: &'static str,
    dry_run: bool,
    request_id: Option<String>,
    version: Option<u64>,
    warnings: Vec<String>,
    plan: Option<Plan>,
    error: Option<Report>,
    wait: Option<Waited>,
    policy: Option<Policy>,
}

#[derive(Serialize)]
struct Results {
    results: Vec<Applied>,
}

pub async fn run(context: &Context, args: Apply) -> Result<Option<Exit>, Failure> {
    let deadline = Instant::now() + context.wait_budget();
    let documents = manifest::read(&args.file, context.namespace())?;
    one_document_only(&args.change, documents.len())?;
    bounded_reason("cannot apply", &args.reason)?;
    let hub = context.hub(args.wait.is_some())?;
    let mut batch = Batch { context, exit: None, failed: 0 };
    let mut results = Vec::new();
    for document in &documents {
        let result = match batch.exit {
            // Without a hub or permission the others can only fail the same way, each after its own timeout.
            Some(Exit::Unavailable | Exit::Denied | Exit::Timeout) => not_tried(document, args.change.dry_run),
            _ => match apply(&hub, document, &args.change, &args.reason).await {
                Ok(result) => result,
                Err(failure) => batch.failed(document, args.change.dry_run, &failure),
            },
        };
        batch.show(&result)?;
        results.push(result);
    }
    if let Some(goal) = args.wait {
        for result in &mut results {
            batch.wait(&hub, Until::True(goal), result, deadline).await?;
        }
    }
    if context.output.format != Format::Table {
        context.output.show(&Results { results }, |_, _| String::new())?;
    }
    if batch.failed > 0 && documents.len() > 1 {
        note(&format!("{} of {} documents failed or were not tried\n", batch.failed, documents.len()));
    }
    Ok(batch.exit)
}

/// One id or one version cannot stand for several policies.
fn one_document_only(change: &Change, documents: usize) -> Result<(), Failure> {
    let flag = match change {
        Change { request_id: Some(_), .. } => "--request-id",
        Change { expected_version: 1.., .. } => "--expected-version",
        _ => return Ok(()),
    };
    if documents > 1 {
        let why = format!("{flag} is for one document, {documents} were given");
        return Err(Failure::usage("cannot apply", why, "apply the documents one by one"));
    }
    Ok(())
}

/// Collects the exit code: that of the first failure.
struct Batch<'a> {
    context: &'a Context,
    exit: Option<Exit>,
    failed: usize,
}

impl Batch<'_> {
    fn failed(&mut self, document: &Document, dry_run: bool, failure: &Failure) -> Applied {
        self.exit = self.exit.or(Some(failure.exit));
        note(&failure.report());
        Applied { error: Some(Report::new(failure)), ..blank(document, "failed", dry_run) }
    }

    fn show(&mut self, result: &Applied) -> Result<(), Failure> {
        if matches!(result.outcome, "failed" | "not_tried") {
            self.failed += 1;
        }
        if self.context.output.format == Format::Table {
            write(&line(result, self.context.output.paint))
        } else {
            Ok(())
        }
    }

    async fn wait(&mut self, hub: &Hub, until: Until, result: &mut Applied, deadline: Instant) -> Result<(), Failure> {
        let Some(policy) = &result.policy else { return Ok(()) };
        let end = wait_for(hub, until, policy, deadline).await;
        if let Some(failure) = end.failure {
            self.exit = self.exit.or(Some(failure.exit));
            note(&failure.report());
            result.error = Some(Report::new(&failure));
        } else if self.context.output.format == Format::Table {
            write(&format!("{} {}\n", policy.reference, end.waited.condition))?;
        }
        result.wait = Some(end.waited);
        result.policy = end.last.or(result.policy.take());
        Ok(())
    }
}

async fn apply(hub: &Hub, document: &Document, change: &Change, reason: &str) -> Result<Applied, Failure> {
    let what = format!("cannot apply {}", document.label());
    if let Some(violation) = &document.problem {
        let failure = Failure::new(Exit::Invalid, what, "the document is not valid", "");
        return Err(Failure { violations: vec![violation.clone()], ..failure });
    }
    let id = request_id(change.request_id.clone());
    let message = pb::ApplyPolicyRequest {
        request_id: id.clone(),
        manifest: document.text.clone(),
        expected_version: change.expected_version,
        dry_run: change.dry_run,
        reason: reason.to_owned(),
    };
    let answer = hub
        .call(&what, Kind::Write { request_id: &id }, message, async |channel, request| {
            Hub::policies(channel).apply_policy(request).await
        })
        .await?;
    let outcome = match answer.outcome() {
        pb::ApplyOutcome::Created => "created",
        pb::ApplyOutcome::Unchanged => "unchanged",
        pb::ApplyOutcome::Configured | pb::ApplyOutcome::Unspecified => "configured",
    };
    let policy = present(&what, answer.policy)?;
    Ok(Applied {
        name: Some(policy.reference.to_string()),
        request_id: Some(id),
        version: Some(policy.version),
        warnings: answer.warnings,
        plan: answer.plan.map(Plan::from),
        policy: Some(policy),
        ..blank(document, outcome, change.dry_run)
    })
}

fn not_tried(document: &Document, dry_run: bool) -> Applied {
    blank(document, "not_tried", dry_run)
}

fn blank(document: &Document, outcome: &'static str, dry_run: bool) -> Applied {
    Applied {
        source: document.source.clone(),
        name: document.name.clone(),
        outcome,
        dry_run,
        request_id: None,
        version: None,
        warnings: vec![],
        plan: None,
        error: None,
        wait: None,
        policy: None,
    }
}

/// `shop/checkout created (version 1)`, its warnings, and the plan of a dry run.
fn line(result: &Applied, paint: Paint) -> String {
    let name = result.name.as_deref().unwrap_or(&result.source);
    let (tone, word) = match result.outcome {
        "failed" => (Tone::Bad, "failed".to_owned()),
        "not_tried" => (Tone::Doubt, "not tried".to_owned()),
        outcome if result.dry_run && outcome != "unchanged" => (Tone::Good, format!("would be {outcome}")),
        outcome => (Tone::Good, outcome.to_owned()),
    };
    let version = match result.version {
        Some(version) if !result.dry_run => format!(" (version {version})"),
        Some(_) => " (dry run: nothing was changed)".to_owned(),
        None => String::new(),
    };
    let mut text = format!("{} {}{version}\n", plain(name), paint.text(tone, &word));
    for warning in &result.warnings {
        text.push_str(&format!("  {}\n", paint.text(Tone::Doubt, &format!("warning: {}", plain(warning)))));
    }
    if let Some(plan) = &result.plan {
        text.push_str(&render::plan(plan, paint));
    }
    text
}
