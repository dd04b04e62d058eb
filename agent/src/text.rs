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
