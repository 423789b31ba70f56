//! Keys and tokens for tests, made when a test runs.

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaSignatureEncoding,
};
use aws_lc_rs::{hmac, rand};
use countersign_certs::time::Timestamp;
use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::encoding::to_base64url;

/// The time in every test.
pub(crate) const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

/// A key of an issuer or of a caller.
pub(crate) struct Signer {
    pub(crate) algorithm: Algorithm,
    key: Key,
}

enum Key {
    Ec(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(&'static RsaKeyPair),
    Secret([u8; 64]),
}

/// RSA keys take long to make. One is everybody's, the other a stranger's.
static RSA: [OnceLock<RsaKeyPair>; 2] = [OnceLock::new(), OnceLock::new()];

impl Signer {
    /// A new key; of RSA always the same one.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self::made(algorithm, &RSA[0])
    }

    /// A key that is certainly not one of [`Signer::new`].
    pub(crate) fn stranger(algorithm: Algorithm) -> Self {
        Self::made(algorithm, &RSA[1])
    }

    fn made(algorithm: Algorithm, rsa: &'static OnceLock<RsaKeyPair>) -> Self {
        let ec = |algorithm: &'static EcdsaSigningAlgorithm| Key::Ec(EcdsaKeyPair::generate(algorithm).unwrap());
        let key = match algorithm {
            Algorithm::EdDsa => Key::Ed25519(Ed25519KeyPair::generate().unwrap()),
            Algorithm::Es256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::Es512 => ec(&ECDSA_P521_SHA512_FIXED_SIGNING),
            Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512 => {
                let mut secret = [0; 64];
                rand::fill(&mut secret).unwrap();
                Key::Secret(secret)
            }
            Algorithm::Ps256
            | Algorithm::Ps384
            | Algorithm::Ps512
            | Algorithm::Rs256
            | Algorithm::Rs384
            | Algorithm::Rs512 => Key::Rsa(rsa.get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
        };
        Self { algorithm, key }
    }

    /// The same key with another algorithm.
    pub(crate) fn with(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    /// The public part, or the secret.
    pub(crate) fn jwk(&self) -> Value {
        match &self.key {
            Key::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": to_base64url(x), "y": to_base64url(y)})
            }
            Key::Ed25519(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": to_base64url(key.public_key().as_ref())}),
            Key::Rsa(key) => {
                let public = key.public_key();
                let number = |bytes: &[u8]| to_base64url(bytes);
                json!({"kty": "RSA", "n": number(public.modulus().big_endian_without_leading_zero()),
                    "e": number(public.exponent().big_endian_without_leading_zero())})
            }
            Key::Secret(secret) => json!({"kty": "oct", "k": to_base64url(secret)}),
        }
    }

    /// A set of this key alone, named `1`.
    pub(crate) fn jwk_set(&self) -> Value {
        json!({"keys": [with(self.jwk(), json!({"kid": "1"}))]})
    }

    /// A token with this key's algorithm and type `at+jwt`, but for what `header` changes.
    pub(crate) fn token(&self, header: Value, claims: &Value) -> String {
        let usual = json!({"alg": self.algorithm, "kid": "1", "typ": "at+jwt"});
        self.sign(&with(usual, header).to_string(), &claims.to_string())
    }

    /// A token of exactly these texts.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", to_base64url(header.as_bytes()), to_base64url(claims.as_bytes()));
        let signature = to_base64url(&self.signature(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Key::Rsa(key) => {
                let encodings: [(Algorithm, &'static RsaSignatureEncoding); 6] = [
                    (Algorithm::Ps256, &RSA_PSS_SHA256),
                    (Algorithm::Ps384, &RSA_PSS_SHA384),
                    (Algorithm::Ps512, &RSA_PSS_SHA512),
                    (Algorithm::Rs256, &RSA_PKCS1_SHA256),
                    (Algorithm::Rs384, &RSA_PKCS1_SHA384),
                    (Algorithm::Rs512, &RSA_PKCS1_SHA512),
                ];
                let (_, encoding) = encodings.into_iter().find(|(own, _)| *own == self.algorithm).unwrap();
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Key::Secret(secret) => {
                let hashes = [
                    (Algorithm::Hs256, hmac::HMAC_SHA256),
                    (Algorithm::Hs384, hmac::HMAC_SHA384),
                    (Algorithm::Hs512, hmac::HMAC_SHA512),
                ];
                let (_, hash) = hashes.into_iter().find(|(own, _)| *own == self.algorithm).unwrap();
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
        }
    }
}

/// An object with some members changed; null takes one away.
pub(crate) fn with(mut object: Value, changes: Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        object[name] = value.clone();
    }
    object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    object
}
