//! The agent as a whole: it puts snapshots together and hands them to the workers, follows its files and its CA, answers
//! its operator, and drains at the end.

mod reload;

mod status;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use countersign_certs::time::Clock;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::assemble::{AssembleError, Assembler, Opening, Taken, Waiting};
use crate::authenticate::{KeyUsage, PasswordChecks, SpentProofs};
use crate::config::checked;
use crate::config::{self, ConfigError, Secrets};
use crate::control::metrics::Counters;
use crate::control::server;
use crate::given::sources::Sources;
use crate::identity::Credentials;
use crate::identity::files;
use crate::identity::keeper::Keeper;
use crate::identity::state::{StateDir, StateError};
use crate::in_words::in_one_line;
use crate::limit::live::LiveLimit;
use crate::random::random_number;
use crate::record::fields::RecordedFields;
use crate::record::patterns::Patterns;
use crate::record::sink::Sink;
use crate::record::writer::{self, AuditLost, StartError};
use crate::routes::{Phase, Snapshot};
use crate::systemd::{self, HandedOver};
use crate::teller::{self, Teller};
use crate::watcher::FileWatcher;
use crate::worker::{self, Places, WorkerSetup};

/// How often it is stored when API keys were used last.
const KEY_USAGE_STORED: Duration = Duration::from_secs(60);

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("the agent cannot serve")]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    AuditLost(#[from] AuditLost),
    #[error("audit lines cannot be written")]
    Audit(#[from] StartError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the control socket {path} cannot be opened")]
    Control { path: PathBuf, source: io::Error },
    #[error("the metrics port {address} cannot be opened")]
    Metrics { address: std::net::SocketAddr, source: io::Error },
    #[error("the operating system refused: {what}")]
    System { what: &'static str, source: io::Error },
    #[error("{name} gives no credential: {detail}")]
    Source { name: String, detail: String },
    #[error("the state folder cannot be used")]
    State(#[from] StateError),
}

/// A running agent, as its operator sees it.
pub(crate) struct Agent {
    /// The config file.
    path: PathBuf,
    clock: Clock,
    sink: Sink,
    teller: Teller,
    keeper: Option<Rc<Keeper>>,
    assembler: RefCell<Assembler>,
    taken: RefCell<Rc<Taken>>,
    config_error: RefCell<Option<String>>,
    /// A config that was read, and waits for what its new sources of credentials say first.
    coming: RefCell<Option<Rc<Taken>>>,
    /// Told when a source of credentials has something new.
    news: Arc<Notify>,
    waiting: RefCell<Vec<Waiting>>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    places: Arc<Places>,
    key_usage: Arc<KeyUsage>,
    password_checks: Arc<PasswordChecks>,
    spent_proofs: Arc<SpentProofs>,
    patterns: Option<Arc<Patterns>>,
    recorded_fields: Arc<RecordedFields>,
}

/// The config of a file, read with what is known of this host's enrollment.
pub(crate) fn load(path: &Path, secrets: Secrets) -> Result<checked::Agent, RunError> {
    let state_dir = config::state_dir(path)?;
    let enrollment = match &state_dir {
        Some(folder) => StateDir::new(folder).enrollment()?,
        None => None,
    };
    let enrolled = enrollment.map(|enrollment| enrollment.trust_domain);
    Ok(config::load(path, enrolled.as_ref(), secrets)?)
}

/// Runs until it is told to stop. `config` is what [`load`] gave for `path`.
pub(crate) async fn run(
    path: &Path,
    config: checked::Agent,
    clock: Clock,
    handed_over: HandedOver,
) -> Result<(), RunError> {
    let keeper = keeper(&config, &clock)?;
    let host = teller::host(keeper.as_ref().map(|keeper| keeper.enrollment().host_id.to_string()));
    let (sink, writer) = writer::start(&config.audit, &host, &clock)?;
    let outcome = Box::pin(run_recorded(path, config, clock, handed_over, keeper, sink.clone())).await;
    // An agent that could not begin has ended in order too: its lines are written and sealed.
    sink.end();
    let written = writer.finish();
    outcome?;
    Ok(written?)
}

async fn run_recorded(
    path: &Path,
    config: checked::Agent,
    clock: Clock,
    handed_over: HandedOver,
    keeper: Option<Rc<Keeper>>,
    sink: Sink,
) -> Result<(), RunError> {
    let workers = config.workers;
    let keys = config.accepted.api_keys.as_ref();
    let (headers, query) = (config.audit.headers.clone(), config.audit.query.clone());
    let recorded_fields = Arc::new(RecordedFields { headers, query });
    let patterns = config.audit.patterns.then(|| Arc::new(Patterns::new(clock.now())));
    let key_usage = Arc::new(keys.map(|keys| KeyUsage::load(&keys.file)).unwrap_or_default());
    let news = Arc::<Notify>::default();
    let sources = Sources::default().follow(&config, &clock, &news);
    let taken = Taken { files: files::load(&config).map_err(AssembleError::from)?, config, sources };
    let empty = Snapshot::empty(0, taken.config.limits.clone(), Phase::Serving);
    let agent = Rc::new(Agent {
        path: path.to_owned(),
        assembler: RefCell::new(Assembler::new(clock.clone(), workers, handed_over)),
        teller: Teller::new(sink.clone(), clock.clone()),
        clock,
        sink,
        keeper,
        taken: RefCell::new(Rc::new(taken)),
        config_error: RefCell::default(),
        coming: RefCell::default(),
        news,
        waiting: RefCell::default(),
        snapshots: watch::Sender::new(Arc::new(empty)),
        places: Arc::default(),
        key_usage,
        password_checks: Arc::new(PasswordChecks::new().map_err(no_randomness)?),
        spent_proofs: Arc::default(),
        patterns,
        recorded_fields,
    });
    agent.teller.started(path, &agent.taken(), &agent.credentials());
    let mut stop = StopSignals::new()?;
    agent.open_control()?;
    agent.take_up(&agent.taken(), Opening::AllOrNothing)?;
    let threads = agent.start_workers(workers)?;
    agent.start_keeper();
    agent.follow_until_stopped(&mut stop).await;
    agent.drain(&mut stop).await;
    agent.finish(threads).await.ok();
    agent.teller.stopped();
    Ok(())
}

fn keeper(config: &checked::Agent, clock: &Clock) -> Result<Option<Rc<Keeper>>, RunError> {
    let Some(folder) = &config.state_dir else { return Ok(None) };
    let state = StateDir::new(folder);
    match state.enrollment()? {
        Some(enrollment) => Ok(Some(Keeper::load(state, enrollment, clock.clone()))),
        None if config.enrolled_identities().is_empty() => Ok(None),
        None => {
            tracing::error!(state_dir = %folder.display(), "this host is not enrolled; run countersign-agent enroll");
            Ok(None)
        }
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, RunError> {
        let on = |kind| signal(kind).map_err(|source| RunError::System { what: "waiting for signals", source });
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

impl Agent {
    /// Who keeps the identities of an enrolled host.
    pub(crate) fn keeper(&self) -> Option<&Rc<Keeper>> {
        self.keeper.as_ref()
    }

    /// Where audit lines go.
    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Tells the auditor of commands.
    pub(crate) fn teller(&self) -> &Teller {
        &self.teller
    }

    /// Every limit on what callers do.
    pub(crate) fn rate_limits(&self) -> Arc<[Arc<LiveLimit>]> {
        Arc::clone(self.assembler.borrow().rate_limits())
    }

    /// Every route's counters.
    pub(crate) fn counters(&self) -> Counters {
        self.assembler.borrow().counters().clone()
    }

    fn taken(&self) -> Rc<Taken> {
        Rc::clone(&self.taken.borrow())
    }

    fn credentials(&self) -> Credentials {
        self.keeper.as_ref().map(|keeper| keeper.credentials().borrow().clone()).unwrap_or_default()
    }

    /// Makes a snapshot and hands it to the workers. If it cannot be made, nothing changes.
    fn take_up(&self, taken: &Rc<Taken>, opening: Opening) -> Result<(), AssembleError> {
        self.want(taken);
        let assembled = self.assembler.borrow_mut().assemble(taken, &self.credentials(), opening, Phase::Serving);
        let assembled = assembled.inspect_err(|_refused| self.want(&self.taken()))?;
        self.waiting.replace(assembled.waiting);
        self.taken.replace(Rc::clone(taken));
        self.snapshots.send_replace(Arc::new(assembled.snapshot));
        Ok(())
    }

    fn want(&self, taken: &Taken) {
        if let Some(keeper) = &self.keeper {
            keeper.want(taken.config.enrolled_identities());
        }
    }

    fn start_workers(&self, count: usize) -> Result<Vec<JoinHandle<()>>, RunError> {
        let began = tokio::time::Instant::now();
        (0..count)
            .map(|index| {
                let setup = WorkerSetup {
                    index,
                    clock: self.clock.clone(),
                    sink: self.sink.clone(),
                    snapshots: self.snapshots.subscribe(),
                    decisions: random_number().map_err(no_randomness)?,
                    places: Arc::clone(&self.places),
                    key_usage: Arc::clone(&self.key_usage),
                    password_checks: Arc::clone(&self.password_checks),
                    spent_proofs: Arc::clone(&self.spent_proofs),
                    patterns: self.patterns.clone(),
                    recorded_fields: Arc::clone(&self.recorded_fields),
                    began,
                };
                std::thread::Builder::new()
                    .name(format!("worker-{index}"))
                    .spawn(move || run_worker(setup))
                    .map_err(|source| RunError::System { what: "starting a worker", source })
            })
            .collect()
    }

    fn start_keeper(&self) {
        if let Some(keeper) = &self.keeper {
            tokio::task::spawn_local(Rc::clone(keeper).keep());
            tokio::task::spawn_local(Rc::clone(keeper).follow());
            tokio::task::spawn_local(Rc::clone(keeper).store_news());
        }
    }

    fn open_control(self: &Rc<Self>) -> Result<(), RunError> {
        let taken = self.taken();
        let path = &taken.config.control.socket;
        let refused = |source| RunError::Control { path: path.clone(), source };
        let listener = server::open(path).map_err(refused)?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(refused)?;
        tokio::task::spawn_local(server::serve_socket(listener, Rc::clone(self)));
        if let Some(address) = taken.config.control.metrics {
            let refused = |source| RunError::Metrics { address, source };
            let listener = std::net::TcpListener::bind(address).map_err(refused)?;
            listener.set_nonblocking(true).map_err(refused)?;
            let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
            tokio::task::spawn_local(server::serve_metrics(listener, Rc::clone(self)));
        }
        Ok(())
    }

    /// The long middle: takes up every change until a signal says stop.
    async fn follow_until_stopped(&self, stop: &mut StopSignals) {
        let mut files = FileWatcher::new();
        // Whatever has changed between reading and now is taken up at once.
        self.reload(&mut files);
        let mut credentials = self.keeper.as_ref().map(|keeper| keeper.credentials());
        let mut watchdog = tokio::time::interval(systemd::watchdog_interval().unwrap_or(Duration::from_secs(10)));
        let mut storing = tokio::time::interval(KEY_USAGE_STORED);
        let mut told_ready = false;
        loop {
            if !told_ready && self.waiting.borrow().is_empty() {
                told_ready = true;
                systemd::ready();
                systemd::status("serving");
                tracing::info!("ready");
            }
            tokio::select! {
                () = files.changed() => self.reload(&mut files),
                _ = stop.hang_up.recv() => {
                    self.sink.reopen();
                    self.reload(&mut files);
                }
                () = self.coming_is_settled() => drop(self.finish_reload()),
                () = next_change(&mut credentials) => self.follow_credentials(),
                () = self.news.notified() => self.follow_credentials(),
                _ = watchdog.tick() => systemd::alive(),
                _ = storing.tick() => self.store_key_usage(),
                _ = stop.terminate.recv() => return,
                _ = stop.interrupt.recv() => return,
            }
        }
    }

    fn store_key_usage(&self) {
        let taken = self.taken();
        let Some(keys) = &taken.config.accepted.api_keys else { return };
        if let Err(error) = self.key_usage.store(&keys.file, |id| keys.index.has(id)) {
            tracing::warn!(%error, "when API keys were used last cannot be stored");
        }
    }

    /// The files that the config in use was made from.
    fn files(&self) -> Vec<PathBuf> {
        files_of(&self.taken().config, &self.path)
    }

    fn say_what_needs_a_restart(&self, config: &checked::Agent) {
        let taken = self.taken();
        let now = &taken.config;
        let fixed = |of: &checked::Agent| {
            (of.state_dir.clone(), of.workers, of.log_level, of.audit.clone(), of.control.clone())
        };
        if fixed(now) != fixed(config) {
            tracing::warn!("changes of state_dir, workers, [audit], [control] and [log] take effect at the next start");
        }
    }

    fn follow_credentials(&self) {
        if let Err(error) = self.take_up(&self.taken(), Opening::RouteByRoute) {
            tracing::error!(error = in_one_line(&error), "a new identity or bundle cannot be taken up");
            return;
        }
        self.teller.certificates(&self.taken(), &self.credentials());
    }

    /// Nothing new is taken; what runs may finish, for a while.
    async fn drain(&self, stop: &mut StopSignals) {
        let taken = self.taken();
        let limit = taken.config.limits.drain;
        tracing::info!(connections = self.places.taken(), "draining");
        systemd::stopping(limit + Duration::from_secs(5));
        match self.assembler.borrow_mut().assemble(&taken, &self.credentials(), Opening::RouteByRoute, Phase::Draining)
        {
            Ok(assembled) => {
                self.snapshots.send_replace(Arc::new(assembled.snapshot));
            }
            // Files that are broken now do not keep the agent from stopping; it stops at once instead.
            Err(error) => {
                tracing::error!(error = in_one_line(&error), "no drain");
                return;
            }
        }
        let ended = async {
            while self.places.taken() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep(limit) => tracing::warn!("the drain time is over"),
            () = stop.stop() => tracing::warn!("a second signal ends the drain"),
        }
    }

    /// Ends the workers; their last audit lines are on their way when this returns.
    async fn finish(&self, threads: Vec<JoinHandle<()>>) -> Result<(), tokio::task::JoinError> {
        let stopped = Snapshot::empty(u64::MAX, self.taken().config.limits.clone(), Phase::Stopping);
        self.snapshots.send_replace(Arc::new(stopped));
        tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join()))).await?;
        self.store_key_usage();
        Ok(())
    }
}

fn files_of(config: &checked::Agent, path: &Path) -> Vec<PathBuf> {
    let of_certificates = config.certificates.iter().flat_map(|files| [&files.chain, &files.key, &files.bundle]);
    of_certificates.cloned().chain(config.files.iter().cloned()).chain([path.to_owned()]).collect()
}

/// Waits for ever where nobody keeps identities.
async fn next_change(credentials: &mut Option<watch::Receiver<Credentials>>) {
    let changed = match credentials {
        Some(credentials) => credentials.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
}

fn run_worker(setup: WorkerSetup) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(worker::run(setup)),
        Err(error) => tracing::error!(%error, "a worker has no runtime"),
    }
}

fn no_randomness(_unspecified: aws_lc_rs::error::Unspecified) -> RunError {
    RunError::System { what: "randomness", source: io::ErrorKind::Unsupported.into() }
}
