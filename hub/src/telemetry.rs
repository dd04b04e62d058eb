//! The log: one line per event on standard error, for people or as JSON. What comes from outside (versions, reasons, names of callers)
//! may hold line ends and codes of terminals; none of them reaches the log as such, so that nobody writes a line into it that the hub
//! did not write.

use std::{fmt, io::IsTerminal};

use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    fmt::{
        FormatFields,
        format::{DefaultFields, Writer},
    },
    util::TryInitError,
};

use crate::args::LogFormat;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter does not parse.
    #[error(
        "--log-level {value:?} is not a filter; use error, warn, info, debug or trace, or a list such as info,switchyard_hub=debug"
    )]
    Filter {
        /// As given.
        value: String,
        /// Why.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// There is one already.
    #[error("the log is set up twice")]
    Twice(#[source] TryInitError),
}

/// Sets up the log of this process.
///
/// # Errors
/// [`LogError`] when the filter does not parse.
pub fn init(format: LogFormat, level: &str) -> Result<(), LogError> {
    use tracing_subscriber::util::SubscriberInitExt;
    let filter = EnvFilter::try_new(level).map_err(|source| LogError::Filter { value: level.to_owned(), source })?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Human => lines.fmt_fields(OneLine::default()).finish().try_init(),
        // JSON writes control characters as escapes by itself.
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
    }
    .map_err(LogError::Twice)
}

/// Fields as by default, but on one line and without a character that a terminal obeys. Errors and whatever is shown by `Display` are
/// written as they are by default, line ends included.
#[derive(Debug, Default)]
pub struct OneLine(DefaultFields);

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut text = String::new();
        self.0.format_fields(Writer::new(&mut text), fields)?;
        for c in text.chars() {
            if is_obeyed(c) { write!(writer, "{}", c.escape_unicode())? } else { writer.write_char(c)? }
        }
        Ok(())
    }
}

/// True for what a terminal or a reader of lines obeys: control characters, line and paragraph separators, and those that turn the
/// order of others round.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, some: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(some);
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Kept {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(String, #[source] io::Error);

    /// As it may come in a version, a reason, a region or the name of a caller.
    const EVIL: &str =
        "1.0\r\n2026-01-01T00:00:00Z ERROR switchyard_hub: all is lost\u{1b}[31m\u{7}\u{9b}2J\u{202e}\u{2028}x";

    fn log(subscriber: impl tracing::Subscriber + Send + Sync) {
        tracing::subscriber::with_default(subscriber, || {
            let error = Told(EVIL.to_owned(), io::Error::other(EVIL));
            let error: &dyn std::error::Error = &error;
            let span = tracing::info_span!("call", who = %EVIL);
            let _entered = span.enter();
            tracing::info!(text = EVIL, shown = %EVIL, debug = ?EVIL, error, "{EVIL}");
        });
    }

    #[test]
    fn whatever_comes_from_outside_forges_no_line_for_people() {
        for colours in [false, true] {
            let kept = Kept::default();
            let lines = tracing_subscriber::fmt().with_writer(kept.clone()).with_ansi(colours);
            log(lines.fmt_fields(OneLine::default()).finish());
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(text.ends_with('\n'), "{text}");
            assert_eq!(text.matches("all is lost").count(), 7, "{text}");
            for obeyed in ["\r", "\u{1b}[31m", "\u{7}", "\u{9b}", "\u{202e}", "\u{2028}"] {
                assert!(!text.contains(obeyed), "{obeyed:?}: {text:?}");
            }
        }
    }

    #[test]
    fn whatever_comes_from_outside_forges_no_line_for_programs() {
        let kept = Kept::default();
        log(tracing_subscriber::fmt().with_writer(kept.clone()).with_ansi(false).json().flatten_event(true).finish());
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((line["text"].as_str(), line["shown"].as_str()), (Some(EVIL), Some(EVIL)));
        assert!(!text.trim_end().contains(|c: char| c.is_ascii_control()), "{text:?}");
    }
}
