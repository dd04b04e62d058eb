//! The targets of a group and their health. The API gives the whole group in one answer.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::{TargetHealth, TargetHealthDescription, TargetHealthStateEnum};
use switchyard_core::{
    arn::TargetGroupArn,
    budget::Class,
    observed::{Health, Target, TargetId, TargetState},
};

use super::{ReadError, malformed, parsed, required};
use crate::elb::Elb;

const OPERATION: &str = "DescribeTargetHealth";
/// Wire name of a state that the SDK may not know yet: failing, and requests in flight may finish.
const UNHEALTHY_DRAINING: &str = "unhealthy.draining";

impl Elb {
    /// The registered targets of a group of addresses or instances with their health, those that drain included.
    ///
    /// # Errors
    /// [`ReadError`]; `TargetGroupNotFound` when the group is gone.
    pub async fn targets(
        &self,
        group: &TargetGroupArn,
        class: Class,
    ) -> Result<BTreeMap<Target, TargetState>, ReadError> {
        let request = self.client.describe_target_health().target_group_arn(group.as_str());
        let answer = self.read(OPERATION, class, request.send()).await?;
        let mut all: BTreeMap<Target, TargetState> = BTreeMap::new();
        for description in answer.target_health_descriptions() {
            let (target, state) = described(description)?;
            // A target that was registered again while it drained is in the group, whatever is said of its past.
            let kept = all.get(&target).is_some_and(|_| state.health == Health::Draining);
            if !kept {
                all.insert(target, state);
            }
        }
        Ok(all)
    }
}

fn described(description: &TargetHealthDescription) -> Result<(Target, TargetState), ReadError> {
    let target = required(OPERATION, "Target", description.target())?;
    let id: TargetId = parsed(OPERATION, "Target.Id", target.id(), TargetId::try_from)?;
    let port = required(OPERATION, "Target.Port", target.port())?;
    let port = u16::try_from(port).map_err(|_| malformed(OPERATION, format!("Target.Port is {port}")))?;
    let health = required(OPERATION, "TargetHealth", description.target_health())?;
    Ok((Target { id, port }, state(health)))
}

/// A state that is not known here is no verdict.
fn state(found: &TargetHealth) -> TargetState {
    let health = match found.state() {
        Some(TargetHealthStateEnum::Initial) => Health::Initial,
        Some(TargetHealthStateEnum::Healthy) => Health::Healthy,
        Some(TargetHealthStateEnum::Unhealthy) => Health::Unhealthy,
        Some(TargetHealthStateEnum::Unused) => Health::Unused,
        Some(TargetHealthStateEnum::Draining) => Health::Draining,
        Some(other) if other.as_str() == UNHEALTHY_DRAINING => Health::Unhealthy,
        _ => Health::Unavailable,
    };
    let reason = found.reason().map_or("", |reason| reason.as_str()).to_owned();
    TargetState { health, reason }
}
