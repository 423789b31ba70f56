//! A plain HTTP client, as a program that knows nothing of TLS would be.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

/// Longest time for one answer. A model that must first be loaded takes its time.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Longest answer in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Path of a chat completion.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It cannot be read to its end.
    #[error("the answer cannot be read: {0}")]
    Answer(String),
    /// Nobody listens.
    #[error("{address} cannot be reached")]
    Connect { address: SocketAddr, source: io::Error },
    /// No HTTP.
    #[error("{address} does not speak HTTP")]
    Http { address: SocketAddr, source: hyper::Error },
    /// Not a request.
    #[error("the request cannot be made")]
    Request(#[from] hyper::http::Error),
    /// It took too long.
    #[error("no answer within {TIMEOUT:?}")]
    Timeout,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: String,
}

impl Answer {
    /// A text inside of the JSON that was answered, such as `/choices/0/message/content`.
    pub(crate) fn text(&self, pointer: &str) -> Option<String> {
        let json: Value = serde_json::from_str(&self.body).ok()?;
        json.pointer(pointer)?.as_str().map(ToOwned::to_owned)
    }
}

/// A request for a chat completion.
pub(crate) fn chat(model: &str) -> Value {
    let question = "Who is there? Answer in one sentence.";
    json!({ "model": model, "messages": [{ "role": "user", "content": question }] })
}

/// The same request for people.
pub(crate) fn curl(port: u16, body: &Value) -> String {
    let body = body.to_string().replace('\'', r"'\''");
    format!("curl -i http://127.0.0.1:{port}{CHAT_PATH} -H 'content-type: application/json' -d '{body}'")
}

/// Asks with a JSON body.
pub(crate) async fn post(port: u16, path: &str, body: &Value) -> Result<Answer, AskError> {
    send(port, Method::POST, path, body.to_string()).await
}

/// Asks without a body.
pub(crate) async fn get(port: u16, path: &str) -> Result<Answer, AskError> {
    send(port, Method::GET, path, String::new()).await
}

async fn send(port: u16, method: Method, path: &str, body: String) -> Result<Answer, AskError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    tokio::time::timeout(TIMEOUT, exchange(address, request)).await.map_err(|_elapsed| AskError::Timeout)?
}

async fn exchange(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, AskError> {
    let stream = TcpStream::connect(address).await.map_err(|source| AskError::Connect { address, source })?;
    let http = |source| AskError::Http { address, source };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    // The connection ends when the sender and the answer are gone; what it ends with is told to them.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(http)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| AskError::Answer(error.to_string()))?.to_bytes();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}
