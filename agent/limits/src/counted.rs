//! What is counted apart: one caller, team, address or route, by a digest of fixed size.

use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 of a kind and a name. However long names are, a bucket takes the same room, and a store that several agents share
/// learns no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counted([u8; 32]);

impl Counted {
    /// Everybody whom a full table has no bucket for.
    pub(crate) const REST: Self = Self([0; 32]);

    /// Somebody or something of a kind. Kinds have no NUL, so that no two pairs are the same bytes.
    pub fn new(kind: &str, name: &[u8]) -> Self {
        let mut digest = Context::new(&SHA256);
        digest.update(kind.as_bytes());
        digest.update(&[0]);
        digest.update(name);
        Self(digest.finish().as_ref().try_into().unwrap_or_default())
    }

    /// Which of 256 parts of a table it belongs to.
    pub(crate) fn part(&self) -> u8 {
        let [first, ..] = self.0;
        first
    }

    /// 64 digits.
    pub fn to_hexadecimal(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_never_share_a_bucket() {
        assert_ne!(Counted::new("team", b"a"), Counted::new("key", b"a"));
        assert_ne!(Counted::new("team", b"a"), Counted::new("team", b"b"));
        assert_eq!(Counted::new("team", b"a"), Counted::new("team", b"a"));
        assert_eq!(Counted::new("team", b"a").to_hexadecimal().len(), 64);
    }
}
