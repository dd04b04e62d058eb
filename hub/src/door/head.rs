//! Judges the heads of HTTP/1 requests before the HTTP library reads them, and knows where each request ends, so that nobody on the way
//! can have another opinion of it: lines end in CR LF and nothing else, no header is folded, a body has one length in digits, and
//! `Transfer-Encoding` is not taken at all. What is refused here never reaches a parser that would be kinder. Pure; a fuzz target feeds
//! it any bytes.

/// Bytes of a request's head: 8 KiB of path, a token of 8 KiB, and headers that proxies add. Above it the answer is 431.
pub const MOST_HEAD: usize = 32 * 1024;
/// Headers of a request; above it the answer is 431, too.
pub const MOST_HEADERS: usize = 64;
/// Digits of a length; more is longer than anything.
const MOST_DIGITS: usize = 15;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// Longer than [`MOST_HEAD`].
    #[error("the head of the request is longer than {MOST_HEAD} bytes")]
    Long,
    /// More than [`MOST_HEADERS`].
    #[error("the request has more than {MOST_HEADERS} headers")]
    Many,
    /// A line that does not end in CR LF, or holds one of the two, or NUL, or another control character.
    #[error("a line of the head does not end in CR LF, or holds a control character")]
    Line,
    /// Not `METHOD /path HTTP/1.1`.
    #[error(
        "the first line is not a method, a path that begins with a slash, and HTTP/1.1, with one space between them"
    )]
    RequestLine,
    /// Not `Name: value`; a folded header is none, either.
    #[error("a header is not a name, a colon and a value on one line")]
    Header,
    /// Not one `Host`.
    #[error("the header Host is missing, or given twice")]
    Host,
    /// A length that is not one number.
    #[error("Content-Length is not one number in digits, given once")]
    Length,
    /// A body without a length.
    #[error("Transfer-Encoding is not taken; send the body with a Content-Length")]
    TransferEncoding,
}

/// Where the reading of a connection stands.
#[derive(Debug, Default)]
pub struct HeadGuard {
    /// Of the head that is being read.
    head: Vec<u8>,
    /// Bytes of the present body that are still to come.
    body: u64,
}

/// What to do with bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// This head is complete and good.
    Head(Vec<u8>),
    /// So many of the bytes belong to a body.
    Body(usize),
    /// All were taken, and the head is not complete.
    More,
}

impl HeadGuard {
    /// Takes some of these bytes, which must not be empty; the second value says how many.
    ///
    /// # Errors
    /// [`HeadFault`]; the connection cannot go on after it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(Step, usize), HeadFault> {
        if self.body > 0 {
            let taken = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
            self.body -= taken as u64;
            return Ok((Step::Body(taken), taken));
        }
        for (at, byte) in bytes.iter().enumerate() {
            if self.head.len() >= MOST_HEAD {
                return Err(HeadFault::Long);
            }
            self.push(*byte)?;
            if self.head.ends_with(b"\r\n\r\n") {
                self.body = judge(&self.head)?;
                return Ok((Step::Head(std::mem::take(&mut self.head)), at + 1));
            }
        }
        Ok((Step::More, bytes.len()))
    }

    /// True between two requests.
    pub fn at_rest(&self) -> bool {
        self.head.is_empty() && self.body == 0
    }

    fn push(&mut self, byte: u8) -> Result<(), HeadFault> {
        let after_cr = self.head.last() == Some(&b'\r');
        // Judged at once, so that nobody waits for the end of a head that is lost already.
        let good = match byte {
            b'\n' => after_cr,
            b'\t' => !after_cr,
            b'\r' => !after_cr,
            0..=0x1f | 0x7f => false,
            _ => !after_cr,
        };
        if !good {
            return Err(HeadFault::Line);
        }
        self.head.push(byte);
        Ok(())
    }
}

/// The length of the body.
fn judge(head: &[u8]) -> Result<u64, HeadFault> {
    let text = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let old = request_line(lines.next().unwrap_or_default())?;
    let (mut hosts, mut length, mut count) = (0, None, 0);
    for line in lines {
        count += 1;
        if count > MOST_HEADERS {
            return Err(HeadFault::Many);
        }
        let (name, value) = header(line)?;
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(HeadFault::TransferEncoding);
        } else if name.eq_ignore_ascii_case(b"content-length") && length.replace(digits(value)?).is_some() {
            return Err(HeadFault::Length);
        }
    }
    // HTTP/1.0, which load balancers use for checks, has no Host.
    if hosts > 1 || (hosts == 0 && !old) {
        return Err(HeadFault::Host);
    }
    Ok(length.unwrap_or(0))
}

/// True for HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, HeadFault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let method = method.is_some_and(|method| !method.is_empty() && method.iter().all(|byte| token(*byte)));
    // Not a whole URL, an authority or an asterisk: those are for proxies.
    let target = target.is_some_and(|target| target.first() == Some(&b'/') && target.iter().all(u8::is_ascii_graphic));
    match version {
        Some(b"HTTP/1.1") if method && target && parts.next().is_none() => Ok(false),
        Some(b"HTTP/1.0") if method && target && parts.next().is_none() => Ok(true),
        _ => Err(HeadFault::RequestLine),
    }
}

fn header(line: &[u8]) -> Result<(&[u8], &[u8]), HeadFault> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadFault::Header)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // A name with a space before the colon, or at the start of the line, is what folding and smuggling look like.
    if name.is_empty() || !name.iter().all(|byte| token(*byte)) {
        return Err(HeadFault::Header);
    }
    Ok((name, value))
}

fn digits(value: &[u8]) -> Result<u64, HeadFault> {
    let value = value.trim_ascii();
    if value.is_empty() || value.len() > MOST_DIGITS || !value.iter().all(u8::is_ascii_digit) {
        return Err(HeadFault::Length);
    }
    Ok(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

/// `tchar` of RFC 9110.
fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(text: &str) -> Result<u64, HeadFault> {
        let mut guard = HeadGuard::default();
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let (step, taken) = guard.feed(rest)?;
            rest = &rest[taken..];
            if let Step::Head(_) = step {
                return Ok(guard.body);
            }
        }
        panic!("{text:?} is not complete")
    }

    fn with(headers: &str) -> Result<u64, HeadFault> {
        judged(&format!("POST /v1/x HTTP/1.1\r\nhost: hub\r\n{headers}\r\n"))
    }

    #[test]
    fn a_good_head_has_one_length() {
        assert_eq!(judged("GET /a?b=%20c HTTP/1.1\r\nHost: hub\r\n\r\n"), Ok(0));
        assert_eq!(judged("GET /healthz HTTP/1.0\r\n\r\n"), Ok(0));
        assert_eq!(with("content-length: 12\r\nx: \ty\tz, \u{e4}\r\n"), Ok(12));
        assert_eq!(with("x:\r\nContent-Length:0\r\n"), Ok(0));
    }

    #[test]
    fn what_two_readers_could_take_for_two_things_is_refused() {
        let length = [
            "content-length: 1\r\nContent-Length: 1\r\n",
            "content-length: +1\r\n",
            "content-length: 1, 1\r\n",
            "content-length:\r\n",
            "content-length: 0x1\r\n",
            "content-length: 9999999999999999\r\n",
            "content-length: -1\r\n",
        ];
        for headers in length {
            assert_eq!(with(headers), Err(HeadFault::Length), "{headers:?}");
        }
        let transfer = [
            "transfer-encoding: chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "transfer-encoding:\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        ];
        for headers in transfer {
            assert_eq!(with(headers), Err(HeadFault::TransferEncoding), "{headers:?}");
        }
        for headers in [
            "transfer-encoding : chunked\r\n",
            " folded: x\r\n",
            "x: a\r\n b\r\n",
            "\tx: y\r\n",
            "x\r\n",
            ": y\r\n",
            "x y: z\r\n",
            "\u{e4}: z\r\n",
        ] {
            assert_eq!(with(headers), Err(HeadFault::Header), "{headers:?}");
        }
        for headers in ["x: y\n", "x: y\rz: 1\r\n", "x: \0\r\n", "x: \u{7f}\r\n", "x: \u{b}y\r\n", "x: y\r\r\n"] {
            assert_eq!(with(headers), Err(HeadFault::Line), "{headers:?}");
        }
        assert_eq!(with("Host: other\r\n"), Err(HeadFault::Host));
        assert_eq!(judged("GET / HTTP/1.1\r\n\r\n"), Err(HeadFault::Host));
    }

    #[test]
    fn only_paths_of_http_1_are_asked_for() {
        for line in [
            "GET http://hub/ HTTP/1.1",
            "CONNECT hub:80 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET / HTTP/2.0",
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET /\u{e4} HTTP/1.1",
            "G(T / HTTP/1.1",
            "",
            "PRI * HTTP/2.0",
            "GET / http/1.1",
            "GET / HTTP/0.9",
        ] {
            assert_eq!(judged(&format!("{line}\r\nhost: hub\r\n\r\n")), Err(HeadFault::RequestLine), "{line:?}");
        }
    }

    #[test]
    fn endless_heads_end() {
        let mut guard = HeadGuard::default();
        let mut fed = 0;
        let fault = loop {
            match guard.feed(b"aaaaaaaaaaaaaaaa") {
                Ok((_, taken)) => fed += taken,
                Err(fault) => break fault,
            }
        };
        assert_eq!((fault, fed), (HeadFault::Long, MOST_HEAD));
        let headers: String = (0..MOST_HEADERS + 1).map(|n| format!("x{n}: y\r\n")).collect();
        assert_eq!(with(&headers), Err(HeadFault::Many));
    }

    #[test]
    fn requests_on_one_connection_are_told_apart_by_their_lengths() {
        let head = "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n";
        let text = format!("{head}GET {head}\r\n\r\n");
        let (mut guard, mut rest, mut seen) = (HeadGuard::default(), text.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let (step, taken) = guard.feed(rest).unwrap();
            seen.push((step, taken));
            rest = &rest[taken..];
        }
        let heads = (Step::Head(head.as_bytes().to_vec()), head.len());
        let again = (Step::Head(head.as_bytes().to_vec()), head.len());
        assert_eq!(seen, [heads, (Step::Body(4), 4), again, (Step::Body(4), 4)]);
        assert!(guard.at_rest());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_arrive(
            text in "(GET|POST) /[a-z%]{0,5} HTTP/1\\.[01]\r\n(host: h\r\n|content-length: [0-9]{0,2}\r\n|x: [ -~]{0,4}\r?\n){0,3}\r\n.{0,20}",
            cuts in prop::collection::vec(1usize..9, 0..40),
        ) {
            let run = |sizes: &mut dyn Iterator<Item = usize>| {
                let (mut guard, mut rest, mut out) = (HeadGuard::default(), text.as_bytes(), Vec::new());
                while !rest.is_empty() {
                    let part = &rest[..sizes.next().unwrap_or(rest.len()).min(rest.len())];
                    match guard.feed(part) {
                        Ok((Step::Head(head), taken)) => { out.extend(head); rest = &rest[taken..]; }
                        Ok((Step::Body(length), taken)) => { out.extend(&part[..length]); rest = &rest[taken..]; }
                        Ok((Step::More, taken)) => rest = &rest[taken..],
                        Err(fault) => return (out, Some(fault)),
                    }
                }
                (out, None)
            };
            let whole = run(&mut std::iter::empty());
            prop_assert!(text.as_bytes().starts_with(&whole.0));
            prop_assert_eq!(run(&mut cuts.into_iter()), whole);
        }

        #[test]
        fn no_bytes_make_trouble(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            let mut guard = HeadGuard::default();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let Ok((_, taken)) = guard.feed(rest) else { break };
                prop_assert!(taken > 0);
                rest = &rest[taken..];
            }
        }
    }
}
