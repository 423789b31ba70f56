//! What the operator has said: which hosts may join, and which identities they may have.
//!
//! This module checks names and times; it neither authenticates nor decides.

use std::sync::Arc;
use std::time::Duration;

use crate::certs::digest::hexadecimal;
use crate::certs::san::{DnsName, SanError};
use crate::certs::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain, host_id};
use crate::certs::time::Timestamp;
use crate::certs::token::JoinSecret;
use crate::store::{EntryRow, Store, StoreError, TokenRow};

/// The registered tokens and entries.
#[derive(Clone)]
pub(crate) struct Registry {
    store: Arc<Store>,
}

/// Which identity a host may have, with which names, for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// To whom.
    pub(crate) host: String,
    /// What.
    pub(crate) id: SpiffeId,
    /// DNS names in the certificate.
    pub(crate) dns: Vec<DnsName>,
    /// Lifetime, if not the default.
    pub(crate) ttl: Option<Duration>,
}

/// A join token, without its secret.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    /// Public name of the token.
    pub(crate) token: String,
    /// Name of the host that it makes a member.
    pub(crate) host: String,
    /// When it was given out.
    pub(crate) created: Timestamp,
    /// Until when it can be spent.
    pub(crate) expires: Timestamp,
    /// Who spent it.
    pub(crate) spent_by: Option<String>,
    spent: Option<Timestamp>,
    revoked: Option<Timestamp>,
}

/// What a join token is called, and for whom it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenName {
    /// Public name of the token.
    pub(crate) token: String,
    /// Name of the host that it makes a member.
    pub(crate) host: String,
}

/// Whether a token can still be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenState {
    /// Its time is over.
    Expired { at: Timestamp },
    /// An operator withdrew it.
    Revoked { at: Timestamp },
    /// It was used.
    Spent { at: Timestamp },
    /// It can be spent.
    Unused,
}

/// Why something cannot be registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// Not a DNS name.
    #[error(transparent)]
    Dns(#[from] SanError),
    /// An ID of somebody else.
    #[error("{id} is of trust domain {found}, this CA signs for {own}")]
    ForeignId { id: SpiffeId, found: TrustDomain, own: TrustDomain },
    /// Not one path segment.
    #[error("{host:?} cannot be a host's name: it must be one segment of a SPIFFE ID's path")]
    HostName { host: String, source: SpiffeIdError },
    /// Too many names for one certificate.
    #[error("{count} DNS names are too many, the limit is {DNS_NAMES_MAX}")]
    ManyNames {
        /// Names given.
        count: usize,
    },
    /// Under `/countersign/`.
    #[error("{0} is reserved: IDs under /countersign/ belong to the CA and to hosts")]
    Reserved(SpiffeId),
    /// Too short or too long.
    #[error("a lifetime of {ttl} is out of range: from {least} to {most}")]
    Ttl { ttl: String, least: String, most: String },
}

/// Most DNS names of one entry.
const DNS_NAMES_MAX: usize = 32;

impl Registry {
    /// The registry in this store.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// The entry that grants `id` to `host`.
    pub(crate) async fn entry(&self, host: &str, id: &SpiffeId) -> Result<Option<Entry>, StoreError> {
        self.store.entry(host, id).await?.map(Entry::try_from).transpose()
    }

    /// The token whose secret has this hash.
    pub(crate) async fn token(&self, secret_hash: &str) -> Result<Option<Token>, StoreError> {
        Ok(self.store.token(secret_hash).await?.map(Token::from))
    }
}

impl Entry {
    /// Checks an entry that an operator wants.
    pub(crate) fn new(
        trust_domain: &TrustDomain,
        host: &str,
        id: SpiffeId,
        dns: &[String],
        ttl: Option<Duration>,
    ) -> Result<Self, RegistryError> {
        check_host(trust_domain, host)?;
        check_domain(trust_domain, &id)?;
        if id.is_reserved() {
            return Err(RegistryError::Reserved(id));
        }
        if dns.len() > DNS_NAMES_MAX {
            return Err(RegistryError::ManyNames { count: dns.len() });
        }
        let dns = dns.iter().map(|name| DnsName::parse(name)).collect::<Result<_, _>>()?;
        Ok(Self { host: host.to_owned(), id, dns, ttl })
    }

    /// As it is stored.
    pub(crate) fn to_row(&self) -> EntryRow {
        EntryRow {
            host: self.host.clone(),
            id: self.id.clone(),
            dns: self.dns.iter().map(|name| name.as_str().to_owned()).collect(),
            ttl_seconds: self.ttl.map(|ttl| ttl.as_secs()),
        }
    }
}

/// Whether `host` can be the name of a member.
pub(crate) fn check_host(trust_domain: &TrustDomain, host: &str) -> Result<(), RegistryError> {
    host_id(trust_domain, host).map(drop).map_err(|source| RegistryError::HostName { host: host.to_owned(), source })
}

/// Whether `id` is of our trust domain.
pub(crate) fn check_domain(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), RegistryError> {
    if id.trust_domain() == trust_domain {
        return Ok(());
    }
    Err(RegistryError::ForeignId { id: id.clone(), found: id.trust_domain().clone(), own: trust_domain.clone() })
}

/// Whether a lifetime lies in a range.
pub(crate) fn check_ttl(ttl: Duration, range: std::ops::RangeInclusive<Duration>) -> Result<(), RegistryError> {
    if range.contains(&ttl) {
        return Ok(());
    }
    let [ttl, least, most] = [ttl, *range.start(), *range.end()].map(crate::config::print_duration);
    Err(RegistryError::Ttl { ttl, least, most })
}

impl Token {
    /// What it is called, and for whom it is.
    pub(crate) fn name(&self) -> TokenName {
        TokenName { token: self.token.clone(), host: self.host.clone() }
    }

    /// What can be done with it now.
    pub(crate) fn state(&self, now: Timestamp) -> TokenState {
        match (self.spent, self.revoked) {
            (Some(at), _) => TokenState::Spent { at },
            (None, Some(at)) => TokenState::Revoked { at },
            (None, None) if self.expires <= now => TokenState::Expired { at: self.expires },
            (None, None) => TokenState::Unused,
        }
    }
}

/// A new token's row: everything of it but the secret.
pub(crate) fn token_row(
    token: String,
    host: String,
    secret: &JoinSecret,
    created: Timestamp,
    ttl: Duration,
) -> TokenRow {
    TokenRow {
        token,
        host,
        secret_hash: hexadecimal(&secret.hash()),
        created,
        expires: created.plus(ttl),
        spent: None,
        spent_by: None,
        revoked: None,
    }
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        let TokenRow { token, host, created, expires, spent, spent_by, revoked, .. } = row;
        Self { token, host, created, expires, spent_by, spent, revoked }
    }
}

impl TryFrom<EntryRow> for Entry {
    type Error = StoreError;

    fn try_from(row: EntryRow) -> Result<Self, StoreError> {
        let dns = row
            .dns
            .iter()
            .map(|name| {
                DnsName::parse(name).map_err(|_broken| StoreError::Damaged { what: "a DNS name", value: name.clone() })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { host: row.host, id: row.id, dns, ttl: row.ttl_seconds.map(Duration::from_secs) })
    }
}
