//! Random text.

/// The operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// Appends `count` characters of `alphabet`, each as likely as any other.
pub(crate) fn append(text: &mut String, count: usize, alphabet: &[u8]) -> Result<(), NoRandomness> {
    // Of 256 values only a multiple of the alphabet's length is used: the first characters would else be more likely.
    let fair = 256 - 256 % alphabet.len().max(1);
    let mut left = count;
    let mut bytes = zeroize::Zeroizing::new([0; 64]);
    while left > 0 {
        fill(bytes.as_mut())?;
        let drawn = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        for character in drawn.filter_map(|byte| alphabet.get(byte % alphabet.len())).take(left) {
            text.push(char::from(*character));
            left -= 1;
        }
    }
    Ok(())
}

/// Random bytes.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    aws_lc_rs::rand::fill(bytes).map_err(|_library| NoRandomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_about_as_likely_as_any_other() {
        let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = String::new();
        append(&mut text, 62_000, alphabet).unwrap();
        assert_eq!(text.len(), 62_000);
        for character in alphabet {
            let count = text.bytes().filter(|byte| byte == character).count();
            // Seven standard deviations of a fair draw; a draw modulo 62 of all 256 values gives eight characters a quarter more.
            assert!((780..1220).contains(&count), "{}: {count}", char::from(*character));
        }
    }
}
