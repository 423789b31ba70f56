//! What the config says of limits, and of the store in which several agents count together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::san::San;
use countersign_limits::quota::Quota;
use countersign_limits::store::Password;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::policy::member::MemberPattern;
use crate::policy::role::RoleSet;
use crate::policy::subject::SubjectNames;

/// What may be made use of, by whom (`[[limit]]`).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    pub(crate) name: Arc<str>,
    /// What is counted apart.
    pub(crate) by: CountedBy,
    /// So many requests in a time.
    pub(crate) quota: Option<Quota>,
    /// So many requests at once.
    pub(crate) concurrent: Option<u32>,
    /// It holds for these callers only; for everybody, if absent.
    pub(crate) members: Option<Box<[MemberPattern]>>,
    /// It holds for callers with one of these roles only.
    pub(crate) roles: Option<RoleSet>,
    /// It holds on these inbounds only.
    pub(crate) inbounds: Option<Box<[Arc<str>]>>,
    /// It holds for API keys that name it only.
    pub(crate) only_named: bool,
    /// What is too much is refused, and not only recorded.
    pub(crate) is_enforced: bool,
    /// Counted in the store, together with other agents.
    pub(crate) is_shared: bool,
}

/// What is counted apart. Whoever has no such thing is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CountedBy {
    /// The address that a connection comes from; of IPv6 the first 64 bits, which one host can have to itself.
    Address,
    /// Nothing: all requests together.
    All,
    /// Whoever a request is made for: the user or service with a credential of its own, or else the workload.
    Caller,
    /// The workload, by its certificate, also where it acts for somebody else.
    Identity,
    /// The API key.
    Key,
    /// The inbound.
    Route,
    /// The user or service with a credential of its own.
    Subject,
    /// The team of the API key.
    Team,
}

/// Whoever makes a request, as far as limits look at that.
pub(crate) struct Limitable<'caller> {
    /// The workload: its names, and the roles that they give.
    pub(crate) workload: Option<(&'caller [San], &'caller RoleSet)>,
    /// The user or service with a credential of its own.
    pub(crate) subject: Option<(&'caller SubjectNames, &'caller RoleSet)>,
    /// The limits that its API key names.
    pub(crate) named: &'caller [String],
}

impl Limit {
    /// Whether it holds for somebody. A role of the workload counts also where it acts for somebody else.
    pub(crate) fn holds_for(&self, caller: &Limitable<'_>) -> bool {
        let is = |member: &MemberPattern| {
            caller.workload.is_some_and(|(names, _)| names.iter().any(|name| member.matches(name)))
                || caller.subject.is_some_and(|(names, _)| member.matches_subject(names))
        };
        let holds = |roles: &RoleSet| {
            let of_both = caller.workload.map(|(_, held)| held).into_iter().chain(caller.subject.map(|(_, held)| held));
            of_both.into_iter().any(|held| held.intersects(roles))
        };
        (!self.only_named || caller.named.iter().any(|name| **name == *self.name))
            && self.members.as_ref().is_none_or(|members| members.iter().any(is))
            && self.roles.as_ref().is_none_or(holds)
    }

    /// Whether somebody has what it counts apart; who has none is not counted.
    pub(crate) fn counts(&self, caller: &Limitable<'_>) -> bool {
        let names = caller.subject.map(|(names, _)| names);
        match self.by {
            CountedBy::Address | CountedBy::All | CountedBy::Route => true,
            CountedBy::Caller => caller.workload.is_some() || names.is_some(),
            CountedBy::Identity => caller.workload.is_some(),
            CountedBy::Key => matches!(names, Some(SubjectNames::Key { .. })),
            CountedBy::Subject => names.is_some(),
            CountedBy::Team => names.is_some_and(|names| names.team().is_some()),
        }
    }

    /// Whether it holds on an inbound.
    pub(crate) fn holds_on(&self, inbound: &str) -> bool {
        self.inbounds.as_ref().is_none_or(|inbounds| inbounds.iter().any(|name| **name == *inbound))
    }
}

impl CountedBy {
    /// Each of them.
    pub(crate) const ALL: [Self; 8] =
        [Self::Address, Self::All, Self::Caller, Self::Identity, Self::Key, Self::Route, Self::Subject, Self::Team];

    /// As in the config.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::All => "all",
            Self::Caller => "caller",
            Self::Identity => "identity",
            Self::Key => "key",
            Self::Route => "route",
            Self::Subject => "subject",
            Self::Team => "team",
        }
    }
}

/// Where several agents count together (`[store]`).
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Store {
    pub(crate) address: StoreAddress,
    pub(crate) password: Option<Password>,
    /// How long a request waits for it.
    pub(crate) timeout: Duration,
    pub(crate) when_away: WhenAway,
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreAddress {
    /// `redis://HOST:PORT`, or `rediss://` with the roots by which it is believed.
    Tcp { host: String, port: u16, roots: Option<Arc<[CertificateDer<'static>]>> },
    /// `unix:/PATH`
    Unix(PathBuf),
}

/// What happens to requests that cannot be counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenAway {
    /// Each agent counts for itself, and grants one of so many parts.
    Local { share: u32 },
    /// They are refused.
    Refuse,
}
