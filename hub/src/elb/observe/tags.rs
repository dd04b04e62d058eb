//! Tags, twenty resources a call.

use std::collections::BTreeMap;

use switchyard_core::{arn::LoadBalancerArn, budget::Class, observed::Tags};

use super::{ReadError, required};
use crate::elb::Elb;

const OPERATION: &str = "DescribeTags";
/// Resources in one call (API reference of DescribeTags).
const MOST_RESOURCES: usize = 20;

impl Elb {
    /// The tags of one load balancer.
    ///
    /// # Errors
    /// [`ReadError`]; `LoadBalancerNotFound` when it is gone.
    pub async fn load_balancer_tags(&self, arn: &LoadBalancerArn, class: Class) -> Result<Tags, ReadError> {
        let mut tags = self.tags_of(&[arn.as_str().to_owned()], class).await?;
        required(OPERATION, "TagDescriptions", tags.remove(arn.as_str()))
    }

    /// The tags of many resources of one kind. One that is gone meanwhile fails the whole reading, which is then made anew.
    pub(super) async fn tags_of(&self, arns: &[String], class: Class) -> Result<BTreeMap<String, Tags>, ReadError> {
        let mut all = BTreeMap::new();
        for some in arns.chunks(MOST_RESOURCES) {
            let request = self.client.describe_tags().set_resource_arns(Some(some.to_vec()));
            let answer = self.read(OPERATION, class, request.send()).await?;
            for description in answer.tag_descriptions() {
                let arn = required(OPERATION, "ResourceArn", description.resource_arn())?;
                let mut tags = Tags::new();
                for tag in description.tags() {
                    let key = required(OPERATION, "Key", tag.key())?;
                    tags.insert(key.to_owned(), tag.value().unwrap_or_default().to_owned());
                }
                all.insert(arn.to_owned(), tags);
            }
        }
        Ok(all)
    }
}

/// Takes the tags of one resource out of a reading. Tags that were not answered are not "no tags": a group of ours would look
/// like nobody's.
pub(super) fn take(tags: &mut BTreeMap<String, Tags>, arn: &str) -> Result<Tags, ReadError> {
    let found = tags.remove(arn);
    found.ok_or_else(|| super::malformed(OPERATION, format!("the tags of {arn} are missing")))
}
