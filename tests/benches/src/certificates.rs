//! A CA of the bench's own, a client and a server. Every contender gets the same ones: P-256, with SPIFFE ID and DNS name.

use std::fs;
use std::io;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// Writes `ca.pem`, and for `client` and `server` each `NAME.pem`, `NAME.key` and, for HAProxy, `NAME-with-key.pem`.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let ca_key = KeyPair::generate().map_err(io::Error::other)?;
    let ca = ca_parameters();
    let ca_pem = ca.self_signed(&ca_key).map_err(io::Error::other)?.pem();
    fs::write(folder.join("ca.pem"), ca_pem)?;

    let issuer = Issuer::new(ca, ca_key);
    for name in ["client", "server"] {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let leaf = leaf_parameters(name).and_then(|parameters| parameters.signed_by(&key, &issuer));
        let (pem, key_pem) = (leaf.map_err(io::Error::other)?.pem(), key.serialize_pem());
        fs::write(folder.join(format!("{name}.pem")), &pem)?;
        write_secret(&folder.join(format!("{name}.key")), &key_pem)?;
        write_secret(&folder.join(format!("{name}-with-key.pem")), &format!("{pem}{key_pem}"))?;
    }
    Ok(())
}

fn ca_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, "bench CA");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn leaf_parameters(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.subject_alt_names = vec![
        SanType::URI(format!("spiffe://bench.example/{name}").try_into()?),
        SanType::DnsName(format!("{name}.bench.example").try_into()?),
    ];
    parameters.is_ca = IsCa::ExplicitNoCa;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// The agent refuses a key that others can read.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
