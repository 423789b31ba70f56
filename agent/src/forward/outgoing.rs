//! A request as it leaves, in the form of the protocol that carries it.

use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, Version};

use http_body::Body;

use super::body::RequestBody;
use crate::authenticate::caller::Caller;
use crate::authorize::Ongoing;
use crate::connection::Current;
use crate::given::Spent;
use crate::given::token_exchange::Exchanged;
use crate::identify::headers::IDENTITY_HEADERS;
use crate::record::line::DecisionId;
use crate::refusal::Refusal;
use crate::request::{NormalRequest, X_COUNTERSIGN_DECISION};

/// A request on its way out. What was authorized is in it, and nothing else.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) authority: Authority,
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
}

impl Outgoing {
    /// The request as it leaves: what came, less what was removed, and with what only we may say. What it was given has to see the
    /// answer.
    pub(crate) fn prepare(
        normal: NormalRequest,
        mut body: RequestBody,
        exchanged: Option<Exchanged>,
        ongoing: &Ongoing,
        decision: DecisionId,
    ) -> Result<(Self, Spent), Refusal> {
        let NormalRequest { method, target, authority, mut headers, .. } = normal;
        let (mut target, mut spent) = (target.into_inner(), Spent::default());
        if let Current::Inbound(route) = ongoing.connection().current()? {
            // Room for all of them at once; without it the map would be rebuilt while they are added.
            headers.try_reserve(IDENTITY_HEADERS + route.given.count()).ok();
            tell_who_calls(&mut headers, ongoing)?;
            tell_decision(&mut headers, decision);
            body.without_given(&route.given);
            let clock = ongoing.connection().worker().clock();
            (target, spent) = route.given.write_into(&mut headers, target, exchanged, clock)?;
        }
        Ok((Self { method, authority, target, headers, body }, spent))
    }

    /// Origin form and Host (RFC 9112 §3.2.1).
    pub(crate) fn into_http1(self) -> Request<RequestBody> {
        let mut request = Request::new(self.body);
        let unannounced = !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
        *request.method_mut() = self.method;
        *request.uri_mut() = Uri::from(self.target);
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = self.headers;
        join_cookies(request.headers_mut());
        if unannounced {
            // Without it hyper would send a GET without the body that came with it.
            request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        // An authority has no byte that a header value may not have.
        if let Ok(host) = HeaderValue::from_str(self.authority.as_str()) {
            request.headers_mut().insert(header::HOST, host);
        }
        request
    }

    /// `:scheme`, `:authority` and `:path` (RFC 9113 §8.3.1).
    pub(crate) fn into_http2(self) -> Request<RequestBody> {
        let mut request = Request::new(self.body);
        let mut uri = http::uri::Parts::default();
        // The scheme tells how the whole way is secured, and the first and last steps are clear text on one host.
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority);
        uri.path_and_query = Some(self.target);
        *request.method_mut() = self.method;
        // Scheme, authority and path together always make a URI.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        request
    }

    /// Takes a request back that hyper has not sent.
    pub(crate) fn unsent(request: Request<RequestBody>) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        headers.remove(header::TRANSFER_ENCODING);
        let uri = parts.uri.into_parts();
        let host = headers.remove(header::HOST);
        let authority = match uri.authority {
            Some(authority) => authority,
            None => Authority::try_from(host?.as_bytes()).ok()?,
        };
        Some(Self { method: parts.method, authority, target: uri.path_and_query?, headers, body })
    }
}

/// Neither target nor headers are shown: a credential may stand in either.
impl std::fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Outgoing({} to {})", self.method, self.authority)
    }
}

/// Tells the backend who stands behind the request. What cannot be told is not forwarded.
fn tell_who_calls(headers: &mut HeaderMap, ongoing: &Ongoing) -> Result<(), Refusal> {
    match ongoing.caller() {
        Caller::Peer(_) | Caller::OnBehalf { .. } => {
            ongoing.connection().identity_headers().ok_or(Refusal::CallerUntellable)?.add_to(headers);
        }
        Caller::Subject(_) => {}
    }
    match ongoing.caller().subject() {
        Some(subject) if !subject.add_to(headers) => Err(Refusal::CallerUntellable),
        Some(_) | None => Ok(()),
    }
}

fn tell_decision(headers: &mut HeaderMap, decision: DecisionId) {
    if let Ok(decision) = HeaderValue::from_bytes(&decision.text()) {
        headers.insert(X_COUNTERSIGN_DECISION, decision);
    }
}

/// HTTP/2 may split cookies over several fields, and HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let cookies = headers.get_all(header::COOKIE);
    let joined = cookies.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(b"; ".as_slice());
    // Values with a mark between them have no byte that one value may not have.
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}
