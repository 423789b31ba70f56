//! Access tokens that are signed (RFC 7519, RFC 8725, RFC 9068): who issued it, to whom, for whom, until when.
//!
//! [`peek`] tells whose token it claims to be, so that the caller can find that issuer's settings and keys; [`Unverified::verify`]
//! believes it. The algorithm is one that the settings name and the key is for; the token only chooses among them. No URL and no key
//! in a token is followed.

use std::time::Duration;

use countersign_certs::time::Timestamp;
use serde_json::{Map, Value};

use crate::algorithm::Algorithm;
use crate::confirmation::{Confirmation, Unconfirmed};
use crate::dpop::VerifiedProof;
use crate::jwk::{KeySet, NoKey, Thumbprint, Verifier};
use crate::text;

pub mod issuer;

pub mod claims;

pub(crate) mod compact;

pub mod refusal;

pub use compact::CompactError;
pub use issuer::{Issuer, IssuerError, IssuerSettings, TokenTypes};
pub use refusal::TokenRefusal;

use claims::{ClaimError, Claims, Round};
use compact::{Compact, KeySource};

/// Longest token in bytes.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// A token that was read and not believed.
pub struct Unverified<'token> {
    compact: Compact<'token>,
    issuer: String,
}

/// Evidence that an issuer said this and that it holds now, to whoever may show it: see [`VerifiedToken::confirmed`]. Only
/// [`Unverified::verify`] and [`crate::introspection`] make one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct VerifiedToken {
    /// Who issued it.
    pub issuer: String,
    /// Whom it is about. Unique for one issuer only.
    pub subject: String,
    /// The client to which it was issued.
    pub client_id: Option<String>,
    /// From when on it is not accepted any more; the leeway comes on top.
    pub expires: Timestamp,
    /// When it was issued.
    pub issued: Option<Timestamp>,
    /// Before when it is not accepted.
    pub not_before: Option<Timestamp>,
    /// The issuer's name for this token (`jti`).
    pub id: Option<String>,
    /// What it is good for.
    pub scopes: Vec<String>,
    /// All claims, as the issuer wrote them.
    pub claims: Map<String, Value>,
    /// What must be shown beside it.
    pub confirmation: Option<Confirmation>,
    /// The issuer's key that signed it; none if the issuer was asked about it.
    pub key: Option<Thumbprint>,
}

/// Reads a token without believing it.
///
/// # Errors
/// It is no signed token, is too long, has a header that is refused, or no issuer.
pub fn peek(token: &str) -> Result<Unverified<'_>, TokenRefusal> {
    let compact = Compact::read(token, TOKEN_BYTES_MAX, KeySource::Issuer).map_err(TokenRefusal::Malformed)?;
    let issuer = Claims(&compact.claims).name("iss", issuer::NAME_BYTES_MAX)?.ok_or(ClaimError { name: "iss" })?;
    Ok(Unverified { issuer: issuer.to_owned(), compact })
}

/// [`peek`] and [`Unverified::verify`], for a caller that knows the issuer.
///
/// # Errors
/// As for both.
pub fn verify(token: &str, issuer: &Issuer, keys: &KeySet, now: Timestamp) -> Result<VerifiedToken, TokenRefusal> {
    peek(token)?.verify(issuer, keys, now)
}

impl Unverified<'_> {
    /// Who issued it, as it claims.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The name of the issuer's key. It may be used to find a key by equality and for nothing else.
    pub fn key_id(&self) -> Option<&str> {
        self.compact.header.key_id.as_deref()
    }

    /// The algorithm that its header names.
    pub fn algorithm(&self) -> Algorithm {
        self.compact.header.algorithm
    }

    /// Believes the token, or says why not. Nothing that it claims is looked at before its signature, except who issued it.
    ///
    /// # Errors
    /// It is from another issuer, its signature is not that of one of the keys, or one of its claims forbids its use here and now. After
    /// [`TokenRefusal::UnknownKey`], newer keys of the issuer may help.
    pub fn verify(self, issuer: &Issuer, keys: &KeySet, now: Timestamp) -> Result<VerifiedToken, TokenRefusal> {
        let expected = issuer.settings();
        if self.issuer != expected.issuer {
            let found = text::shown(&self.issuer);
            return Err(TokenRefusal::Issuer { found, expected: expected.issuer.clone() });
        }
        self.check_type(expected.types)?;
        let (thumbprint, verifier) = self.verifier(expected, keys)?;
        if !verifier.accepts(self.compact.signed.as_bytes(), &self.compact.signature) {
            let key = self.compact.header.key_id.as_deref().map(text::shown);
            return Err(TokenRefusal::Signature { key, issuer: self.issuer });
        }
        believe(self.compact.claims, thumbprint, expected, now)
    }

    fn check_type(&self, types: TokenTypes) -> Result<(), TokenRefusal> {
        let found = self.compact.header.media_type.as_deref();
        let expected = match (types, found) {
            (_, Some("at+jwt")) | (TokenTypes::AnyJwt, Some("jwt") | None) => return Ok(()),
            (TokenTypes::AccessToken, _) => "at+jwt",
            (TokenTypes::AnyJwt, Some(_)) => "at+jwt, JWT or none",
        };
        Err(TokenRefusal::Type { found: found.map(text::shown), expected })
    }

    fn verifier<'keys>(
        &self,
        expected: &IssuerSettings,
        keys: &'keys KeySet,
    ) -> Result<(Thumbprint, &'keys Verifier), TokenRefusal> {
        let algorithm = self.compact.header.algorithm;
        let issuer = || self.issuer.clone();
        if !expected.algorithms.contains(&algorithm) {
            return Err(TokenRefusal::Algorithm { algorithm, issuer: issuer() });
        }
        let key_id = self.compact.header.key_id.as_deref();
        keys.find(key_id, algorithm).map_err(|no_key| match no_key {
            NoKey::Algorithm => TokenRefusal::Algorithm { algorithm, issuer: issuer() },
            NoKey::Ambiguous => TokenRefusal::AmbiguousKey { algorithm, issuer: issuer() },
            NoKey::Unknown => TokenRefusal::UnknownKey { key: key_id.map(text::shown), algorithm, issuer: issuer() },
        })
    }
}

/// Looks at the claims of a token that its issuer did sign.
fn believe(
    claims: Map<String, Value>,
    key: Thumbprint,
    expected: &IssuerSettings,
    now: Timestamp,
) -> Result<VerifiedToken, TokenRefusal> {
    let read = Claims(&claims);
    let times = Times::read(read)?.checked(expected.leeway, (expected.age_max, expected.lifetime_max), now)?;
    let audiences = read.audiences()?.ok_or(ClaimError { name: "aud" })?;
    check_audience(&audiences, &expected.audiences)?;
    let client = read.client()?;
    check_kind(read, &audiences, client)?;
    let text = |text: &str| text.to_owned();
    Ok(VerifiedToken {
        issuer: expected.issuer.clone(),
        subject: read.name("sub", claims::SUBJECT_BYTES_MAX)?.map(text).ok_or(ClaimError { name: "sub" })?,
        client_id: client.map(text),
        expires: times.expires,
        issued: times.issued,
        not_before: times.not_before,
        id: read.name("jti", claims::ID_BYTES_MAX)?.map(text),
        scopes: read.scopes()?,
        confirmation: read.0.get("cnf").map(Confirmation::read).transpose()?,
        key: Some(key),
        claims,
    })
}

/// When a token begins and ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) expires: Timestamp,
    pub(crate) issued: Option<Timestamp>,
    pub(crate) not_before: Option<Timestamp>,
}

impl Times {
    fn read(claims: Claims<'_>) -> Result<Self, ClaimError> {
        Ok(Self {
            expires: claims.time("exp", Round::Down)?.ok_or(ClaimError { name: "exp" })?,
            issued: claims.time("iat", Round::Down)?,
            not_before: claims.time("nbf", Round::Up)?,
        })
    }

    /// The same if a token is valid now, with the earlier of its ends: that of its own, and that of the greatest age.
    pub(crate) fn checked(
        self,
        leeway: Duration,
        (age_max, lifetime_max): (Option<Duration>, Option<Duration>),
        now: Timestamp,
    ) -> Result<Self, TokenRefusal> {
        self.check(leeway, now)?;
        let issued = || self.issued.ok_or(ClaimError { name: "iat" });
        if let Some(lifetime_max) = lifetime_max {
            let lifetime = self.expires.since(issued()?);
            if lifetime > lifetime_max {
                return Err(TokenRefusal::Lifetime { lifetime, lifetime_max });
            }
        }
        let Some(age_max) = age_max else { return Ok(self) };
        let issued = issued()?;
        // In the second in which it is as old as it may be, it still counts.
        let too_old = issued.plus(age_max).plus(Duration::from_secs(1));
        if now >= too_old.plus(leeway) {
            return Err(TokenRefusal::TooOld { issued, now, age_max });
        }
        Ok(Self { expires: self.expires.min(too_old), ..self })
    }

    /// On its last second a token is not valid any more (RFC 7519 §4.1.4).
    fn check(&self, leeway: Duration, now: Timestamp) -> Result<(), TokenRefusal> {
        let expires = self.expires;
        if now >= expires.plus(leeway) {
            return Err(TokenRefusal::Expired { expires, now });
        }
        if let Some(not_before) = self.not_before.filter(|not_before| *not_before > now.plus(leeway)) {
            return Err(TokenRefusal::NotYetValid { not_before, now });
        }
        if let Some(issued) = self.issued.filter(|issued| *issued > now.plus(leeway)) {
            return Err(TokenRefusal::IssuedInFuture { issued, now });
        }
        Ok(())
    }
}

/// Whether a token is for this service.
pub(crate) fn check_audience(found: &[&str], expected: &[String]) -> Result<(), TokenRefusal> {
    if found.iter().any(|audience| expected.iter().any(|own| own == audience)) {
        return Ok(());
    }
    let found = found.iter().take(issuer::AUDIENCES_MAX).map(|audience| text::shown(audience)).collect();
    Err(TokenRefusal::Audience { found, expected: expected.to_vec() })
}

/// Whether a token is an access token. An ID token is for the client to which it was issued, and for nobody else.
pub(crate) fn check_kind(claims: Claims<'_>, audiences: &[&str], client: Option<&str>) -> Result<(), TokenRefusal> {
    if let Some(claim) = claims.sign_of_another_kind() {
        return Err(TokenRefusal::NoAccessToken { claim });
    }
    let authorized_party = claims.0.contains_key("azp");
    if authorized_party && client.is_some_and(|client| audiences == [client]) {
        return Err(TokenRefusal::NoAccessToken { claim: "azp" });
    }
    Ok(())
}

impl VerifiedToken {
    /// Whether it is accepted from who shows it on this connection with this proof; see [`Confirmation::check`].
    ///
    /// # Errors
    /// It is bound to something that was not shown, or a proof was shown for a token that is bound to no key.
    pub fn confirmed(
        &self,
        certificate_sha256: Option<&[u8; 32]>,
        proof: Option<&VerifiedProof>,
    ) -> Result<(), Unconfirmed> {
        match (&self.confirmation, proof) {
            (Some(confirmation), proof) => confirmation.check(certificate_sha256, proof),
            (None, Some(proof)) => Err(Unconfirmed::Unbound { shown: proof.thumbprint() }),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
