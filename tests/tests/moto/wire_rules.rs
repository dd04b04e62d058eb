//! Rules, by hand.

use crate::duel::Duel;

const GONE: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener-rule/app/shared/0000000000000000/0000000000000000/0000000000000000";
const NO_LISTENER: &str =
    "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener/app/shared/0000000000000000/0000000000000000";
const NO_GROUP: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sy-gone/0000000000000000";

/// How a rule goes that should not have been made.
const UNDO: [&str; 3] = ["DeleteRule", "RuleArn", "/Rules/0/RuleArn"];

/// A forward to both groups, as the hub writes it.
const FORWARD: [(&str, &str); 6] = [
    ("Actions.member.1.Type", "forward"),
    ("Actions.member.1.ForwardConfig.TargetGroups.member.1.TargetGroupArn", "{group a}"),
    ("Actions.member.1.ForwardConfig.TargetGroups.member.1.Weight", "90"),
    ("Actions.member.1.ForwardConfig.TargetGroups.member.2.TargetGroupArn", "{group b}"),
    ("Actions.member.1.ForwardConfig.TargetGroups.member.2.Weight", "0"),
    ("Actions.member.1.ForwardConfig.TargetGroupStickinessConfig.Enabled", "false"),
];
const SHORT: [(&str, &str); 2] =
    [("Actions.member.1.Type", "forward"), ("Actions.member.1.TargetGroupArn", "{group a}")];
const PATH: [(&str, &str); 2] = [
    ("Conditions.member.1.Field", "path-pattern"),
    ("Conditions.member.1.PathPatternConfig.Values.member.1", "/checkout/*"),
];

fn rule<'a>(priority: &'a str, parts: &[&[(&'a str, &'a str)]]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![("ListenerArn", "{listener}"), ("Priority", priority)];
    all.extend(parts.concat());
    all
}

pub async fn steps(duel: &mut Duel) {
    making(duel).await;
    refused(duel).await;
    reading(duel).await;
    changing(duel).await;
    leaving(duel).await;
}

async fn making(duel: &mut Duel) {
    let tags = [("Tags.member.1.Key", "switchyard.dev/hub"), ("Tags.member.1.Value", "hub-1")];
    duel.raw("a weighted rule", "CreateRule", &rule("100", &[&PATH, &FORWARD, &tags]))
        .await
        .keep("rule", "/Rules/0/RuleArn");
    let every = [
        ("Conditions.member.1.Field", "host-header"),
        ("Conditions.member.1.HostHeaderConfig.Values.member.1", "shop.example.com"),
        ("Conditions.member.2.Field", "http-header"),
        ("Conditions.member.2.HttpHeaderConfig.HttpHeaderName", "X-Beta"),
        ("Conditions.member.2.HttpHeaderConfig.Values.member.1", "yes"),
        ("Conditions.member.3.Field", "http-request-method"),
        ("Conditions.member.3.HttpRequestMethodConfig.Values.member.1", "GET"),
        ("Conditions.member.4.Field", "query-string"),
        ("Conditions.member.4.QueryStringConfig.Values.member.1.Key", "v"),
        ("Conditions.member.4.QueryStringConfig.Values.member.1.Value", "2"),
        ("Conditions.member.5.Field", "source-ip"),
        ("Conditions.member.5.SourceIpConfig.Values.member.1", "10.0.0.0/8"),
    ];
    duel.raw("a rule with every kind of condition", "CreateRule", &rule("110", &[&every, &SHORT]))
        .await
        .keep("every", "/Rules/0/RuleArn");
    let short = [("Conditions.member.1.Field", "path-pattern"), ("Conditions.member.1.Values.member.1", "/short")];
    duel.raw("a rule with the short form", "CreateRule", &rule("120", &[&short, &SHORT]))
        .await
        .keep("short", "/Rules/0/RuleArn");
}

async fn refused(duel: &mut Duel) {
    duel.refused("a priority that is taken", "CreateRule", &rule("100", &[&PATH, &SHORT]), UNDO).await;
    let mut elsewhere = rule("130", &[&PATH, &SHORT]);
    elsewhere[0] = ("ListenerArn", NO_LISTENER);
    duel.refused("a rule of nobody", "CreateRule", &elsewhere, UNDO).await;
    let nowhere = [("Actions.member.1.Type", "forward"), ("Actions.member.1.TargetGroupArn", NO_GROUP)];
    duel.refused("a rule to nobody", "CreateRule", &rule("131", &[&PATH, &nowhere]), UNDO).await;
    duel.refused("priority 0", "CreateRule", &rule("0", &[&PATH, &SHORT]), UNDO).await;
    duel.refused("priority 50001", "CreateRule", &rule("50001", &[&PATH, &SHORT]), UNDO).await;
    let mut heavy = FORWARD;
    heavy[2].1 = "1000";
    duel.refused("a weight of 1000", "CreateRule", &rule("132", &[&PATH, &heavy]), UNDO).await;
    let odd = [("Conditions.member.1.Field", "colour"), ("Conditions.member.1.Values.member.1", "/x")];
    duel.refused("a condition that does not exist", "CreateRule", &rule("133", &[&odd, &SHORT]), UNDO).await;
    let long = "x".repeat(129);
    let long = [("Conditions.member.1.Field", "host-header"), ("Conditions.member.1.Values.member.1", long.as_str())];
    duel.refused("a host name of 129 characters", "CreateRule", &rule("134", &[&long, &SHORT]), UNDO).await;
    duel.refused("a rule without conditions", "CreateRule", &rule("135", &[&SHORT]), UNDO).await;
}

async fn reading(duel: &mut Duel) {
    duel.raw("the rules of a listener", "DescribeRules", &[("ListenerArn", "{listener}")]).await;
    let first = [("ListenerArn", "{listener}"), ("PageSize", "3")];
    duel.raw("the first page of rules", "DescribeRules", &first).await.keep("page", "/NextMarker");
    let second = [("ListenerArn", "{listener}"), ("PageSize", "3"), ("Marker", "{page}")];
    duel.raw("the second page of rules", "DescribeRules", &second).await;
    duel.raw("one rule", "DescribeRules", &[("RuleArns.member.1", "{every}")]).await;
    duel.raw("the rules of nobody", "DescribeRules", &[("ListenerArn", NO_LISTENER)]).await;
    duel.raw("a rule that is not there", "DescribeRules", &[("RuleArns.member.1", GONE)]).await;
    duel.raw("the tags of a rule", "DescribeTags", &[("ResourceArns.member.1", "{rule}")]).await;
    duel.raw("the groups of a load balancer", "DescribeTargetGroups", &[("LoadBalancerArn", "{lb}")]).await;
    duel.raw("a group in use cannot go", "DeleteTargetGroup", &[("TargetGroupArn", "{group b}")]).await;
}

async fn changing(duel: &mut Duel) {
    let mut shifted = FORWARD.to_vec();
    (shifted[2].1, shifted[4].1) = ("0", "100");
    shifted.push(("RuleArn", "{rule}"));
    duel.raw("other weights", "ModifyRule", &shifted).await;
    let conditions = [
        ("RuleArn", "{rule}"),
        ("Conditions.member.1.Field", "host-header"),
        ("Conditions.member.1.HostHeaderConfig.Values.member.1", "a.example.com"),
        ("Conditions.member.1.HostHeaderConfig.Values.member.2", "*.b.example.com"),
    ];
    duel.raw("other conditions", "ModifyRule", &conditions).await;
    duel.raw("nothing to change", "ModifyRule", &[("RuleArn", "{rule}")]).await;
    shifted.pop();
    shifted.push(("RuleArn", GONE));
    duel.raw("a rule that is gone", "ModifyRule", &shifted).await;
    let nowhere =
        [("RuleArn", "{rule}"), ("Actions.member.1.Type", "forward"), ("Actions.member.1.TargetGroupArn", NO_GROUP)];
    duel.raw("a change to nobody", "ModifyRule", &nowhere).await;
    let priority = |rule: &'static str, priority: &'static str| {
        [("RulePriorities.member.1.RuleArn", rule), ("RulePriorities.member.1.Priority", priority)]
    };
    duel.raw("another priority", "SetRulePriorities", &priority("{rule}", "90")).await;
    duel.raw("the priority of another rule", "SetRulePriorities", &priority("{rule}", "110")).await;
    duel.raw("the priority of nobody", "SetRulePriorities", &priority(GONE, "77")).await;
    let swap = [
        ("RulePriorities.member.1.RuleArn", "{rule}"),
        ("RulePriorities.member.1.Priority", "110"),
        ("RulePriorities.member.2.RuleArn", "{every}"),
        ("RulePriorities.member.2.Priority", "90"),
    ];
    duel.raw("two rules change places", "SetRulePriorities", &swap).await;
}

async fn leaving(duel: &mut Duel) {
    for (name, rule) in
        [("the rule goes", "{rule}"), ("the second rule goes", "{every}"), ("the third rule goes", "{short}")]
    {
        duel.raw(name, "DeleteRule", &[("RuleArn", rule)]).await;
    }
    duel.raw("the rule goes again", "DeleteRule", &[("RuleArn", "{rule}")]).await;
    duel.raw("only the default rule is left", "DescribeRules", &[("ListenerArn", "{listener}")]).await;
    duel.raw("a group goes", "DeleteTargetGroup", &[("TargetGroupArn", "{group b}")]).await;
    duel.raw("a group goes again", "DeleteTargetGroup", &[("TargetGroupArn", "{group b}")]).await;
    duel.raw("the other group goes", "DeleteTargetGroup", &[("TargetGroupArn", "{group a}")]).await;
}
