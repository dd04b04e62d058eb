//! Text for people, kept within bounds. Total functions only: they stand in error paths.

/// The first `max` characters, with a mark where something was cut off.
#[must_use]
pub fn truncated(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(max.saturating_sub(1)).collect();
    if max > 0 {
        kept.push('…');
    }
    kept
}

/// The error and its causes on one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn truncated_text_never_exceeds_its_bound_and_short_text_is_untouched(text in "\\PC{0,40}", max in 0_usize..50) {
            let kept = truncated(&text, max);
            prop_assert!(kept.chars().count() <= max);
            if text.chars().count() <= max {
                prop_assert_eq!(kept, text);
            }
        }
    }
}
