"""Makes tokens, proofs and keys as other programs write them, and as attackers do: JSON on stdout for ../vectors.rs.

    $(tests/parts/install)/bin/python agent/credentials/tests/vectors/make.py

joserfc and PyJWT sign what is good; what no library would sign is put together by hand. Every key is made anew, so that none is in
git. Each case says what must come of it: "ok", or the word of the refusal.
"""

import base64
import hashlib
import hmac
import json
import warnings

import jwt as pyjwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from joserfc import jwe, jwk, jws

# Both libraries warn of what is weak or renamed, and that is what is made here.
warnings.simplefilter("ignore")

NOW = 1_800_000_000
ISSUER = "https://issuer.example"
AUDIENCE = "https://llm.example"
TARGET = "https://llm.example/v1/chat/completions"

CURVES = {"ES256": ("P-256", hashes.SHA256()), "ES384": ("P-384", hashes.SHA384()), "ES512": ("P-521", hashes.SHA512())}
HMACS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
RSAS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int, length: int | None = None) -> str:
    return base64url(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def keys() -> dict[str, jwk.Key]:
    shared = jwk.RSAKey.generate_key(2048)
    made = {name: jwk.ECKey.generate_key(curve) for name, (curve, _) in CURVES.items()}
    made |= {name: jwk.OctKey.generate_key(512) for name in HMACS}
    made |= {name: shared for name in RSAS}
    made["EdDSA"] = jwk.OKPKey.generate_key("Ed25519")
    return made


KEYS = keys()
OTHER = keys()


def public(name: str, keys: dict[str, jwk.Key] = KEYS) -> dict:
    key = keys[name]
    exported = key.as_dict() if name in HMACS else key.as_dict(private=False)
    return {member: exported[member] for member in ("kty", "crv", "x", "y", "n", "e", "k") if member in exported}


def key_set(*names: str) -> dict:
    return {"keys": [public(name) | {"kid": name} for name in names]}


ALL = key_set("ES256", "ES384", "ES512", "EdDSA", "RS256")


def claims(**changes) -> dict:
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "client_id": "batch", "exp": NOW + 60, "iat": NOW - 5, "jti": "1"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def header(algorithm: str, **changes) -> dict:
    good = {"alg": algorithm, "typ": "at+jwt", "kid": "RS256" if algorithm in RSAS else algorithm}
    return {name: value for name, value in (good | changes).items() if value is not None}


def by_joserfc(algorithm: str, head: dict, body: dict, keys: dict[str, jwk.Key] = KEYS) -> str:
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return jws.serialize_compact(head, json.dumps(body), keys[algorithm], registry=registry)


def by_pyjwt(algorithm: str, head: dict, body: dict) -> str:
    key = KEYS[algorithm]
    secret = key.raw_value if algorithm in HMACS else key.private_key
    return pyjwt.encode(body, secret, algorithm=algorithm, headers=head)


def signed_part(head: str | dict, body: str | dict) -> str:
    texts = (part if isinstance(part, str) else json.dumps(part) for part in (head, body))
    return ".".join(base64url(text.encode()) for text in texts)


def by_hand(head: str | dict, body: str | dict, algorithm: str = "ES256", keys: dict[str, jwk.Key] = KEYS) -> str:
    """Signs exactly these texts."""
    signed = signed_part(head, body)
    return f"{signed}.{base64url(signature(signed.encode(), algorithm, keys))}"


def signature(message: bytes, algorithm: str, keys: dict[str, jwk.Key] = KEYS) -> bytes:
    key = keys[algorithm]
    if algorithm in HMACS:
        return hmac.digest(key.raw_value, message, HMACS[algorithm])
    if algorithm == "EdDSA":
        return key.private_key.sign(message)
    if algorithm in CURVES:
        _, digest = CURVES[algorithm]
        r, s = utils.decode_dss_signature(key.private_key.sign(message, ec.ECDSA(digest)))
        length = (key.private_key.curve.key_size + 7) // 8
        return r.to_bytes(length, "big") + s.to_bytes(length, "big")
    return key.private_key.sign(message, padding.PKCS1v15(), hashes.SHA256())


TOKENS: list[dict] = []


def token(name: str, text: str, expected: str, algorithms: list[str] | None = None, keys: dict = ALL, types: str = "access_token", **more) -> None:
    accepted = algorithms or ["ES256", "ES384", "ES512", "EdDSA", "RS256", "PS256"]
    TOKENS.append({"name": name, "token": text, "expected": expected, "algorithms": accepted, "keys": keys, "types": types} | more)


def good_tokens() -> None:
    for algorithm in [*CURVES, "EdDSA", *RSAS, *HMACS]:
        only = key_set(algorithm)
        only["keys"][0]["kid"] = header(algorithm)["kid"]
        for maker in by_joserfc, by_pyjwt:
            text = maker(algorithm, header(algorithm), claims())
            token(f"{algorithm} by {maker.__name__[3:]}", text, "ok", [algorithm], only)
            token(f"{algorithm} by {maker.__name__[3:]}, not accepted", text, "token_algorithm", ["EdDSA" if algorithm != "EdDSA" else "ES256"])
    token("several audiences", by_joserfc("ES256", header("ES256"), claims(aud=["a", AUDIENCE])), "ok")
    token("typ JWT where it is accepted", by_pyjwt("ES256", header("ES256", typ="JWT"), claims()), "ok", types="any_jwt")
    token("no typ where it is accepted", by_hand(header("ES256", typ=None), claims()), "ok", types="any_jwt")
    token("no kid and one key", by_joserfc("ES256", header("ES256", kid=None), claims()), "ok")
    token("a fraction of a second", by_joserfc("ES256", header("ES256"), claims(exp=NOW + 0.5)), "ok")
    token("Ed25519 by its new name", by_hand(header("EdDSA", alg="Ed25519"), claims(), "EdDSA"), "ok")


def unsigned_tokens() -> None:
    for name in ["none", "None", "NONE", "nOnE", "none ", " none", "\u200bnone", "non\u0435", ""]:
        head = header("ES256", alg=name)
        token(f"alg {name!r} without a signature", f"{signed_part(head, claims())}.", "token_algorithm")
        token(f"alg {name!r} with a signature", by_hand(head, claims()), "token_algorithm")
    token("alg none by PyJWT", pyjwt.encode(claims(), None, algorithm="none", headers={"kid": "ES256"}), "token_algorithm")
    token("no alg", by_hand(header("ES256", alg=None), claims()), "token_header")
    token("a list of algs", by_hand(header("ES256", alg=["ES256", "none"]), claims()), "token_header")
    token("signature left out", f"{signed_part(header('ES256'), claims())}.", "token_signature")
    token("signature of zeros", f"{signed_part(header('ES256'), claims())}.{base64url(bytes(64))}", "token_signature")


def confused_tokens() -> None:
    """The public key as the secret of an HMAC (CVE-2015-9235 and its many descendants)."""
    pair = KEYS["RS256"].private_key.public_key()
    encodings = {
        "PEM": pair.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "PEM without its last newline": pair.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).strip(),
        "PEM of PKCS #1": pair.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        "DER": pair.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        "DER of PKCS #1": pair.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1),
        "n": pair.public_numbers().n.to_bytes(256, "big"),
        "JWK": json.dumps(public("RS256")).encode(),
        "nothing": b"",
    }
    for name, secret in encodings.items():
        for algorithm, digest in HMACS.items():
            signed = signed_part(header("RS256", alg=algorithm), claims())
            text = f"{signed}.{base64url(hmac.digest(secret, signed.encode(), digest))}"
            token(f"{algorithm} with the public key as {name}", text, "token_algorithm")
            token(f"{algorithm} with the public key as {name}, where {algorithm} is accepted", text, "token_unknown_key", [algorithm])
    for own, other in [("ES256", "ES384"), ("ES384", "ES256"), ("ES256", "ES512"), ("RS256", "ES256"), ("EdDSA", "ES256"), ("ES256", "EdDSA"), ("RS256", "EdDSA")]:
        token(f"{own} key with {other}", by_hand(header(own, alg=other), claims(), own), "token_algorithm")
    token("RS256 signature as PS256", by_hand(header("RS256", alg="PS256"), claims(), "RS256"), "token_signature")
    pinned = key_set("RS256")
    pinned["keys"][0]["alg"] = "RS256"
    token("PS256 with a key that is for RS256", by_joserfc("PS256", header("PS256"), claims()), "token_algorithm", keys=pinned)
    p384 = jwk.ECKey.generate_key("P-384")
    signed = signed_part(header("ES256"), claims())
    r, s = utils.decode_dss_signature(p384.private_key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    token("ES256 signed by a P-384 key", f"{signed}.{number(r, 48)}{number(s, 48)}", "token_signature")


def pointing_headers() -> None:
    evil = {"jku": "https://evil.example/jwks.json", "x5u": "https://evil.example/x.pem", "jwk": public("ES256", OTHER), "x5c": ["MIIB"]}
    for name, value in evil.items():
        text = by_hand(header("ES256") | {name: value}, claims(), keys=OTHER)
        token(f"{name} in the header, signed by the key that it points to", text, "token_header")
        token(f"{name} in the header, signed by the issuer", by_hand(header("ES256") | {name: value}, claims()), "token_header")
    for name, value in {"crit": ["exp"], "b64": False, "zip": "DEF", "enc": "A256GCM"}.items():
        token(f"{name} in the header", by_hand(header("ES256") | {name: value}, claims()), "token_header")
    strange = ["../../../../dev/null", "/dev/null", "file:///dev/null", "https://evil.example/key", "x' UNION SELECT 'secret' --", "1 OR 1=1",
        "|/bin/id", "$(id)", "*", "%", "ES25_", "es256", "ES256 ", "ES256\u200b", "a" * 256]
    for name in strange:
        token(f"kid {name[:40]!r}", by_hand(header("ES256", kid=name), claims()), "token_unknown_key")
    for name in ["", "a" * 257, "ES256\0", "ES256\n", 1, None, True, {"a": 1}, ["ES256"]]:
        token(f"kid {str(name)[:40]!r}", by_hand(header("ES256") | {"kid": name}, claims()), "token_header")
    token("kid of another key", by_hand(header("ES256", kid="ES384"), claims()), "token_algorithm")
    token("signed by a stranger", by_joserfc("ES256", header("ES256"), claims(), OTHER), "token_signature")
    two = {"keys": [public("ES256") | {"kid": "a"}, public("ES256", OTHER) | {"kid": "b"}]}
    token("no kid and two keys", by_joserfc("ES256", header("ES256", kid=None), claims()), "token_ambiguous_key", keys=two)
    token("a key for encryption", by_joserfc("ES256", header("ES256"), claims()), "token_unknown_key", keys={"keys": [public("ES256") | {"kid": "ES256", "use": "enc"}]})
    weak = rsa.generate_private_key(65537, 1024)
    numbers = weak.public_key().public_numbers()
    signed = signed_part(header("RS256"), claims())
    text = f"{signed}.{base64url(weak.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
    token("an RSA key of 1024 bits", text, "token_unknown_key", keys={"keys": [{"kty": "RSA", "kid": "RS256", "n": number(numbers.n), "e": "AQAB"}]})


def wrong_claims() -> None:
    def check(name: str, expected: str, **changes) -> None:
        token(name, by_hand(header("ES256"), claims(**changes)), expected)

    check("exp missing", "token_claim", exp=None)
    check("exp a text", "token_claim", exp=str(NOW + 60))
    check("exp negative", "token_claim", exp=-1)
    check("exp huge", "token_claim", exp=2**63)
    check("exp beyond 64 bits", "token_claim", exp=2**70)
    check("exp huge and not whole", "token_claim", exp=1e300)
    check("exp true", "token_claim", exp=True)
    check("exp a list", "token_claim", exp=[NOW + 60])
    check("exp an object", "token_claim", exp={"$gt": 0})
    check("exp past", "token_expired", exp=NOW - 30)
    check("exp in milliseconds", "token_claim", exp=(NOW + 60) * 1000)
    for text, expected in [("null", "token_claim"), ("NaN", "token_malformed"), ("Infinity", "token_malformed"), ("1e999", "token_malformed"), ("0x7fffffff", "token_malformed")]:
        body = json.dumps(claims()).replace(f'"exp": {NOW + 60}', f'"exp": {text}')
        token(f"exp {text}", by_hand(header("ES256"), body), expected)
    check("nbf in the future", "token_not_yet_valid", nbf=NOW + 31)
    check("nbf a text", "token_claim", nbf="0")
    check("iat in the future", "token_not_yet_valid", iat=NOW + 31)
    check("iss of another", "token_issuer", iss="https://evil.example")
    check("iss with a slash more", "token_issuer", iss=f"{ISSUER}/")
    check("iss a list", "token_claim", iss=[ISSUER])
    check("iss missing", "token_claim", iss=None)
    check("aud of another", "token_audience", aud="https://other.example")
    check("aud a part of ours", "token_audience", aud="https://llm.exampl")
    check("aud longer than ours", "token_audience", aud=f"{AUDIENCE}.evil.example")
    check("aud missing", "token_claim", aud=None)
    check("aud empty", "token_claim", aud=[])
    check("aud an object", "token_claim", aud={AUDIENCE: True})
    check("aud with a number", "token_claim", aud=[AUDIENCE, 1])
    check("sub missing", "token_claim", sub=None)
    check("sub empty", "token_claim", sub="")
    check("sub with a line break", "token_claim", sub="ada\r\nx-role: admin")
    check("sub a number", "token_claim", sub=1)
    check("an ID token by its nonce", "token_id_token", nonce="n")
    check("an ID token by its at_hash", "token_id_token", at_hash="h")
    check("an ID token by its c_hash", "token_id_token", c_hash="h")
    check("an ID token by its azp", "token_id_token", azp=AUDIENCE, client_id=None)
    check("an ID token of Keycloak", "token_id_token", typ="ID")
    check("a logout token", "token_id_token", events={"http://schemas.openid.net/event/backchannel-logout": {}})
    token("an ID token by its type", by_pyjwt("ES256", header("ES256", typ="JWT"), claims(nonce="n")), "token_type")
    token("an ID token where JWT is accepted", by_pyjwt("ES256", header("ES256", typ="JWT"), claims(nonce="n")), "token_id_token", types="any_jwt")
    token("a DPoP proof as a token", by_hand(header("ES256", typ="dpop+jwt"), claims()), "token_type", types="any_jwt")


def strange_texts() -> None:
    good = by_joserfc("ES256", header("ES256"), claims())
    head, body, signed = good.split(".")
    for name, text in {
        "padding behind it": f"{good}=", "padding in it": f"{head}=.{body}.{signed}", "a line break behind it": f"{good}\n", "a space before it": f" {good}",
        "standard base64": good.replace("-", "+").replace("_", "/") + "+", "two parts": f"{head}.{body}", "four parts": f"{good}.x", "one part": head, "nothing": "",
        "Bearer before it": f"Bearer {good}", "a list of it": f"[{good}]", "a JSON serialization": json.dumps({"protected": head, "payload": body, "signature": signed}),
    }.items():
        token(name, text, "token_malformed")
    token("the last character changed to one with the same bits", good[:-1] + same_bits(good[-1]), "token_malformed")
    token("a claim twice", by_hand(header("ES256"), '{"sub":"eve",' + json.dumps(claims())[1:]), "token_malformed")
    token("a claim twice, once escaped", by_hand(header("ES256"), '{"\\u0073ub":"eve",' + json.dumps(claims())[1:]), "token_malformed")
    token("a claim twice inside", by_hand(header("ES256"), '{"cnf":{"jkt":"a","jkt":"b"},' + json.dumps(claims())[1:]), "token_malformed")
    token("alg twice", by_hand('{"alg":"none",' + json.dumps(header("ES256"))[1:], claims()), "token_malformed")
    token("deep claims", by_hand(header("ES256"), '{"a":' + "[" * 100 + "]" * 100 + "," + json.dumps(claims())[1:]), "token_malformed")
    token("very deep claims", by_hand(header("ES256"), '{"a":' * 900 + "1" + "}" * 900), "token_malformed")
    token("a deep header", by_hand('{"a":' + "[" * 9 + "]" * 9 + "," + json.dumps(header("ES256"))[1:], claims()), "token_malformed")
    token("17 KiB", by_joserfc("ES256", header("ES256"), claims(filler="x" * (17 * 1024 * 3 // 4))), "token_malformed")
    token("claims that are a list", by_hand(header("ES256"), json.dumps([claims()])), "token_malformed")
    token("claims that are a text", by_hand(header("ES256"), json.dumps(json.dumps(claims()))), "token_malformed")
    token("a byte order mark", by_hand(header("ES256"), "\ufeff" + json.dumps(claims())), "token_malformed")
    token("something behind the claims", by_hand(header("ES256"), json.dumps(claims()) + "x"), "token_malformed")
    token("a token in a token", by_hand(header("ES256"), good), "token_malformed")
    token("a token in a token that says so", by_hand(header("ES256", cty="JWT"), good), "token_header")
    token("claims that are said to be a token", by_hand(header("ES256", cty="JWT"), claims()), "token_header")
    secret = jwk.OctKey.generate_key(256)
    encrypted = jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, json.dumps(claims()).encode(), secret)
    token("an encrypted token", encrypted, "token_encrypted")
    nested = jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM", "cty": "JWT"}, good.encode(), secret)
    token("a signed token in an encrypted one", nested, "token_encrypted")


def same_bits(character: str) -> str:
    """The next character of the alphabet, of which the last bits do not count at the end of 64 bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) ^ 1]


def strange_signatures() -> None:
    message = signed_part(header("ES256"), claims())
    private = KEYS["ES256"].private_key
    der = private.sign(message.encode(), ec.ECDSA(hashes.SHA256()))
    r, s = utils.decode_dss_signature(der)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    plain = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    for name, text in {
        "as ASN.1": der, "without its last byte": plain[:-1], "with a byte more": plain + b"\0", "with a byte before": b"\0" + plain, "longer halves": number(r, 33).encode() + number(s, 33).encode(),
        "r and s swapped": plain[32:] + plain[:32], "r plus the order": ((r + order) % 2**256).to_bytes(32, "big") + plain[32:], "r is 0": bytes(32) + plain[32:], "s is 0": plain[:32] + bytes(32),
        "r and s are the order": order.to_bytes(32, "big") * 2, "twice": plain + plain, "one bit changed": bytes([plain[0] ^ 1]) + plain[1:],
    }.items():
        token(f"ES256 signature {name}", f"{message}.{base64url(text)}", "token_signature")
    message = signed_part(header("EdDSA"), claims())
    good = signature(message.encode(), "EdDSA")
    lifted = (int.from_bytes(good[32:], "little") + 2**252 + 27742317777372353535851937790883648493).to_bytes(32, "little")
    token("EdDSA signature with s plus the order", f"{message}.{base64url(good[:32] + lifted)}", "token_signature")
    token("EdDSA signature cut off", f"{message}.{base64url(good[:-1])}", "token_signature")
    message = signed_part(header("RS256"), claims())
    good = signature(message.encode(), "RS256")
    token("RS256 signature with a zero before", f"{message}.{base64url(bytes(1) + good)}", "token_signature")
    token("RS256 signature cut off", f"{message}.{base64url(good[:-1])}", "token_signature")
    sha1 = KEYS["RS256"].private_key.sign(message.encode(), padding.PKCS1v15(), hashes.SHA1())
    token("RS256 signature of SHA-1", f"{message}.{base64url(sha1)}", "token_signature")


def bound_tokens() -> None:
    certificate, other = hashlib.sha256(b"certificate").digest(), hashlib.sha256(b"another").digest()
    bound = by_joserfc("ES256", header("ES256"), claims(cnf={"x5t#S256": base64url(certificate)}))
    token("bound to the certificate of the connection", bound, "ok", certificate=certificate.hex())
    token("bound to another certificate", bound, "token_other_certificate", certificate=other.hex())
    token("bound to a certificate, and none is there", bound, "token_no_certificate")
    key = by_joserfc("ES256", header("ES256"), claims(cnf={"jkt": KEYS["ES256"].thumbprint()}))
    token("bound to a key, without a proof", key, "token_no_proof", certificate=certificate.hex())
    for cnf in [{"jwk": public("ES256")}, {"kid": "x"}, {"x5t": "x"}, {}, "x", {"x5t#S256": base64url(certificate), "osc": {}}, {"x5t#S256": certificate.hex()}]:
        token(f"bound by {str(cnf)[:40]}", by_hand(header("ES256"), claims(cnf=cnf)), "token_confirmation", certificate=certificate.hex())


PROOFS: list[dict] = []
SHOWN = by_joserfc("ES256", header("ES256"), claims())


def proof_claims(**changes) -> dict:
    good = {"htm": "POST", "htu": TARGET, "iat": NOW, "jti": "1", "ath": base64url(hashlib.sha256(SHOWN.encode()).digest())}
    return {name: value for name, value in (good | changes).items() if value is not None}


def proof_header(algorithm: str = "ES256", **changes) -> dict:
    good = {"typ": "dpop+jwt", "alg": algorithm, "jwk": public(algorithm)}
    return {name: value for name, value in (good | changes).items() if value is not None}


def proof(name: str, proofs: str | list[str], expected: str, **more) -> None:
    shown = [proofs] if isinstance(proofs, str) else proofs
    PROOFS.append({"name": name, "proofs": shown, "expected": expected, "token": SHOWN, "method": "POST", "target": TARGET} | more)


def proofs() -> None:
    def claimed(name: str, expected: str, **changes) -> None:
        proof(name, by_hand(proof_header(), proof_claims(**changes)), expected)

    def headed(name: str, expected: str, algorithm: str = "ES256", **changes) -> None:
        proof(name, by_hand(proof_header(algorithm, **changes), proof_claims(), algorithm), expected)

    for algorithm in [*CURVES, "EdDSA", *RSAS]:
        text = by_joserfc(algorithm, proof_header(algorithm), proof_claims())
        proof(f"{algorithm} by joserfc", text, "ok", thumbprint=KEYS[algorithm].thumbprint())
    good = by_hand(proof_header(), proof_claims())
    proof("by PyJWT", by_pyjwt("ES256", proof_header(), proof_claims()), "ok", thumbprint=KEYS["ES256"].thumbprint())
    proof("shown twice, one after the other", good, "proof_replayed", shown_before=True)
    proof("two at once", [good, good], "proof_count")
    proof("none", [], "proof_count")
    proof("for another target", good, "proof_target", target="https://llm.example/v1/models")
    proof("for another method", good, "proof_method", method="GET")
    proof("for another token", good, "proof_token", token=f"{SHOWN}x")
    headed("HS256 with its key in it", "proof_algorithm", "HS256")
    headed("HS256 with a public key in it", "proof_algorithm", "HS256", jwk=public("ES256"))
    headed("none", "proof_algorithm", alg="none")
    headed("a private key in it", "proof_key", jwk=KEYS["ES256"].as_dict(private=True))
    headed("no key in it", "proof_key", jwk=None)
    headed("another key in it", "proof_signature", jwk=public("ES256", OTHER))
    headed("a key of another curve in it", "proof_algorithm", jwk=public("ES384"))
    headed("a name in place of a key", "proof_key", jwk=None, kid="ES256")
    headed("jku beside the key", "proof_header", jku="https://evil.example")
    headed("crit", "proof_header", crit=["htu"])
    headed("typ JWT", "proof_type", typ="JWT")
    headed("no typ", "proof_type", typ=None)
    claimed("htu of another host", "proof_target", htu="https://evil.example/v1/chat/completions")
    claimed("htu with http", "proof_target", htu="http://llm.example/v1/chat/completions")
    claimed("htu of a part of the path", "proof_target", htu="https://llm.example/v1")
    claimed("htu with a query", "ok", htu=f"{TARGET}?stream=true")
    claimed("htu with the port of https", "ok", htu="https://LLM.example:443/v1/chat/completions")
    claimed("htu with a user", "proof_target", htu="https://llm.example@evil.example/v1/chat/completions")
    claimed("htu missing", "proof_claim", htu=None)
    claimed("htm in small letters", "proof_method", htm="post")
    claimed("ath missing", "proof_claim", ath=None)
    claimed("ath of another token", "proof_token", ath=base64url(hashlib.sha256(b"x").digest()))
    claimed("ath in hexadecimal digits", "proof_claim", ath=hashlib.sha256(SHOWN.encode()).hexdigest())
    claimed("old", "proof_time", iat=NOW - 61)
    claimed("from the future", "proof_time", iat=NOW + 11)
    claimed("iat a text", "proof_claim", iat=str(NOW))
    claimed("jti missing", "proof_claim", jti=None)
    claimed("jti too long", "proof_claim", jti="a" * 257)
    claimed("without the nonce", "ok")
    proof("without the nonce that was asked for", good, "proof_nonce", nonce="n")
    proof("with the nonce that was asked for", by_hand(proof_header(), proof_claims(nonce="n")), "ok", nonce="n")
    proof("an access token as a proof", SHOWN, "proof_type")
    proof("a claim twice", by_hand(proof_header(), '{"htm":"GET",' + json.dumps(proof_claims())[1:]), "proof_malformed")
    proof("9 KiB", by_hand(proof_header(), proof_claims(filler="x" * 9000)), "proof_malformed")


def main() -> None:
    for make in good_tokens, unsigned_tokens, confused_tokens, pointing_headers, wrong_claims, strange_texts, strange_signatures, bound_tokens, proofs:
        make()
    print(json.dumps({"now": NOW, "issuer": ISSUER, "audience": AUDIENCE, "tokens": TOKENS, "proofs": PROOFS}))


if __name__ == "__main__":
    main()
