//! The IAM policies of `deploy/iam`, judged by moto: the hub lives its whole life with them, in each partition, and each of their
//! statements is needed for it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchyard_tests::{moto, programs};

use crate::life::{Life, policy, rendered, rendered_with, without};

const CHECKOUT: &str = "shop/checkout";

/// Every action that a policy allows, without the service's prefix.
fn actions(policy: &Value) -> BTreeSet<String> {
    let statements = policy["Statement"].as_array().expect("statements");
    let lists = statements.iter().map(|statement| match &statement["Action"] {
        Value::Array(actions) => actions.clone(),
        one => vec![one.clone()],
    });
    let names = lists.flatten().map(|action| action.as_str().expect("a text").to_owned());
    // The full name for other services than ELBv2.
    names.map(|name| name.trim_start_matches("elasticloadbalancing:").to_owned()).collect()
}

#[test]
fn the_committed_policies_are_what_the_template_gives() {
    for (partition, region) in [("aws", "eu-central-1"), ("aws-cn", "cn-north-1"), ("aws-us-gov", "us-gov-west-1")] {
        let file = programs::workspace().join(format!("deploy/iam/hub-policy.{partition}.json"));
        let committed: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("it is there")).unwrap();
        let wanted = rendered("123456789012", region);
        assert_eq!(committed, wanted, "render {} again, with region {region}, hub production", file.display());
        let text = committed.to_string();
        assert_eq!(text.matches("arn:").count(), text.matches(&format!("arn:{partition}:")).count(), "{partition}");
        assert!(!text.contains('@'), "a placeholder is left: {text}");
    }
}

#[test]
fn the_page_about_iam_names_every_statement_and_action() {
    let page = std::fs::read_to_string(programs::workspace().join("docs/iam.md")).expect("docs/iam.md");
    let policy = rendered_with("123456789012", "eu-central-1", &["--cloudwatch", "yes"]);
    let sids = policy["Statement"].as_array().unwrap().iter().map(|s| s["Sid"].as_str().unwrap().to_owned());
    for word in sids.chain(actions(&policy)) {
        assert!(page.contains(&format!("`{word}`")), "docs/iam.md does not name {word}");
    }
}

#[test]
fn metrics_may_be_read_only_by_a_hub_that_asks_for_them_and_nothing_else_of_cloudwatch() {
    for region in ["eu-central-1", "cn-north-1", "us-gov-west-1"] {
        let plain = rendered("123456789012", region);
        let reading = rendered_with("123456789012", region, &["--cloudwatch", "yes"]);
        assert_eq!(without(&reading, "ReadMetrics"), plain, "{region}");
        assert_eq!(rendered_with("123456789012", region, &["--cloudwatch", "no"]), plain, "{region}");
        for (policy, action, wanted) in [
            (&reading, "cloudwatch:GetMetricData", true),
            (&plain, "cloudwatch:GetMetricData", false),
            (&reading, "cloudwatch:ListMetrics", false),
            (&reading, "cloudwatch:PutMetricData", false),
        ] {
            assert_eq!(judged(policy, action), wanted, "{region} {action}");
        }
    }
}

/// What the judge of these tests says about one action that has no resource.
fn judged(policy: &Value, action: &str) -> bool {
    let mut python = std::process::Command::new(moto::python().unwrap_or_else(|error| panic!("{error}")));
    let ask = "import json, sys; from authority import Question, allows; \
               print(allows([json.loads(sys.argv[1])], Question(sys.argv[2], '*')))";
    python.args(["-B", "-c", ask, &policy.to_string(), action]).current_dir(moto::tools());
    let output = python.output().expect("Python runs");
    match String::from_utf8_lossy(&output.stdout).trim() {
        "True" => true,
        "False" => false,
        other => panic!("{other:?} {}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
fn a_wrong_argument_is_refused_instead_of_rendered() {
    let render = |arguments: &[&str]| {
        let script = programs::workspace().join("deploy/iam/render.sh");
        let output = std::process::Command::new(script).args(arguments).output().expect("bash runs");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mut good = ["--region", "eu-central-1", "--account", "123456789012", "--load-balancer", "shared-*"].to_vec();
    good.extend(["--hub-id", "a", "--cloudwatch", "no"]);
    assert_eq!(render(&good), (true, String::new()));
    for (place, bad) in [(1, "*"), (3, "12345678901"), (5, "a/b"), (7, "*"), (7, "a\",\"b"), (9, "maybe")] {
        let mut arguments = good.clone();
        arguments[place] = bad;
        let (success, message) = render(&arguments);
        assert!(!success && message.contains(bad), "{bad}: {message}");
    }
}

#[test]
fn what_decides_about_policies_in_these_tests_is_tested_itself() {
    let mut python = std::process::Command::new(moto::python().unwrap_or_else(|error| panic!("{error}")));
    python.args(["-B", "-m", "unittest", "test_authority"]).current_dir(moto::tools());
    let output = python.output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn the_hub_lives_its_whole_life_with_the_policy_of_partition_aws() {
    whole_life("111111111111", "us-east-1").await;
}

#[tokio::test]
async fn the_hub_lives_its_whole_life_with_the_policy_of_partition_aws_cn() {
    whole_life("222222222222", "cn-north-1").await;
}

#[tokio::test]
async fn the_hub_lives_its_whole_life_with_the_policy_of_partition_aws_us_gov() {
    whole_life("333333333333", "us-gov-west-1").await;
}

async fn whole_life(account: &str, region: &str) {
    let allowed = rendered(account, region);
    let life = Life::start(account, region, &allowed).await;
    let yardctl = &life.yardctl;
    yardctl.apply_until_converged(&policy("checkout", 100, &[("blue", 100), ("green", 0)])).await;
    yardctl.apply_until_converged(&policy("cart", 200, &[("blue", 50), ("green", 50)])).await;
    yardctl.weights_until_converged(CHECKOUT, &["blue=20", "green=80"]).await;
    let moved = policy("cart", 50, &[("blue", 50), ("green", 50)]);
    yardctl.apply_until_converged(&moved.with("/spec/backend/healthCheck/path", json!("/other"))).await;
    for name in ["blue", "green"] {
        let cluster = life.sandbox.cluster(name);
        cluster.roll_out("checkout", "v2").await.expect("the rollout begins");
        cluster.settled("checkout").await;
    }
    yardctl.converged(CHECKOUT).await;
    for name in [CHECKOUT, "shop/cart"] {
        yardctl.expect(&["delete", "policy", name, "--wait"], "").await;
    }
    for action in actions(&allowed) {
        assert!(life.done(&action).await > 0, "the policy allows {action}, which this hub has never called");
    }
    let log = life.log();
    let denied = log.lines().find(|line| line.contains("not authorized"));
    assert_eq!(denied, None);
    life.end().await;
}

/// What the status has to say when an action is not allowed: the action, and what helps.
async fn status_names(life: &Life, policy: &str, action: &str) {
    let action = format!("elasticloadbalancing:{action}");
    life.yardctl.status_says(policy, &["AccessDenied", &action, "docs/iam.md"]).await;
}

#[tokio::test]
async fn without_any_statement_about_making_something_a_policy_is_not_programmed_and_says_why() {
    let (account, region) = ("444444444444", "eu-central-1");
    let allowed = rendered(account, region);
    let life = Life::start(account, region, &without(&allowed, "Read")).await;
    life.logs(&["reading from AWS failed", "elasticloadbalancing:DescribeLoadBalancers", "docs/iam.md"]).await;
    let first = policy("read", 99, &[("blue", 100), ("green", 0)]);
    life.yardctl.expect(&["apply", "-f", "-"], &first.yaml()).await;
    life.yardctl.status_says("shop/read", &["NotObservedYet", "AccessDenied", "docs/iam.md"]).await;

    // One policy after the other, each without the statement that it needs first.
    let needed = [
        ("EpochOnTheLoadBalancer", "AddTags"),
        ("CreateTargetGroups", "CreateTargetGroup"),
        ("TagWhatIsCreated", "AddTags"),
        ("ConfigureTargetGroups", "ModifyTargetGroupAttributes"),
        ("MoveTargets", "RegisterTargets"),
        ("CreateRules", "CreateRule"),
    ];
    for ((sid, action), order) in needed.into_iter().zip(100..) {
        life.account.set_policy(&without(&allowed, sid)).await.expect("another policy");
        let name = sid.to_lowercase();
        // Each behind the others: moto cannot make room for a rule by moving several in one call.
        let policy = policy(&name, order, &[("blue", 100), ("green", 0)]);
        life.yardctl.expect(&["apply", "-f", "-"], &policy.yaml()).await;
        status_names(&life, &format!("shop/{name}"), action).await;
        life.account.set_policy(&allowed).await.expect("the whole policy");
        life.yardctl.converged(&format!("shop/{name}")).await;
    }
    life.end().await;
}

#[tokio::test]
async fn without_any_statement_about_changing_something_a_policy_stays_as_it_was_and_says_why() {
    let (account, region) = ("555555555555", "eu-west-1");
    let allowed = rendered(account, region);
    let life = Life::start(account, region, &allowed).await;
    for (name, order) in [("checkout", 100), ("cart", 200)] {
        life.yardctl.apply_until_converged(&policy(name, order, &[("blue", 100), ("green", 0)])).await;
    }
    life.account.set_policy(&without(&allowed, "ChangeRules")).await.expect("another policy");
    life.yardctl.expect(&["weights", CHECKOUT, "blue=50", "green=50"], "").await;
    status_names(&life, CHECKOUT, "ModifyRule").await;
    life.account.set_policy(&allowed).await.expect("the whole policy");
    life.yardctl.converged(CHECKOUT).await;

    life.account.set_policy(&without(&allowed, "OrderRules")).await.expect("another policy");
    let moved = policy("cart", 50, &[("blue", 100), ("green", 0)]);
    life.yardctl.expect(&["apply", "-f", "-"], &moved.yaml()).await;
    // The rule of cart stands where it may stand, and the other one has to get out of its way.
    status_names(&life, CHECKOUT, "SetRulePriorities").await;
    life.account.set_policy(&allowed).await.expect("the whole policy");
    life.yardctl.converged(CHECKOUT).await;

    for (sid, action, name) in
        [("DeleteRules", "DeleteRule", CHECKOUT), ("DeleteTargetGroups", "DeleteTargetGroup", "shop/cart")]
    {
        life.account.set_policy(&without(&allowed, sid)).await.expect("another policy");
        life.yardctl.expect(&["delete", "policy", name], "").await;
        status_names(&life, name, action).await;
        life.account.set_policy(&allowed).await.expect("the whole policy");
        life.gone(name).await;
    }
    life.end().await;
}
