//! Requests over kept connections. Each connection waits for an answer before it asks again, so the proxies set the pace.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::connection::{Connection, Target, request};
use crate::window::{Watched, Window};

/// Long enough for every connection and pool to be open.
const WARM_UP: Duration = Duration::from_secs(1);

/// Counts what is done within a window.
#[derive(Default)]
pub(crate) struct Meter {
    done: Cell<u32>,
    open: Cell<bool>,
    over: Cell<bool>,
}

impl Meter {
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    pub(crate) fn count(&self) {
        if self.open.get() {
            self.done.set(self.done.get() + 1);
        }
    }
}

/// Asks until the window is over.
pub(crate) async fn for_a_time(
    target: Target,
    connections: u32,
    length: Duration,
    watched: Watched,
) -> io::Result<Value> {
    let meter = Rc::new(Meter::default());
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let connection = Connection::open(&target).await?;
        tasks.spawn_local(ask_until_over(connection, Rc::clone(&meter)));
    }
    measure(tasks, &meter, length, watched).await
}

async fn ask_until_over(mut connection: Connection, meter: Rc<Meter>) -> io::Result<()> {
    let request = request("/1k");
    while !meter.is_over() {
        connection.exchange(&request).await?;
        meter.count();
    }
    Ok(())
}

/// Lets the tasks warm up, opens the window, and ends the tasks after it. One failed task fails the run.
pub(crate) async fn measure(
    tasks: JoinSet<io::Result<()>>,
    meter: &Meter,
    length: Duration,
    watched: Watched,
) -> io::Result<Value> {
    tokio::time::sleep(WARM_UP).await;
    let window = Window::open(watched)?;
    meter.open.set(true);
    tokio::time::sleep(length).await;
    meter.open.set(false);
    let mut figures = window.close()?;
    meter.over.set(true);
    finish(tasks).await?;
    add(&mut figures, "done", meter.done.get().into());
    Ok(figures)
}

/// Asks so many times. Nothing is warmed up: whoever counts instructions does that with a run before.
pub(crate) async fn counted(target: Target, connections: u32, count: u32, watched: Watched) -> io::Result<Value> {
    let window = Window::open(watched)?;
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let connection = Connection::open(&target).await?;
        tasks.spawn_local(ask_times(connection, count / connections));
    }
    finish(tasks).await?;
    let mut figures = window.close()?;
    add(&mut figures, "done", (count / connections * connections).into());
    Ok(figures)
}

async fn ask_times(mut connection: Connection, count: u32) -> io::Result<()> {
    let request = request("/1k");
    for _ in 0..count {
        connection.exchange(&request).await?;
    }
    Ok(())
}

/// Waits for all tasks and returns what they return, or the first failure.
pub(crate) async fn finish<T: 'static>(mut tasks: JoinSet<io::Result<T>>) -> io::Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        results.push(joined??);
    }
    Ok(results)
}

/// Adds a figure to an object.
pub(crate) fn add(figures: &mut Value, name: &str, figure: Value) {
    if let Some(figures) = figures.as_object_mut() {
        figures.insert(name.to_owned(), figure);
    }
}
