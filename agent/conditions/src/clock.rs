//! The time as an operator's clock on the wall shows it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use countersign_certs::settings::diagnostic::did_you_mean;
use countersign_certs::time::Timestamp;
use jiff::civil::Weekday as CivilWeekday;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// Where Linux systems keep their time zones. Theirs are newer than ours: rules of daylight saving time change by law.
const SYSTEM_ZONES: &str = "/usr/share/zoneinfo";

/// Longest name of a zone in bytes. The longest known has 32.
const ZONE_BYTES_MAX: usize = 64;

/// The time zones that are known.
#[derive(Debug)]
pub struct Zones(TimeZoneDatabase);

/// One time zone. Cheap to clone.
#[derive(Clone)]
pub struct Zone {
    zone: TimeZone,
    name: Arc<str>,
}

/// A point in time in a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTime {
    /// The point in time.
    pub now: Timestamp,
    /// The hour, 0 to 23.
    pub hour: u8,
    /// The minute, 0 to 59.
    pub minute: u8,
    /// The day of the week.
    pub weekday: Weekday,
    /// The day, for example `2026-11-24`. Days compare by `==` only: a condition cannot order texts.
    pub date: String,
    /// The name of the zone.
    pub zone: Arc<str>,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weekday {
    /// `"friday"`.
    Friday,
    /// `"monday"`.
    Monday,
    /// `"saturday"`.
    Saturday,
    /// `"sunday"`.
    Sunday,
    /// `"thursday"`.
    Thursday,
    /// `"tuesday"`.
    Tuesday,
    /// `"wednesday"`.
    Wednesday,
}

/// Why there is no such zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not a name that a zone can have.
    #[error("{0:?} is no name of a time zone; write it like \"Europe/Berlin\" or \"UTC\"")]
    Name(String),
    /// No zone has this name.
    #[error("there is no time zone {name:?}")]
    Unknown {
        /// The name.
        name: String,
        /// What to do.
        hint: String,
    },
}

impl Weekday {
    /// All seven.
    pub const ALL: [Self; 7] =
        [Self::Monday, Self::Tuesday, Self::Wednesday, Self::Thursday, Self::Friday, Self::Saturday, Self::Sunday];

    /// As conditions write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Friday => "friday",
            Self::Monday => "monday",
            Self::Saturday => "saturday",
            Self::Sunday => "sunday",
            Self::Thursday => "thursday",
            Self::Tuesday => "tuesday",
            Self::Wednesday => "wednesday",
        }
    }

    fn of(day: CivilWeekday) -> Self {
        match day {
            CivilWeekday::Monday => Self::Monday,
            CivilWeekday::Tuesday => Self::Tuesday,
            CivilWeekday::Wednesday => Self::Wednesday,
            CivilWeekday::Thursday => Self::Thursday,
            CivilWeekday::Friday => Self::Friday,
            CivilWeekday::Saturday => Self::Saturday,
            CivilWeekday::Sunday => Self::Sunday,
        }
    }
}

impl ZoneError {
    /// What to do.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Name(_) => None,
            Self::Unknown { hint, .. } => Some(hint),
        }
    }
}

impl Zones {
    /// The zones of this system; those that were built in, if it has none.
    pub fn of_system() -> Self {
        Self::in_folder(Path::new(SYSTEM_ZONES))
    }

    /// The zones of a folder in the form of `/usr/share/zoneinfo`; those that were built in, if it has none.
    pub fn in_folder(folder: &Path) -> Self {
        match TimeZoneDatabase::from_dir(folder) {
            Ok(zones) if !zones.is_definitively_empty() => Self(zones),
            Ok(_) | Err(_) => Self(TimeZoneDatabase::bundled()),
        }
    }

    /// The zone of a name such as `Europe/Berlin`.
    ///
    /// # Errors
    /// There is none; the error's hint names the nearest.
    pub fn find(&self, name: &str) -> Result<Zone, ZoneError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'+');
        // No dots, so that no name leads out of the folder of zones.
        if name.is_empty() || name.len() > ZONE_BYTES_MAX || !name.bytes().all(plain) || name.starts_with('/') {
            return Err(ZoneError::Name(name.chars().take(ZONE_BYTES_MAX).collect()));
        }
        let zone = self.0.get(name).ok().filter(|zone| zone.iana_name() == Some(name));
        let zone = zone.ok_or_else(|| self.unknown(name))?;
        Ok(Zone { zone, name: name.into() })
    }

    fn unknown(&self, name: &str) -> ZoneError {
        let known: Vec<String> = self.0.available().map(|zone| zone.to_string()).collect();
        let as_written = known.iter().find(|zone| zone.eq_ignore_ascii_case(name));
        let hint = match as_written {
            Some(zone) => format!("did you mean \"{zone}\"?"),
            None => did_you_mean(name, known.iter().map(String::as_str)).unwrap_or_else(|| {
                "zones are named like \"Europe/Berlin\"; `timedatectl list-timezones` lists them".to_owned()
            }),
        };
        ZoneError::Unknown { name: name.to_owned(), hint }
    }
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self { zone: TimeZone::UTC, name: "UTC".into() }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a clock shows there. After the year 9999 it stands still.
    pub fn at(&self, now: Timestamp) -> LocalTime {
        let seconds = i64::try_from(now.as_unix_seconds()).unwrap_or(i64::MAX);
        let instant = jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX);
        let time = self.zone.to_datetime(instant);
        LocalTime {
            now,
            // Hours and minutes are never negative.
            hour: u8::try_from(time.hour()).unwrap_or_default(),
            minute: u8::try_from(time.minute()).unwrap_or_default(),
            weekday: Weekday::of(time.weekday()),
            date: time.date().to_string(),
            zone: Arc::clone(&self.name),
        }
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Zone({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both() -> [Zones; 2] {
        [Zones::of_system(), Zones::in_folder(Path::new("/nonexistent"))]
    }

    #[track_caller]
    fn check(zone: &str, unix_seconds: u64, expected: &str) {
        for zones in both() {
            let time = zones.find(zone).unwrap().at(Timestamp::from_unix_seconds(unix_seconds));
            let LocalTime { hour, minute, weekday, date, zone, .. } = time;
            assert_eq!(format!("{} {date} {hour:02}:{minute:02} {zone}", weekday.as_str()), expected);
        }
    }

    #[test]
    fn clocks_in_berlin_jump_from_two_to_three_in_march() {
        check("Europe/Berlin", 1_774_745_999, "sunday 2026-03-29 01:59 Europe/Berlin");
        check("Europe/Berlin", 1_774_746_000, "sunday 2026-03-29 03:00 Europe/Berlin");
    }

    #[test]
    fn clocks_in_berlin_show_two_o_clock_twice_in_october() {
        check("Europe/Berlin", 1_792_886_399, "sunday 2026-10-25 01:59 Europe/Berlin");
        check("Europe/Berlin", 1_792_886_400, "sunday 2026-10-25 02:00 Europe/Berlin");
        check("Europe/Berlin", 1_792_889_999, "sunday 2026-10-25 02:59 Europe/Berlin");
        check("Europe/Berlin", 1_792_890_000, "sunday 2026-10-25 02:00 Europe/Berlin");
        check("Europe/Berlin", 1_792_893_600, "sunday 2026-10-25 03:00 Europe/Berlin");
    }

    #[test]
    fn days_begin_where_the_zone_says() {
        check("UTC", 1_795_564_799, "tuesday 2026-11-24 23:59 UTC");
        check("UTC", 1_795_564_800, "wednesday 2026-11-25 00:00 UTC");
        check("Asia/Kolkata", 1_795_564_800, "wednesday 2026-11-25 05:30 Asia/Kolkata");
        check("America/Los_Angeles", 1_795_564_800, "tuesday 2026-11-24 16:00 America/Los_Angeles");
        check("UTC", u64::MAX, "thursday 9999-12-30 22:00 UTC");
        assert_eq!(Zone::utc().at(Timestamp::from_unix_seconds(0)).date, "1970-01-01");
    }

    #[test]
    fn every_day_of_the_week_has_its_name() {
        let utc = Zone::utc();
        // 1970-01-05 was a Monday.
        let days = (4..11).map(|day| utc.at(Timestamp::from_unix_seconds(day * 86_400)).weekday);
        assert_eq!(days.collect::<Vec<_>>(), Weekday::ALL);
    }

    #[test]
    fn unknown_zones_are_refused_with_the_nearest() {
        for zones in both() {
            let hint = |name: &str| zones.find(name).unwrap_err().hint().unwrap().to_owned();
            assert_eq!(hint("Europe/Berln"), "did you mean \"Europe/Berlin\"?");
            assert_eq!(hint("europe/berlin"), "did you mean \"Europe/Berlin\"?");
            assert!(hint("Middle/Earth-Bag-End").contains("timedatectl"));
        }
    }

    #[test]
    fn names_that_are_paths_are_refused() {
        for zones in both() {
            for name in ["", "../etc/passwd", "/etc/localtime", "Europe/Berlin\0", "Europe/Berlin ", &"a".repeat(65)] {
                assert!(matches!(zones.find(name), Err(ZoneError::Name(_))), "{name:?}");
            }
            for name in ["Europe", "tzdata", "posix/Europe/Berlin", "right/Europe/Berlin"] {
                assert!(matches!(zones.find(name), Err(ZoneError::Unknown { .. })), "{name:?}");
            }
        }
    }
}
