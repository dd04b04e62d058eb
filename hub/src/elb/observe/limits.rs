//! The account's limits: AWS's defaults, replaced by what the account has.

use switchyard_core::{budget::Class, ids::cut, observed::Limits};

use super::{PAGE_SIZE, Pages, ReadError, malformed};
use crate::elb::Elb;

const OPERATION: &str = "DescribeAccountLimits";

impl Elb {
    /// The limits that matter here. One that AWS does not name (as targets per target group) keeps its default.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn limits(&self, class: Class) -> Result<Limits, ReadError> {
        let mut limits = Limits::default();
        let mut pages = Pages::of(OPERATION);
        loop {
            let request = self.client.describe_account_limits().page_size(PAGE_SIZE).set_marker(pages.marker());
            let page = self.read(OPERATION, class, request.send()).await?;
            for limit in page.limits() {
                let Some(place) = limit.name().and_then(|name| place(&mut limits, name)) else {
                    continue;
                };
                let text = limit.max().unwrap_or_default();
                let number = text.parse();
                *place = number.map_err(|_| malformed(OPERATION, format!("{:?} is no limit", cut(text))))?;
            }
            if !pages.more(page.next_marker)? {
                return Ok(limits);
            }
        }
    }
}

/// Names as in the API reference of `Limit`.
fn place<'a>(limits: &'a mut Limits, name: &str) -> Option<&'a mut u32> {
    match name {
        "rules-per-application-load-balancer" => Some(&mut limits.rules_per_load_balancer),
        "target-groups-per-application-load-balancer" => Some(&mut limits.target_groups_per_load_balancer),
        "target-groups-per-action-on-application-load-balancer" => Some(&mut limits.target_groups_per_action),
        "target-groups" => Some(&mut limits.target_groups_per_region),
        "targets-per-application-load-balancer" => Some(&mut limits.targets_per_load_balancer),
        _ => None,
    }
}
