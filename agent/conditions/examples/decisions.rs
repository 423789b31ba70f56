//! Decides again and again, to be counted:
//!
//!     valgrind --tool=callgrind target/release/examples/decisions condition 1000
//!
//! `condition` decides one, `gather` only gathers what it needs, `policies-N` decides by a file of N policies, of which one is about who
//! asks; `anybody-N` by a file whose N policies are about anybody. The difference between two counts of repetitions is what a decision
//! costs.

use std::error::Error;
use std::hint::black_box;

use countersign_certs::san::San;
use countersign_certs::time::{Timestamp, Validity};
use countersign_conditions::attributes::Attributes;
use countersign_conditions::clock::{LocalTime, Zone};
use countersign_conditions::condition::Condition;
use countersign_conditions::parties::{Parties, Service};
use countersign_conditions::policy_file::{Effect, PolicyFile};
use countersign_conditions::principal::{Principal, Workload};
use countersign_conditions::schema::{Direction, Schema};
use countersign_conditions::vocabulary::Vocabulary;

const HOURS: &str = "context.hour >= 8 && context.hour < 18 && principal in Role::\"employee\"";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().ok_or("what is to be decided?")?;
    let times: u64 = arguments.next().ok_or("how often?")?.parse()?;
    let schema = Schema::new(&Vocabulary {
        roles: vec!["employee".to_owned()],
        services: vec!["llm".to_owned()],
        ..Vocabulary::default()
    })?;
    let id: San = "spiffe://prod.example/w0".parse()?;
    let second = Timestamp::from_unix_seconds;
    let certificate = Validity { not_before: second(0), not_after: second(9_000) };
    let workload = Workload { id: &id, names: &[], roles: &["employee"], certificate };
    let principal = Principal::workload(&schema, workload)?;
    let parties = Parties::new(&principal, &Service::new(&schema, "llm", &[])?, Some("10.0.0.1".parse()?))?;
    let now = Zone::utc().at(second(36_000));
    let held = match what.split_once('-') {
        None if what == "condition" => {
            let condition =
                Condition::parse(HOURS, &schema, Direction::Inbound).map_err(|error| error.into_finding().message)?;
            count(times, || Ok(condition.holds(&gather(&parties, &now)?)?))?
        }
        None => count(times, || {
            black_box(gather(&parties, &now)?);
            Ok(true)
        })?,
        Some((kind, number)) => {
            let scope = |number: u64| match kind {
                "anybody" => "principal".to_owned(),
                _ => format!("principal == Workload::\"spiffe://prod.example/w{number}\""),
            };
            let policy = |number| format!("permit ({}, action, resource) when {{ {HOURS} }};\n", scope(number));
            let text: String = (0..number.parse()?).map(policy).collect();
            let file = PolicyFile::parse("bench.cedar", &text, &schema, Direction::Inbound)?;
            count(times, || Ok(matches!(file.decide(&gather(&parties, &now)?), Effect::Permit { .. })))?
        }
    };
    if held == times { Ok(()) } else { Err(format!("{held} of {times}").into()) }
}

fn count(times: u64, mut decide: impl FnMut() -> Result<bool, Box<dyn Error>>) -> Result<u64, Box<dyn Error>> {
    let mut held = 0;
    for _ in 0..times {
        held += u64::from(decide()?);
    }
    Ok(held)
}

/// What a request costs before anything is decided.
fn gather(parties: &Parties, now: &LocalTime) -> Result<Attributes, Box<dyn Error>> {
    let mut attributes = Attributes::request(black_box(parties), "POST", "/v1/chat/completions")?;
    attributes.time(now);
    Ok(attributes)
}
