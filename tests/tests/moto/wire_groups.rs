//! Target groups, their attributes and their targets, by hand.

use crate::duel::Duel;

/// What a group is made with.
const GROUP: [(&str, &str); 12] = [
    ("Name", "sy-a"),
    ("Protocol", "HTTP"),
    ("ProtocolVersion", "HTTP1"),
    ("Port", "80"),
    ("VpcId", "{vpc}"),
    ("TargetType", "ip"),
    ("HealthCheckProtocol", "HTTP"),
    ("HealthCheckPort", "traffic-port"),
    ("HealthCheckPath", "/healthz?deep=1&x"),
    ("HealthCheckIntervalSeconds", "10"),
    ("HealthCheckTimeoutSeconds", "4"),
    ("Matcher.HttpCode", "200-299"),
];
/// How a group goes that should not have been made.
const UNDO: [&str; 3] = ["DeleteTargetGroup", "TargetGroupArn", "/TargetGroups/0/TargetGroupArn"];
const GONE: &str = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/sy-gone/0000000000000000";

fn group<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = GROUP.to_vec();
    for (name, value) in changes {
        all.retain(|(held, _)| held != name);
        if !value.is_empty() {
            all.push((name, value));
        }
    }
    all
}

pub async fn steps(duel: &mut Duel) {
    making(duel).await;
    reading(duel).await;
    changing(duel).await;
    targets(duel).await;
    instances(duel).await;
}

async fn making(duel: &mut Duel) {
    let thresholds = [("HealthyThresholdCount", "3"), ("UnhealthyThresholdCount", "2")];
    let tags = [("Tags.member.1.Key", "switchyard.dev/hub"), ("Tags.member.1.Value", "hub-1")];
    let full = group(&[thresholds.as_slice(), &tags].concat());
    duel.raw("a group with all that the hub says", "CreateTargetGroup", &full)
        .await
        .keep("group a", "/TargetGroups/0/TargetGroupArn");
    let few = [("Name", "sy-b"), ("Protocol", "HTTP"), ("Port", "80"), ("VpcId", "{vpc}"), ("TargetType", "ip")];
    duel.raw("a group with the least", "CreateTargetGroup", &few)
        .await
        .keep("group b", "/TargetGroups/0/TargetGroupArn");
    let other = group(&[("HealthCheckPath", "/other")]);
    let grpc = group(&[
        ("Name", "sy-grpc"),
        ("ProtocolVersion", "GRPC"),
        ("Matcher.HttpCode", ""),
        ("Matcher.GrpcCode", "0-5"),
    ]);
    duel.refused("a group for gRPC", "CreateTargetGroup", &grpc, UNDO).await;
    duel.raw("the same name with other settings", "CreateTargetGroup", &other).await;
    duel.raw("the same name with the same settings", "CreateTargetGroup", &full).await;
    for (name, change) in [
        ("a name of 33 characters", ("Name", "sy-00000000000000000000000000000x")),
        ("a name that ends with a hyphen", ("Name", "sy-")),
        ("a name with an underscore", ("Name", "sy_a")),
        ("no port", ("Port", "")),
        ("no protocol", ("Protocol", "")),
        ("port 70000", ("Port", "70000")),
        ("an interval of 4 seconds", ("HealthCheckIntervalSeconds", "4")),
        ("a timeout as long as the interval", ("HealthCheckTimeoutSeconds", "10")),
        ("a matcher of 600", ("Matcher.HttpCode", "600")),
        ("an unknown protocol version", ("ProtocolVersion", "HTTP9")),
    ] {
        let bad = group(&[("Name", "sy-bad"), change]);
        duel.refused(name, "CreateTargetGroup", &bad, UNDO).await;
    }
}

async fn reading(duel: &mut Duel) {
    duel.raw("a group by name", "DescribeTargetGroups", &[("Names.member.1", "sy-a")]).await;
    duel.raw("a group by ARN", "DescribeTargetGroups", &[("TargetGroupArns.member.1", "{group b}")]).await;
    duel.raw("a group that is not there", "DescribeTargetGroups", &[("Names.member.1", "sy-gone")]).await;
    duel.raw("an ARN that is not there", "DescribeTargetGroups", &[("TargetGroupArns.member.1", GONE)]).await;
    duel.raw("groups by a load balancer without any", "DescribeTargetGroups", &[("LoadBalancerArn", "{lb}")]).await;
    duel.raw("the first page of one group", "DescribeTargetGroups", &[("PageSize", "1")]).await;
    duel.raw("its attributes", "DescribeTargetGroupAttributes", &[("TargetGroupArn", "{group a}")]).await;
    duel.raw("the attributes of nobody", "DescribeTargetGroupAttributes", &[("TargetGroupArn", GONE)]).await;
    duel.raw("its tags", "DescribeTags", &[("ResourceArns.member.1", "{group a}")]).await;
}

async fn changing(duel: &mut Duel) {
    let check = [
        ("TargetGroupArn", "{group a}"),
        ("HealthCheckProtocol", "HTTP"),
        ("HealthCheckPort", "8081"),
        ("HealthCheckPath", "/new"),
        ("HealthCheckIntervalSeconds", "5"),
        ("HealthCheckTimeoutSeconds", "2"),
        ("HealthyThresholdCount", "2"),
        ("UnhealthyThresholdCount", "4"),
        ("Matcher.HttpCode", "200,204"),
    ];
    duel.raw("another health check", "ModifyTargetGroup", &check).await;
    let path = [("TargetGroupArn", "{group a}"), ("HealthCheckPath", "/only-this")];
    duel.raw("only the path", "ModifyTargetGroup", &path).await;
    let nobody = [("TargetGroupArn", GONE), ("HealthCheckPath", "/x")];
    duel.raw("the health check of nobody", "ModifyTargetGroup", &nobody).await;
    let attribute = |group: &'static str, key: &'static str, value: &'static str| {
        [("TargetGroupArn", group), ("Attributes.member.1.Key", key), ("Attributes.member.1.Value", value)]
    };
    const DELAY: &str = "deregistration_delay.timeout_seconds";
    for (name, parameters) in [
        ("a delay of 25 seconds", attribute("{group a}", DELAY, "25")),
        ("no delay", attribute("{group a}", DELAY, "0")),
        ("the longest delay", attribute("{group b}", DELAY, "3600")),
        ("too long a delay", attribute("{group a}", DELAY, "3601")),
        ("a delay in words", attribute("{group a}", DELAY, "long")),
        ("an attribute that does not exist", attribute("{group a}", "no.such.key", "1")),
        ("a delay for nobody", attribute(GONE, DELAY, "25")),
    ] {
        duel.raw(name, "ModifyTargetGroupAttributes", &parameters).await;
    }
}

async fn targets(duel: &mut Duel) {
    let one =
        [("TargetGroupArn", "{group a}"), ("Targets.member.1.Id", "{net}.0.10"), ("Targets.member.1.Port", "8080")];
    let mut two = one.to_vec();
    two.extend([("Targets.member.2.Id", "{net}.0.11"), ("Targets.member.2.Port", "8080")]);
    duel.raw("two targets", "RegisterTargets", &two).await;
    duel.raw("a target again", "RegisterTargets", &one).await;
    let outside = [
        ("TargetGroupArn", "{group a}"),
        ("Targets.member.1.Id", "10.99.0.1"),
        ("Targets.member.1.Port", "8080"),
        ("Targets.member.1.AvailabilityZone", "all"),
    ];
    duel.raw("a target outside of the VPC", "RegisterTargets", &outside).await;
    duel.raw("the health of an unused group", "DescribeTargetHealth", &[("TargetGroupArn", "{group a}")]).await;
    duel.raw("the health of one target", "DescribeTargetHealth", &one).await;
    for (name, id, port) in [
        ("a public address", "8.8.8.8", "80"),
        ("no address", "not-an-address", "80"),
        ("a target on port 0", "{net}.0.12", "0"),
    ] {
        let bad = [("TargetGroupArn", "{group b}"), ("Targets.member.1.Id", id), ("Targets.member.1.Port", port)];
        duel.raw(name, "RegisterTargets", &bad).await;
    }
    let nobody = |id: &'static str| [("TargetGroupArn", GONE), ("Targets.member.1.Id", id)];
    duel.raw("a target for nobody", "RegisterTargets", &nobody("{net}.0.10")).await;
    duel.raw("the health of nobody", "DescribeTargetHealth", &[("TargetGroupArn", GONE)]).await;
    let second =
        [("TargetGroupArn", "{group a}"), ("Targets.member.1.Id", "{net}.0.11"), ("Targets.member.1.Port", "8080")];
    duel.raw("a target leaves", "DeregisterTargets", &second).await;
    duel.raw("a target leaves again", "DeregisterTargets", &second).await;
    duel.raw("a target leaves nobody", "DeregisterTargets", &nobody("{net}.0.11")).await;
}

async fn instances(duel: &mut Duel) {
    let of_instances = group(&[("Name", "sy-nodes"), ("TargetType", "instance")]);
    duel.raw("a group of instances", "CreateTargetGroup", &of_instances)
        .await
        .keep("nodes", "/TargetGroups/0/TargetGroupArn");
    let node =
        [("TargetGroupArn", "{nodes}"), ("Targets.member.1.Id", "{instance}"), ("Targets.member.1.Port", "30080")];
    duel.raw("an instance", "RegisterTargets", &node).await;
    duel.raw("the health of instances", "DescribeTargetHealth", &[("TargetGroupArn", "{nodes}")]).await;
    let address = [("TargetGroupArn", "{nodes}"), ("Targets.member.1.Id", "{net}.0.10")];
    duel.raw("an address among instances", "RegisterTargets", &address).await;
    let unknown = [("TargetGroupArn", "{nodes}"), ("Targets.member.1.Id", "i-0fedcba9876543210")];
    duel.raw("an instance that does not exist", "RegisterTargets", &unknown).await;
    duel.raw("an instance leaves", "DeregisterTargets", &node).await;
    duel.raw("the group of instances goes", "DeleteTargetGroup", &[("TargetGroupArn", "{nodes}")]).await;
}
