//! The configuration as used: every value parsed into its type and checked against the others.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use tracing::level_filters::LevelFilter;

use super::{PassphraseSource, file};
use crate::certs::issuance::REQUEST_BYTES_MAX;
use crate::certs::san::DnsName;
use crate::certs::settings::diagnostic::Finding;
use crate::certs::settings::duration;
use crate::certs::spiffe_id::TrustDomain;

/// Everything that a CA is told by its config file.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The namespace for which this CA signs.
    pub(crate) trust_domain: TrustDomain,
    /// DNS name in the CA's own certificate.
    pub(crate) name: Option<DnsName>,
    /// Where agents are awaited.
    pub(crate) listen: SocketAddr,
    /// Address in join tokens, `host:port`.
    pub(crate) advertise: String,
    /// Where the passphrase of the keys is; otherwise it is looked for, see [`PassphraseSource::find`].
    pub(crate) passphrase: Option<PassphraseSource>,
    /// What is logged.
    pub(crate) log_level: LevelFilter,
    /// Where things are.
    pub(crate) files: Files,
    /// How long certificates live.
    pub(crate) issuance: Issuance,
    /// What peers may cost us.
    pub(crate) limits: Limits,
}

/// The CA's files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// SQLite database.
    pub(crate) store: PathBuf,
    /// Root certificate.
    pub(crate) root: PathBuf,
    /// Certificate of the signing intermediate.
    pub(crate) intermediate: PathBuf,
    /// Its key.
    pub(crate) intermediate_key: PathBuf,
    /// Where `init` has put the root's key. `serve` never reads it, and it may be elsewhere.
    pub(crate) root_key: PathBuf,
}

/// Lifetimes of certificates.
#[derive(Debug, Clone)]
pub(crate) struct Issuance {
    /// Of a workload whose entry says nothing. One hour: short enough that expiry alone limits a theft, long enough that
    /// a CA may be away for half of it without anybody noticing.
    pub(crate) workload_ttl: Duration,
    /// Upper bound for entries.
    pub(crate) workload_ttl_max: Duration,
    /// Of a host's own certificate. A week: a host that was off over a long week-end must find its way back alone.
    pub(crate) host_ttl: Duration,
    /// How far before now a certificate begins, for clocks that are behind ours.
    pub(crate) backdate: Duration,
}

/// Bounds on what peers may ask of us.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Connections of enrolled hosts at a time.
    pub(crate) connections: usize,
    /// Of them, those of one host. An agent has one that watches and one for each request.
    pub(crate) connections_per_host: usize,
    /// Handshakes in flight; as many connections may be open without a certificate.
    pub(crate) handshakes: usize,
    /// Watch streams at a time.
    pub(crate) watchers: usize,
    /// Requests per second of one host, or of one network that shows no host's certificate.
    pub(crate) requests_per_second: u32,
    /// Certificates per minute that one host is given. A host with fifty identities that renews all of them at once stays
    /// far below.
    pub(crate) certificates_per_minute: u32,
    /// Unexpired certificates of one host, beside those that its entries add. Revoking the host names each of them to
    /// every agent, and what agents read at a time is bounded.
    pub(crate) certificates_per_host: usize,
    /// Bytes of a request's body.
    pub(crate) body_bytes: usize,
}

/// The shortest lifetime that anybody is given: below it a certificate would expire before it is in use.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(10);

/// The longest lifetime that can be configured; the intermediate itself lives for a year.
const TTL_MAX: Duration = Duration::from_secs(90 * 86_400);

const BACKDATE_MAX: Duration = Duration::from_secs(600);

pub(super) fn check(written: file::Ca, folder: &Path) -> Result<Settings, Finding> {
    let trust_domain = parsed(&written.trust_domain, TrustDomain::parse, "for example \"prod.example\"")?;
    let name = optional(written.name.as_ref(), DnsName::parse, "for example \"ca.prod.example\"")?;
    let listen =
        optional(written.listen.as_ref(), str::parse, "an IP address and a port, for example \"0.0.0.0:8443\"")?
            .unwrap_or(DEFAULT_LISTEN);
    Ok(Settings {
        advertise: advertise(written.advertise.as_ref(), name.as_ref(), listen, written.trust_domain.span())?,
        trust_domain,
        name,
        listen,
        passphrase: passphrase(written.passphrase.as_ref(), folder)?,
        log_level: log_level(written.log_level.as_ref())?,
        files: files(written.files, folder),
        issuance: issuance(&written.issuance)?,
        limits: limits(&written.limits)?,
    })
}

/// Every interface: hosts must reach the CA, and the listener is made for hostile networks.
pub(crate) const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8443);

fn advertise(
    written: Option<&Spanned<String>>,
    name: Option<&DnsName>,
    listen: SocketAddr,
    fallback: Range<usize>,
) -> Result<String, Finding> {
    if let Some(address) = written {
        let (host, port) = address.as_ref().rsplit_once(':').unwrap_or_default();
        if host.is_empty() || port.parse::<u16>().is_err() {
            let message = format!("{:?} is not an address with a port", address.as_ref());
            return Err(Finding::with_hint(address.span(), message, "for example \"ca.prod.example:8443\""));
        }
        return Ok(address.as_ref().clone());
    }
    match name {
        Some(name) => Ok(format!("{}:{}", name.as_str(), listen.port())),
        None if listen.ip().is_unspecified() => Err(Finding::with_hint(
            fallback,
            format!("join tokens would carry the address {listen}, which no host can reach"),
            "add: advertise = \"ca.prod.example:8443\", or name = \"ca.prod.example\"",
        )),
        None => Ok(listen.to_string()),
    }
}

fn passphrase(written: Option<&Spanned<String>>, folder: &Path) -> Result<Option<PassphraseSource>, Finding> {
    let Some(text) = written else { return Ok(None) };
    PassphraseSource::parse(text.as_ref(), folder).map(Some).ok_or_else(|| {
        Finding::with_hint(
            text.span(),
            "passphrase must say where the passphrase is, never what it is",
            "\"credential:ca_passphrase\" (systemd) or \"file:/etc/countersign/passphrase\"",
        )
    })
}

fn log_level(written: Option<&Spanned<String>>) -> Result<LevelFilter, Finding> {
    let known = |text: &str| match text {
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        "trace" => Ok(LevelFilter::TRACE),
        _ => Err("not a log level"),
    };
    Ok(optional(written, known, "one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"")?
        .unwrap_or(LevelFilter::INFO))
}

fn files(written: file::Files, folder: &Path) -> Files {
    let path = |name: Option<String>, default: &str| folder.join(name.as_deref().unwrap_or(default));
    Files {
        store: path(written.store, Files::STORE),
        root: path(written.root, Files::ROOT),
        intermediate: path(written.intermediate, Files::INTERMEDIATE),
        intermediate_key: path(written.intermediate_key, Files::INTERMEDIATE_KEY),
        root_key: folder.join(Files::ROOT_KEY),
    }
}

impl Files {
    /// Name of the database.
    pub(crate) const STORE: &str = "ca.sqlite";
    /// Name of the root certificate.
    pub(crate) const ROOT: &str = "root.pem";
    /// Name of the root's key, which may be taken away.
    pub(crate) const ROOT_KEY: &str = "root.key";
    /// Name of the intermediate's certificate.
    pub(crate) const INTERMEDIATE: &str = "intermediate.pem";
    /// Name of the intermediate's key.
    pub(crate) const INTERMEDIATE_KEY: &str = "intermediate.key";

    /// Where the key of a new intermediate lies until its certificate is in place.
    pub(crate) fn next_intermediate_key(&self) -> PathBuf {
        self.intermediate_key.with_added_extension("next")
    }

    /// All with their usual names.
    #[cfg(test)]
    pub(crate) fn in_folder(folder: &Path) -> Self {
        files(file::Files::default(), folder)
    }
}

impl Default for Issuance {
    fn default() -> Self {
        Self {
            workload_ttl: Duration::from_secs(3600),
            workload_ttl_max: Duration::from_secs(86_400),
            host_ttl: Duration::from_secs(7 * 86_400),
            backdate: Duration::from_secs(30),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Twice the watchers: each of them also asks for certificates.
            connections: 2048,
            connections_per_host: 8,
            handshakes: 128,
            watchers: 1024,
            requests_per_second: 100,
            certificates_per_minute: 600,
            certificates_per_host: 1024,
            body_bytes: REQUEST_BYTES_MAX,
        }
    }
}

fn issuance(written: &file::Issuance) -> Result<Issuance, Finding> {
    let default = Issuance::default();
    let workload_ttl_max = within(written.workload_ttl_max.as_ref(), default.workload_ttl_max, TTL_MIN, TTL_MAX)?;
    let default_ttl = default.workload_ttl.min(workload_ttl_max);
    Ok(Issuance {
        workload_ttl: within(written.workload_ttl.as_ref(), default_ttl, TTL_MIN, workload_ttl_max)?,
        workload_ttl_max,
        host_ttl: within(written.host_ttl.as_ref(), default.host_ttl, TTL_MIN, TTL_MAX)?,
        backdate: within(written.backdate.as_ref(), default.backdate, Duration::ZERO, BACKDATE_MAX)?,
    })
}

fn within(
    written: Option<&Spanned<String>>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, Finding> {
    let Some(text) = written else { return Ok(default) };
    let value = parsed(text, duration::parse, "a whole number and s, m, h or d, for example \"90m\"")?;
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    let (least, most) = (duration::print(least), duration::print(most));
    let message = format!("{} is out of range", duration::print(value));
    Err(Finding::with_hint(text.span(), message, format!("from {least} to {most}")))
}

fn limits(written: &file::Limits) -> Result<Limits, Finding> {
    let default = Limits::default();
    let watchers = counted(written.watchers.as_ref(), default.watchers, 1_000_000)?;
    Ok(Limits {
        // More watchers need more connections, also in a config that speaks of watchers only.
        connections: counted(written.connections.as_ref(), default.connections.max(watchers * 2), 1_000_000)?,
        connections_per_host: counted(written.connections_per_host.as_ref(), default.connections_per_host, 65_536)?,
        handshakes: counted(written.handshakes.as_ref(), default.handshakes, 65_536)?,
        watchers,
        requests_per_second: positive(written.requests_per_second.as_ref(), default.requests_per_second)?,
        certificates_per_minute: positive(written.certificates_per_minute.as_ref(), default.certificates_per_minute)?,
        certificates_per_host: counted(
            written.certificates_per_host.as_ref(),
            default.certificates_per_host,
            1_000_000,
        )?,
        body_bytes: counted(written.body_bytes.as_ref(), default.body_bytes, 1024 * 1024)?,
    })
}

fn counted(written: Option<&Spanned<u32>>, default: usize, most: usize) -> Result<usize, Finding> {
    let Some(number) = written else { return Ok(default) };
    let value = usize::try_from(*number.as_ref()).unwrap_or(usize::MAX);
    if (1..=most).contains(&value) {
        return Ok(value);
    }
    Err(Finding::with_hint(number.span(), format!("{value} is out of range"), format!("from 1 to {most}")))
}

fn positive(written: Option<&Spanned<u32>>, default: u32) -> Result<u32, Finding> {
    match written {
        None => Ok(default),
        Some(number) if *number.as_ref() == 0 => {
            Err(Finding::with_hint(number.span(), "0 would refuse every request", "1 or more"))
        }
        Some(number) => Ok(*number.as_ref()),
    }
}

fn parsed<T, E: std::fmt::Display>(
    text: &Spanned<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
    hint: &str,
) -> Result<T, Finding> {
    parse(text.as_ref()).map_err(|error| Finding::with_hint(text.span(), error.to_string(), hint))
}

fn optional<T, E: std::fmt::Display>(
    text: Option<&Spanned<String>>,
    parse: impl FnOnce(&str) -> Result<T, E>,
    hint: &str,
) -> Result<Option<T>, Finding> {
    text.map(|text| parsed(text, parse, hint)).transpose()
}
