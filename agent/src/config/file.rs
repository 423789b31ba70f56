//! The config as written: field by field what stands in `agent.toml`, with the places where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use toml::Spanned;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Agent {
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) workers: Option<Spanned<usize>>,
    pub(crate) require_post_quantum: Option<bool>,
    #[serde(default)]
    pub(crate) control: Control,
    #[serde(default)]
    pub(crate) audit: Audit,
    #[serde(default)]
    pub(crate) log: Log,
    #[serde(default)]
    pub(crate) limits: Limits,
    #[serde(default)]
    pub(crate) limit: Vec<Spanned<RateLimit>>,
    pub(crate) store: Option<Spanned<Store>>,
    pub(crate) api_keys: Option<Spanned<ApiKeys>>,
    pub(crate) passwords: Option<Passwords>,
    #[serde(default)]
    pub(crate) issuer: Vec<Issuer>,
    #[serde(default)]
    pub(crate) conditions: Conditions,
    #[serde(default)]
    pub(crate) secret_command: Vec<SecretCommand>,
    #[serde(default)]
    pub(crate) trust_domain: Vec<ExtraTrustDomain>,
    #[serde(default)]
    pub(crate) role: Vec<Role>,
    #[serde(default)]
    pub(crate) certificate: Vec<Certificate>,
    #[serde(default)]
    pub(crate) inbound: Vec<Inbound>,
    #[serde(default)]
    pub(crate) outbound: Vec<Outbound>,
}

/// `[control]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Control {
    pub(crate) socket: Option<Spanned<PathBuf>>,
    pub(crate) metrics: Option<Spanned<String>>,
}

/// `[audit]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Audit {
    pub(crate) output: Option<Spanned<String>>,
    pub(crate) format: Option<Spanned<String>>,
    pub(crate) folder: Option<Spanned<PathBuf>>,
    pub(crate) segment_bytes: Option<Spanned<u64>>,
    pub(crate) segment_age: Option<Spanned<String>>,
    pub(crate) retention: Option<Spanned<String>>,
    pub(crate) keep_bytes: Option<Spanned<u64>>,
    pub(crate) when_full: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) headers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) query: Vec<Spanned<String>>,
    pub(crate) patterns: Option<bool>,
    #[serde(default)]
    pub(crate) sink: Vec<Spanned<AuditSink>>,
}

/// `[[audit.sink]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditSink {
    pub(crate) name: Spanned<String>,
    pub(crate) kind: Spanned<String>,
    pub(crate) address: Option<Spanned<String>>,
    pub(crate) url: Option<Spanned<String>>,
    pub(crate) path: Option<Spanned<PathBuf>>,
    pub(crate) bundle: Option<Spanned<PathBuf>>,
    pub(crate) chain: Option<Spanned<PathBuf>>,
    pub(crate) key: Option<Spanned<PathBuf>>,
    pub(crate) format: Option<Spanned<String>>,
    pub(crate) when_full: Option<Spanned<String>>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) level: Option<Spanned<String>>,
}

/// `[limits]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limits {
    pub(crate) connections: Option<Spanned<u32>>,
    pub(crate) connections_per_peer: Option<Spanned<u32>>,
    pub(crate) handshakes: Option<Spanned<u32>>,
    pub(crate) handshake_timeout: Option<Spanned<String>>,
    pub(crate) header_bytes: Option<Spanned<u32>>,
    pub(crate) streams_per_connection: Option<Spanned<u32>>,
    pub(crate) idle_connection: Option<Spanned<String>>,
    pub(crate) idle_stream: Option<Spanned<String>>,
    pub(crate) connect_timeout: Option<Spanned<String>>,
    pub(crate) backend_connections: Option<Spanned<u32>>,
    pub(crate) backend_idle: Option<Spanned<String>>,
    pub(crate) drain: Option<Spanned<String>>,
}

/// `[[limit]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RateLimit {
    pub(crate) name: Spanned<String>,
    pub(crate) by: Spanned<String>,
    pub(crate) requests: Option<Spanned<String>>,
    pub(crate) burst: Option<Spanned<u32>>,
    pub(crate) concurrent: Option<Spanned<u32>>,
    pub(crate) members: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) roles: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) inbounds: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) only_named: Option<Spanned<bool>>,
    pub(crate) shared: Option<Spanned<bool>>,
    pub(crate) mode: Option<Spanned<String>>,
}

/// `[store]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) url: Spanned<String>,
    pub(crate) user: Option<Spanned<String>>,
    pub(crate) password: Option<Spanned<String>>,
    pub(crate) bundle: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(crate) unsafe_clear_text_beyond_loopback: bool,
    pub(crate) timeout: Option<Spanned<String>>,
    pub(crate) when_away: Option<Spanned<String>>,
    pub(crate) share: Option<Spanned<u32>>,
}

/// `[api_keys]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeys {
    pub(crate) file: Option<Spanned<PathBuf>>,
    pub(crate) headers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) query: Option<Spanned<String>>,
}

/// `[passwords]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Passwords {
    pub(crate) file: Spanned<PathBuf>,
}

/// `[[issuer]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) name: Spanned<String>,
    pub(crate) issuer: Spanned<String>,
    pub(crate) audiences: Spanned<Vec<String>>,
    pub(crate) algorithms: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) types: Option<Spanned<String>>,
    pub(crate) jwks_uri: Option<Spanned<String>>,
    pub(crate) jwks_file: Option<Spanned<PathBuf>>,
    pub(crate) bundle: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(crate) private_addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) unsafe_http_on_loopback: bool,
    pub(crate) leeway: Option<Spanned<String>>,
    pub(crate) age_max: Option<Spanned<String>>,
    pub(crate) lifetime_max: Option<Spanned<String>>,
    pub(crate) refresh: Option<Spanned<String>>,
    pub(crate) stale_max: Option<Spanned<String>>,
    pub(crate) groups_claim: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) claims: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(crate) introspection: Option<Spanned<Introspection>>,
}

/// `[issuer.introspection]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Introspection {
    pub(crate) endpoint: Option<Spanned<String>>,
    pub(crate) client_id: String,
    pub(crate) client_secret: Spanned<String>,
    pub(crate) cache: Option<Spanned<String>>,
    pub(crate) lifetime_unnamed: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) unsafe_any_audience: bool,
}

/// `[conditions]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conditions {
    pub(crate) zone: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) headers: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) query: Vec<Spanned<String>>,
}

/// `[inbound.policy]` or `[outbound.policy]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyFile {
    pub(crate) file: Spanned<PathBuf>,
    pub(crate) mode: Option<Spanned<String>>,
}

/// `[[secret_command]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretCommand {
    pub(crate) name: Spanned<String>,
    pub(crate) command: Spanned<Vec<String>>,
    pub(crate) refresh: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) environment: Vec<Spanned<String>>,
}

/// `[[trust_domain]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExtraTrustDomain {
    pub(crate) name: Spanned<String>,
    pub(crate) bundle: Spanned<PathBuf>,
}

/// `[[role]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    pub(crate) name: Spanned<String>,
    #[serde(default)]
    pub(crate) members: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) includes: Vec<Spanned<String>>,
}

/// `[[certificate]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) identity: Spanned<String>,
    pub(crate) chain: Spanned<PathBuf>,
    pub(crate) key: Spanned<PathBuf>,
    pub(crate) bundle: Spanned<PathBuf>,
}

/// `[[inbound]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inbound {
    pub(crate) name: Spanned<String>,
    pub(crate) identity: Spanned<String>,
    pub(crate) listen: Spanned<String>,
    pub(crate) backend: Spanned<String>,
    #[serde(default)]
    pub(crate) unsafe_backend_beyond_loopback: bool,
    pub(crate) foreign_bundle: Option<Spanned<PathBuf>>,
    pub(crate) require: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) any_of: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub(crate) bound_tokens_only: bool,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, Spanned<String>>,
    pub(crate) policy: Option<PolicyFile>,
    #[serde(default)]
    pub(crate) allow: Vec<Spanned<Rule>>,
    #[serde(default)]
    pub(crate) deny: Vec<Spanned<Rule>>,
    #[serde(default)]
    pub(crate) inject: OneOrMany<Inject>,
    pub(crate) token: Option<BackendToken>,
}

/// `[[inbound.allow]]`, `[[inbound.deny]]` and those of `[[outbound]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) mode: Option<Spanned<String>>,
    pub(crate) roles: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) via: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) networks: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) paths: Option<Spanned<Vec<Spanned<String>>>>,
    pub(crate) when: Option<Spanned<String>>,
}

/// `[inbound.inject]` or several `[[inbound.inject]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inject {
    pub(crate) header: Option<Spanned<String>>,
    pub(crate) query: Option<Spanned<String>>,
    pub(crate) basic_user: Option<Spanned<String>>,
    pub(crate) value: Option<Spanned<String>>,
    pub(crate) password: Option<Spanned<String>>,
    pub(crate) next: Option<Spanned<String>>,
    pub(crate) refused_by: Option<Spanned<Vec<u16>>>,
}

/// `[inbound.token]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendToken {
    pub(crate) grant: Spanned<String>,
    pub(crate) endpoint: Option<Spanned<String>>,
    pub(crate) issuer: Option<Spanned<String>>,
    pub(crate) bundle: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(crate) private_addresses: Vec<Spanned<String>>,
    #[serde(default)]
    pub(crate) unsafe_http_on_loopback: bool,
    pub(crate) client_id: Spanned<String>,
    pub(crate) client_secret: Option<Spanned<String>>,
    pub(crate) identity: Option<Spanned<String>>,
    pub(crate) scope: Option<Spanned<String>>,
    #[serde(default)]
    pub(crate) audience: OneOrMany<String>,
    #[serde(default)]
    pub(crate) resource: OneOrMany<String>,
    pub(crate) lifetime_unnamed: Option<Spanned<String>>,
    pub(crate) header: Option<Spanned<String>>,
}

/// `[[outbound]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Outbound {
    pub(crate) name: Spanned<String>,
    pub(crate) identity: Spanned<String>,
    pub(crate) listen: Spanned<String>,
    #[serde(default)]
    pub(crate) unsafe_listen_beyond_loopback: bool,
    pub(crate) protocol: Option<Spanned<String>>,
    pub(crate) service: Spanned<OneOrMany<String>>,
    pub(crate) foreign_bundle: Option<Spanned<PathBuf>>,
    pub(crate) endpoints: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, Spanned<String>>,
    pub(crate) policy: Option<PolicyFile>,
    #[serde(default)]
    pub(crate) allow: Vec<Spanned<Rule>>,
    #[serde(default)]
    pub(crate) deny: Vec<Spanned<Rule>>,
}

/// A value or a list of them. Written by hand because serde's untagged enums lose the place of an error.
#[derive(Debug)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
    }
}

struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("one value or a list of them")
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::deserialize(text.into_deserializer()).map(|one| OneOrMany(vec![one]))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, table: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(table)).map(|one| OneOrMany(vec![one]))
    }
}
