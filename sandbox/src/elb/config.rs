//! Settings of the stand-in: identity, network, clock and API budgets. Values only; must not import the state.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;

/// Everything one stand-in is told at its start.
#[derive(Debug, Clone)]
pub struct ElbConfig {
    /// Twelve digits, as in an ARN.
    pub account_id: String,
    pub region: String,
    /// The only VPC there is; target groups name it.
    pub vpc_id: String,
    /// Addresses inside are targets without an availability zone; those outside need one.
    pub vpc_cidr: Ipv4Net,
    /// Load balancers bind on addresses counted up from here, one each. Must be a loopback address.
    pub loopback_base: Ipv4Addr,
    /// 1.0 is real time; at 10.0 draining, health intervals, slow start and propagation pass ten times faster.
    /// API rate limits and idle timeouts stay in real time, because the programs on the other side do too.
    pub time_scale: f64,
    /// Seed of ids, of the weighted choice and of jitter.
    pub seed: u64,
    /// How long the data plane may still use the old rules after a change (unscaled). Each node of a load balancer
    /// takes between half of this and all of it.
    pub propagation: Duration,
    pub rate_limits: RateLimits,
    /// The period in which metrics are counted (real time): AWS's is a minute.
    pub metrics_period: Duration,
}

impl Default for ElbConfig {
    fn default() -> Self {
        Self {
            account_id: "123456789012".to_owned(),
            region: "eu-west-1".to_owned(),
            vpc_id: "vpc-0a1b2c3d4e5f60718".to_owned(),
            vpc_cidr: Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
            loopback_base: Ipv4Addr::new(127, 100, 0, 1),
            time_scale: 1.0,
            seed: 1,
            propagation: Duration::from_secs(5),
            rate_limits: RateLimits::default(),
            metrics_period: Duration::from_secs(60),
        }
    }
}

impl ElbConfig {
    /// A duration of the modelled world as real time. A scale that is not a positive number counts as 1.
    pub fn scaled(&self, duration: Duration) -> Duration {
        if self.time_scale.is_finite() && self.time_scale > 0.0 { duration.div_f64(self.time_scale) } else { duration }
    }

    /// The partition follows from the region; nobody may assume `aws`.
    pub fn partition(&self) -> &'static str {
        match self.region.as_str() {
            r if r.starts_with("cn-") => "aws-cn",
            r if r.starts_with("us-gov-") => "aws-us-gov",
            r if r.starts_with("eusc-") => "aws-eusc",
            _ => "aws",
        }
    }

    /// `arn:<partition>:elasticloadbalancing:<region>:<account>:<resource>`.
    pub fn arn(&self, resource: &str) -> String {
        format!("arn:{}:elasticloadbalancing:{}:{}:{resource}", self.partition(), self.region, self.account_id)
    }
}

/// One token bucket: `rate` tokens per second, at most `burst` of them.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BucketLimit {
    pub rate: f64,
    pub burst: f64,
}

/// The buckets of one account and region. The defaults are the numbers that the AWS Load Balancer Controller uses
/// since 2026-03; older documentation gives 10:40 for Describe*, which may still hold in some partitions.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct RateLimits {
    /// All Describe* calls.
    pub describe: BucketLimit,
    /// Create*, Modify*, Delete*, Set*, AddTags, RemoveTags.
    pub mutate: BucketLimit,
    /// RegisterTargets and DeregisterTargets together.
    pub register: BucketLimit,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            describe: BucketLimit { rate: 50.0, burst: 200.0 },
            mutate: BucketLimit { rate: 3.0, burst: 20.0 },
            register: BucketLimit { rate: 4.0, burst: 20.0 },
        }
    }
}

impl RateLimits {
    /// Buckets that are never empty, for tests of something else.
    pub fn unlimited() -> Self {
        let open = BucketLimit { rate: 1e9, burst: 1e9 };
        Self { describe: open, mutate: open, register: open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_in_an_arn_follows_the_region() {
        let config = ElbConfig { region: "cn-north-1".into(), ..ElbConfig::default() };
        assert_eq!(config.arn("x/y"), "arn:aws-cn:elasticloadbalancing:cn-north-1:123456789012:x/y");
        assert!(ElbConfig::default().arn("x").starts_with("arn:aws:"));
    }

    #[test]
    fn time_runs_faster_by_the_scale_and_normally_when_the_scale_is_senseless() {
        let mut config = ElbConfig { time_scale: 10.0, ..ElbConfig::default() };
        assert_eq!(config.scaled(Duration::from_secs(5)), Duration::from_millis(500));
        for senseless in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            config.time_scale = senseless;
            assert_eq!(config.scaled(Duration::from_secs(5)), Duration::from_secs(5));
        }
    }
}
