//! Bodies on their way through: frame by frame, never gathered, counted, and cut when what allowed them is gone.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, PROXY_AUTHORIZATION};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use super::pool::Lease;
use crate::authenticate::shown::{DPOP, KeyPlaces};
use crate::authorize::{Ongoing, Permit};
use crate::given::Given;
use crate::live::Side;
use crate::record::{RequestRecord, Transfer};
use crate::refusal::{Refusal, Withdrawn};
use crate::request::{remove_identity, remove_spellings};

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body broke off")]
    Broken(#[from] hyper::Error),
    #[error(transparent)]
    Withdrawn(#[from] Withdrawn),
}

/// What a peer sends, on its way to the backend.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Incoming,
    ongoing: Rc<Ongoing>,
    transfer: Rc<Transfer>,
    /// What the agent alone says to this backend.
    given: Option<Arc<Given>>,
}

impl RequestBody {
    /// The body of a permitted request.
    pub(crate) fn new(inner: Incoming, permit: &Permit, record: &RequestRecord) -> Self {
        permit.ongoing().connection().request_began();
        permit.ongoing().asks(true);
        Self { inner, ongoing: Rc::clone(permit.ongoing()), transfer: record.transfer(), given: None }
    }

    /// Has no trailer go on that spells the name of something that is given.
    pub(crate) fn without_given(&mut self, given: &Arc<Given>) {
        self.given = Some(Arc::clone(given));
    }

    /// An identity header or a credential in a trailer is as forged as one in the head.
    fn without_forged_trailers(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut trailers = match frame.into_trailers() {
            Ok(trailers) => trailers,
            Err(data) => return data,
        };
        remove_identity(&mut trailers);
        remove_credentials(&mut trailers, self.ongoing.connection().worker().snapshot().accepted.key_places());
        self.given.iter().for_each(|given| given.remove_from(&mut trailers));
        Frame::trailers(trailers)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.ongoing.asks(false);
        // Until here the connection must not rest: an answer may be whole before the question is.
        self.ongoing.connection().request_ended();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Poll::Ready(withdrawn) = this.ongoing.signal().poll_cut(Side::Question, context) {
            return Poll::Ready(Some(Err(withdrawn.into())));
        }
        let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(context)) else { return Poll::Ready(None) };
        let frame = frame?;
        this.ongoing.touch();
        this.transfer.add_received(frame.data_ref().map_or(0, Bytes::len));
        Poll::Ready(Some(Ok(this.without_forged_trailers(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A credential is for the head (RFC 9110 §6.5.1); one in a trailer has been looked at by nobody.
fn remove_credentials(trailers: &mut HeaderMap, places: Option<&KeyPlaces>) {
    let everywhere = [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, DPOP, HeaderName::from_static("x-api-key")];
    for name in everywhere.iter().chain(places.into_iter().flat_map(|places| &places.headers)) {
        remove_spellings(trailers, name);
    }
}

/// What the peer gets.
pub(crate) enum ResponseBody {
    /// An answer of our own: a refusal, or what is left of limits.
    Own(Full<Bytes>),
    /// The backend's answer. Boxed, because an answer is moved many times on its way through the HTTP library.
    Forwarded(Box<ForwardedBody>),
    /// Nothing: the connection goes on as something else.
    Upgraded,
}

/// The backend's answer on its way to the peer. It holds the permit, and closes the record.
pub(crate) struct ForwardedBody {
    inner: Incoming,
    permit: Permit,
    record: RequestRecord,
    lease: Option<Lease>,
    target: Rc<str>,
}

impl ForwardedBody {
    /// The body of an answer to a permitted request.
    pub(crate) fn new(
        inner: Incoming,
        permit: Permit,
        record: RequestRecord,
        lease: Option<Lease>,
        target: Rc<str>,
    ) -> Self {
        Self { inner, permit, record, lease, target }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let ongoing = self.permit.ongoing();
        if let Poll::Ready(withdrawn) = ongoing.signal().poll_cut(Side::Answer, context) {
            self.record.close(Some(&Refusal::Withdrawn(withdrawn.clone())));
            return Poll::Ready(Some(Err(withdrawn.into())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => {
                ongoing.touch();
                self.record.transfer().add_sent(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let text = BodyError::Broken(error);
                let refusal = match self.lease.as_ref().and_then(Lease::withdrawn) {
                    Some(withdrawn) => withdrawn.into(),
                    None => Refusal::AnswerBroken { target: self.target.to_string(), detail: text.detail() },
                };
                self.record.close(Some(&refusal));
                Poll::Ready(Some(Err(text)))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }

    /// The answer is whole: the connection can be used again.
    fn finish(&mut self) {
        self.record.close(None);
        self.permit.ongoing().answered();
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl BodyError {
    fn detail(&self) -> String {
        crate::in_words::in_one_line(self)
    }
}

impl Drop for ForwardedBody {
    fn drop(&mut self) {
        // hyper does not ask a body that it knows to be at its end.
        if self.inner.is_end_stream() {
            self.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Self::Forwarded(body) => body.poll(context),
            Self::Upgraded => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Forwarded(body) => body.inner.is_end_stream(),
            Self::Upgraded => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Forwarded(body) => body.inner.size_hint(),
            Self::Upgraded => SizeHint::with_exact(0),
        }
    }
}
