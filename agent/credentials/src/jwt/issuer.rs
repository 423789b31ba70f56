//! What is expected of the tokens of one issuer.

use std::time::Duration;

use crate::algorithm::Algorithm;
use crate::text;

/// The longest leeway. Clocks that differ by more than five minutes are to be set right.
pub const LEEWAY_MAX: Duration = Duration::from_secs(5 * 60);

/// The leeway if none is set: clocks that are kept differ by less than half a minute.
pub const LEEWAY_DEFAULT: Duration = Duration::from_secs(30);

/// Most audiences, and longest name of an issuer or audience in bytes.
pub const AUDIENCES_MAX: usize = 32;
/// Longest name of an issuer or audience in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// Which tokens of an issuer are access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenTypes {
    /// Only those whose header says so (`typ` is `at+jwt`, RFC 9068 §2.1). What is meant for something else can never pass.
    #[default]
    AccessToken,
    /// Those whose `typ` is `JWT` or absent as well, for issuers that write no other.
    AnyJwt,
}

/// What is expected of the tokens of one issuer, as written in a config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The issuer, exactly as it stands in `iss`.
    pub issuer: String,
    /// The names under which this service is meant. A token must be for one of them.
    pub audiences: Vec<String>,
    /// The accepted algorithms.
    pub algorithms: Vec<Algorithm>,
    /// How far the clocks of the issuer and of this host may differ.
    pub leeway: Duration,
    /// How long ago a token may have been issued; if set, it must say when.
    pub age_max: Option<Duration>,
    /// The longest time from `iat` to `exp`; if set, a token must have both.
    pub lifetime_max: Option<Duration>,
    /// Which of its tokens are access tokens.
    pub types: TokenTypes,
}

/// What is expected of the tokens of one issuer, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer(IssuerSettings);

/// Why settings are none that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// No algorithm.
    #[error("no algorithm is accepted, so no token would be")]
    Algorithms,
    /// No audience, or too many.
    #[error("{count} audiences; 1 to {AUDIENCES_MAX} are accepted")]
    Audiences {
        /// How many there are.
        count: usize,
    },
    /// Too long.
    #[error("a leeway of {} s; the most is {} s", .0.as_secs(), LEEWAY_MAX.as_secs())]
    Leeway(Duration),
    /// Secrets and public keys at once.
    #[error("{symmetric} needs a secret and {asymmetric} a public key; one issuer has one kind")]
    Mixed {
        /// One that needs a secret.
        symmetric: Algorithm,
        /// One that needs a public key.
        asymmetric: Algorithm,
    },
    /// A name that is empty, too long, or has control characters.
    #[error("{0:?} is no issuer or audience; one has 1 to {NAME_BYTES_MAX} bytes and no control characters")]
    Name(String),
    /// Nothing could be that young or that short.
    #[error("the longest age or lifetime of a token is 0 s, so none would be accepted")]
    Zero,
}

impl IssuerSettings {
    /// Settings with a leeway of 30 s, without bounds on age or lifetime, that accept typed access tokens only.
    pub fn new(issuer: impl Into<String>, audiences: Vec<String>, algorithms: Vec<Algorithm>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences,
            algorithms,
            leeway: LEEWAY_DEFAULT,
            age_max: None,
            lifetime_max: None,
            types: TokenTypes::AccessToken,
        }
    }
}

impl Issuer {
    /// Checks settings.
    ///
    /// # Errors
    /// Nothing could be accepted, or too much, or secrets and public keys are mixed.
    pub fn new(settings: IssuerSettings) -> Result<Self, IssuerError> {
        let names = || settings.audiences.iter().chain([&settings.issuer]);
        if let Some(name) = names().find(|name| !text::is_name(name, NAME_BYTES_MAX)) {
            return Err(IssuerError::Name(text::shown(name)));
        }
        if settings.audiences.is_empty() || settings.audiences.len() > AUDIENCES_MAX {
            return Err(IssuerError::Audiences { count: settings.audiences.len() });
        }
        let find = |symmetric| settings.algorithms.iter().copied().find(|one| one.is_symmetric() == symmetric);
        match (find(true), find(false)) {
            (None, None) => return Err(IssuerError::Algorithms),
            (Some(symmetric), Some(asymmetric)) => return Err(IssuerError::Mixed { symmetric, asymmetric }),
            (Some(_), None) | (None, Some(_)) => {}
        }
        if settings.leeway > LEEWAY_MAX {
            return Err(IssuerError::Leeway(settings.leeway));
        }
        if [settings.age_max, settings.lifetime_max].contains(&Some(Duration::ZERO)) {
            return Err(IssuerError::Zero);
        }
        Ok(Self(settings))
    }

    /// The settings.
    pub fn settings(&self) -> &IssuerSettings {
        &self.0
    }
}
