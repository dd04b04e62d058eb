//! Maintenance windows on the clock: whether one is open, and when the next one opens. Pure: `now` comes in, and time zones are
//! those of the database that is built in, never the machine's, so that every replica and every day's test say the same.
//!
//! A window is what a clock on the wall in its time zone shows: open on the days that it names from `from` until before `to`, into the
//! next day when `to` is the earlier one. So an hour that is shown twice (the end of summer time) counts twice, and a window
//! that lies in an hour that is skipped does not open on that day. Tests are in `core/tests/windows.rs`.

use std::{collections::BTreeSet, fmt, sync::LazyLock};

use jiff::{
    Timestamp,
    civil::{self, Date, Time},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

pub use super::spec::Weekday;

/// Characters of a time zone's name; the longest of today, America/Argentina/ComodRivadavia, has 32.
pub const MOST_ZONE_CHARACTERS: usize = 64;

/// The last minute that `to` may name: the end of the day.
const DAY: u16 = 24 * 60;

/// How far ahead an opening is looked for. A window opens every week unless a change of the clock skips it; no zone ever skipped the
/// same time of the week in five weeks running.
const DAYS_AHEAD: u32 = 36;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// What a window cannot be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// No day is named.
    #[error("it names no day")]
    NoDays,
    /// `from` or `to` is no time of a day.
    #[error("its times are not within a day")]
    Times,
    /// `from` and `to` are equal.
    #[error("it opens when it closes")]
    Empty,
    /// The time zone is not known.
    #[error("its time zone is not known")]
    Zone,
}

/// A time of the week in which weights may move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceWindow {
    days: BTreeSet<Weekday>,
    from: u16,
    to: u16,
    time_zone: String,
    zone: TimeZone,
}

impl MaintenanceWindow {
    /// Opens on `days` at `from`, minutes after midnight (0..=1439), and closes at `to` (0..=1440); a `to` before `from` is on the
    /// next day.
    ///
    /// # Errors
    /// When it could never be open, or its time zone is not known.
    pub fn new(days: BTreeSet<Weekday>, from: u16, to: u16, time_zone: &str) -> Result<Self, WindowError> {
        if days.is_empty() {
            return Err(WindowError::NoDays);
        }
        if from >= DAY || to > DAY {
            return Err(WindowError::Times);
        }
        if from == to {
            return Err(WindowError::Empty);
        }
        let zone = zone(time_zone).ok_or(WindowError::Zone)?;
        Ok(Self { days, from, to, time_zone: time_zone.to_owned(), zone })
    }

    /// The days on which it opens; not empty.
    pub fn days(&self) -> &BTreeSet<Weekday> {
        &self.days
    }

    /// When it opens, minutes after midnight, 0..=1439.
    pub fn from(&self) -> u16 {
        self.from
    }

    /// When it closes, minutes after midnight, 0..=1440; before [`Self::from`]: on the next day.
    pub fn to(&self) -> u16 {
        self.to
    }

    /// The name of the time zone, as in the IANA database.
    pub fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// Whether it is open.
    pub fn contains(&self, now: Timestamp) -> bool {
        let shown = self.zone.to_datetime(now);
        let minute = minute_of(shown.time());
        let on = |date: Date| self.days.contains(&weekday(date));
        if self.from < self.to {
            return on(shown.date()) && (self.from..self.to).contains(&minute);
        }
        // Into the next day: the evening of the day that is named, or the morning after it.
        minute >= self.from && on(shown.date()) || minute < self.to && shown.date().yesterday().is_ok_and(on)
    }

    /// The next moment at which it is open: now, or a later opening. None: the calendar ends before.
    pub fn next_start(&self, now: Timestamp) -> Option<Timestamp> {
        if self.contains(now) {
            return Some(now);
        }
        let today = self.zone.to_datetime(now).date();
        // Clocks may show a later date than the one that follows: a change that goes back over midnight shows a day twice.
        let first = today.yesterday().unwrap_or(today);
        let dates = first.series(jiff::Span::new().days(1)).take(DAYS_AHEAD as usize);
        let openings = dates.filter(|date| self.days.contains(&weekday(*date))).flat_map(|date| self.opens(date));
        // It also opens by a change of the clock to a time within it.
        let end =
            now.checked_add(jiff::SignedDuration::from_hours(i64::from(DAYS_AHEAD) * 24)).unwrap_or(Timestamp::MAX);
        let changes = self.zone.following(now).map(|change| change.timestamp()).take_while(|at| *at <= end);
        openings.chain(changes).filter(|at| *at > now && self.contains(*at)).min()
    }

    /// The moments at which clocks show `from` on this date: one, two when they show it twice, none when they skip it.
    fn opens(&self, date: Date) -> Vec<Timestamp> {
        let hour = i8::try_from(self.from / 60).expect("a day has 24 hours");
        let minute = i8::try_from(self.from % 60).expect("an hour has 60 minutes");
        let shown = date.at(hour, minute, 0, 0);
        let offsets = match self.zone.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Fold { before, after } => vec![before, after],
            AmbiguousOffset::Gap { .. } => Vec::new(),
        };
        offsets.into_iter().filter_map(|offset| offset.to_timestamp(shown).ok()).collect()
    }
}

impl fmt::Display for MaintenanceWindow {
    /// `Mon,Tue 22:00-02:00 Europe/Berlin`; `daily 22:00-02:00 UTC`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days.len() == Weekday::ALL.len() {
            f.write_str("daily")?;
        } else {
            let days: Vec<String> = self.days.iter().map(|day| format!("{day:?}")).collect();
            f.write_str(&days.join(","))?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, " {:02}:{:02}-{:02}:{:02} {}", from / 60, from % 60, to / 60, to % 60, self.time_zone)
    }
}

/// Whether weights may move: one of the windows is open, or there is none.
pub fn open(windows: &[MaintenanceWindow], now: Timestamp) -> bool {
    windows.is_empty() || windows.iter().any(|window| window.contains(now))
}

/// The next moment at which weights may move: now when they may now (a window is open, or there is none), else when the first window
/// opens. None: the calendar ends before.
pub fn next_start(windows: &[MaintenanceWindow], now: Timestamp) -> Option<Timestamp> {
    if windows.is_empty() {
        return Some(now);
    }
    windows.iter().filter_map(|window| window.next_start(now)).min()
}

/// `HH:MM` as minutes after midnight; `24:00` is the end of the day.
pub fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= DAY).then_some(total)
}

/// The zone of exactly this name. Other cases of it are refused, as an API server does that reads the database from files.
fn zone(name: &str) -> Option<TimeZone> {
    let zone = ZONES.get(name).ok()?;
    (zone.iana_name() == Some(name) && !zone.is_unknown()).then_some(zone)
}

/// The name as the database writes it, where only the case of letters differs.
pub fn zone_name(name: &str) -> Option<String> {
    let zone = ZONES.get(name).ok().filter(|zone| !zone.is_unknown())?;
    zone.iana_name().map(str::to_owned)
}

fn minute_of(time: Time) -> u16 {
    // Both parts are never negative.
    u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs())
}

fn weekday(date: Date) -> Weekday {
    match date.weekday() {
        civil::Weekday::Monday => Weekday::Mon,
        civil::Weekday::Tuesday => Weekday::Tue,
        civil::Weekday::Wednesday => Weekday::Wed,
        civil::Weekday::Thursday => Weekday::Thu,
        civil::Weekday::Friday => Weekday::Fri,
        civil::Weekday::Saturday => Weekday::Sat,
        civil::Weekday::Sunday => Weekday::Sun,
    }
}
