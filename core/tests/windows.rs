//! Maintenance windows: when they are open, when the next one opens, and what changes of the clock do to them. The judge of the
//! property at the end walks minute by minute over a table of the week.

use std::collections::BTreeSet;

use jiff::{
    SignedDuration, Timestamp,
    tz::{TimeZone, TimeZoneDatabase},
};
use proptest::prelude::*;
use switchyard_core::policy::windows::{MaintenanceWindow, Weekday, WindowError, minutes, next_start, open, zone_name};

fn window(days: &[Weekday], from: &str, to: &str, zone: &str) -> MaintenanceWindow {
    let days = days.iter().copied().collect();
    MaintenanceWindow::new(days, minutes(from).unwrap(), minutes(to).unwrap(), zone).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Which of these moments the window is open at.
fn open_at<'a>(window: &MaintenanceWindow, moments: &[&'a str]) -> Vec<&'a str> {
    moments.iter().copied().filter(|moment| window.contains(at(moment))).collect()
}

#[test]
fn a_window_is_open_from_its_first_minute_until_before_its_last() {
    // 2026-06-03 is a Wednesday.
    let window = window(&[Weekday::Wed], "09:30", "11:00", "UTC");
    let moments = [
        "2026-06-03T09:29:59.999999999Z",
        "2026-06-03T09:30:00Z",
        "2026-06-03T10:59:59.999999999Z",
        "2026-06-03T11:00:00Z",
        "2026-06-02T10:00:00Z",
        "2026-06-04T10:00:00Z",
    ];
    assert_eq!(open_at(&window, &moments), &moments[1..3]);
}

#[test]
fn a_window_past_midnight_belongs_to_the_day_on_which_it_opens() {
    // 2026-06-05 is a Friday; Berlin is two hours ahead.
    let window = window(&[Weekday::Fri], "22:00", "02:00", "Europe/Berlin");
    let moments = [
        "2026-06-04T23:00:00Z", // Friday 01:00: the morning belongs to Thursday
        "2026-06-05T19:59:59Z",
        "2026-06-05T20:00:00Z", // Friday 22:00
        "2026-06-05T22:30:00Z", // Saturday 00:30
        "2026-06-05T23:59:59Z", // Saturday 01:59:59
        "2026-06-06T00:00:00Z",
        "2026-06-06T20:00:00Z", // Saturday 22:00
    ];
    assert_eq!(open_at(&window, &moments), &moments[2..5]);
}

#[test]
fn a_whole_day_ends_at_24_and_one_that_ends_at_0_ends_with_the_day_too() {
    let moments = [
        "2026-06-05T23:59:59Z",
        "2026-06-06T00:00:00Z",
        "2026-06-06T12:00:00Z",
        "2026-06-06T23:59:59Z",
        "2026-06-07T00:00:00Z",
    ];
    let whole = window(&[Weekday::Sat], "00:00", "24:00", "UTC");
    assert_eq!(open_at(&whole, &moments), &moments[1..4]);
    for to in ["24:00", "00:00"] {
        let evening = window(&[Weekday::Sat], "18:00", to, "UTC");
        assert_eq!(open_at(&evening, &moments), &moments[3..4], "{to}");
    }
}

#[test]
fn an_hour_that_clocks_skip_opens_nothing_and_a_window_around_it_opens_when_they_have_skipped_it() {
    // On 2026-03-29, a Sunday, Berlin's clocks go from 02:00 to 03:00 at 01:00Z.
    let within = window(&[Weekday::Sun], "02:15", "02:45", "Europe/Berlin");
    let evening_before = at("2026-03-28T20:00:00Z");
    assert_eq!(within.next_start(evening_before), Some(at("2026-04-05T00:15:00Z")), "the Sunday after it");
    let around = window(&[Weekday::Sun], "02:30", "04:00", "Europe/Berlin");
    assert_eq!(around.next_start(evening_before), Some(at("2026-03-29T01:00:00Z")));
    assert!(!around.contains(at("2026-03-29T00:59:59Z")) && around.contains(at("2026-03-29T01:00:00Z")));
    let before = window(&[Weekday::Sun], "01:00", "02:30", "Europe/Berlin");
    let moments = ["2026-03-29T00:00:00Z", "2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"];
    assert_eq!(open_at(&before, &moments), &moments[..2]);
}

#[test]
fn an_hour_that_clocks_show_twice_opens_the_window_twice() {
    // On 2026-10-25, a Sunday, Berlin's clocks go from 03:00 back to 02:00 at 01:00Z.
    let window = window(&[Weekday::Sun], "02:15", "02:45", "Europe/Berlin");
    let (first, second) = (at("2026-10-25T00:15:00Z"), at("2026-10-25T01:15:00Z"));
    assert_eq!(window.next_start(at("2026-10-24T12:00:00Z")), Some(first));
    assert_eq!(window.next_start(at("2026-10-25T00:45:00Z")), Some(second));
    assert_eq!(window.next_start(at("2026-10-25T01:45:00Z")), Some(at("2026-11-01T01:15:00Z")));
    // It is open already when the clocks go back to a time within it.
    let early = self::window(&[Weekday::Sun], "01:00", "02:30", "Europe/Berlin");
    assert_eq!(early.next_start(at("2026-10-25T00:30:00Z")), Some(at("2026-10-25T01:00:00Z")));
}

#[test]
fn midnight_may_be_skipped_or_shown_twice() {
    // Beirut goes from 00:00 to 01:00 on 2026-03-29: that Sunday begins at 01:00.
    let sunday = window(&[Weekday::Sun], "00:00", "02:00", "Asia/Beirut");
    assert_eq!(sunday.next_start(at("2026-03-28T20:00:00Z")), Some(at("2026-03-28T22:00:00Z")));
    // Havana goes from 01:00 back to 00:00 on 2026-11-01, a Sunday.
    let havana = window(&[Weekday::Sun], "00:00", "00:30", "America/Havana");
    assert_eq!(havana.next_start(at("2026-11-01T03:00:00Z")), Some(at("2026-11-01T04:00:00Z")));
    assert_eq!(havana.next_start(at("2026-11-01T04:30:00Z")), Some(at("2026-11-01T05:00:00Z")));
    // St. John's went from Sunday 00:01 back to Saturday 23:01 on 2010-11-07, so Saturday comes after Sunday.
    let saturday = window(&[Weekday::Sat], "23:30", "23:40", "America/St_Johns");
    assert_eq!(saturday.next_start(at("2010-11-07T02:30:30Z")), Some(at("2010-11-07T03:00:00Z")));
    // Samoa had no 30 December 2011, which would have been a Friday.
    let samoa = window(&[Weekday::Fri], "09:00", "10:00", "Pacific/Apia");
    let next = samoa.next_start(at("2011-12-29T12:00:00Z")).unwrap();
    assert_eq!(
        TimeZoneDatabase::bundled().get("Pacific/Apia").unwrap().to_datetime(next).to_string(),
        "2012-01-06T09:00:00"
    );
}

#[test]
fn the_next_start_is_now_within_a_window_or_without_any() {
    let windows = [
        window(&[Weekday::Mon], "09:00", "10:00", "UTC"),
        window(&[Weekday::Wed], "09:00", "10:00", "Asia/Kathmandu"), // 03:15Z
    ];
    let now = at("2026-06-01T09:59:59Z"); // a Monday
    assert_eq!((open(&windows, now), next_start(&windows, now)), (true, Some(now)));
    let later = at("2026-06-01T10:00:00Z");
    assert_eq!((open(&windows, later), next_start(&windows, later)), (false, Some(at("2026-06-03T03:15:00Z"))));
    assert_eq!((open(&[], later), next_start(&[], later)), (true, Some(later)));
    let whole_week = [window(&Weekday::ALL, "00:00", "24:00", "UTC")];
    assert_eq!(next_start(&whole_week, later), Some(later));
}

#[test]
fn what_cannot_be_a_window_is_refused() {
    let days = || BTreeSet::from([Weekday::Mon]);
    for (made, error) in [
        (MaintenanceWindow::new(BTreeSet::new(), 0, 60, "UTC"), WindowError::NoDays),
        (MaintenanceWindow::new(days(), 1440, 60, "UTC"), WindowError::Times),
        (MaintenanceWindow::new(days(), 0, 1441, "UTC"), WindowError::Times),
        (MaintenanceWindow::new(days(), 60, 60, "UTC"), WindowError::Empty),
        (MaintenanceWindow::new(days(), 0, 60, "Europe/Entenhausen"), WindowError::Zone),
        (MaintenanceWindow::new(days(), 0, 60, "europe/berlin"), WindowError::Zone),
        (MaintenanceWindow::new(days(), 0, 60, "Etc/Unknown"), WindowError::Zone),
        (MaintenanceWindow::new(days(), 0, 60, ""), WindowError::Zone),
        (MaintenanceWindow::new(days(), 0, 60, "+02:00"), WindowError::Zone),
    ] {
        assert_eq!(made, Err(error));
    }
    assert_eq!(zone_name("europe/BERLIN").as_deref(), Some("Europe/Berlin"));
    assert_eq!(zone_name("Local"), None);
}

#[test]
fn times_of_a_day_are_read_strictly() {
    for (text, expected) in [("00:00", 0), ("09:05", 545), ("23:59", 1439), ("24:00", 1440)] {
        assert_eq!(minutes(text), Some(expected), "{text}");
    }
    for text in [
        "",
        ":",
        "9:00",
        "09:0",
        "009:00",
        "09:60",
        "24:01",
        "25:00",
        "-1:00",
        "+1:00",
        "09:00:00",
        "9 :00",
        "٠٩:٠٠",
        "ab:cd",
    ] {
        assert_eq!(minutes(text), None, "{text}");
    }
}

#[test]
fn a_window_is_shown_in_one_line() {
    let some = window(&[Weekday::Sun, Weekday::Mon], "22:00", "02:30", "Europe/Berlin");
    assert_eq!(some.to_string(), "Mon,Sun 22:00-02:30 Europe/Berlin");
    assert_eq!(window(&Weekday::ALL, "00:00", "24:00", "UTC").to_string(), "daily 00:00-24:00 UTC");
}

/// Zones whose clocks change by an hour or half of one, at night or at midnight, forward and back, not at all, or by a day.
const ZONES: [&str; 15] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Beirut",
    "Asia/Tehran",
    "Africa/Casablanca",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "Antarctica/Troll",
];

/// Minutes of the week, from Monday, at which a clock shows a time within the window.
fn table(days: &BTreeSet<Weekday>, from: u16, to: u16) -> Vec<bool> {
    let mut open = vec![false; 7 * 1440];
    for (day, name) in Weekday::ALL.into_iter().enumerate() {
        let mut minute = usize::from(from);
        // Walks from the opening to the closing, around midnight and around the end of the week.
        while days.contains(&name) && minute % 1440 != usize::from(to) % 1440 {
            open[(day * 1440 + minute) % (7 * 1440)] = true;
            minute += 1;
        }
        if days.contains(&name) && (from, to) == (0, 1440) {
            open[day * 1440..(day + 1) * 1440].fill(true);
        }
    }
    open
}

fn shown_open(table: &[bool], zone: &TimeZone, now: Timestamp) -> bool {
    let shown = zone.to_datetime(now);
    let day = usize::try_from(shown.date().weekday().to_monday_zero_offset()).unwrap();
    let (hour, minute) = (usize::try_from(shown.hour()).unwrap(), usize::try_from(shown.minute()).unwrap());
    table[day * 1440 + hour * 60 + minute]
}

/// Minute by minute.
fn walked(table: &[bool], zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let whole = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap();
    let minutes = (1..36 * 1440).map(|minute| whole.checked_add(SignedDuration::from_mins(minute)).unwrap());
    std::iter::once(now).chain(minutes).find(|at| shown_open(table, zone, *at))
}

fn days() -> impl Strategy<Value = BTreeSet<Weekday>> {
    proptest::collection::btree_set(proptest::sample::select(Weekday::ALL.to_vec()), 1..=7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn windows_open_and_close_as_a_clock_on_the_wall_shows(
        zone in proptest::sample::select(ZONES.to_vec()), days in days(),
        // Mostly at night, where clocks change.
        from in prop_oneof![3 => 0..240u16, 1 => 0..1440u16], length in prop_oneof![3 => 1..180u16, 1 => 1..=1439u16],
        second in 631_152_000..2_145_916_800i64, // 1990 to 2037
        near_a_change in any::<bool>(), before in 0..4 * 86_400i64,
    ) {
        let to = (from + length) % 1440;
        let to = if to == 0 { 1440 } else { to };
        let window = MaintenanceWindow::new(days.clone(), from, to, zone).unwrap();
        let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
        let mut now = Timestamp::from_second(second).unwrap();
        if let Some(change) = zone.following(now).next().filter(|_| near_a_change) {
            now = change.timestamp().checked_sub(SignedDuration::from_secs(before - 2 * 86_400)).unwrap();
        }
        let table = table(&days, from, to);
        prop_assert_eq!(window.contains(now), shown_open(&table, &zone, now));
        prop_assert_eq!(window.next_start(now), walked(&table, &zone, now), "{} after {}", window, now);
    }

    #[test]
    fn no_moment_of_the_calendar_makes_a_panic(
        zone in proptest::sample::select(ZONES.to_vec()), days in days(), from in 0..1440u16, to in 0..=1440u16,
        second in prop_oneof![
            Timestamp::MIN.as_second()..=Timestamp::MAX.as_second(),
            Just(Timestamp::MIN.as_second()), Just(Timestamp::MAX.as_second()),
        ],
    ) {
        prop_assume!(from != to);
        let window = MaintenanceWindow::new(days, from, to, zone).unwrap();
        let now = Timestamp::from_second(second).unwrap();
        match window.next_start(now) {
            Some(at) => prop_assert!(at >= now && window.contains(at)),
            None => prop_assert!(now > "9999-11-01T00:00:00Z".parse::<Timestamp>().unwrap(), "{now}"),
        }
    }
}
