//! The writes: one action of a plan, one call. What is sent follows from the action alone; nothing is read, remembered or
//! decided here. The caller has asked the budget, looked at its lease and recorded its intent.

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::types::{ProtocolEnum, RulePriorityPair, TargetGroupAttribute};
use switchyard_core::{
    arn::{ListenerArn, TargetGroupArn},
    execute::Outcome,
    ids::Weight,
    observed::{Condition, HealthCheck, Tags, Target},
    plan::step::{Action, GroupRef, NewTarget, NewTargetGroup},
};

use super::{Elb, bucket_of, call::CallError, wire};

/// The attribute that [`Action::ModifyTargetGroupAttributes`] writes.
pub(super) const DEREGISTRATION_DELAY: &str = "deregistration_delay.timeout_seconds";

/// A write in the making: its action's limit and name, for [`Elb::call`].
macro_rules! send {
    ($elb:expr, $action:expr, $limit:expr, $request:expr) => {
        $elb.call($action.operation(), bucket_of($action), $limit, $request.send()).await
    };
}

impl Elb {
    /// Makes the one call of an action, within `limit` and the configured limit, whichever is less. Never retried in here.
    ///
    /// The caller has taken a token of [`Elb::budget`] before, in the bucket that [`bucket_of`] names. A group without an ARN
    /// is refused: the executor fills in the ARNs that [`Outcome::Done`] brings.
    pub async fn apply(&self, action: &Action, limit: Duration) -> Outcome {
        match self.write(action, limit).await {
            Ok(created) => Outcome::Done { created },
            Err(error) => error.into(),
        }
    }

    async fn write(&self, action: &Action, limit: Duration) -> Result<Option<TargetGroupArn>, CallError> {
        let client = &self.client;
        match action {
            Action::CreateTargetGroup(new) => return self.create_group(action, new, limit).await.map(Some),
            Action::ModifyTargetGroup { group, health_check } => {
                self.modify_group(action, group, health_check, limit).await?;
            }
            Action::ModifyTargetGroupAttributes { group, deregistration_delay_seconds: seconds } => {
                let attribute =
                    TargetGroupAttribute::builder().key(DEREGISTRATION_DELAY).value(seconds.to_string()).build();
                let request =
                    client.modify_target_group_attributes().target_group_arn(wire::arn(group)?).attributes(attribute);
                send!(self, action, limit, request)?;
            }
            Action::RegisterTargets { group, targets } => self.register(action, group, targets, limit).await?,
            Action::DeregisterTargets { group, targets } => self.deregister(action, group, targets, limit).await?,
            Action::TagLoadBalancer { load_balancer, tags } => {
                let request = client.add_tags().resource_arns(load_balancer.as_str());
                send!(self, action, limit, request.set_tags(Some(wire::tags(tags))))?;
            }
            Action::SetRulePriorities { priorities, .. } => {
                let mut request = client.set_rule_priorities();
                for (rule, priority) in priorities {
                    let pair =
                        RulePriorityPair::builder().rule_arn(rule.as_str()).priority(wire::int("priority", *priority)?);
                    request = request.rule_priorities(pair.build());
                }
                send!(self, action, limit, request)?;
            }
            Action::CreateRule { listener, priority, conditions, forward, tags } => {
                let rule = NewRule { listener, priority: *priority, conditions, forward, tags };
                self.create_rule(action, rule, limit).await?;
            }
            Action::ModifyRule { rule, conditions, forward, .. } => {
                // A list that is left out stays as it is; an empty one would not be understood.
                let conditions = conditions.as_deref().map(wire::conditions).transpose()?;
                let actions = forward.as_deref().map(wire::forward).transpose()?.map(|forward| vec![forward]);
                let request = client.modify_rule().rule_arn(rule.as_str());
                send!(self, action, limit, request.set_conditions(conditions).set_actions(actions))?;
            }
            Action::DeleteRule { rule, .. } => {
                send!(self, action, limit, client.delete_rule().rule_arn(rule.as_str()))?;
            }
            Action::DeleteTargetGroup { group } => {
                let request = client.delete_target_group().target_group_arn(wire::arn(group)?);
                send!(self, action, limit, request)?;
            }
        }
        Ok(None)
    }

    /// The tags come with the creation: a group that exists for a moment without an owner would be nobody's if this hub died.
    async fn create_group(
        &self,
        action: &Action,
        new: &NewTargetGroup,
        limit: Duration,
    ) -> Result<TargetGroupArn, CallError> {
        let check = &new.health_check;
        let request = self
            .client
            .create_target_group()
            .name(&new.name)
            .vpc_id(new.vpc_id.as_str())
            .protocol(ProtocolEnum::from(new.protocol.as_str()))
            .protocol_version(&new.protocol_version)
            .port(i32::from(new.port))
            .target_type(wire::target_type(new.target_type))
            .health_check_protocol(ProtocolEnum::from(check.protocol.as_str()))
            .health_check_port(&check.port)
            .health_check_path(&check.path)
            .health_check_interval_seconds(wire::int("health check interval", check.interval_seconds)?)
            .health_check_timeout_seconds(wire::int("health check timeout", check.timeout_seconds)?)
            .healthy_threshold_count(wire::int("healthy threshold", check.healthy_threshold)?)
            .unhealthy_threshold_count(wire::int("unhealthy threshold", check.unhealthy_threshold)?)
            .matcher(wire::matcher(&check.matcher))
            .set_tags(Some(wire::tags(&new.tags)));
        let answer = send!(self, action, limit, request)?;
        let unreadable = |what: String| CallError::Unknown {
            message: format!("the answer to CreateTargetGroup {} {what}", new.name),
        };
        let made = answer.target_groups().first();
        let arn = made.and_then(|group| group.target_group_arn());
        let arn = arn.ok_or_else(|| unreadable("holds no ARN".to_owned()))?;
        TargetGroupArn::new(arn).map_err(|error| unreadable(format!("is not readable: {error}")))
    }

    async fn modify_group(
        &self,
        action: &Action,
        group: &GroupRef,
        check: &HealthCheck,
        limit: Duration,
    ) -> Result<(), CallError> {
        let request = self
            .client
            .modify_target_group()
            .target_group_arn(wire::arn(group)?)
            .health_check_protocol(ProtocolEnum::from(check.protocol.as_str()))
            .health_check_port(&check.port)
            .health_check_path(&check.path)
            .health_check_interval_seconds(wire::int("health check interval", check.interval_seconds)?)
            .health_check_timeout_seconds(wire::int("health check timeout", check.timeout_seconds)?)
            .healthy_threshold_count(wire::int("healthy threshold", check.healthy_threshold)?)
            .unhealthy_threshold_count(wire::int("unhealthy threshold", check.unhealthy_threshold)?)
            .matcher(wire::matcher(&check.matcher));
        send!(self, action, limit, request)?;
        Ok(())
    }

    async fn register(
        &self,
        action: &Action,
        group: &GroupRef,
        targets: &[NewTarget],
        limit: Duration,
    ) -> Result<(), CallError> {
        let request = self.client.register_targets().target_group_arn(wire::arn(group)?);
        let targets = targets.iter().map(wire::new_target).collect();
        send!(self, action, limit, request.set_targets(Some(targets)))?;
        Ok(())
    }

    async fn deregister(
        &self,
        action: &Action,
        group: &GroupRef,
        targets: &[Target],
        limit: Duration,
    ) -> Result<(), CallError> {
        let request = self.client.deregister_targets().target_group_arn(wire::arn(group)?);
        let targets = targets.iter().map(wire::target).collect();
        send!(self, action, limit, request.set_targets(Some(targets)))?;
        Ok(())
    }

    async fn create_rule(&self, action: &Action, rule: NewRule<'_>, limit: Duration) -> Result<(), CallError> {
        let request = self
            .client
            .create_rule()
            .listener_arn(rule.listener.as_str())
            .priority(wire::int("priority", rule.priority)?)
            .set_conditions(Some(wire::conditions(rule.conditions)?))
            .actions(wire::forward(rule.forward)?)
            .set_tags(Some(wire::tags(rule.tags)));
        send!(self, action, limit, request)?;
        Ok(())
    }
}

struct NewRule<'a> {
    listener: &'a ListenerArn,
    priority: u32,
    conditions: &'a [Condition],
    forward: &'a [(GroupRef, Weight)],
    tags: &'a Tags,
}
