//! Who makes a request, as limits look at it: for whom they hold, and what is counted apart.

use std::net::IpAddr;
use std::rc::Rc;

use countersign_certs::network::network_of;
use countersign_limits::counted::Counted;

use super::definition::{CountedBy, Limit, Limitable};
use crate::authenticate::caller::Caller;
use crate::authenticate::subject::{Proof, Subject};
use crate::connection::Connection;
use crate::identify::Peer;

/// Who makes a request, or a connection that is carried as a whole.
pub(crate) struct Who<'request> {
    connection: &'request Connection,
    workload: Option<&'request Rc<Peer>>,
    subject: Option<&'request Rc<Subject>>,
}

impl<'request> Who<'request> {
    /// Of one request.
    pub(crate) fn of_request(connection: &'request Connection, caller: &'request Caller) -> Self {
        let workload = match caller {
            Caller::OnBehalf { workload, .. } | Caller::Peer(workload) => Some(workload),
            Caller::Subject(_) => None,
        };
        Self { connection, workload, subject: caller.subject() }
    }

    /// Of a connection whose bytes are not looked at.
    pub(crate) fn of_connection(connection: &'request Connection) -> Self {
        Self { connection, workload: connection.peer(), subject: None }
    }

    /// Whoever the request is made for.
    pub(crate) fn name(&self) -> &str {
        self.subject_name().or_else(|| self.workload_name()).unwrap_or("nobody who is known")
    }

    /// What is counted, if the limit holds.
    pub(crate) fn counted_by(&self, limit: &Limit) -> Option<Counted> {
        if !self.is_under(limit) {
            return None;
        }
        let kind = limit.by.as_str();
        let named = |name: Option<&str>| name.map(|name| Counted::new(kind, name.as_bytes()));
        match limit.by {
            CountedBy::Address => self.connection.address().ip().map(|address| of_address(kind, address)),
            CountedBy::All => Some(Counted::new(kind, b"")),
            CountedBy::Caller => named(self.subject_name().or_else(|| self.workload_name())),
            CountedBy::Identity => named(self.workload_name()),
            CountedBy::Key => named(self.key().map(|(id, _)| id)),
            CountedBy::Route => named(Some(self.connection.route_name())),
            CountedBy::Subject => named(self.subject_name()),
            CountedBy::Team => named(self.team()),
        }
    }

    fn is_under(&self, limit: &Limit) -> bool {
        let of_workload = self.workload.map(|peer| (peer.sans(), peer.roles()));
        let of_subject = self.subject.map(|subject| (subject.names(), subject.roles()));
        limit.holds_for(&Limitable {
            workload: of_workload.as_ref().map(|(names, roles)| (*names, &**roles)),
            subject: of_subject.as_ref().map(|(names, roles)| (*names, &**roles)),
            named: self.key().and_then(|(_, limits)| limits).unwrap_or_default(),
        })
    }

    fn workload_name(&self) -> Option<&str> {
        self.workload.map(|peer| peer.principal())
    }

    fn subject_name(&self) -> Option<&str> {
        self.subject.map(|subject| subject.principal())
    }

    fn team(&self) -> Option<&str> {
        self.subject?.names().team().map(|team| &**team)
    }

    /// The name of the API key and the limits that it names.
    fn key(&self) -> Option<(&str, Option<&[String]>)> {
        match self.subject?.proof() {
            Proof::Key { key, .. } => Some((key.id.as_str(), key.limits.as_deref())),
            Proof::Password { .. } | Proof::Token(_) => None,
        }
    }
}

/// An IPv4 address, however it is written, or the network of an IPv6 address.
fn of_address(kind: &str, address: IpAddr) -> Counted {
    match network_of(address) {
        IpAddr::V4(address) => Counted::new(kind, &address.octets()),
        IpAddr::V6(network) => Counted::new(kind, &network.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_however_it_is_written_and_of_ipv6_the_network_is() {
        let same = |one: &str, other: &str| {
            let of = |text: &str| of_address("address", text.parse().unwrap());
            of(one) == of(other)
        };
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
    }
}
