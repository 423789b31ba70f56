//! The client's side of one HTTP/1.1 connection, as cheap as it can be: the proxy is to be the slower one.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const SERVER_NAME: &str = "server.bench.example";

/// An answer's head is larger than this only if something is wrong.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where connections go, and how.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

impl Target {
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// With the client's certificate of this folder. Every handshake is a full one and does the same work with every
    /// contender: TLS 1.3, X25519, AES-128-GCM.
    pub(crate) fn mutual_tls(address: SocketAddr, folder: &Path) -> io::Result<Self> {
        let chain = CertificateDer::pem_file_iter(folder.join("client.pem")).and_then(Iterator::collect);
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key")).map_err(io::Error::other)?;
        let config = tls_client()?.with_client_auth_cert(chain.map_err(io::Error::other)?, key);
        Ok(Self::tls(address, config.map_err(io::Error::other)?))
    }

    /// The same without a certificate: whoever asks has to show something else.
    pub(crate) fn anonymous_tls(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::tls(address, tls_client()?.with_no_client_auth()))
    }

    fn tls(address: SocketAddr, mut config: ClientConfig) -> Self {
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { address, tls: Some(Arc::new(config)) }
    }
}

fn tls_client() -> io::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider))))
}

/// A GET for this path.
pub(crate) fn request(path: &str) -> Vec<u8> {
    request_with(path, &[])
}

/// The same with more header lines, each as `name: value`.
pub(crate) fn request_with(path: &str, headers: &[String]) -> Vec<u8> {
    let more: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("GET {path} HTTP/1.1\r\nhost: {SERVER_NAME}\r\nuser-agent: countersign-load\r\naccept: */*\r\n{more}\r\n")
        .into()
}

/// A GET for this path, the only one of its connection.
pub(crate) fn last_request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {SERVER_NAME}\r\nuser-agent: countersign-load\r\nconnection: close\r\n\r\n")
        .into()
}

/// One connection and what has arrived on it.
pub(crate) struct Connection {
    stream: Box<dyn Duplex>,
    received: BytesMut,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl Connection {
    pub(crate) async fn open(target: &Target) -> io::Result<Self> {
        let tcp = TcpStream::connect(target.address).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Duplex> = match &target.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
                Box::new(TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?)
            }
        };
        Ok(Self { stream, received: BytesMut::new() })
    }

    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await
    }

    /// Waits for more, and returns all that has arrived and is not yet taken.
    pub(crate) async fn receive(&mut self) -> io::Result<&mut BytesMut> {
        self.received.reserve(16 * 1024);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy closed the connection")),
            _ => Ok(&mut self.received),
        }
    }

    /// Sends a request and takes its whole answer, which is a 200 with a length. Returns the length.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<u64> {
        match self.ask(request).await? {
            Head { status: 200, length } => Ok(length),
            Head { status, .. } => Err(io::Error::other(format!("the answer is {status}"))),
        }
    }

    /// Sends a request and takes its whole answer, whatever its status.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<Head> {
        self.send(request).await?;
        let head = loop {
            if let Some(head) = take_head(self.receive().await?)? {
                break head;
            }
        };
        self.skip(head.length).await?;
        Ok(head)
    }

    async fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        loop {
            let here = self.received.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.received.advance(here);
            left -= u64::try_from(here).map_err(io::Error::other)?;
            if left == 0 {
                return Ok(());
            }
            // A large body comes in large pieces.
            self.received.reserve(256 * 1024);
            self.receive().await?;
        }
    }
}

/// What the head of an answer says.
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Bytes of the body.
    pub(crate) length: u64,
}

/// Takes the head of an answer if it is whole.
pub(crate) fn take_head(received: &mut BytesMut) -> io::Result<Option<Head>> {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        let whole = received.len() > HEAD_BYTES_MAX;
        return if whole { Err(io::Error::other("an answer without end of head")) } else { Ok(None) };
    };
    let head = received.split_to(end + 4);
    let head = std::str::from_utf8(&head).map_err(io::Error::other)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.split(' ').next());
    let status = status.unwrap_or_default().parse().map_err(io::Error::other)?;
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |(_, length)| length.trim().parse().map_err(io::Error::other))?;
    Ok(Some(Head { status, length }))
}

/// Takes any certificate. What a client would check is the same for every contender, and no part of what is measured.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
