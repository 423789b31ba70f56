//! Who stands behind a request. There is no caller that is nobody.

use std::rc::Rc;

use super::subject::Subject;
use crate::identify::Peer;
use crate::policy::decide::Holders;
use crate::policy::role::RoleSet;

/// The principal of a request. The kinds are kept apart: what a workload may do is not what it may do for somebody else.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// A workload that has proved itself by its certificate, or a program of this host.
    Peer(Rc<Peer>),
    /// A workload that acts for a user or for another service, each proved by its own credential.
    OnBehalf { workload: Rc<Peer>, subject: Rc<Subject> },
    /// A user or a service with a credential of its own, and no certificate.
    Subject(Rc<Subject>),
}

/// The roles of everybody behind a request, kept while a decision looks at them.
pub(crate) struct HeldRoles {
    roles: Rc<RoleSet>,
    via: Option<Rc<RoleSet>>,
}

impl HeldRoles {
    /// As a policy looks at them.
    pub(crate) fn holders(&self) -> Holders<'_> {
        Holders { roles: &self.roles, via: self.via.as_deref() }
    }
}

impl Caller {
    /// As in audit lines.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Peer(_) => "workload",
            Self::OnBehalf { .. } => "workload_on_behalf",
            Self::Subject(subject) => subject.kind(),
        }
    }

    /// The user or service with a credential of its own.
    pub(crate) fn subject(&self) -> Option<&Rc<Subject>> {
        match self {
            Self::Peer(_) => None,
            Self::OnBehalf { subject, .. } | Self::Subject(subject) => Some(subject),
        }
    }

    /// The roles that it holds, as they are now.
    pub(crate) fn roles(&self) -> HeldRoles {
        match self {
            Self::Peer(peer) => HeldRoles { roles: peer.roles(), via: None },
            Self::OnBehalf { workload, subject } => HeldRoles { roles: subject.roles(), via: Some(workload.roles()) },
            Self::Subject(subject) => HeldRoles { roles: subject.roles(), via: None },
        }
    }
}
