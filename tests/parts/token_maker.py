"""Makes tokens as an issuer would that is not to be believed, and the proofs of callers that cheat.

    token_maker.py --folder F tokens --issuer ISSUER --audience NAME [--certificate FILE] [--seconds 3]
    token_maker.py --folder F proofs --url https://llm.mesh.test:PORT/PATH --token TOKEN

The keys are made on first use and stay in the folder; `jwks.json` there is what the issuer publishes. Prints one JSON object: by name
what was made. Signed by PyJWT, encrypted by joserfc, and forged by hand where both refuse to.
"""

import base64
import hashlib
import hmac
import json
import time
import uuid
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwe
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

import part

KINDS = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAKey),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECKey),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPKey),
}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def kept_key(folder: Path, name: str, algorithm: str):
    """The key of this name, made if there is none yet."""
    path = folder / f"{name}-{algorithm}.pem"
    if path.exists():
        return serialization.load_pem_private_key(path.read_bytes(), None)
    key = KINDS[algorithm][0]()
    pem = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    return key


def public_jwk(key, algorithm: str) -> dict:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return KINDS[algorithm][1].import_key(pem).as_dict(private=False)


class Issuer:
    def __init__(self, folder: Path, issuer: str, audience: str, seconds: int):
        self.keys = {algorithm: kept_key(folder, "issuer", algorithm) for algorithm in KINDS}
        self.other = kept_key(folder, "other", "RS256")
        published = [public_jwk(key, name) | {"kid": name, "alg": name, "use": "sig"} for name, key in self.keys.items()]
        (folder / "jwks.json").write_text(json.dumps({"keys": published}))
        now = int(time.time())
        self.claims = {
            "iss": issuer, "aud": audience, "sub": "mallory", "client_id": "app", "groups": ["staff"], "scope": "llm:read",
            "iat": now, "exp": now + seconds, "jti": uuid.uuid4().hex,
        }  # fmt: skip

    def claims_with(self, **changes) -> dict:
        return {name: value for name, value in (self.claims | changes).items() if value is not None}

    def sign(self, algorithm: str = "RS256", header: dict | None = None, key=None, **changes) -> str:
        header = {"typ": "at+jwt", "kid": algorithm} | (header or {})
        return jwt.encode(self.claims_with(**changes), key or self.keys[algorithm], algorithm, header)

    def sign_text(self, claims: str) -> str:
        """Signs bytes that no library would write."""
        header = base64url(json.dumps({"alg": "EdDSA", "typ": "at+jwt", "kid": "EdDSA"}).encode())
        signed = f"{header}.{base64url(claims.encode())}"
        return f"{signed}.{base64url(self.keys['EdDSA'].sign(signed.encode()))}"

    def unsigned(self, algorithm: str) -> str:
        header = base64url(json.dumps({"alg": algorithm, "typ": "at+jwt"}).encode())
        return f"{header}.{base64url(json.dumps(self.claims).encode())}."

    def hmac_with_public_key(self) -> str:
        """Whoever takes the algorithm from the token's own header takes the public key for a secret."""
        key = self.keys["RS256"].public_key()
        secret = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        header = base64url(json.dumps({"alg": "HS256", "typ": "at+jwt", "kid": "RS256"}).encode())
        signed = f"{header}.{base64url(json.dumps(self.claims).encode())}"
        return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def encrypted(self) -> str:
        header = {"alg": "dir", "enc": "A256GCM", "cty": "JWT"}
        return jwe.encrypt_compact(header, self.sign().encode(), OctKey.generate_key(256))


def tokens(asked) -> dict:
    issuer = Issuer(asked.folder, asked.issuer, asked.audience, asked.seconds)
    now, sign = int(time.time()), issuer.sign
    other = public_jwk(issuer.other, "RS256")
    text = json.dumps(issuer.claims)
    made = {
        "good": sign(),
        "good es256": sign("ES256"),
        "good eddsa": sign("EdDSA"),
        "alg none": issuer.unsigned("none"),
        "alg NONE": issuer.unsigned("NONE"),
        "hs256 with the rsa key": issuer.hmac_with_public_key(),
        "kid path": sign(header={"kid": "../../../../dev/null"}),
        "kid url": sign(header={"kid": "https://attacker.test/key"}),
        "kid query": sign(header={"kid": "x' UNION SELECT 'key"}),
        "kid unknown": sign(header={"kid": "nobody"}),
        "jku": sign(header={"jku": "https://attacker.test/jwks"}, key=issuer.other),
        "x5u": sign(header={"x5u": "https://attacker.test/chain"}, key=issuer.other),
        "jwk": sign(header={"jwk": other}, key=issuer.other),
        "x5c": sign(header={"x5c": ["MIIB"]}, key=issuer.other),
        "crit": sign(header={"crit": ["exp"]}),
        "another's key": sign(key=issuer.other),
        "exp missing": sign(exp=None),
        "exp text": issuer.sign_text(json.dumps(issuer.claims | {"exp": "tomorrow"})),
        "exp null": issuer.sign_text(json.dumps(issuer.claims | {"exp": None})),
        "exp list": issuer.sign_text(json.dumps(issuer.claims | {"exp": [now + 60]})),
        "exp negative": issuer.sign_text(json.dumps(issuer.claims | {"exp": -1})),
        "exp huge": issuer.sign_text(text.replace(f'"exp": {issuer.claims["exp"]}', '"exp": 1e400')),
        "exp NaN": issuer.sign_text(text.replace(f'"exp": {issuer.claims["exp"]}', '"exp": NaN')),
        "expired": sign(exp=now - 60),
        "not yet valid": sign(nbf=now + 600),
        "issued in the future": sign(iat=now + 600),
        "another issuer": sign(iss="https://elsewhere.test"),
        "another audience": sign(aud="https://other.test"),
        "no audience": sign(aud=None),
        "no subject": sign(sub=None),
        "id token": sign(header={"typ": "JWT"}, nonce="n", azp="app", aud="app"),
        "id token in disguise": sign(nonce="n"),
        "another type": sign(header={"typ": "JWT"}),
        "unknown confirmation": sign(cnf={"x5t#S1": "AAAA"}),
        "claim twice": issuer.sign_text('{"sub":"admin",' + text[1:]),
        "encrypted": issuer.encrypted(),
        "17 KiB": sign(padding="x" * 17 * 1024),
        "deep": issuer.sign_text(text[:-1] + ',"deep":' + "[" * 5000 + "]" * 5000 + "}"),
        "padded": sign() + "=",
    }
    made["another's signature"] = made["good"].rsplit(".", 1)[0] + "." + sign(sub="x").rsplit(".", 1)[1]
    if asked.certificate:
        certificate = x509.load_pem_x509_certificate(asked.certificate.read_bytes())
        made["bound"] = sign(cnf={"x5t#S256": base64url(certificate.fingerprint(hashes.SHA256()))})
    caller = thumbprint(kept_key(asked.folder, "caller", "ES256"))
    made["bound to a key"] = sign(cnf={"jkt": caller})
    if asked.certificate:
        both = {"x5t#S256": base64url(certificate.fingerprint(hashes.SHA256())), "jkt": caller}
        made["bound to both"] = sign(cnf=both)
    return made


def thumbprint(key) -> str:
    """RFC 7638."""
    jwk = public_jwk(key, "ES256")
    required = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    return base64url(hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest())


def proofs(asked) -> dict:
    key, other = kept_key(asked.folder, "caller", "ES256"), kept_key(asked.folder, "other", "ES256")
    token_hash = base64url(hashlib.sha256(asked.token.encode()).digest())
    now = int(time.time())

    def proof(header: dict | None = None, signer=key, **changes) -> str:
        claims = {"htm": "GET", "htu": asked.url, "iat": now, "jti": uuid.uuid4().hex, "ath": token_hash} | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"typ": "dpop+jwt", "jwk": public_jwk(key, "ES256")} | (header or {})
        return jwt.encode(claims, signer, "ES256", header)

    private = ECKey.import_key(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )).as_dict(private=True)  # fmt: skip
    secret = {"kty": "oct", "k": base64url(b"0" * 32)}
    claims = {"htm": "GET", "htu": asked.url, "iat": now, "jti": "a", "ath": token_hash}
    return {
        **{f"good {number}": proof() for number in range(asked.count)},
        "upper-case host and default form": proof(htu=asked.url.replace("llm.mesh.test", "LLM.mesh.TEST") + "?a=b#c"),
        "wrong htm": proof(htm="POST"),
        "wrong htu": proof(htu=asked.url + "/other"),
        "htu of another scheme": proof(htu=asked.url.replace("https://", "http://")),
        "htu without port": proof(htu="https://llm.mesh.test/"),
        "wrong ath": proof(ath=base64url(hashlib.sha256(b"another token").digest())),
        "no ath": proof(ath=None),
        "no jti": proof(jti=None),
        "old": proof(iat=now - 120),
        "early": proof(iat=now + 120),
        "another's signature": proof(signer=other),
        "another's key": proof(header={"jwk": public_jwk(other, "ES256")}, signer=other),
        "private key in it": proof(header={"jwk": private}),
        "no key": proof(header={"jwk": None}),
        "another type": proof(header={"typ": "JWT"}),
        "hs256": jwt.encode(claims, b"0" * 32, "HS256", {"typ": "dpop+jwt", "jwk": secret}),
    }


def main() -> None:
    parser = part.arguments(__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    kinds = parser.add_subparsers(required=True)
    kind = kinds.add_parser("tokens")
    kind.add_argument("--issuer", required=True)
    kind.add_argument("--audience", required=True)
    kind.add_argument("--certificate", type=Path)
    kind.add_argument("--seconds", type=int, default=300)
    kind.set_defaults(make=tokens)
    kind = kinds.add_parser("proofs")
    kind.add_argument("--url", required=True)
    kind.add_argument("--token", required=True)
    kind.add_argument("--count", type=int, default=1)
    kind.set_defaults(make=proofs)
    asked = part.parse(parser)
    part.say(asked.make(asked))


main()
