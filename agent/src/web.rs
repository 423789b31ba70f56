//! Asks servers of the web, such as identity providers: one question on one connection, to where the config says and nowhere else.
//!
//! An address is looked at before anything is sent to it (a name can be made to mean a service of our own network), an answer that
//! sends us elsewhere is no answer, and everything has a bound.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_certs::svid::X509Svid;
use countersign_certs::time::Clock;
use countersign_certs::tls::{self, TlsError, server_name};
use countersign_credentials::reach::{AddressRule, Unreachable};
use countersign_credentials::url::{Host, HttpUrl, Scheme};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use zeroize::Zeroizing;

use crate::config::checked::WebServer;

/// How long one question may take, looking the name up included.
const DEADLINE: Duration = Duration::from_secs(10);

/// Largest answer in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Whom to believe, and which addresses may be contacted.
#[derive(Clone)]
pub(crate) struct Web {
    tls: Arc<ClientConfig>,
    reach: Arc<AddressRule>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    #[error("{url} did not answer within {DEADLINE:?}")]
    Deadline { url: String },
    #[error("the connection to {url} broke")]
    Http { url: String, source: hyper::Error },
    #[error(transparent)]
    NotReachable(#[from] Unreachable),
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("the answer of {url} broke off, or is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge { url: String },
    #[error("{url} cannot be reached")]
    Unreachable { url: String, source: io::Error },
}

/// One question.
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Question {
    /// Asks for a document.
    pub(crate) fn get() -> Self {
        Self { method: Method::GET, headers: HeaderMap::new(), body: Zeroizing::default() }
    }

    /// Sends a form.
    pub(crate) fn form(fields: &[(&str, &str)]) -> Self {
        let mut body = Zeroizing::new(Vec::with_capacity(4096));
        for (name, value) in fields {
            if !body.is_empty() {
                body.push(b'&');
            }
            encode(name, &mut body);
            body.push(b'=');
            encode(value, &mut body);
        }
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, form)]);
        Self { method: Method::POST, headers, body }
    }
}

/// As in a form (WHATWG URL, application/x-www-form-urlencoded).
pub(crate) fn encode(text: &str, into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*') {
            into.push(byte);
        } else {
            into.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

/// How a client proves who it is (RFC 6749 §2.3.1): both parts encoded as in a form.
pub(crate) fn client_secret_basic(id: &str, secret: &Zeroizing<String>) -> HeaderValue {
    let mut both = Zeroizing::new(Vec::with_capacity(1024));
    encode(id, &mut both);
    both.push(b':');
    encode(secret, &mut both);
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*both)));
    // Base64 has no byte that a header may not have.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Basic"));
    value.set_sensitive(true);
    value
}

impl Web {
    /// Asks servers that are believed by these roots. `own` is shown to one that wants a certificate.
    pub(crate) fn new(server: &WebServer, own: Option<&Arc<X509Svid>>, clock: &Clock) -> Result<Self, TlsError> {
        Ok(Self {
            tls: tls::named_server(&server.roots, own.map(|own| own.certified()), clock)?,
            reach: Arc::clone(&server.reach),
        })
    }

    /// Asks one question. Only 200 is an answer.
    pub(crate) async fn ask(&self, url: &HttpUrl, question: Question) -> Result<Bytes, WebError> {
        match self.ask_any(url, question).await? {
            (StatusCode::OK, answer) => Ok(answer),
            (status, _) => Err(WebError::Status { url: url.to_string(), status }),
        }
    }

    /// A document that is in one of two places: the first that answers counts, and what cannot be reached is not looked for elsewhere.
    pub(crate) async fn first_of(&self, [first, second]: &[HttpUrl; 2]) -> Result<Bytes, WebError> {
        match self.ask(first, Question::get()).await {
            Err(WebError::Status { .. }) => self.ask(second, Question::get()).await,
            answered => answered,
        }
    }

    /// Asks one question, to which any status is an answer. None is followed to elsewhere.
    pub(crate) async fn ask_any(&self, url: &HttpUrl, question: Question) -> Result<(StatusCode, Bytes), WebError> {
        match tokio::time::timeout(DEADLINE, self.ask_without_deadline(url, question)).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(WebError::Deadline { url: url.to_string() }),
        }
    }

    async fn ask_without_deadline(&self, url: &HttpUrl, question: Question) -> Result<(StatusCode, Bytes), WebError> {
        let stream = self.connect(url).await?;
        match url.scheme() {
            Scheme::Http => exchange(stream, url, question).await,
            Scheme::Https => {
                let unreachable = |source| WebError::Unreachable { url: url.to_string(), source };
                let name = match url.host() {
                    Host::Address(address) => ServerName::IpAddress((*address).into()),
                    Host::Name(name) => server_name(name),
                };
                let connector = TlsConnector::from(Arc::clone(&self.tls));
                exchange(connector.connect(name, stream).await.map_err(unreachable)?, url, question).await
            }
        }
    }

    /// Connects to an address that was looked at, and not to the name again.
    async fn connect(&self, url: &HttpUrl) -> Result<TcpStream, WebError> {
        let unreachable = |source| WebError::Unreachable { url: url.to_string(), source };
        let addresses: Vec<SocketAddr> = match url.host() {
            Host::Address(address) => vec![SocketAddr::new(*address, url.port())],
            Host::Name(name) => lookup_host((name.as_str(), url.port())).await.map_err(unreachable)?.collect(),
        };
        for address in &addresses {
            self.reach.check(url.host(), address.ip())?;
        }
        TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)
    }
}

async fn exchange<S>(stream: S, url: &HttpUrl, question: Question) -> Result<(StatusCode, Bytes), WebError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let broken = |source| WebError::Http { url: url.to_string(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driving = tokio::task::spawn_local(async move {
        // How the connection ends is told to whoever reads the answer.
        connection.await.ok();
    });
    let answered = sender.send_request(request(url, question)).await.map_err(broken)?;
    let status = answered.status();
    let body = Limited::new(answered.into_body(), ANSWER_BYTES_MAX).collect().await;
    driving.abort();
    let body = body.map_err(|_limit| WebError::TooLarge { url: url.to_string() })?;
    Ok((status, body.to_bytes()))
}

fn request(url: &HttpUrl, question: Question) -> Request<Full<Bytes>> {
    let Question { method, headers, body } = question;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::new(Full::new(Bytes::copy_from_slice(&body)));
    *request.method_mut() = method;
    // A URL that was parsed has no byte that a target may not have.
    *request.uri_mut() = Uri::try_from(format!("{}{query}", url.path())).unwrap_or_default();
    *request.headers_mut() = headers;
    if let Ok(host) = HeaderValue::from_str(&format!("{}:{}", url.host(), url.port())) {
        request.headers_mut().insert(header::HOST, host);
    }
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded() {
        let form = Question::form(&[("token", "a b+c&d=e"), ("x", "\u{e4}")]);
        assert_eq!(form.body.as_slice(), b"token=a%20b%2Bc%26d%3De&x=%C3%A4");
    }
}
