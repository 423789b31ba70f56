//! The identities that this agent shows and the bundles by which it knows others: enrolled, renewed and watched, or read
//! from files that somebody else keeps.

pub(crate) mod state;

pub(crate) mod ca;

pub(crate) mod enroll;

pub(crate) mod files;

pub(crate) mod keeper;

pub(crate) mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use countersign_certs::bundle::{BundleError, TrustBundle};
use countersign_certs::issuance::TrustUpdate;
use countersign_certs::revocation::Revocations;
use countersign_certs::san::San;
use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::svid::X509Svid;
use countersign_certs::verify::TrustedDomain;

/// What is at hand at one moment.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    /// Own identities by name.
    pub(crate) svids: BTreeMap<San, Arc<X509Svid>>,
    /// What the CA last said.
    pub(crate) trust: Option<Arc<TrustUpdate>>,
}

/// Why bundles cannot be put together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    #[error("the bundle of {trust_domain} from the CA cannot be used")]
    Bundle { trust_domain: TrustDomain, source: BundleError },
    #[error("the bundles of {trust_domain} cannot be joined")]
    Join { trust_domain: TrustDomain, source: BundleError },
}

/// The domains that are trusted: what the CA says, what the config names, and what stands beside certificates in files.
/// Bundles of one and the same domain are joined; those of two domains never are.
pub(crate) fn trusted_domains(
    update: Option<&TrustUpdate>,
    named: &[TrustBundle],
) -> Result<Vec<TrustedDomain>, TrustError> {
    let mut domains: BTreeMap<TrustDomain, TrustedDomain> = BTreeMap::new();
    for (trust_domain, json) in update.iter().flat_map(|update| &update.bundles) {
        let bundle = TrustBundle::from_json(trust_domain.clone(), json)
            .map_err(|source| TrustError::Bundle { trust_domain: trust_domain.clone(), source })?;
        let own = update.filter(|update| update.trust_domain == *trust_domain);
        let revocations = own.map(|update| Arc::new(update.revocations.clone())).unwrap_or_default();
        domains.insert(trust_domain.clone(), TrustedDomain { bundle, revocations });
    }
    for bundle in named {
        let trust_domain = bundle.trust_domain().clone();
        let joined = match domains.remove(&trust_domain) {
            None => TrustedDomain { bundle: bundle.clone(), revocations: Arc::new(Revocations::default()) },
            Some(known) => TrustedDomain { bundle: join(&known.bundle, bundle)?, revocations: known.revocations },
        };
        domains.insert(trust_domain, joined);
    }
    Ok(domains.into_values().collect())
}

fn join(one: &TrustBundle, other: &TrustBundle) -> Result<TrustBundle, TrustError> {
    let mut authorities = one.authorities().to_vec();
    authorities.extend(other.authorities().iter().filter(|authority| !one.authorities().contains(authority)).cloned());
    TrustBundle::new(one.trust_domain().clone(), authorities, one.sequence())
        .map_err(|source| TrustError::Join { trust_domain: one.trust_domain().clone(), source })
}
