//! The credential that a request carries: found, and taken out, so that nobody behind us sees it.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use countersign_credentials::api_key::PREFIX as KEY_PREFIX;

use super::refusal::CredentialRefusal;
use crate::policy::credential::{CredentialKind, CredentialSet};
use crate::policy::path::CheckedTarget;
use crate::query::decoded;
use crate::request::{NormalRequest, remove_spellings};

/// Proofs of holding a key (RFC 9449 §4.1).
pub(crate) const DPOP: HeaderName = HeaderName::from_static("dpop");

/// A credential as it stood in a request. What is in it is a secret, and is never printed.
pub(crate) enum Shown {
    ApiKey(Secret),
    /// With its scheme, as the header has it.
    Basic(Secret),
    /// A signed token.
    Jwt(TokenShown),
    /// A token that only its issuer can read.
    OpaqueToken(TokenShown),
}

/// A token, and the proofs beside it.
pub(crate) struct TokenShown {
    pub(crate) secret: Secret,
    /// The caller says that it proves to hold a key (the scheme `DPoP`, RFC 9449 §7.1).
    pub(crate) by_proof: bool,
    pub(crate) proofs: Vec<HeaderValue>,
}

/// What a proof has to be made for, and what the route demands of tokens.
pub(crate) struct ProofFor<'request> {
    pub(crate) method: &'request http::Method,
    pub(crate) authority: &'request http::uri::Authority,
    pub(crate) path: &'request str,
    /// A token that whoever holds it can show is not enough.
    pub(crate) bound_tokens_only: bool,
}

/// The text of a credential.
pub(crate) enum Secret {
    Header { value: HeaderValue, from: usize },
    Query(zeroize::Zeroizing<String>),
}

/// Where API keys may stand besides `Authorization: Bearer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyPlaces {
    pub(crate) headers: Vec<HeaderName>,
    pub(crate) query: Option<Box<str>>,
}

impl Shown {
    /// What it is.
    pub(super) fn kind(&self) -> CredentialKind {
        match self {
            Self::ApiKey(_) => CredentialKind::ApiKey,
            Self::Basic(_) => CredentialKind::Basic,
            Self::Jwt(_) => CredentialKind::Jwt,
            Self::OpaqueToken(_) => CredentialKind::OpaqueToken,
        }
    }

    /// The token, if it is one.
    pub(super) fn token(&self) -> Option<&[u8]> {
        match self {
            Self::Jwt(token) | Self::OpaqueToken(token) => Some(token.secret.expose()),
            Self::ApiKey(_) | Self::Basic(_) => None,
        }
    }
}

impl Secret {
    /// The bytes, to be looked at and not kept.
    pub(crate) fn expose(&self) -> &[u8] {
        match self {
            Self::Header { value, from } => value.as_bytes().get(*from..).unwrap_or_default(),
            Self::Query(text) => text.as_bytes(),
        }
    }
}

/// Takes the credential out of a request. One that carries two is refused: programs would choose differently.
pub(crate) fn take(
    request: &mut NormalRequest,
    places: Option<&KeyPlaces>,
    accepted: CredentialSet,
) -> Result<Option<Shown>, CredentialRefusal> {
    let mut found = take_authorization(&mut request.headers, accepted)?;
    let mut add = |more: Option<Secret>| match (more, &found) {
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(CredentialRefusal::Several),
        (Some(secret), None) => {
            found = Some(Shown::ApiKey(secret));
            Ok(())
        }
    };
    let places = places.filter(|_| accepted.has(CredentialKind::ApiKey));
    for name in places.iter().flat_map(|places| &places.headers) {
        add(take_header(&mut request.headers, name)?)?;
    }
    if let Some(name) = places.and_then(|places| places.query.as_deref()) {
        add(take_query(&mut request.target, name)?)?;
    }
    Ok(found)
}

/// `Authorization` (RFC 9110 §11.6.2). Two of them are refused before anybody gets here.
fn take_authorization(headers: &mut HeaderMap, accepted: CredentialSet) -> Result<Option<Shown>, CredentialRefusal> {
    let Some(value) = headers.remove(header::AUTHORIZATION) else { return Ok(None) };
    let split = value.as_bytes().iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let scheme = value.as_bytes().get(..split).unwrap_or_default();
    let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
    let by_proof = is("dpop");
    if is("bearer") || by_proof {
        let proofs = headers.get_all(DPOP).iter().cloned().collect();
        remove_spellings(headers, &DPOP);
        return bearer(Secret::Header { value, from: split + 1 }, by_proof, proofs, accepted).map(Some);
    }
    if is("basic") && accepted.has(CredentialKind::Basic) {
        return Ok(Some(Shown::Basic(Secret::Header { value, from: 0 })));
    }
    Err(CredentialRefusal::NotAccepted)
}

/// What is meant tells its form: a key of ours has a prefix, a signed token has three parts.
fn bearer(
    secret: Secret,
    by_proof: bool,
    proofs: Vec<HeaderValue>,
    accepted: CredentialSet,
) -> Result<Shown, CredentialRefusal> {
    let text = secret.expose();
    let is_key = text.starts_with(KEY_PREFIX.as_bytes());
    let is_signed = || text.iter().filter(|byte| **byte == b'.').nth(1).is_some();
    let has = |kind| accepted.has(kind);
    if has(CredentialKind::ApiKey)
        && !by_proof
        && (is_key || !(has(CredentialKind::Jwt) || has(CredentialKind::OpaqueToken)))
    {
        return Ok(Shown::ApiKey(secret));
    }
    if is_key {
        // A key of ours is no token of anybody: an issuer that was asked about it would learn it.
        return Err(CredentialRefusal::NotAccepted);
    }
    // A token is long, and what it is need not be asked where only one kind is accepted.
    let is_jwt = has(CredentialKind::Jwt) && (!has(CredentialKind::OpaqueToken) || is_signed());
    let token = TokenShown { secret, by_proof, proofs };
    if is_jwt {
        return Ok(Shown::Jwt(token));
    }
    if has(CredentialKind::OpaqueToken) { Ok(Shown::OpaqueToken(token)) } else { Err(CredentialRefusal::NotAccepted) }
}

fn take_header(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<Secret>, CredentialRefusal> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().cloned();
    if values.next().is_some() {
        return Err(CredentialRefusal::Several);
    }
    // A service that reads other spellings as the same name would find a credential that nobody has looked at.
    remove_spellings(headers, name);
    Ok(value.map(|value| Secret::Header { value, from: 0 }))
}

/// A query parameter. The rest of the target goes on byte for byte.
fn take_query(target: &mut CheckedTarget, name: &str) -> Result<Option<Secret>, CredentialRefusal> {
    let Some(query) = target.query() else { return Ok(None) };
    let is_named =
        |parameter: &&str| decoded(parameter.split('=').next().unwrap_or_default()).as_deref() == Some(name.as_bytes());
    let mut named = query.split('&').filter(is_named);
    let Some(parameter) = named.next() else { return Ok(None) };
    if named.next().is_some() {
        return Err(CredentialRefusal::Several);
    }
    let value = decoded(parameter.split_once('=').map_or("", |(_, value)| value))
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(zeroize::Zeroizing::new)
        .ok_or(CredentialRefusal::NotText)?;
    let rest: Vec<&str> = query.split('&').filter(|parameter| !is_named(parameter)).collect();
    *target = target.with_query(&rest.join("&")).map_err(|_target| CredentialRefusal::NotText)?;
    Ok(Some(Secret::Query(value)))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::request::normalise;

    fn places() -> KeyPlaces {
        KeyPlaces { headers: vec![HeaderName::from_static("x-api-key")], query: Some("key".into()) }
    }

    fn request(target: &str, headers: &[(&str, &str)]) -> NormalRequest {
        let start = Request::get(target).header("host", "llm.local");
        let request = headers.iter().fold(start, |request, (name, value)| request.header(*name, *value));
        normalise(request.body(()).unwrap().into_parts().0).unwrap()
    }

    /// What was found, and what goes on.
    fn check(target: &str, headers: &[(&str, &str)], found: Result<Option<&str>, &str>, onward: &str) {
        let mut request = request(target, headers);
        let accepted = CredentialSet::default().with(CredentialKind::ApiKey);
        let taken = take(&mut request, Some(&places()), accepted);
        let text = |shown| match shown {
            Shown::Jwt(TokenShown { secret, .. })
            | Shown::OpaqueToken(TokenShown { secret, .. })
            | Shown::ApiKey(secret)
            | Shown::Basic(secret) => String::from_utf8(secret.expose().to_vec()).unwrap(),
        };
        let taken = taken.map(|shown| shown.map(text));
        let taken = taken.map_err(|refusal| refusal.reason());
        assert_eq!(taken, found.map(|found| found.map(ToOwned::to_owned)), "{target} {headers:?}");
        if found.is_ok() {
            assert_eq!(request.target.into_inner().as_str(), onward);
            assert_eq!(request.headers.keys().filter(|name| *name != "accept").count(), 0, "{:?}", request.headers);
        }
    }

    #[test]
    fn a_credential_is_found_where_it_may_stand_and_taken_out() {
        check("/v1", &[], Ok(None), "/v1");
        check("/v1", &[("authorization", "Bearer abc"), ("accept", "a")], Ok(Some("abc")), "/v1");
        check("/v1", &[("authorization", "bEARER abc")], Ok(Some("abc")), "/v1");
        check("/v1", &[("x-api-key", "abc")], Ok(Some("abc")), "/v1");
        check("/v1?a=1&key=abc&b=%20", &[], Ok(Some("abc")), "/v1?a=1&b=%20");
        check("/v1?key=abc", &[], Ok(Some("abc")), "/v1");
        check("/v1?k%65y=a%62c", &[], Ok(Some("abc")), "/v1");
        check("/v1?keys=a&xkey=b", &[], Ok(None), "/v1?keys=a&xkey=b");
    }

    #[test]
    fn spellings_that_others_would_read_as_the_same_name_do_not_go_on() {
        check("/v1", &[("x_api_key", "abc"), ("x-api_key", "abc"), ("x.api.key", "abc")], Ok(None), "/v1");
        check("/v1", &[("x-api-key", "abc"), ("x_api_key", "other")], Ok(Some("abc")), "/v1");
    }

    #[test]
    fn two_credentials_are_refused_wherever_they_stand() {
        for (target, headers) in [
            ("/v1", &[("authorization", "Bearer a"), ("x-api-key", "a")][..]),
            ("/v1", &[("x-api-key", "a"), ("x-api-key", "a")][..]),
            ("/v1?key=a", &[("x-api-key", "a")][..]),
            ("/v1?key=a&key=a", &[][..]),
            ("/v1?key=a&%6bey=a", &[][..]),
        ] {
            check(target, headers, Err("credential_ambiguous"), "");
        }
    }

    #[test]
    fn what_is_not_accepted_is_refused_and_not_passed_on() {
        for value in ["Basic YTpi", "Digest x", "Bearer", "abc", "DPoP abc", ""] {
            let found = if value == "Bearer" { Ok(Some("")) } else { Err("credential_not_accepted") };
            check("/v1", &[("authorization", value)], found, "/v1");
        }
        check("/v1?key=%zz", &[], Err("credential_malformed"), "");
    }
}
