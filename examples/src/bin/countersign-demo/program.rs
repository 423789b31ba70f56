//! The programs that the demo runs: commands that come to an end, and daemons that it ends itself. Only own children are
//! ever ended, and none outlives the demo.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::narrate;

/// No command of the demo has to wait for anything but this machine.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a daemon may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Lines of a daemon's log that are shown when the demo fails.
const LOG_LINES: usize = 20;

/// Why a program did not do its part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    /// A daemon that should run has ended.
    #[error("{name} ended with {status}")]
    Ended { name: &'static str, status: ExitStatus },
    /// A command failed.
    #[error("{command} ended with {status}")]
    Failed { command: String, status: ExitStatus },
    /// It is not where this program is.
    #[error(
        "{path} is not there; build it: cargo build --release -p countersign-ca -p countersign-agent -p countersign-examples"
    )]
    Missing { path: PathBuf },
    /// The folder of this program is not known.
    #[error("the folder of this program cannot be found")]
    OwnFolder(#[source] io::Error),
    /// The system refused to start or to watch it.
    #[error("{path} cannot be run")]
    Run { path: PathBuf, source: io::Error },
    /// It took too long.
    #[error("{0} took longer than {COMMAND_TIMEOUT:?}")]
    Timeout(String),
}

/// An executable that stands beside this one.
pub(crate) struct Program {
    path: PathBuf,
}

impl Program {
    /// Finds it.
    pub(crate) fn beside_this_one(name: &str) -> Result<Self, ProgramError> {
        let own = std::env::current_exe().map_err(ProgramError::OwnFolder)?;
        let path = own.with_file_name(name);
        if path.is_file() { Ok(Self { path }) } else { Err(ProgramError::Missing { path }) }
    }

    /// The command line as one would type it here.
    pub(crate) fn command_line(&self, arguments: &[&str]) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let path = match self.path.strip_prefix(&here) {
            Ok(below) => Path::new(".").join(below),
            Err(_elsewhere) => self.path.clone(),
        };
        let path = path.to_string_lossy();
        let words = std::iter::once(path.as_ref()).chain(arguments.iter().copied());
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end and gives what it printed. What it says on stderr is shown.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<String, ProgramError> {
        self.run_with_input(arguments, "").await
    }

    /// The same with something to read.
    pub(crate) async fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
        let output = tokio::time::timeout(COMMAND_TIMEOUT, self.output(arguments, input))
            .await
            .map_err(|_elapsed| ProgramError::Timeout(self.command_line(arguments)))?
            .map_err(|source| ProgramError::Run { path: self.path.clone(), source })?;
        narrate::quote(&String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        narrate::quote(&String::from_utf8_lossy(&output.stdout));
        Err(ProgramError::Failed { command: self.command_line(arguments), status: output.status })
    }

    async fn output(&self, arguments: &[&str], input: &str) -> io::Result<Output> {
        let mut command = Command::new(&self.path);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // Whoever ends without reading says why by its exit status.
            stdin.write_all(input.as_bytes()).await.ok();
        }
        child.wait_with_output().await
    }
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> std::borrow::Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''")).into()
    }
}

/// The daemons that run, in the order in which they were started.
#[derive(Default)]
pub(crate) struct Daemons(Vec<Daemon>);

/// A program that runs until it is told to end.
struct Daemon {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Daemons {
    /// Starts a program that writes both its streams into a log.
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        program: &Program,
        arguments: &[&str],
        log: &Path,
    ) -> Result<(), ProgramError> {
        let cannot = |source| ProgramError::Run { path: program.path.clone(), source };
        let output = File::create(log).map_err(cannot)?;
        let errors = output.try_clone().map_err(cannot)?;
        let mut command = Command::new(&program.path);
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
        let child = command.spawn().map_err(cannot)?;
        self.0.push(Daemon { name, child, log: log.to_owned() });
        Ok(())
    }

    /// Whether all still run.
    pub(crate) fn check(&mut self) -> Result<(), ProgramError> {
        for daemon in &mut self.0 {
            // A child that cannot be asked for counts as running: whoever waits for it has a bound in time.
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(ProgramError::Ended { name: daemon.name, status });
            }
        }
        Ok(())
    }

    /// Shows the last words of each.
    pub(crate) fn show_logs(&self) {
        for daemon in &self.0 {
            let log = std::fs::read_to_string(&daemon.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            if lines.is_empty() {
                continue;
            }
            narrate::heading(&format!("The last lines of {}", daemon.name));
            narrate::quote(&lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n"));
        }
    }

    /// Ends them all, the last first.
    pub(crate) async fn stop(self) {
        for daemon in self.0.into_iter().rev() {
            daemon.stop().await;
        }
    }
}

impl Daemon {
    async fn stop(mut self) {
        // No id means that it has been waited for: then nothing may be signalled.
        if let Some(pid) = self.child.id().and_then(|id| id.try_into().ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).ok();
        }
        if tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            self.child.kill().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_reads_them() {
        assert_eq!(quoted("spiffe://demo.example/llm"), "spiffe://demo.example/llm");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$TOKEN"), "'$TOKEN'");
    }
}
