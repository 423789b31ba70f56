//! Keys of issuers as they are published: one JWK, and a set of them (RFC 7517, RFC 7518 §6, RFC 8037 §2).
//!
//! A key decides which algorithms it can be used with; a token never does. So a public RSA key cannot become the secret of an HMAC.

use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::text;

pub mod material;

pub mod set;

mod verifier;

pub(crate) use material::Material;
pub use material::{JwkError, Thumbprint};
pub(crate) use set::NoKey;
pub use set::{Ignored, KeySet, KeySetError};
pub(crate) use verifier::Verifier;

/// Longest name of a key (`kid`) in bytes.
pub const KEY_ID_BYTES_MAX: usize = 256;

/// One key, of which the private part is not known.
pub(crate) struct Jwk {
    /// The issuer's name for it. It is compared for equality and never used as anything else: no path, no URL, no query.
    pub(crate) id: Option<String>,
    /// The only algorithm for which the issuer uses it.
    pub(crate) algorithm: Option<Algorithm>,
    /// The key itself.
    pub(crate) material: Material,
}

impl Jwk {
    /// Reads one key that verifies signatures.
    pub(crate) fn read(members: &Map<String, Value>) -> Result<Self, JwkError> {
        let material = Material::read(members)?;
        let id = optional_text(members, "kid")?;
        if id.as_ref().is_some_and(|id| !text::is_name(id, KEY_ID_BYTES_MAX)) {
            return Err(JwkError::Member { name: "kid" });
        }
        if optional_text(members, "use")?.is_some_and(|usage| usage != "sig") {
            return Err(JwkError::Use);
        }
        if let Some(operations) = members.get("key_ops") {
            let operations = operations.as_array().ok_or(JwkError::Member { name: "key_ops" })?;
            if !operations.iter().any(|operation| operation == "verify") {
                return Err(JwkError::Use);
            }
        }
        let algorithm = match optional_text(members, "alg")? {
            Some(name) => Some(Algorithm::named(&name).filter(|it| material.fits(*it)).ok_or(JwkError::Algorithm)?),
            None => None,
        };
        Ok(Self { id, algorithm, material })
    }

    /// Whether it may verify signatures of an algorithm.
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.material.fits(algorithm) && self.algorithm.is_none_or(|only| only == algorithm)
    }
}

fn optional_text(members: &Map<String, Value>, name: &'static str) -> Result<Option<String>, JwkError> {
    match members.get(name) {
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(JwkError::Member { name }),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests;
