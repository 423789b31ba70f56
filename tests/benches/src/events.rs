//! Event streams that start at once through a hop that nobody has used yet, as when an agent's first callers all ask for
//! tokens. Measured is how long each waits for its first byte, and then how late each event is.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::backend::STAMP;
use crate::connection::{Connection, Target, request};
use crate::requests::{add, finish};
use crate::window::{Watched, Window, now};

/// Time for the proxies to accept every connection before the first request.
const REST: Duration = Duration::from_millis(500);

/// How many streams, how many events each a second, and for how long.
pub(crate) struct Schedule {
    pub(crate) streams: u32,
    pub(crate) per_second: u32,
    pub(crate) duration: Duration,
}

/// What one stream has seen.
struct Stream {
    first_byte: Duration,
    delays: Vec<Duration>,
}

pub(crate) async fn run(target: Target, schedule: Schedule, watched: Watched) -> io::Result<Value> {
    let mut connections = Vec::new();
    for _ in 0..schedule.streams {
        connections.push(Connection::open(&target).await?);
    }
    tokio::time::sleep(REST).await;

    let period = Duration::from_secs(1) / schedule.per_second;
    let count = usize::try_from(schedule.duration.as_millis() / period.as_millis()).map_err(io::Error::other)?;
    let window = Window::open(watched)?;
    let mut tasks = JoinSet::new();
    for (connection, index) in connections.into_iter().zip(0..) {
        let phase = period * index / schedule.streams;
        let path = format!("/events/{count}/{}/{}", period.as_micros(), phase.as_micros());
        tasks.spawn_local(follow(connection, request(&path), count));
    }
    let streams = finish(tasks).await?;
    let mut figures = window.close()?;

    let events: usize = streams.iter().map(|stream| stream.delays.len()).sum();
    let first_bytes = streams.iter().map(|stream| stream.first_byte).collect();
    // The first event of a stream waits for the hop; the first byte has told that already.
    let delays = streams.iter().flat_map(|stream| stream.delays.iter().skip(1)).copied().collect();
    add(&mut figures, "done", events.into());
    add_quantiles(&mut figures, "first_byte", first_bytes);
    add_quantiles(&mut figures, "delay", delays);
    Ok(figures)
}

async fn follow(mut connection: Connection, request: Vec<u8>, count: usize) -> io::Result<Stream> {
    let asked = now();
    connection.send(&request).await?;
    let mut first_byte = None;
    let mut delays = Vec::with_capacity(count);
    while delays.len() < count {
        let received = connection.receive().await?;
        let at = now();
        first_byte.get_or_insert(at - asked);
        while let Some(written) = take_stamp(received)? {
            delays.push(at.saturating_sub(written));
        }
    }
    Ok(Stream { first_byte: first_byte.unwrap_or_default(), delays })
}

/// Takes the bytes up to the end of the next stamp, if it is there, and returns the time that it tells. The framing around
/// events is skipped as it comes: every proxy frames in its own way.
fn take_stamp(received: &mut BytesMut) -> io::Result<Option<Duration>> {
    let [before, after] = STAMP;
    let Some(begin) = received.windows(before.len()).position(|bytes| bytes == before) else {
        received.advance((received.len() + 1).saturating_sub(before.len()));
        return Ok(None);
    };
    received.advance(begin);
    let Some(end) = received.iter().position(|byte| after.contains(byte)) else {
        return Ok(None);
    };
    let stamp = received.split_to(end).split_off(before.len());
    let nanoseconds = std::str::from_utf8(&stamp).ok().and_then(|stamp| stamp.parse().ok());
    nanoseconds
        .map(Duration::from_nanos)
        .map(Some)
        .ok_or_else(|| io::Error::other("an event's time has been cut in two"))
}

fn add_quantiles(figures: &mut Value, name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    for (suffix, percent) in [("p50", 50), ("p99", 99)] {
        let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        let milliseconds = times.get(index).map(|time| time.as_secs_f64() * 1e3);
        add(figures, &format!("{name}_{suffix}_ms"), milliseconds.into());
    }
}
