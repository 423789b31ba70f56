//! The config file as written. Field names are the keys; every value keeps its place in the text.

use serde::Deserialize;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ca {
    pub(super) trust_domain: Spanned<String>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) advertise: Option<Spanned<String>>,
    pub(super) passphrase: Option<Spanned<String>>,
    pub(super) log_level: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) files: Files,
    #[serde(default)]
    pub(super) issuance: Issuance,
    #[serde(default)]
    pub(super) limits: Limits,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Files {
    pub(super) store: Option<String>,
    pub(super) root: Option<String>,
    pub(super) intermediate: Option<String>,
    pub(super) intermediate_key: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Issuance {
    pub(super) workload_ttl: Option<Spanned<String>>,
    pub(super) workload_ttl_max: Option<Spanned<String>>,
    pub(super) host_ttl: Option<Spanned<String>>,
    pub(super) backdate: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) connections: Option<Spanned<u32>>,
    pub(super) connections_per_host: Option<Spanned<u32>>,
    pub(super) handshakes: Option<Spanned<u32>>,
    pub(super) watchers: Option<Spanned<u32>>,
    pub(super) requests_per_second: Option<Spanned<u32>>,
    pub(super) certificates_per_minute: Option<Spanned<u32>>,
    pub(super) certificates_per_host: Option<Spanned<u32>>,
    pub(super) body_bytes: Option<Spanned<u32>>,
}
