//! How much may they? What was authorized is counted, and given an [`Admission`], or is refused.
//!
//! Nothing is used up by a request that is refused: first everything is looked at, then the store, which uses one request of all
//! limits or of none, and only then what this agent counts. Where two requests race for the last one, both may find it gone.

pub(crate) mod definition;

pub(crate) mod live;

mod who;

mod counting;

pub(crate) mod link;

pub(crate) mod quota;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use countersign_limits::concurrency::Place;
use countersign_limits::quota::{Quota, whole_seconds};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::authorize::{Authorized, AuthorizedConnection, ConnectionPermit, Permit};
use crate::connection::Connection;
use crate::record::{ConnectionRecord, RequestRecord};
use crate::refusal::Refusal;
use counting::Counting;
use live::LiveLimit;
use who::Who;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How long a caller is told to wait for something whose end nobody knows.
const SOON: Duration = Duration::from_secs(1);

/// Evidence that a request, or a whole connection, was counted. It holds its places, which are free again when it is dropped: with
/// the answer's last byte, or with the end of what the request became.
#[derive(Debug)]
#[must_use]
pub(crate) struct Admission {
    _places: Vec<Place>,
}

/// Why something that was authorized is too much.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitRefusal {
    #[error("{under_way} are under way, and the limit {name:?} is {limit}")]
    Concurrent { name: Arc<str>, limit: u32, under_way: u32 },
    #[error("the limit {name:?} of {quota} is used up, and one more is allowed in {next:?}")]
    Rate { name: Arc<str>, quota: Quota, next: Duration },
    #[error("the store that counts for the limit {name:?} is away")]
    StoreAway { name: Arc<str> },
}

/// What is to be told of the limits of one request.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    /// To the operator: the limit that refused it, or would have.
    pub(crate) hit: Option<Arc<str>>,
    /// To the caller.
    pub(crate) fields: Option<LimitFields>,
}

/// The header fields that tell a caller of its limits.
#[derive(Debug)]
pub(crate) struct LimitFields {
    policy: HeaderValue,
    left: HeaderValue,
}

/// Counts a request that was authorized.
pub(crate) async fn request(authorized: Authorized, record: &mut RequestRecord) -> Result<Permit, Refusal> {
    match authorized.limits() {
        // Most routes have none.
        None => Ok(authorized.admitted(Admission { _places: Vec::new() })),
        Some(limits) => {
            let admission = Box::pin(admit(Arc::clone(limits), &authorized, record)).await?;
            Ok(authorized.admitted(admission))
        }
    }
}

async fn admit(
    limits: Arc<[Arc<LiveLimit>]>,
    authorized: &Authorized,
    record: &mut RequestRecord,
) -> Result<Admission, Refusal> {
    let ongoing = authorized.ongoing();
    let who = Who::of_request(ongoing.connection(), ongoing.caller());
    let (admitted, notice) = Counting::of(&limits, &who).admit(ongoing.connection().worker()).await;
    record.limited(notice);
    Ok(admitted.inspect_err(|refusal| tell(refusal, &who, ongoing.connection())).map_err(Box::new)?)
}

fn tell(refusal: &LimitRefusal, who: &Who<'_>, connection: &Connection) {
    connection.worker().notables().limit_hit(refusal.name(), who.name(), connection.route_name());
}

/// Counts a connection that was authorized as a whole.
pub(crate) async fn connection(
    authorized: AuthorizedConnection,
    connection: &Rc<Connection>,
    record: &mut ConnectionRecord,
) -> Result<ConnectionPermit, Refusal> {
    let Some(limits) = authorized.limits() else {
        return Ok(authorized.admitted(Admission { _places: Vec::new() }));
    };
    let who = Who::of_connection(connection);
    let (admitted, notice) = Counting::of(limits, &who).admit(connection.worker()).await;
    record.limited(notice);
    let admission = admitted.inspect_err(|refusal| tell(refusal, &who, connection)).map_err(Box::new)?;
    Ok(authorized.admitted(admission))
}

impl LimitRefusal {
    /// A short fixed word for metrics and audit lines.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Concurrent { .. } => "limit_concurrent",
            Self::Rate { .. } => "limit_rate",
            Self::StoreAway { .. } => "limit_store_away",
        }
    }

    /// The limit.
    fn name(&self) -> &Arc<str> {
        match self {
            Self::Concurrent { name, .. } | Self::Rate { name, .. } | Self::StoreAway { name } => name,
        }
    }

    /// In how many seconds it is worth trying again.
    pub(crate) fn retry_after(&self) -> u64 {
        match self {
            Self::Concurrent { .. } | Self::StoreAway { .. } => whole_seconds(SOON),
            Self::Rate { next, .. } => whole_seconds(*next).max(1),
        }
    }
}

impl LimitFields {
    /// Tells the caller, in place of what a backend may say of limits of its own: of two policies no caller can tell which holds.
    pub(crate) fn put_into(self, headers: &mut HeaderMap) {
        headers.insert(RATELIMIT_POLICY, self.policy);
        headers.insert(RATELIMIT, self.left);
    }
}
