//! The ca.toml that `init` writes: every key with its default and the reason for it.

use std::net::SocketAddr;
use std::path::Path;

use super::checked::{Issuance, Limits};
use super::{PassphraseSource, print_duration};
use crate::certs::san::DnsName;
use crate::certs::spiffe_id::TrustDomain;

/// What differs from CA to CA.
pub(crate) struct Template<'a> {
    /// The namespace.
    pub(crate) trust_domain: &'a TrustDomain,
    /// DNS name in the CA's own certificate.
    pub(crate) name: Option<&'a DnsName>,
    /// Where agents are awaited.
    pub(crate) listen: SocketAddr,
    /// Where the keys' passphrase was found, if there is one.
    pub(crate) passphrase: Option<&'a PassphraseSource>,
}

/// The text of the file.
pub(crate) fn write(template: &Template<'_>) -> String {
    let Template { trust_domain, name, listen, passphrase } = template;
    let port = listen.port();
    let (name, advertised) = match name {
        Some(name) => (format!("name = \"{}\"", name.as_str()), format!("{}:{port}", name.as_str())),
        None => ("# name = \"ca.prod.example\"".to_owned(), listen.to_string()),
    };
    let passphrase = match passphrase {
        Some(PassphraseSource::Credential(credential)) => format!("passphrase = \"credential:{credential}\""),
        Some(PassphraseSource::File(path)) => format!("passphrase = {}", quoted(path)),
        Some(PassphraseSource::Terminal) | None => "# passphrase = \"credential:ca_passphrase\"".to_owned(),
    };
    let Issuance { workload_ttl, workload_ttl_max, host_ttl, backdate } = Issuance::default();
    let Limits {
        connections,
        connections_per_host,
        handshakes,
        watchers,
        requests_per_second,
        certificates_per_minute,
        certificates_per_host,
        body_bytes,
    } = Limits::default();
    let [workload_ttl, workload_ttl_max, host_ttl, backdate] =
        [workload_ttl, workload_ttl_max, host_ttl, backdate].map(print_duration);
    format!(
        r##"# Configuration of countersign-ca. Lines that begin with "# key = " show the default.
#
# root.key signs only intermediates: `serve` does not need it. Take it away from this host (onto a medium that lies in a
# safe), and bring it back once a year for `countersign-ca intermediate renew`. root.pem must stay.

# Every identity that this CA signs begins with spiffe://{trust_domain}/. It cannot be changed afterwards.
trust_domain = "{trust_domain}"

# DNS name in the CA's own certificate, none without this key.
{name}

# Where agents are awaited: IP address and port.
listen = "{listen}"

# Address that join tokens carry; `name` with the port of `listen`, if not given, and without a name `listen` itself.
# advertise = "{advertised}"

# Where the passphrase of the intermediate's key is: "credential:NAME" (systemd's LoadCredential=) or "file:PATH" (mode
# 0600). Without this key the credential ca_passphrase is looked for, then the terminal is asked.
{passphrase}

# One of error, warn, info, debug, trace.
# log_level = "info"

[files]
# Relative to this file.
# store = "ca.sqlite"
# root = "root.pem"
# intermediate = "intermediate.pem"
# intermediate_key = "intermediate.key"

[issuance]
# Lifetime of a workload's certificate if its entry says nothing, and the most that an entry may say.
# workload_ttl = "{workload_ttl}"
# workload_ttl_max = "{workload_ttl_max}"
# Lifetime of a host's own certificate: how long a host may be off and still come back without a new join token.
# host_ttl = "{host_ttl}"
# How far before now a certificate begins, for hosts whose clock is behind.
# backdate = "{backdate}"

[limits]
# Connections of enrolled hosts at a time, and of one host. Each host that watches for revocations holds one of them.
# connections = {connections}
# connections_per_host = {connections_per_host}
# Handshakes in flight; as many connections may be open without a host's certificate (hosts that enroll). One network (an IPv4
# address, an IPv6 /64) has at most an eighth of each. When all are taken, the oldest silent one gives way.
# handshakes = {handshakes}
# Hosts that watch for revocations at a time, once each.
# watchers = {watchers}
# Requests per second of one host, or of one network that shows no host's certificate.
# requests_per_second = {requests_per_second}
# Certificates per minute that one host is given.
# certificates_per_minute = {certificates_per_minute}
# Unexpired certificates that one host may have; each of its entries adds 16. If the host is revoked, every agent is told
# each of them.
# certificates_per_host = {certificates_per_host}
# Bytes of one request's body.
# body_bytes = {body_bytes}
"##
    )
}

/// A TOML string needs its quotes and backslashes escaped.
fn quoted(path: &Path) -> String {
    toml::Value::String(format!("file:{}", path.display())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(passphrase: Option<&PassphraseSource>) -> String {
        let listen = "0.0.0.0:8443".parse().unwrap();
        let trust_domain = TrustDomain::parse("prod.example").unwrap();
        let name = DnsName::parse("ca.prod.example").unwrap();
        write(&Template { trust_domain: &trust_domain, name: Some(&name), listen, passphrase })
    }

    #[test]
    fn the_written_file_is_read_back() {
        for source in [
            None,
            Some(PassphraseSource::Terminal),
            Some(PassphraseSource::Credential("x".into())),
            Some(PassphraseSource::File("/a \"b\\c".into())),
        ] {
            let read = super::super::parse(Path::new("/d/ca.toml"), &template(source.as_ref())).unwrap();
            assert_eq!(read.passphrase, source.filter(|source| *source != PassphraseSource::Terminal));
        }
    }

    #[test]
    fn every_default_that_is_shown_is_the_default() {
        let text = template(None);
        let shown: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
        let shown = super::super::parse(Path::new("/d/ca.toml"), &shown).unwrap();
        let silent = super::super::parse(Path::new("/d/ca.toml"), &text).unwrap();
        assert_eq!(
            format!("{:?}{:?}", shown.issuance, shown.limits),
            format!("{:?}{:?}", silent.issuance, silent.limits)
        );
        assert_eq!(format!("{:?}{}", shown.files, shown.advertise), format!("{:?}{}", silent.files, silent.advertise));
    }

    fn uncomment(line: &str) -> &str {
        match line.strip_prefix("# ") {
            Some(rest) if rest.split(' ').nth(1) == Some("=") && !rest.contains(" = \" ") => rest,
            _ => line,
        }
    }
}
