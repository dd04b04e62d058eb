//! Tags: their bounds, and the three tag operations on every kind of resource.

use std::collections::BTreeMap;

use super::{
    api::Call,
    errors::ApiError,
    limits::{self, Limits},
    query::Scope,
    xml::Xml,
};

const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 256;
/// Most ARNs in one call.
const MAX_ARNS: usize = 20;

/// Reads the tags of a call: duplicates, reserved prefixes and lengths are refused.
pub fn parse(scopes: &[Scope<'_>]) -> Result<BTreeMap<String, String>, ApiError> {
    let mut tags = BTreeMap::new();
    for scope in scopes {
        let key = scope.required("Key")?;
        let value = scope.get("Value").unwrap_or_default();
        check(key, value)?;
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ApiError::new("DuplicateTagKeys", format!("Tag key '{key}' is given twice; give it once")));
        }
    }
    Ok(tags)
}

pub fn check(key: &str, value: &str) -> Result<(), ApiError> {
    if key.chars().count() > MAX_KEY || value.chars().count() > MAX_VALUE {
        return Err(ApiError::validation(format!(
            "Tag '{key}': keys have at most {MAX_KEY} characters and values {MAX_VALUE}"
        )));
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(ApiError::validation(format!("Tag key '{key}' starts with 'aws:', which is reserved")));
    }
    Ok(())
}

pub fn check_quota(limits: &Limits, count: usize) -> Result<(), ApiError> {
    limits.check(limits::TAGS_PER_RESOURCE, count, "TooManyTags", "tags per resource")
}

pub fn add(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = resources(call)?;
    let added = parse(&call.args.members("Tags"))?;
    if added.is_empty() {
        return Err(ApiError::validation("Parameter 'Tags' is empty; give at least one tag"));
    }
    let held = |arn: &str| call.world.tags.get(arn).cloned().unwrap_or_default();
    let merged: Vec<_> = arns
        .into_iter()
        .map(|arn| {
            let mut tags = held(&arn);
            tags.extend(added.clone());
            (arn, tags)
        })
        .collect();
    for (_, tags) in &merged {
        check_quota(&call.world.limits, tags.len())?;
    }
    call.world.tags.extend(merged);
    Ok(Xml::new())
}

pub fn remove(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = resources(call)?;
    let keys = call.args.list("TagKeys");
    if keys.is_empty() {
        return Err(ApiError::validation("Parameter 'TagKeys' is empty; give at least one key"));
    }
    for arn in arns {
        if let Some(tags) = call.world.tags.get_mut(&arn) {
            tags.retain(|key, _| !keys.contains(&key.as_str()));
        }
    }
    Ok(Xml::new())
}

pub fn describe(call: &mut Call<'_>) -> Result<Xml, ApiError> {
    let arns = resources(call)?;
    let mut xml = Xml::new();
    xml.list("TagDescriptions", &arns, |x, arn| {
        let tags = call.world.tags.get(arn).into_iter().flatten();
        x.text("ResourceArn", arn).list("Tags", tags, |x, (k, v)| _ = x.text("Key", k).text("Value", v));
    });
    Ok(xml)
}

/// The ARNs of the call; all must exist, and the error is that of the kind the ARN names.
fn resources(call: &Call<'_>) -> Result<Vec<String>, ApiError> {
    let arns = call.args.list("ResourceArns");
    if arns.is_empty() || arns.len() > MAX_ARNS {
        return Err(ApiError::validation(format!(
            "Parameter 'ResourceArns' has {} members; give 1 to {MAX_ARNS}",
            arns.len()
        )));
    }
    for arn in &arns {
        if call.world.exists(arn) {
            continue;
        }
        return Err(match arn.split(':').nth(5).and_then(|r| r.split('/').next()) {
            Some("loadbalancer") => ApiError::load_balancer_not_found(arn),
            Some("listener") => ApiError::listener_not_found(arn),
            Some("listener-rule") => ApiError::rule_not_found(arn),
            Some("targetgroup") => ApiError::group_not_found(arn),
            _ => ApiError::validation(format!(
                "'{arn}' is not the ARN of a load balancer, listener, rule or target group"
            )),
        });
    }
    Ok(arns.into_iter().map(str::to_owned).collect())
}
