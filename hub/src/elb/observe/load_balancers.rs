//! Load balancers and listeners.

use std::collections::BTreeMap;

use aws_sdk_elasticloadbalancingv2::types;
use switchyard_core::{
    arn::{ListenerArn, LoadBalancerArn},
    budget::Class,
    ids::VpcId,
    observed::{Known, Listener, LoadBalancer, Tags},
};

use super::{PAGE_SIZE, Pages, ReadError, malformed, parsed, required, tags};
use crate::elb::Elb;

const LOAD_BALANCERS: &str = "DescribeLoadBalancers";
const LISTENERS: &str = "DescribeListeners";

impl Elb {
    /// All load balancers of the region, with tags; how many target groups they use is not known from here.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load_balancers(&self, class: Class) -> Result<BTreeMap<LoadBalancerArn, LoadBalancer>, ReadError> {
        let mut all = BTreeMap::new();
        let mut pages = Pages::of(LOAD_BALANCERS);
        loop {
            let request = self.client.describe_load_balancers().page_size(PAGE_SIZE).set_marker(pages.marker());
            let page = self.read(LOAD_BALANCERS, class, request.send()).await?;
            for found in page.load_balancers() {
                let (arn, load_balancer) = load_balancer(found)?;
                all.insert(arn, load_balancer);
            }
            if !pages.more(page.next_marker)? {
                break;
            }
        }
        let arns: Vec<String> = all.keys().map(ToString::to_string).collect();
        let mut read = self.tags_of(&arns, class).await?;
        for (arn, load_balancer) in &mut all {
            load_balancer.tags = tags::take(&mut read, arn.as_str())?;
        }
        Ok(all)
    }

    /// The listeners of one load balancer; their rules are not known from here.
    ///
    /// # Errors
    /// [`ReadError`]; `LoadBalancerNotFound` when it is gone.
    pub async fn listeners(
        &self,
        load_balancer: &LoadBalancerArn,
        class: Class,
    ) -> Result<BTreeMap<ListenerArn, Listener>, ReadError> {
        let mut all = BTreeMap::new();
        let mut pages = Pages::of(LISTENERS);
        loop {
            let request = self
                .client
                .describe_listeners()
                .load_balancer_arn(load_balancer.as_str())
                .page_size(PAGE_SIZE)
                .set_marker(pages.marker());
            let page = self.read(LISTENERS, class, request.send()).await?;
            for found in page.listeners() {
                if let Some((arn, listener)) = listener(load_balancer, found)? {
                    all.insert(arn, listener);
                }
            }
            if !pages.more(page.next_marker)? {
                return Ok(all);
            }
        }
    }
}

fn load_balancer(found: &types::LoadBalancer) -> Result<(LoadBalancerArn, LoadBalancer), ReadError> {
    let arn = parsed(LOAD_BALANCERS, "LoadBalancerArn", found.load_balancer_arn(), LoadBalancerArn::new)?;
    let load_balancer = LoadBalancer {
        name: required(LOAD_BALANCERS, "LoadBalancerName", found.load_balancer_name())?.to_owned(),
        kind: found.r#type().map_or("", |kind| kind.as_str()).to_owned(),
        vpc_id: parsed(LOAD_BALANCERS, "VpcId", found.vpc_id(), VpcId::new)?,
        // Gateway load balancers have none.
        dns_name: found.dns_name().unwrap_or_default().to_owned(),
        tags: Tags::new(),
        target_groups_in_use: Known::Unknown,
    };
    Ok((arn, load_balancer))
}

/// None for the listener of a gateway load balancer: it has neither port nor rules, and no policy can mean it.
fn listener(
    load_balancer: &LoadBalancerArn,
    found: &types::Listener,
) -> Result<Option<(ListenerArn, Listener)>, ReadError> {
    let arn = parsed(LISTENERS, "ListenerArn", found.listener_arn(), ListenerArn::new)?;
    let Some(port) = found.port() else {
        return Ok(None);
    };
    let port = u16::try_from(port).map_err(|_| malformed(LISTENERS, format!("Port of {arn} is {port}")))?;
    let listener = Listener {
        load_balancer: load_balancer.clone(),
        port,
        protocol: found.protocol().map_or("", |protocol| protocol.as_str()).to_owned(),
        rules: Known::Unknown,
    };
    Ok(Some((arn, listener)))
}
