//! One window of time: how long it was, and the CPU time that the proxies, the load and everybody else used in it.

use std::fs;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

/// The processes whose use is told apart from the rest of the machine's.
pub(crate) struct Watched {
    pub(crate) proxies: Vec<u32>,
    pub(crate) backend: Option<u32>,
}

/// A window that has begun.
pub(crate) struct Window {
    watched: Watched,
    begin: Reading,
}

/// What the counters say at one moment. CPU time is user and system together, in ticks.
struct Reading {
    at: Duration,
    proxies: u64,
    load: u64,
    machine: u64,
}

impl Window {
    pub(crate) fn open(watched: Watched) -> io::Result<Self> {
        Ok(Self { begin: Reading::take(&watched)?, watched })
    }

    /// Ends the window. All times are in seconds; `other` is what the machine did for neither proxies nor load.
    pub(crate) fn close(self) -> io::Result<Value> {
        let (begin, end) = (self.begin, Reading::take(&self.watched)?);
        let [proxies, load, machine] =
            [end.proxies - begin.proxies, end.load - begin.load, end.machine.saturating_sub(begin.machine)]
                .map(seconds);
        Ok(json!({
            "seconds": (end.at - begin.at).as_secs_f64(),
            "proxies": proxies,
            "load": load,
            "other": (machine - proxies - load).max(0.0),
        }))
    }
}

impl Reading {
    fn take(watched: &Watched) -> io::Result<Self> {
        Ok(Self {
            at: now(),
            proxies: watched.proxies.iter().map(|process| ticks_of(*process)).sum::<io::Result<u64>>()?,
            load: ticks_of(std::process::id())? + watched.backend.map_or(Ok(0), ticks_of)?,
            machine: ticks_of_machine()?,
        })
    }
}

/// The monotonic clock, which the backend and the load have in common.
pub(crate) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    // Neither part of the monotonic clock is ever negative.
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of processes in KiB.
pub(crate) fn resident_kib(processes: &[u32]) -> io::Result<u64> {
    processes.iter().map(|process| resident_kib_of(*process)).sum()
}

fn resident_kib_of(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    number(line.and_then(|line| line.split_whitespace().next()))
}

/// proc(5): the command's name may hold anything but ends with the last parenthesis; utime and stime are fields 14 and 15.
fn ticks_of(process: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
    let mut times = fields.split(' ').skip(11);
    Ok(number(times.next())? + number(times.next())?)
}

/// proc(5): the first line is `cpu user nice system idle iowait irq softirq steal …`. Stolen time counts as used: it disturbs.
fn ticks_of_machine() -> io::Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).enumerate().take(8);
    fields.filter(|(index, _)| ![3, 4].contains(index)).map(|(_, field)| number(Some(field))).sum()
}

fn number(text: Option<&str>) -> io::Result<u64> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other("no number where proc(5) says one is"))
}

fn seconds(ticks: u64) -> f64 {
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()).as_secs_f64()
}
