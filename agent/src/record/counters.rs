//! Counters without locks: each worker has its own, and only that worker writes them. Whoever reads adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::policy::credential::CredentialKind;
use crate::refusal::Refusal;

/// A number that one thread increases and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds. A plain load and store, because there is one writer.
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Reads.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Allowed, and came to its own end.
    Allowed,
    /// The peer went away in the middle, or before anybody had proved who uses the connection.
    Cancelled,
    /// Was allowed, and had to end: expiry, revocation, a changed policy.
    Cut,
    /// We said no.
    Denied,
    /// Allowed, but something broke.
    Failed,
}

impl Outcome {
    /// Every outcome, in the order of the counters.
    pub(crate) const ALL: [Self; 5] = [Self::Allowed, Self::Cancelled, Self::Cut, Self::Denied, Self::Failed];

    /// As in audit lines and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Cancelled => "cancelled",
            Self::Cut => "cut",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).unwrap_or_default()
    }
}

/// Upper ends of the latency buckets in seconds: from a local cache hit to a long answer of a model.
pub(crate) const BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];

/// A latency histogram with fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Counter; BUCKETS.len() + 1],
    microseconds: Counter,
}

impl Histogram {
    /// Counts one observation.
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let index = BUCKETS.iter().position(|end| seconds <= *end).unwrap_or(BUCKETS.len());
        if let Some(bucket) = self.buckets.get(index) {
            bucket.add(1);
        }
        self.microseconds.add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Observations by bucket, the last without an upper end, and their sum in seconds.
    pub(crate) fn read(&self) -> ([u64; BUCKETS.len() + 1], f64) {
        let seconds = Duration::from_micros(self.microseconds.get()).as_secs_f64();
        (self.buckets.each_ref().map(Counter::get), seconds)
    }
}

/// The reasons that metrics tell apart, the last for any other. Fixed, so that no peer can make a label.
pub(crate) const REASONS: [&str; 111] = [
    "audit_unavailable",
    "backend_broke",
    "backend_credential",
    "backend_credential_refused",
    "backend_full",
    "backend_unreachable",
    "caller_gone",
    "caller_untellable",
    "certificate_expired",
    "certificate_malformed",
    "certificate_missing",
    "certificate_not_yet_valid",
    "certificate_revoked",
    "chain_length",
    "condition_not_met",
    "condition_unclear",
    "connection_broke",
    "credential_ambiguous",
    "credential_malformed",
    "credential_missing",
    "credential_not_accepted",
    "denied_by_rule",
    "forbidden_by_policy",
    "foreign_not_admitted",
    "gave_way",
    "handshake_abandoned",
    "handshake_failed",
    "handshake_timeout",
    "idle_timeout",
    "issuer_busy",
    "issuer_unavailable",
    "key_disabled",
    "key_expired",
    "key_malformed",
    "key_not_for_this",
    "key_replaced",
    "key_revoked",
    "key_unknown",
    "limit",
    "limit_concurrent",
    "limit_rate",
    "limit_store_away",
    "local_caller_not_allowed",
    "locked_out",
    "method_not_allowed",
    "network_not_allowed",
    "no_role",
    "own_certificate_ended",
    "password_busy",
    "password_malformed",
    "password_wrong",
    "path_not_allowed",
    "proof_algorithm",
    "proof_cache_full",
    "proof_claim",
    "proof_clock_set_back",
    "proof_count",
    "proof_header",
    "proof_key",
    "proof_malformed",
    "proof_method",
    "proof_nonce",
    "proof_replayed",
    "proof_signature",
    "proof_target",
    "proof_time",
    "proof_token",
    "proof_type",
    "protocol_error",
    "request_ambiguous",
    "role_not_allowed",
    "tls_setup",
    "token_algorithm",
    "token_ambiguous_key",
    "token_answer",
    "token_audience",
    "token_claim",
    "token_confirmation",
    "token_encrypted",
    "token_expired",
    "token_header",
    "token_id_token",
    "token_inactive",
    "token_issuer",
    "token_lifetime",
    "token_malformed",
    "token_no_certificate",
    "token_no_proof",
    "token_not_yet_valid",
    "token_other_certificate",
    "token_other_key",
    "token_signature",
    "token_type",
    "token_unbound",
    "token_unknown_key",
    "untrusted_domain",
    "unvouched",
    "upgrade_lost",
    "uri_count",
    "via_not_allowed",
    "withdrawn_answered",
    "withdrawn_credential",
    "withdrawn_expired",
    "withdrawn_policy",
    "withdrawn_revoked",
    "withdrawn_route",
    "withdrawn_stopped",
    "withdrawn_untrusted",
    "wrong_service",
    "wrong_usage",
    "other",
];

/// How often somebody was believed, by what was shown in the request.
#[derive(Debug, Default)]
pub(crate) struct Authentications {
    by_kind: [Believed; CredentialKind::ALL.len()],
    nothing: Believed,
}

/// How often it was not believed, and how often it was.
#[derive(Debug, Default)]
pub(crate) struct Believed {
    pub(crate) failure: Counter,
    pub(crate) success: Counter,
}

impl Authentications {
    /// Of requests that have shown this, or nothing.
    pub(crate) fn of(&self, shown: Option<CredentialKind>) -> &Believed {
        let index = CredentialKind::ALL.iter().position(|kind| Some(*kind) == shown);
        index.and_then(|index| self.by_kind.get(index)).unwrap_or(&self.nothing)
    }
}

/// What one worker counts for one route.
#[derive(Debug)]
pub(crate) struct RouteCounters {
    pub(crate) connections_opened: Counter,
    pub(crate) connections_closed: Counter,
    pub(crate) handshakes: Counter,
    pub(crate) requests: [Counter; Outcome::ALL.len()],
    pub(crate) refusals: [Counter; REASONS.len()],
    pub(crate) authentications: Authentications,
    pub(crate) authentication: Histogram,
    pub(crate) rotations: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) first_byte: Histogram,
    pub(crate) duration: Histogram,
}

impl Default for RouteCounters {
    fn default() -> Self {
        Self {
            connections_opened: Counter::default(),
            connections_closed: Counter::default(),
            handshakes: Counter::default(),
            requests: Default::default(),
            refusals: std::array::from_fn(|_index| Counter::default()),
            authentications: Authentications::default(),
            authentication: Histogram::default(),
            rotations: Counter::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            first_byte: Histogram::default(),
            duration: Histogram::default(),
        }
    }
}

impl RouteCounters {
    /// New counters.
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Counts a refusal by its reason.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let reason = refusal.reason();
        let index = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len() - 1);
        if let Some(counter) = self.refusals.get(index) {
            counter.add(1);
        }
    }

    /// Counts whether what a request has shown was believed; a certificate beside it is not counted here, but as a handshake.
    pub(crate) fn authenticated(&self, shown: Option<CredentialKind>, is_believed: bool, took: Duration) {
        let counted = self.authentications.of(shown);
        let counter = if is_believed { &counted.success } else { &counted.failure };
        counter.add(1);
        self.authentication.observe(took);
    }

    /// Counts a connection that has ended. The bytes are those of plain TCP; those of HTTP are counted with each request.
    pub(crate) fn connection_ended(&self, received: u64, sent: u64) {
        self.connections_closed.add(1);
        self.received_bytes.add(received);
        self.sent_bytes.add(sent);
    }

    /// Counts a request that has ended.
    pub(crate) fn request_ended(&self, outcome: Outcome, duration: Duration, received: u64, sent: u64) {
        if let Some(counter) = self.requests.get(outcome.index()) {
            counter.add(1);
        }
        self.received_bytes.add(received);
        self.sent_bytes.add(sent);
        self.duration.observe(duration);
    }
}
