//! Second step: may the applicant have this identity? From an [`Applicant`] to a [`Grant`], which only this module makes.
//!
//! A registration entry grants one identity to one host. Two identities need no entry: a host's own, which it renews, and
//! the CA's own. Nothing else under `/countersign/` can ever be granted.

use std::net::IpAddr;
use std::time::Duration;

use crate::authenticate::{Applicant, Kind, TokenClaim};
use crate::certs::issuance::Reason;
use crate::certs::san::DnsName;
use crate::certs::spiffe_id::{SpiffeId, SpiffeIdError, ca_id, host_id};
use crate::config::Settings;
use crate::registry::{Entry, Registry};
use crate::store::StoreError;

/// The CA's decision: this identity, with these names, for this long, to this host.
#[must_use]
#[derive(Debug)]
pub(crate) struct Grant {
    id: SpiffeId,
    names: Names,
    ttl: Duration,
    host: Option<String>,
    claim: Option<TokenClaim>,
    entry: Option<Entry>,
}

/// Names beside the SPIFFE ID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// DNS names.
    pub(crate) dns: Vec<DnsName>,
    /// Addresses; only the CA's own certificate has any.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Why an applicant may not have what it asks for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// The name does not fit into an ID.
    #[error("host {host:?} cannot be a member")]
    HostName { host: String, source: SpiffeIdError },
    /// No entry.
    #[error("no registration entry grants {id} to host {host}")]
    NotGranted {
        /// What was asked for.
        id: SpiffeId,
        /// Who asked.
        host: String,
    },
    /// Asked for nothing.
    #[error("the request names no identity")]
    Nothing,
    /// The store cannot be read.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
}

/// Decides.
pub(crate) async fn grant(
    applicant: Applicant,
    wanted: Option<&SpiffeId>,
    registry: &Registry,
    settings: &Settings,
) -> Result<Grant, Denied> {
    match applicant.into_kind() {
        Kind::CertificateAuthority => own(settings),
        Kind::NewHost { host, claim } => membership(host, Some(claim), settings),
        Kind::Host { host, id } if wanted == Some(&id) => membership(host, None, settings),
        Kind::Host { host, .. } => workload(host, wanted.ok_or(Denied::Nothing)?, registry, settings).await,
    }
}

/// The certificate of our own listener, with the names under which agents reach us.
fn own(settings: &Settings) -> Result<Grant, Denied> {
    let id = ca_id(&settings.trust_domain).map_err(|source| Denied::HostName { host: "ca".to_owned(), source })?;
    let listen = settings.listen.ip();
    let names = Names {
        dns: settings.name.iter().cloned().collect(),
        addresses: (!listen.is_unspecified()).then_some(listen).into_iter().collect(),
    };
    Ok(Grant { id, names, ttl: settings.issuance.workload_ttl_max, host: None, claim: None, entry: None })
}

/// A host's own certificate: new by token, or renewed.
fn membership(host: String, claim: Option<TokenClaim>, settings: &Settings) -> Result<Grant, Denied> {
    let id =
        host_id(&settings.trust_domain, &host).map_err(|source| Denied::HostName { host: host.clone(), source })?;
    Ok(Grant { id, names: Names::default(), ttl: settings.issuance.host_ttl, host: Some(host), claim, entry: None })
}

/// What an operator has granted to the host.
async fn workload(host: String, wanted: &SpiffeId, registry: &Registry, settings: &Settings) -> Result<Grant, Denied> {
    // No entry can hold a reserved or foreign ID; asking the store as well would only trust it more than needed.
    let may_exist = !wanted.is_reserved() && *wanted.trust_domain() == settings.trust_domain;
    let entry = if may_exist { registry.entry(&host, wanted).await? } else { None };
    let Some(entry) = entry else { return Err(Denied::NotGranted { id: wanted.clone(), host }) };
    let ttl = entry.ttl.unwrap_or(settings.issuance.workload_ttl).min(settings.issuance.workload_ttl_max);
    let names = Names { dns: entry.dns.clone(), addresses: Vec::new() };
    Ok(Grant { id: entry.id.clone(), names, ttl, host: Some(host), claim: None, entry: Some(entry) })
}

impl Grant {
    /// The identity.
    pub(crate) fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The names beside it.
    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// For how long.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// To which host; none for the CA itself.
    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The entry that it comes from. Whether it still stands is looked at once more when the intent is recorded.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// The token that pays for it.
    pub(crate) fn claim(&self) -> Option<&TokenClaim> {
        self.claim.as_ref()
    }
}

impl Denied {
    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::HostName { .. } | Self::Store(_) => Reason::CaUnavailable,
            Self::NotGranted { .. } => Reason::NotGranted,
            Self::Nothing => Reason::MalformedRequest,
        }
    }
}
