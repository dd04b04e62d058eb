//! Numbers of a file for which 0 is no value. In the API 0 stands for a number that was left out, so who wrote one would get the
//! default instead of what was written.

use serde::{Deserialize, Deserializer, de::Error};

fn written<'de, D: Deserializer<'de>>(from: D, field: &str) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        0 => Err(D::Error::custom(format_args!(
            "{field} is 0, which is none of its values; give 1 or more, or leave it out for the default"
        ))),
        number => Ok(number),
    }
}

/// serde tells a field's function nothing of the field, so each has its own.
macro_rules! fields {
    ($($name:ident: $field:literal),* $(,)?) => {
        $(pub(super) fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
            written(from, $field)
        })*
    };
}

fields! {
    progress_deadline_seconds: "progressDeadlineSeconds",
    factor: "factor",
    interval_seconds: "intervalSeconds",
    count: "count",
    min_healthy_percent: "minHealthyPercent",
    period_seconds: "periodSeconds",
}
