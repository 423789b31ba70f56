//! The messages between agent and CA: JSON over HTTP/1.1 over TLS 1.3, on the CA's one listener.
//!
//! | request | who may ask | answer |
//! |---|---|---|
//! | `POST /v1/enroll` | whoever holds a join token; no certificate | [`Enrolled`] |
//! | `POST /v1/issue` | an enrolled host, with its certificate | [`Issued`] |
//! | `GET /v1/watch` | an enrolled host, with its certificate | one [`TrustUpdate`] per line, for ever |
//! | `GET /v1/bundle` | anybody | the SPIFFE bundle document |
//!
//! A refusal is an RFC 9457 problem document: [`Problem`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::revocation::Revocations;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// Path of [`EnrollRequest`].
pub const ENROLL_PATH: &str = "/v1/enroll";

/// Path of [`IssueRequest`].
pub const ISSUE_PATH: &str = "/v1/issue";

/// Path of the stream of [`TrustUpdate`].
pub const WATCH_PATH: &str = "/v1/watch";

/// Path of the SPIFFE bundle document.
pub const BUNDLE_PATH: &str = "/v1/bundle";

/// Largest request body in bytes.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024;

/// Largest answer, or line of the watch stream, in bytes.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Media type of [`Problem`] (RFC 9457 §3).
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// A new host asks to become a member of the trust domain.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The join token's secret in base64url.
    pub secret: Zeroizing<String>,
    /// Signing request in PEM for a key that the host has made. The CA knows the host's name from the token, so this
    /// request names nobody: it holds a key and no name.
    pub csr: String,
}

/// The answer to an [`EnrollRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// The host's own ID, `spiffe://TRUST_DOMAIN/countersign/host/NAME`.
    pub id: SpiffeId,
    /// Its certificate chain in PEM, leaf first, without the root.
    pub chain: String,
    /// Whom to trust from now on.
    pub trust: TrustUpdate,
}

/// An enrolled host asks for a certificate: its own again, or one that a registration entry grants to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssueRequest {
    /// The identity to be certified.
    pub id: SpiffeId,
    /// Signing request in PEM, naming the same identity or none.
    pub csr: String,
}

/// The answer to an [`IssueRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct Issued {
    /// The certificate chain in PEM, leaf first, without the root.
    pub chain: String,
}

/// Whom to trust: always the whole state, never a difference. What is absent is withdrawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustUpdate {
    /// Grows with each change; a smaller one than the last is an old message.
    pub generation: u64,
    /// The trust domain of the CA.
    pub trust_domain: TrustDomain,
    /// SPIFFE bundle documents by trust domain, the CA's own among them.
    pub bundles: BTreeMap<TrustDomain, String>,
    /// What the CA's own trust domain has revoked.
    pub revocations: Revocations,
}

/// Why the CA refused (RFC 9457). `reason` is for programs, `detail` for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// HTTP status code.
    pub status: u16,
    /// A fixed word for what went wrong.
    pub reason: Reason,
    /// One sentence, with both values where two were compared.
    pub detail: String,
}

/// The kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The CA cannot do it now: its journal cannot be written, or it is stopping.
    CaUnavailable,
    /// The signing request is refused.
    CsrRefused,
    /// The host or the identity is revoked.
    IdentityRevoked,
    /// The message cannot be read.
    MalformedRequest,
    /// No certificate was shown, or it is not an enrolled host's.
    NotAHost,
    /// No registration entry grants this identity to this host.
    NotGranted,
    /// No such path or method.
    NotFound,
    /// The join token's time is over.
    TokenExpired,
    /// The join token was used before.
    TokenSpent,
    /// The join token was never given out by this CA.
    TokenUnknown,
    /// Too many requests; try again later.
    TooMany,
    /// A kind of refusal that a newer CA knows.
    #[serde(other)]
    Unknown,
}
