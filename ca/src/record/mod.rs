//! Fourth and sixth step: the journal. The intent is on disk before the key is used, the result before the certificate
//! leaves, and every act of an operator is there too. So is every refusal, but a flood of them is counted instead of
//! written out.
//!
//! Whatever changes the store goes through here: a change and its line in the journal are one transaction. If the line
//! cannot be written, the change does not happen and nothing is signed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::authenticate::Claim;
use crate::build::{Plan, ReadyToSign};
use crate::certs::allowance::Allowances;
use crate::certs::digest::hexadecimal;
use crate::certs::issuance::Reason;
use crate::certs::time::Clock;
use crate::config::Limits;
use crate::issue::Refusal;
use crate::registry::{Entry, TokenName};
use crate::sign::Signed;
use crate::store::{CertificateRow, Change, Conflict, Outcome, SpentToken, Store, StoreError, Write};

/// Most characters of a refusal's story; a part of it is what the peer sent.
const DETAIL_CHARACTERS_MAX: usize = 1000;

/// Refusals of one kind and one asker that are written at once. Whoever can ask could otherwise fill the disk, and with a full
/// disk nothing is signed.
const REFUSALS_AT_ONCE: u64 = 100;

/// How long until one more is written after that.
const REFUSAL_EVERY: Duration = Duration::from_secs(60);

/// Whose refusals are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Asker {
    /// Everybody for whom there was no more room.
    Others,
    /// A verified peer, by its name.
    Peer(String),
    /// All who have no certificate: they can have as many addresses as they like.
    Stranger,
}

/// Most characters of the identity that was asked for: the peer chooses it.
const WANTED_CHARACTERS_MAX: usize = 256;

/// The append-only record of everything that this CA did, meant to do, and refused.
#[derive(Clone)]
pub(crate) struct Journal {
    store: Arc<Store>,
    clock: Clock,
    refusals: Arc<Mutex<Allowances<(String, Asker)>>>,
}

/// A certificate whose intent is on disk. Made only here, consumed by the signer.
#[must_use]
pub(crate) struct Intended(ReadyToSign);

/// A certificate whose result is on disk. Made only here, consumed by the delivery.
#[must_use]
pub(crate) struct Issued(Signed);

/// One line of the journal.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A registration entry was added.
    EntryAdded { host: String, id: String, dns: Vec<String>, ttl_seconds: Option<u64> },
    /// A registration entry was removed.
    EntryRemoved { host: String, id: String },
    /// An identity was revoked.
    IdentityRevoked { id: String },
    /// An identity may be used again.
    IdentityLifted { id: String },
    /// The CA was made.
    Initialized { trust_domain: String, root_sha256: String, intermediate_sha256: String },
    /// The root's key is about to sign a new intermediate.
    IntermediateIntended { serial: String, not_before: String, not_after: String, key_sha256: String },
    /// A new intermediate was signed and may now be put in place.
    IntermediateIssued { serial: String, certificate_sha256: String },
    /// A certificate was signed and may now be delivered.
    Issued { serial: String, certificate_sha256: String },
    /// A certificate is about to be signed.
    IssueIntended(IssueIntended),
    /// Somebody was refused.
    Refused(Refused),
    /// One certificate was revoked.
    SerialRevoked { serial: String },
    /// The listener is open.
    ServeStarted { listen: String, version: &'static str },
    /// The listener is closed. `omitted` counts, by reason, the refusals that no line has counted.
    ServeStopped { cause: &'static str, omitted: BTreeMap<String, u64> },
    /// A join token was given out.
    TokenCreated { token: String, host: String, expires: String },
    /// A join token was withdrawn.
    TokenRevoked { token: String },
}

/// Who was refused, and why.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    reason: String,
    detail: String,
    peer: Option<String>,
    address: Option<String>,
    wanted: Option<String>,
    /// Name of the join token that was shown, and the host that it is for.
    token: Option<String>,
    host: Option<String>,
    /// Refusals of the same asker for the same reason that were left out since the line before; all strangers are one.
    omitted: u64,
}

/// What is about to be signed.
#[derive(Debug, Serialize)]
pub(crate) struct IssueIntended {
    serial: String,
    id: String,
    names: Vec<String>,
    host: Option<String>,
    not_before: String,
    not_after: String,
    key_sha256: String,
    spends_token: bool,
}

/// Why something could not be recorded, and therefore was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unrecorded {
    /// Something came in between: the token was spent, the identity revoked, the entry removed, the host's bound reached.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The journal cannot be written.
    #[error("the journal cannot be written")]
    Store(#[from] StoreError),
}

impl Journal {
    /// The journal of this store.
    pub(crate) fn new(store: Arc<Store>, clock: Clock) -> Self {
        let refusals = Arc::new(Mutex::new(Allowances::new(REFUSALS_AT_ONCE, REFUSAL_EVERY)));
        Self { store, clock, refusals }
    }

    /// Records that a certificate is about to be signed; spends the token that pays for it. After this it counts as
    /// existing: a revocation that comes later covers it.
    pub(crate) async fn intend(&self, ready: ReadyToSign, limits: &Limits) -> Result<Intended, Unrecorded> {
        let (plan, grant) = (ready.plan(), ready.grant());
        let event = Event::IssueIntended(IssueIntended {
            serial: plan.serial.to_string(),
            id: plan.id.to_string(),
            names: names(plan),
            host: grant.host().map(str::to_owned),
            not_before: plan.validity.not_before.to_string(),
            not_after: plan.validity.not_after.to_string(),
            key_sha256: hexadecimal(&plan.key_fingerprint),
            spends_token: grant.claim().is_some(),
        });
        let spend = grant.claim().map(|claim| SpentToken {
            secret_hash: claim.secret_hash().to_owned(),
            address: claim.address().to_string(),
            name: claim.name().clone(),
        });
        let certificate = CertificateRow {
            serial: plan.serial.clone(),
            id: plan.id.clone(),
            host: grant.host().map(str::to_owned),
            validity: plan.validity,
            entry: grant.entry().map(Entry::to_row),
        };
        let certificates_max = u64::try_from(limits.certificates_per_host).unwrap_or(u64::MAX);
        self.write(Change::Intend { certificate, spend, certificates_max }, event).await?;
        Ok(Intended(ready))
    }

    /// Records that a certificate was signed.
    pub(crate) async fn issued(&self, signed: Signed) -> Result<Issued, Unrecorded> {
        let serial = signed.plan().serial.clone();
        let fingerprint = hexadecimal(&signed.fingerprint());
        let event = Event::Issued { serial: serial.to_string(), certificate_sha256: fingerprint.clone() };
        let host = signed.enrolled_host().map(str::to_owned);
        self.write(Change::Issue { serial, fingerprint, enrolled: host }, event).await?;
        Ok(Issued(signed))
    }

    /// Records a refusal, in the log and in the journal. A refusal stands even if it cannot be recorded.
    pub(crate) async fn refused(&self, claim: &Claim, refusal: &Refusal) {
        let detail: String = chain_of(refusal).chars().take(DETAIL_CHARACTERS_MAX).collect();
        let reason = refusal.kind();
        let (token, host) = refusal.token().cloned().map(|name| (name.token, name.host)).unzip();
        let (peer, address, wanted) = (
            claim.peer.clone(),
            claim.address.map(|address| address.to_string()),
            claim.wanted.as_ref().map(|wanted| wanted.as_str().chars().take(WANTED_CHARACTERS_MAX).collect::<String>()),
        );
        tracing::warn!(reason, detail, peer, address, wanted, token, host, "certificate refused");
        let asker = peer.clone().map_or(Asker::Stranger, Asker::Peer);
        let Some(omitted) = self.allow(reason.clone(), asker) else { return };
        let event = Event::Refused(Refused { reason, detail, peer, address, wanted, token, host, omitted });
        if let Err(error) = self.note(event).await {
            tracing::error!(error = chain_of(&error), "refusal not journalled");
        }
    }

    /// How many were left out before this one, or nothing if it is left out too. The log has every one.
    fn allow(&self, kind: String, asker: Asker) -> Option<u64> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.take((kind.clone(), asker), (kind, Asker::Others), self.clock.now())
    }

    /// Records that the listener is closed, and the last word on the refusals that were left out.
    pub(crate) async fn stopped(&self, cause: &'static str) -> Result<(), Unrecorded> {
        let mut omitted = BTreeMap::new();
        for ((reason, _), count) in self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take_omitted() {
            let sum: &mut u64 = omitted.entry(reason).or_default();
            *sum = sum.saturating_add(count);
        }
        self.note(Event::ServeStopped { cause, omitted }).await
    }

    /// Records something that changes nothing else.
    pub(crate) async fn note(&self, event: Event) -> Result<(), Unrecorded> {
        self.write(Change::Nothing, event).await
    }

    /// Makes a change and records it, both or neither.
    pub(crate) async fn write(&self, change: Change, event: Event) -> Result<(), Unrecorded> {
        let write = Write::new(change, &event, self.clock.now())?;
        match self.store.write(write).await? {
            Outcome::Done => Ok(()),
            Outcome::Conflict(conflict) => Err(Unrecorded::Conflict(conflict)),
        }
    }
}

fn names(plan: &Plan) -> Vec<String> {
    let dns = plan.names.dns.iter().map(|name| format!("dns:{}", name.as_str()));
    dns.chain(plan.names.addresses.iter().map(|address| format!("ip:{address}"))).collect()
}

/// A reason as it is written in answers and in the journal.
pub(crate) fn word(reason: Reason) -> String {
    let word = serde_json::to_value(reason).ok();
    word.as_ref().and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// An error and its sources in one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl Intended {
    /// Spends the intent.
    pub(crate) fn into_ready(self) -> ReadyToSign {
        self.0
    }
}

impl Issued {
    /// What was issued.
    pub(crate) fn into_parts(self) -> (Plan, tokio_rustls::rustls::pki_types::CertificateDer<'static>) {
        self.0.into_parts()
    }
}

impl Unrecorded {
    /// The join token that could not be spent.
    pub(crate) fn token(&self) -> Option<&TokenName> {
        match self {
            Self::Conflict(Conflict::TokenSpent { name }) => Some(name),
            Self::Conflict(_) | Self::Store(_) => None,
        }
    }

    /// The fixed word for programs.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Conflict(conflict) => conflict.reason(),
            Self::Store(_) => Reason::CaUnavailable,
        }
    }
}
