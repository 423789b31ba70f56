//! Which credentials a service demands of a request.

use std::fmt;

/// The kinds of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CredentialKind {
    /// A key of ours.
    ApiKey,
    /// A name and a password (RFC 7617).
    Basic,
    /// A signed token of an issuer (RFC 7519).
    Jwt,
    /// A certificate, in the handshake.
    Mtls,
    /// A token that only its issuer can read (RFC 7662).
    OpaqueToken,
}

impl CredentialKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 5] = [Self::ApiKey, Self::Basic, Self::Jwt, Self::Mtls, Self::OpaqueToken];

    /// As in the config and in audit lines.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
            Self::Jwt => "jwt",
            Self::Mtls => "mtls",
            Self::OpaqueToken => "opaque_token",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::ApiKey => 1,
            Self::Basic => 2,
            Self::Jwt => 4,
            Self::Mtls => 8,
            Self::OpaqueToken => 16,
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CredentialSet(u8);

impl CredentialSet {
    /// The set with this one too.
    #[must_use]
    pub(crate) fn with(self, kind: CredentialKind) -> Self {
        Self(self.0 | kind.bit())
    }

    /// Whether a kind is in it.
    pub(crate) fn has(self, kind: CredentialKind) -> bool {
        self.0 & kind.bit() != 0
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that the other set does not hold.
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those that the other set holds too.
    pub(crate) fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that stand in the request itself, of which it carries at most one.
    pub(crate) fn of_requests(self) -> Self {
        self.without(Self::default().with(CredentialKind::Mtls))
    }

    /// Each kind in it.
    pub(crate) fn kinds(self) -> impl Iterator<Item = CredentialKind> {
        CredentialKind::ALL.into_iter().filter(move |kind| self.has(*kind))
    }
}

impl FromIterator<CredentialKind> for CredentialSet {
    fn from_iter<I: IntoIterator<Item = CredentialKind>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Display for CredentialSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.kinds().map(CredentialKind::as_str).collect();
        formatter.write_str(&names.join(" or "))
    }
}

/// What a request must show: everything that is required, and one of those of which any will do. Nothing else is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    require: CredentialSet,
    any_of: CredentialSet,
}

/// Why two sets make no demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DemandError {
    #[error("nothing is demanded, so that anybody could call")]
    Nothing,
    #[error("a request carries one of {0} at most, and cannot be required to carry more")]
    TwoInRequest(CredentialSet),
    #[error("{0} is required already, so that any_of would always hold")]
    RequiredAlready(CredentialSet),
}

impl Demand {
    /// A demand that somebody can meet and that nobody meets by showing nothing.
    pub(crate) fn new(require: CredentialSet, any_of: CredentialSet) -> Result<Self, DemandError> {
        if require.union(any_of).is_empty() {
            return Err(DemandError::Nothing);
        }
        let in_request = require.of_requests();
        if in_request.kinds().count() > 1 {
            return Err(DemandError::TwoInRequest(in_request));
        }
        let already: CredentialSet = any_of.kinds().filter(|kind| require.has(*kind)).collect();
        if !already.is_empty() {
            return Err(DemandError::RequiredAlready(already));
        }
        // Beside a required credential of the request, any_of could only be met by one more of them.
        if !in_request.is_empty() && !any_of.is_empty() && any_of.of_requests() == any_of {
            return Err(DemandError::TwoInRequest(in_request.union(any_of)));
        }
        // Any of one is that one.
        if any_of.kinds().count() == 1 {
            return Ok(Self { require: require.union(any_of), any_of: CredentialSet::default() });
        }
        Ok(Self { require, any_of })
    }

    /// The certificate alone: what is demanded where nothing is said.
    pub(crate) fn certificate() -> Self {
        Self { require: CredentialSet::default().with(CredentialKind::Mtls), any_of: CredentialSet::default() }
    }

    /// Every kind that is looked at.
    pub(crate) fn accepted(self) -> CredentialSet {
        self.require.union(self.any_of)
    }

    /// Whether a caller without a certificate could meet it.
    pub(crate) fn needs_certificate(self) -> bool {
        self.require.has(CredentialKind::Mtls)
    }

    /// What is still missing after these were shown; nothing if the demand is met.
    pub(crate) fn missing(self, shown: CredentialSet) -> Option<CredentialSet> {
        let required = self.require.without(shown);
        if !required.is_empty() {
            return Some(required);
        }
        let one = self.any_of.is_empty() || self.any_of.without(shown) != self.any_of;
        (!one).then_some(self.any_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &str) -> CredentialSet {
        let named = |name| CredentialKind::ALL.into_iter().find(|kind| kind.as_str() == name).unwrap();
        names.split_whitespace().map(named).collect()
    }

    fn check(require: &str, any_of: &str, shown: &str, missing: Option<&str>) {
        let demand = Demand::new(set(require), set(any_of)).unwrap();
        assert_eq!(demand.missing(set(shown)), missing.map(set), "{require} | {any_of} <- {shown}");
    }

    #[test]
    fn everything_required_and_one_of_any_must_be_shown() {
        check("mtls", "", "mtls", None);
        check("mtls", "", "", Some("mtls"));
        check("mtls", "", "jwt", Some("mtls"));
        check("mtls jwt", "", "mtls", Some("jwt"));
        check("mtls jwt", "", "mtls jwt", None);
        check("mtls", "jwt api_key", "mtls", Some("jwt api_key"));
        check("mtls", "jwt api_key", "jwt", Some("mtls"));
        check("mtls", "jwt api_key", "mtls api_key", None);
        check("", "mtls basic", "basic", None);
        check("", "mtls basic", "opaque_token", Some("mtls basic"));
        assert_eq!(Demand::certificate(), Demand::new(set("mtls"), set("")).unwrap());
        assert_eq!(Demand::certificate(), Demand::new(set(""), set("mtls")).unwrap());
        assert_eq!(Demand::new(set("jwt"), set("mtls")), Demand::new(set("mtls jwt"), set("")));
    }

    #[test]
    fn demands_that_nobody_or_everybody_meets_are_errors() {
        let error = |require, any_of| Demand::new(set(require), set(any_of)).unwrap_err();
        assert_eq!(error("", ""), DemandError::Nothing);
        assert!(matches!(error("jwt api_key", ""), DemandError::TwoInRequest(_)));
        assert!(matches!(error("jwt", "api_key basic"), DemandError::TwoInRequest(_)));
        assert!(matches!(error("mtls", "mtls jwt"), DemandError::RequiredAlready(_)));
    }

    #[test]
    fn a_set_holds_each_kind_once_and_names_them_all() {
        let both = set("jwt api_key");
        assert_eq!(both.with(CredentialKind::Jwt), both);
        assert_eq!(both.union(set("jwt basic")), set("jwt api_key basic"));
        assert_eq!((both.within(set("jwt mtls")), both.without(set("jwt mtls"))), (set("jwt"), set("api_key")));
        assert_eq!(both.to_string(), "api_key or jwt");
        let demand = Demand::new(set("mtls"), both).unwrap();
        assert_eq!((demand.accepted(), demand.needs_certificate()), (set("mtls jwt api_key"), true));
        assert!(!Demand::new(set(""), set("mtls jwt")).unwrap().needs_certificate());
    }
}
