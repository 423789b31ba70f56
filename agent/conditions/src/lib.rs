//! Conditions in Cedar: one expression beside a rule, or a whole policy file beside a route.
//!
//! The agent decides most requests by a table of roles, methods and paths. This crate answers where an operator has written more:
//! hours, headers, claims, labels, the age of a certificate. It is pure: no network, no clock, no state, and no file but those
//! of time zones, which [`clock::Zones::of_system`] reads. What a condition can speak of is generated from the config
//! ([`vocabulary`]), so that a condition that can never hold is refused when it is loaded, and what is left to go wrong while
//! deciding is an error, never a silent "no".
//!
//! Cedar is named nowhere else. None of its types is public here.

pub mod vocabulary;

pub mod schema;

pub mod condition;

pub mod policy_file;

pub mod attributes;

pub mod principal;

pub mod parties;

pub mod uses;

pub mod clock;

mod evaluate;

mod validate;

mod literals;

mod text;

mod room;

pub mod value;
