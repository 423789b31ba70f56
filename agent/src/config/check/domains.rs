//! Whom this agent can be, and whom it can believe: certificates in files, the enrollment, other trust domains.

use std::ops::Range;
use std::path::{Path, PathBuf};

use countersign_certs::bundle::TrustBundle;
use countersign_certs::pem;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::store;
use countersign_certs::verify::Trust;
use tokio_rustls::rustls::pki_types::CertificateDer;
use toml::Spanned;

use super::super::checked::{CertificateFiles, ExtraTrustDomain};
use super::super::file;
use super::scalars::{absolute, parsed};
use crate::in_words::in_one_line;
use countersign_certs::settings::diagnostic::Finding;

/// The trust domains whose IDs can ever be verified here.
pub(super) struct KnownDomains(Option<Vec<TrustDomain>>);

impl KnownDomains {
    /// With a state folder that holds no enrollment yet, nothing can be said.
    pub(super) fn of(file: &file::Agent, enrolled: Option<&TrustDomain>) -> Self {
        if file.state_dir.is_some() && enrolled.is_none() {
            return Self(None);
        }
        let of_certificate = |certificate: &file::Certificate| match certificate.identity.get_ref().parse() {
            Ok(San::Spiffe(id)) => Some(id.trust_domain().clone()),
            Ok(San::Dns(_) | San::Email(_) | San::Ip(_)) | Err(_) => None,
        };
        let extra = file.trust_domain.iter().filter_map(|extra| extra.name.get_ref().parse().ok());
        let domains = file.certificate.iter().filter_map(of_certificate).chain(extra).chain(enrolled.cloned());
        Self(Some(domains.collect()))
    }

    pub(super) fn check(
        &self,
        trust_domain: Option<&TrustDomain>,
        span: Range<usize>,
        what: &str,
    ) -> Result<(), Finding> {
        let (Some(known), Some(domain)) = (&self.0, trust_domain) else { return Ok(()) };
        if known.contains(domain) {
            return Ok(());
        }
        let known = known.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("{what} can never match: trust domain {domain} is not trusted here, known are: {known}");
        Err(Finding::with_hint(span, message, "add a [[trust_domain]] with its name and bundle, or correct the name"))
    }
}

/// Where the identities of routes come from.
pub(super) struct Identities<'config> {
    pub(super) certificates: &'config [CertificateFiles],
    pub(super) enrolled: Option<&'config TrustDomain>,
    pub(super) has_state: bool,
}

impl Identities<'_> {
    pub(super) fn check(&self, text: &Spanned<String>) -> Result<San, Finding> {
        let identity: San = parsed(text)?;
        if self.certificates.iter().any(|files| files.identity == identity) {
            return Ok(identity);
        }
        let San::Spiffe(id) = &identity else {
            let hint = "add a [[certificate]] with this identity";
            return Err(Finding::with_hint(text.span(), format!("only files can hold the identity {identity}"), hint));
        };
        if !self.has_state {
            let hint = "set state_dir and enroll this host, or add a [[certificate]] with this identity";
            return Err(Finding::with_hint(
                text.span(),
                format!("nothing gives this agent the identity {identity}"),
                hint,
            ));
        }
        match self.enrolled {
            Some(enrolled) if enrolled != id.trust_domain() => Err(Finding::new(
                text.span(),
                format!("{identity} is of trust domain {}, this host has joined {enrolled}", id.trust_domain()),
            )),
            Some(_) | None => Ok(identity),
        }
    }
}

pub(super) fn certificates(written: &[file::Certificate]) -> Result<Vec<CertificateFiles>, Finding> {
    let mut checked: Vec<CertificateFiles> = Vec::new();
    for certificate in written {
        let identity = parsed(&certificate.identity)?;
        if checked.iter().any(|other| other.identity == identity) {
            return Err(Finding::new(
                certificate.identity.span(),
                format!("{identity} has two [[certificate]] entries"),
            ));
        }
        checked.push(CertificateFiles {
            identity,
            chain: absolute(&certificate.chain)?,
            key: absolute(&certificate.key)?,
            bundle: absolute(&certificate.bundle)?,
        });
    }
    Ok(checked)
}

pub(super) fn trust_domains(
    written: &[file::ExtraTrustDomain],
    files: &mut Vec<PathBuf>,
) -> Result<Vec<ExtraTrustDomain>, Finding> {
    let mut checked = Vec::new();
    for extra in written {
        let domain: TrustDomain = parsed(&extra.name)?;
        let file = absolute(&extra.bundle)?;
        let bundle = read_bundle(domain, &file).map_err(|error| Finding::new(extra.bundle.span(), error))?;
        files.push(file.clone());
        checked.push(ExtraTrustDomain { file, bundle });
    }
    Ok(checked)
}

/// Reads a bundle, in PEM or as a SPIFFE bundle in JSON.
pub(in crate::config) fn read_bundle(domain: TrustDomain, path: &Path) -> Result<TrustBundle, String> {
    let refused = |error: &dyn std::error::Error| format!("the bundle cannot be used: {}", in_one_line(error));
    let bytes = store::read(path).map_err(|error| refused(&error))?;
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let bundle = match std::str::from_utf8(&bytes) {
        Ok(json) if is_json => TrustBundle::from_json(domain, json),
        Ok(_) | Err(_) => TrustBundle::from_pem(domain, &bytes),
    };
    bundle.map_err(|error| refused(&error))
}

/// Where the authorities of a foreign PKI are. They are read when a config is taken up; that they can be is checked here.
pub(super) fn foreign_bundle(written: Option<&Spanned<PathBuf>>) -> Result<Option<PathBuf>, Finding> {
    let Some(written) = written else { return Ok(None) };
    let path = absolute(written)?;
    read_authorities(&path).map_err(|error| Finding::new(written.span(), error))?;
    Ok(Some(path))
}

/// Reads the authorities of a foreign PKI, in PEM.
pub(crate) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let refused = |error: &dyn std::error::Error| format!("the bundle {path:?} cannot be used: {}", in_one_line(error));
    let text = store::read(path).map_err(|error| refused(&error))?;
    let authorities = pem::certificates(&text).map_err(|error| refused(&error))?;
    Trust::new([], &authorities).map_err(|error| refused(&error))?;
    Ok(authorities)
}
