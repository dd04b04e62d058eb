//! Target groups, with tags and the attributes that matter.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types;
use switchyard_core::{
    arn::TargetGroupArn,
    budget::Class,
    ids::VpcId,
    observed::{HealthCheck, Known, Tags, TargetGroup},
};

use super::{PAGE_SIZE, Pages, ReadError, malformed, parsed, required, tags};
use crate::elb::{Elb, apply::DEREGISTRATION_DELAY};

const GROUPS: &str = "DescribeTargetGroups";
const ATTRIBUTES: &str = "DescribeTargetGroupAttributes";

type Groups = BTreeMap<TargetGroupArn, TargetGroup>;

impl Elb {
    /// The target groups whose name starts with the prefix, with tags and attributes; their targets are not known from here.
    /// The API has no filter, so that the whole region is listed.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn target_groups(&self, name_prefix: &str, class: Class) -> Result<Groups, ReadError> {
        let mut all = Groups::new();
        let mut pages = Pages::of(GROUPS);
        loop {
            let request = self.client.describe_target_groups().page_size(PAGE_SIZE).set_marker(pages.marker());
            let page = self.read(GROUPS, class, request.send()).await?;
            for found in page.target_groups() {
                let name = required(GROUPS, "TargetGroupName", found.target_group_name())?;
                if name.starts_with(name_prefix) {
                    let (arn, group) = group(found)?;
                    all.insert(arn, group);
                }
            }
            if !pages.more(page.next_marker)? {
                break;
            }
        }
        self.complete(&mut all, class).await?;
        Ok(all)
    }

    /// One target group with tags and attributes; none when there is no such group.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn target_group_by_name(
        &self,
        name: &str,
        class: Class,
    ) -> Result<Option<(TargetGroupArn, TargetGroup)>, ReadError> {
        let request = self.client.describe_target_groups().names(name);
        let Some(answer) = gone(self.read(GROUPS, class, request.send()).await)? else {
            return Ok(None);
        };
        let mut found = Groups::new();
        for one in answer.target_groups() {
            let (arn, group) = group(one)?;
            if group.name == name {
                found.insert(arn, group);
            }
        }
        // Deleted between the calls: then there is no such group.
        Ok(gone(self.complete(&mut found, class).await)?.and_then(|()| found.pop_first()))
    }

    async fn complete(&self, groups: &mut Groups, class: Class) -> Result<(), ReadError> {
        let arns: Vec<String> = groups.keys().map(ToString::to_string).collect();
        let mut read = self.tags_of(&arns, class).await?;
        for (arn, group) in groups {
            group.tags = tags::take(&mut read, arn.as_str())?;
            self.attributes(arn, group, class).await?;
        }
        Ok(())
    }

    /// What a group has no attribute for stays unknown, as with one for functions.
    async fn attributes(&self, arn: &TargetGroupArn, group: &mut TargetGroup, class: Class) -> Result<(), ReadError> {
        let request = self.client.describe_target_group_attributes().target_group_arn(arn.as_str());
        let answer = self.read(ATTRIBUTES, class, request.send()).await?;
        let value =
            |key: &str| answer.attributes().iter().find(|one| one.key() == Some(key)).and_then(|one| one.value());
        if let delay @ Some(_) = value(DEREGISTRATION_DELAY) {
            let seconds = parsed(ATTRIBUTES, DEREGISTRATION_DELAY, delay, |text| text.parse())?;
            group.deregistration_delay_seconds = Known::Known(seconds);
        }
        // Only said to users: what cannot be read here must not keep the group from being read.
        let duration = |key| value(key).and_then(|text| text.parse().ok());
        let sticky = match (value("stickiness.enabled"), value("stickiness.type")) {
            (Some("true"), Some("app_cookie")) => duration("stickiness.app_cookie.duration_seconds").map(Some),
            (Some("true"), Some("lb_cookie")) => duration("stickiness.lb_cookie.duration_seconds").map(Some),
            (Some("false"), _) => Some(None),
            // Kinds of other load balancers bind by address, without a time.
            (_, _) => None,
        };
        group.stickiness_seconds = sticky.map_or(Known::Unknown, Known::Known);
        Ok(())
    }
}

/// A group that is not there is an answer here.
fn gone<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Refused { code, .. }) if code == "TargetGroupNotFound" => Ok(None),
        Err(error) => Err(error),
    }
}

fn group(found: &types::TargetGroup) -> Result<(TargetGroupArn, TargetGroup), ReadError> {
    let arn = parsed(GROUPS, "TargetGroupArn", found.target_group_arn(), TargetGroupArn::new)?;
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let group = TargetGroup {
        name: required(GROUPS, "TargetGroupName", found.target_group_name())?.to_owned(),
        // A group for a function has no VPC; whoever made one under our prefix must not keep ours from being read.
        vpc_id: parsed(GROUPS, "VpcId", found.vpc_id().or(Some("none")), VpcId::new)?,
        protocol: text(found.protocol().map(|protocol| protocol.as_str())),
        protocol_version: text(found.protocol_version()),
        target_type: text(found.target_type().map(|kind| kind.as_str())),
        health_check: health_check(found)?,
        deregistration_delay_seconds: Known::Unknown,
        stickiness_seconds: Known::Unknown,
        tags: Tags::new(),
        targets: Known::Unknown,
    };
    Ok((arn, group))
}

/// Groups of other kinds lack some of these fields; they are empty or 0 then, which is no health check that we write.
fn health_check(found: &types::TargetGroup) -> Result<HealthCheck, ReadError> {
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let number = |field: &str, value: Option<i32>| {
        let value = value.unwrap_or_default();
        u32::try_from(value).map_err(|_| malformed(GROUPS, format!("{field} is {value}")))
    };
    let matcher = found.matcher();
    let codes = matcher.and_then(|matcher| matcher.http_code().or(matcher.grpc_code()));
    Ok(HealthCheck {
        protocol: text(found.health_check_protocol().map(|protocol| protocol.as_str())),
        port: text(found.health_check_port()),
        path: text(found.health_check_path()),
        interval_seconds: number("HealthCheckIntervalSeconds", found.health_check_interval_seconds())?,
        timeout_seconds: number("HealthCheckTimeoutSeconds", found.health_check_timeout_seconds())?,
        healthy_threshold: number("HealthyThresholdCount", found.healthy_threshold_count())?,
        unhealthy_threshold: number("UnhealthyThresholdCount", found.unhealthy_threshold_count())?,
        matcher: text(codes),
    })
}
