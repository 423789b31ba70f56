//! What an auditor gets: one catalogue of events, segments of hash-chained lines with a signature at their end, the proof that
//! nothing in them was changed, and the same events in the formats of other people's tools.
//!
//! This crate opens no socket, starts no task and reads no clock: time is an argument. Only [`folder`], [`verify::folder`]
//! and [`key::AuditKey::load_or_make`] open files.

pub mod catalogue;

pub mod chain;

pub mod key;

pub mod folder;

pub mod verify;

pub mod format;

pub mod syslog;

pub mod otlp;

pub mod journal;
