//! Last step: the answer. Only an [`Issued`] certificate, whose result is on disk, can be delivered.

use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::authority::Authority;
use crate::build::Plan;
use crate::record::Issued;

/// A certificate with its chain, for whoever asked.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// What it says.
    pub(crate) plan: Plan,
    /// Leaf first, without the root.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// Joins the certificate to the intermediate. The root stays out: whoever needs it to be sent must not believe it.
pub(crate) fn chain(issued: Issued, authority: &Authority) -> Delivery {
    let (plan, certificate) = issued.into_parts();
    Delivery { plan, chain: vec![certificate, authority.intermediate().clone()] }
}
