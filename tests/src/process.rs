//! One program that a test has started: its lines, its end, and that it ends with the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Lines of each output that a failed test shows.
const SHOWN_LINES: usize = 60;

/// A running program. Dropping it ends it.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    ended: Option<ExitStatus>,
}

/// What a program that has ended said.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

struct Lines {
    read: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a program.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(name: &str, command: &Command) -> Self {
        let mut command = tied_to_this_thread(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { name: name.to_owned(), child, stdout, stderr, ended: None }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal. One that has ended already is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.poll_end().is_none() {
            kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), signal).unwrap();
        }
    }

    /// Whether it has ended.
    pub fn poll_end(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It goes on for longer than `bound`.
    #[track_caller]
    pub fn wait_for_end(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        let status = wait::within(bound, &what, || self.poll_end());
        self.stdout.join();
        self.stderr.join();
        status
    }

    /// Waits for a line of its standard output.
    ///
    /// # Panics
    /// It does not come, or the program ends before.
    #[track_caller]
    pub fn wait_for_line(&mut self, bound: Duration, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let what = format!("{}: {what}", self.name);
        wait::within(bound, &what, || {
            let ended = self.poll_end();
            if ended.is_some() {
                self.stdout.join();
            }
            let line = self.stdout().into_iter().find(|line| fits(line));
            assert!(line.is_some() || ended.is_none(), "{what}: it has ended, {ended:?}\n{}", self.stderr().join("\n"));
            line
        })
    }

    /// The lines of its standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    /// The lines of its standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// Its memory in KiB as the kernel counts it: `VmRSS`, or `VmHWM` for the most that it ever was.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// The same program, killed by the kernel when the thread that starts it is gone: also where a test is killed and nothing is
/// dropped. util-linux's setpriv becomes the program itself; process ID and signals are its own.
fn tied_to_this_thread(command: &Command) -> Command {
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    tied
}

/// Runs a program to its end.
///
/// # Panics
/// It does not end within a minute.
#[track_caller]
pub fn run(command: &Command) -> Finished {
    let name = format!("{command:?}");
    let mut process = Process::start(&name, command);
    let status = process.wait_for_end(wait::SOON * 2);
    Finished { code: status.code(), stdout: process.stdout().join("\n"), stderr: process.stderr().join("\n") }
}

impl Finished {
    /// What it printed, if it did its work.
    ///
    /// # Panics
    /// It failed.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }
}

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        let read = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&read);
        let reader = std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                written.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
        });
        Self { read, reader: Some(reader) }
    }

    fn so_far(&self) -> Vec<String> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // It may have ended by itself meanwhile; either way it is gone after the wait.
            self.child.kill().ok();
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            for (which, lines) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let first = lines.len().saturating_sub(SHOWN_LINES);
                lines.iter().skip(first).for_each(|line| eprintln!("{} {which}: {line}", self.name));
            }
        }
    }
}
