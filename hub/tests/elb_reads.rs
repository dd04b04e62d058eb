//! What the adaptor makes of AWS's answers: paging, both forms of everything, and answers that must not be believed.

mod elb_support;

use std::collections::{BTreeMap, BTreeSet};

use elb_support::{ACCOUNT, Asked, Fake, Reply};
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn, TargetGroupArn},
    budget::Class,
    ids::Weight,
    observed::{Action, Condition, Health, Known, Limits, Target},
};
use switchyard_hub::elb::ReadError;

fn load_balancer(n: usize) -> String {
    format!("{ACCOUNT}:loadbalancer/app/lb{n}/{n}")
}

fn group(name: &str) -> TargetGroupArn {
    TargetGroupArn::new(format!("{ACCOUNT}:targetgroup/{name}/1")).unwrap()
}

fn listener() -> ListenerArn {
    ListenerArn::new(format!("{ACCOUNT}:listener/app/shared/1/2")).unwrap()
}

/// Answers DescribeTags with a tag `name=<arn>` for each resource asked for.
fn tags(asked: &Asked) -> Reply {
    let members: String = asked
        .params
        .values()
        .map(|arn| {
            format!(
                "<member><ResourceArn>{arn}</ResourceArn><Tags><member><Key>of</Key><Value>{arn}</Value></member>\
                 <member><Key>empty</Key></member></Tags></member>"
            )
        })
        .collect();
    Reply::Result(format!("<TagDescriptions>{members}</TagDescriptions>"))
}

fn load_balancer_xml(n: usize) -> String {
    format!(
        "<member><LoadBalancerArn>{}</LoadBalancerArn><LoadBalancerName>lb{n}</LoadBalancerName>\
         <Type>application</Type><VpcId>vpc-1</VpcId><DNSName>lb{n}.example</DNSName></member>",
        load_balancer(n)
    )
}

#[tokio::test]
async fn listings_are_read_to_the_end_and_tags_twenty_at_a_time() {
    let fake = Fake::start(|asked| match asked.operation.as_str() {
        "DescribeTags" => tags(asked),
        _ => {
            let page: usize = asked.param("Marker").parse().unwrap_or(0);
            let members: String = (page * 15..page * 15 + 15).map(load_balancer_xml).collect();
            let next = if page < 2 { (page + 1).to_string() } else { String::new() };
            Reply::Result(format!("<LoadBalancers>{members}</LoadBalancers><NextMarker>{next}</NextMarker>"))
        }
    })
    .await;
    let found = fake.elb().await.load_balancers(Class::Audit).await.unwrap();
    assert_eq!(found.len(), 45);
    for (arn, load_balancer) in &found {
        assert_eq!(load_balancer.tags["of"], arn.as_str());
        assert_eq!(load_balancer.tags["empty"], "");
        assert_eq!(load_balancer.target_groups_in_use, Known::Unknown);
    }
    let one = &found[&LoadBalancerArn::new(load_balancer(7)).unwrap()];
    assert_eq!((one.name.as_str(), one.kind.as_str()), ("lb7", "application"));
    assert_eq!((one.vpc_id.as_str(), one.dns_name.as_str()), ("vpc-1", "lb7.example"));

    let asked = fake.asked();
    let operations: Vec<&str> = asked.iter().map(|asked| asked.operation.as_str()).collect();
    let pages = ["DescribeLoadBalancers"; 3];
    assert_eq!(operations, [&pages[..], &["DescribeTags"; 3]].concat());
    let markers: Vec<&str> = asked.iter().take(3).map(|asked| asked.param("Marker")).collect();
    assert_eq!(markers, ["", "1", "2"]);
    let sizes: Vec<usize> = asked.iter().skip(3).map(|asked| asked.params.len()).collect();
    assert_eq!(sizes, [20, 20, 5]);
}

#[tokio::test]
async fn a_listing_that_never_ends_is_given_up() {
    let fake = Fake::always(Reply::Result("<LoadBalancers/><NextMarker>again</NextMarker>".to_owned())).await;
    let error = fake.elb().await.load_balancers(Class::Audit).await.unwrap_err();
    assert!(matches!(error, ReadError::Malformed { .. }), "{error:?}");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn a_resource_whose_tags_were_not_answered_is_not_taken_for_untagged() {
    let fake = Fake::start(|asked| match asked.operation.as_str() {
        "DescribeTags" => Reply::Result("<TagDescriptions/>".to_owned()),
        _ => Reply::Result(format!("<LoadBalancers>{}</LoadBalancers>", load_balancer_xml(1))),
    })
    .await;
    let error = fake.elb().await.load_balancers(Class::Audit).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("DescribeTags") && text.contains(&load_balancer(1)), "{text}");
}

#[tokio::test]
async fn an_object_without_what_identifies_it_makes_the_answer_unusable() {
    for member in [
        "<member/>".to_owned(),
        load_balancer_xml(1).replace("loadbalancer/", "listener/"),
        load_balancer_xml(1).replace("<VpcId>vpc-1</VpcId>", ""),
    ] {
        let answer = Reply::Result(format!("<LoadBalancers>{member}</LoadBalancers>"));
        let fake = Fake::always(answer).await;
        let error = fake.elb().await.load_balancers(Class::Audit).await.unwrap_err();
        assert!(matches!(error, ReadError::Malformed { .. }), "{member}: {error:?}");
    }
}

#[tokio::test]
async fn the_tags_of_one_load_balancer_are_read_alone() {
    let arn = LoadBalancerArn::new(load_balancer(1)).unwrap();
    let fake = Fake::start(tags).await;
    let read = fake.elb().await.load_balancer_tags(&arn, Class::Read).await.unwrap();
    assert_eq!(read["of"], arn.as_str());
}

#[tokio::test]
async fn listeners_carry_port_and_protocol_and_their_rules_are_unknown() {
    let arn = LoadBalancerArn::new(load_balancer(1)).unwrap();
    let fake = Fake::always(Reply::Result(format!(
        "<Listeners><member><ListenerArn>{}</ListenerArn><Port>443</Port><Protocol>HTTPS</Protocol></member>\
         <member><ListenerArn>{ACCOUNT}:listener/gwy/x/1/3</ListenerArn></member></Listeners>",
        listener()
    )))
    .await;
    let found = fake.elb().await.listeners(&arn, Class::Read).await.unwrap();
    assert_eq!(found.len(), 1, "the listener of a gateway load balancer has no port");
    let one = &found[&listener()];
    assert_eq!((one.port, one.protocol.as_str()), (443, "HTTPS"));
    assert_eq!((&one.load_balancer, &one.rules), (&arn, &Known::Unknown));
    assert_eq!(fake.only().param("LoadBalancerArn"), arn.as_str());
}

/// A rule with conditions and actions as XML.
fn rule_xml(id: u32, priority: &str, conditions: &str, actions: &str) -> String {
    let default = priority == "default";
    format!(
        "<member><RuleArn>{ACCOUNT}:listener-rule/app/shared/1/2/{id}</RuleArn><Priority>{priority}</Priority>\
         <IsDefault>{default}</IsDefault><Conditions>{conditions}</Conditions><Actions>{actions}</Actions></member>"
    )
}

fn forward_xml(groups: &[(&str, Option<u32>)], stickiness: &str) -> String {
    let members: String = groups
        .iter()
        .map(|(name, weight)| {
            let weight = weight.map(|weight| format!("<Weight>{weight}</Weight>")).unwrap_or_default();
            format!("<member><TargetGroupArn>{}</TargetGroupArn>{weight}</member>", group(name))
        })
        .collect();
    format!(
        "<member><Type>forward</Type><ForwardConfig><TargetGroups>{members}</TargetGroups>{stickiness}\
         </ForwardConfig></member>"
    )
}

type Read = (Vec<switchyard_core::observed::Rule>, BTreeSet<TargetGroupArn>);

/// Reads the given rules, in the order of their ARNs.
async fn rules(members: Vec<String>) -> Read {
    let xml = members.concat();
    let fake = Fake::start(move |asked| match asked.operation.as_str() {
        "DescribeTags" => tags(asked),
        _ => Reply::Result(format!("<Rules>{xml}</Rules>")),
    })
    .await;
    let (rules, groups) = fake.elb().await.rules(&listener(), Class::Read).await.unwrap();
    assert_eq!(fake.asked()[0].param("ListenerArn"), listener().as_str());
    for (arn, rule) in &rules {
        assert_eq!(rule.tags["of"], arn.as_str());
    }
    (rules.into_values().collect(), groups)
}

#[tokio::test]
async fn a_rule_reads_as_core_writes_it() {
    let conditions = "<member><Field>path-pattern</Field><Values><member>/b</member><member>/a</member></Values>\
                      <PathPatternConfig><Values><member>/b</member><member>/a</member></Values></PathPatternConfig></member>\
                      <member><Field>host-header</Field><Values><member>A.Example.com</member></Values></member>";
    let off = "<TargetGroupStickinessConfig><Enabled>false</Enabled></TargetGroupStickinessConfig>";
    let forward = forward_xml(&[("sy-b", Some(0)), ("sy-a", Some(90))], off);
    let (rules, groups) = rules(vec![rule_xml(3, "100", conditions, &forward)]).await;
    let [rule] = rules.as_slice() else { panic!("{rules:?}") };
    assert_eq!(rule.priority, 100);
    let wanted =
        [Condition::HostHeader(vec!["a.example.com".into()]), Condition::PathPattern(vec!["/a".into(), "/b".into()])];
    assert_eq!(rule.conditions, wanted);
    let weight = |value| Weight::new(value).unwrap();
    let forward = Action::Forward {
        weights: BTreeMap::from([(group("sy-a"), weight(90)), (group("sy-b"), weight(0))]),
        stickiness_seconds: None,
    };
    assert_eq!(rule.action, forward);
    assert_eq!(groups, BTreeSet::from([group("sy-a"), group("sy-b")]));
}

#[tokio::test]
async fn the_short_form_of_a_forward_a_missing_weight_and_stickiness_are_understood() {
    let short = format!("<member><Type>forward</Type><TargetGroupArn>{}</TargetGroupArn></member>", group("one"));
    let on = "<TargetGroupStickinessConfig><Enabled>true</Enabled><DurationSeconds>60</DurationSeconds>\
              </TargetGroupStickinessConfig>";
    let sticky = forward_xml(&[("two", None)], on);
    let (rules, _) = rules(vec![rule_xml(1, "1", "", &short), rule_xml(2, "2", "", &sticky)]).await;
    let forward = |name, stickiness_seconds| Action::Forward {
        weights: BTreeMap::from([(group(name), Weight::new(1).unwrap())]),
        stickiness_seconds,
    };
    assert_eq!(rules[0].action, forward("one", None));
    assert_eq!(rules[1].action, forward("two", Some(60)));
}

#[tokio::test]
async fn the_default_rule_counts_for_the_quota_and_is_no_rule_of_the_listener() {
    let (rules, groups) = rules(vec![rule_xml(9, "default", "", &forward_xml(&[("their-own", Some(1))], ""))]).await;
    assert!(rules.is_empty());
    assert_eq!(groups, BTreeSet::from([group("their-own")]));
}

#[tokio::test]
async fn odd_rules_of_others_are_other_and_never_in_the_way() {
    let redirect = "<member><Type>redirect</Type></member>".to_owned();
    let login = format!("<member><Type>authenticate-oidc</Type></member>{}", forward_xml(&[("x", Some(1))], ""));
    let future = "<member><Type>teleport</Type></member>".to_owned();
    let heavy = forward_xml(&[("y", Some(1000))], "");
    let actions = [redirect, login, future, heavy, String::new()];
    let members = (1..).zip(&actions).map(|(n, actions)| rule_xml(n, &n.to_string(), "", actions));
    let (rules, groups) = rules(members.collect()).await;
    assert_eq!(rules.len(), actions.len());
    for rule in rules {
        assert_eq!(rule.action, Action::Other, "{rule:?}");
    }
    assert_eq!(groups, BTreeSet::from([group("x"), group("y")]), "they still use their groups");
}

fn group_xml(name: &str) -> String {
    format!(
        "<member><TargetGroupArn>{}</TargetGroupArn><TargetGroupName>{name}</TargetGroupName><Protocol>HTTP</Protocol>\
         <ProtocolVersion>GRPC</ProtocolVersion><Port>80</Port><VpcId>vpc-1</VpcId><TargetType>ip</TargetType>\
         <HealthCheckProtocol>HTTP</HealthCheckProtocol><HealthCheckPort>traffic-port</HealthCheckPort>\
         <HealthCheckPath>/h</HealthCheckPath><HealthCheckIntervalSeconds>10</HealthCheckIntervalSeconds>\
         <HealthCheckTimeoutSeconds>5</HealthCheckTimeoutSeconds><HealthyThresholdCount>2</HealthyThresholdCount>\
         <UnhealthyThresholdCount>3</UnhealthyThresholdCount><Matcher><GrpcCode>0-5</GrpcCode></Matcher></member>",
        group(name)
    )
}

fn attributes_xml(value: &str) -> String {
    format!(
        "<Attributes><member><Key>stickiness.enabled</Key><Value>false</Value></member>\
         <member><Key>deregistration_delay.timeout_seconds</Key><Value>{value}</Value></member></Attributes>"
    )
}

#[tokio::test]
async fn groups_with_the_prefix_come_with_tags_and_attributes_and_others_cost_no_call() {
    let fake = Fake::start(|asked| match asked.operation.as_str() {
        "DescribeTags" => tags(asked),
        "DescribeTargetGroupAttributes" => Reply::Result(attributes_xml("30")),
        _ => Reply::Result(format!("<TargetGroups>{}{}</TargetGroups>", group_xml("theirs"), group_xml("sy-a"))),
    })
    .await;
    let found = fake.elb().await.target_groups("sy-", Class::Audit).await.unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), [&group("sy-a")]);
    let one = &found[&group("sy-a")];
    assert_eq!((one.name.as_str(), one.vpc_id.as_str()), ("sy-a", "vpc-1"));
    let kinds = (one.protocol.as_str(), one.protocol_version.as_str(), one.target_type.as_str());
    assert_eq!(kinds, ("HTTP", "GRPC", "ip"));
    let check = &one.health_check;
    let texts = (check.protocol.as_str(), check.port.as_str(), check.path.as_str(), check.matcher.as_str());
    assert_eq!(texts, ("HTTP", "traffic-port", "/h", "0-5"));
    let numbers = (check.interval_seconds, check.timeout_seconds, check.healthy_threshold, check.unhealthy_threshold);
    assert_eq!(numbers, (10, 5, 2, 3));
    assert_eq!(one.deregistration_delay_seconds, Known::Known(30));
    assert_eq!(one.stickiness_seconds, Known::Known(None));
    assert_eq!(one.tags["of"], group("sy-a").as_str());
    assert_eq!(one.targets, Known::Unknown);
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn sticky_sessions_that_somebody_turned_on_are_read_with_their_time() {
    let cookie = |kind: &str, seconds: &str| {
        let pairs = [("enabled", "true"), ("type", kind), (&format!("{kind}.duration_seconds"), seconds)];
        let member =
            |(key, value): &(&str, &str)| format!("<member><Key>stickiness.{key}</Key><Value>{value}</Value></member>");
        format!("<Attributes>{}</Attributes>", pairs.iter().map(member).collect::<String>())
    };
    let cases = [
        (cookie("lb_cookie", "86400"), Known::Known(Some(86400))),
        (cookie("app_cookie", "60"), Known::Known(Some(60))),
        (cookie("source_ip", "60"), Known::Unknown),
        (cookie("lb_cookie", "long"), Known::Unknown),
        ("<Attributes/>".to_owned(), Known::Unknown),
    ];
    for (xml, wanted) in cases {
        let attributes = xml.clone();
        let fake = Fake::start(move |asked| match asked.operation.as_str() {
            "DescribeTags" => tags(asked),
            "DescribeTargetGroupAttributes" => Reply::Result(attributes.clone()),
            _ => Reply::Result(format!("<TargetGroups>{}</TargetGroups>", group_xml("sy-a"))),
        })
        .await;
        let found = fake.elb().await.target_groups("sy-", Class::Audit).await.unwrap();
        assert_eq!(found[&group("sy-a")].stickiness_seconds, wanted, "{xml}");
    }
}

#[tokio::test]
async fn a_group_for_functions_under_our_prefix_is_read_and_not_in_the_way() {
    let lambda = format!(
        "<member><TargetGroupArn>{}</TargetGroupArn><TargetGroupName>sy-fn</TargetGroupName>\
         <TargetType>lambda</TargetType></member>",
        group("sy-fn")
    );
    let fake = Fake::start(move |asked| match asked.operation.as_str() {
        "DescribeTags" => tags(asked),
        "DescribeTargetGroupAttributes" => Reply::Result("<Attributes/>".to_owned()),
        _ => Reply::Result(format!("<TargetGroups>{lambda}{}</TargetGroups>", group_xml("sy-a"))),
    })
    .await;
    let found = fake.elb().await.target_groups("sy-", Class::Audit).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[&group("sy-fn")].target_type, "lambda");
    assert_eq!(found[&group("sy-fn")].deregistration_delay_seconds, Known::Unknown);
}

#[tokio::test]
async fn a_group_is_found_by_name_or_known_to_be_absent() {
    let fake = Fake::start(|asked| match (asked.operation.as_str(), asked.param("Names.member.1")) {
        ("DescribeTargetGroups", "sy-a") => {
            Reply::Result(format!("<TargetGroups>{}</TargetGroups>", group_xml("sy-a")))
        }
        ("DescribeTargetGroups", "sy-going") => {
            Reply::Result(format!("<TargetGroups>{}</TargetGroups>", group_xml("sy-going")))
        }
        ("DescribeTags", _) if asked.param("ResourceArns.member.1").contains("sy-going") => {
            Reply::Error(400, "TargetGroupNotFound", "gone")
        }
        ("DescribeTags", _) => tags(asked),
        ("DescribeTargetGroupAttributes", _) => Reply::Result(attributes_xml("300")),
        _ => Reply::Error(400, "TargetGroupNotFound", "One or more target groups not found"),
    })
    .await;
    let elb = fake.elb().await;
    let (arn, found) = elb.target_group_by_name("sy-a", Class::Read).await.unwrap().unwrap();
    assert_eq!((arn, found.name.as_str()), (group("sy-a"), "sy-a"));
    assert_eq!(elb.target_group_by_name("sy-missing", Class::Read).await, Ok(None));
    assert_eq!(elb.target_group_by_name("sy-going", Class::Read).await, Ok(None), "deleted between two calls");
}

fn target_xml(id: &str, port: u32, state: &str, reason: &str) -> String {
    let reason = if reason.is_empty() { String::new() } else { format!("<Reason>{reason}</Reason>") };
    format!(
        "<member><Target><Id>{id}</Id><Port>{port}</Port></Target>\
         <TargetHealth><State>{state}</State>{reason}</TargetHealth></member>"
    )
}

async fn targets(members: String) -> Result<BTreeMap<Target, switchyard_core::observed::TargetState>, ReadError> {
    let fake =
        Fake::always(Reply::Result(format!("<TargetHealthDescriptions>{members}</TargetHealthDescriptions>"))).await;
    let read = fake.elb().await.targets(&group("sy-a"), Class::Read).await;
    assert_eq!(fake.only().param("TargetGroupArn"), group("sy-a").as_str());
    read
}

#[tokio::test]
async fn every_state_of_a_target_is_read_and_a_new_one_is_no_verdict() {
    let states = [
        ("initial", Health::Initial),
        ("healthy", Health::Healthy),
        ("unhealthy", Health::Unhealthy),
        ("unhealthy.draining", Health::Unhealthy),
        ("unused", Health::Unused),
        ("draining", Health::Draining),
        ("unavailable", Health::Unavailable),
        ("dreaming", Health::Unavailable),
    ];
    let members = (1..).zip(states).map(|(port, (state, _))| target_xml("10.0.0.1", port, state, "Elb.Reason"));
    let read = targets(members.collect()).await.unwrap();
    let found: Vec<Health> = read.values().map(|state| state.health).collect();
    assert_eq!(found, states.map(|(_, health)| health));
    assert!(read.values().all(|state| state.reason == "Elb.Reason"));
}

#[tokio::test]
async fn a_target_is_known_by_address_or_instance_and_port_and_registered_beats_draining() {
    let members = [
        target_xml("10.0.0.1", 80, "healthy", ""),
        target_xml("10.0.0.1", 80, "draining", "Target.DeregistrationInProgress"),
        target_xml("10.0.0.1", 81, "draining", "Target.DeregistrationInProgress"),
        target_xml("10.0.0.1", 81, "initial", "Elb.InitialHealthChecking"),
        target_xml("fd00::1", 80, "healthy", ""),
        target_xml("i-0123456789abcdef0", 30_080, "unhealthy", "Target.Timeout"),
    ];
    let read = targets(members.concat()).await.unwrap();
    let found: Vec<(String, Health)> = read.iter().map(|(target, state)| (target.to_string(), state.health)).collect();
    let wanted = [
        ("10.0.0.1:80", Health::Healthy),
        ("10.0.0.1:81", Health::Initial),
        ("[fd00::1]:80", Health::Healthy),
        ("i-0123456789abcdef0:30080", Health::Unhealthy),
    ];
    assert_eq!(found, wanted.map(|(target, health)| (target.to_owned(), health)));
}

#[tokio::test]
async fn a_target_that_is_no_address_or_instance_with_a_port_makes_the_answer_unusable() {
    for member in [
        target_xml("i-0123", 80, "healthy", ""),
        target_xml("10.0.0.1", 70_000, "healthy", ""),
        "<member><Target><Id>10.0.0.1</Id><Port>80</Port></Target></member>".to_owned(),
        "<member/>".to_owned(),
    ] {
        let error = targets(member.clone()).await.unwrap_err();
        assert!(matches!(error, ReadError::Malformed { .. }), "{member}: {error:?}");
    }
}

#[tokio::test]
async fn limits_of_the_account_replace_the_defaults() {
    let fake = Fake::start(|asked| {
        let limit = |name: &str, max: &str| format!("<member><Name>{name}</Name><Max>{max}</Max></member>");
        Reply::Result(match asked.param("Marker") {
            "" => format!(
                "<Limits>{}{}</Limits><NextMarker>2</NextMarker>",
                limit("rules-per-application-load-balancer", "200"),
                limit("moons-per-planet", "many")
            ),
            _ => format!(
                "<Limits>{}{}</Limits>",
                limit("target-groups", "5000"),
                limit("target-groups-per-action-on-application-load-balancer", "6")
            ),
        })
    })
    .await;
    let wanted = Limits {
        rules_per_load_balancer: 200,
        target_groups_per_region: 5000,
        target_groups_per_action: 6,
        ..Limits::default()
    };
    assert_eq!(fake.elb().await.limits(Class::Audit).await, Ok(wanted));
}
