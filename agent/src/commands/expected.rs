//! `test`: a team's own table of decisions that it expects of a config.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use countersign_certs::settings::diagnostic::{Diagnostic, SecretLines};
use countersign_certs::store::{self, StoreError};
use countersign_certs::time::{Clock, Timestamp, TimestampError};
use serde::{Deserialize, Serialize};

use super::question::{self, Question, RouteName};
use crate::config::Secrets;
use crate::in_words::in_one_line;
use crate::run::{self, RunError};

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The config that is tested; a relative path begins at this file's folder.
    config: PathBuf,
    case: Vec<Case>,
}

/// One decision that is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    inbound: Option<String>,
    #[serde(default)]
    outbound: Option<String>,
    #[serde(default)]
    peer: Vec<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    facts: Vec<String>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    headers: Vec<String>,
    #[serde(default)]
    at: Option<String>,
    expect: Expected,
    /// The rule that must allow it.
    #[serde(default)]
    rule: Option<String>,
    /// The reason for which it must be denied.
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

fn get() -> String {
    "GET".to_owned()
}

/// What came of one case.
#[derive(Debug, Serialize)]
struct Tested {
    name: String,
    passed: bool,
    found: String,
}

/// Why a table is not passed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExpectedError {
    /// The table with what was found instead.
    #[error("not every decision is as expected")]
    Failed(String),
    #[error("{0}")]
    Malformed(Box<Diagnostic>),
    #[error("{0} is not UTF-8")]
    NotText(String),
    #[error("the config that is tested cannot be used")]
    Run(#[from] RunError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// No line of such a table is secret.
const NO_SECRETS: SecretLines =
    SecretLines { key: "secret", reminders: &[], hint: "examples/one-config/policy.test.toml shows each key's form" };

/// Carries it out; what it returns is printed. A decision that is another one than expected is a failure.
pub(crate) fn test(path: &Path, json: bool, clock: &Clock) -> Result<String, ExpectedError> {
    let name = path.display().to_string();
    let bytes = store::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_not_text| ExpectedError::NotText(name.clone()))?;
    let table: Table = toml::from_str(text)
        .map_err(|error| ExpectedError::Malformed(Box::new(Diagnostic::of_toml(&name, text, &error, &NO_SECRETS))))?;
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let config = run::load(&folder.join(&table.config), Secrets::Named)?;
    let tested: Vec<Tested> = table.case.into_iter().map(|case| one(case, &config, clock)).collect();
    let failed = tested.iter().filter(|tested| !tested.passed).count();
    let text = if json { serde_json::to_string(&tested).unwrap_or_default() + "\n" } else { in_lines(&tested) };
    if failed == 0 { Ok(text) } else { Err(ExpectedError::Failed(text)) }
}

fn one(case: Case, config: &crate::config::checked::Agent, clock: &Clock) -> Tested {
    let Case { name, inbound, outbound, peer, subject, facts, address, .. } = case;
    let Case { method, path, headers, at, expect, rule, reason, .. } = case;
    let route = match (inbound, outbound) {
        (Some(inbound), None) => Ok(RouteName::Inbound(inbound)),
        (None, Some(outbound)) => Ok(RouteName::Outbound(outbound)),
        (Some(_), Some(_)) | (None, None) => Err("name one inbound or one outbound".to_owned()),
    };
    let at = at.map(|text| text.parse()).transpose().map_err(|error: TimestampError| error.to_string());
    let asked = route.and_then(|route| Ok((route, at?))).and_then(|(route, at): (_, Option<Timestamp>)| {
        let question = Question { route, peer, subject, facts, address, method, path, headers, at, is_recorded: false };
        question::answer(config, &question, clock.now()).map_err(|error| in_one_line(&error))
    });
    let (passed, found) = match asked {
        Err(error) => (false, format!("cannot be asked: {error}")),
        Ok(found) => {
            let as_expected = found.is_allowed() == (expect == Expected::Allow)
                && rule.as_deref().is_none_or(|rule| found.rule() == Some(rule))
                && reason.as_deref().is_none_or(|reason| found.reason() == Some(reason));
            (as_expected, found.in_short())
        }
    };
    Tested { name, passed, found }
}

fn in_lines(tested: &[Tested]) -> String {
    let mut text = String::new();
    for Tested { name, passed, found } in tested {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {name}: {found}", if *passed { "ok    " } else { "FAILED" });
    }
    let failed = tested.iter().filter(|tested| !tested.passed).count();
    let _ = writeln!(text, "{} cases, {failed} failed", tested.len());
    text
}

impl ExpectedError {
    /// What was found, which is data.
    pub(crate) fn data(&self) -> Option<&str> {
        let Self::Failed(text) = self else { return None };
        Some(text)
    }

    /// Whether the config is what is wrong.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Run(RunError::Config(_)) | Self::Malformed(_))
    }
}
