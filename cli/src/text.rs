//! Text of other machines made safe to show, and numbers with their noun. Pure.
//!
//! Reasons, messages and names travel from callers, agents and servers through the hub to this terminal. An escape sequence in
//! them must not reach it, and neither must a character that makes it show a line in another order than it was written.

use std::fmt::Write;

/// One line without characters that a terminal obeys instead of showing.
pub fn plain(text: &str) -> String {
    text.trim_end().chars().map(|c| if obeyed(c) { ' ' } else { c }).collect()
}

/// A JSON document in which such characters are written as escapes. They stand only within strings there, so the value is the same.
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if obeyed(c) && c != '\n' {
            // Each of them is below U+10000. Writing into a string cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether a document of several lines holds one.
pub fn has_obeyed(document: &str) -> bool {
    document.chars().any(|c| obeyed(c) && c != '\n')
}

/// Control characters, and what turns the direction of the text or ends its line in Unicode (UAX 9; CVE-2021-42574).
fn obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `1 finding`, `2 findings`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// U+202A to U+202E, U+2066 to U+2069, the marks, both line ends, and controls of both blocks.
    const OBEYED: &str = "\u{1b}\u{7}\r\u{7f}\u{9b}\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                          \u{2066}\u{2067}\u{2068}\u{2069}";

    #[test]
    fn what_a_terminal_obeys_is_not_printed() {
        for c in OBEYED.chars() {
            assert_eq!(plain(&format!("a{c}b")), "a b", "{c:?}");
        }
        assert_eq!(plain("a\nb\n"), "a b");
        let shown = "grün \u{5d0}\u{5d1} \u{1f469}\u{200d}\u{1f680} \u{2026}";
        assert_eq!(plain(shown), shown, "letters that are written from right to left are shown");
    }

    #[test]
    fn json_keeps_its_value_when_what_a_terminal_obeys_is_escaped() {
        let value = serde_json::json!({"reason": format!("x{OBEYED}y"), "n": [1, "\n"]});
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!has_obeyed(&text), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(text.contains("\\u202e") && text.contains('\n'), "{text:?}");
    }

    #[test]
    fn bytes_have_two_digits_each() {
        assert_eq!((hex(&[0, 9, 0xab, 255]).as_str(), hex(&[]).as_str()), ("0009abff", ""));
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!((count(1, "finding"), count(0, "finding")), ("1 finding".to_owned(), "0 findings".to_owned()));
    }
}
