//! Asks a running agent over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Largest answer in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long an answer may take; renewing asks the CA.
const DEADLINE: Duration = Duration::from_secs(120);

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("no agent answers on {socket}; is it running, and may this user ask it?")]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the agent did not answer within {DEADLINE:?}")]
    Deadline,
    #[error("the answer of the agent broke off")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the answer of the agent is too large or broke off")]
    TooLarge,
}

/// Asks one question.
pub(crate) async fn ask(socket: &Path, method: Method, path: &str) -> Result<String, ControlError> {
    tokio::time::timeout(DEADLINE, ask_without_deadline(socket, method, path))
        .await
        .map_err(|_elapsed| ControlError::Deadline)?
}

async fn ask_without_deadline(socket: &Path, method: Method, path: &str) -> Result<String, ControlError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| ControlError::Connect { socket: socket.to_owned(), source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::task::spawn_local(async move {
        // The answer says how it went.
        connection.await.ok();
    });
    let mut request = Request::new(Full::new(Bytes::new()));
    *request.method_mut() = method;
    *request.uri_mut() = http::Uri::try_from(path).map_err(|error| ControlError::Refused(error.to_string()))?;
    request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("agent"));
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|_limit| ControlError::TooLarge)?;
    driving.abort();
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status == StatusCode::OK { Ok(text) } else { Err(ControlError::Refused(text.trim_end().to_owned())) }
}
