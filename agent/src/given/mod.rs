//! What a backend is given and no caller sees: keys, passwords and tokens. Each is written into requests to the one backend that it is
//! for, where what the caller has written itself is taken out before.

pub(crate) mod place;

mod query;

mod hide;

pub(crate) mod sources;

mod command;

mod endpoint;

mod grant;

pub(crate) mod token_exchange;

mod pause;

mod rotation;

use std::sync::Arc;

use bytes::Bytes;
use countersign_certs::time::{Clock, Timestamp};
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, StatusCode};
use zeroize::Zeroizing;

use crate::refusal::Refusal;
use crate::request::{RequestError, is_spelling_of, remove_each};
use command::LiveCommand;
use endpoint::Granted;
use grant::LiveGrant;
use place::{Place, Written};
use rotation::Rotation;
use token_exchange::{Exchanged, LiveExchange};

/// What the backend of one inbound is given.
#[derive(Default)]
pub(crate) struct Given {
    injections: Box<[Injected]>,
    token: Option<Token>,
}

/// A token that somebody else gives out.
pub(crate) struct Token {
    header: HeaderName,
    source: TokenSource,
}

/// For whom it is given out.
enum TokenSource {
    /// For the agent. None while there is none.
    Own { granted: Option<Arc<Granted>>, live: Arc<LiveGrant> },
    /// For the caller, in exchange for the token that it shows.
    Exchange(Arc<LiveExchange>),
}

/// One credential and its place.
pub(crate) struct Injected {
    place: Place,
    /// The credential and, where it is about to be replaced, the next one.
    slots: Box<[Slot]>,
    rotation: Arc<Rotation>,
    /// Statuses by which the service says that it does not take the credential.
    refused_by: Box<[StatusCode]>,
}

/// A credential that may be in use.
struct Slot {
    /// None while it is not at hand.
    written: Option<Written>,
    /// Which commands have printed it.
    commands: Box<[Arc<LiveCommand>]>,
}

/// What a request was given. It looks at the answer.
#[derive(Clone, Default)]
#[must_use]
pub(crate) struct Spent {
    given: Option<Arc<Given>>,
    /// The slot of each injection: a bit.
    slots: u32,
    exchanged: Option<Exchanged>,
}

impl Spent {
    /// Looks at the head of the answer, and takes out of it what it repeats. Whether the service has refused a credential so that the
    /// next request is given another.
    pub(crate) fn answered(&self, head: &mut Parts, clock: &Clock) -> bool {
        let Some(given) = &self.given else { return false };
        if given.query_names().next().is_some() {
            hide::hide(&mut head.headers, given.pairs(), given.query_names());
        }
        if let Some(token) = given.token.as_ref().filter(|_| head.status == StatusCode::UNAUTHORIZED) {
            token.refused(self.exchanged.as_ref());
        }
        let judged = given.injections.iter().enumerate();
        // Each hears of it: it is not known which of them the service has refused.
        judged.fold(false, |rotated, (index, injected)| {
            injected.answered(self.slot(index), head.status, clock) || rotated
        })
    }

    fn slot(&self, index: usize) -> usize {
        usize::from(self.slots >> index & 1 == 1)
    }
}

impl Injected {
    /// The slot that a request is given: the one in use, or the other one while that is not at hand.
    fn slot(&self) -> Option<usize> {
        let current = self.rotation.current();
        [current, 1 - current].into_iter().find(|slot| self.written(*slot).is_some())
    }

    fn written(&self, slot: usize) -> Option<&Written> {
        self.slots.get(slot)?.written.as_ref()
    }

    fn answered(&self, slot: usize, status: StatusCode, clock: &Clock) -> bool {
        if status.is_success() || status.is_redirection() {
            self.rotation.accepted(slot);
        }
        if !self.refused_by.contains(&status) {
            return false;
        }
        self.slots.get(slot).iter().flat_map(|slot| &slot.commands).for_each(|command| command.renew());
        let other = 1 - slot.min(1);
        let rotated = self.written(other).is_some() && self.rotation.refused(slot, clock.now());
        if rotated {
            let (refused, used) = if other == 1 { ("value", "next") } else { ("next", "value") };
            tracing::warn!(place = %self.place, refused, used, "a backend refuses its credential; the other one is used");
        }
        rotated
    }
}

impl Token {
    /// Whether a request can be given one, as far as that is known before it is there.
    fn is_at_hand(&self, now: Timestamp) -> bool {
        match &self.source {
            TokenSource::Own { .. } => self.written(None, now).is_some(),
            TokenSource::Exchange(live) => live.is_proved(),
        }
    }

    /// As it is given now.
    fn written<'token>(&'token self, exchanged: Option<&'token Exchanged>, now: Timestamp) -> Option<&'token Written> {
        let granted = match &self.source {
            TokenSource::Own { granted, .. } => granted.as_deref().filter(|granted| now < granted.ends),
            TokenSource::Exchange(live) => exchanged.and_then(|exchanged| exchanged.granted(live, now)),
        };
        granted.map(|granted| &granted.written)
    }

    /// The service does not take it.
    fn refused(&self, exchanged: Option<&Exchanged>) {
        match &self.source {
            TokenSource::Own { live, .. } => live.renew(),
            TokenSource::Exchange(_) => exchanged.iter().for_each(|exchanged| exchanged.refused()),
        }
    }
}

impl Given {
    /// These credentials.
    pub(crate) fn new(injections: impl IntoIterator<Item = Injected>, token: Option<Token>) -> Self {
        Self { injections: injections.into_iter().collect(), token }
    }

    /// At most so many headers are added.
    pub(crate) fn count(&self) -> usize {
        self.injections.len() + usize::from(self.token.is_some())
    }

    /// Removes every spelling of the headers that are given, from a message's head or from its trailers: a service that reads all
    /// spellings as the same (see [`crate::request::is_identity_header`]) would find the caller's own credential beside the given one.
    pub(crate) fn remove_from(&self, headers: &mut HeaderMap) {
        // Most routes give none, and then no header has to be looked at.
        if self.header_names().next().is_none() {
            return;
        }
        remove_each(headers, |name| self.header_names().any(|given| is_spelling_of(name, given)));
    }

    /// Where callers' tokens are exchanged, if they are.
    pub(crate) fn exchange(&self) -> Option<&Arc<LiveExchange>> {
        match &self.token.as_ref()?.source {
            TokenSource::Own { .. } => None,
            TokenSource::Exchange(live) => Some(live),
        }
    }

    /// Whether everything is at hand.
    pub(crate) fn is_at_hand(&self, now: Timestamp) -> bool {
        self.injections.iter().all(|injected| injected.slot().is_some())
            && self.token.as_ref().is_none_or(|token| token.is_at_hand(now))
    }

    /// Writes the credentials into a request, in place of the caller's own. Without all of them nothing is forwarded.
    pub(crate) fn write_into(
        self: &Arc<Self>,
        headers: &mut HeaderMap,
        target: PathAndQuery,
        exchanged: Option<Exchanged>,
        clock: &Clock,
    ) -> Result<(PathAndQuery, Spent), Refusal> {
        // Most routes give none.
        if self.count() == 0 {
            return Ok((target, Spent::default()));
        }
        let spent = self.spend(exchanged).ok_or(Refusal::BackendCredential)?;
        self.remove_from(headers);
        let mut pairs = Vec::new();
        for (index, injected) in self.injections.iter().enumerate() {
            match (&injected.place, injected.written(spent.slot(index))) {
                (Place::Header(name), Some(Written::Header(value))) => {
                    drop(headers.insert(name.clone(), value.clone()))
                }
                (Place::Query(_), Some(Written::Query(pair))) => pairs.push(pair.as_str()),
                (_, _) => return Err(Refusal::BackendCredential),
            }
        }
        if let Some(token) = &self.token {
            match token.written(spent.exchanged.as_ref(), clock.now()) {
                Some(Written::Header(value)) => drop(headers.insert(token.header.clone(), value.clone())),
                Some(Written::Query(_)) | None => return Err(Refusal::BackendCredential),
            }
        }
        let target = if pairs.is_empty() { target } else { self.with_query(&target, &pairs)? };
        Ok((target, spent))
    }

    /// Which slot of each injection is in use now; none if one is not at hand.
    fn spend(self: &Arc<Self>, exchanged: Option<Exchanged>) -> Option<Spent> {
        let slots = self
            .injections
            .iter()
            .enumerate()
            .try_fold(0, |slots, (index, injected)| Some(slots | u32::from(injected.slot()? == 1) << index))?;
        Some(Spent { given: Some(Arc::clone(self)), slots, exchanged })
    }

    /// The target with more parameters. It holds secrets then, and is wiped when the request is gone.
    fn with_query(&self, target: &PathAndQuery, pairs: &[&str]) -> Result<PathAndQuery, RequestError> {
        let own = target.query().unwrap_or_default();
        let cleaned = query::without(own, self.query_names())?;
        let own = cleaned.as_deref().unwrap_or(own);
        let length = target.path().len() + own.len() + pairs.iter().map(|pair| pair.len() + 1).sum::<usize>() + 1;
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        text.extend_from_slice(target.path().as_bytes());
        let mut mark = b'?';
        for part in std::iter::once(own).filter(|own| !own.is_empty()).chain(pairs.iter().copied()) {
            text.push(mark);
            text.extend_from_slice(part.as_bytes());
            mark = b'&';
        }
        PathAndQuery::from_maybe_shared(Bytes::from_owner(text)).map_err(|_too_long| RequestError::Target)
    }

    /// `name=value` of each parameter, of all slots.
    fn pairs(&self) -> impl Iterator<Item = &str> {
        self.injections.iter().flat_map(|injected| &injected.slots).filter_map(|slot| match &slot.written {
            Some(Written::Query(pair)) => Some(pair.as_str()),
            Some(Written::Header(_)) | None => None,
        })
    }

    fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        let injected = self.injections.iter().filter_map(|injected| match &injected.place {
            Place::Header(name) => Some(name),
            Place::Query(_) => None,
        });
        injected.chain(self.token.as_ref().map(|token| &token.header))
    }

    fn query_names(&self) -> impl Iterator<Item = &str> + Clone {
        self.injections.iter().filter_map(|injected| match &injected.place {
            Place::Header(_) => None,
            Place::Query(name) => Some(&**name),
        })
    }
}

impl std::fmt::Debug for Given {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Given({})", self.injections.len())
    }
}
