//! A build without conditions: there is none, and a config that has one is refused.

use std::marker::PhantomData;
use std::ops::Range;

use countersign_certs::settings::diagnostic::Finding;

use super::{Evaluation, FileEffect};

/// There is no condition.
#[derive(Debug, Clone)]
pub(crate) enum Condition {}

/// There is no file of policies.
#[derive(Debug, Clone)]
pub(crate) enum PolicyFile {}

/// Nothing is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Uses;

/// Nothing is known of a service that anybody asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceFacts;

/// Nothing is gathered.
#[derive(Debug, Default)]
pub(crate) struct Facts<'request>(PhantomData<&'request ()>);

/// Refuses what it is asked to compile.
pub(crate) struct Compiler;

const REFUSED: &str = "this build of countersign-agent knows no conditions; build it with the feature \"conditions\"";

impl Facts<'_> {
    pub(crate) fn not_gathered() -> Self {
        Self::default()
    }
}

impl Condition {
    pub(crate) fn evaluate(&self, _facts: &Facts<'_>) -> Evaluation {
        match *self {}
    }

    pub(crate) fn in_words(&self, _facts: &Facts<'_>) -> String {
        match *self {}
    }
}

impl PolicyFile {
    pub(crate) fn decide(&self, _facts: &Facts<'_>) -> FileEffect {
        match *self {}
    }

    pub(crate) fn detail(&self, _facts: &Facts<'_>) -> String {
        match *self {}
    }
}

impl Uses {
    pub(crate) fn looks_at_time(self) -> bool {
        false
    }

    pub(crate) fn looks_at_claims(self) -> bool {
        false
    }
}

impl Compiler {
    pub(crate) fn for_outbounds(&self) -> Self {
        Self
    }

    /// What is said to whoever asks for conditions.
    pub(crate) fn refused(place: Range<usize>) -> Finding {
        Finding::new(place, REFUSED)
    }

    pub(crate) fn condition(&self, _text: &str) -> Result<Condition, Finding> {
        Err(Self::refused(0..0))
    }

    pub(crate) fn file(&self, _name: &str, _text: &str) -> Result<PolicyFile, String> {
        Err(REFUSED.to_owned())
    }

    pub(crate) fn service(&self, _name: &str, _labels: &[(&str, &str)]) -> Result<ServiceFacts, String> {
        Ok(ServiceFacts)
    }

    pub(crate) fn uses<'rules>(
        _conditions: impl Iterator<Item = &'rules Condition>,
        _file: Option<&PolicyFile>,
    ) -> Uses {
        Uses
    }
}
