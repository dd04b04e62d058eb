//! The rules of a listener, and the target groups that they use.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_elasticloadbalancingv2::types::{self, ActionTypeEnum};
use switchyard_core::{
    arn::{ListenerArn, RuleArn, TargetGroupArn},
    budget::Class,
    ids::Weight,
    observed::{Action, Rule, Tags},
};

use super::{PAGE_SIZE, Pages, ReadError, conditions, parsed, tags};
use crate::elb::Elb;

const OPERATION: &str = "DescribeRules";
/// The weight of a group for which none is given: with one group it means all, and the API fills in 1.
const DEFAULT_WEIGHT: i32 = 1;

/// Rules by ARN, and every group that a listener's rules name.
pub type Rules = (BTreeMap<RuleArn, Rule>, BTreeSet<TargetGroupArn>);

impl Elb {
    /// The rules of a listener with their tags, without the default rule; and all groups that its rules use, the default rule's
    /// included, for these too count against the load balancer's quota.
    ///
    /// # Errors
    /// [`ReadError`]; `ListenerNotFound` when it is gone.
    pub async fn rules(&self, listener: &ListenerArn, class: Class) -> Result<Rules, ReadError> {
        let (mut all, mut groups) = (BTreeMap::new(), BTreeSet::new());
        let mut pages = Pages::of(OPERATION);
        loop {
            let request = self
                .client
                .describe_rules()
                .listener_arn(listener.as_str())
                .page_size(PAGE_SIZE)
                .set_marker(pages.marker());
            let page = self.read(OPERATION, class, request.send()).await?;
            for found in page.rules() {
                groups.extend(groups_of(found.actions()));
                if let Some((arn, rule)) = rule(found)? {
                    all.insert(arn, rule);
                }
            }
            if !pages.more(page.next_marker)? {
                break;
            }
        }
        let arns: Vec<String> = all.keys().map(ToString::to_string).collect();
        let mut read = self.tags_of(&arns, class).await?;
        for (arn, rule) in &mut all {
            rule.tags = tags::take(&mut read, arn.as_str())?;
        }
        Ok((all, groups))
    }
}

/// None for the default rule.
fn rule(found: &types::Rule) -> Result<Option<(RuleArn, Rule)>, ReadError> {
    if found.is_default() == Some(true) || found.priority() == Some("default") {
        return Ok(None);
    }
    let arn = parsed(OPERATION, "RuleArn", found.rule_arn(), RuleArn::new)?;
    let priority = parsed(OPERATION, "Priority", found.priority(), |text| text.parse::<u32>())?;
    let rule = Rule { priority, conditions: conditions::of(found), action: action(found.actions()), tags: Tags::new() };
    Ok(Some((arn, rule)))
}

/// Every group that some actions forward to.
fn groups_of(actions: &[types::Action]) -> impl Iterator<Item = TargetGroupArn> {
    actions
        .iter()
        .flat_map(|action| {
            let many = action.forward_config().map(|config| config.target_groups()).unwrap_or_default();
            let many = many.iter().filter_map(|group| group.target_group_arn());
            action.target_group_arn().into_iter().chain(many)
        })
        .filter_map(|arn| TargetGroupArn::new(arn).ok())
}

/// What a rule does. Whatever is not one plain forward is somebody else's and stays *other*: an odd rule of theirs must not
/// keep ours from being read.
fn action(actions: &[types::Action]) -> Action {
    let [only] = actions else {
        return Action::Other;
    };
    if only.r#type() != Some(&ActionTypeEnum::Forward) {
        return Action::Other;
    }
    forward(only).unwrap_or(Action::Other)
}

fn forward(action: &types::Action) -> Option<Action> {
    let config = action.forward_config();
    let listed = config.map(|config| config.target_groups()).unwrap_or_default();
    let mut weights = BTreeMap::new();
    for group in listed {
        let arn = TargetGroupArn::new(group.target_group_arn()?).ok()?;
        let weight = u32::try_from(group.weight().unwrap_or(DEFAULT_WEIGHT)).ok()?;
        weights.insert(arn, Weight::new(weight).ok()?);
    }
    if listed.is_empty() {
        // The short form for one group.
        let arn = TargetGroupArn::new(action.target_group_arn()?).ok()?;
        weights.insert(arn, Weight::new(DEFAULT_WEIGHT.unsigned_abs()).ok()?);
    }
    let sticky = config.and_then(|config| config.target_group_stickiness_config());
    let sticky = sticky.filter(|sticky| sticky.enabled() == Some(true));
    // On without a duration that makes sense: not what this hub wrote, so that it is written anew.
    let seconds = sticky.map(|sticky| u32::try_from(sticky.duration_seconds().unwrap_or_default()));
    let stickiness_seconds = seconds.map(Result::unwrap_or_default);
    Some(Action::Forward { weights, stickiness_seconds })
}
