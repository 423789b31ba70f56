//! Join tokens: what an operator carries from the CA to a new host, once.
//!
//! A token holds the CA's address, the trust domain, the fingerprint of the CA's root, and a secret of 256 bits. So the
//! new host knows whom it talks to before it says anything, and the CA, which keeps only a hash of the secret, knows that
//! it gave this token out.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::spiffe_id::TrustDomain;

/// Marks a join token, so that scanners for leaked secrets can find one.
const PREFIX: &str = "countersign-join-1.";

/// Longest token text in bytes.
pub const TOKEN_BYTES_MAX: usize = 2048;

/// What a new host is given.
pub struct JoinToken {
    /// Address of the CA's listener, `host:port`.
    pub ca_address: String,
    /// The trust domain to be joined.
    pub trust_domain: TrustDomain,
    /// SHA-256 of the root certificate's DER.
    pub root_fingerprint: [u8; 32],
    /// The secret that is spent by enrolling.
    pub secret: JoinSecret,
}

/// The secret part of a join token: wiped when dropped, never printed, never cloned.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct JoinSecret([u8; 32]);

/// Why a text is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Cut off or mistyped.
    #[error("the join token is damaged: its checksum does not fit; was it cut off when it was copied?")]
    Damaged,
    /// The checksum fits but the content does not.
    #[error("the join token cannot be read; it was made by another version of countersign-ca")]
    Malformed,
    /// Does not begin as a join token does.
    #[error("this is no join token: it does not begin with {PREFIX}")]
    Prefix,
}

impl JoinSecret {
    /// Takes 32 random bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the secret as it travels in an enrollment request.
    ///
    /// # Errors
    /// Not base64url of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, TokenError> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).map_err(|_not_base64| TokenError::Malformed)?);
        bytes.as_slice().try_into().map(Self).map_err(|_length| TokenError::Malformed)
    }

    /// The secret as it travels in an enrollment request.
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// SHA-256 of the secret: all that the CA keeps. The secret is random, so no slow hash is needed.
    pub fn hash(&self) -> [u8; 32] {
        crate::digest::sha256(&self.0)
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    ca: String,
    domain: TrustDomain,
    root: String,
    secret: Zeroizing<String>,
}

impl JoinToken {
    /// The text that an operator carries; a secret until it is spent.
    pub fn to_text(&self) -> Zeroizing<String> {
        let content = Content {
            ca: self.ca_address.clone(),
            domain: self.trust_domain.clone(),
            root: URL_SAFE_NO_PAD.encode(self.root_fingerprint),
            secret: self.secret.to_base64(),
        };
        // Four strings always serialize.
        let json = Zeroizing::new(serde_json::to_vec(&content).unwrap_or_default());
        let body = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*json));
        Zeroizing::new(format!("{PREFIX}{}.{}", body.as_str(), checksum(&body)))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let (body, sum) = rest.split_once('.').ok_or(TokenError::Damaged)?;
        if text.len() > TOKEN_BYTES_MAX || checksum(body) != sum {
            return Err(TokenError::Damaged);
        }
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_not_base64| TokenError::Damaged)?);
        let content: Content = serde_json::from_slice(&json).map_err(|_other_version| TokenError::Malformed)?;
        let root = URL_SAFE_NO_PAD.decode(&content.root).map_err(|_not_base64| TokenError::Malformed)?;
        Ok(Self {
            ca_address: content.ca,
            trust_domain: content.domain,
            root_fingerprint: root.try_into().map_err(|_length| TokenError::Malformed)?,
            secret: JoinSecret::from_base64(&content.secret)?,
        })
    }
}

/// Six characters that tell a cut-off token from a wrong one.
fn checksum(body: &str) -> String {
    let digest = digest(&SHA256, body.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref()).chars().take(6).collect()
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "JoinToken({} of {}, secret not shown)", self.ca_address, self.trust_domain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            ca_address: "ca.prod.example:8443".to_owned(),
            trust_domain: TrustDomain::parse("prod.example").unwrap(),
            root_fingerprint: [7; 32],
            secret: JoinSecret::from_bytes([9; 32]),
        }
    }

    #[test]
    fn a_token_survives_the_way_to_the_host() {
        let read: JoinToken = format!(" {}\n", token().to_text().as_str()).parse().unwrap();
        assert_eq!(read.ca_address, "ca.prod.example:8443");
        assert_eq!(read.root_fingerprint, [7; 32]);
        assert_eq!(read.secret.hash(), token().secret.hash());
    }

    #[test]
    fn a_token_never_prints_its_secret() {
        let printed = format!("{:?}", token());
        assert!(!printed.contains(token().secret.to_base64().as_str()), "{printed}");
    }

    #[test]
    fn cut_off_and_strange_tokens_say_which_they_are() {
        let text = token().to_text();
        assert_eq!(text.get(..text.len() - 1).unwrap().parse::<JoinToken>().unwrap_err(), TokenError::Damaged);
        assert_eq!(text.replacen("ey", "ez", 1).parse::<JoinToken>().unwrap_err(), TokenError::Damaged);
        assert_eq!("hello".parse::<JoinToken>().unwrap_err(), TokenError::Prefix);
    }
}
