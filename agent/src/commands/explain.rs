//! `explain`: a decision that was made, or one that would be.

use std::path::Path;

use countersign_certs::time::Clock;
use http::Method;

use super::question::{self, Question};
use super::recorded::Recorded;
use super::{CommandError, socket};
use crate::config::Secrets;
use crate::control::client;
use crate::control::server::DECISION_PATH;
use crate::in_words::in_one_line;
use crate::refusal::AMBIGUOUS;
use crate::run;

/// `explain DECISION_ID`: what was recorded, and what the config says to it now.
pub(crate) async fn decision(config: &Path, id: &str, json: bool, clock: &Clock) -> Result<String, CommandError> {
    let line = client::ask(&socket(config)?, Method::GET, &format!("{DECISION_PATH}{id}")).await?;
    let recorded: Recorded = serde_json::from_str(&line)?;
    let unasked = recorded.reason.as_deref() == Some(AMBIGUOUS);
    // What was recorded is told even where nothing can be said about now, as of a path that is refused before any rule.
    let question = recorded.question().filter(|_| !unasked).map(of_now);
    let now = question.map(|question| answer(config, &question, clock).map_err(|error| in_one_line(&error)));
    if json {
        let recorded: serde_json::Value = serde_json::from_str(&line)?;
        let said = match now.transpose() {
            Ok(now) => serde_json::json!({ "recorded": recorded, "now": now }),
            Err(error) => serde_json::json!({ "recorded": recorded, "error": error }),
        };
        return Ok(format!("{said}\n"));
    }
    let now = match now.transpose() {
        Ok(None) if unasked => "it was refused before any rule was asked, and would be again\n".to_owned(),
        Ok(now) => now.map(|now| format!("with the config as it is now:\n{now}")).unwrap_or_default(),
        Err(error) => format!("with the config as it is now: {error}\n"),
    };
    Ok(format!("recorded: {}\n{now}", line.trim_end()))
}

/// A recorded question as it would be asked now.
fn of_now(question: Question) -> Question {
    match &question.subject {
        // What a key gives now stands in its file.
        Some(subject) if subject.starts_with("key:") => Question { facts: Vec::new(), at: None, ..question },
        Some(_) | None => Question { at: None, ..question },
    }
}

/// `explain --inbound ...`: what would be decided.
pub(crate) fn question(config: &Path, question: &Question, json: bool, clock: &Clock) -> Result<String, CommandError> {
    let explanation = answer(config, question, clock)?;
    Ok(if json { serde_json::to_string(&explanation)? + "\n" } else { explanation.to_string() })
}

fn answer(
    config: &Path,
    question: &Question,
    clock: &Clock,
) -> Result<crate::policy::explain::Explanation, CommandError> {
    let config = run::load(config, Secrets::Named)?;
    Ok(question::answer(&config, question, clock.now())?)
}
