//! Text for people. Pure: takes values and `now`, gives strings; escape codes only through `Paint`.

mod access;
mod audit;
mod clusters;
mod explain;
mod lists;
mod shift;
mod spec;
mod status;
mod table;

pub use access::{authorities, caller, certificates, join_tokens, moment, service_tokens};
pub use audit::{audit, verified};
pub use clusters::{clusters, forecast};
pub use explain::explain;
pub use lists::{endpoints, plan, policies};
pub use shift::{dry_run, history, note_sentence, shift, shift_line, shift_name, switch_line, switches};
pub use status::{fit, live, status};
pub use table::{Paint, Tone};

use jiff::Timestamp;

/// Seconds since `at`, in two units at most: `42s`, `3m12s`, `5h04m`, `12d3h`; `-` when there is no time.
pub fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else { return "-".into() };
    // Clocks of two machines differ a little: the future is shown as now.
    short(now.duration_since(at).as_secs().max(0))
}

/// A number of seconds in at most two units.
pub fn short(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Each weight's part of the sum in percent, one decimal; nothing when all are 0.
pub fn share(weight: u32, sum: u32) -> String {
    if sum == 0 {
        return "-".into();
    }
    format!("{:.1}%", f64::from(weight) * 100.0 / f64::from(sum))
}

/// `12.5%` for thousandths of a whole.
pub fn percent(permille: u32) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// `2026-01-02T03:00:00Z`.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_at_most_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (90_000, "1d1h")]
        {
            assert_eq!(short(seconds), text);
        }
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(age(None, now), "-");
        assert_eq!(age(Some("2026-01-02T03:05:00Z".parse().unwrap()), now), "0s");
    }

    #[test]
    fn shares_are_percent_of_the_sum() {
        assert_eq!((share(90, 100).as_str(), share(1, 3).as_str(), share(0, 0).as_str()), ("90.0%", "33.3%", "-"));
        assert_eq!(
            (percent(0), percent(5), percent(333), percent(1000)),
            ("0.0%".into(), "0.5%".into(), "33.3%".into(), "100.0%".into())
        );
    }
}
