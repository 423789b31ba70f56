//! What an issuer answers about a token that only it can read (RFC 7662).

use std::time::Duration;

use countersign_certs::time::Timestamp;
use serde_json::Value;

use crate::confirmation::Confirmation;
use crate::json::{self, JsonError};
use crate::jwt::claims::{self, ClaimError, Claims, Round};
use crate::jwt::issuer::{LEEWAY_DEFAULT, NAME_BYTES_MAX};
use crate::jwt::{Times, TokenRefusal, VerifiedToken, check_audience, check_kind};
use crate::text;

/// Largest answer in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is expected of an issuer's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntrospectionSettings {
    /// The issuer.
    pub issuer: String,
    /// The names under which this service is meant.
    pub audiences: Vec<String>,
    /// How far the clocks of the issuer and of this host may differ.
    pub leeway: Duration,
    /// How long ago a token may have been issued. If set, an answer must say when it was.
    pub age_max: Option<Duration>,
    /// The longest from a token's beginning to its end. If set, an answer must say when it was issued.
    pub lifetime_max: Option<Duration>,
    /// Whether an answer must name the issuer. It was asked over TLS, so that it is the issuer's is known; if it names one it must be
    /// this.
    pub require_issuer: bool,
    /// Whether an answer must name an audience. If not, a token for any service of the issuer is accepted here.
    pub require_audience: bool,
    /// How long a token is believed whose answer names no end. If nothing, an answer must.
    pub lifetime_unnamed: Option<Duration>,
}

/// Why an answer is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntrospectionError {
    /// No `active`, or not as true or false.
    #[error("it has no \"active\" that is true or false (RFC 7662 §2.2)")]
    Active,
    /// Too large.
    #[error("it has {bytes} bytes; the most is {ANSWER_BYTES_MAX}")]
    Bytes {
        /// How many it has.
        bytes: usize,
    },
    /// Not the JSON that is expected.
    #[error(transparent)]
    Json(#[from] JsonError),
}

impl IntrospectionSettings {
    /// Settings with a leeway of 30 s that ask for an audience and an end.
    pub fn new(issuer: impl Into<String>, audiences: Vec<String>) -> Self {
        Self {
            issuer: issuer.into(),
            audiences,
            leeway: LEEWAY_DEFAULT,
            age_max: None,
            lifetime_max: None,
            require_issuer: false,
            require_audience: true,
            lifetime_unnamed: None,
        }
    }
}

/// Believes an answer, or says why not.
///
/// # Errors
/// The token is not active, the answer is none, or one of its members forbids the token's use here and now.
pub fn believe(answer: &[u8], expected: &IntrospectionSettings, now: Timestamp) -> Result<VerifiedToken, TokenRefusal> {
    let members = read(answer)?;
    let read = Claims(&members);
    check_issuer(read, expected)?;
    let ages = (expected.age_max, expected.lifetime_max);
    let times = times(read, expected, now)?.checked(expected.leeway, ages, now)?;
    let audiences = read.audiences()?;
    match &audiences {
        Some(audiences) => check_audience(audiences, &expected.audiences)?,
        None if expected.require_audience => return Err(ClaimError { name: "aud" }.into()),
        None => {}
    }
    let client = read.client()?;
    check_kind(read, &audiences.unwrap_or_default(), client)?;
    let text = |text: &str| text.to_owned();
    // RFC 7662 §2.2 lets an answer name no subject. A client that acts for nobody else is its own (RFC 9068 §2.2).
    let subject = read.name("sub", claims::SUBJECT_BYTES_MAX)?.or(client);
    Ok(VerifiedToken {
        issuer: expected.issuer.clone(),
        subject: subject.map(text).ok_or(ClaimError { name: "sub" })?,
        client_id: client.map(text),
        expires: times.expires,
        issued: times.issued,
        not_before: times.not_before,
        id: read.name("jti", claims::ID_BYTES_MAX)?.map(text),
        scopes: read.scopes()?,
        confirmation: members.get("cnf").map(Confirmation::read).transpose()?,
        key: None,
        claims: members,
    })
}

/// The members of an answer about an active token.
fn read(answer: &[u8]) -> Result<serde_json::Map<String, Value>, TokenRefusal> {
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(IntrospectionError::Bytes { bytes: answer.len() }.into());
    }
    let members = json::object(answer).map_err(IntrospectionError::from)?;
    match members.get("active") {
        Some(Value::Bool(true)) => Ok(members),
        Some(Value::Bool(false)) => Err(TokenRefusal::Inactive),
        Some(_) | None => Err(IntrospectionError::Active.into()),
    }
}

fn check_issuer(claims: Claims<'_>, expected: &IntrospectionSettings) -> Result<(), TokenRefusal> {
    match claims.name("iss", NAME_BYTES_MAX)? {
        Some(issuer) if issuer == expected.issuer => Ok(()),
        Some(found) => Err(TokenRefusal::Issuer { found: text::shown(found), expected: expected.issuer.clone() }),
        None if expected.require_issuer => Err(ClaimError { name: "iss" }.into()),
        None => Ok(()),
    }
}

fn times(claims: Claims<'_>, expected: &IntrospectionSettings, now: Timestamp) -> Result<Times, ClaimError> {
    let unnamed = || expected.lifetime_unnamed.map(|lifetime| now.plus(lifetime));
    Ok(Times {
        expires: claims.time("exp", Round::Down)?.or_else(unnamed).ok_or(ClaimError { name: "exp" })?,
        issued: claims.time("iat", Round::Down)?,
        not_before: claims.time("nbf", Round::Up)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

    fn settings() -> IntrospectionSettings {
        IntrospectionSettings::new("https://issuer.example", vec!["https://llm.example".to_owned()])
    }

    /// A good answer with some members changed; null takes one away.
    fn answer(changes: Value) -> Value {
        let mut answer = json!({"active": true, "iss": "https://issuer.example", "aud": ["https://llm.example"], "sub": "ada",
            "client_id": "batch", "scope": "read write", "exp": 1_800_000_060, "iat": 1_799_999_990, "jti": "1"});
        for (name, value) in changes.as_object().unwrap() {
            answer[name] = value.clone();
        }
        answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        answer
    }

    #[track_caller]
    fn check(changes: Value, settings: &IntrospectionSettings, expected: Result<(), &str>) {
        let found = believe(answer(changes.clone()).to_string().as_bytes(), settings, NOW);
        assert_eq!(found.map(drop).map_err(|refusal| refusal.reason()), expected, "{changes}");
    }

    #[test]
    fn an_active_token_is_believed_as_its_issuer_describes_it() {
        let cnf = json!({"x5t#S256": crate::encoding::to_base64url(&[7; 32])});
        let token = believe(answer(json!({"cnf": cnf, "nbf": 5})).to_string().as_bytes(), &settings(), NOW).unwrap();
        assert_eq!((token.issuer.as_str(), token.subject.as_str()), ("https://issuer.example", "ada"));
        assert_eq!((token.client_id.as_deref(), token.id.as_deref()), (Some("batch"), Some("1")));
        assert_eq!(token.scopes, ["read", "write"]);
        assert_eq!(token.expires.as_unix_seconds(), 1_800_000_060);
        assert_eq!(token.issued.map(Timestamp::as_unix_seconds), Some(1_799_999_990));
        assert_eq!(token.not_before.map(Timestamp::as_unix_seconds), Some(5));
        assert_eq!(token.confirmed(Some(&[7; 32]), None), Ok(()));
        assert_eq!(token.confirmed(None, None).map_err(|refusal| refusal.reason()), Err("token_no_certificate"));
        assert_eq!(token.claims["active"], true);
    }

    #[test]
    fn a_client_that_acts_for_nobody_is_its_own_subject() {
        let token = believe(answer(json!({"sub": null})).to_string().as_bytes(), &settings(), NOW).unwrap();
        assert_eq!((token.subject.as_str(), token.client_id.as_deref()), ("batch", Some("batch")));
    }

    #[test]
    fn only_true_is_active() {
        check(json!({}), &settings(), Ok(()));
        check(json!({"active": false}), &settings(), Err("token_inactive"));
        for strange in [json!("true"), json!(1), json!(["true"]), json!({})] {
            check(json!({"active": strange}), &settings(), Err("token_answer"));
        }
        check(json!({"active": null}), &settings(), Err("token_answer"));
        for strange in ["", "[]", "true", r#"{"active":true,"active":true}"#, r#"{"active":false,"active":true}"#] {
            let refusal = believe(strange.as_bytes(), &settings(), NOW).unwrap_err();
            assert_eq!(refusal.reason(), "token_answer", "{strange}");
        }
        let large = format!("{}{}", answer(json!({})), " ".repeat(ANSWER_BYTES_MAX));
        assert_eq!(believe(large.as_bytes(), &settings(), NOW).unwrap_err().reason(), "token_answer");
        let whole =
            format!("{}{}", answer(json!({})), " ".repeat(ANSWER_BYTES_MAX - answer(json!({})).to_string().len()));
        assert_eq!(whole.len(), 65_536);
        assert!(believe(whole.as_bytes(), &settings(), NOW).is_ok());
    }

    #[test]
    fn a_token_of_or_for_somebody_else_is_refused() {
        check(json!({"iss": "https://other.example"}), &settings(), Err("token_issuer"));
        check(json!({"iss": 1}), &settings(), Err("token_claim"));
        check(json!({"iss": null}), &settings(), Ok(()));
        check(json!({"iss": null}), &IntrospectionSettings { require_issuer: true, ..settings() }, Err("token_claim"));
        check(json!({}), &IntrospectionSettings { require_issuer: true, ..settings() }, Ok(()));
        check(json!({"aud": "https://other.example"}), &settings(), Err("token_audience"));
        check(json!({"aud": null}), &settings(), Err("token_claim"));
        check(json!({"aud": null}), &IntrospectionSettings { require_audience: false, ..settings() }, Ok(()));
        let lax = IntrospectionSettings { require_audience: false, ..settings() };
        check(json!({"aud": "https://other.example"}), &lax, Err("token_audience"));
        check(json!({"aud": []}), &lax, Err("token_claim"));
    }

    #[test]
    fn a_token_that_has_ended_is_refused_whatever_active_says() {
        check(json!({"exp": 1_799_999_971}), &settings(), Ok(()));
        check(json!({"exp": 1_799_999_970}), &settings(), Err("token_expired"));
        check(json!({"exp": "1800000060"}), &settings(), Err("token_claim"));
        check(json!({"nbf": 1_800_000_031}), &settings(), Err("token_not_yet_valid"));
        check(json!({"exp": null}), &settings(), Err("token_claim"));
        let lax = IntrospectionSettings { lifetime_unnamed: Some(Duration::from_secs(7)), ..settings() };
        let token = believe(answer(json!({"exp": null})).to_string().as_bytes(), &lax, NOW).unwrap();
        assert_eq!(token.expires, NOW.plus(Duration::from_secs(7)));
        check(json!({"exp": 5}), &lax, Err("token_expired"));
    }

    #[test]
    fn age_and_lifetime_can_have_bounds() {
        let hundred = Some(Duration::from_secs(100));
        let young = IntrospectionSettings { age_max: hundred, ..settings() };
        check(json!({"iat": 1_799_999_870}), &young, Ok(()));
        check(json!({"iat": 1_799_999_869}), &young, Err("token_lifetime"));
        check(json!({"iat": null}), &young, Err("token_claim"));
        let token = believe(answer(json!({"exp": 1_800_009_999})).to_string().as_bytes(), &young, NOW).unwrap();
        assert_eq!(token.expires.as_unix_seconds(), 1_800_000_091, "it ends when it is too old");
        let short = IntrospectionSettings { lifetime_max: hundred, ..settings() };
        check(json!({"iat": 1_799_999_960}), &short, Ok(()));
        check(json!({"iat": 1_799_999_959}), &short, Err("token_lifetime"));
        check(json!({"iat": null}), &short, Err("token_claim"));
    }

    #[test]
    fn what_is_no_access_token_is_refused() {
        check(json!({"sub": null, "client_id": null}), &settings(), Err("token_claim"));
        check(json!({"sub": 1}), &settings(), Err("token_claim"));
        check(json!({"token_use": "refresh_token"}), &settings(), Err("token_id_token"));
        check(json!({"typ": "Refresh"}), &settings(), Err("token_id_token"));
        check(json!({"cnf": {"other": "x"}}), &settings(), Err("token_confirmation"));
        check(json!({"client_id": "a", "azp": "b"}), &settings(), Err("token_claim"));
    }
}
