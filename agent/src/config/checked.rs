//! The config as used: every name resolved, every value in range, every reference answered.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::bundle::TrustBundle;
use countersign_certs::san::San;
use countersign_certs::tls::KeyExchange;
use countersign_credentials::api_key::KeyIndex;
use countersign_credentials::discovery::Transport;
use countersign_credentials::grant::Wanted;
use countersign_credentials::introspection::IntrospectionSettings;
use countersign_credentials::jwk::KeySet;
use countersign_credentials::password::PasswordHash;
use countersign_credentials::reach::AddressRule;
use countersign_credentials::url::HttpUrl;
use http::{HeaderName, StatusCode};
use tokio_rustls::rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::address::{BackendAddress, Endpoint, ListenAddress};
use super::audit::Audit;
use super::secret::Template;
use crate::authenticate::shown::KeyPlaces;
use crate::given::place::Form;
use crate::limit::definition::{Limit, Store};
use crate::policy::condition::ServiceFacts;
use crate::policy::credential::Demand;
use crate::policy::role::Roles;
use crate::policy::rule::Policy;

/// The whole config.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// What `enroll` wrote; none if every identity comes from files.
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) workers: usize,
    pub(crate) key_exchange: KeyExchange,
    pub(crate) control: Control,
    pub(crate) audit: Audit,
    pub(crate) log_level: tracing::Level,
    pub(crate) limits: Limits,
    pub(crate) rate_limits: Vec<Limit>,
    /// Where shared ones are counted.
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) commands: Vec<Arc<SecretCommand>>,
    pub(crate) trust_domains: Vec<ExtraTrustDomain>,
    pub(crate) certificates: Vec<CertificateFiles>,
    pub(crate) inbounds: Vec<Inbound>,
    pub(crate) outbounds: Vec<Outbound>,
    /// Every file that this config was made from besides itself; a change of one is a change of the config.
    pub(crate) files: Vec<PathBuf>,
}

/// Authorities of a trust domain beside our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExtraTrustDomain {
    pub(crate) file: PathBuf,
    pub(crate) bundle: TrustBundle,
}

/// Where the control socket is if the config does not say.
pub(crate) const CONTROL_SOCKET: &str = "/run/countersign/agent.sock";

/// Where the operator looks at the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) socket: PathBuf,
    pub(crate) metrics: Option<std::net::SocketAddr>,
}

/// A bound on everything that a peer can make grow.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Connections of one listener, of callers who have proved who they are.
    pub(crate) connections: u32,
    /// Connections to one inbound of one identity, user or service, and to one outbound of one user of this host.
    pub(crate) connections_per_peer: u32,
    /// Handshakes under way on one worker, and connections of it on which nobody has proved who they are.
    pub(crate) handshakes: u32,
    pub(crate) handshake_timeout: Duration,
    /// Bytes of all header fields of a message.
    pub(crate) header_bytes: u32,
    pub(crate) streams_per_connection: u32,
    /// How long a connection without a request is kept.
    pub(crate) idle_connection: Duration,
    /// How long a request or a TCP connection may go without a byte in either direction.
    pub(crate) idle_stream: Duration,
    pub(crate) connect_timeout: Duration,
    /// Connections of one worker to one backend.
    pub(crate) backend_connections: u32,
    /// How long a connection to a backend waits for reuse.
    pub(crate) backend_idle: Duration,
    /// How long running requests may go on when the agent stops or a certificate nears its end.
    pub(crate) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_peer: 1_000,
            handshakes: 256,
            handshake_timeout: Duration::from_secs(10),
            header_bytes: 64 * 1024,
            streams_per_connection: 256,
            idle_connection: Duration::from_secs(5 * 60),
            // A model may think for minutes before its first token, and a total would cut long answers.
            idle_stream: Duration::from_secs(15 * 60),
            connect_timeout: Duration::from_secs(5),
            // A model server has a few requests under way; WebSockets and events may be thousands.
            backend_connections: 4_096,
            // Shorter than the 5 s after which uvicorn, Node.js and llama.cpp close an idle connection.
            backend_idle: Duration::from_secs(4),
            drain: Duration::from_secs(30),
        }
    }
}

/// What callers may show besides certificates, by what is known of it now.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Accepted {
    pub(crate) api_keys: Option<ApiKeys>,
    pub(crate) passwords: Option<Passwords>,
    pub(crate) issuers: Vec<Arc<Issuer>>,
}

/// Somebody who issues tokens.
#[derive(Debug, Clone)]
pub(crate) struct Issuer {
    pub(crate) name: Arc<str>,
    /// What is expected of its tokens.
    pub(crate) tokens: countersign_credentials::jwt::Issuer,
    pub(crate) keys: KeySource,
    /// How often its keys are fetched anew.
    pub(crate) refresh: Duration,
    /// How long keys count that cannot be fetched anew.
    pub(crate) stale_max: Duration,
    /// The claim that lists groups: a name, or a path that begins with `/`.
    pub(crate) groups_claim: Box<str>,
    /// Claims that roles or conditions may look at, with their types.
    pub(crate) claims: BTreeMap<Box<str>, ClaimType>,
    /// How it is asked about tokens that only it can read.
    pub(crate) introspection: Option<Introspection>,
}

/// The type of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimType {
    Boolean,
    Number,
    Text,
    Texts,
}

/// How an issuer is asked about a token (RFC 7662).
#[derive(Clone)]
pub(crate) struct Introspection {
    /// None to take what its metadata names.
    pub(crate) endpoint: Option<HttpUrl>,
    pub(crate) client_id: String,
    pub(crate) client_secret: Zeroizing<String>,
    /// How long an answer counts.
    pub(crate) cache: Duration,
    pub(crate) expected: IntrospectionSettings,
}

impl std::fmt::Debug for Introspection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Introspection({})", self.client_id)
    }
}

impl PartialEq for Introspection {
    fn eq(&self, other: &Self) -> bool {
        let all = |one: &Self| {
            (one.endpoint.clone(), one.client_id.clone(), one.client_secret.clone(), one.cache, one.expected.clone())
        };
        all(self) == all(other)
    }
}

/// Where the keys of an issuer are.
#[derive(Clone)]
pub(crate) enum KeySource {
    File { path: PathBuf, keys: Arc<KeySet>, digest: [u8; 32] },
    Fetched { server: WebServer, jwks_uri: Option<HttpUrl>, transport: Transport },
}

/// A server of the web: by which roots it is believed, and which addresses may be contacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebServer {
    pub(crate) roots: Arc<[CertificateDer<'static>]>,
    pub(crate) reach: Arc<AddressRule>,
}

impl PartialEq for KeySource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { digest, .. }, Self::File { digest: of_other, .. }) => digest == of_other,
            (
                Self::Fetched { server, jwks_uri, transport },
                Self::Fetched { server: other, jwks_uri: other_uri, transport: other_transport },
            ) => (server, jwks_uri, transport) == (other, other_uri, other_transport),
            (Self::File { .. }, Self::Fetched { .. }) | (Self::Fetched { .. }, Self::File { .. }) => false,
        }
    }
}

impl PartialEq for Issuer {
    /// Whether what is known of the one counts for the other.
    fn eq(&self, other: &Self) -> bool {
        self.believes_as(other)
            && self.keys == other.keys
            && (self.refresh, self.stale_max) == (other.refresh, other.stale_max)
            && self.introspection == other.introspection
    }
}

impl Issuer {
    /// Whether keys that are known of the one are the other's.
    pub(crate) fn has_keys_of(&self, other: &Self) -> bool {
        let named =
            |issuer: &Self| (issuer.tokens.settings().issuer.clone(), issuer.tokens.settings().algorithms.clone());
        self.keys == other.keys && named(self) == named(other)
    }

    /// Whether the same is expected of tokens, and the same is read in them. Where keys come from and when is another matter.
    pub(crate) fn believes_as(&self, other: &Self) -> bool {
        let expected = |issuer: &Self| issuer.introspection.as_ref().map(|asked| asked.expected.clone());
        self.name == other.name
            && self.tokens == other.tokens
            && self.groups_claim == other.groups_claim
            && self.claims == other.claims
            && expected(self) == expected(other)
    }
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::File { .. } => "File",
            Self::Fetched { .. } => "Fetched",
        })
    }
}

/// The hashes of passwords by the names of their users.
#[derive(Debug, Clone)]
pub(crate) struct Passwords {
    pub(crate) file: PathBuf,
    pub(crate) hashes: HashMap<Box<str>, Arc<PasswordHash>>,
    /// Nobody's password, as dear to check as theirs.
    pub(crate) decoy: Arc<PasswordHash>,
}

impl PartialEq for Passwords {
    /// A decoy is made anew each time.
    fn eq(&self, other: &Self) -> bool {
        (&self.file, &self.hashes) == (&other.file, &other.hashes)
    }
}

/// API keys, as they stand in their file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiKeys {
    pub(crate) file: PathBuf,
    pub(crate) places: KeyPlaces,
    pub(crate) index: KeyIndex,
}

impl Accepted {
    /// Where API keys may stand in a request.
    pub(crate) fn key_places(&self) -> Option<&KeyPlaces> {
        self.api_keys.as_ref().map(|keys| &keys.places)
    }

    /// Every API key.
    pub(crate) fn keys(&self) -> Option<&KeyIndex> {
        self.api_keys.as_ref().map(|keys| &keys.index)
    }
}

/// An identity whose files somebody else keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    pub(crate) identity: San,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
}

/// Terminates mTLS and forwards to a local service.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    pub(crate) name: Arc<str>,
    pub(crate) identity: San,
    pub(crate) listen: ListenAddress,
    pub(crate) backend: BackendAddress,
    /// What a request must show.
    pub(crate) demand: Demand,
    /// A token that whoever holds it can show is not enough.
    pub(crate) bound_tokens_only: bool,
    pub(crate) policy: Arc<Policy>,
    /// The service as conditions see it.
    pub(crate) service_facts: ServiceFacts,
    pub(crate) inject: Arc<[Injection]>,
    pub(crate) token: Option<Arc<BackendToken>>,
    /// Authorities for peers without a SPIFFE ID.
    pub(crate) foreign_bundle: Option<PathBuf>,
}

/// A credential that every forwarded request gets.
#[derive(Debug, Clone)]
pub(crate) struct Injection {
    pub(crate) form: Form,
    pub(crate) value: Template,
    /// What is used when the service does not take the value.
    pub(crate) next: Option<Template>,
    /// Statuses by which it says so.
    pub(crate) refused_by: Vec<StatusCode>,
}

/// A token that the backend is given, and that somebody else gives out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackendToken {
    pub(crate) grant: GrantKind,
    pub(crate) endpoint: TokenEndpoint,
    pub(crate) server: WebServer,
    pub(crate) client_id: String,
    pub(crate) proof: ClientProof,
    pub(crate) wanted: Wanted,
    /// How long a token is used of which is not said how long it counts.
    pub(crate) lifetime_unnamed: Duration,
    /// Where it stands in requests.
    pub(crate) header: HeaderName,
}

/// For whom it is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrantKind {
    /// For the agent (RFC 6749 §4.4).
    ClientCredentials,
    /// For the caller, in exchange for the token that it shows (RFC 8693).
    TokenExchange,
}

/// Where it is given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenEndpoint {
    /// Where the metadata of this issuer say.
    Issuer {
        issuer: String,
        transport: Transport,
    },
    Url(HttpUrl),
}

/// How the agent proves who it is, where it is given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientProof {
    /// By the certificate of this identity.
    Identity(San),
    Secret(Template),
}

/// Which backend a token is for. One that was given out for another is never sent to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFor {
    pub(crate) inbound: Arc<str>,
    pub(crate) backend: BackendAddress,
}

/// A program that prints a secret.
#[derive(PartialEq, Eq)]
pub(crate) struct SecretCommand {
    pub(crate) name: Arc<str>,
    /// The whole path.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// How often it is run.
    pub(crate) refresh: Duration,
    /// All that its environment holds.
    pub(crate) environment: Vec<(String, Zeroizing<String>)>,
}

impl std::fmt::Debug for SecretCommand {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "SecretCommand({})", self.name)
    }
}

/// Takes clear text from local programs and originates mTLS.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    pub(crate) name: Arc<str>,
    pub(crate) identity: San,
    pub(crate) listen: ListenAddress,
    pub(crate) is_tcp: bool,
    /// Who must answer: one of these.
    pub(crate) service: Arc<[San]>,
    pub(crate) foreign_bundle: Option<PathBuf>,
    pub(crate) endpoints: Vec<Endpoint>,
    /// Other hosts may use it without proving who they are.
    pub(crate) unsafe_listen_beyond_loopback: bool,
    /// Which programs may do what; none means whoever can reach the socket.
    pub(crate) policy: Option<Arc<Policy>>,
    /// The service as conditions see it.
    pub(crate) service_facts: ServiceFacts,
}

impl Agent {
    /// The identities that the CA must certify: named by a route and not kept in files.
    pub(crate) fn enrolled_identities(&self) -> Vec<&San> {
        let named = self.inbounds.iter().map(|inbound| &inbound.identity);
        let named = named.chain(self.outbounds.iter().map(|outbound| &outbound.identity));
        let of_tokens = self.inbounds.iter().filter_map(|inbound| match &inbound.token.as_ref()?.proof {
            ClientProof::Identity(identity) => Some(identity),
            ClientProof::Secret(_) => None,
        });
        let named = named.chain(of_tokens);
        let mut wanted: Vec<&San> =
            named.filter(|identity| !self.certificates.iter().any(|files| files.identity == **identity)).collect();
        wanted.sort();
        wanted.dedup();
        wanted
    }

    /// The foreign authorities of a route: those that it names, or those beside an identity that is itself foreign.
    pub(crate) fn foreign_bundle<'config>(
        &'config self,
        identity: &San,
        named: Option<&'config PathBuf>,
    ) -> Option<&'config PathBuf> {
        let beside = || match identity {
            San::Spiffe(_) => None,
            San::Dns(_) | San::Email(_) | San::Ip(_) => {
                self.certificates.iter().find(|files| files.identity == *identity).map(|files| &files.bundle)
            }
        };
        named.or_else(beside)
    }

    /// The foreign authorities of all routes.
    pub(crate) fn foreign_bundles(&self) -> Vec<&PathBuf> {
        let of_inbounds =
            self.inbounds.iter().map(|route| self.foreign_bundle(&route.identity, route.foreign_bundle.as_ref()));
        let of_outbounds =
            self.outbounds.iter().map(|route| self.foreign_bundle(&route.identity, route.foreign_bundle.as_ref()));
        of_inbounds.chain(of_outbounds).flatten().collect()
    }
}
