//! Where text goes: results to stdout in the format asked for, progress and errors to stderr.
//!
//! The only module that writes to the terminal and reads the wall clock.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    args::{ColorChoice, Format},
    error::{Exit, Failure},
    render::Paint,
    text::{escaped, has_obeyed, plain},
};

/// Whether the terminal's last line is one that the next text must replace. A flag of the process, since the terminal is, too.
static LIVE: AtomicBool = AtomicBool::new(false);

/// How results are written.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    pub format: Format,
    pub paint: Paint,
}

impl Output {
    pub fn new(format: Format, color: ColorChoice) -> Self {
        let colored = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                // https://no-color.org: any non-empty value switches colours off.
                std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && on_terminal()
            }
        };
        Self { format, paint: Paint { colored } }
    }

    /// Whether a wait for a shift writes an object for each change.
    pub fn streams(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether people read it.
    pub fn is_table(&self) -> bool {
        self.format == Format::Table
    }

    /// Writes one result: the value as a document, or for people what `table` makes of it.
    pub fn show<T: Serialize>(&self, value: &T, table: impl FnOnce(Paint, Timestamp) -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => write(&table(self.paint, now())),
            Format::Json => write(&pretty(value)?),
            Format::Jsonl => json_line(value),
            Format::Yaml => write(&yaml(value)?),
        }
    }
}

/// One JSON object on one line.
pub fn json_line<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| unwritable(&error))?;
    write(&format!("{}\n", escaped(&text)))
}

fn pretty<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?;
    Ok(format!("{}\n", escaped(&text)))
}

/// A plain scalar of YAML has no escapes. Where it would need them the document is JSON, which YAML is, too.
fn yaml<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_norway::to_string(value).map_err(|error| unwritable(&error))?;
    if has_obeyed(&text) { pretty(value) } else { Ok(text) }
}

/// Writes to stdout. A reader that went away (`| head`) got what it wanted: that ends the program quietly.
pub fn write(text: &str) -> Result<(), Failure> {
    clear_live();
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(unwritable(&error)),
    }
}

fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Internal, "cannot write the result", error, "see that stdout is open and has room")
}

/// A line of progress on stderr, with the time, fit for a log file.
pub fn progress(line: &str) {
    progress_at(now(), line);
}

/// The same for something that happened at another time.
pub fn progress_at(at: Timestamp, line: &str) {
    note(&stamped(at, line));
}

/// Text on stderr as it is. A closed stderr must not stop the work.
pub fn note(text: &str) {
    clear_live();
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// How wide a line may be that is drawn again and again; nothing where stderr is no terminal.
pub fn live_columns() -> Option<usize> {
    let stderr = io::stderr();
    if !stderr.is_terminal() {
        return None;
    }
    // One column less than there are: a line that fills the last one wraps on some terminals.
    let columns = terminal_size::terminal_size_of(stderr).map_or(80, |(terminal_size::Width(columns), _)| columns);
    Some(usize::from(columns.saturating_sub(1)))
}

/// A line on the terminal that the next text replaces. Only for a terminal: see [`live_columns`].
pub fn live(line: &str) {
    let _ = io::stderr().lock().write_all(format!("\r\u{1b}[K{}", plain(line)).as_bytes());
    LIVE.store(true, Ordering::Relaxed);
}

/// Takes the live line away.
pub fn clear_live() {
    if LIVE.swap(false, Ordering::Relaxed) {
        let _ = io::stderr().lock().write_all(b"\r\x1b[K");
    }
}

/// `2026-01-02T03:04:05Z text`, one line.
pub fn stamped(at: Timestamp, line: &str) -> String {
    format!("{} {}\n", at.strftime("%Y-%m-%dT%H:%M:%SZ"), plain(line))
}

pub fn now() -> Timestamp {
    Timestamp::now()
}

pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Lines of the terminal; as many as are asked for when that cannot be known.
pub fn terminal_rows() -> usize {
    terminal_size::terminal_size().map_or(usize::MAX, |(_, terminal_size::Height(rows))| rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_holds_nothing_that_a_terminal_obeys_and_has_the_same_value() {
        for reason in ["plain", "two\nlines", "turned \u{202e}round", "escape \u{9b}1m"] {
            let value = serde_json::json!({"reason": reason, "weights": {"blue": 100}});
            let text = yaml(&value).unwrap();
            assert!(!has_obeyed(&text), "{text:?}");
            assert_eq!(serde_norway::from_str::<serde_json::Value>(&text).unwrap(), value, "{text}");
        }
        assert_eq!(yaml(&serde_json::json!({"reason": "plain"})).unwrap(), "reason: plain\n");
    }
}
