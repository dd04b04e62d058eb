//! Patterns of rule conditions: `*` is any run of characters, `?` is one, a backslash takes the next literally. Pure.

#[derive(Clone, Copy, PartialEq)]
pub enum Case {
    Exact,
    Ignore,
}

/// Number of unescaped wildcards.
pub fn wildcards(pattern: &str) -> usize {
    tokens(pattern).iter().filter(|t| matches!(t, Token::Any | Token::One)).count()
}

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Literal(char),
    One,
    Any,
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut out = Vec::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            // A trailing backslash stands for itself.
            '\\' => Token::Literal(chars.next().unwrap_or('\\')),
            c => Token::Literal(c),
        });
    }
    out
}

/// Matches `*` (any run) and `?` (one character). Linear space, quadratic time at worst on 128 characters.
pub fn glob(pattern: &str, text: &str, case: Case) -> bool {
    let pattern = tokens(pattern);
    let text: Vec<char> = text.chars().collect();
    let same = |a: char, b: char| a == b || (case == Case::Ignore && a.eq_ignore_ascii_case(&b));
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(Token::Any) => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(Token::One) => (p, t) = (p + 1, t + 1),
            Some(Token::Literal(c)) if same(*c, text[t]) => (p, t) = (p + 1, t + 1),
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == Token::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_with_many_stars_ends_quickly() {
        let text = "a".repeat(128);
        assert!(!glob(&format!("{}b", "a*".repeat(60)), &text, Case::Exact));
        assert!(glob("***", "", Case::Exact));
        assert!(!glob("?", "", Case::Exact));
    }

    /// The slow and obvious way, by recursion.
    fn oracle(pattern: &[Token], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((Token::Any, rest)) => (0..=text.len()).any(|skip| oracle(rest, &text[skip..])),
            Some((Token::One, rest)) => !text.is_empty() && oracle(rest, &text[1..]),
            Some((Token::Literal(c), rest)) => text.first() == Some(c) && oracle(rest, &text[1..]),
        }
    }

    #[test]
    fn every_short_pattern_agrees_with_the_obvious_way_on_every_short_text() {
        let words = |letters: &str, longest: usize| {
            let mut all = vec![String::new()];
            let mut last = all.clone();
            for _ in 0..longest {
                last = last.iter().flat_map(|w| letters.chars().map(move |c| format!("{w}{c}"))).collect();
                all.extend(last.clone());
            }
            all
        };
        let texts = words("ab", 5);
        for pattern in words("ab*?", 4) {
            for text in &texts {
                let chars: Vec<char> = text.chars().collect();
                assert_eq!(glob(&pattern, text, Case::Exact), oracle(&tokens(&pattern), &chars), "{pattern} on {text}");
            }
        }
    }

    #[test]
    fn escaped_wildcards_are_not_counted() {
        assert_eq!(wildcards(r"a*b?\*\?"), 2);
    }
}
