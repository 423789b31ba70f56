//! Users and services that show a credential of their own: what a role can be given to them by.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::credential::{CredentialKind, CredentialSet};

/// Most facts of one subject that a record tells.
const FACTS_MAX: usize = 64;

/// What is known of a user or service from its credential.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SubjectNames {
    /// An API key, by its public ID.
    Key { id: Arc<str>, team: Option<Arc<str>>, grants: Vec<Arc<str>> },
    /// A user with a password, by name.
    Password { name: Arc<str> },
    /// Somebody for whom an issuer vouches with a token.
    Token(TokenNames),
}

/// What a token says. The issuer is called by its name in the config.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TokenNames {
    pub(crate) issuer: Arc<str>,
    pub(crate) subject: Arc<str>,
    pub(crate) client: Option<Arc<str>>,
    pub(crate) scopes: Vec<Arc<str>>,
    pub(crate) groups: Vec<Arc<str>>,
    pub(crate) claims: Map<String, Value>,
}

/// A member pattern over users and services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SubjectPattern {
    /// `key:ID`
    Key(Box<str>),
    /// `basic:NAME`
    Password(Box<str>),
    /// `team:NAME`: every API key of the team.
    Team(Box<str>),
    /// One fact that a token of this issuer must tell.
    Token { issuer: Box<str>, fact: TokenFact },
}

/// One fact of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenFact {
    /// `claim:ISSUER/NAME=VALUE`: the claim is this text, or a list with it.
    Claim { name: Box<str>, value: Box<str> },
    /// `client:ISSUER/ID`
    Client(Box<str>),
    /// `group:ISSUER/NAME`
    Group(Box<str>),
    /// `scope:ISSUER/NAME`
    Scope(Box<str>),
    /// `user:ISSUER/SUBJECT`
    Subject(Box<str>),
}

/// Why a text is no pattern over users and services.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubjectError {
    #[error("{0:?} names no claim and value; write claim:ISSUER/NAME=VALUE")]
    Claim(String),
    #[error("{0:?} names nobody")]
    Empty(String),
    #[error("{0:?} names no issuer; write {1}:ISSUER/NAME")]
    Issuer(String, String),
    #[error("{0:?} is nobody's name, and no fact of the one that is named")]
    Unknown(String),
    #[error("'*' stands for segments of SPIFFE IDs only")]
    Wildcard,
}

impl SubjectNames {
    /// The name under which it is recorded. Kinds never share a name.
    pub(crate) fn principal(&self) -> String {
        match self {
            Self::Key { id, .. } => format!("key:{id}"),
            Self::Password { name } => format!("basic:{name}"),
            Self::Token(names) => match names.acting_for_itself() {
                Some(client) => format!("client:{}/{client}", names.issuer),
                None => format!("user:{}/{}", names.issuer, names.subject),
            },
        }
    }

    /// The kinds of credentials that name somebody so. Whether a token was read here or by its issuer makes no other name of it.
    pub(crate) fn kinds(&self) -> CredentialSet {
        match self {
            Self::Key { .. } => [CredentialKind::ApiKey].into_iter().collect(),
            Self::Password { .. } => [CredentialKind::Basic].into_iter().collect(),
            Self::Token(_) => [CredentialKind::Jwt, CredentialKind::OpaqueToken].into_iter().collect(),
        }
    }

    /// The names of the roles that its credential itself grants.
    pub(crate) fn granted(&self) -> &[Arc<str>] {
        match self {
            Self::Key { grants, .. } => grants,
            Self::Password { .. } | Self::Token(_) => &[],
        }
    }

    /// What its credential says of it besides its name, as a record tells it: at most [`FACTS_MAX`], and no claim, because what
    /// claims hold is nobody's business but the issuer's.
    pub(crate) fn facts(&self) -> Vec<String> {
        let facts: Vec<String> = match self {
            Self::Key { team, grants, .. } => {
                let team = team.iter().map(|team| format!("team:{team}"));
                team.chain(grants.iter().map(|role| format!("grant:{role}"))).collect()
            }
            Self::Password { .. } => Vec::new(),
            Self::Token(names) => {
                let issuer = &names.issuer;
                let groups = names.groups.iter().map(|group| format!("group:{issuer}/{group}"));
                let scopes = names.scopes.iter().map(|scope| format!("scope:{issuer}/{scope}"));
                let client = names.client.iter().filter(|_| !self.is_service());
                let client = client.map(|client| format!("client:{issuer}/{client}"));
                groups.chain(scopes).chain(client).collect()
            }
        };
        facts.into_iter().take(FACTS_MAX).collect()
    }

    /// What was recorded, read back: a name as [`SubjectNames::principal`] gives it, and facts.
    pub(crate) fn recorded(principal: &str, facts: &[String]) -> Result<Self, SubjectError> {
        let pattern = SubjectPattern::parse(principal)?.ok_or_else(|| SubjectError::Unknown(principal.to_owned()))?;
        let mut names = match pattern {
            SubjectPattern::Key(id) => Self::Key { id: id.into(), team: None, grants: Vec::new() },
            SubjectPattern::Password(name) => Self::Password { name: name.into() },
            SubjectPattern::Token { issuer, fact: TokenFact::Subject(subject) } => {
                Self::Token(TokenNames::of(&issuer, &subject, None))
            }
            SubjectPattern::Token { issuer, fact: TokenFact::Client(client) } => {
                Self::Token(TokenNames::of(&issuer, &client, Some(&client)))
            }
            SubjectPattern::Team(_) | SubjectPattern::Token { .. } => {
                return Err(SubjectError::Unknown(principal.to_owned()));
            }
        };
        facts.iter().try_for_each(|fact| names.add_fact(fact))?;
        Ok(names)
    }

    fn add_fact(&mut self, text: &str) -> Result<(), SubjectError> {
        let unknown = || SubjectError::Unknown(text.to_owned());
        if let (Self::Key { grants, .. }, Some(role)) = (&mut *self, text.strip_prefix("grant:")) {
            grants.push(role.into());
            return Ok(());
        }
        match (self, SubjectPattern::parse(text)?.ok_or_else(unknown)?) {
            (Self::Key { team, .. }, SubjectPattern::Team(name)) => *team = Some(name.into()),
            (Self::Token(names), SubjectPattern::Token { issuer, fact }) if *issuer == *names.issuer => match fact {
                TokenFact::Claim { name, value } => {
                    names.claims.insert(name.into(), Value::String(value.into()));
                }
                TokenFact::Client(client) => names.client = Some(client.into()),
                TokenFact::Group(group) => names.groups.push(group.into()),
                TokenFact::Scope(scope) => names.scopes.push(scope.into()),
                TokenFact::Subject(_) => return Err(unknown()),
            },
            (Self::Key { .. } | Self::Password { .. } | Self::Token(_), _of_another_kind) => return Err(unknown()),
        }
        Ok(())
    }

    /// The team that it belongs to.
    pub(crate) fn team(&self) -> Option<&Arc<str>> {
        match self {
            Self::Key { team, .. } => team.as_ref(),
            Self::Password { .. } | Self::Token(_) => None,
        }
    }

    /// Whether it is a program, as opposed to a person.
    pub(crate) fn is_service(&self) -> bool {
        match self {
            Self::Key { .. } => true,
            Self::Password { .. } => false,
            Self::Token(names) => names.acting_for_itself().is_some(),
        }
    }
}

impl TokenNames {
    fn of(issuer: &str, subject: &str, client: Option<&str>) -> Self {
        Self {
            issuer: issuer.into(),
            subject: subject.into(),
            client: client.map(Into::into),
            scopes: Vec::new(),
            groups: Vec::new(),
            claims: Map::new(),
        }
    }

    /// The client that asked for the token for itself: with the client credentials grant the subject is the client
    /// (RFC 9068 §2.2).
    pub(crate) fn acting_for_itself(&self) -> Option<&Arc<str>> {
        self.client.as_ref().filter(|client| **client == self.subject)
    }
}

impl SubjectPattern {
    /// The pattern that a text stands for; none if it is of another kind.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, SubjectError> {
        let Some((kind @ ("basic" | "claim" | "client" | "group" | "key" | "scope" | "team" | "user"), name)) =
            text.split_once(':')
        else {
            return Ok(None);
        };
        if name.is_empty() {
            return Err(SubjectError::Empty(text.to_owned()));
        }
        if name.contains('*') {
            return Err(SubjectError::Wildcard);
        }
        let of_token = || {
            let (issuer, name) = name
                .split_once('/')
                .filter(|(issuer, name)| !issuer.is_empty() && !name.is_empty())
                .ok_or_else(|| SubjectError::Issuer(text.to_owned(), kind.to_owned()))?;
            let fact = match kind {
                "claim" => {
                    let (name, value) = name
                        .split_once('=')
                        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
                        .ok_or_else(|| SubjectError::Claim(text.to_owned()))?;
                    TokenFact::Claim { name: name.into(), value: value.into() }
                }
                "client" => TokenFact::Client(name.into()),
                "group" => TokenFact::Group(name.into()),
                "scope" => TokenFact::Scope(name.into()),
                _ => TokenFact::Subject(name.into()),
            };
            Ok(Self::Token { issuer: issuer.into(), fact })
        };
        Ok(Some(match kind {
            "basic" => Self::Password(name.into()),
            "key" => Self::Key(name.into()),
            "team" => Self::Team(name.into()),
            _ => of_token()?,
        }))
    }

    /// Whether somebody belongs.
    pub(crate) fn matches(&self, subject: &SubjectNames) -> bool {
        match (self, subject) {
            (Self::Key(expected), SubjectNames::Key { id, .. }) => **expected == **id,
            (Self::Team(expected), SubjectNames::Key { team: Some(team), .. }) => **expected == **team,
            (Self::Password(expected), SubjectNames::Password { name }) => **expected == **name,
            (Self::Token { issuer, fact }, SubjectNames::Token(names)) => {
                **issuer == *names.issuer && fact.is_told_by(names)
            }
            (Self::Key(_) | Self::Team(_) | Self::Password(_) | Self::Token { .. }, _of_another_kind) => false,
        }
    }

    /// The claim that it looks at.
    pub(crate) fn claim(&self) -> Option<&str> {
        match self {
            Self::Token { fact: TokenFact::Claim { name, .. }, .. } => Some(name),
            Self::Key(_) | Self::Password(_) | Self::Team(_) | Self::Token { .. } => None,
        }
    }

    /// The issuer that must be configured for this pattern ever to match.
    pub(crate) fn issuer(&self) -> Option<&str> {
        match self {
            Self::Token { issuer, .. } => Some(issuer),
            Self::Key(_) | Self::Password(_) | Self::Team(_) => None,
        }
    }
}

impl TokenFact {
    fn is_told_by(&self, names: &TokenNames) -> bool {
        let among = |list: &[Arc<str>], wanted: &str| list.iter().any(|found| **found == *wanted);
        match self {
            Self::Claim { name, value } => match names.claims.get(&**name) {
                Some(Value::String(found)) => **found == **value,
                Some(Value::Array(list)) => list.iter().any(|found| found.as_str() == Some(value)),
                Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => false,
            },
            Self::Client(wanted) => names.client.as_ref().is_some_and(|found| **found == **wanted),
            Self::Group(wanted) => among(&names.groups, wanted),
            Self::Scope(wanted) => among(&names.scopes, wanted),
            // A client that asks for itself is no user, whatever the issuer calls it.
            Self::Subject(wanted) => names.acting_for_itself().is_none() && *names.subject == **wanted,
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(id) => write!(formatter, "key:{id}"),
            Self::Password(name) => write!(formatter, "basic:{name}"),
            Self::Team(name) => write!(formatter, "team:{name}"),
            Self::Token { issuer, fact } => match fact {
                TokenFact::Claim { name, value } => write!(formatter, "claim:{issuer}/{name}={value}"),
                TokenFact::Client(id) => write!(formatter, "client:{issuer}/{id}"),
                TokenFact::Group(name) => write!(formatter, "group:{issuer}/{name}"),
                TokenFact::Scope(name) => write!(formatter, "scope:{issuer}/{name}"),
                TokenFact::Subject(name) => write!(formatter, "user:{issuer}/{name}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> SubjectNames {
        let claims = serde_json::json!({ "department": "research", "projects": ["a", "b"], "level": 3 });
        SubjectNames::Token(TokenNames {
            issuer: "company".into(),
            subject: "alice".into(),
            client: Some("browser".into()),
            scopes: vec!["llm.use".into()],
            groups: vec!["employees".into()],
            claims: claims.as_object().unwrap().clone(),
        })
    }

    fn batch() -> SubjectNames {
        let SubjectNames::Token(alice) = alice() else { unreachable!() };
        SubjectNames::Token(TokenNames { subject: "batch".into(), client: Some("batch".into()), ..alice })
    }

    fn key() -> SubjectNames {
        SubjectNames::Key { id: "key_a".into(), team: Some("research".into()), grants: vec!["reader".into()] }
    }

    fn check(pattern: &str, subject: &SubjectNames, expected: bool) {
        let parsed = SubjectPattern::parse(pattern).unwrap().unwrap();
        assert_eq!(parsed.matches(subject), expected, "{pattern} {subject:?}");
        assert_eq!(parsed.to_string(), pattern);
    }

    #[test]
    fn a_token_s_facts_count_for_its_own_issuer_only() {
        for (pattern, other) in [
            ("user:company/alice", "user:company/bob"),
            ("group:company/employees", "group:company/admins"),
            ("scope:company/llm.use", "scope:company/llm"),
            ("client:company/browser", "client:company/batch"),
            ("claim:company/department=research", "claim:company/department=sales"),
            ("claim:company/projects=b", "claim:company/projects=c"),
        ] {
            check(pattern, &alice(), true);
            check(other, &alice(), false);
            check(&pattern.replace("company", "partner"), &alice(), false);
            check(pattern, &key(), false);
        }
        check("claim:company/level=3", &alice(), false);
    }

    #[test]
    fn a_client_that_asks_for_itself_is_no_user() {
        check("user:company/batch", &batch(), false);
        check("client:company/batch", &batch(), true);
        assert_eq!((batch().principal().as_str(), batch().is_service()), ("client:company/batch", true));
        assert_eq!((alice().principal().as_str(), alice().is_service()), ("user:company/alice", false));
    }

    #[test]
    fn keys_and_passwords_are_named_by_kind() {
        check("key:key_a", &key(), true);
        check("key:key_b", &key(), false);
        check("team:research", &key(), true);
        check("team:key_a", &key(), false);
        let admin = SubjectNames::Password { name: "admin".into() };
        check("basic:admin", &admin, true);
        check("key:admin", &admin, false);
        check("basic:key_a", &key(), false);
    }

    #[test]
    fn what_was_recorded_reads_back_as_who_it_was() {
        for subject in [alice(), batch(), key(), SubjectNames::Password { name: "admin".into() }] {
            let recorded = SubjectNames::recorded(&subject.principal(), &subject.facts()).unwrap();
            assert_eq!((recorded.principal(), recorded.facts()), (subject.principal(), subject.facts()));
        }
        for (principal, fact) in [
            ("team:research", "grant:a"),
            ("key:key_a", "group:company/a"),
            ("user:company/alice", "group:partner/a"),
            ("user:company/alice", "grant:reader"),
            ("group:company/a", "scope:company/a"),
        ] {
            assert!(SubjectNames::recorded(principal, &[fact.to_owned()]).is_err(), "{principal} {fact}");
        }
    }

    #[test]
    fn patterns_that_name_nobody_are_errors() {
        for text in
            ["key:", "user:alice", "user:/alice", "user:company/", "claim:company/a", "claim:company/=b", "team:*"]
        {
            assert!(SubjectPattern::parse(text).is_err(), "{text}");
        }
        assert_eq!(SubjectPattern::parse("spiffe://td/a"), Ok(None));
        assert_eq!(SubjectPattern::parse("dns:a.example"), Ok(None));
    }

    #[test]
    fn a_credential_tells_no_more_than_it_has() {
        let kinds = |subject: &SubjectNames| subject.kinds().to_string();
        let admin = SubjectNames::Password { name: "admin".into() };
        assert_eq!([kinds(&key()), kinds(&admin), kinds(&alice())], ["api_key", "basic", "jwt or opaque_token"]);
        assert_eq!((key().granted(), key().team().map(|team| &**team)), (&["reader".into()][..], Some("research")));
        assert_eq!((alice().granted(), alice().team()), (&[][..], None));
        assert_eq!(key().facts(), ["team:research", "grant:reader"]);
        let facts = ["group:company/employees", "scope:company/llm.use", "client:company/browser"];
        assert_eq!(
            (alice().facts(), batch().facts()),
            (facts.map(Into::into).to_vec(), facts[..2].iter().map(|fact| (*fact).into()).collect())
        );
        assert!(admin.facts().is_empty());
    }

    #[test]
    fn a_pattern_tells_what_it_needs_of_the_config() {
        let needs = |text| {
            let pattern = SubjectPattern::parse(text).unwrap().unwrap();
            (pattern.issuer().map(ToOwned::to_owned), pattern.claim().map(ToOwned::to_owned))
        };
        assert_eq!(needs("claim:company/department=research"), (Some("company".into()), Some("department".into())));
        assert_eq!(needs("group:company/employees"), (Some("company".into()), None));
        assert_eq!([needs("key:key_a"), needs("team:research")], [(None, None), (None, None)]);
    }
}
