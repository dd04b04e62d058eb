//! Conditions as core writes them, so that what was written and what is read are equal: values sorted and without duplicates,
//! host names and header names in lower case, conditions sorted (`switchyard_core::policy`, conditions). The API gives one value
//! in a short form (`Values`), several in a form of each kind; both mean the same.

use aws_sdk_elasticloadbalancingv2::types::{Rule, RuleCondition};
use switchyard_core::{ids::cut, observed::Condition};

/// The conditions of a rule. Rewrites count as a condition of another kind: a rule with them is none of ours as we wrote it.
pub(super) fn of(rule: &Rule) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = rule.conditions().iter().map(condition).collect();
    if !rule.transforms().is_empty() {
        conditions.push(Condition::Other("transforms".to_owned()));
    }
    conditions.sort();
    conditions
}

fn condition(found: &RuleCondition) -> Condition {
    let field = found.field().unwrap_or_default();
    if has_expressions(found) {
        return Condition::Other(format!("{} with regular expressions", cut(field)));
    }
    let short = found.values();
    match field {
        "host-header" => {
            let hosts = found.host_header_config().map(|config| config.values());
            Condition::HostHeader(lower(either(short, hosts)))
        }
        "path-pattern" => {
            Condition::PathPattern(either(short, found.path_pattern_config().map(|config| config.values())))
        }
        "http-request-method" => {
            let methods = found.http_request_method_config().map(|config| config.values());
            Condition::HttpRequestMethod(either(short, methods))
        }
        "source-ip" => Condition::SourceIp(either(short, found.source_ip_config().map(|config| config.values()))),
        "http-header" => header(found),
        "query-string" => query(found),
        other => Condition::Other(cut(other)),
    }
}

fn has_expressions(found: &RuleCondition) -> bool {
    let host = found.host_header_config().map(|config| config.regex_values());
    let path = found.path_pattern_config().map(|config| config.regex_values());
    let header = found.http_header_config().map(|config| config.regex_values());
    let all = [Some(found.regex_values()), host, path, header];
    all.into_iter().flatten().any(|values| !values.is_empty())
}

fn header(found: &RuleCondition) -> Condition {
    match found.http_header_config() {
        None => Condition::Other("http-header without a name".to_owned()),
        Some(config) => {
            let name = config.http_header_name().unwrap_or_default().to_lowercase();
            Condition::HttpHeader(name, sorted(config.values().to_vec()))
        }
    }
}

fn query(found: &RuleCondition) -> Condition {
    let pairs = found.query_string_config().map(|config| config.values()).unwrap_or_default();
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Condition::QueryString(sorted(pairs.iter().map(|pair| (text(pair.key()), text(pair.value()))).collect()))
}

/// The form of the kind wins: where both are given they are equal.
fn either(short: &[String], own: Option<&[String]>) -> Vec<String> {
    let values = own.filter(|values| !values.is_empty()).unwrap_or(short);
    sorted(values.to_vec())
}

fn lower(values: Vec<String>) -> Vec<String> {
    sorted(values.into_iter().map(|value| value.to_lowercase()).collect())
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use aws_sdk_elasticloadbalancingv2::types::{
        HostHeaderConditionConfig, HttpHeaderConditionConfig, PathPatternConditionConfig, QueryStringConditionConfig,
        QueryStringKeyValuePair, RuleTransform, TransformTypeEnum,
    };

    use super::*;

    fn one(condition: RuleCondition) -> Condition {
        let rule = Rule::builder().conditions(condition).build();
        of(&rule).remove(0)
    }

    #[test]
    fn both_forms_of_a_condition_read_the_same() {
        let short = RuleCondition::builder().field("host-header").values("Shop.Example.com").build();
        let long = HostHeaderConditionConfig::builder().values("shop.example.com").build();
        let long = RuleCondition::builder().field("host-header").host_header_config(long).build();
        assert_eq!(one(short), Condition::HostHeader(vec!["shop.example.com".into()]));
        assert_eq!(one(long), Condition::HostHeader(vec!["shop.example.com".into()]));
    }

    #[test]
    fn values_are_sorted_and_paths_keep_their_case() {
        let config =
            PathPatternConditionConfig::builder().values("/b/*").values("/B").values("/b").values("/B").build();
        let condition = RuleCondition::builder().field("path-pattern").path_pattern_config(config).build();
        assert_eq!(one(condition), Condition::PathPattern(vec!["/B".into(), "/b".into(), "/b/*".into()]));

        let config = HttpHeaderConditionConfig::builder().http_header_name("X-Beta").values("b").values("a").build();
        let condition = RuleCondition::builder().field("http-header").http_header_config(config).build();
        assert_eq!(one(condition), Condition::HttpHeader("x-beta".into(), vec!["a".into(), "b".into()]));

        let pair = QueryStringKeyValuePair::builder().value("2").build();
        let config = QueryStringConditionConfig::builder().values(pair).build();
        let condition = RuleCondition::builder().field("query-string").query_string_config(config).build();
        assert_eq!(one(condition), Condition::QueryString(vec![(String::new(), "2".into())]));
    }

    #[test]
    fn what_this_hub_never_makes_is_other() {
        let config = PathPatternConditionConfig::builder().regex_values("^/a").build();
        let path = RuleCondition::builder().field("path-pattern").path_pattern_config(config).build();
        let host = RuleCondition::builder().field("host-header").regex_values("^a").build();
        let new = RuleCondition::builder().field("moon-phase").values("full").build();
        for condition in [path, host, new, RuleCondition::builder().build()] {
            assert!(matches!(one(condition.clone()), Condition::Other(_)), "{condition:?}");
        }
        let transform = RuleTransform::builder().r#type(TransformTypeEnum::UrlRewrite).build();
        let rule = Rule::builder().transforms(transform).build();
        assert_eq!(of(&rule), [Condition::Other("transforms".into())]);
    }
}
