//! The key in a JWK: its kind, its numbers, and its thumbprint.

use std::fmt;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::algorithm::Algorithm;
use crate::encoding::{from_base64url, to_base64url};

/// Bits of an RSA modulus. RFC 7518 §3.3 asks for 2048 at least; more than 8192 only cost time.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Members that only private keys have (RFC 7518 §6.2.2, §6.3.2).
const PRIVATE: [&str; 7] = ["d", "dp", "dq", "oth", "p", "q", "qi"];

/// SHA-256 thumbprint of a key (RFC 7638), by which a token is bound to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

/// The numbers of a key.
#[derive(PartialEq, Eq)]
pub(crate) enum Material {
    /// A point on a curve, as 04, x, y.
    Ec { curve: Curve, point: Vec<u8> },
    /// An Ed25519 key.
    Ed25519([u8; 32]),
    /// Modulus and exponent, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// A secret that both sides know.
    Secret(Zeroizing<Vec<u8>>),
}

/// A curve of NIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// Why a JWK is no key that is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Its algorithm is unknown, or one that such a key is not for.
    #[error("its alg is unknown or not one for its kty")]
    Algorithm,
    /// A curve that is not known here.
    #[error("its crv is none of P-256, P-384, P-521, Ed25519")]
    Curve,
    /// The numbers are no key.
    #[error("its numbers are no key of its kind")]
    Invalid,
    /// A key of another kind.
    #[error("its kty is none that is known here")]
    KeyType,
    /// A member that is missing, of another type, or out of bounds.
    #[error("its member {name} is missing, or not what it has to be")]
    Member {
        /// Which.
        name: &'static str,
    },
    /// The private part is in it, so everybody has that.
    #[error("its private part is in it")]
    Private,
    /// An RSA key that is too short or too long.
    #[error("its modulus has {bits} bits; {} to {} are accepted", RSA_BITS.start(), RSA_BITS.end())]
    RsaBits {
        /// How many it has.
        bits: usize,
    },
    /// A secret that is too short for every accepted algorithm (RFC 7518 §3.2), or that is not wanted here.
    #[error("it is a secret, and no accepted algorithm uses one of its length")]
    Secret,
    /// Accepted algorithms use keys of other kinds.
    #[error("no accepted algorithm uses such a key")]
    Unwanted,
    /// A key for something else.
    #[error("its use or key_ops is not to verify signatures")]
    Use,
}

impl Material {
    /// Reads the members of a key.
    pub(super) fn read(members: &Map<String, Value>) -> Result<Self, JwkError> {
        let text = |name: &'static str| members.get(name).and_then(Value::as_str).ok_or(JwkError::Member { name });
        let bytes = |name: &'static str| from_base64url(text(name)?).ok_or(JwkError::Member { name });
        let key_type = text("kty")?;
        if PRIVATE.iter().any(|name| members.contains_key(*name)) || key_type != "oct" && members.contains_key("k") {
            return Err(JwkError::Private);
        }
        match key_type {
            "EC" => Curve::named(text("crv")?)?.point(&bytes("x")?, &bytes("y")?),
            "OKP" if text("crv")? == "Ed25519" => {
                bytes("x")?.try_into().map(Self::Ed25519).map_err(|_length| JwkError::Member { name: "x" })
            }
            "OKP" => Err(JwkError::Curve),
            "RSA" => rsa(bytes("n")?, bytes("e")?),
            "oct" => Ok(Self::Secret(Zeroizing::new(bytes("k")?))),
            _ => Err(JwkError::KeyType),
        }
    }

    /// Whether keys of this kind are for an algorithm. Each curve has one (RFC 7518 §3.4), and a secret is as long as the hash at
    /// least (RFC 7518 §3.2).
    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::EdDsa => matches!(self, Self::Ed25519(_)),
            Algorithm::Es256 => self.is_on(Curve::P256),
            Algorithm::Es384 => self.is_on(Curve::P384),
            Algorithm::Es512 => self.is_on(Curve::P521),
            Algorithm::Hs256 => self.is_secret_of(32),
            Algorithm::Hs384 => self.is_secret_of(48),
            Algorithm::Hs512 => self.is_secret_of(64),
            Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512
            | Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512 => matches!(self, Self::Rsa { .. }),
        }
    }

    /// Why a key that fits no accepted algorithm is not used.
    pub(super) fn unwanted(&self) -> JwkError {
        match self {
            Self::Secret(_) => JwkError::Secret,
            Self::Ec { .. } | Self::Ed25519(_) | Self::Rsa { .. } => JwkError::Unwanted,
        }
    }

    fn is_on(&self, wanted: Curve) -> bool {
        matches!(self, Self::Ec { curve, .. } if *curve == wanted)
    }

    fn is_secret_of(&self, bytes_min: usize) -> bool {
        matches!(self, Self::Secret(secret) if secret.len() >= bytes_min)
    }

    /// The thumbprint: SHA-256 of the required members, in the order of their names, without white space (RFC 7638 §3.2). Each
    /// number has one text only, so what was read is what is written here.
    pub(crate) fn thumbprint(&self) -> Thumbprint {
        let canonical = match self {
            Self::Ec { curve, point } => {
                let (x, y) = point.get(1..).unwrap_or_default().split_at(curve.coordinate_bytes());
                let (x, y) = (to_base64url(x), to_base64url(y));
                format!(r#"{{"crv":"{}","kty":"EC","x":"{x}","y":"{y}"}}"#, curve.name())
            }
            Self::Ed25519(x) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, to_base64url(x)),
            Self::Rsa { modulus, exponent } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, to_base64url(exponent), to_base64url(modulus))
            }
            Self::Secret(secret) => {
                let k = Zeroizing::new(to_base64url(secret));
                return thumbprint_of(&Zeroizing::new(format!(r#"{{"k":"{}","kty":"oct"}}"#, k.as_str())));
            }
        };
        thumbprint_of(&canonical)
    }
}

fn thumbprint_of(canonical: &str) -> Thumbprint {
    Thumbprint(countersign_certs::digest::sha256(canonical.as_bytes()))
}

/// Checks an RSA key. Numbers have no leading zeros (RFC 7518 §2, Base64urlUInt): a second text of one key would have another
/// thumbprint.
fn rsa(modulus: Vec<u8>, exponent: Vec<u8>) -> Result<Material, JwkError> {
    let leading = |number: &[u8]| number.first().copied().unwrap_or_default();
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    if leading(&modulus) == 0 || !is_odd(&modulus) {
        return Err(JwkError::Member { name: "n" });
    }
    let unused = usize::try_from(leading(&modulus).leading_zeros()).unwrap_or_default();
    let bits = (modulus.len() * 8).saturating_sub(unused);
    if !RSA_BITS.contains(&bits) {
        return Err(JwkError::RsaBits { bits });
    }
    // Exponents up to 65537 are in use; the library takes no more than 33 bits. With 1, a signature is the message itself.
    if leading(&exponent) == 0 || !is_odd(&exponent) || exponent == [1] || exponent.len() > 4 {
        return Err(JwkError::Member { name: "e" });
    }
    Ok(Material::Rsa { modulus, exponent })
}

impl Curve {
    fn named(name: &str) -> Result<Self, JwkError> {
        [Self::P256, Self::P384, Self::P521].into_iter().find(|curve| curve.name() == name).ok_or(JwkError::Curve)
    }

    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    fn coordinate_bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Coordinates have exactly the curve's length (RFC 7518 §6.2.1.2). Whether the point is on the curve is looked at when a
    /// verifier is made of it.
    fn point(self, x: &[u8], y: &[u8]) -> Result<Material, JwkError> {
        let is_whole = |coordinate: &[u8]| coordinate.len() == self.coordinate_bytes();
        if !is_whole(x) {
            return Err(JwkError::Member { name: "x" });
        }
        if !is_whole(y) {
            return Err(JwkError::Member { name: "y" });
        }
        Ok(Material::Ec { curve: self, point: [&[4], x, y].concat() })
    }
}

impl fmt::Display for Thumbprint {
    /// As it stands in a token (RFC 9449 §6.1).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&to_base64url(&self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Thumbprint({self})")
    }
}
