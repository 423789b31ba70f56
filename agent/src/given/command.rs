//! Secrets that programs print: Vault's, a cloud's, or a script of the operator's. Each program is run at the start and then again and
//! again; what it printed last counts until it prints something else.
//!
//! No shell is asked. The program gets the environment that the config names and nothing else, no input, and has a bounded time, in which
//! it may print a bounded text. What it writes to standard error is not kept: it may hold a secret too.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::store::{self, StoreError};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::pause::Pause;
use crate::config::checked::SecretCommand;
use crate::config::secret::is_printable;
use crate::in_words::in_one_line;

/// How long a program may run.
const DEADLINE: Duration = Duration::from_secs(10);

/// Most that it may print, in bytes.
const PRINTED_BYTES_MAX: usize = 64 * 1024;

/// Why a program gave nothing.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("it was not done within {DEADLINE:?}")]
    Deadline,
    #[error("it ended with {0}; run it by hand, as the agent's user, to see why")]
    Ended(ExitStatus),
    #[error("it printed nothing, or more than one line of printable ASCII")]
    NotPrintable,
    #[error("it cannot be run")]
    Program(#[from] StoreError),
    #[error("it cannot be run")]
    Start(#[source] io::Error),
    #[error("it printed more than {PRINTED_BYTES_MAX} bytes")]
    TooLarge,
}

/// A command and what it printed last.
pub(crate) struct LiveCommand {
    pub(super) settings: Arc<SecretCommand>,
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Known {
    printed: Option<Arc<Zeroizing<String>>>,
    /// Why the last run gave nothing; none if it did.
    error: Option<Arc<str>>,
    tried: bool,
}

impl LiveCommand {
    /// Runs it from now on. `news` is told of every change of what it prints.
    pub(super) fn start(settings: &Arc<SecretCommand>, news: &Arc<Notify>) -> Self {
        let (known, receiver) = watch::channel(Known::default());
        let wanted = Arc::<Notify>::default();
        let running =
            Running { settings: Arc::clone(settings), known, wanted: Arc::clone(&wanted), news: Arc::clone(news) };
        let task = tokio::task::spawn_local(running.run_for_ever());
        Self { settings: Arc::clone(settings), known: receiver, wanted, task }
    }

    /// What it printed last.
    pub(super) fn printed(&self) -> Option<Arc<Zeroizing<String>>> {
        self.known.borrow().printed.clone()
    }

    /// Why its last run gave nothing.
    pub(super) fn error(&self) -> Option<Arc<str>> {
        self.known.borrow().error.clone()
    }

    /// Whether it was run.
    pub(super) fn is_settled(&self) -> bool {
        self.known.borrow().tried
    }

    /// Waits until it was run.
    pub(super) async fn settled(&self) {
        // An error says that it will not be run any more.
        self.known.clone().wait_for(|known| known.tried).await.ok();
    }

    /// Has it run again soon: what it printed is refused.
    pub(super) fn renew(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for LiveCommand {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Running {
    settings: Arc<SecretCommand>,
    known: watch::Sender<Known>,
    wanted: Arc<Notify>,
    news: Arc<Notify>,
}

impl Running {
    async fn run_for_ever(self) {
        let mut pause = Pause::default();
        loop {
            let next = match run(&self.settings).await {
                Ok(printed) => {
                    pause = Pause::default();
                    self.take_up(printed);
                    self.settings.refresh
                }
                Err(error) => {
                    self.note_failure(&error);
                    pause.next().min(self.settings.refresh)
                }
            };
            pause.sleep(next, &self.wanted).await;
        }
    }

    fn take_up(&self, printed: Zeroizing<String>) {
        let is_new = self.known.borrow().printed.as_ref().is_none_or(|known| **known != printed);
        self.known.send_modify(|known| {
            if is_new {
                known.printed = Some(Arc::new(printed));
            }
            known.error = None;
            known.tried = true;
        });
        if is_new {
            tracing::info!(command = &*self.settings.name, "the secret of a command taken up");
            self.news.notify_one();
        }
    }

    fn note_failure(&self, error: &CommandError) {
        let error = in_one_line(error);
        tracing::warn!(command = &*self.settings.name, error, "a command gives no secret; the one before counts");
        self.known.send_modify(|known| {
            known.error = Some(error.as_str().into());
            known.tried = true;
        });
        if self.known.borrow().printed.is_none() {
            self.news.notify_one();
        }
    }
}

async fn run(settings: &SecretCommand) -> Result<Zeroizing<String>, CommandError> {
    store::check_program(&settings.program, geteuid().as_raw())?;
    let mut program = Program::start(settings)?;
    match tokio::time::timeout(DEADLINE, program.output()).await {
        Ok(output) => output,
        Err(_elapsed) => Err(CommandError::Deadline),
    }
}

/// A program that runs, in a group of its own with whatever it runs itself. All of it ends when this is dropped.
struct Program {
    child: Child,
    /// None when it has ended.
    group: Option<Pid>,
}

impl Program {
    fn start(settings: &SecretCommand) -> Result<Self, CommandError> {
        let child = Command::new(&settings.program)
            .args(&settings.arguments)
            .env_clear()
            .envs(settings.environment.iter().map(|(name, value)| (name, value.as_str())))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(CommandError::Start)?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, group })
    }

    async fn output(&mut self) -> Result<Zeroizing<String>, CommandError> {
        let stdout = self.child.stdout.take().ok_or(CommandError::NotPrintable)?;
        // Room for all of it, so that no copy is left where it grows.
        let mut printed = Zeroizing::new(Vec::with_capacity(PRINTED_BYTES_MAX + 1));
        let limit = u64::try_from(PRINTED_BYTES_MAX).unwrap_or(u64::MAX);
        stdout.take(limit + 1).read_to_end(&mut printed).await.map_err(CommandError::Start)?;
        if printed.len() > PRINTED_BYTES_MAX {
            return Err(CommandError::TooLarge);
        }
        let status = self.child.wait().await.map_err(CommandError::Start)?;
        self.group = None;
        if !status.success() {
            return Err(CommandError::Ended(status));
        }
        let text = std::str::from_utf8(&printed).map_err(|_not_text| CommandError::NotPrintable)?;
        // A final newline is what programs print behind a line; it is not part of anybody's secret.
        let secret = text.trim_end_matches(['\r', '\n']);
        if is_printable(secret) { Ok(Zeroizing::new(secret.to_owned())) } else { Err(CommandError::NotPrintable) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Its leader was not waited for, so that nobody else has its number; that all have ended meanwhile is as well.
            kill_process_group(group, Signal::KILL).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A file that is open for writing cannot be run (ETXTBSY), and a process that another test is just starting has it open too.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// Runs a script.
    async fn run_script(script: &str) -> Result<String, String> {
        let _turn = ONE_AT_A_TIME.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("script");
        store::write(&program, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        let modes = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&program, modes).unwrap();
        let settings = settings(program, &[&folder.path().display().to_string()]);
        run(&settings).await.map(|printed| printed.to_string()).map_err(|error| error.to_string())
    }

    fn settings(program: PathBuf, arguments: &[&str]) -> SecretCommand {
        SecretCommand {
            name: "test".into(),
            program,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            refresh: Duration::from_secs(1),
            environment: vec![("NAMED".to_owned(), Zeroizing::new("named".to_owned()))],
        }
    }

    async fn check(script: &str, expected: Result<&str, &str>) {
        let found = run_script(script).await;
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{script}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{script}: {found}"),
            (_, _) => panic!("{script}: {found:?}, and not {expected:?}"),
        }
    }

    #[tokio::test]
    async fn one_line_is_the_secret() {
        check("echo s3cret", Ok("s3cret")).await;
        check("printf 's3 cret\\r\\n\\n'", Ok("s3 cret")).await;
        check("printf %065536d 0", Ok(&"0".repeat(65536))).await;
    }

    #[tokio::test]
    async fn anything_else_is_none() {
        check("true", Err("printed nothing")).await;
        check("echo", Err("printed nothing")).await;
        check("echo a; echo b", Err("more than one line")).await;
        check("printf 'a\\001'", Err("printable")).await;
        check("printf '\\377'", Err("printable")).await;
        check("printf %065537d 0", Err("more than 65536 bytes")).await;
        check("yes", Err("more than 65536 bytes")).await;
        check("echo s3cret; echo s3cret >&2; exit 3", Err("exit status: 3")).await;
        check("echo s3cret; kill -9 $$", Err("signal: 9")).await;
    }

    #[tokio::test]
    async fn it_is_given_nothing_but_what_is_named() {
        check("echo \"$NAMED $CARGO_MANIFEST_DIR $(pwd)\"; cat", Ok("named  /")).await;
    }

    #[tokio::test]
    async fn a_program_that_others_can_change_is_not_run() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let (program, mark) = (folder.path().join("script"), folder.path().join("mark"));
        store::write(&program, format!("#!/bin/sh\ntouch {}\necho s3cret\n", mark.display()).as_bytes()).unwrap();
        for (mode, runs) in [(0o722, false), (0o702, false), (0o700, true)] {
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(run(&settings(program.clone(), &[])).await.is_ok(), runs, "{mode:o}");
            assert_eq!(mark.exists(), runs, "{mode:o}");
        }
        assert!(run(&settings(folder.path().join("absent"), &[])).await.is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_given_up_ends_with_all_that_it_has_started() {
        let _turn = ONE_AT_A_TIME.lock().await;
        let folder = tempfile::tempdir().unwrap();
        let (program, mark) = (folder.path().join("script"), folder.path().join("pid"));
        let script = format!("#!/bin/sh\nsleep 300 &\necho $! > {}\nwait\n", mark.display());
        store::write(&program, script.as_bytes()).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
        let settings = settings(program, &[]);
        let looked = async {
            loop {
                let id = std::fs::read_to_string(&mark).unwrap_or_default();
                if let Some(id) = id.strip_suffix('\n') {
                    return id.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let id = tokio::select! {
            _ = run(&settings) => panic!("it has ended by itself"),
            id = looked => id,
        };
        let ended = || match std::fs::read_to_string(format!("/proc/{id}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_gone) => true,
        };
        for _ in 0..1000 {
            if ended() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{id} runs on");
    }
}
