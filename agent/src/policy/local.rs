//! Programs of this host, as the kernel tells them apart.

use std::fmt;

/// A program of this host that uses an outbound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalCaller {
    /// It came over loopback, where the kernel does not say whose it is.
    Loopback,
    /// Nothing is known of it: it belongs to no role.
    Unknown,
    /// It came over a Unix socket.
    User(LocalUser),
}

/// The user at the other end of a Unix socket (SO_PEERCRED, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalUser {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Which programs of this host belong to a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LocalPattern {
    /// `local:loopback`: whatever came over loopback.
    Loopback,
    /// `local:uid=N`
    Uid(u32),
    /// `local:gid=N`
    Gid(u32),
}

/// Why a text names no program of this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no program of this host; write local:loopback, local:uid=N or local:gid=N")]
pub(crate) struct LocalError(String);

const PREFIX: &str = "local:";

impl LocalCaller {
    /// Reads what audit lines say: `local:loopback`, `local:unknown` or `local:uid=N,gid=N`.
    pub(crate) fn recorded(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX)?;
        match rest {
            "loopback" => return Some(Self::Loopback),
            "unknown" => return Some(Self::Unknown),
            _ => {}
        }
        let (uid, gid) = rest.strip_prefix("uid=")?.split_once(",gid=")?;
        Some(Self::User(LocalUser { uid: number(uid)?, gid: number(gid)? }))
    }
}

impl LocalPattern {
    /// Reads a member of a role; none if it is one of another kind.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, LocalError> {
        let Some(rest) = text.strip_prefix(PREFIX) else { return Ok(None) };
        let pattern = match rest.split_once('=') {
            None if rest == "loopback" => Some(Self::Loopback),
            Some(("uid", uid)) => number(uid).map(Self::Uid),
            Some(("gid", gid)) => number(gid).map(Self::Gid),
            None | Some(_) => None,
        };
        pattern.map(Some).ok_or_else(|| LocalError(text.to_owned()))
    }

    /// Whether a program belongs.
    pub(crate) fn matches(self, caller: LocalCaller) -> bool {
        match (self, caller) {
            (Self::Loopback, LocalCaller::Loopback) => true,
            (Self::Uid(uid), LocalCaller::User(user)) => uid == user.uid,
            (Self::Gid(gid), LocalCaller::User(user)) => gid == user.gid,
            (Self::Loopback, LocalCaller::User(_))
            | (Self::Uid(_) | Self::Gid(_), LocalCaller::Loopback)
            | (_, LocalCaller::Unknown) => false,
        }
    }
}

/// Only digits: what else Rust takes for a number, as "+1", is refused.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for LocalCaller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => write!(formatter, "{PREFIX}loopback"),
            Self::Unknown => write!(formatter, "{PREFIX}unknown"),
            Self::User(LocalUser { uid, gid }) => write!(formatter, "{PREFIX}uid={uid},gid={gid}"),
        }
    }
}

impl fmt::Display for LocalPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loopback => write!(formatter, "{PREFIX}loopback"),
            Self::Uid(uid) => write!(formatter, "{PREFIX}uid={uid}"),
            Self::Gid(gid) => write!(formatter, "{PREFIX}gid={gid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, caller: &str, expected: bool) {
        let pattern = LocalPattern::parse(pattern).unwrap().unwrap();
        assert_eq!(pattern.matches(LocalCaller::recorded(caller).unwrap()), expected, "{pattern} {caller}");
    }

    #[test]
    fn a_program_belongs_by_its_user_its_group_or_the_way_it_came() {
        check("local:uid=1000", "local:uid=1000,gid=100", true);
        check("local:uid=100", "local:uid=1000,gid=100", false);
        check("local:gid=100", "local:uid=1000,gid=100", true);
        check("local:gid=1000", "local:uid=1000,gid=100", false);
        check("local:loopback", "local:loopback", true);
        check("local:loopback", "local:uid=0,gid=0", false);
        check("local:uid=0", "local:loopback", false);
        check("local:loopback", "local:unknown", false);
        check("local:uid=0", "local:unknown", false);
    }

    #[test]
    fn what_names_no_program_is_an_error() {
        for text in ["local:", "local:root", "local:uid=", "local:uid=+1", "local:uid=4294967296", "local:uid=1,gid=1"]
        {
            assert_eq!(LocalPattern::parse(text), Err(LocalError(text.to_owned())), "{text}");
        }
        assert_eq!(LocalPattern::parse("dns:local"), Ok(None));
        for text in ["local:uid=1", "local:gid=1,uid=1", "local:uid=1,gid=-1", "loopback"] {
            assert_eq!(LocalCaller::recorded(text), None, "{text}");
        }
    }

    #[test]
    fn a_program_is_recorded_as_it_is_read() {
        for text in ["local:loopback", "local:unknown", "local:uid=1000,gid=100"] {
            assert_eq!(LocalCaller::recorded(text).unwrap().to_string(), text);
        }
    }
}
