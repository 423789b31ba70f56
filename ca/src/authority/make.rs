//! A new authority: a root for ten years and an intermediate for one.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{Authority, AuthorityError};
use crate::build::{calendar, random_serial};
use crate::certs::key::{KeyAlgorithm, PrivateKey, SigningPair};
use crate::certs::spiffe_id::TrustDomain;
use crate::certs::time::{Timestamp, Validity};

const DAY: u64 = 86_400;

/// Ten years, leap days included.
const ROOT_LIFETIME: Duration = Duration::from_secs(3653 * DAY);

/// One year.
const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(366 * DAY);

/// Both begin a little in the past, for hosts whose clock is behind at the first enrollment.
const BACKDATE: Duration = Duration::from_secs(600);

/// A new authority and its keys, not yet on disk.
pub(crate) struct Made {
    /// The certificates.
    pub(crate) authority: Authority,
    /// Signs intermediates; can be taken offline.
    pub(crate) root_key: PrivateKey,
    /// Signs everything else.
    pub(crate) intermediate_key: PrivateKey,
}

/// Makes keys and certificates.
pub(crate) fn make(
    trust_domain: &TrustDomain,
    algorithm: KeyAlgorithm,
    now: Timestamp,
) -> Result<Made, AuthorityError> {
    let root_key = PrivateKey::generate(algorithm)?;
    let intermediate_key = PrivateKey::generate(algorithm)?;
    let root_pair = root_key.key_pair()?;
    let validity = validity(now, ROOT_LIFETIME);
    let root = CertificateDer::from(root_params(trust_domain, validity)?.self_signed(&root_pair)?);
    let issuer = Issuer::from_ca_cert_der(&root, root_pair)?;
    let (params, _validity) = intermediate_params(trust_domain, now, validity)?;
    let intermediate = intermediate(&params, &intermediate_key.key_pair()?, &issuer)?;
    Ok(Made { authority: Authority::new(trust_domain.clone(), root, intermediate)?, root_key, intermediate_key })
}

fn validity(now: Timestamp, lifetime: Duration) -> Validity {
    Validity { not_before: now.minus(BACKDATE), not_after: now.plus(lifetime) }
}

fn root_params(trust_domain: &TrustDomain, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut params = authority_params(trust_domain, "root", validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // A signing certificate SHOULD itself be an SVID whose ID has no path (X509-SVID.md §3.2).
    let id = format!("spiffe://{trust_domain}").try_into()?;
    params.subject_alt_names = vec![SanType::URI(id)];
    Ok(params)
}

/// An intermediate in every detail but the signature. It does not outlive its root.
pub(super) fn intermediate_params(
    trust_domain: &TrustDomain,
    now: Timestamp,
    root: Validity,
) -> Result<(CertificateParams, Validity), AuthorityError> {
    let validity = validity(now, INTERMEDIATE_LIFETIME).intersection(&root);
    let mut params = authority_params(trust_domain, "intermediate", validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let id = format!("spiffe://{trust_domain}").try_into()?;
    params.subject_alt_names = vec![SanType::URI(id)];
    Ok((params, validity))
}

/// Signs it with the root's key.
pub(super) fn intermediate(
    params: &CertificateParams,
    key: &SigningPair,
    issuer: &Issuer<'_, SigningPair>,
) -> Result<CertificateDer<'static>, AuthorityError> {
    Ok(params.signed_by(key, issuer)?.into())
}

/// What root and intermediate have in common. No name constraints: verifiers in wide use refuse every chain with a
/// constraint on URIs, whether the leaf obeys it or not.
fn authority_params(
    trust_domain: &TrustDomain,
    kind: &str,
    validity: Validity,
) -> Result<CertificateParams, AuthorityError> {
    let serial = random_serial().map_err(|_no_randomness| rcgen::Error::RingUnspecified)?;
    let (not_before, not_after) = calendar(validity).ok_or(rcgen::Error::Time)?;
    let mut params = CertificateParams::default();
    params.not_before = not_before;
    params.not_after = not_after;
    params.distinguished_name = DistinguishedName::new();
    // The serial in the name keeps two authorities of one trust domain apart, also where only names are compared.
    let tail: String = serial.to_string().chars().take(8).collect();
    // RFC 5280 appendix A.1 allows 64 characters of common name; the trust domain may be longer.
    let domain: String = trust_domain.as_str().chars().take(30).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{domain} Countersign {kind} {tail}"));
    params.serial_number = Some(serial.as_bytes().to_vec().into());
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}
