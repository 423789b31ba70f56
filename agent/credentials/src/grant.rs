//! Tokens from an issuer's token endpoint: for the client itself (RFC 6749 §4.4), or in exchange for the token of somebody that it acts
//! for (RFC 8693). What is asked, and what is believed of the answer.

use std::time::Duration;

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::json::{self, JsonError};
use crate::text;

/// Largest answer in bytes.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Longest token in bytes.
pub const TOKEN_BYTES_MAX: usize = 15 * 1024;

/// Longest time that a token is used for, whatever its issuer says.
pub const LIFETIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// What RFC 8693 §3 calls an access token, signed or not.
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The other name that it may have as an answer (RFC 8693 §3): the issuer makes them as JWTs.
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// What the token is to be good for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Scopes, separated by blanks; none for what the issuer gives by itself.
    pub scope: Option<String>,
    /// Logical names of services (RFC 8693 §2.1).
    pub audiences: Vec<String>,
    /// URLs of services (RFC 8707).
    pub resources: Vec<String>,
}

/// How the token is asked for.
#[derive(Clone, Copy)]
pub enum Grant<'token> {
    /// For the client itself.
    ClientCredentials,
    /// In exchange for an access token of somebody else.
    TokenExchange {
        /// That token.
        subject_token: &'token str,
    },
}

/// A token that was given.
#[derive(Clone)]
pub struct GivenToken {
    /// What stands behind `Bearer`.
    pub token: Zeroizing<String>,
    /// How long it counts, from when it was asked for; none if the issuer does not say.
    pub expires_in: Option<Duration>,
}

/// Why an answer gives no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// Too large.
    #[error("the answer has {bytes} bytes; the most is {ANSWER_BYTES_MAX}")]
    Bytes {
        /// How many it has.
        bytes: usize,
    },
    /// Not the JSON that is expected.
    #[error("the answer cannot be read")]
    Json(#[from] JsonError),
    /// A member that is not as the standard says.
    #[error("{name} in the answer is missing or is not as RFC 6749 §5.1 or RFC 8693 §2.2.1 say")]
    Member {
        /// Which.
        name: &'static str,
    },
    /// A token that has to be shown in another way.
    #[error("the token is of type {0:?}, and not Bearer")]
    Type(String),
}

impl Grant<'_> {
    /// The fields of the question, without those by which the client proves who it is.
    pub fn fields<'field>(&'field self, wanted: &'field Wanted) -> Vec<(&'static str, &'field str)> {
        let mut fields = match self {
            Self::ClientCredentials => vec![("grant_type", "client_credentials")],
            Self::TokenExchange { subject_token } => vec![
                ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                ("subject_token", subject_token),
                ("subject_token_type", ACCESS_TOKEN),
                ("requested_token_type", ACCESS_TOKEN),
            ],
        };
        fields.extend(wanted.scope.iter().map(|scope| ("scope", scope.as_str())));
        fields.extend(wanted.audiences.iter().map(|audience| ("audience", audience.as_str())));
        fields.extend(wanted.resources.iter().map(|resource| ("resource", resource.as_str())));
        fields
    }

    /// Reads an answer with status 200.
    ///
    /// # Errors
    /// It is no answer of this kind, or gives a token that is not shown as `Bearer`.
    pub fn read(&self, answer: &[u8]) -> Result<GivenToken, GrantError> {
        let mut members = members(answer)?;
        let member = |name| GrantError::Member { name };
        if let Self::TokenExchange { .. } = self {
            let kind = members.get("issued_token_type").and_then(Value::as_str);
            if !matches!(kind, Some(ACCESS_TOKEN | JWT)) {
                return Err(member("issued_token_type"));
            }
        }
        // Compared without case (RFC 6749 §5.1).
        match members.get("token_type").and_then(Value::as_str) {
            Some(kind) if kind.eq_ignore_ascii_case("bearer") => {}
            Some(other) => return Err(GrantError::Type(text::shown(other))),
            None => return Err(member("token_type")),
        }
        let expires_in = lifetime(&members)?;
        let Some(Value::String(token)) = members.remove("access_token") else { return Err(member("access_token")) };
        let token = Zeroizing::new(token);
        if !text::is_bearer_token(&token, TOKEN_BYTES_MAX) {
            return Err(member("access_token"));
        }
        Ok(GivenToken { token, expires_in })
    }
}

/// The code by which an issuer says why it gives no token (RFC 6749 §5.2); none if it says nothing that can be shown.
pub fn error_code(answer: &[u8]) -> Option<String> {
    let members = members(answer).ok()?;
    let code = members.get("error")?.as_str()?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    ((1..=64).contains(&code.len()) && code.bytes().all(is_plain)).then(|| code.to_owned())
}

fn members(answer: &[u8]) -> Result<Map<String, Value>, GrantError> {
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(GrantError::Bytes { bytes: answer.len() });
    }
    Ok(json::object(answer)?)
}

/// Whole seconds. Some issuers write them as a text.
fn lifetime(members: &Map<String, Value>) -> Result<Option<Duration>, GrantError> {
    let seconds = match members.get("expires_in") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit())),
        Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => None,
    };
    let seconds = seconds.filter(|seconds| *seconds > 0).ok_or(GrantError::Member { name: "expires_in" })?;
    Ok(Some(Duration::from_secs(seconds).min(LIFETIME_MAX)))
}

impl std::fmt::Debug for GivenToken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "GivenToken({:?})", self.expires_in)
    }
}

impl std::fmt::Debug for Grant<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::ClientCredentials => "ClientCredentials",
            Self::TokenExchange { .. } => "TokenExchange",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EXCHANGE: Grant<'static> = Grant::TokenExchange { subject_token: "subject" };

    /// A good answer with some members changed; null takes one away.
    fn answer(changes: Value) -> String {
        let mut answer = json!({"access_token": "abc.def-_~+/=", "token_type": "Bearer", "expires_in": 300,
            "issued_token_type": ACCESS_TOKEN, "scope": "a b", "refresh_token": "never used"});
        for (name, value) in changes.as_object().unwrap() {
            answer[name] = value.clone();
        }
        answer.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        answer.to_string()
    }

    #[track_caller]
    fn check(grant: Grant<'_>, changes: Value, expected: Result<Option<u64>, GrantError>) {
        let found = grant.read(answer(changes.clone()).as_bytes());
        let found = found.map(|given| {
            assert_eq!(given.token.as_str(), "abc.def-_~+/=");
            given.expires_in.map(|lifetime| lifetime.as_secs())
        });
        assert_eq!(found, expected, "{changes}");
    }

    #[test]
    fn a_token_is_asked_for_as_the_standards_say() {
        let wanted = Wanted {
            scope: Some("a b".to_owned()),
            audiences: vec!["llm".to_owned()],
            resources: vec!["https://a".to_owned(), "https://b".to_owned()],
        };
        let ends = [("scope", "a b"), ("audience", "llm"), ("resource", "https://a"), ("resource", "https://b")];
        let own = Grant::ClientCredentials.fields(&wanted);
        assert_eq!(own, [&[("grant_type", "client_credentials")], &ends[..]].concat());
        let exchanged = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", "subject"),
            ("subject_token_type", ACCESS_TOKEN),
            ("requested_token_type", ACCESS_TOKEN),
        ];
        assert_eq!(EXCHANGE.fields(&wanted), [&exchanged, &ends[..]].concat());
        assert_eq!(EXCHANGE.fields(&Wanted::default()), exchanged);
    }

    #[test]
    fn a_bearer_token_and_its_lifetime_are_read() {
        for grant in [Grant::ClientCredentials, EXCHANGE] {
            check(grant, json!({}), Ok(Some(300)));
            check(grant, json!({"token_type": "bearer", "expires_in": "60"}), Ok(Some(60)));
            check(grant, json!({"expires_in": null}), Ok(None));
            check(grant, json!({"expires_in": u64::MAX}), Ok(Some(604_800)));
        }
        check(Grant::ClientCredentials, json!({"issued_token_type": null}), Ok(Some(300)));
        check(EXCHANGE, json!({"issued_token_type": JWT}), Ok(Some(300)));
        let longest = answer(json!({"access_token": "a".repeat(15_360)}));
        assert!(EXCHANGE.read(longest.as_bytes()).is_ok());
        let spaces = " ".repeat(65_536 - longest.len());
        assert!(EXCHANGE.read(format!("{longest}{spaces}").as_bytes()).is_ok());
        assert!(EXCHANGE.read(format!("{longest}{spaces} ").as_bytes()).is_err());
    }

    #[test]
    fn anything_else_is_no_answer() {
        let member = |name| Err(GrantError::Member { name });
        let own = Grant::ClientCredentials;
        for kind in [json!("mac"), json!("DPoP"), json!("N_A")] {
            check(own, json!({"token_type": kind}), Err(GrantError::Type(kind.as_str().unwrap().to_owned())));
        }
        check(own, json!({"token_type": null}), member("token_type"));
        check(own, json!({"access_token": null}), member("access_token"));
        for token in [json!(""), json!(5), json!("a b"), json!("a\r\nx: y"), json!("\u{e4}"), json!("a".repeat(15_361))]
        {
            check(own, json!({"access_token": token}), member("access_token"));
        }
        for lifetime in [json!(0), json!(-1), json!(1.5), json!("+5"), json!("soon"), json!([300]), json!(true)] {
            check(own, json!({"expires_in": lifetime}), member("expires_in"));
        }
        for kind in [json!(null), json!("urn:ietf:params:oauth:token-type:refresh_token"), json!(1)] {
            check(EXCHANGE, json!({"issued_token_type": kind}), member("issued_token_type"));
        }
        let twice = r#"{"access_token":"a","access_token":"b","token_type":"Bearer"}"#;
        assert!(matches!(own.read(twice.as_bytes()), Err(GrantError::Json(JsonError::Duplicate))));
        let large = answer(json!({})) + &" ".repeat(ANSWER_BYTES_MAX);
        assert!(matches!(own.read(large.as_bytes()), Err(GrantError::Bytes { .. })));
    }

    #[test]
    fn a_code_is_shown_only_if_it_is_one() {
        assert_eq!(
            error_code(br#"{"error":"invalid_client","error_description":"x"}"#).as_deref(),
            Some("invalid_client")
        );
        for strange in [r#"{"error":"a\n"}"#, r#"{"error":"A b"}"#, r#"{"error":1}"#, "{}", "<html>", r#"{"error":""}"#]
        {
            assert_eq!(error_code(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let given = Grant::ClientCredentials.read(answer(json!({})).as_bytes()).unwrap();
        assert!(!format!("{given:?} {EXCHANGE:?}").contains("abc"));
    }
}
