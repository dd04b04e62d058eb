//! From a strategy to steps with everything written out.

use std::collections::BTreeSet;

use super::{
    super::{
        CheckedGate, Step,
        spec::{MOST_BAKE_SECONDS, MOST_GATES, MOST_STEPS, StepSpec, Strategy},
    },
    Report,
    gates::gates,
};
use crate::ids::SourceName;

pub(super) fn steps(strategy: &Strategy, shared: &[CheckedGate], report: &mut Report) -> Vec<Step> {
    let field = "spec.strategy";
    let given = [
        !strategy.steps.is_empty(),
        strategy.linear.is_some(),
        strategy.exponential.is_some(),
        strategy.canary.is_some(),
    ];
    if given.iter().filter(|given| **given).count() > 1 {
        let remedy = "give at most one of steps, linear, exponential and canary";
        report.add(field, "", "holds more than one strategy", remedy);
        return Vec::new();
    }
    let made = if let Some(linear) = &strategy.linear {
        report.range("spec.strategy.linear.stepPercent", linear.step_percent, 1, 100);
        report.range("spec.strategy.linear.bakeSeconds", linear.bake_seconds, 0, MOST_BAKE_SECONDS);
        let percents = (1..).map(|i: u32| i.saturating_mul(linear.step_percent.max(1)));
        generated(percents, linear.bake_seconds, false)
    } else if let Some(exponential) = &strategy.exponential {
        report.range("spec.strategy.exponential.firstPercent", exponential.first_percent, 1, 100);
        report.range("spec.strategy.exponential.factor", exponential.factor, 2, 10);
        report.range("spec.strategy.exponential.bakeSeconds", exponential.bake_seconds, 0, MOST_BAKE_SECONDS);
        let (first, factor) = (exponential.first_percent.max(1), exponential.factor.max(2));
        let percents = std::iter::successors(Some(first), move |percent| Some(percent.saturating_mul(factor)));
        generated(percents, exponential.bake_seconds, false)
    } else if let Some(canary) = &strategy.canary {
        report.range("spec.strategy.canary.percent", canary.percent, 1, 99);
        report.range("spec.strategy.canary.bakeSeconds", canary.bake_seconds, 0, MOST_BAKE_SECONDS);
        generated([canary.percent].into_iter(), canary.bake_seconds, canary.approval)
    } else {
        written(&strategy.steps, report)
    };
    let with_shared = |mut step: Step| {
        let own = std::mem::replace(&mut step.gates, shared.to_vec());
        step.gates.extend(own);
        step
    };
    let steps: Vec<Step> = made.into_iter().map(with_shared).collect();
    for (i, step) in steps.iter().enumerate() {
        report.count(&format!("spec.strategy.steps[{i}].gates"), step.gates.len(), MOST_GATES);
        let names: BTreeSet<&SourceName> = step.gates.iter().map(|gate| &gate.name).collect();
        if names.len() < step.gates.len() {
            let field = format!("spec.strategy.steps[{i}].gates");
            report.add(&field, "", "holds two gates of one name (those of the shift included)", "name each gate once");
            return Vec::new();
        }
    }
    steps
}

/// Steps below 100 with a bake time, and the last one without.
fn generated(percents: impl Iterator<Item = u32>, bake_seconds: u32, approval: bool) -> Vec<Step> {
    let below = percents.take_while(|percent| *percent < 100);
    let mut steps: Vec<Step> =
        below.map(|percent| Step { percent, bake_seconds, approval, gates: Vec::new() }).collect();
    steps.push(Step { percent: 100, bake_seconds: 0, approval: false, gates: Vec::new() });
    steps
}

fn written(steps: &[StepSpec], report: &mut Report) -> Vec<Step> {
    if steps.is_empty() {
        return generated(std::iter::empty(), 0, false);
    }
    report.count("spec.strategy.steps", steps.len(), MOST_STEPS);
    let mut made: Vec<Step> = Vec::new();
    for (i, step) in steps.iter().enumerate().take(MOST_STEPS) {
        let field = format!("spec.strategy.steps[{i}]");
        let percent = format!("{field}.percent");
        report.range(&percent, step.percent, 1, 100);
        report.range(&format!("{field}.bakeSeconds"), step.bake_seconds, 0, MOST_BAKE_SECONDS);
        if made.last().is_some_and(|before| before.percent >= step.percent) {
            report.add(
                &percent,
                step.percent.to_string(),
                "is not more than in the step before",
                "let percentages rise",
            );
        }
        if i + 1 == steps.len() && step.percent != 100 {
            let remedy = "end with 100; to stay below that, give other weights as the goal";
            report.add(&percent, step.percent.to_string(), "is the last step and not 100", remedy);
        }
        let gates = gates(&format!("{field}.gates"), &step.gates, report);
        made.push(Step { percent: step.percent, bake_seconds: step.bake_seconds, approval: step.approval, gates });
    }
    made
}
