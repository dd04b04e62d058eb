//! A bound on the size of answers: the SDK reads a body into memory before it looks at it.

use std::error::Error;

use aws_sdk_elasticloadbalancingv2::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeDeserializationInterceptorContextMut,
};
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;

/// The largest answer is DescribeTargetHealth, which has no pages: some 500 bytes a target, and quotas of a few thousand targets
/// a group. 16 MiB hold thirty thousand.
const MOST_BYTES: usize = 16 << 20;

/// Ends the reading of a body that is too long; the call then ends like one whose answer broke off.
#[derive(Debug)]
pub(crate) struct BoundedAnswers;

impl Intercept for BoundedAnswers {
    fn name(&self) -> &'static str {
        "BoundedAnswers"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let response = context.response_mut();
        let body = response.take_body();
        *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, MOST_BYTES));
        Ok(())
    }
}
