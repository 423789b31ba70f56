//! Chance, where it spreads what many do at once or makes a name that nobody else has. No secret is made here.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::fill;

/// From 0 to 1. Without randomness, one half: late or early matters less than not at all.
pub(crate) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX),
        Err(_no_randomness) => 0.5,
    }
}

/// Any number.
pub(crate) fn random_number() -> Result<u64, Unspecified> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
