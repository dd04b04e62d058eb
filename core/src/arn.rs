//! ARNs of the ELBv2 resources that Switchyard touches. The partition is kept as it came and never assumed to be `aws`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ids::cut;

/// A text that is not the ARN of the expected ELBv2 resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is not the ARN of a {expected}; it reads arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:{expected}/..."
)]
pub struct ArnError {
    /// The text, cut to 256 characters.
    pub value: String,
    /// The kind that was expected, such as `listener`.
    pub expected: &'static str,
}

fn parse(value: &str, kind: &'static str) -> Result<(), ArnError> {
    let fail = || ArnError { value: cut(value), expected: kind };
    let mut parts = value.splitn(6, ':');
    let (arn, partition, service) = (parts.next(), parts.next(), parts.next());
    let (region, account, resource) = (parts.next(), parts.next(), parts.next());
    let right_service = arn == Some("arn") && service == Some("elasticloadbalancing");
    let filled = [partition, region, account].iter().all(|p| p.is_some_and(|p| !p.is_empty()));
    let right_kind =
        resource.and_then(|r| r.strip_prefix(kind)).is_some_and(|rest| rest.starts_with('/') && rest.len() > 1);
    // The longest ARN that AWS makes for these kinds is well below 300 characters.
    let plain = value.len() <= 512 && value.chars().all(|c| c.is_ascii_graphic());
    if right_service && filled && right_kind && plain { Ok(()) } else { Err(fail()) }
}

macro_rules! arn {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes the text.
            ///
            /// # Errors
            /// [`ArnError`] when it is not an ARN of this kind.
            pub fn new(value: impl Into<String>) -> Result<Self, ArnError> {
                let value = value.into();
                parse(&value, $kind)?;
                Ok(Self(value))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The region named in the ARN.
            pub fn region(&self) -> &str {
                self.0.split(':').nth(3).unwrap_or_default()
            }

            /// The account named in the ARN.
            pub fn account(&self) -> &str {
                self.0.split(':').nth(4).unwrap_or_default()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ArnError;
            fn from_str(value: &str) -> Result<Self, ArnError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ArnError;
            fn try_from(value: String) -> Result<Self, ArnError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

arn!(
    /// The ARN of a load balancer.
    LoadBalancerArn, "loadbalancer"
);
arn!(
    /// The ARN of a listener.
    ListenerArn, "listener"
);
arn!(
    /// The ARN of a listener rule.
    RuleArn, "listener-rule"
);
arn!(
    /// The ARN of a target group.
    TargetGroupArn, "targetgroup"
);

/// What follows the account.
fn resource(arn: &str) -> &str {
    arn.splitn(6, ':').nth(5).unwrap_or_default()
}

impl LoadBalancerArn {
    /// Its value in CloudWatch's dimension `LoadBalancer`: `app/NAME/ID` (AWS: "Metric dimensions for Application Load Balancers").
    pub fn metric_dimension(&self) -> &str {
        let resource = resource(&self.0);
        resource.strip_prefix("loadbalancer/").unwrap_or(resource)
    }
}

impl TargetGroupArn {
    /// Its value in CloudWatch's dimension `TargetGroup`: `targetgroup/NAME/ID`.
    pub fn metric_dimension(&self) -> &str {
        resource(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_of_every_partition_are_taken_and_other_kinds_refused() {
        for partition in ["aws", "aws-cn", "aws-us-gov"] {
            let arn = format!("arn:{partition}:elasticloadbalancing:cn-north-1:123456789012:listener/app/x/1/2");
            let parsed = ListenerArn::new(arn).unwrap();
            assert_eq!((parsed.region(), parsed.account()), ("cn-north-1", "123456789012"));
        }
        let rule = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:listener-rule/app/x/1/2/3";
        assert!(ListenerArn::new(rule).is_err());
        assert!(RuleArn::new(rule).is_ok());
        assert!(RuleArn::new("arn:aws:s3:::bucket").is_err());
        assert!(RuleArn::new("").is_err());
    }

    #[test]
    fn the_dimensions_of_metrics_are_the_last_parts_of_the_arns() {
        let base = "arn:aws-cn:elasticloadbalancing:cn-north-1:123456789012";
        let group = TargetGroupArn::new(format!("{base}:targetgroup/my-targets/73e2d6bc24d8a067")).unwrap();
        assert_eq!(group.metric_dimension(), "targetgroup/my-targets/73e2d6bc24d8a067");
        let balancer = LoadBalancerArn::new(format!("{base}:loadbalancer/app/my-lb/50dc6c495c0c9188")).unwrap();
        assert_eq!(balancer.metric_dimension(), "app/my-lb/50dc6c495c0c9188");
    }
}
