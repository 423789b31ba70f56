//! Makes authorities and leaves with every knob, right by default: a test turns one knob and sees what happens.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a broken fixture is a failed test")]

pub(crate) mod der;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use countersign_certs::bundle::TrustBundle;
use countersign_certs::key::PrivateKey;
use countersign_certs::revocation::Revocations;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::{SpiffeId, TrustDomain};
use countersign_certs::svid::X509Svid;
use countersign_certs::time::{Clock, Timestamp};
use countersign_certs::verify::{Trust, TrustedDomain};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

/// The time of every test that does not turn the clock: 2033-05-18T03:33:20Z.
pub(crate) const NOW: u64 = 2_000_000_000;

pub(crate) const HOUR: u64 = 3600;

pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
pub(crate) const CRL_SIGN: u8 = 0x02;

pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
pub(crate) const ANY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0];

pub(crate) const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
pub(crate) const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
pub(crate) const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
pub(crate) const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
pub(crate) const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// One general name: its tag (RFC 5280 §4.2.1.6) and its bytes, whatever they are.
#[derive(Clone)]
pub(crate) struct Name(pub(crate) u8, pub(crate) Vec<u8>);

pub(crate) fn uri(text: impl AsRef<[u8]>) -> Name {
    Name(0x86, text.as_ref().to_vec())
}

pub(crate) fn dns(text: impl AsRef<[u8]>) -> Name {
    Name(0x82, text.as_ref().to_vec())
}

pub(crate) fn email(text: impl AsRef<[u8]>) -> Name {
    Name(0x81, text.as_ref().to_vec())
}

pub(crate) fn ip(bytes: &[u8]) -> Name {
    Name(0x87, bytes.to_vec())
}

/// What is written into a certificate, field by field. An absent field writes no extension.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) names: Vec<Name>,
    pub(crate) authority: Option<bool>,
    pub(crate) key_usage: Option<u8>,
    pub(crate) key_usage_critical: bool,
    pub(crate) extended_usage: Option<Vec<&'static [u8]>>,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) serial: Vec<u8>,
    pub(crate) subject: Option<String>,
    pub(crate) extensions: Vec<(&'static [u64], bool, Vec<u8>)>,
    pub(crate) algorithm: &'static SignatureAlgorithm,
    /// A public key (SubjectPublicKeyInfo) for which nobody here holds the private one.
    pub(crate) foreign_key: Option<Vec<u8>>,
}

impl Recipe {
    /// A good leaf for a client and a server.
    pub(crate) fn leaf(id: &str) -> Self {
        Self {
            names: vec![uri(id)],
            authority: Some(false),
            key_usage: Some(DIGITAL_SIGNATURE),
            key_usage_critical: true,
            extended_usage: Some(vec![SERVER_AUTH, CLIENT_AUTH]),
            not_before: NOW - HOUR,
            not_after: NOW + HOUR,
            serial: vec![0x5e, 0x01],
            subject: None,
            extensions: Vec::new(),
            algorithm: &PKCS_ECDSA_P256_SHA256,
            foreign_key: None,
        }
    }

    /// A leaf of a PKI that knows nothing of SPIFFE.
    pub(crate) fn foreign(name: Name) -> Self {
        Self { names: vec![name], ..Self::leaf("") }
    }

    /// A good authority.
    pub(crate) fn authority(subject: &str) -> Self {
        Self {
            names: Vec::new(),
            authority: Some(true),
            key_usage: Some(KEY_CERT_SIGN | CRL_SIGN),
            extended_usage: None,
            not_before: NOW - 1000 * HOUR,
            not_after: NOW + 1000 * HOUR,
            serial: vec![0xca],
            subject: Some(subject.to_owned()),
            ..Self::leaf("")
        }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(i64::try_from(self.not_before).unwrap()).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(i64::try_from(self.not_after).unwrap()).unwrap();
        params.serial_number = Some(self.serial.clone().into());
        params.distinguished_name = DistinguishedName::new();
        if let Some(subject) = &self.subject {
            params.distinguished_name.push(DnType::CommonName, subject.as_str());
        }
        params.custom_extensions = self
            .all_extensions()
            .into_iter()
            .map(|(oid, critical, content)| {
                let mut extension = CustomExtension::from_oid_content(oid, content);
                extension.set_criticality(critical);
                extension
            })
            .collect();
        params
    }

    fn all_extensions(&self) -> Vec<(&'static [u64], bool, Vec<u8>)> {
        let mut extensions = self.extensions.clone();
        if !self.names.is_empty() {
            extensions.push((SUBJECT_ALT_NAME, self.subject.is_none(), der::names(&self.names)));
        }
        if let Some(authority) = self.authority {
            extensions.push((BASIC_CONSTRAINTS, true, der::basic_constraints(authority)));
        }
        if let Some(bits) = self.key_usage {
            extensions.push((KEY_USAGE, self.key_usage_critical, der::key_usage(bits)));
        }
        if let Some(purposes) = &self.extended_usage {
            extensions.push((EXTENDED_KEY_USAGE, false, der::purposes(purposes)));
        }
        extensions
    }
}

/// A certificate with its chain and its key.
pub(crate) struct Issued {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Issued {
    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    pub(crate) fn private_key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8(Zeroizing::new(self.key.serialize_der())).unwrap()
    }

    pub(crate) fn svid(&self, name: &str) -> Arc<X509Svid> {
        Arc::new(X509Svid::new(self.chain.clone(), &self.private_key(), &san(name)).unwrap())
    }
}

/// Something that signs: a root, or an intermediate below one.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    /// What a leaf's chain holds above the leaf: nothing for a root.
    pub(crate) path: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn root(subject: &str) -> Self {
        Self::root_of(&Recipe::authority(subject))
    }

    pub(crate) fn root_of(recipe: &Recipe) -> Self {
        Self::root_with_key(recipe, KeyPair::generate_for(recipe.algorithm).unwrap())
    }

    pub(crate) fn root_with_key(recipe: &Recipe, key: KeyPair) -> Self {
        let params = recipe.params();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, path: Vec::new(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn intermediate(&self, subject: &str) -> Self {
        self.intermediate_of(&Recipe::authority(subject).with(|recipe| recipe.serial = vec![0xcb]))
    }

    pub(crate) fn intermediate_of(&self, recipe: &Recipe) -> Self {
        let issued = self.issue(recipe);
        let certificate = issued.leaf().clone();
        Self { certificate, path: issued.chain, issuer: Issuer::new(recipe.params(), issued.key) }
    }

    pub(crate) fn issue(&self, recipe: &Recipe) -> Issued {
        let key = KeyPair::generate_for(recipe.algorithm).unwrap();
        let certificate = match &recipe.foreign_key {
            None => self.sign(recipe, &key),
            Some(spki) => self.sign(recipe, &SubjectPublicKeyInfo::from_der(spki).unwrap()),
        };
        let chain = std::iter::once(certificate).chain(self.path.iter().cloned()).collect();
        Issued { chain, key }
    }

    pub(crate) fn leaf(&self, id: &str) -> Issued {
        self.issue(&Recipe::leaf(id))
    }

    fn sign(&self, recipe: &Recipe, key: &impl PublicKeyData) -> CertificateDer<'static> {
        recipe.params().signed_by(key, &self.issuer).unwrap().der().clone()
    }
}

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).unwrap()
}

pub(crate) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

pub(crate) fn san(text: &str) -> San {
    text.parse().unwrap()
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_seconds(seconds)
}

pub(crate) fn now() -> Timestamp {
    at(NOW)
}

pub(crate) fn clock() -> Clock {
    Clock::new(|| std::time::UNIX_EPOCH + Duration::from_secs(NOW))
}

pub(crate) fn trusted(name: &str, authorities: &[&Authority]) -> TrustedDomain {
    trusted_but(name, authorities, Revocations::default())
}

pub(crate) fn trusted_but(name: &str, authorities: &[&Authority], revocations: Revocations) -> TrustedDomain {
    let authorities = authorities.iter().map(|authority| authority.certificate.clone()).collect();
    let bundle = TrustBundle::new(domain(name), authorities, 1).unwrap();
    TrustedDomain { bundle, revocations: Arc::new(revocations) }
}

pub(crate) fn trust(name: &str, authority: &Authority) -> Arc<Trust> {
    Arc::new(Trust::new([trusted(name, &[authority])], &[]).unwrap())
}
