//! What a backend is given and no caller sees: keys, passwords and tokens. Each is written into requests to the one backend that it is
//! for, where what the caller has written itself is taken out before.

pub(crate) mod place;

pub(crate) mod query;

mod hide;

pub(crate) mod sources;

mod command;

mod pause;

use std::sync::Arc;

use bytes::Bytes;
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, StatusCode};
use zeroize::Zeroizing;

use crate::refusal::Refusal;
use crate::request::{RequestError, is_spelling_of, remove_each};
use command::LiveCommand;
use place::{Place, Written};

/// What the backend of one inbound is given.
#[derive(Default)]
pub(crate) struct Given {
    injections: Box<[Injected]>,
}

/// One credential and its place.
pub(crate) struct Injected {
    place: Place,
    /// None while it is not at hand.
    written: Option<Written>,
    /// Which commands have printed it.
    commands: Box<[Arc<LiveCommand>]>,
}

/// What a request was given. It looks at the answer.
#[derive(Clone, Default)]
#[must_use]
pub(crate) struct Spent(Option<Arc<Given>>);

impl Spent {
    /// Looks at the head of the answer, and takes out of it what it repeats. A credential that is refused is asked for anew.
    pub(crate) fn answered(&self, head: &mut Parts) {
        let Self(Some(given)) = self else { return };
        if given.query_names().next().is_some() {
            hide::hide(&mut head.headers, given.pairs(), given.query_names());
        }
        if head.status == StatusCode::UNAUTHORIZED {
            given.injections.iter().flat_map(|injected| &injected.commands).for_each(|command| command.renew());
        }
    }
}

impl Given {
    /// These credentials.
    pub(crate) fn new(injections: impl IntoIterator<Item = Injected>) -> Self {
        Self { injections: injections.into_iter().collect() }
    }

    /// How many headers are added.
    pub(crate) fn count(&self) -> usize {
        self.injections.len()
    }

    /// Removes every spelling of the headers that are given, from a message's head or from its trailers: a service that reads all
    /// spellings as the same (see [`crate::request::is_identity_header`]) would find the caller's own credential beside the given one.
    pub(crate) fn remove_from(&self, headers: &mut HeaderMap) {
        remove_each(headers, |name| self.header_names().any(|given| is_spelling_of(name, given)));
    }

    /// Whether everything is at hand.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.injections.iter().all(|injected| injected.written.is_some())
    }

    /// Writes the credentials into a request, in place of the caller's own. Without all of them nothing is forwarded.
    pub(crate) fn write_into(
        self: &Arc<Self>,
        headers: &mut HeaderMap,
        target: PathAndQuery,
    ) -> Result<(PathAndQuery, Spent), Refusal> {
        if !self.is_at_hand() {
            return Err(Refusal::BackendCredential);
        }
        self.remove_from(headers);
        for injected in &self.injections {
            if let (Place::Header(name), Some(Written::Header(value))) = (&injected.place, &injected.written) {
                headers.insert(name.clone(), value.clone());
            }
        }
        let target = if self.pairs().next().is_some() { self.with_query(&target)? } else { target };
        Ok((target, Spent(Some(Arc::clone(self)))))
    }

    /// The target with more parameters. It holds secrets then, and is wiped when the request is gone.
    fn with_query(&self, target: &PathAndQuery) -> Result<PathAndQuery, RequestError> {
        let own = target.query().unwrap_or_default();
        let cleaned = query::without(own, self.query_names())?;
        let own = cleaned.as_deref().unwrap_or(own);
        let length = target.path().len() + own.len() + self.pairs().map(|pair| pair.len() + 1).sum::<usize>() + 1;
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        text.extend_from_slice(target.path().as_bytes());
        let mut mark = b'?';
        for part in std::iter::once(own).filter(|own| !own.is_empty()).chain(self.pairs()) {
            text.push(mark);
            text.extend_from_slice(part.as_bytes());
            mark = b'&';
        }
        PathAndQuery::from_maybe_shared(Bytes::from_owner(text)).map_err(|_too_long| RequestError::Target)
    }

    /// `name=value` of each parameter.
    fn pairs(&self) -> impl Iterator<Item = &str> {
        self.injections.iter().filter_map(|injected| match &injected.written {
            Some(Written::Query(pair)) => Some(pair.as_str()),
            Some(Written::Header(_)) | None => None,
        })
    }

    fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.injections.iter().filter_map(|injected| match &injected.place {
            Place::Header(name) => Some(name),
            Place::Query(_) => None,
        })
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
