//! From core's values to the types of the AWS SDK. Values that this hub never plans are refused here and not sent. No IO.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types::{
    Action, ActionTypeEnum, ForwardActionConfig, HostHeaderConditionConfig, HttpHeaderConditionConfig,
    HttpRequestMethodConditionConfig, Matcher, PathPatternConditionConfig, QueryStringConditionConfig,
    QueryStringKeyValuePair, RuleCondition, SourceIpConditionConfig, Tag, TargetDescription,
    TargetGroupStickinessConfig, TargetGroupTuple, TargetTypeEnum,
};
use switchyard_core::{
    ids::Weight,
    observed::{Condition, Target},
    plan::step::{GroupRef, NewTarget},
    policy::spec::TargetType,
};

use super::call::CallError;

/// A number within an i32; what core plans is far below.
pub(super) fn int(field: &str, value: u32) -> Result<i32, CallError> {
    i32::try_from(value).map_err(|_| CallError::invalid(format!("{field} {value} is too large for the API")))
}

/// The ARN of a group; without one there is nothing to send.
pub(super) fn arn(group: &GroupRef) -> Result<&str, CallError> {
    let missing = || CallError::Refused {
        code: "UnresolvedTargetGroup".to_owned(),
        message: format!("target group {} has no ARN: the step that makes it was not carried out", group.name),
    };
    Ok(group.arn.as_ref().ok_or_else(missing)?.as_str())
}

pub(super) fn tags(tags: &BTreeMap<String, String>) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

/// The codes that count as healthy. HTTP codes have three digits (200..=499), gRPC codes one or two (0..=99): the text itself
/// says which they are, and a change of the health check needs nothing else.
pub(super) fn matcher(codes: &str) -> Matcher {
    let first = codes.split([',', '-']).next().unwrap_or_default().trim();
    if first.len() < 3 {
        Matcher::builder().grpc_code(codes).build()
    } else {
        Matcher::builder().http_code(codes).build()
    }
}

pub(super) fn target_type(target_type: TargetType) -> TargetTypeEnum {
    match target_type {
        TargetType::Ip => TargetTypeEnum::Ip,
        TargetType::Instance => TargetTypeEnum::Instance,
    }
}

/// A target with its port: it overrides the group's own, and without it a deregistration would miss.
pub(super) fn target(target: &Target) -> TargetDescription {
    TargetDescription::builder().id(target.id.to_string()).port(i32::from(target.port)).build()
}

pub(super) fn new_target(new: &NewTarget) -> TargetDescription {
    let mut description = target(&new.target);
    description.availability_zone.clone_from(&new.zone);
    description
}

/// A forward action, with the whole list of groups: a list that is sent replaces the present one. Always as `ForwardConfig`, so
/// that a rule with one group and a rule with many are written and read alike. Stickiness is sent although it is off: left out
/// it would stay as somebody else set it.
pub(super) fn forward(groups: &[(GroupRef, Weight)]) -> Result<Action, CallError> {
    let mut config = ForwardActionConfig::builder()
        .target_group_stickiness_config(TargetGroupStickinessConfig::builder().enabled(false).build());
    for (group, weight) in groups {
        let tuple =
            TargetGroupTuple::builder().target_group_arn(arn(group)?).weight(int("weight", weight.get())?).build();
        config = config.target_groups(tuple);
    }
    Ok(Action::builder().r#type(ActionTypeEnum::Forward).forward_config(config.build()).build())
}

pub(super) fn conditions(conditions: &[Condition]) -> Result<Vec<RuleCondition>, CallError> {
    conditions.iter().map(condition).collect()
}

fn condition(condition: &Condition) -> Result<RuleCondition, CallError> {
    let rule = RuleCondition::builder();
    let built = match condition {
        Condition::HostHeader(values) => rule
            .field("host-header")
            .host_header_config(HostHeaderConditionConfig::builder().set_values(Some(values.clone())).build()),
        Condition::PathPattern(values) => rule
            .field("path-pattern")
            .path_pattern_config(PathPatternConditionConfig::builder().set_values(Some(values.clone())).build()),
        Condition::HttpHeader(name, values) => rule.field("http-header").http_header_config(
            HttpHeaderConditionConfig::builder().http_header_name(name).set_values(Some(values.clone())).build(),
        ),
        Condition::HttpRequestMethod(values) => rule.field("http-request-method").http_request_method_config(
            HttpRequestMethodConditionConfig::builder().set_values(Some(values.clone())).build(),
        ),
        Condition::QueryString(pairs) => rule.field("query-string").query_string_config(
            QueryStringConditionConfig::builder().set_values(Some(pairs.iter().map(query_pair).collect())).build(),
        ),
        Condition::SourceIp(values) => rule
            .field("source-ip")
            .source_ip_config(SourceIpConditionConfig::builder().set_values(Some(values.clone())).build()),
        Condition::Other(name) => {
            return Err(CallError::invalid(format!("condition {name:?} is none that this hub makes")));
        }
    };
    Ok(built.build())
}

/// An empty key means any key, and the API wants it left out then.
fn query_pair((key, value): &(String, String)) -> QueryStringKeyValuePair {
    QueryStringKeyValuePair::builder().set_key((!key.is_empty()).then(|| key.clone())).value(value).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_say_whether_they_are_of_http_or_grpc() {
        for codes in ["200", "200-299", "200,204,302-304"] {
            assert_eq!(matcher(codes).http_code(), Some(codes));
            assert_eq!(matcher(codes).grpc_code(), None);
        }
        for codes in ["12", "0", "0-5", "0,12"] {
            assert_eq!(matcher(codes).grpc_code(), Some(codes));
            assert_eq!(matcher(codes).http_code(), None);
        }
    }

    #[test]
    fn a_condition_of_another_kind_is_not_sent() {
        let error = conditions(&[Condition::Other("transforms".into())]).unwrap_err();
        assert!(matches!(error, CallError::Refused { code, .. } if code == "InvalidRequest"));
    }
}
