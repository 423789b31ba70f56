//! A TLS peer that shows what it likes and says what it likes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
};

use crate::http::Client;
use crate::pki::Issued;

/// An open TLS connection.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// How long a read may take.
const SILENCE: Duration = Duration::from_secs(30);

/// A client that believes any server.
pub struct HostilePeer {
    config: ClientConfig,
    asks_for: Option<ServerName<'static>>,
}

/// How a knock at a door ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Knock {
    /// With this TLS alert.
    Alert(AlertDescription),
    /// The connection was closed, without an alert that we saw.
    Closed,
    /// A request was answered, with this status.
    Answered(u16),
}

impl HostilePeer {
    /// Shows this certificate; none if there is none. Speaks HTTP/1.1.
    pub fn showing(issued: Option<&Issued>) -> Self {
        Self::with(issued.map(|issued| (issued.chain_der(), issued.private_key())))
    }

    /// Shows what a PEM file holds: chain and key, as somebody who has stolen it.
    ///
    /// # Panics
    /// It holds no chain or no key.
    pub fn from_pem(path: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(path).unwrap().map(Result::unwrap).collect();
        Self::with(Some((chain, PrivateKeyDer::from_pem_file(path).unwrap())))
    }

    fn with(certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
        let mut config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { config, asks_for: None }
    }

    /// Asks for this name in its hello (SNI), in place of none.
    ///
    /// # Panics
    /// It is no name.
    #[must_use]
    pub fn asking_for(mut self, name: &str) -> Self {
        self.asks_for = Some(name.to_owned().try_into().unwrap());
        self
    }

    /// Offers these protocols instead.
    #[must_use]
    pub fn speaking(mut self, protocols: &[&[u8]]) -> Self {
        self.config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self
    }

    /// Connects and shakes hands. In TLS 1.3 a client is done before the server has looked at its certificate: a refusal
    /// shows at the first read.
    ///
    /// # Errors
    /// The server refuses before.
    pub fn connect(&self, address: SocketAddr) -> io::Result<TlsStream> {
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(SILENCE))?;
        tcp.set_write_timeout(Some(SILENCE))?;
        tcp.set_nodelay(true)?;
        let name = self.asks_for.clone().unwrap_or_else(|| ServerName::IpAddress(address.ip().into()));
        let connection = ClientConnection::new(Arc::new(self.config.clone()), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    /// A connection on which HTTP/1.1 can be spoken.
    ///
    /// # Errors
    /// The server refuses before the end of the handshake.
    pub fn client(&self, address: SocketAddr) -> io::Result<Client> {
        self.connect(address).map(Client::over)
    }

    /// Asks for `/` and says how that ended.
    pub fn knock(&self, address: SocketAddr) -> Knock {
        self.send(address, b"GET / HTTP/1.1\r\nhost: service.test\r\n\r\n")
    }

    /// Sends a raw HTTP/1.1 request on a connection of its own and says how that ended.
    pub fn send(&self, address: SocketAddr, request: &[u8]) -> Knock {
        match self.client(address).and_then(|mut client| {
            // What the server has to say was perhaps said before we were done; it is read all the same.
            client.send(request).ok();
            client.head()
        }) {
            Ok(head) => Knock::Answered(head.status),
            Err(error) => alert_of(&error).map_or(Knock::Closed, Knock::Alert),
        }
    }
}

/// The TLS alert behind an error.
pub fn alert_of(error: &io::Error) -> Option<AlertDescription> {
    if let Error::AlertReceived(alert) = error.get_ref()?.downcast_ref::<Error>()? { Some(*alert) } else { None }
}

/// Reads until the connection ends, and says how: an orderly end is no error.
///
/// # Errors
/// As the connection ended.
pub fn read_to_end(stream: &mut (impl Read + Write)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).map(|_| bytes)
}

#[derive(Debug)]
struct AnyServer(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is offered".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
