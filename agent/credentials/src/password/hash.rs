//! Hashes of passwords, slow on purpose: Argon2id (RFC 9106) and, for files that exist already, bcrypt.
//!
//! How slow is bounded at both ends. A hash that is too cheap gives the password away to whoever steals the file; one that is too
//! dear stops the agent that has to check it. Checking one takes tens of milliseconds and MiB: the caller bounds how many at once.

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

use super::Password;
use crate::random::{self, NoRandomness};

/// The most memory that checking one password may take, in KiB.
pub const MEMORY_KIB_MAX: u32 = 256 * 1024;

/// The most passes of Argon2id over its memory.
pub const PASSES_MAX: u32 = 10;

/// The most lanes of Argon2id. They run one after the other here.
pub const LANES_MAX: u32 = 16;

/// The costs of bcrypt that are accepted: 10 is the least that OWASP allows, 14 takes about a second.
pub const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 10..=14;

/// The weakest parameters of Argon2id, as KiB and passes; any one pair will do. They are those that OWASP's Password Storage Cheat Sheet
/// lists as equally strong.
const LEAST: [(u32, u32); 5] = [(47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5)];

/// What new hashes are made with: 19 MiB, two passes, one lane, the least memory that OWASP recommends first.
const NEW: Cost = Cost::Argon2id { memory_kib: 19_456, passes: 2, lanes: 1, output_bytes: 32 };

/// bcrypt looks at no more bytes of a password.
const BCRYPT_PASSWORD_BYTES_MAX: usize = 72;

/// Bytes of salts in an Argon2id text.
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// Bytes of hashes in an Argon2id text. Programs make whole words of eight; another length is that of a text cut off.
const OUTPUT_BYTES: [usize; 7] = [16, 24, 32, 40, 48, 56, 64];

/// What is kept of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash {
    cost: Cost,
    salt: Vec<u8>,
    /// Nothing in a decoy: no password has that hash.
    output: Option<Vec<u8>>,
}

/// The algorithm and how slow it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Cost {
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, output_bytes: usize },
    Bcrypt { cost: u32 },
}

/// Why a text is no hash that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// Another algorithm.
    #[error("a hash of a password begins with $argon2id$v=19$, $2a$, $2b$ or $2y$; this one begins with {0:?}")]
    Algorithm(String),
    /// A cost of bcrypt outside its bounds.
    #[error("the cost of a bcrypt hash is {} to {}; this one has {cost}", BCRYPT_COSTS.start(), BCRYPT_COSTS.end())]
    BcryptCost {
        /// What it has.
        cost: u32,
    },
    /// Damaged.
    #[error("the hash of the password cannot be read; was it cut off?")]
    Malformed,
    /// Too dear.
    #[error(
        "checking the hash would take {memory_kib} KiB, {passes} passes and {lanes} lanes; the most is {MEMORY_KIB_MAX}, {PASSES_MAX} and {LANES_MAX}"
    )]
    TooDear {
        /// KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// Too cheap.
    #[error("a hash with {memory_kib} KiB and {passes} passes is too weak; 19456 KiB and 2 passes are enough")]
    TooWeak {
        /// KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
    },
}

impl PasswordHash {
    /// Reads a hash as `argon2` and `htpasswd -B` write it.
    ///
    /// # Errors
    /// Another algorithm, damaged, too weak, or too dear.
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        if let Some(rest) = text.strip_prefix("$argon2id$v=19$") {
            return parse_argon2id(rest);
        }
        match ["$2a$", "$2b$", "$2y$"].iter().find_map(|prefix| text.strip_prefix(prefix)) {
            Some(rest) => parse_bcrypt(rest),
            None => Err(PasswordHashError::Algorithm(text.chars().take(15).collect())),
        }
    }

    /// Whether this is the hash of a password. It takes the same time whatever the answer is.
    #[must_use]
    pub fn verify(&self, password: &Password) -> bool {
        let Some(computed) = self.cost.compute(password.as_bytes(), &self.salt) else { return false };
        let is_equal = |output: &Vec<u8>| verify_slices_are_equal(&computed, output).is_ok();
        let whole = match self.cost {
            Cost::Argon2id { .. } => true,
            // What bcrypt does not look at would be accepted whatever it is.
            Cost::Bcrypt { .. } => password.as_bytes().len() <= BCRYPT_PASSWORD_BYTES_MAX,
        };
        self.output.as_ref().is_some_and(is_equal) && whole
    }

    /// The text of a new hash: Argon2id with 19 MiB, two passes and one lane.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn new_text(password: &Password) -> Result<String, NoRandomness> {
        let mut salt = [0; 16];
        random::fill(&mut salt)?;
        let Cost::Argon2id { memory_kib, passes, lanes, .. } = NEW else { return Err(NoRandomness) };
        let output = NEW.compute(password.as_bytes(), &salt).ok_or(NoRandomness)?;
        let (salt, output) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(&*output));
        Ok(format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${output}"))
    }

    /// A hash that no password has, and that takes as long to check as most of `hashes` do: checked for users that do not exist, so that
    /// time does not tell who does.
    pub fn decoy<'hash>(hashes: impl IntoIterator<Item = &'hash Self>) -> Self {
        let mut counts = std::collections::HashMap::<Cost, usize>::new();
        for hash in hashes {
            *counts.entry(hash.cost).or_default() += 1;
        }
        let cost = counts.into_iter().max_by_key(|(_, count)| *count).map_or(NEW, |(cost, _)| cost);
        Self { cost, salt: vec![0; 16], output: None }
    }
}

impl Cost {
    /// The hash. Nothing if there is no memory for it.
    fn compute(self, password: &[u8], salt: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match self {
            Self::Argon2id { memory_kib, passes, lanes, output_bytes } => {
                let params = Params::new(memory_kib, passes, lanes, Some(output_bytes)).ok()?;
                let mut output = Zeroizing::new(vec![0; output_bytes]);
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(password, salt, &mut output).ok()?;
                Some(output)
            }
            Self::Bcrypt { cost } => {
                // The algorithm takes the zero byte that ends a C string as well, if there is room for it.
                let mut seen: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(BCRYPT_PASSWORD_BYTES_MAX));
                seen.extend(password.iter().chain(&[0]).take(BCRYPT_PASSWORD_BYTES_MAX));
                let mut output = bcrypt::bcrypt(cost, salt.try_into().ok()?, &seen).to_vec();
                // The last byte is never written down.
                output.truncate(23);
                Some(Zeroizing::new(output))
            }
        }
    }
}

/// Reads `m=19456,t=2,p=1$SALT$HASH`.
fn parse_argon2id(rest: &str) -> Result<PasswordHash, PasswordHashError> {
    let [parameters, salt, output] = parts(rest, '$')?;
    let [memory, passes, lanes] = parts(parameters, ',')?;
    let (memory_kib, passes, lanes) = (number(memory, "m=")?, number(passes, "t=")?, number(lanes, "p=")?);
    if memory_kib > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(PasswordHashError::TooDear { memory_kib, passes, lanes });
    }
    if !LEAST.iter().any(|(least_kib, least_passes)| memory_kib >= *least_kib && passes >= *least_passes) {
        return Err(PasswordHashError::TooWeak { memory_kib, passes });
    }
    let decode = |text: &str| STANDARD_NO_PAD.decode(text).map_err(|_strange| PasswordHashError::Malformed);
    let (salt, output) = (decode(salt)?, decode(output)?);
    if lanes == 0 || !SALT_BYTES.contains(&salt.len()) || !OUTPUT_BYTES.contains(&output.len()) {
        return Err(PasswordHashError::Malformed);
    }
    let cost = Cost::Argon2id { memory_kib, passes, lanes, output_bytes: output.len() };
    Ok(PasswordHash { cost, salt, output: Some(output) })
}

/// Reads `12$` and 53 characters: 22 of salt, 31 of hash.
fn parse_bcrypt(rest: &str) -> Result<PasswordHash, PasswordHashError> {
    let [cost, salt_and_output] = parts(rest, '$')?;
    let is_two_digits = cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit());
    let cost = cost.parse().ok().filter(|_| is_two_digits).ok_or(PasswordHashError::Malformed)?;
    if !BCRYPT_COSTS.contains(&cost) {
        return Err(PasswordHashError::BcryptCost { cost });
    }
    let decode = |text: &str| bcrypt::BASE_64.decode(text).map_err(|_strange| PasswordHashError::Malformed);
    let (salt, output) = salt_and_output.split_at_checked(22).ok_or(PasswordHashError::Malformed)?;
    let (salt, output) = (decode(salt)?, decode(output)?);
    if salt.len() != 16 || output.len() != 23 {
        return Err(PasswordHashError::Malformed);
    }
    Ok(PasswordHash { cost: Cost::Bcrypt { cost }, salt, output: Some(output) })
}

fn parts<const COUNT: usize>(text: &str, separator: char) -> Result<[&str; COUNT], PasswordHashError> {
    let parts: Vec<&str> = text.splitn(COUNT + 1, separator).collect();
    parts.try_into().map_err(|_count| PasswordHashError::Malformed)
}

/// A decimal number as one program would write it: no sign, no leading zero.
fn number(text: &str, key: &str) -> Result<u32, PasswordHashError> {
    let digits = text.strip_prefix(key).ok_or(PasswordHashError::Malformed)?;
    if digits.starts_with(['0', '+']) {
        return Err(PasswordHashError::Malformed);
    }
    digits.parse().map_err(|_strange| PasswordHashError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the reference implementation's `argon2` for "correct horse".
    const ARGON2ID: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$NtSH3iUppRZ3iIKZzXoUQQ$MY2IiuMHsjUGORQsJE12MEeMLhjqyzGwzmtI0JMyaQ4";
    /// Made by `htpasswd -B`'s algorithm for "correct horse" and for 72 times "x".
    const BCRYPT: &str = "$2b$10$e0fM0gb6fVd4EnTRZ1WIJebbuuHmuzfa40CVn7hspb1b.0eVEXJFS";
    const BCRYPT_LONG: &str = "$2b$10$dJi.DBGCmLAz.L.n2CL.reop1wjyCZV20ZGOLnb/8c/K5mT/SKCEm";

    fn password(text: &str) -> Password {
        Password::new(Zeroizing::new(text.to_owned())).unwrap()
    }

    fn verifies(hash: &str, text: &str) -> bool {
        PasswordHash::parse(hash).unwrap().verify(&password(text))
    }

    #[test]
    fn hashes_of_other_programs_are_verified() {
        for hash in [ARGON2ID, BCRYPT, &BCRYPT.replacen("$2b$", "$2y$", 1), &BCRYPT.replacen("$2b$", "$2a$", 1)] {
            assert!(verifies(hash, "correct horse"), "{hash}");
            assert!(!verifies(hash, "correct horsf"), "{hash}");
            assert!(!verifies(hash, "correct horse "), "{hash}");
        }
    }

    #[test]
    fn what_bcrypt_does_not_look_at_is_not_accepted() {
        assert!(verifies(BCRYPT_LONG, &"x".repeat(72)));
        assert!(!verifies(BCRYPT_LONG, &"x".repeat(71)));
        assert!(!verifies(BCRYPT_LONG, &"x".repeat(73)));
    }

    #[test]
    fn a_new_hash_is_of_its_password_alone() {
        let text = PasswordHash::new_text(&password("correct horse")).unwrap();
        assert!(text.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");
        assert!(verifies(&text, "correct horse"));
        assert!(!verifies(&text, "correct horsf"));
        assert_ne!(text, PasswordHash::new_text(&password("correct horse")).unwrap(), "it is salted");
    }

    #[test]
    fn a_decoy_costs_what_most_do_and_has_no_password() {
        let [argon2id, bcrypt] = [ARGON2ID, BCRYPT].map(|text| PasswordHash::parse(text).unwrap());
        assert_eq!(PasswordHash::decoy([]).cost, NEW);
        let decoy = PasswordHash::decoy([&argon2id, &bcrypt, &bcrypt]);
        assert_eq!(decoy.cost, bcrypt.cost);
        assert!(!decoy.verify(&password("correct horse")));
        assert!(!PasswordHash::decoy([]).verify(&password("correct horse")));
        assert_eq!(PasswordHash::decoy([&argon2id, &argon2id, &bcrypt]).cost, argon2id.cost);
    }

    #[track_caller]
    fn check(text: &str, expected: Result<(), PasswordHashError>) {
        assert_eq!(PasswordHash::parse(text).map(drop), expected, "{text}");
    }

    /// An Argon2id text with other parameters.
    fn with(parameters: &str) -> String {
        ARGON2ID.replacen("m=19456,t=2,p=1", parameters, 1)
    }

    #[test]
    fn weak_hashes_are_refused() {
        let weak = |memory_kib, passes| Err(PasswordHashError::TooWeak { memory_kib, passes });
        for (memory_kib, passes) in LEAST {
            check(&with(&format!("m={memory_kib},t={passes},p=1")), Ok(()));
            check(&with(&format!("m={},t={passes},p=1", memory_kib - 1)), weak(memory_kib - 1, passes));
        }
        check(&with("m=7167,t=10,p=1"), weak(7167, 10));
        check(&with("m=47103,t=1,p=1"), weak(47_103, 1));
        check(&BCRYPT.replacen("$10$", "$09$", 1), Err(PasswordHashError::BcryptCost { cost: 9 }));
    }

    #[test]
    fn dear_hashes_are_refused() {
        let dear = |memory_kib, passes, lanes| Err(PasswordHashError::TooDear { memory_kib, passes, lanes });
        check(&with("m=262144,t=10,p=16"), Ok(()));
        check(&with("m=262145,t=2,p=1"), dear(262_145, 2, 1));
        check(&with("m=19456,t=11,p=1"), dear(19_456, 11, 1));
        check(&with("m=19456,t=2,p=17"), dear(19_456, 2, 17));
        check(&BCRYPT.replacen("$10$", "$14$", 1), Ok(()));
        check(&BCRYPT.replacen("$10$", "$15$", 1), Err(PasswordHashError::BcryptCost { cost: 15 }));
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let malformed = || Err(PasswordHashError::Malformed);
        let algorithm = |text: &str| Err(PasswordHashError::Algorithm(text.to_owned()));
        check("", algorithm(""));
        check("hunter2", algorithm("hunter2"));
        check("$1$abc$def", algorithm("$1$abc$def"));
        check(&ARGON2ID.replacen("argon2id", "argon2i", 1), algorithm("$argon2i$v=19$m"));
        check(&ARGON2ID.replacen("v=19", "v=16", 1), algorithm("$argon2id$v=16$"));
        check(&BCRYPT.replacen("$2b$", "$2x$", 1), algorithm(BCRYPT.replacen("$2b$", "$2x$", 1).get(..15).unwrap()));
        for parameters in [
            "m=19456,t=2",
            "t=2,m=19456,p=1",
            "m=019456,t=2,p=1",
            "m=+19456,t=2,p=1",
            "m=19456,t=2,p=1,data=x",
            "m=19456,t=2,p=0",
            "m=99999999999,t=2,p=1",
            "m=,t=2,p=1",
        ] {
            check(&with(parameters), malformed());
        }
        check(ARGON2ID.get(..ARGON2ID.len() - 1).unwrap(), malformed());
        check(&format!("{ARGON2ID}=="), malformed());
        check(&format!("{ARGON2ID}$"), malformed());
        let (head, _) = ARGON2ID.rsplit_once('$').unwrap();
        check(head, malformed());
        check(&format!("{head}$AAAAAAAAAAAAAAAAAAAA"), malformed());
        check(&format!("{head}${}", "A".repeat(22)), Ok(()));
        check(&format!("{head}${}", "A".repeat(87)), malformed());
        let (head, output) = (with("m=19456,t=2,p=1$AAAAAAA"), "A".repeat(43));
        check(&format!("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAA${output}"), malformed());
        check(&format!("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAA${output}"), Ok(()));
        check(&head, malformed());
        check(BCRYPT.get(..59).unwrap(), malformed());
        check(&format!("{BCRYPT}A"), malformed());
        check(&BCRYPT.replacen("$10$", "$+9$", 1), malformed());
        check(&BCRYPT.replacen("$10$", "$010$", 1), malformed());
        check("$2b$10$", malformed());
        check(&format!("$2b$10${}", "ä".repeat(27)), malformed());
    }
}
