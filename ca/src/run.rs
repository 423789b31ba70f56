//! The daemon: opens what there is, starts what runs, waits for the end, and ends in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::authority::{self, Authority, AuthorityError, Signing, is_encrypted};
use crate::certs::store as files;
use crate::certs::time::Clock;
use crate::config::{Files, Passphrase, PassphraseError, PassphraseSource, Settings};
use crate::issue::Ca;
use crate::listen::{Listener, OwnError, own};
use crate::record::{Event, Journal, Unrecorded, chain_of};
use crate::registry::Registry;
use crate::store::{Store, StoreError, Write};
use crate::systemd;
use crate::watch::{Published, WatchError};

/// How often rows are looked for that nobody can need any more.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// In how many rounds of this the operator is told once what is to be done: once a day.
const WARNINGS: u64 = 24;

/// How long a row stays after its end: so long can a host with an old join token be told that it expired.
const REMEMBERED: Duration = Duration::from_secs(30 * 86_400);

/// Why the daemon cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// There is nothing to sign with.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The address is taken or is not ours.
    #[error("{address} cannot be listened on")]
    Bind {
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The listener has no certificate.
    #[error("the certificate of the CA's own listener cannot be made")]
    Own(#[from] OwnError),
    /// The key stays encrypted.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// The start cannot be recorded.
    #[error(transparent)]
    Record(#[from] Unrecorded),
    /// Signals cannot be awaited.
    #[error("signals cannot be awaited")]
    Signal(#[source] std::io::Error),
    /// There is no database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A task without which revocations would be lost.
    #[error("a background task of the CA broke down")]
    Task(#[from] JoinError),
    /// Nobody could be believed.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(settings: Settings, clock: &Clock) -> Result<(), ServeError> {
    let mut stop_signals = StopSignals::new()?;
    // First of all: a second CA on the same address ends here, before it has written anything. One on the same files and
    // another address does no harm: each change is a transaction of its own.
    let (socket, address) = bind(settings.listen).await?;
    sweep(&settings.files);
    let store = Arc::new(Store::open(&settings.files.store).await?);
    let (ca, publish, sign) = open(settings, &store, clock).await?;
    let (keep_identity, identity) = watch::channel(own::issue(&ca).await?);
    let (stop, stopping) = watch::channel(false);

    let mut background = JoinSet::new();
    let Settings { files, passphrase, .. } = &ca.settings;
    let follow_authority = authority::follow(files.clone(), passphrase.clone(), clock.clone(), sign);
    let authority = ca.signing.borrow().authority.clone();
    background.spawn(crate::watch::follow(Arc::clone(&store), authority, clock.clone(), publish));
    background.spawn(own::keep(Arc::clone(&ca), keep_identity));
    background.spawn(follow_authority);
    background.spawn(keep_house(Arc::clone(&store), Arc::clone(&ca)));
    let well = format!("listening on {address}");
    background.spawn(systemd::watchdog(store, clock.clone(), well.clone()));

    let listener = Arc::new(Listener::new(Arc::clone(&ca), identity, stopping));
    let mut serving = tokio::spawn(listener.serve(socket));
    let version = env!("CARGO_PKG_VERSION");
    ca.journal.note(Event::ServeStarted { listen: address.to_string(), version }).await?;
    systemd::ready(&well);
    tracing::info!(%address, version, trust_domain = %ca.settings.trust_domain, "listening");

    let ended = tokio::select! {
        cause = stop_signals.next() => Ok(cause),
        broken = first_breakdown(&mut background) => Err(ServeError::Task(broken)),
        broken = &mut serving => broken.map(|()| "listener ended").map_err(ServeError::Task),
    };
    systemd::stopping();
    tracing::info!(cause = ended.as_ref().copied().unwrap_or("breakdown"), "stopping");
    stop.send_replace(true);
    if !serving.is_finished() {
        serving.await?;
    }
    let cause = ended?;
    Ok(ca.journal.stopped(cause).await?)
}

/// Everything that the story needs, and the sending ends of what agents are told and of the authority that signs.
async fn open(
    settings: Settings,
    store: &Arc<Store>,
    clock: &Clock,
) -> Result<(Arc<Ca>, watch::Sender<Arc<Published>>, watch::Sender<Arc<Signing>>), ServeError> {
    let authority = Authority::load(&settings.trust_domain, &settings.files)?;
    let passphrase = passphrase(&settings)?;
    let signer = authority.signer(&settings.files, passphrase.as_ref(), clock.now())?;
    let (publish, published) = watch::channel(Arc::new(crate::watch::read(store, &authority, clock.now()).await?));
    let (sign, signing) = watch::channel(Arc::new(Signing { authority, signer }));
    let ca = Ca {
        signing,
        registry: Registry::new(Arc::clone(store)),
        journal: Journal::new(Arc::clone(store), clock.clone()),
        published,
        settings,
        clock: clock.clone(),
    };
    Ok((Arc::new(ca), publish, sign))
}

/// What an `init` or a renewal of the intermediate left when it was killed. That it stays is worth a line, but no reason not to
/// serve.
fn sweep(files: &Files) {
    for path in [&files.intermediate_key, &files.root_key] {
        if let Err(error) = files::remove_leftovers(path) {
            tracing::warn!(error = chain_of(&error), "temporary files of keys may be left");
        }
    }
}

/// The passphrase, if the key needs one. [`Authority::signer`] says so if one is needed and there is none.
fn passphrase(settings: &Settings) -> Result<Option<Passphrase>, ServeError> {
    let key = files::read_secret(&settings.files.intermediate_key).map_err(AuthorityError::Store)?;
    if !is_encrypted(&key) {
        tracing::warn!(path = %settings.files.intermediate_key.display(), "the signing key is not encrypted");
        return Ok(None);
    }
    let source = settings.passphrase.clone().or_else(PassphraseSource::find);
    Ok(source.map(|source| source.read()).transpose()?)
}

/// The socket, and the address that it has: port 0 becomes a free one.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Bind { address, source };
    let socket = TcpListener::bind(address).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok((socket, address))
}

/// Tasks may end by themselves when there is nothing for them to do; only a panic is a breakdown.
async fn first_breakdown(tasks: &mut JoinSet<()>) -> JoinError {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(broken)) => return broken,
            None => std::future::pending().await,
        }
    }
}

async fn keep_house(store: Arc<Store>, ca: Arc<Ca>) {
    for round in 0_u64.. {
        let now = ca.clock.now();
        if round.is_multiple_of(WARNINGS) {
            for warning in ca.signing.borrow().authority.warnings(&ca.settings.files, now) {
                tracing::warn!(warning, "something is to be done");
            }
        }
        if let Err(error) = store.write(Write::forget(now.minus(REMEMBERED), now)).await {
            tracing::warn!(error = chain_of(&error), "expired rows stay");
        }
        tokio::time::sleep(HOUSEKEEPING).await;
    }
}

struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> Result<Self, ServeError> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(ServeError::Signal)?,
            terminate: signal(SignalKind::terminate()).map_err(ServeError::Signal)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
