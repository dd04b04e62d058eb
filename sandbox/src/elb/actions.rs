//! Actions of rules and listeners: parsing with every documented bound, and the XML form. Whether the target groups
//! exist and fit is asked in `api::rules`. Pure; must not import the state.

use super::{conditions::unsupported, errors::ApiError, limits, limits::Limits, query::Scope, xml::Xml};

/// Highest weight of a group; 0 means that it gets no requests.
pub const MAX_WEIGHT: u32 = 999;
/// Longest group stickiness: 7 days.
const MAX_STICKINESS_S: u32 = 604_800;
/// Longest body of a fixed response, in characters.
const MAX_BODY: usize = 1_024;
const CONTENT_TYPES: [&str; 5] = ["text/plain", "text/css", "text/html", "application/javascript", "application/json"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    pub order: Option<u32>,
    pub kind: ActionKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionKind {
    Forward(Forward),
    FixedResponse { status: u16, content_type: Option<String>, body: String },
    Redirect(Redirect),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub groups: Vec<WeightedGroup>,
    /// Seconds a client stays with its group; None when group stickiness is off.
    pub stickiness_s: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedGroup {
    pub arn: String,
    pub weight: u32,
}

/// Parts of the target address; `#{host}` and the like stand for the request's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    pub protocol: String,
    pub host: String,
    pub port: String,
    pub path: String,
    pub query: String,
    pub status: u16,
}

impl Action {
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        let groups = match &self.kind {
            ActionKind::Forward(f) => f.groups.as_slice(),
            _ => &[],
        };
        groups.iter().map(|g| g.arn.as_str())
    }

    pub fn forward(&self) -> Option<&Forward> {
        match &self.kind {
            ActionKind::Forward(f) => Some(f),
            _ => None,
        }
    }

    pub fn write(&self, x: &mut Xml) {
        match &self.kind {
            ActionKind::Forward(f) => f.write(x),
            ActionKind::FixedResponse { status, content_type, body } => {
                x.text("Type", "fixed-response").element("FixedResponseConfig", |x| {
                    x.text("StatusCode", status)
                        .text_if("ContentType", content_type.as_ref())
                        .text_if("MessageBody", Some(body).filter(|body| !body.is_empty()));
                });
            }
            ActionKind::Redirect(r) => {
                x.text("Type", "redirect").element("RedirectConfig", |x| {
                    x.text("Protocol", &r.protocol).text("Port", &r.port).text("Host", &r.host);
                    x.text("Path", &r.path).text("Query", &r.query).text("StatusCode", format!("HTTP_{}", r.status));
                });
            }
        }
        x.text_if("Order", self.order);
    }
}

impl Forward {
    fn write(&self, x: &mut Xml) {
        x.text("Type", "forward");
        if let [only] = self.groups.as_slice() {
            x.text("TargetGroupArn", &only.arn);
        }
        x.element("ForwardConfig", |x| {
            x.list("TargetGroups", &self.groups, |x, g| _ = x.text("TargetGroupArn", &g.arn).text("Weight", g.weight));
            x.element("TargetGroupStickinessConfig", |x| {
                x.text("Enabled", self.stickiness_s.is_some()).text_if("DurationSeconds", self.stickiness_s);
            });
        });
    }
}

/// Reads and checks the whole list of one rule.
pub fn parse_all(scopes: &[Scope<'_>], limits: &Limits) -> Result<Vec<Action>, ApiError> {
    match scopes {
        [] => Err(ApiError::validation("Parameter 'Actions' is empty; give exactly one action")),
        [one] => Ok(vec![parse(one, limits)?]),
        // Only authenticate-* and jwt-validation may stand before the last action, and those are not modelled.
        _ => Err(ApiError::new(
            "TooManyActions",
            format!("{} actions; exactly one of forward, fixed-response and redirect is allowed here", scopes.len()),
        )),
    }
}

fn parse(scope: &Scope<'_>, limits: &Limits) -> Result<Action, ApiError> {
    let order = scope.number("Order", 1..=50_000)?;
    let kind = match scope.required("Type")? {
        "forward" => ActionKind::Forward(parse_forward(scope, limits)?),
        "fixed-response" => parse_fixed(scope)?,
        "redirect" => ActionKind::Redirect(parse_redirect(scope)?),
        auth @ ("authenticate-oidc" | "authenticate-cognito" | "jwt-validation") => return Err(unsupported(auth)),
        other => {
            return Err(ApiError::new(
                "InvalidLoadBalancerAction",
                format!("Action type '{other}' must be one of forward, fixed-response, redirect"),
            ));
        }
    };
    Ok(Action { order, kind })
}

fn parse_forward(scope: &Scope<'_>, limits: &Limits) -> Result<Forward, ApiError> {
    let short = scope.get("TargetGroupArn").filter(|a| !a.is_empty());
    let config = scope.structure("ForwardConfig");
    let mut groups = Vec::new();
    for member in config.as_ref().map(|c| c.members("TargetGroups")).unwrap_or_default() {
        let arn = member.required("TargetGroupArn")?.to_owned();
        let weight = member.number("Weight", 0..=MAX_WEIGHT)?.unwrap_or(1);
        if groups.iter().any(|g: &WeightedGroup| g.arn == arn) {
            return Err(ApiError::validation(format!(
                "Target group '{arn}' is named twice in one action; name it once"
            )));
        }
        groups.push(WeightedGroup { arn, weight });
    }
    match (short, groups.as_slice()) {
        (Some(arn), []) => groups.push(WeightedGroup { arn: arn.to_owned(), weight: 1 }),
        (Some(arn), [only]) if only.arn == arn => {}
        (None, [_, ..]) => {}
        (None, []) => {
            return Err(ApiError::validation("A forward action needs TargetGroupArn or ForwardConfig.TargetGroups"));
        }
        (Some(_), _) => {
            return Err(ApiError::validation(
                "TargetGroupArn and ForwardConfig.TargetGroups disagree; with TargetGroupArn only that group may be listed",
            ));
        }
    }
    limits.check(limits::GROUPS_PER_ACTION, groups.len(), "TooManyTargetGroups", "target groups per action")?;
    let sticky = config.and_then(|c| c.structure("TargetGroupStickinessConfig"));
    Ok(Forward { groups, stickiness_s: sticky.map(|s| parse_stickiness(&s)).transpose()?.flatten() })
}

fn parse_stickiness(scope: &Scope<'_>) -> Result<Option<u32>, ApiError> {
    let seconds = scope.number("DurationSeconds", 1..=MAX_STICKINESS_S)?;
    match (scope.boolean("Enabled")?.unwrap_or(false), seconds) {
        (false, _) => Ok(None),
        (true, Some(seconds)) => Ok(Some(seconds)),
        (true, None) => Err(ApiError::validation(
            "TargetGroupStickinessConfig.DurationSeconds is required when stickiness is enabled; give 1 to 604800",
        )),
    }
}

fn parse_fixed(scope: &Scope<'_>) -> Result<ActionKind, ApiError> {
    let config = scope
        .structure("FixedResponseConfig")
        .ok_or_else(|| ApiError::validation("A fixed-response action needs FixedResponseConfig"))?;
    let text = config.required("StatusCode")?;
    let status = text.parse().ok().filter(|s| matches!(s, 200..=299 | 400..=599));
    let status = status.ok_or_else(|| {
        ApiError::validation(format!("FixedResponseConfig.StatusCode '{text}' must be 2XX, 4XX or 5XX"))
    })?;
    let content_type = config.get("ContentType").filter(|t| !t.is_empty());
    if let Some(unknown) = content_type.filter(|t| !CONTENT_TYPES.contains(t)) {
        return Err(ApiError::validation(format!(
            "FixedResponseConfig.ContentType '{unknown}' must be one of {}",
            CONTENT_TYPES.join(", ")
        )));
    }
    let body = config.get("MessageBody").unwrap_or_default();
    if body.chars().count() > MAX_BODY {
        return Err(ApiError::validation(format!(
            "FixedResponseConfig.MessageBody is longer than {MAX_BODY} characters"
        )));
    }
    Ok(ActionKind::FixedResponse { status, content_type: content_type.map(str::to_owned), body: body.to_owned() })
}

fn parse_redirect(scope: &Scope<'_>) -> Result<Redirect, ApiError> {
    let config = scope
        .structure("RedirectConfig")
        .ok_or_else(|| ApiError::validation("A redirect action needs RedirectConfig"))?;
    let status = match config.required("StatusCode")? {
        "HTTP_301" => 301,
        "HTTP_302" => 302,
        other => {
            return Err(ApiError::validation(format!(
                "RedirectConfig.StatusCode '{other}' must be HTTP_301 or HTTP_302"
            )));
        }
    };
    let part = |key: &str, default: &str| config.get(key).unwrap_or(default).to_owned();
    let redirect = Redirect {
        protocol: part("Protocol", "#{protocol}"),
        host: part("Host", "#{host}"),
        port: part("Port", "#{port}"),
        path: part("Path", "/#{path}"),
        query: part("Query", "#{query}"),
        status,
    };
    let unchanged = redirect.protocol == "#{protocol}"
        && redirect.host == "#{host}"
        && redirect.port == "#{port}"
        && redirect.path == "/#{path}";
    if unchanged {
        return Err(ApiError::new(
            "InvalidLoadBalancerAction",
            "The redirect would loop: change at least one of protocol, host, port, path",
        ));
    }
    if !matches!(redirect.protocol.as_str(), "HTTP" | "HTTPS" | "#{protocol}") {
        return Err(ApiError::validation(format!(
            "RedirectConfig.Protocol '{}' must be HTTP, HTTPS or #{{protocol}}",
            redirect.protocol
        )));
    }
    Ok(redirect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elb::query::Params;

    fn read(body: &str) -> Result<Vec<Action>, ApiError> {
        let params = Params::parse(body.replace('~', "A.member.1.").as_bytes()).unwrap();
        parse_all(&params.root().members("A"), &Limits::default())
    }

    fn groups(weights: &[&str]) -> String {
        let each = |(i, w): (usize, &&str)| {
            format!(
                "&~ForwardConfig.TargetGroups.member.{0}.TargetGroupArn=g{0}&~ForwardConfig.TargetGroups.member.{0}.Weight={w}",
                i + 1
            )
        };
        format!("~Type=forward{}", weights.iter().enumerate().map(each).collect::<String>())
    }

    #[test]
    fn weights_run_from_zero_to_999_and_default_to_one() {
        let actions = read(&groups(&["0", "999"])).unwrap();
        let weights: Vec<_> = actions[0].forward().unwrap().groups.iter().map(|g| g.weight).collect();
        assert_eq!(weights, [0, 999]);
        for bad in ["1000", "-1", "1.5", ""] {
            assert_eq!(read(&groups(&[bad])).unwrap_err().code, "ValidationError", "{bad}");
        }
        assert_eq!(read("~Type=forward&~TargetGroupArn=g").unwrap()[0].forward().unwrap().groups[0].weight, 1);
    }

    #[test]
    fn a_sixth_group_in_one_action_is_refused_with_the_quota_code() {
        assert!(read(&groups(&["1"; 5])).is_ok());
        assert_eq!(read(&groups(&["1"; 6])).unwrap_err().code, "TooManyTargetGroups");
    }

    #[test]
    fn a_group_may_not_be_named_twice_or_differ_from_the_short_form() {
        let twice = "~Type=forward&~ForwardConfig.TargetGroups.member.1.TargetGroupArn=g&\
                     ~ForwardConfig.TargetGroups.member.2.TargetGroupArn=g";
        assert!(read(twice).unwrap_err().message.contains("twice"));
        assert!(read(&format!("{}&~TargetGroupArn=other", groups(&["1"]))).is_err());
        assert!(read(&format!("{}&~TargetGroupArn=g1", groups(&["1"]))).is_ok());
        assert!(read("~Type=forward").is_err());
    }

    #[test]
    fn group_stickiness_needs_a_duration_inside_seven_days() {
        let sticky = |rest: &str| {
            let config = "&~ForwardConfig.TargetGroupStickinessConfig.Enabled=true";
            read(&format!("{}{config}{rest}", groups(&["1"])))
        };
        assert!(sticky("").unwrap_err().message.contains("DurationSeconds"));
        let duration = "&~ForwardConfig.TargetGroupStickinessConfig.DurationSeconds=";
        assert!(sticky(&format!("{duration}604801")).is_err());
        assert!(sticky(&format!("{duration}0")).is_err());
        assert_eq!(sticky(&format!("{duration}60")).unwrap()[0].forward().unwrap().stickiness_s, Some(60));
    }

    #[test]
    fn fixed_responses_and_redirects_keep_to_their_bounds() {
        assert!(read("~Type=fixed-response&~FixedResponseConfig.StatusCode=404").is_ok());
        assert!(read("~Type=fixed-response&~FixedResponseConfig.StatusCode=302").is_err());
        assert!(
            read("~Type=fixed-response&~FixedResponseConfig.StatusCode=200&~FixedResponseConfig.ContentType=a")
                .is_err()
        );
        assert!(read("~Type=redirect&~RedirectConfig.StatusCode=HTTP_301&~RedirectConfig.Protocol=HTTPS").is_ok());
        let looping = read("~Type=redirect&~RedirectConfig.StatusCode=HTTP_301").unwrap_err();
        assert_eq!(looping.code, "InvalidLoadBalancerAction");
    }

    #[test]
    fn two_actions_or_an_unknown_one_are_refused_by_code() {
        let two = format!("{}&A.member.2.Type=forward&A.member.2.TargetGroupArn=g", groups(&["1"]));
        assert_eq!(read(&two).unwrap_err().code, "TooManyActions");
        assert_eq!(read("~Type=teleport").unwrap_err().code, "InvalidLoadBalancerAction");
        assert!(read("~Type=authenticate-oidc").unwrap_err().message.contains("not modelled"));
    }
}
