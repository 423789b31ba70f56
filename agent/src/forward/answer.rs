//! What the peer gets: the backend's answer without what concerned the connection to it, or a refusal in the peer's own protocol.

use std::rc::Rc;

use bytes::Bytes;
use countersign_credentials::dpop::ProofSettings;
use http::header::{self, HeaderMap, HeaderValue};
use http::response::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::body::{ForwardedBody, ResponseBody};
use super::pool::Lease;
use super::upgrade::Carrying;
use crate::authorize::Permit;
use crate::policy::credential::{CredentialKind, CredentialSet};
use crate::record::RequestRecord;
use crate::record::line::DecisionId;
use crate::refusal::Refusal;
use crate::request::{RequestError, X_COUNTERSIGN_DECISION, remove_hop_by_hop};

/// What the caller gets, before the record is joined to it.
pub(crate) enum Answer {
    /// An answer with a body that is on its way.
    Forwarded { parts: Parts, body: Incoming, permit: Permit, lease: Option<Lease>, target: Rc<str> },
    /// The agent's own, whole already. Nothing was forwarded.
    Own(Response<ResponseBody>),
    /// The connection goes on as something else.
    Upgraded { parts: Parts, carrying: Carrying },
}

impl Answer {
    /// Joins the record, which is closed when the last byte has passed.
    pub(crate) fn recorded_by(self, mut record: RequestRecord) -> Response<ResponseBody> {
        match self {
            Self::Forwarded { parts, body, permit, lease, target } => {
                let body = ForwardedBody::new(body, permit, record, lease, target);
                Response::from_parts(parts, ResponseBody::Forwarded(Box::new(body)))
            }
            Self::Own(response) => {
                record.close(None);
                response
            }
            Self::Upgraded { parts, carrying } => {
                tokio::task::spawn_local(carrying.carry(record));
                Response::from_parts(parts, ResponseBody::Upgraded)
            }
        }
    }
}

/// Removes from an answer's head what concerned the connection to the backend.
pub(crate) fn clean(parts: &mut Parts) {
    remove_hop_by_hop(&mut parts.headers);
    parts.extensions.clear();
}

/// Answers a refusal in the caller's own protocol. It learns a decision ID, and nothing of the policy.
pub(crate) fn refuse(refusal: &Refusal, mut record: RequestRecord, grpc: bool) -> Response<ResponseBody> {
    let status = refusal.status();
    record.status(status);
    let mut answer = if grpc { grpc_answer(refusal, record.decision()) } else { problem(status, record.decision()) };
    if matches!(refusal, Refusal::Request(RequestError::Length)) {
        // Nobody can tell any more where the next request begins (RFC 9112 §6.3).
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Refusal::Credential { accepted, .. } = refusal
        && status == StatusCode::UNAUTHORIZED
    {
        challenge(answer.headers_mut(), *accepted);
    }
    if let Some(seconds) = refusal.retry_after(record.clock().now()) {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    record.close(Some(refusal));
    answer
}

/// Which credentials would do (RFC 9110 §11.6.1): a key or a token is a bearer token (RFC 6750 §3), and a token can be bound to a key
/// of the caller's (RFC 9449 §7.1). Why one that was shown was refused is for the operator to know.
fn challenge(headers: &mut HeaderMap, accepted: CredentialSet) {
    let tokens = accepted.has(CredentialKind::Jwt) || accepted.has(CredentialKind::OpaqueToken);
    if tokens || accepted.has(CredentialKind::ApiKey) {
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"countersign\""));
    }
    if tokens && let Ok(proof) = HeaderValue::from_str(&proof_challenge()) {
        headers.append(header::WWW_AUTHENTICATE, proof);
    }
    if accepted.has(CredentialKind::Basic) {
        let basic = HeaderValue::from_static("Basic realm=\"countersign\", charset=\"UTF-8\"");
        headers.append(header::WWW_AUTHENTICATE, basic);
    }
}

/// The algorithms are those of the proofs that are accepted.
fn proof_challenge() -> String {
    let algorithms: Vec<_> = ProofSettings::default().algorithms.iter().map(ToString::to_string).collect();
    format!("DPoP realm=\"countersign\", algs=\"{}\"", algorithms.join(" "))
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, decision: DecisionId) -> Response<ResponseBody> {
    let title = status.canonical_reason().unwrap_or("Refused");
    let text = format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{},\"decision_id\":\"{decision}\"}}\n",
        status.as_u16()
    );
    let mut response = Response::new(ResponseBody::Own(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Ok(decision) = HeaderValue::from_bytes(&decision.text()) {
        response.headers_mut().insert(X_COUNTERSIGN_DECISION, decision);
    }
    response
}

/// A gRPC answer without messages: the status in the head (grpc/grpc: doc/PROTOCOL-HTTP2.md, "Trailers-Only").
fn grpc_answer(refusal: &Refusal, decision: DecisionId) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::Own(Full::default()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(refusal.grpc_status()));
    if let Ok(message) = HeaderValue::from_str(&format!("refused, decision {decision}")) {
        headers.insert("grpc-message", message);
    }
    response
}
