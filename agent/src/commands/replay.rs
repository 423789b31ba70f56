//! `replay`: which recorded decisions another config would change.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use countersign_certs::time::Clock;
use serde::Serialize;

use super::CommandError;
use super::question;
use super::recorded::Recorded;
use crate::config::{Secrets, open_audit};
use crate::in_words::in_one_line;
use crate::policy::decide::Obstacle;
use crate::run;

/// Longest audit line in bytes.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// Most changes that are told one by one; all are counted.
const CHANGES_MAX: usize = 10_000;

/// Why nothing can be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Replayed {
    /// Decisions that a policy made.
    decisions: u64,
    unchanged: u64,
    now_allowed: u64,
    now_denied: u64,
    /// Decisions of which nothing can be said: their route is gone, or they were made on what is not recorded.
    unknown: u64,
    /// Lines that are no records of requests in JSON, or were refused before any rule was asked, or tell of a route without rules or of a
    /// plain TCP connection.
    other_lines: u64,
    changes: Vec<Change>,
    /// Why nothing can be said, and how often.
    unknown_because: BTreeMap<String, u64>,
}

/// A decision that would be another one.
#[derive(Debug, Serialize)]
struct Change {
    decision: String,
    time: String,
    route: String,
    who: String,
    method: String,
    path: String,
    before: String,
    now: String,
}

/// Carries it out; what it returns is printed.
pub(crate) fn replay(policy: &Path, audit: &[PathBuf], json: bool, clock: &Clock) -> Result<String, CommandError> {
    let config = run::load(policy, Secrets::Named)?;
    let mut replayed = Replayed::default();
    for path in audit {
        let failed = |source| ReplayError::Read { path: path.clone(), source };
        let mut lines = BufReader::new(open_audit(path).map_err(failed)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = std::io::Read::take(&mut lines, LINE_BYTES_MAX);
            if bounded.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            replayed.take(&line, &config, clock);
        }
    }
    Ok(if json { serde_json::to_string(&replayed)? + "\n" } else { replayed.to_text() })
}

impl Replayed {
    fn take(&mut self, line: &[u8], config: &crate::config::checked::Agent, clock: &Clock) {
        let recorded: Option<Recorded> = serde_json::from_slice(line).ok();
        let Some(recorded) = recorded.filter(Recorded::is_request) else {
            self.other_lines += 1;
            return;
        };
        // Whatever else refused a request would refuse it still.
        let reason = recorded.reason.as_deref().filter(|reason| Obstacle::REASONS.contains(reason));
        let before = match (&recorded.rule, reason) {
            (Some(rule), _) => Ok(rule.clone()),
            (None, Some(reason)) => Err(reason.to_owned()),
            (None, None) => {
                self.other_lines += 1;
                return;
            }
        };
        let Some(question) = recorded.question() else {
            self.other_lines += 1;
            return;
        };
        self.decisions += 1;
        match question::by_rules(config, &question, clock.now()) {
            Ok(now) if now.is_unclear() => self.is_unknown(now.in_short()),
            Ok(now) if now.is_allowed() == before.is_ok() => self.unchanged += 1,
            Ok(now) => self.changes(&recorded, before, &now),
            Err(error) => self.is_unknown(in_one_line(&error)),
        }
    }

    fn is_unknown(&mut self, because: String) {
        self.unknown += 1;
        *self.unknown_because.entry(because).or_default() += 1;
    }

    fn changes(
        &mut self,
        recorded: &Recorded,
        before: Result<String, String>,
        now: &crate::policy::explain::Explanation,
    ) {
        if now.is_allowed() {
            self.now_allowed += 1;
        } else {
            self.now_denied += 1;
        }
        if self.changes.len() == CHANGES_MAX {
            return;
        }
        let who = [&recorded.peer, &recorded.subject].into_iter().flatten().cloned().collect::<Vec<_>>();
        self.changes.push(Change {
            decision: recorded.decision.clone(),
            time: recorded.time.clone(),
            route: recorded.route.clone(),
            who: who.join(" for "),
            method: recorded.method.clone().unwrap_or_default(),
            path: recorded.path.clone().unwrap_or_default(),
            before: before.map_or_else(|reason| format!("denied: {reason}"), |rule| format!("allowed by {rule}")),
            now: now.in_short(),
        });
    }

    fn to_text(&self) -> String {
        let mut lines: Vec<String> = self
            .changes
            .iter()
            .map(|change| {
                let Change { decision, time, route, who, method, path, before, now } = change;
                format!("{time} {decision} {route}: {who}, {method} {path}: {before} -> {now}")
            })
            .collect();
        lines
            .extend(self.unknown_because.iter().map(|(because, count)| format!("cannot be told ({count}): {because}")));
        lines.push(format!(
            "{} decisions: {} as before, {} now allowed, {} now denied, {} cannot be told; {} other lines",
            self.decisions, self.unchanged, self.now_allowed, self.now_denied, self.unknown, self.other_lines
        ));
        lines.join("\n") + "\n"
    }
}
