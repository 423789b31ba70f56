//! As much DER as certificates need that no library would write.

use super::Name;

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let bytes = length.to_be_bytes();
    let significant = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1)..];
    let mut der = vec![tag];
    if length >= 128 {
        der.push(0x80 | u8::try_from(significant.len()).unwrap());
    }
    der.extend_from_slice(significant);
    der.extend_from_slice(content);
    der
}

pub(crate) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(crate) fn names(names: &[Name]) -> Vec<u8> {
    sequence(&names.iter().map(|Name(tag, content)| tlv(*tag, content)).collect::<Vec<_>>())
}

pub(crate) fn basic_constraints(authority: bool) -> Vec<u8> {
    // FALSE is the default and therefore not written.
    if authority { sequence(&[tlv(1, &[0xff])]) } else { sequence(&[]) }
}

pub(crate) fn key_usage(bits: u8) -> Vec<u8> {
    let unused = u8::try_from(bits.trailing_zeros().min(7)).unwrap();
    tlv(3, &[unused, bits])
}

pub(crate) fn purposes(oids: &[&[u8]]) -> Vec<u8> {
    sequence(&oids.iter().map(|oid| tlv(6, oid)).collect::<Vec<_>>())
}

/// Name constraints that permit one subtree (RFC 5280 §4.2.1.10).
pub(crate) fn permitted(Name(tag, content): &Name) -> Vec<u8> {
    sequence(&[tlv(0xa0, &sequence(&[tlv(*tag, content)]))])
}

/// The SubjectPublicKeyInfo of an RSA key with a modulus of that many bits, which nobody knows how to factor.
pub(crate) fn rsa_public_key(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0];
    modulus.resize(1 + bits / 8, 0xc5);
    let key = sequence(&[tlv(2, &modulus), tlv(2, &[1, 0, 1])]);
    let rsa_encryption = tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]);
    sequence(&[sequence(&[rsa_encryption, tlv(5, &[])]), tlv(3, &[vec![0], key].concat())])
}
