//! What the policy must not allow: the same calls, for what is not the hub's own. Signed by the SDK as the hub signs.

use aws_sdk_elasticloadbalancingv2::{
    Client,
    config::{BehaviorVersion, Builder, Credentials, Region},
    error::ProvideErrorMetadata,
    types::{RulePriorityPair, Tag, TargetDescription},
};
use switchyard_tests::moto::{
    Moto,
    account::{self, Account},
};

use crate::life::rendered;

const ACCOUNT: &str = "666666666666";
const REGION: &str = "eu-west-2";

struct Bounds {
    account: Account,
    hub: Client,
    vpc: String,
}

fn client(url: &str, credentials: &account::Credentials) -> Client {
    let account::Credentials { key, secret, token } = credentials;
    let credentials = Credentials::new(key, secret, Some(token.clone()), None, "moto");
    let config = Builder::new()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .credentials_provider(credentials)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    Client::from_conf(config.build())
}

fn tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// How a call ended: `ok`, or the code of the refusal.
fn code<T, E: ProvideErrorMetadata>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}

impl Bounds {
    /// A group that somebody made, with the tag of a hub or without.
    async fn group(&self, name: &str, hub: Option<&str>) -> String {
        let mut parameters =
            vec![("Name", name), ("Protocol", "HTTP"), ("Port", "80"), ("VpcId", &self.vpc), ("TargetType", "ip")];
        if let Some(hub) = hub {
            parameters.extend([("Tags.member.1.Key", "switchyard.dev/hub"), ("Tags.member.1.Value", hub)]);
        }
        let made = self.account.elb().call("CreateTargetGroup", &parameters).await.expect("a group");
        made["TargetGroups"][0]["TargetGroupArn"].as_str().expect("an ARN").to_owned()
    }

    /// A rule that somebody made, with the tag of a hub or without.
    async fn rule(&self, listener: &str, priority: &str, hub: Option<&str>) -> String {
        let mut parameters = vec![
            ("ListenerArn", listener),
            ("Priority", priority),
            ("Conditions.member.1.Field", "path-pattern"),
            ("Conditions.member.1.Values.member.1", "/x"),
            ("Actions.member.1.Type", "fixed-response"),
            ("Actions.member.1.FixedResponseConfig.StatusCode", "200"),
        ];
        if let Some(hub) = hub {
            parameters.extend([("Tags.member.1.Key", "switchyard.dev/hub"), ("Tags.member.1.Value", hub)]);
        }
        let made = self.account.elb().call("CreateRule", &parameters).await.expect("a rule");
        made["Rules"][0]["RuleArn"].as_str().expect("an ARN").to_owned()
    }

    async fn create_group(&self, name: &str, hub: &str) -> String {
        let request = self.hub.create_target_group().name(name).vpc_id(&self.vpc).port(80);
        let request = request.protocol("HTTP".into()).target_type("ip".into());
        code(request.tags(tag("switchyard.dev/hub", hub)).send().await)
    }

    async fn register(&self, group: &str) -> String {
        let target = TargetDescription::builder().id("172.31.0.9").port(80).build();
        code(self.hub.register_targets().target_group_arn(group).targets(target).send().await)
    }

    async fn tag(&self, resource: &str, key: &str) -> String {
        code(self.hub.add_tags().resource_arns(resource).tags(tag(key, "production")).send().await)
    }
}

#[tokio::test]
async fn the_policy_allows_nothing_on_what_is_not_the_hubs_own() {
    let moto = Moto::shared().await;
    let account = Account::new(moto, ACCOUNT, REGION);
    let shared = account.furnish("shared-public", 80).await.expect("the hub's load balancer");
    let other = account.furnish("somebody-elses", 80).await.expect("another load balancer");
    let credentials = account.role(&rendered(ACCOUNT, REGION)).await.expect("a role");
    let hub = client(moto.url(), &credentials);
    let bounds = Bounds { account, hub, vpc: shared.vpc_id.clone() };
    const OURS: Option<&str> = Some("production");

    let denied = "AccessDenied";
    assert_eq!(bounds.create_group("sy-ours", "production").await, "ok");
    assert_eq!(bounds.create_group("sy-theirs", "staging").await, denied, "for another hub");
    assert_eq!(bounds.create_group("other", "production").await, denied, "with another prefix");

    for (name, owner, expected) in [
        ("sy-of-this-hub", OURS, "ok"),
        ("sy-of-another", Some("staging"), denied),
        ("sy-of-nobody", None, denied),
        ("of-this-hub", OURS, denied),
    ] {
        let arn = bounds.group(name, owner).await;
        assert_eq!(bounds.register(&arn).await, expected, "{name}");
        let request = bounds.hub.modify_target_group().target_group_arn(&arn).health_check_path("/x");
        assert_eq!(code(request.send().await), expected, "{name}");
        // Nothing that exists can be claimed by tagging it.
        assert_eq!(bounds.tag(&arn, "switchyard.dev/hub").await, denied, "{name}");
        assert_eq!(code(bounds.hub.delete_target_group().target_group_arn(&arn).send().await), expected, "{name}");
    }

    for (listener, owner, expected) in [
        (&shared.listener, OURS, "ok"),
        (&shared.listener, Some("staging"), denied),
        (&shared.listener, None, denied),
        (&other.listener, OURS, denied),
    ] {
        let what = format!("{listener} {owner:?}");
        let priority = if expected == "ok" { "1" } else { "2" };
        let arn = bounds.rule(listener, priority, owner).await;
        let request = bounds.hub.modify_rule().rule_arn(&arn);
        let condition = aws_sdk_elasticloadbalancingv2::types::RuleCondition::builder();
        let condition = condition.field("path-pattern").values("/y").build();
        assert_eq!(code(request.conditions(condition).send().await), expected, "{what}");
        assert_eq!(bounds.tag(&arn, "switchyard.dev/hub").await, denied, "{what}");
        assert_eq!(code(bounds.hub.delete_rule().rule_arn(&arn).send().await), expected, "{what}");
        if expected == denied {
            // It would be in the way of the next one.
            bounds.account.elb().call("DeleteRule", &[("RuleArn", &arn)]).await.expect("it goes");
        }
    }

    let theirs = bounds.rule(&other.listener, "5", OURS).await;
    let pair = RulePriorityPair::builder().rule_arn(&theirs).priority(6).build();
    assert_eq!(code(bounds.hub.set_rule_priorities().rule_priorities(pair).send().await), denied, "another listener");

    assert_eq!(bounds.tag(&shared.load_balancer, "switchyard.dev/epoch.production").await, "ok");
    assert_eq!(bounds.tag(&shared.load_balancer, "switchyard.dev/epoch.staging").await, denied, "another hub's epoch");
    assert_eq!(bounds.tag(&shared.load_balancer, "team").await, denied, "any other tag");
    assert_eq!(bounds.tag(&other.load_balancer, "switchyard.dev/epoch.production").await, denied, "elsewhere");
    let request = bounds.hub.delete_load_balancer().load_balancer_arn(&shared.load_balancer);
    assert_eq!(code(request.send().await), denied, "what the hub never does");
}
