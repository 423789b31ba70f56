//! An audit line, as far as it can be asked about again.

use serde::Deserialize;

use super::question::{Question, RouteName};
use crate::direction::Direction;

/// What is needed of an audit line to ask again.
#[derive(Debug, Deserialize)]
pub(crate) struct Recorded {
    #[serde(default)]
    event: String,
    #[serde(default)]
    direction: String,
    #[serde(default)]
    pub(crate) route: String,
    #[serde(default)]
    pub(crate) time: String,
    #[serde(default)]
    pub(crate) decision: String,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    pub(crate) peer: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    pub(crate) subject: Option<String>,
    #[serde(default)]
    subject_facts: Vec<String>,
    #[serde(default)]
    pub(crate) method: Option<String>,
    #[serde(default)]
    pub(crate) path: Option<String>,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) rule: Option<String>,
}

impl Recorded {
    /// Whether it is about a request.
    pub(crate) fn is_request(&self) -> bool {
        self.event == "request"
    }

    /// What was asked, if somebody asked whom a policy decides on.
    pub(crate) fn question(&self) -> Option<Question> {
        let peer: Vec<String> =
            if self.names.is_empty() { self.peer.iter().cloned().collect() } else { self.names.clone() };
        let somebody = !peer.is_empty() || self.subject.is_some();
        let (method, path) = self.method.clone().zip(self.path.clone())?;
        let route = match self.direction.as_str() {
            inbound if inbound == Direction::Inbound.as_str() => RouteName::Inbound(self.route.clone()),
            outbound if outbound == Direction::Outbound.as_str() => RouteName::Outbound(self.route.clone()),
            _ => return None,
        };
        somebody.then(|| Question {
            route,
            peer,
            subject: self.subject.clone(),
            facts: self.subject_facts.clone(),
            address: self.address.clone().filter(|address| address.parse::<std::net::SocketAddr>().is_ok()),
            method,
            path,
            headers: Vec::new(),
            is_recorded: true,
            at: self.time.parse().ok(),
        })
    }
}
