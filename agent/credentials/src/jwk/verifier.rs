//! A key made ready to verify signatures of one algorithm. All cryptography is aws-lc's.
//!
//! Why not the `jsonwebtoken` crate: it has no ES512, parses a key again for each token, and leaves the rules of header and claims to
//! its caller all the same.

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, VerificationAlgorithm,
};

use super::material::{JwkError, Material};
use crate::algorithm::Algorithm;

/// Verifies signatures of one key and one algorithm.
pub(crate) enum Verifier {
    Public(ParsedPublicKey),
    /// Boxed: it is twenty times as large as the other, and rare.
    Secret(Box<hmac::Key>),
}

enum Method {
    Hmac(hmac::Algorithm),
    /// JOSE writes r and s side by side with fixed lengths (RFC 7518 §3.4), never as ASN.1.
    Point(&'static dyn VerificationAlgorithm),
    Rsa(&'static RsaParameters),
}

impl Verifier {
    /// Makes a key ready. Points that are not on their curve are refused here.
    pub(crate) fn new(material: &Material, algorithm: Algorithm) -> Result<Self, JwkError> {
        if !material.fits(algorithm) {
            return Err(JwkError::Algorithm);
        }
        let parsed = match (method(algorithm), material) {
            (Method::Rsa(parameters), Material::Rsa { modulus, exponent }) => {
                PublicKeyComponents { n: modulus, e: exponent }.to_parsed_public_key(parameters)
            }
            (Method::Point(algorithm), Material::Ec { point, .. }) => ParsedPublicKey::new(algorithm, point),
            (Method::Point(algorithm), Material::Ed25519(point)) => ParsedPublicKey::new(algorithm, point),
            (Method::Hmac(algorithm), Material::Secret(secret)) => {
                return Ok(Self::Secret(Box::new(hmac::Key::new(algorithm, secret))));
            }
            (Method::Hmac(_) | Method::Point(_) | Method::Rsa(_), _) => return Err(JwkError::Algorithm),
        };
        parsed.map(Self::Public).map_err(|_rejected| JwkError::Invalid)
    }

    /// Whether a signature is the key's own. A signature of another length is none.
    #[must_use]
    pub(crate) fn accepts(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
            // In constant time.
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

fn method(algorithm: Algorithm) -> Method {
    match algorithm {
        Algorithm::EdDsa => Method::Point(&ED25519),
        Algorithm::Es256 => Method::Point(&ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => Method::Point(&ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => Method::Point(&ECDSA_P521_SHA512_FIXED),
        Algorithm::Hs256 => Method::Hmac(hmac::HMAC_SHA256),
        Algorithm::Hs384 => Method::Hmac(hmac::HMAC_SHA384),
        Algorithm::Hs512 => Method::Hmac(hmac::HMAC_SHA512),
        Algorithm::Ps256 => Method::Rsa(&RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => Method::Rsa(&RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => Method::Rsa(&RSA_PSS_2048_8192_SHA512),
        Algorithm::Rs256 => Method::Rsa(&RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Method::Rsa(&RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Method::Rsa(&RSA_PKCS1_2048_8192_SHA512),
    }
}
