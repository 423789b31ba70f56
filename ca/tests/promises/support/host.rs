//! An enrolled host.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_certs::bundle::TrustBundle;
use countersign_certs::csr;
use countersign_certs::issuance::{ISSUE_PATH, TrustUpdate, WATCH_PATH};
use countersign_certs::key::{KeyAlgorithm, PrivateKey};
use countersign_certs::pem;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, TrustDomain, ca_id};
use countersign_certs::svid::X509Svid;
use countersign_certs::tls::{ClientSide, KeyExchange, alpn};
use countersign_certs::verify::{Trust, TrustedDomain};
use http_body_util::BodyExt;
use hyper::{Method, Response};
use serde_json::json;

use super::{Answer, Connection, TRUST_DOMAIN, TestCa, clock};

/// How long a line of the watch stream may take where one is expected.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// A host with its own certificate.
pub(crate) struct Host {
    address: SocketAddr,
    client: ClientSide,
}

/// The stream of whom to trust.
pub(crate) struct Watch {
    body: hyper::body::Incoming,
    buffered: VecDeque<u8>,
    // Dropping it would end the connection.
    _connection: Connection,
}

impl Host {
    /// Spends a token.
    pub(crate) async fn enroll(ca: &TestCa, token: &str) -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        let answer = ca.spend(token, &csr::create_unnamed(&key).unwrap()).await;
        let id: SpiffeId = serde_json::from_value(answer.body["id"].clone()).unwrap();
        let identity = X509Svid::new(pem::certificates(answer.chain().as_bytes()).unwrap(), &key, &San::Spiffe(id));
        let update: TrustUpdate = serde_json::from_value(answer.body["trust"].clone()).unwrap();
        Self { address: ca.address(), client: client(Arc::new(identity.unwrap()), &update) }
    }

    /// The same host with another identity, for example a workload's.
    pub(crate) fn showing(&self, key: &PrivateKey, chain: &str, id: &str) -> Self {
        let chain = pem::certificates(chain.as_bytes()).unwrap();
        let identity = X509Svid::new(chain, key, &San::Spiffe(SpiffeId::parse(id).unwrap())).unwrap();
        Self { address: self.address, client: ClientSide { identity: Arc::new(identity), ..self.client.clone() } }
    }

    /// The same host, when the CA listens elsewhere.
    pub(crate) fn at(&self, address: SocketAddr) -> Self {
        Self { address, client: self.client.clone() }
    }

    pub(crate) fn svid(&self) -> &X509Svid {
        &self.client.identity
    }

    pub(crate) async fn connect(&self) -> std::io::Result<Connection> {
        Connection::open(self.address, &self.client).await
    }

    /// Connects and asks for anything: a client learns only then that its certificate was refused.
    pub(crate) async fn connect_and_ask(&self) -> Result<Answer, Box<dyn std::error::Error>> {
        Ok(self.connect().await?.post("/", &json!({})).await?)
    }

    /// Asks for a certificate with a new key.
    pub(crate) async fn issue(&self, id: &str) -> Answer {
        let key = PrivateKey::generate(KeyAlgorithm::P256).unwrap();
        self.issue_for(id, &csr::create_unnamed(&key).unwrap()).await
    }

    pub(crate) async fn issue_for(&self, id: &str, csr: &str) -> Answer {
        let message = json!({ "id": id, "csr": csr });
        self.connect().await.unwrap().post(ISSUE_PATH, &message).await.unwrap()
    }

    /// Opens the watch stream.
    pub(crate) async fn watch(&self) -> Watch {
        let mut connection = self.connect().await.unwrap();
        let response = connection.send(Method::GET, WATCH_PATH, Bytes::new()).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = Response::into_body(response);
        Watch { body, buffered: VecDeque::new(), _connection: connection }
    }
}

impl Watch {
    /// The next line; none if the stream ended.
    pub(crate) async fn next(&mut self) -> Option<TrustUpdate> {
        tokio::time::timeout(LINE_DEADLINE, self.line()).await.expect("a line or the end of the stream")
    }

    async fn line(&mut self) -> Option<TrustUpdate> {
        loop {
            if let Some(end) = self.buffered.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = self.body.frame().await?.ok()?;
            self.buffered.extend(frame.into_data().unwrap_or_default());
        }
    }
}

fn client(identity: Arc<X509Svid>, update: &TrustUpdate) -> ClientSide {
    let domain = TrustDomain::parse(TRUST_DOMAIN).unwrap();
    let bundle = TrustBundle::from_json(domain.clone(), &update.bundles[&domain]).unwrap();
    let trusted = TrustedDomain { bundle, revocations: Arc::new(update.revocations.clone()) };
    ClientSide {
        identity,
        trust: Arc::new(Trust::new([trusted], &[]).unwrap()),
        expected: [San::Spiffe(ca_id(&domain).unwrap())].into(),
        alpn: vec![alpn::HTTP_1_1.to_vec()],
        key_exchange: KeyExchange::default(),
        clock: clock(),
    }
}
