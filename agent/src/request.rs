//! The one normaliser: from what a peer sent to the request that router, policy and forwarder all see.
//!
//! What is ambiguous is refused here, before anybody decides on it. What only concerns the connection it came on is
//! removed, and so is every header by which a caller could pretend to be somebody.

use countersign_certs::spelling::is_same_name;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, Version};
use hyper::ext::Protocol;
use zeroize::Zeroizing;

use crate::policy::path::{CheckedTarget, PathError};

/// The header in which the caller's certificate is told to the backend, in Envoy's form.
pub(crate) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The caller's name.
pub(crate) const X_COUNTERSIGN_ID: HeaderName = HeaderName::from_static("x-countersign-id");
/// The user or service with a credential of its own, where there is one.
pub(crate) const X_COUNTERSIGN_SUBJECT: HeaderName = HeaderName::from_static("x-countersign-subject");
/// The caller's roles, joined by commas.
pub(crate) const X_COUNTERSIGN_ROLES: HeaderName = HeaderName::from_static("x-countersign-roles");
/// The ID of the decision, as in the audit line.
pub(crate) const X_COUNTERSIGN_DECISION: HeaderName = HeaderName::from_static("x-countersign-decision");

/// The one protocol that a connection may become (RFC 6455).
const WEBSOCKET: &str = "websocket";
const WEBSOCKET_VALUE: HeaderValue = HeaderValue::from_static(WEBSOCKET);

/// What a client sends along with an offer of h2c (RFC 7540 §3.2.1).
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers by which some servers take a request for one with another method or path than it has.
const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// Why a request is refused before any rule is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request shows credentials in {count} Authorization headers")]
    AuthorizationCount { count: usize },
    #[error("the only transfer coding that is taken is chunked")]
    Coding,
    #[error("the Connection header names {0}, which concerns more than the connection")]
    ConnectionNames(HeaderName),
    #[error("the request names its host {count} times; once is required")]
    HostCount { count: usize },
    #[error("the request names two hosts: {one:?} and {other:?}")]
    HostMismatch { one: String, other: String },
    #[error("the host {0:?} cannot be read")]
    HostMalformed(String),
    #[error("the body has two lengths: content-length and transfer-encoding together appear more than once")]
    Length,
    #[error("the method {0} is not taken")]
    Method(Method),
    #[error("the header {0} asks for another method or path than the request has")]
    Override(HeaderName),
    #[error("the path cannot be taken")]
    Path(#[from] PathError),
    #[error("a parameter that the agent itself sends stands beside ';', which some servers take for a separator")]
    QuerySeparator,
    #[error("the request target is neither a path nor a whole http URI")]
    Target,
    #[error("the upgrade cannot be taken: {0}")]
    Upgrade(&'static str),
    #[error("the value of {0} begins or ends with a blank, which HTTP/1.1 takes away (RFC 9113 §8.2.1)")]
    ValueBlank(HeaderName),
}

/// Marks a request whose head gave its body two lengths, of which the HTTP library has dropped one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TwoLengths;

/// A request that means one thing to everybody.
#[derive(Debug)]
pub(crate) struct NormalRequest {
    pub(crate) method: Method,
    /// The target in origin form, byte for byte as it came and as it goes on.
    pub(crate) target: CheckedTarget,
    pub(crate) authority: Authority,
    /// End-to-end headers only, without any of ours.
    pub(crate) headers: HeaderMap,
    /// Set if the connection is to become something else, for example a WebSocket.
    pub(crate) upgrade: Option<HeaderValue>,
    /// The token that the caller has shown, kept only where the backend is given one in exchange for it.
    pub(crate) token: Option<CallerToken>,
}

/// A caller's own token. It goes nowhere but to where it is exchanged.
#[derive(Clone)]
pub(crate) struct CallerToken(Zeroizing<Vec<u8>>);

impl CallerToken {
    /// The token that a caller has shown.
    pub(crate) fn new(text: &[u8]) -> Self {
        Self(Zeroizing::new(text.to_vec()))
    }

    /// The bytes, to be looked at and not kept.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for CallerToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CallerToken")
    }
}

/// What is needed to refuse in the caller's own protocol.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().get(..16))
        .is_some_and(|start| start.eq_ignore_ascii_case(b"application/grpc"))
}

/// Normalises the head of a request.
pub(crate) fn normalise(parts: Parts) -> Result<NormalRequest, RequestError> {
    let Parts { method, uri, version, mut headers, extensions, .. } = parts;
    let upgrade = upgrade(&method, version, &headers, extensions.get::<Protocol>())?;
    // An extended CONNECT (RFC 8441 §4) is a GET that asks for an upgrade, and is decided on as one.
    let method = if method == Method::CONNECT && upgrade.is_some() { Method::GET } else { method };
    check_method(&method)?;
    let authority = authority(&uri, &headers)?;
    let target = CheckedTarget::parse(uri.into_parts().path_and_query.ok_or(RequestError::Target)?)?;
    check_length(&headers)?;
    if extensions.get::<TwoLengths>().is_some() {
        return Err(RequestError::Length);
    }
    let unwanted = look_at_each(&headers)?;
    check_connection_options(&headers)?;
    check_authorization(&headers)?;
    if unwanted.hop_by_hop {
        remove_hop_by_hop(&mut headers);
    }
    if unwanted.identity {
        remove_identity(&mut headers);
    }
    headers.remove(header::HOST);
    Ok(NormalRequest { method, target, authority, headers, upgrade, token: None })
}

/// Methods are compared with case (RFC 9110 §9.1), so `get` is not GET; a server that thinks otherwise would do what no
/// rule allowed.
pub(crate) fn check_method(method: &Method) -> Result<(), RequestError> {
    let upper = method.as_str().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !upper || *method == Method::CONNECT || *method == Method::TRACE {
        return Err(RequestError::Method(method.clone()));
    }
    Ok(())
}

/// Whether a request has headers that do not go on. Most have none, and one look at each name costs less than a search for each.
#[derive(Default)]
struct Unwanted {
    hop_by_hop: bool,
    identity: bool,
}

/// Refuses what a backend would read otherwise than whoever decides here.
fn look_at_each(headers: &HeaderMap) -> Result<Unwanted, RequestError> {
    let mut unwanted = Unwanted::default();
    for (name, value) in headers {
        let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last()) {
            return Err(RequestError::ValueBlank(name.clone()));
        }
        if is_override(name) {
            return Err(RequestError::Override(name.clone()));
        }
        unwanted.hop_by_hop |= is_hop_by_hop(name);
        unwanted.identity |= is_identity_header(name);
    }
    Ok(unwanted)
}

fn is_override(name: &HeaderName) -> bool {
    // Most names do not begin so.
    name.as_str().starts_with('x')
        && OVERRIDES.iter().any(|known| is_same_name(name.as_str().as_bytes(), known.as_bytes()))
}

/// Programs that read two credentials choose differently, whoever they are for (RFC 9110 §11.6.2 has one).
fn check_authorization(headers: &HeaderMap) -> Result<(), RequestError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.count()) {
        (_, 0) => Ok(()),
        (_, more) => Err(RequestError::AuthorizationCount { count: 1 + more }),
    }
}

/// The host that the request names, in `:authority`, in an absolute target or in Host. More than one must agree
/// (RFC 9112 §3.2, RFC 9113 §8.3.1).
fn authority(uri: &http::Uri, headers: &HeaderMap) -> Result<Authority, RequestError> {
    match (uri.scheme_str(), uri.authority()) {
        (None | Some("http" | "https"), Some(_)) | (None, None) => {}
        (Some(_), _) => return Err(RequestError::Target),
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    let more = hosts.count();
    if more > 0 {
        return Err(RequestError::HostCount { count: 1 + more });
    }
    let host = host.map(parse_host).transpose()?;
    match (uri.authority(), host) {
        (Some(authority), None) => checked_authority(authority.clone()),
        (None, Some(host)) => Ok(host),
        (Some(authority), Some(host)) if authority.as_str().eq_ignore_ascii_case(host.as_str()) => Ok(host),
        (Some(one), Some(other)) => {
            let other = other.to_string();
            Err(RequestError::HostMismatch { one: without_user(one.as_str()).to_owned(), other })
        }
        (None, None) => Err(RequestError::HostCount { count: 0 }),
    }
}

fn parse_host(value: &HeaderValue) -> Result<Authority, RequestError> {
    let malformed = || RequestError::HostMalformed(without_user(&String::from_utf8_lossy(value.as_bytes())).to_owned());
    let authority = Authority::try_from(value.as_bytes()).map_err(|_not_an_authority| malformed())?;
    checked_authority(authority)
}

fn checked_authority(authority: Authority) -> Result<Authority, RequestError> {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']');
    if authority.as_str().is_empty() || !authority.as_str().bytes().all(plain) {
        return Err(RequestError::HostMalformed(without_user(authority.as_str()).to_owned()));
    }
    Ok(authority)
}

/// A host without the name and password that may stand before it, of which no record is kept.
fn without_user(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

fn check_length(headers: &HeaderMap) -> Result<(), RequestError> {
    let count = headers.get_all(header::CONTENT_LENGTH).iter().count();
    let encoded = headers.contains_key(header::TRANSFER_ENCODING);
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(RequestError::Coding);
    }
    if count > 1 || (count == 1 && encoded) { Err(RequestError::Length) } else { Ok(()) }
}

/// The protocol that an HTTP/1.1 Upgrade (RFC 9110 §7.8) or an extended CONNECT (RFC 8441 §4) asks for.
///
/// Only WebSocket: its bytes are a conversation with the one path that was authorized. Another HTTP inside (h2c above all)
/// would be requests that nobody decides on.
fn upgrade(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    protocol: Option<&Protocol>,
) -> Result<Option<HeaderValue>, RequestError> {
    if let Some(protocol) = protocol {
        let websocket = *method == Method::CONNECT && protocol.as_str().eq_ignore_ascii_case(WEBSOCKET);
        return if websocket {
            Ok(Some(WEBSOCKET_VALUE))
        } else {
            Err(RequestError::Upgrade("only websocket is taken"))
        };
    }
    if version != Version::HTTP_11 || !connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"))
    {
        return Ok(None);
    }
    let mut wanted = headers.get_all(header::UPGRADE).iter();
    let (Some(protocol), None) = (wanted.next(), wanted.next()) else {
        return Err(RequestError::Upgrade("exactly one protocol is required"));
    };
    if protocol.as_bytes().eq_ignore_ascii_case(b"h2c") {
        // RFC 9113 §3.1 withdrew this upgrade; a client that offers it goes on in HTTP/1.1.
        return Ok(None);
    }
    if !protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()) {
        return Err(RequestError::Upgrade("only websocket is taken"));
    }
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if *method != Method::GET || has_body {
        return Err(RequestError::Upgrade("only a GET without a body may ask for it"));
    }
    Ok(Some(WEBSOCKET_VALUE))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

/// A Connection header may not make a proxy remove what the message means without it (RFC 9110 §7.6.1).
fn check_connection_options(headers: &HeaderMap) -> Result<(), RequestError> {
    for option in connection_options(headers) {
        let Ok(name) = option.parse() else { continue };
        if matches!(name, header::HOST | header::CONTENT_LENGTH | header::CONTENT_TYPE | header::AUTHORIZATION) {
            return Err(RequestError::ConnectionNames(name));
        }
    }
    Ok(())
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1), also what the sender says concerns it.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them, and one look at each name costs less than a search for each.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers).filter_map(|option| option.parse().ok()).collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    // TE goes on only with its one value that means something end to end: gRPC needs it.
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if headers.contains_key(header::TE) && !trailers {
        headers.remove(header::TE);
    }
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    // The answer "100 Continue" comes from the agent as soon as it wants the body.
    headers.remove(header::EXPECT);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
}

/// Removes every header by which a caller could claim to be somebody, in a message's head or in its trailers.
pub(crate) fn remove_identity(headers: &mut HeaderMap) {
    remove_each(headers, is_identity_header);
}

/// Removes a header and every other spelling of its name.
pub(crate) fn remove_spellings(headers: &mut HeaderMap, name: &HeaderName) {
    remove_each(headers, |found| is_spelling_of(found, name));
}

/// Removes the headers that are unwanted.
pub(crate) fn remove_each(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    // Most messages have none, and then nothing is gathered.
    if headers.keys().any(&unwanted) {
        let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether servers take two headers for the same.
pub(crate) fn is_spelling_of(found: &HeaderName, name: &HeaderName) -> bool {
    is_same_name(found.as_str().as_bytes(), name.as_str().as_bytes())
}

/// Whether a name is one of ours, also if it is spelt with underscores or other marks: CGI-like servers (RFC 3875 §4.1.18)
/// read all such spellings as the same.
pub(crate) fn is_identity_header(name: &HeaderName) -> bool {
    let bytes = name.as_str().as_bytes();
    // Every name of ours begins with x and is long; this keeps the common case to two comparisons.
    if bytes.first() != Some(&b'x') || bytes.len() < 14 {
        return false;
    }
    let same = |expected: &[u8], exact: bool| {
        let fits = if exact { bytes.len() == expected.len() } else { bytes.len() >= expected.len() };
        fits && bytes
            .iter()
            .zip(expected)
            .all(|(found, wanted)| found == wanted || (*wanted == b'-' && !found.is_ascii_alphanumeric()))
    };
    same(b"x-countersign-", false) || same(b"x-forwarded-client-cert", true)
}

/// Whether a header concerns one connection only.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(*name, header::CONNECTION | header::EXPECT | header::TE | header::TRANSFER_ENCODING | header::UPGRADE)
        || *name == HTTP2_SETTINGS
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn normalised(request: http::request::Builder) -> Result<NormalRequest, RequestError> {
        normalise(request.body(()).unwrap().into_parts().0)
    }

    fn get(target: &str) -> http::request::Builder {
        Request::get(target).header("host", "llm.local")
    }

    #[test]
    fn the_target_goes_on_byte_for_byte() {
        let request = normalised(get("/v1/models/a%20b?x=/../y")).unwrap();
        assert_eq!(request.target.into_inner().as_str(), "/v1/models/a%20b?x=/../y");
        assert_eq!(request.authority.as_str(), "llm.local");
        assert!(normalised(get("http://LLM.local/a")).is_ok());
    }

    #[test]
    fn headers_by_which_a_caller_could_pretend_to_be_somebody_are_removed() {
        let forged = [
            "x-forwarded-client-cert",
            "X-Forwarded-Client-Cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "x-countersign-id",
            "x_countersign_id",
            "x-countersign-roles",
            "x-countersign-decision",
            "x-countersign-anything-new",
            "x.countersign.id",
        ];
        let mut request = get("/");
        for name in forged {
            request = request.header(name, "spiffe://prod.example/admin").header(name, "twice");
        }
        let request = normalised(request.header("x-other", "kept").header("x-forwarded-for", "kept")).unwrap();
        let mut left: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-forwarded-for", "x-other"]);
    }

    #[test]
    fn what_concerns_the_connection_stays_on_it() {
        let request = get("/")
            .header("connection", "keep-alive, X-Secret")
            .header("x-secret", "a")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers")
            .header("proxy-connection", "keep-alive")
            .header("accept", "kept");
        let request = normalised(request).unwrap();
        let mut left: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "te"]);
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        let refused = |request: http::request::Builder| normalised(request).unwrap_err();
        assert!(matches!(refused(Request::get("/")), RequestError::HostCount { count: 0 }));
        assert!(matches!(refused(get("/").header("host", "other")), RequestError::HostCount { count: 2 }));
        assert!(matches!(refused(get("http://other/")), RequestError::HostMismatch { .. }));
        assert!(matches!(refused(get("ftp://llm.local/")), RequestError::Target));
        assert!(matches!(refused(Request::get("/").header("host", "user@llm.local")), RequestError::HostMalformed(_)));
        assert!(matches!(refused(get("/a/../b")), RequestError::Path(PathError::DotSegment)));
        assert!(matches!(refused(get("/a%2fb")), RequestError::Path(PathError::Encoding)));
        assert!(matches!(refused(get("/").method("TRACE")), RequestError::Method(_)));
        assert!(matches!(refused(get("/").method("get")), RequestError::Method(_)));
        assert!(matches!(refused(get("/").header("connection", "content-length")), RequestError::ConnectionNames(_)));
        let both = get("/").header("content-length", "3").header("transfer-encoding", "chunked");
        assert!(matches!(refused(both), RequestError::Length));
        let twice = get("/").header("content-length", "3").header("content-length", "4");
        assert!(matches!(refused(twice), RequestError::Length));
        assert!(matches!(refused(get("/").extension(TwoLengths)), RequestError::Length));
        let twice = get("/").header("authorization", "Bearer a").header("authorization", "Bearer a");
        assert!(matches!(refused(twice), RequestError::AuthorizationCount { count: 2 }));
        assert!(matches!(refused(Request::connect("llm.local:443")), RequestError::Method(_)));
        for value in [" gold", "gold ", "\tgold", "gold\t", " "] {
            assert!(matches!(refused(get("/").header("x-tenant", value)), RequestError::ValueBlank(_)), "{value:?}");
        }
        assert!(normalised(get("/").header("x-tenant", "gold 1").header("x-empty", "")).is_ok());
        for name in ["X-HTTP-Method-Override", "x_http_method", "x.method-override", "x-original-url", "X-Rewrite_URL"]
        {
            assert!(matches!(refused(get("/").header(name, "/")), RequestError::Override(_)), "{name}");
        }
        assert!(normalised(get("/").header("x-http-methods", "1").header("x-original-urls", "1")).is_ok());
    }

    #[test]
    fn a_name_and_a_password_before_a_host_are_not_told_of() {
        let requests = [
            Request::get("/").header("host", "ada:pass@llm.local"),
            Request::get("/").header("host", "ada:p@ss@llm local"),
            get("http://ada:pass@llm.local/"),
            get("http://ada:pass@other/"),
        ];
        for request in requests {
            let told = normalised(request).unwrap_err().to_string();
            assert!(!told.contains("ss@") && !told.contains("ada"), "{told}");
        }
    }

    #[test]
    fn an_extended_connect_opens_a_websocket_and_nothing_else() {
        let connect = |protocol: &'static str| {
            let request = Request::builder().method("CONNECT").uri("http://llm.local/ws").version(Version::HTTP_2);
            normalised(request.extension(Protocol::from_static(protocol)))
        };
        let request = connect("websocket").unwrap();
        assert_eq!((request.method, request.upgrade.unwrap()), (Method::GET, HeaderValue::from_static("websocket")));
        for protocol in ["h2c", "HTTP/2.0", "connect-udp", "websocket,h2c"] {
            assert!(matches!(connect(protocol), Err(RequestError::Upgrade(_))), "{protocol}");
        }
    }

    #[test]
    fn an_upgrade_is_a_get_for_one_protocol() {
        let upgrade =
            |protocol: &str| get("/ws").header("connection", "Upgrade").header("upgrade", protocol.to_owned());
        assert_eq!(normalised(upgrade("websocket")).unwrap().upgrade.unwrap(), "websocket");
        assert!(normalised(upgrade("h2c")).unwrap().upgrade.is_none());
        assert!(normalised(upgrade("a, b")).is_err());
        assert!(normalised(upgrade("TLS/1.0")).is_err());
        assert!(normalised(upgrade("websocket").method("POST")).is_err());
        assert!(normalised(upgrade("websocket").header("content-length", "3")).is_err());
        assert!(normalised(get("/ws").header("upgrade", "websocket")).unwrap().upgrade.is_none());
    }
}
