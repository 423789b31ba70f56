//! `countersign-load`: everything that a comparison of proxies needs beside the proxies. It makes the certificates, is the
//! backend, and makes the load. A load prints one line of JSON about one window of time; what it means is for `compare.py`.

mod certificates;

mod backend;

mod window;

mod connection;

mod requests;

mod rounds;

mod paced;

mod handshakes;

mod idle;

mod events;

mod bulk;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use crate::connection::Target;
use crate::window::Watched;

/// Certificates, backend and load for the comparison of proxies.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Write a CA and the certificates of a client and a server.
    Certificates { folder: PathBuf },
    /// Answer `/1k`, `/bytes/COUNT` and `/events/COUNT/PERIOD_US/PHASE_US`.
    Backend { listen: SocketAddr },
    /// Requests over kept connections, each waiting for its answer.
    Requests {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
        /// This many requests instead of a time, and no warm-up.
        #[arg(long)]
        count: Option<u32>,
    },
    /// Connections that together ask so many requests for each line that comes on standard input, and answer with a line.
    Rounds {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        count: u32,
        #[command(flatten)]
        shown: Shown,
    },
    /// So many requests a second, whatever they are answered with.
    Paced {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        per_second: u32,
        #[command(flatten)]
        shown: Shown,
    },
    /// New connections, each for one request.
    Handshakes {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
    },
    /// Connections that are opened, used once, held, and used once more.
    Idle {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
    },
    /// Event streams that all start at once.
    Events {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        streams: u32,
        #[arg(long)]
        per_second: u32,
    },
    /// One large answer for each connection.
    Bulk {
        #[command(flatten)]
        load: Load,
        #[arg(long)]
        connections: u32,
        #[arg(long)]
        mebibytes: u32,
    },
}

/// What every kind of load is told.
#[derive(Args)]
struct Load {
    /// Where the proxy listens.
    #[arg(long)]
    to: SocketAddr,
    /// Speak TLS as the client whose certificate lies here.
    #[arg(long)]
    certificates: Option<PathBuf>,
    /// Speak TLS without a certificate.
    #[arg(long, conflicts_with = "certificates")]
    anonymous: bool,
    /// A process of the proxy.
    #[arg(long = "proxy")]
    proxies: Vec<u32>,
    /// The process of the backend.
    #[arg(long)]
    backend: Option<u32>,
    /// The length of the window, or of the events.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// The load has failed if it is not done by then.
    #[arg(long, default_value_t = 120.0)]
    limit: f64,
}

/// What requests show beside a certificate.
#[derive(Args)]
struct Shown {
    /// A header, as `name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// Each request shows an API key of its own, which nobody has made.
    #[arg(long)]
    unknown_keys: bool,
}

fn main() -> ExitCode {
    match run(Arguments::parse().part) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "why a run failed is for the one who compares")]
            {
                eprintln!("countersign-load: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Everything runs on one thread, so that one core is what the load side has.
fn run(part: Part) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    match part {
        Part::Certificates { folder } => certificates::write(&folder),
        Part::Backend { listen } => tasks.block_on(&runtime, backend::serve(listen)),
        Part::Requests { load, connections, count: None } => {
            let [window, limit] = load.times();
            let done = requests::for_a_time(load.target()?, connections, window, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Requests { load, connections, count: Some(count) } => {
            let [_, limit] = load.times();
            let done = requests::counted(load.target()?, connections, count, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Rounds { load, connections, count, shown } => {
            let round = rounds::Round { connections, count };
            tasks.block_on(&runtime, rounds::run(load.target()?, round, shown.headers))
        }
        Part::Paced { load, connections, per_second, shown } => {
            let [length, limit] = load.times();
            let pace = paced::Pace { connections, per_second, length };
            let done = paced::run(load.target()?, pace, shown, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Handshakes { load, connections } => {
            let [window, limit] = load.times();
            let done = handshakes::run(load.target()?, connections, window, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Idle { load, connections } => {
            let [_, limit] = load.times();
            let done = idle::run(load.target()?, connections, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Events { load, streams, per_second } => {
            let [duration, limit] = load.times();
            let schedule = events::Schedule { streams, per_second, duration };
            let done = events::run(load.target()?, schedule, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
        Part::Bulk { load, connections, mebibytes } => {
            let [_, limit] = load.times();
            let done = bulk::run(load.target()?, connections, mebibytes, load.watched());
            report(tasks.block_on(&runtime, within(limit, done))?)
        }
    }
}

impl Load {
    fn target(&self) -> io::Result<Target> {
        match &self.certificates {
            None if self.anonymous => Target::anonymous_tls(self.to),
            None => Ok(Target::plain(self.to)),
            Some(folder) => Target::mutual_tls(self.to, folder),
        }
    }

    fn watched(&self) -> Watched {
        Watched { proxies: self.proxies.clone(), backend: self.backend }
    }

    fn times(&self) -> [Duration; 2] {
        [self.seconds, self.limit].map(Duration::from_secs_f64)
    }
}

async fn within(limit: Duration, load: impl Future<Output = io::Result<Value>>) -> io::Result<Value> {
    let late = |_elapsed| io::Error::new(io::ErrorKind::TimedOut, format!("not done after {limit:?}"));
    tokio::time::timeout(limit, load).await.map_err(late)?
}

#[expect(clippy::print_stdout, reason = "the figures are what the program is for")]
fn report(figures: Value) -> io::Result<()> {
    println!("{}", json!(figures));
    Ok(())
}
