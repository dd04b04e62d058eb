//! The whole duel, and what belongs to no operation: methods, unknown actions, encodings.

use http::Method;

use crate::{duel::Duel, wire_client, wire_groups, wire_rules};

#[tokio::test]
async fn the_sandbox_answers_as_moto_does_but_for_the_known_differences() {
    let mut duel = Duel::start().await;
    envelope(&mut duel).await;
    load_balancers(&mut duel).await;
    wire_groups::steps(&mut duel).await;
    wire_rules::steps(&mut duel).await;
    wire_client::steps(&mut duel).await;
    limits_and_leaving(&mut duel).await;
    duel.judge();
}

async fn envelope(duel: &mut Duel) {
    duel.raw("an empty listing", "DescribeLoadBalancers", &[]).await;
    duel.raw("no groups yet", "DescribeTargetGroups", &[]).await;
    duel.raw("an action that does not exist", "MakeCoffee", &[]).await;
    duel.http("no action at all", "NoAction", Method::POST, "Version=2015-12-01").await;
    let fields = "Action=DescribeLoadBalancers&Version=2015-12-01&Names.member.1=a%2Db+c%20d";
    duel.http("percent signs and plus signs", "DescribeLoadBalancers", Method::POST, fields).await;
    let reordered = "Names.member.1=nobody&Version=2015-12-01&Action=DescribeLoadBalancers";
    duel.http("the action at the end", "DescribeLoadBalancers", Method::POST, reordered).await;
}

async fn load_balancers(duel: &mut Duel) {
    let named = [("Name", "shared"), ("Subnets.member.1", "{subnet 1}"), ("Subnets.member.2", "{subnet 2}")];
    let mut tagged = named.to_vec();
    tagged.extend([("Scheme", "internet-facing"), ("Tags.member.1.Key", "team"), ("Tags.member.1.Value", "a & <b>")]);
    duel.raw("a load balancer", "CreateLoadBalancer", &tagged).await.keep("lb", "/LoadBalancers/0/LoadBalancerArn");
    duel.raw("its name", "DescribeLoadBalancers", &[("Names.member.1", "shared")]).await;
    duel.raw("its ARN", "DescribeLoadBalancers", &[("LoadBalancerArns.member.1", "{lb}")]).await;
    duel.raw("nobody's name", "DescribeLoadBalancers", &[("Names.member.1", "nobody")]).await;
    let gone = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/gone/0000000000000000";
    duel.raw("nobody's ARN", "DescribeLoadBalancers", &[("LoadBalancerArns.member.1", gone)]).await;
    let mut second = named.to_vec();
    second[0].1 = "shared-2";
    second.push(("Scheme", "internal"));
    duel.raw("a second load balancer", "CreateLoadBalancer", &second)
        .await
        .keep("lb 2", "/LoadBalancers/0/LoadBalancerArn");
    duel.raw("the first page", "DescribeLoadBalancers", &[("PageSize", "1")]).await.keep("page", "/NextMarker");
    duel.raw("the second page", "DescribeLoadBalancers", &[("PageSize", "1"), ("Marker", "{page}")]).await;
    duel.raw("the second one goes", "DeleteLoadBalancer", &[("LoadBalancerArn", "{lb 2}")]).await;
    let http = [
        ("LoadBalancerArn", "{lb}"),
        ("Protocol", "HTTP"),
        ("Port", "80"),
        ("DefaultActions.member.1.Type", "fixed-response"),
        ("DefaultActions.member.1.FixedResponseConfig.StatusCode", "404"),
    ];
    duel.raw("a listener", "CreateListener", &http).await.keep("listener", "/Listeners/0/ListenerArn");
    let mut elsewhere = http.to_vec();
    elsewhere[0] = ("LoadBalancerArn", gone);
    duel.raw("a listener of nobody", "CreateListener", &elsewhere).await;
    duel.raw("the listeners", "DescribeListeners", &[("LoadBalancerArn", "{lb}")]).await;
    duel.raw("the listeners of nobody", "DescribeListeners", &[("LoadBalancerArn", gone)]).await;
    let tags = [
        ("ResourceArns.member.1", "{lb}"),
        ("Tags.member.1.Key", "switchyard.dev/epoch.hub-1"),
        ("Tags.member.1.Value", "7"),
        ("Tags.member.2.Key", "team"),
        ("Tags.member.2.Value", ""),
    ];
    duel.raw("the epoch", "AddTags", &tags).await;
    let both = [("ResourceArns.member.1", "{lb}"), ("ResourceArns.member.2", "{listener}")];
    duel.raw("the tags of two", "DescribeTags", &both).await;
    duel.raw("the tags of nobody", "DescribeTags", &[("ResourceArns.member.1", gone)]).await;
    let away = [("ResourceArns.member.1", "{listener}"), ("TagKeys.member.1", "no"), ("TagKeys.member.2", "such")];
    duel.raw("tags that are not there go", "RemoveTags", &away).await;
    let away = [("ResourceArns.member.1", "{lb}"), ("TagKeys.member.1", "team")];
    duel.raw("a tag goes", "RemoveTags", &away).await;
    duel.raw("the tags that are left", "DescribeTags", &[("ResourceArns.member.1", "{lb}")]).await;
    let mut nobody = tags.to_vec();
    nobody[0] = ("ResourceArns.member.1", gone);
    duel.raw("a tag for nobody", "AddTags", &nobody).await;
}

async fn limits_and_leaving(duel: &mut Duel) {
    duel.raw("the limits", "DescribeAccountLimits", &[]).await;
    duel.raw("the listener goes", "DeleteListener", &[("ListenerArn", "{listener}")]).await;
    duel.raw("the listener goes again", "DeleteListener", &[("ListenerArn", "{listener}")]).await;
    duel.raw("the load balancer goes", "DeleteLoadBalancer", &[("LoadBalancerArn", "{lb}")]).await;
    duel.raw("the load balancer goes again", "DeleteLoadBalancer", &[("LoadBalancerArn", "{lb}")]).await;
    duel.raw("the load balancer is gone", "DescribeLoadBalancers", &[("Names.member.1", "shared")]).await;
}
