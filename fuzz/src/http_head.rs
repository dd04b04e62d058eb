//! The bytes of an HTTP/1 connection as the hub's door reads them, before the HTTP library does. What passes has one reading: judged
//! here by a second, stupid reader.

use switchyard_hub::door::head::{HeadGuard, MOST_HEAD, MOST_HEADERS, Step};

use crate::text::is_one_sound_line;

/// What came of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    heads: Vec<Vec<u8>>,
    bodies: usize,
    fault: Option<String>,
}

/// Tries one connection, at once and byte by byte; it is taken when a head passed.
pub fn run(data: &[u8]) -> bool {
    let whole = read(data, data.len().max(1));
    assert_eq!(read(data, 1), whole, "it matters how the bytes arrive");
    let mut rest = data;
    for head in &whole.heads {
        let length = is_read_alike(head);
        // Nothing was left out, put in or moved: the head stands in front of its body.
        assert!(rest.starts_with(head), "a head that was not sent");
        rest = &rest[head.len()..];
        rest = &rest[rest.len().min(length)..];
    }
    whole.fault.iter().for_each(|fault| is_one_sound_line("a head", fault));
    !whole.heads.is_empty()
}

fn read(data: &[u8], at_once: usize) -> Read {
    let (mut guard, mut rest, mut read) = (HeadGuard::default(), data, Read::default());
    while !rest.is_empty() {
        let part = &rest[..at_once.min(rest.len())];
        match guard.feed(part) {
            Err(fault) => {
                read.fault = Some(fault.to_string());
                break;
            }
            Ok((step, taken)) => {
                assert!((1..=part.len()).contains(&taken), "{taken} of {} bytes were taken", part.len());
                match step {
                    Step::Head(head) => read.heads.push(head),
                    Step::Body(length) => {
                        assert_eq!(length, taken);
                        read.bodies += length;
                    }
                    Step::More => {}
                }
                rest = &rest[taken..];
            }
        }
    }
    read
}

/// The length of the body, by a reader that splits at line ends and looks for words.
fn is_read_alike(head: &[u8]) -> usize {
    assert!(head.len() <= MOST_HEAD && head.ends_with(b"\r\n\r\n"), "{head:?}");
    let text: String = head.iter().map(|byte| char::from(*byte)).collect();
    let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    assert!(lines.iter().all(|line| !line.contains(['\r', '\n', '\0'])), "{text:?}");
    assert!(lines.len() <= MOST_HEADERS + 1, "{} headers", lines.len() - 1);
    assert_eq!(lines[0].split(' ').count(), 3, "{text:?}");
    let named = |name: &str| {
        let of = |line: &&&str| line.split(':').next().is_some_and(|given| given.trim().eq_ignore_ascii_case(name));
        lines[1..].iter().filter(of).copied().collect::<Vec<&str>>()
    };
    assert!(named("transfer-encoding").is_empty() && named("host").len() <= 1, "{text:?}");
    let lengths = named("content-length");
    assert!(lengths.len() <= 1, "{text:?}");
    let length = lengths.first().and_then(|line| line.split(':').nth(1)).map(|value| value.trim().parse::<u64>());
    length.map_or(0, |length| usize::try_from(length.expect("a number")).unwrap_or(usize::MAX))
}
