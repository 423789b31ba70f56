//! A service in the shape of OpenAI's API, for the demo and for tests. It answers with canned words: it is no model.
//!
//! It trusts `x-countersign-id`, as a service behind an agent may: the agent removes what a caller sent and sets its own.
//! Reached without an agent, anybody can write that header; it is for loopback only.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Interval;

/// The one model that this service knows.
pub const MODEL: &str = "countersign-demo";

/// Largest request body in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Connections at a time; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a caller may take for the header of a request, and so how long an idle connection is kept.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two words of a streamed answer: slow enough to be seen.
const WORD_PAUSE: Duration = Duration::from_millis(40);

/// Numbers in an embedding.
const DIMENSIONS: usize = 16;

/// Answers on a listener until it fails.
///
/// # Errors
/// A connection cannot be accepted.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await;
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            serve_connection(stream).await;
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    // A caller that breaks off or sends no HTTP is its own problem; there is nobody to tell.
    http.serve_connection(TokioIo::new(stream), service_fn(answer)).await.ok();
}

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    Ok(route(request).await.unwrap_or_else(|refusal| refusal.response()))
}

async fn route(request: Request<Incoming>) -> Result<Response<Answer>, Refusal> {
    let (head, body) = request.into_parts();
    match (&head.method, head.uri.path()) {
        (&Method::GET, "/v1/models") => Ok(one_json(StatusCode::OK, &models())),
        (&Method::POST, "/v1/chat/completions") => Ok(chat(&read(body).await?, &head.headers)?),
        (&Method::POST, "/v1/embeddings") => Ok(embeddings(&read(body).await?)?),
        (_, "/v1/models" | "/v1/chat/completions" | "/v1/embeddings") => Err(Refusal::Method),
        (_, path) => Err(Refusal::Path(path.to_owned())),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, BODY_BYTES_MAX).collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_too_long) => Refusal::TooLong,
        Err(error) => Refusal::Malformed(error.to_string()),
    })
}

fn models() -> Value {
    json!({ "object": "list", "data": [{ "id": MODEL, "object": "model", "created": 0, "owned_by": "countersign" }] })
}

#[derive(Deserialize)]
struct ChatRequest {
    model: String,
    messages: Vec<Message>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
struct Message {
    role: String,
}

fn chat(body: &[u8], headers: &HeaderMap) -> Result<Response<Answer>, Refusal> {
    let request: ChatRequest = parse(body)?;
    check_model(&request.model)?;
    if !request.messages.iter().any(|message| message.role == "user") {
        return Err(Refusal::Malformed("no message has the role \"user\"".to_owned()));
    }
    let words = canned_words(headers);
    Ok(if request.stream { event_stream(&words) } else { one_json(StatusCode::OK, &completion(&words)) })
}

/// What is said to everybody, with the caller's name as the agent knows it.
fn canned_words(headers: &HeaderMap) -> String {
    let caller = headers.get("x-countersign-id").and_then(|value| value.to_str().ok());
    let caller = caller.unwrap_or("somebody whom no agent has named");
    format!("Hello, {caller}. I am no model: these words are canned.")
}

fn completion(words: &str) -> Value {
    let count = words.split(' ').count();
    json!({
        "id": "chatcmpl-demo",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": words },
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": { "prompt_tokens": 0, "completion_tokens": count, "total_tokens": count },
    })
}

/// Server-sent events: a role, one event for each word, an end, and `[DONE]`.
fn event_stream(words: &str) -> Response<Answer> {
    let mut deltas = vec![(json!({ "role": "assistant", "content": "" }), Value::Null)];
    deltas.extend(words.split_inclusive(' ').map(|word| (json!({ "content": word }), Value::Null)));
    deltas.push((json!({}), json!("stop")));
    let events = deltas.into_iter().map(|(delta, finish_reason)| {
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason });
        json!({
            "id": "chatcmpl-demo",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": MODEL,
            "choices": [choice],
        })
    });
    let mut texts: Vec<String> = events.map(|event| format!("data: {event}\n\n")).collect();
    texts.push("data: [DONE]\n\n".to_owned());
    let mut interval = tokio::time::interval(WORD_PAUSE);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let events = Events { texts: texts.into_iter(), interval };
    response(StatusCode::OK, "text/event-stream", Answer::Events(events))
}

#[derive(Deserialize)]
struct EmbeddingRequest {
    model: String,
    input: Input,
    #[serde(default)]
    encoding_format: EncodingFormat,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Many(Vec<String>),
    One(String),
}

/// OpenAI's own client asks for base64 unless it is told otherwise.
#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    Base64,
    #[default]
    Float,
}

fn embeddings(body: &[u8]) -> Result<Response<Answer>, Refusal> {
    let request: EmbeddingRequest = parse(body)?;
    check_model(&request.model)?;
    let texts = match request.input {
        Input::Many(texts) => texts,
        Input::One(text) => vec![text],
    };
    let entries: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let embedding = written(&embedding(text), request.encoding_format);
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        })
        .collect();
    let words: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    let usage = json!({ "prompt_tokens": words, "total_tokens": words });
    let list = json!({ "object": "list", "data": entries, "model": MODEL, "usage": usage });
    Ok(one_json(StatusCode::OK, &list))
}

fn written(embedding: &[f32], format: EncodingFormat) -> Value {
    match format {
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = embedding.iter().flat_map(|number| number.to_le_bytes()).collect();
            Value::String(STANDARD.encode(bytes))
        }
        EncodingFormat::Float => json!(embedding),
    }
}

/// A vector of length one that depends on every byte of the text, and means nothing.
fn embedding(text: &str) -> Vec<f32> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let numbers: Vec<f32> = (0..DIMENSIONS)
        .map(|_dimension| {
            // FNV-1a, going on from the last dimension's value; the final byte keeps the empty text from being zero.
            for byte in text.bytes().chain([1]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            let [high, low, ..] = hash.to_be_bytes();
            f32::from(i16::from_be_bytes([high, low])) + 0.5
        })
        .collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    numbers.into_iter().map(|number| number / length).collect()
}

fn check_model(name: &str) -> Result<(), Refusal> {
    if name == MODEL { Ok(()) } else { Err(Refusal::Model(name.to_owned())) }
}

fn parse<'body, T: Deserialize<'body>>(body: &'body [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::Malformed(error.to_string()))
}

/// Why a request is refused, always the caller's fault.
enum Refusal {
    Malformed(String),
    Method,
    Model(String),
    Path(String),
    TooLong,
}

impl Refusal {
    fn response(&self) -> Response<Answer> {
        let (status, message) = match self {
            Self::Malformed(detail) => (StatusCode::BAD_REQUEST, format!("the request cannot be read: {detail}")),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "this path has another method".to_owned()),
            Self::Model(name) => (StatusCode::NOT_FOUND, format!("no model {name:?}, there is only {MODEL:?}")),
            Self::Path(path) => (StatusCode::NOT_FOUND, format!("nothing at {path}")),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {BODY_BYTES_MAX} bytes")),
        };
        let error = json!({ "message": message, "type": "invalid_request_error", "param": null, "code": null });
        one_json(status, &json!({ "error": error }))
    }
}

fn one_json(status: StatusCode, value: &Value) -> Response<Answer> {
    response(status, "application/json", Answer::Whole(Full::new(Bytes::from(value.to_string()))))
}

fn response(status: StatusCode, content_type: &'static str, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// The body of an answer.
enum Answer {
    Events(Events),
    Whole(Full<Bytes>),
}

/// Texts that are sent one at a time.
struct Events {
    texts: std::vec::IntoIter<String>,
    interval: Interval,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Events(events) => {
                ready!(events.interval.poll_tick(context));
                Poll::Ready(events.texts.next().map(|text| Ok(Frame::data(Bytes::from(text)))))
            }
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Events(events) => events.texts.as_slice().is_empty(),
            Self::Whole(whole) => whole.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Events(_) => SizeHint::default(),
            Self::Whole(whole) => whole.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collected(response: Result<Response<Answer>, Refusal>) -> (StatusCode, String) {
        let response = response.unwrap_or_else(|refusal| refusal.response());
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn chat_body(stream: bool) -> Vec<u8> {
        let messages = json!([{ "role": "user", "content": "Who are you?" }]);
        json!({ "model": MODEL, "messages": messages, "stream": stream }).to_string().into_bytes()
    }

    #[tokio::test]
    async fn the_streamed_words_are_those_of_the_whole_answer() {
        let headers = HeaderMap::new();
        let (_, whole) = collected(chat(&chat_body(false), &headers)).await;
        let (status, stream) = collected(chat(&chat_body(true), &headers)).await;
        assert_eq!(status, StatusCode::OK);
        let events: Vec<&str> = stream.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        let (last, events) = events.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        let words: String = events
            .iter()
            .filter_map(|event| {
                serde_json::from_str::<Value>(event).unwrap()["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect();
        assert_eq!(serde_json::from_str::<Value>(&whole).unwrap()["choices"][0]["message"]["content"], words);
    }

    #[tokio::test]
    async fn embeddings_depend_on_the_text_alone_and_have_length_one() {
        assert_eq!(embedding("a"), embedding("a"));
        assert_ne!(embedding("a"), embedding("b"));
        for text in ["", "a", "zwölf Boxkämpfer"] {
            let length: f32 = embedding(text).iter().map(|number| number * number).sum();
            assert!((length - 1.0).abs() < 1e-5, "{text}: {length}");
        }
    }

    #[tokio::test]
    async fn both_encodings_hold_the_same_numbers() {
        let Value::String(text) = written(&embedding("a"), EncodingFormat::Base64) else { panic!("no text") };
        let bytes = STANDARD.decode(text).unwrap();
        let numbers: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(numbers, embedding("a"));
    }

    #[tokio::test]
    async fn what_cannot_be_answered_is_refused_in_the_shape_of_the_api() {
        let check = async |result, expected| {
            let (status, body) = collected(result).await;
            assert_eq!(status, expected, "{body}");
            assert!(serde_json::from_str::<Value>(&body).unwrap()["error"]["message"].is_string(), "{body}");
        };
        let headers = HeaderMap::new();
        check(chat(b"{", &headers), StatusCode::BAD_REQUEST).await;
        check(chat(br#"{"model":"countersign-demo","messages":[]}"#, &headers), StatusCode::BAD_REQUEST).await;
        check(chat(br#"{"model":"gpt","messages":[]}"#, &headers), StatusCode::NOT_FOUND).await;
        check(embeddings(br#"{"model":"gpt","input":"a"}"#), StatusCode::NOT_FOUND).await;
        check(Err(Refusal::TooLong), StatusCode::PAYLOAD_TOO_LARGE).await;
    }
}
