//! What has been revoked: whole identities, and single certificates by serial number.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::certificate::PeerCertificate;
use crate::spiffe_id::SpiffeId;
use crate::time::Timestamp;

/// Longest serial number in bytes (RFC 5280 §4.1.2.2).
pub const SERIAL_BYTES_MAX: usize = 20;

/// A certificate's serial number, big-endian, without leading zero bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SerialNumber(Box<[u8]>);

/// Why a text or a field is not a serial number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is 1 to {SERIAL_BYTES_MAX} bytes in hexadecimal and not zero")]
pub struct SerialNumberError;

impl SerialNumber {
    /// From big-endian bytes as in the certificate; leading zero bytes do not count.
    ///
    /// # Errors
    /// Zero, or more than [`SERIAL_BYTES_MAX`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialNumberError> {
        let start = bytes.iter().position(|byte| *byte != 0).ok_or(SerialNumberError)?;
        let significant = bytes.get(start..).unwrap_or_default();
        if significant.len() > SERIAL_BYTES_MAX {
            return Err(SerialNumberError);
        }
        Ok(Self(significant.into()))
    }

    /// Big-endian bytes without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for SerialNumber {
    /// Lower-case hexadecimal without separators.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SerialNumber({self})")
    }
}

impl FromStr for SerialNumber {
    type Err = SerialNumberError;

    /// Takes hexadecimal in either case, also with the colons that OpenSSL prints.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(|byte| *byte != b':')
            .map(|byte| {
                char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(SerialNumberError)
            })
            .collect::<Result<_, _>>()?;
        if digits.len() > 2 * (SERIAL_BYTES_MAX + 1) {
            return Err(SerialNumberError);
        }
        let bytes: Vec<u8> =
            digits.rchunks(2).rev().map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
        Self::from_bytes(&bytes)
    }
}

impl Serialize for SerialNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SerialNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Everything that one trust domain has revoked and that has not expired by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Identities that may not be used, whatever certificate shows them, until lifted.
    pub ids: BTreeSet<SpiffeId>,
    /// Single certificates by serial number, with the end of their validity, after which the entry can be forgotten.
    pub serials: BTreeMap<SerialNumber, Timestamp>,
}

impl Revocations {
    /// Whether this certificate, or the identity that it shows, is revoked.
    ///
    /// Serial numbers are the issuer's own, so a caller must only ask the revocations of the trust domain that vouches
    /// for the certificate.
    pub fn cover(&self, certificate: &PeerCertificate) -> bool {
        self.serials.contains_key(certificate.serial())
            || certificate.spiffe_id().is_some_and(|id| self.ids.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_read_as_they_print() {
        for (text, printed) in [("0a", "0a"), ("A", "0a"), ("00:ff:01", "ff01"), ("123", "0123")] {
            assert_eq!(text.parse::<SerialNumber>().unwrap().to_string(), printed);
        }
        for text in ["", "0", "00:00", "xyz", "é", &"f".repeat(42)] {
            assert!(text.parse::<SerialNumber>().is_err(), "{text}");
        }
    }
}
