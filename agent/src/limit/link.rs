//! One worker's connection to the store, and what it does while there is none.
//!
//! A question waits for a bounded time. One that gets no answer ends the connection, and until there is a new one nobody waits: a
//! store that takes connections and never answers is as away as one that takes none. A task of its own tries again, so that no
//! request pays for it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::time::Clock;
use countersign_certs::tls::{self, TlsError, server_name};
use countersign_limits::store::{Answer, Ask, Session, StoreError};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::definition::{Store, StoreAddress, WhenAway};
use crate::in_words::in_one_line;

/// How long connecting may take, the first answer included.
const CONNECT: Duration = Duration::from_secs(2);

/// Longest pause between two tries. After a question that was answered the first is made at once.
const PAUSE_MAX: Duration = Duration::from_secs(1);

const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A worker's connection to the store.
pub(crate) struct StoreLink {
    store: Option<Arc<Store>>,
    clock: Clock,
    state: RefCell<State>,
    /// Told when the first try has ended.
    tried: Notify,
    /// The last question was refused, and the operator knows.
    refuses: Cell<bool>,
    /// How long is waited before the next try. It grows until a question is answered: a store that takes each connection and breaks
    /// each question is tried no more often than one that takes none.
    pause: Cell<Duration>,
}

enum State {
    Away,
    /// The first try; requests wait for it.
    Beginning,
    Up(Rc<Session>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("it cannot be reached")]
    Connect(#[from] io::Error),
    #[error("it did not answer within {CONNECT:?}")]
    Deadline,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("TLS cannot be set up")]
    Tls(#[source] TlsError),
}

impl StoreLink {
    /// Begins to connect. Without a store there is a link all the same, and it is always away.
    pub(crate) fn begin(store: Option<Arc<Store>>, clock: &Clock) -> Rc<Self> {
        let state = RefCell::new(if store.is_some() { State::Beginning } else { State::Away });
        let (refuses, pause) = (Cell::new(false), Cell::new(Duration::ZERO));
        let link = Rc::new(Self { store, clock: clock.clone(), state, tried: Notify::new(), refuses, pause });
        link.connect_again();
        link
    }

    /// Whether it leads to this store.
    pub(crate) fn leads_to(&self, store: Option<&Arc<Store>>) -> bool {
        self.store.as_ref() == store
    }

    /// What happens to requests while it is away.
    pub(crate) fn when_away(&self) -> WhenAway {
        self.store.as_ref().map_or(WhenAway::Refuse, |store| store.when_away)
    }

    /// Uses one request of each limit, or of none. None if the store is away.
    pub(crate) async fn take(self: &Rc<Self>, asks: &[Ask<'_>]) -> Option<Vec<Answer>> {
        self.ask(async |session| session.take(asks).await).await
    }

    /// What is left. None if the store is away.
    pub(crate) async fn look(self: &Rc<Self>, asks: &[Ask<'_>]) -> Option<Vec<Answer>> {
        self.ask(async |session| session.look(asks).await).await
    }

    async fn ask(
        self: &Rc<Self>,
        question: impl AsyncFnOnce(&Session) -> Result<Vec<Answer>, StoreError>,
    ) -> Option<Vec<Answer>> {
        let timeout = self.store.as_ref()?.timeout;
        let session = tokio::time::timeout(timeout, self.session()).await.ok()??;
        match tokio::time::timeout(timeout, question(&session)).await {
            Ok(Ok(answers)) => {
                self.refuses.set(false);
                self.pause.set(Duration::ZERO);
                return Some(answers);
            }
            Ok(Err(error)) if error.leaves_connection_usable() => {
                if !self.refuses.replace(true) {
                    tracing::warn!(error = in_one_line(&error), "the store of shared limits refuses");
                }
            }
            Ok(Err(error)) => self.lose(&session, &in_one_line(&error)),
            Err(_elapsed) => self.lose(&session, &format!("it did not answer within {timeout:?}")),
        }
        None
    }

    async fn session(&self) -> Option<Rc<Session>> {
        loop {
            let tried = self.tried.notified();
            match &*self.state.borrow() {
                State::Away => return None,
                State::Beginning => {}
                State::Up(session) => return Some(Rc::clone(session)),
            }
            tried.await;
        }
    }

    /// Lets go of a connection that is of no use, once however many requests find out.
    fn lose(self: &Rc<Self>, session: &Rc<Session>, error: &str) {
        let is_current = matches!(&*self.state.borrow(), State::Up(current) if Rc::ptr_eq(current, session));
        if is_current {
            self.state.replace(State::Away);
            tracing::warn!(error, "the store of shared limits is away");
            self.connect_again();
        }
    }

    fn connect_again(self: &Rc<Self>) {
        if let Some(store) = &self.store {
            tokio::task::spawn_local(connect_until_up(Rc::downgrade(self), Arc::clone(store), self.clock.clone()));
        }
    }

    /// The pause before the next try; the one after it is longer.
    fn next_pause(&self) -> Duration {
        let pause = self.pause.get();
        self.pause.set((pause * 2).clamp(PAUSE_MIN, PAUSE_MAX));
        pause
    }

    /// Notes how a try went. False if nobody needs the link any more.
    fn note(&self, tried: Result<Session, LinkError>) -> bool {
        let is_first = matches!(&*self.state.borrow(), State::Beginning);
        let is_up = tried.is_ok();
        match tried {
            Ok(session) => {
                tracing::info!("the store of shared limits answers");
                self.state.replace(State::Up(Rc::new(session)));
            }
            Err(error) => {
                if is_first {
                    tracing::warn!(error = in_one_line(&error), "the store of shared limits is away");
                }
                self.state.replace(State::Away);
            }
        }
        self.tried.notify_waiters();
        is_up
    }
}

/// Tries until it is up, or until nobody needs the link any more.
async fn connect_until_up(link: Weak<StoreLink>, store: Arc<Store>, clock: Clock) {
    while let Some(pause) = link.upgrade().map(|link| link.next_pause()) {
        tokio::time::sleep(pause).await;
        let tried = match tokio::time::timeout(CONNECT, connect(&store, &clock)).await {
            Ok(tried) => tried,
            Err(_elapsed) => Err(LinkError::Deadline),
        };
        match link.upgrade() {
            Some(link) if !link.note(tried) => {}
            Some(_) | None => return,
        }
    }
}

async fn connect(store: &Store, clock: &Clock) -> Result<Session, LinkError> {
    let password = store.password.as_ref();
    let (session, carrying) = match &store.address {
        StoreAddress::Tcp { host, port, roots } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            match roots {
                None => Session::open(stream, password).await?,
                Some(roots) => {
                    let config = tls::named_server(roots, None, clock).map_err(LinkError::Tls)?;
                    let stream = TlsConnector::from(config).connect(server_name(host), stream).await?;
                    Session::open(stream, password).await?
                }
            }
        }
        StoreAddress::Unix(path) => Session::open(UnixStream::connect(path).await?, password).await?,
    };
    tokio::task::spawn_local(carrying);
    // Whoever takes connections may never answer; and the script is loaded with the first question.
    session.look(&[]).await?;
    Ok(session)
}
