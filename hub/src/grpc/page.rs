//! Page tokens: the last key of the page before, in a form that callers have no reason to take apart. Pure.

use std::fmt::Write;

use switchyard_core::policy::Violation;

use super::errors::ApiError;

/// Parts are joined by a character that no key can hold.
const SEPARATOR: char = '\n';

/// The token for a page that begins after this key.
pub fn token(parts: &[&str]) -> String {
    let text = parts.join(&SEPARATOR.to_string());
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut token, byte| {
        // Writing into a String does not fail.
        let _ = write!(token, "{byte:02x}");
        token
    })
}

/// The key that a token was made from; none for the first page.
///
/// # Errors
/// A violation of `page_token` when it is not one of ours.
pub fn parse(token: &str, parts: usize) -> Result<Option<Vec<String>>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || not_ours(token);
    // Digits alone: numbers may have a sign, and a token has one way to be written.
    if token.len() > 4096 || !token.len().is_multiple_of(2) || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let byte = |at: usize| u8::from_str_radix(&token[at..at + 2], 16).ok();
    let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(byte).collect();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
    let found: Vec<String> = text.split(SEPARATOR).map(str::to_owned).collect();
    if found.len() == parts { Ok(Some(found)) } else { Err(bad()) }
}

/// The violation of a token that no answer gave.
pub fn not_ours(token: &str) -> ApiError {
    ApiError::Invalid(vec![Violation {
        field: "page_token".to_owned(),
        value: switchyard_core::ids::cut(token),
        problem: "is not a token of this list".to_owned(),
        remedy: "use next_page_token of the answer before, or leave it out for the first page".to_owned(),
    }])
}

/// The number of items on a page.
///
/// # Errors
/// A violation of `page_size` above the most.
pub fn size(asked: u32, default: u32, most: u32) -> Result<usize, ApiError> {
    match asked {
        0 => Ok(default as usize),
        n if n <= most => Ok(n as usize),
        n => Err(ApiError::Invalid(vec![Violation {
            field: "page_size".to_owned(),
            value: n.to_string(),
            problem: format!("is above {most}"),
            remedy: format!("use 1 to {most}, or 0 for {default}"),
        }])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_back_its_key_and_garbage_is_refused() {
        let made = token(&["shop", "checkout", ""]);
        assert_eq!(parse(&made, 3).unwrap().unwrap(), ["shop", "checkout", ""]);
        assert!(parse("", 3).unwrap().is_none());
        for bad in ["zz", "abc", "ff", "ää", "+1", &made[2..], &"61".repeat(5000)] {
            assert!(parse(bad, 2).is_err(), "{bad}");
        }
        assert!(parse("+1", 1).is_err(), "a number with a sign");
    }

    #[test]
    fn a_page_has_its_default_and_its_limit() {
        assert_eq!(size(0, 100, 500).unwrap(), 100);
        assert_eq!(size(500, 100, 500).unwrap(), 500);
        assert!(size(501, 100, 500).unwrap_err().to_string().contains("use 1 to 500"));
    }
}
