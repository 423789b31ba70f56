//! Certificates of every kind, right by default: a test changes one thing and sees what happens. Keys are made anew for each
//! test and live in its temporary folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::wait::unix_now;

/// An hour in seconds.
pub const HOUR: i64 = 3600;

/// A public key infrastructure: a root and an intermediate that signs.
pub struct TestPki {
    root: Certificate,
    intermediate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf says. Times are in seconds from now.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Every name, typed.
    pub names: Vec<SanType>,
    /// Beginning of its validity.
    pub begins: i64,
    /// End of its validity.
    pub ends: i64,
    /// What it may be used for.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Signs itself, instead of being signed.
    pub self_signed: bool,
    /// The subject's common name. It names nobody.
    pub common_name: Option<String>,
}

/// A certificate chain, leaf first, and its key.
pub struct Issued {
    /// Without the root.
    pub chain: Vec<Certificate>,
    /// PKCS #8.
    pub key: KeyPair,
    /// The leaf's serial number, as hexadecimal digits.
    pub serial: String,
}

/// Where an [`Issued`] was written.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM, leaf first.
    pub chain: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
}

impl Leaf {
    /// A good certificate for this SPIFFE ID.
    pub fn of(id: &str) -> Self {
        Self::named(SanType::URI(id.try_into().unwrap()))
    }

    /// A good certificate of a PKI that knows nothing of SPIFFE, for a DNS name.
    pub fn of_dns(name: &str) -> Self {
        Self::named(SanType::DnsName(name.try_into().unwrap()))
    }

    /// The same for an e-mail address.
    pub fn of_email(address: &str) -> Self {
        Self::named(SanType::Rfc822Name(address.try_into().unwrap()))
    }

    fn named(name: SanType) -> Self {
        Self {
            names: vec![name],
            begins: -HOUR,
            ends: HOUR,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            self_signed: false,
            common_name: None,
        }
    }

    /// With one more name.
    #[must_use]
    pub fn and(mut self, name: SanType) -> Self {
        self.names.push(name);
        self
    }

    /// With another validity, in seconds from now.
    #[must_use]
    pub fn valid(mut self, begins: i64, ends: i64) -> Self {
        (self.begins, self.ends) = (begins, ends);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = params(self.common_name.as_deref(), self.begins, self.ends);
        params.subject_alt_names.clone_from(&self.names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&self.usages);
        params.is_ca = IsCa::ExplicitNoCa;
        params
    }
}

impl TestPki {
    /// A new one. `name` only tells it from others in logs.
    pub fn new(name: &str) -> Self {
        let root_key = KeyPair::generate().unwrap();
        let root = authority(&format!("{name} root"));
        let root_certificate = root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate().unwrap();
        let params = authority(&format!("{name} intermediate"));
        let intermediate = params.signed_by(&key, &root_issuer).unwrap();
        Self { root: root_certificate, intermediate, issuer: Issuer::new(params, key) }
    }

    /// Signs a leaf.
    pub fn issue(&self, leaf: &Leaf) -> Issued {
        let key = KeyPair::generate().unwrap();
        let params = leaf.params();
        let serial = hexadecimal(params.serial_number.as_ref().unwrap().as_ref());
        if leaf.self_signed {
            return Issued { chain: vec![params.self_signed(&key).unwrap()], key, serial };
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: vec![certificate, self.intermediate.clone()], key, serial }
    }

    /// Signs a good leaf and writes it as `NAME.pem` and `NAME.key`.
    pub fn issue_files(&self, folder: &Path, name: &str, leaf: &Leaf) -> CertificateFiles {
        let files = CertificateFiles::named(folder, name);
        self.issue(leaf).write(&files);
        files
    }

    /// Writes the root, which is what peers are to trust.
    pub fn write_bundle(&self, path: &Path) {
        std::fs::write(path, self.root.pem()).unwrap();
    }
}

impl CertificateFiles {
    /// `NAME.pem` and `NAME.key` in this folder.
    pub fn named(folder: &Path, name: &str) -> Self {
        Self { chain: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }
}

impl Issued {
    /// The chain for the TLS library.
    pub fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|certificate| certificate.der().clone()).collect()
    }

    /// The chain as PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(Certificate::pem).collect()
    }

    /// The key for the TLS library.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Writes chain and key, each in one step by renaming, as renewal tools do.
    pub fn write(&self, files: &CertificateFiles) {
        write_by_rename(&files.key, &self.key.serialize_pem());
        write_by_rename(&files.chain, &self.chain_pem());
    }

    /// Writes over what is there, byte by byte in the same file.
    pub fn write_in_place(&self, files: &CertificateFiles) {
        write_private(&files.key, &self.key.serialize_pem());
        write_private(&files.chain, &self.chain_pem());
    }
}

/// Writes a file beside the old one, and puts it in its place.
pub fn write_by_rename(path: &Path, text: &str) {
    let new = path.with_extension("new");
    write_private(&new, text);
    std::fs::rename(&new, path).unwrap();
}

fn write_private(path: &Path, text: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(Some(name), -1000 * HOUR, 1000 * HOUR);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(common_name: Option<&str>, begins: i64, ends: i64) -> CertificateParams {
    let at = |seconds| OffsetDateTime::from_unix_timestamp(unix_now() + seconds).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    (params.not_before, params.not_after) = (at(begins), at(ends));
    params.serial_number = Some(serial());
    params
}

/// Unlike every other of this process; short ones are easy to find in logs.
fn serial() -> SerialNumber {
    static NEXT: AtomicU64 = AtomicU64::new(0x5e00_0000_0000_0001);
    SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
