//! Safety rules and facts that stand in the way of a shift, as text with what helps. Pure.

use crate::{model::Finding, text::plain};

/// How a rule can be crossed from where it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crossing {
    /// By the same command with a flag.
    #[default]
    Flag,
    /// `yardctl weights` crosses none, a flip does.
    Flip,
    /// A shift under way takes no further override.
    UnderWay,
    /// It has ended: by the next one.
    Ended,
    /// It is about a whole cluster: a game day by force, the others not at all.
    Cluster,
}

/// A finding in the form of a violation, with what crosses it, if it may be crossed.
pub fn finding_block(finding: &Finding, crossing: Crossing) -> String {
    let remedy = match (finding.overridden, finding.overridable || crossing == Crossing::Cluster) {
        (true, _) => "none needed: it is crossed on purpose".to_owned(),
        (false, true) => remedy(finding, crossing),
        (false, false) => "cannot be overridden".to_owned(),
    };
    let until = finding.until.map(|at| format!("; it ends by itself at {}", at.strftime("%Y-%m-%dT%H:%M:%SZ")));
    // Steps count from 1; what is not about a shift has none.
    let step = if finding.step > 0 { format!(", step {}", finding.step) } else { String::new() };
    let whose = if finding.policy.name.is_empty() { String::new() } else { format!(" of {}", finding.policy) };
    format!(
        "  {}{}{step}\n    problem: {}\n    remedy:  {}\n",
        plain(&finding.guard),
        plain(&whose),
        plain(&finding.message),
        plain(&format!("{remedy}{}", until.unwrap_or_default())),
    )
}

fn remedy(finding: &Finding, crossing: Crossing) -> String {
    let (policy, flags) = (&finding.policy, format!("--override {} --reason TEXT", finding.guard));
    let right = "if you have the right to";
    match crossing {
        Crossing::Flag => format!("add {flags} to cross it, {right}"),
        Crossing::Flip => format!(
            "yardctl weights crosses no rule: use `yardctl flip {policy} --weights CLUSTER=WEIGHT,.. {flags}`, {right}"
        ),
        Crossing::UnderWay => format!(
            "a shift under way takes no further override: take it back with `yardctl abort {policy}` and ask for it again with \
             {flags}, {right}"
        ),
        Crossing::Cluster => match finding.guard.as_str() {
            "Overloaded" | "NotCarried" => format!(
                "give it another cluster or more targets, or add --force --reason TEXT to begin all the same, {right}"
            ),
            "StillCarries" => {
                "drain the cluster first, and set its weight to 0 in spec.clusters or take it out there".to_owned()
            }
            _ => "the problem names what helps; look with `yardctl get clusters`".to_owned(),
        },
        Crossing::Ended => format!("ask for it again with {flags} to cross it, {right}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PolicyRef;

    fn block(crossing: Crossing) -> String {
        let finding = Finding {
            guard: "MaintenanceWindow".into(),
            policy: PolicyRef { namespace: "shop".into(), name: "checkout".into() },
            step: 2,
            message: "outside of every window".into(),
            overridable: true,
            ..Finding::default()
        };
        finding_block(&finding, crossing)
    }

    #[test]
    fn the_remedy_is_one_that_helps_where_the_rule_is_shown() {
        let begin = "  MaintenanceWindow of shop/checkout, step 2\n    problem: outside of every window\n    remedy:  ";
        for (crossing, remedy) in [
            (Crossing::Flag, "add --override MaintenanceWindow --reason TEXT to cross it, if you have the right to\n"),
            (
                Crossing::Flip,
                "yardctl weights crosses no rule: use `yardctl flip shop/checkout --weights CLUSTER=WEIGHT,.. --override \
                 MaintenanceWindow --reason TEXT`, if you have the right to\n",
            ),
            (
                Crossing::UnderWay,
                "a shift under way takes no further override: take it back with `yardctl abort shop/checkout` and ask for it \
                 again with --override MaintenanceWindow --reason TEXT, if you have the right to\n",
            ),
            (
                Crossing::Ended,
                "ask for it again with --override MaintenanceWindow --reason TEXT to cross it, if you have the right to\n",
            ),
        ] {
            assert_eq!(block(crossing), format!("{begin}{remedy}"), "{crossing:?}");
        }
    }

    #[test]
    fn what_a_game_day_would_cost_has_no_step_and_is_crossed_by_force() {
        let finding = Finding {
            guard: "NotCarried".into(),
            policy: PolicyRef { namespace: "shop".into(), name: "login".into() },
            message: "nobody takes the 100.0 % of blue".into(),
            ..Finding::default()
        };
        let expected = "  NotCarried of shop/login\n    problem: nobody takes the 100.0 % of blue\n    remedy:  give it another \
                        cluster or more targets, or add --force --reason TEXT to begin all the same, if you have the right to\n";
        assert_eq!(finding_block(&finding, Crossing::Cluster), expected);
        let carries = Finding { guard: "StillCarries".into(), message: "it gives blue requests".into(), ..finding };
        let remedy = "remedy:  drain the cluster first, and set its weight to 0";
        assert!(finding_block(&carries, Crossing::Cluster).contains(remedy));
        let mode = Finding { guard: "ClusterMode".into(), message: "blue is Drained".into(), ..Finding::default() };
        let begin = "  ClusterMode\n    problem: blue is Drained\n";
        assert!(finding_block(&mode, Crossing::Cluster).starts_with(begin));
    }
}
