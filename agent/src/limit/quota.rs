//! What a caller is told that asks for its own limits. The agent answers by itself, and using it up costs nothing.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use countersign_limits::quota::whole_seconds;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::Notice;
use super::counting::{Counting, Holding};
use super::live::LiveLimit;
use super::who::Who;
use crate::authenticate::caller::Caller;
use crate::authorize;
use crate::connection::Connection;
use crate::forward::answer::Answer;
use crate::forward::body::ResponseBody;
use crate::record::RequestRecord;
use crate::refusal::Refusal;
use crate::request::NormalRequest;

/// Where it is asked. On an inbound that has limits no backend sees this path.
const PATH: &str = "/.well-known/countersign/quota";

/// The limits that hold for a caller.
#[derive(Serialize)]
struct Told<'limit> {
    limits: Vec<ToldLimit<'limit>>,
}

/// One of them.
#[derive(Serialize)]
struct ToldLimit<'limit> {
    limit: &'limit str,
    by: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    requests: Option<ToldRequests>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    concurrent: Option<ToldConcurrent>,
}

#[derive(Serialize)]
struct ToldRequests {
    requests: u32,
    window_seconds: u64,
    burst: u32,
    /// None while the store that counts is away.
    remaining: Option<u32>,
    reset_seconds: Option<u64>,
}

#[derive(Serialize)]
struct ToldConcurrent {
    concurrent: u32,
    under_way: u32,
}

/// The limits of the route, if this request asks what is left of them.
pub(crate) fn asked(
    connection: &Connection,
    request: &NormalRequest,
) -> Result<Option<Arc<[Arc<LiveLimit>]>>, Refusal> {
    if request.target.path().as_str() != PATH {
        return Ok(None);
    }
    let Some(limits) = authorize::own_answer(connection)? else { return Ok(None) };
    if request.method != Method::GET {
        let words = format!("{} of {PATH}, which is to be read only", request.method);
        return Err(Refusal::Denied { reason: "method_not_allowed", words, observed: None });
    }
    Ok(Some(limits))
}

/// Answers it.
pub(crate) async fn answer(
    limits: &[Arc<LiveLimit>],
    connection: &Rc<Connection>,
    caller: &Caller,
    record: &mut RequestRecord,
) -> Answer {
    let who = Who::of_request(connection, caller);
    let (holding, fields) = Counting::of(limits, &who).told(connection.worker()).await;
    record.limited(Notice { hit: None, fields });
    record.status(StatusCode::OK);
    let told = Told { limits: holding.iter().map(told).collect() };
    let text = serde_json::to_string(&told).unwrap_or_default() + "\n";
    let mut response = Response::new(ResponseBody::Own(Full::new(Bytes::from(text))));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Answer::Own(response)
}

fn told(holding: &Holding) -> ToldLimit<'_> {
    let definition = &holding.limit.definition;
    ToldLimit {
        limit: &definition.name,
        by: definition.by.as_str(),
        requests: definition.quota.map(|quota| ToldRequests {
            requests: quota.requests(),
            window_seconds: quota.window().as_secs(),
            burst: quota.burst(),
            remaining: holding.standing.map(|standing| standing.remaining),
            reset_seconds: holding.standing.map(|standing| whole_seconds(standing.reset)),
        }),
        concurrent: definition
            .concurrent
            .map(|concurrent| ToldConcurrent { concurrent, under_way: holding.under_way() }),
    }
}
