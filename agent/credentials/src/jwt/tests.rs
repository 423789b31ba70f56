use serde_json::json;

use super::*;
use crate::encoding::to_base64url;
use crate::jwk::KeySet;
use crate::testing::{NOW, Signer, with};

const ISSUER: &str = "https://issuer.example";
const OWN: &str = "https://llm.example";

fn at(seconds: i64) -> i64 {
    1_800_000_000 + seconds
}

/// What a good token claims, with some claims changed.
fn claims(changes: Value) -> Value {
    let good = json!({"iss": ISSUER, "aud": OWN, "sub": "ada", "client_id": "batch", "exp": at(60), "iat": at(-10), "jti": "7",
        "scope": "read write"});
    with(good, changes)
}

fn settings(algorithm: Algorithm) -> IssuerSettings {
    IssuerSettings::new(ISSUER, vec![OWN.to_owned(), "llm".to_owned()], vec![algorithm])
}

fn keys(set: &Value, settings: &IssuerSettings) -> KeySet {
    KeySet::parse(set.to_string().as_bytes(), &settings.algorithms).unwrap()
}

/// Looks at a token with the settings and the keys of its issuer.
fn look(token: &str, settings: &IssuerSettings, set: &Value) -> Result<VerifiedToken, TokenRefusal> {
    verify(token, &Issuer::new(settings.clone()).unwrap(), &keys(set, settings), NOW)
}

/// One issuer with one Ed25519 key, and what it expects.
struct Bench {
    signer: Signer,
    settings: IssuerSettings,
}

impl Bench {
    fn new() -> Self {
        Self { signer: Signer::new(Algorithm::EdDsa), settings: settings(Algorithm::EdDsa) }
    }

    fn look(&self, token: &str) -> Result<VerifiedToken, TokenRefusal> {
        look(token, &self.settings, &self.signer.jwk_set())
    }

    #[track_caller]
    fn check(&self, header: Value, changes: Value, expected: Result<(), &str>) {
        let token = self.signer.token(header.clone(), &claims(changes.clone()));
        let found = self.look(&token).map(drop);
        assert_eq!(
            found.as_ref().copied().map_err(|refusal| refusal.reason()),
            expected,
            "{header} {changes} {found:?}"
        );
    }

    #[track_caller]
    fn check_claims(&self, changes: Value, expected: Result<(), &str>) {
        self.check(json!({}), changes, expected);
    }

    #[track_caller]
    fn check_header(&self, header: Value, expected: Result<(), &str>) {
        self.check(header, json!({}), expected);
    }
}

#[test]
fn a_good_token_is_believed() {
    let bench = Bench::new();
    let token =
        bench.look(&bench.signer.token(json!({}), &claims(json!({"nbf": at(-5), "team": {"a": [1]}})))).unwrap();
    assert_eq!(
        (token.issuer.as_str(), token.subject.as_str(), token.client_id.as_deref()),
        (ISSUER, "ada", Some("batch"))
    );
    assert_eq!((token.id.as_deref(), token.scopes), (Some("7"), vec!["read".to_owned(), "write".to_owned()]));
    let seconds = |time: Timestamp| i64::try_from(time.as_unix_seconds()).unwrap();
    assert_eq!(seconds(token.expires), at(60));
    assert_eq!((token.issued.map(seconds), token.not_before.map(seconds)), (Some(at(-10)), Some(at(-5))));
    assert_eq!(token.claims["team"], json!({"a": [1]}));
    assert_eq!(token.confirmation, None);
}

#[test]
fn every_algorithm_is_believed_from_its_own_kind_of_key_and_no_other() {
    for algorithm in Algorithm::ALL {
        let signer = Signer::new(algorithm);
        let token = signer.token(json!({}), &claims(json!({})));
        assert!(look(&token, &settings(algorithm), &signer.jwk_set()).is_ok(), "{algorithm}");
        let other = Signer::stranger(algorithm);
        let refused = look(&token, &settings(algorithm), &other.jwk_set()).unwrap_err();
        assert_eq!(refused.reason(), "token_signature", "{algorithm}");
        for named in Algorithm::ALL.into_iter().filter(|named| *named != algorithm) {
            let refused = look(&token, &settings(named), &signer.jwk_set()).unwrap_err();
            assert_eq!(refused.reason(), "token_algorithm", "{algorithm} where {named} is accepted");
            let disguised = signer.token(json!({"alg": named}), &claims(json!({})));
            let refused = look(&disguised, &settings(named), &signer.jwk_set()).unwrap_err();
            assert!(
                ["token_signature", "token_unknown_key"].contains(&refused.reason()),
                "{algorithm} as {named}: {refused}"
            );
        }
    }
}

#[test]
fn a_key_is_used_for_its_own_algorithm_only() {
    let signer = Signer::new(Algorithm::Rs256);
    let settings =
        IssuerSettings { algorithms: vec![Algorithm::Rs256, Algorithm::Rs512], ..settings(Algorithm::Rs256) };
    let set = json!({"keys": [with(signer.jwk(), json!({"kid": "1", "alg": "RS256"}))]});
    assert!(look(&signer.token(json!({}), &claims(json!({}))), &settings, &set).is_ok());
    let signer = signer.with(Algorithm::Rs512);
    let token = signer.token(json!({}), &claims(json!({})));
    assert!(look(&token, &settings, &signer.jwk_set()).is_ok());
    let refused = look(&token, &settings, &set).unwrap_err();
    let text = "the token is signed with RS512, which is not accepted from \"https://issuer.example\" or not what its key is for";
    assert_eq!((refused.reason(), refused.to_string().as_str()), ("token_algorithm", text));
}

#[test]
fn a_key_is_found_by_its_name_or_by_being_the_only_one() {
    let (one, two) = (Signer::new(Algorithm::EdDsa), Signer::new(Algorithm::EdDsa));
    let settings = settings(Algorithm::EdDsa);
    let named = |signer: &Signer, name: Value| with(signer.jwk(), json!({"kid": name}));
    let both = json!({"keys": [named(&one, json!("1")), named(&two, json!("2"))]});
    let check = |set: &Value, name: Value, expected: Result<(), &str>| {
        let token = two.token(json!({"kid": name.clone()}), &claims(json!({})));
        let found = look(&token, &settings, set).map(drop);
        assert_eq!(found.map_err(|refusal| refusal.reason()), expected, "{name}");
    };
    check(&both, json!("2"), Ok(()));
    check(&both, json!("1"), Err("token_signature"));
    check(&both, json!("3"), Err("token_unknown_key"));
    check(&both, json!(null), Err("token_ambiguous_key"));
    let only = json!({"keys": [named(&two, json!("2"))]});
    check(&only, json!(null), Ok(()));
    check(&only, json!("3"), Err("token_unknown_key"));
    let nameless = json!({"keys": [two.jwk()]});
    check(&nameless, json!(null), Ok(()));
    check(&nameless, json!("2"), Err("token_unknown_key"));
    check(&json!({"keys": []}), json!(null), Err("token_unknown_key"));
    check(
        &json!({"keys": [named(&two, json!("2")), named(&Signer::new(Algorithm::Es256), json!("1"))]}),
        json!(null),
        Ok(()),
    );
}

#[test]
fn a_token_is_valid_from_its_beginning_to_its_end() {
    let bench = Bench::new();
    bench.check_claims(json!({"exp": at(-29)}), Ok(()));
    bench.check_claims(json!({"exp": at(-30)}), Err("token_expired"));
    bench.check_claims(json!({"exp": 1_799_999_970.9}), Err("token_expired"));
    bench.check_claims(json!({"nbf": at(30)}), Ok(()));
    bench.check_claims(json!({"nbf": at(31)}), Err("token_not_yet_valid"));
    bench.check_claims(json!({"nbf": 1_800_000_030.5}), Err("token_not_yet_valid"));
    bench.check_claims(json!({"iat": at(30)}), Ok(()));
    bench.check_claims(json!({"iat": at(31)}), Err("token_not_yet_valid"));
    bench.check_claims(json!({"iat": 1_800_000_030.9}), Ok(()));
    bench.check_claims(json!({"iat": null, "nbf": null}), Ok(()));
    let strict = Bench { settings: IssuerSettings { leeway: Duration::ZERO, ..bench.settings.clone() }, ..bench };
    strict.check_claims(json!({"exp": at(0)}), Err("token_expired"));
    strict.check_claims(json!({"exp": at(1)}), Ok(()));
    strict.check_claims(json!({"nbf": at(0)}), Ok(()));
}

#[test]
fn times_are_numbers_in_bounds() {
    let bench = Bench::new();
    for name in ["exp", "iat", "nbf"] {
        for strange in [
            json!("1800000060"),
            json!(-1),
            json!(-0.5),
            json!(true),
            json!([1]),
            json!({}),
            json!(1e300),
            json!(u64::MAX),
            json!(253_402_300_800_u64),
        ] {
            bench.check_claims(json!({name: strange}), Err("token_claim"));
        }
    }
    bench.check_claims(json!({"exp": null}), Err("token_claim"));
    bench.check_claims(json!({"exp": 253_402_300_799_u64}), Ok(()));
    bench.check_claims(json!({"exp": 1.80000006e9}), Ok(()));
    bench.check_claims(json!({"exp": 0}), Err("token_expired"));
    bench.check_claims(json!({"iat": 0, "nbf": 0}), Ok(()));
}

#[test]
fn age_and_lifetime_can_have_bounds() {
    let mut bench = Bench::new();
    bench.check_claims(json!({"iat": 5}), Ok(()));
    bench.settings.age_max = Some(Duration::from_secs(100));
    bench.check_claims(json!({"iat": at(-130)}), Ok(()));
    bench.check_claims(json!({"iat": at(-131)}), Err("token_lifetime"));
    bench.check_claims(json!({"iat": null}), Err("token_claim"));
    let ends = |changes| {
        let token = bench.look(&bench.signer.token(json!({}), &claims(changes))).unwrap();
        i64::try_from(token.expires.as_unix_seconds()).unwrap()
    };
    assert_eq!(ends(json!({"iat": at(-10), "exp": at(9000)})), at(91), "it ends when it is too old");
    assert_eq!(ends(json!({"iat": at(-10), "exp": at(50)})), at(50), "its own end is earlier");
    bench.settings.age_max = None;
    bench.settings.lifetime_max = Some(Duration::from_secs(100));
    bench.check_claims(json!({"iat": at(-40)}), Ok(()));
    bench.check_claims(json!({"iat": at(-41)}), Err("token_lifetime"));
    bench.check_claims(json!({"iat": null}), Err("token_claim"));
}

#[test]
fn a_token_of_or_for_somebody_else_is_refused() {
    let bench = Bench::new();
    for issuer in ["https://issuer.example/", "https://ISSUER.example", "issuer.example"] {
        bench.check_claims(json!({"iss": issuer}), Err("token_issuer"));
    }
    for issuer in [json!(null), json!(""), json!(1), json!([ISSUER]), json!("a\nb"), json!("a".repeat(1025))] {
        bench.check_claims(json!({"iss": issuer}), Err("token_claim"));
    }
    bench.check_claims(json!({"aud": "llm"}), Ok(()));
    bench.check_claims(json!({"aud": ["other", "llm"]}), Ok(()));
    for audience in [json!("https://llm.example/"), json!("LLM"), json!(["other"]), json!("https://llm.example llm")] {
        bench.check_claims(json!({"aud": audience}), Err("token_audience"));
    }
    for audience in [
        json!(null),
        json!([]),
        json!(""),
        json!([""]),
        json!([OWN, 1]),
        json!({"a": OWN}),
        json!(true),
        json!(vec![OWN; 129]),
    ] {
        bench.check_claims(json!({"aud": audience}), Err("token_claim"));
    }
    bench.check_claims(json!({"aud": vec![OWN; 128]}), Ok(()));
}

#[test]
fn names_in_claims_have_bounds() {
    let bench = Bench::new();
    for subject in [json!(null), json!(""), json!(1), json!(["ada"]), json!("a\u{7}"), json!("a".repeat(1025))] {
        bench.check_claims(json!({"sub": subject}), Err("token_claim"));
    }
    bench.check_claims(json!({"sub": "a".repeat(1024)}), Ok(()));
    for name in ["jti", "client_id", "azp"] {
        for strange in [json!(""), json!(1), json!("a\u{7}"), json!("a".repeat(257))] {
            bench.check_claims(json!({"client_id": null, name: strange}), Err("token_claim"));
        }
        bench.check_claims(json!({"client_id": null, name: "a".repeat(256)}), Ok(()));
    }
    bench.check_claims(json!({"azp": "batch"}), Ok(()));
    bench.check_claims(json!({"azp": "other"}), Err("token_claim"));
}

#[test]
fn scopes_are_words_or_a_list() {
    let bench = Bench::new();
    let scopes =
        |changes: Value| bench.look(&bench.signer.token(json!({}), &claims(changes))).map(|token| token.scopes);
    let read = |changes: Value| scopes(changes).unwrap();
    assert_eq!(read(json!({"scope": "a  b:c "})), ["a", "b:c"]);
    assert_eq!(read(json!({"scope": null})), [""; 0]);
    assert_eq!(read(json!({"scope": null, "scp": ["a", "b"]})), ["a", "b"]);
    assert_eq!(read(json!({"scope": null, "scp": "a b"})), ["a", "b"]);
    assert_eq!(read(json!({"scope": "a b", "scp": ["a", "b"]})), ["a", "b"]);
    let many: Vec<String> = (0..129).map(|number| number.to_string()).collect();
    assert_eq!(read(json!({"scope": many[..128].join(" ")})).len(), 128);
    for strange in [
        json!({"scp": ["a"]}),
        json!({"scope": 1}),
        json!({"scope": ["a", 1]}),
        json!({"scope": "a\"b"}),
        json!({"scope": "a\\b"}),
        json!({"scope": "ä"}),
        json!({"scope": many.join(" ")}),
        json!({"scope": many}),
        json!({"scope": ["a b"]}),
        json!({"scope": {}}),
    ] {
        assert_eq!(scopes(strange.clone()).map_err(|refusal| refusal.reason()), Err("token_claim"), "{strange}");
    }
}

#[test]
fn a_token_that_is_no_access_token_is_refused() {
    let bench = Bench::new();
    for claim in ["nonce", "at_hash", "c_hash", "s_hash", "events"] {
        bench.check_claims(json!({claim: "x"}), Err("token_id_token"));
    }
    for kind in ["ID", "Logout", "Refresh", "Offline"] {
        bench.check_claims(json!({"typ": kind}), Err("token_id_token"));
    }
    bench.check_claims(json!({"typ": "Bearer"}), Ok(()));
    for (usage, expected) in
        [("id", Err("token_id_token")), ("refresh_token", Err("token_id_token")), ("access", Ok(()))]
    {
        bench.check_claims(json!({"token_use": usage}), expected);
    }
    bench.check_claims(json!({"client_id": null, "azp": "llm", "aud": "llm"}), Err("token_id_token"));
    bench.check_claims(json!({"client_id": null, "azp": "llm", "aud": ["llm"]}), Err("token_id_token"));
    bench.check_claims(json!({"client_id": null, "azp": "llm", "aud": ["llm", "other"]}), Ok(()));
    bench.check_claims(json!({"client_id": null, "azp": "batch", "aud": "llm"}), Ok(()));
    bench.check_claims(json!({"client_id": "llm", "aud": "llm"}), Ok(()));
}

#[test]
fn the_type_in_the_header_must_be_one_that_is_accepted() {
    let mut bench = Bench::new();
    for name in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+jwt"] {
        bench.check_header(json!({"typ": name}), Ok(()));
    }
    for name in [json!("JWT"), json!(null), json!("dpop+jwt"), json!("logout+jwt"), json!("secevent+jwt"), json!("")] {
        bench.check_header(json!({"typ": name}), Err("token_type"));
    }
    bench.check_header(json!({"typ": 1}), Err("token_header"));
    bench.settings.types = TokenTypes::AnyJwt;
    for name in [json!("JWT"), json!("jwt"), json!(null), json!("at+jwt"), json!("application/jwt")] {
        bench.check_header(json!({"typ": name}), Ok(()));
    }
    for name in ["dpop+jwt", "logout+jwt", "", "JOSE"] {
        bench.check_header(json!({"typ": name}), Err("token_type"));
    }
}

#[test]
fn nothing_in_a_header_is_followed() {
    let bench = Bench::new();
    let strange = [
        json!({"jku": "https://evil.example/jwks"}),
        json!({"x5u": "https://evil.example/x"}),
        json!({"jwk": bench.signer.jwk()}),
        json!({"x5c": ["AAAA"]}),
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": []}),
        json!({"b64": true}),
        json!({"zip": "DEF"}),
        json!({"enc": "A128GCM"}),
        json!({"cty": "JWT"}),
        json!({"cty": "application/jwt"}),
        json!({"cty": 1}),
        json!({"kid": 1}),
        json!({"kid": ""}),
        json!({"kid": "a".repeat(257)}),
        json!({"kid": "a\u{0}"}),
        json!({"alg": null}),
        json!({"alg": 1}),
        json!({"alg": ["EdDSA"]}),
    ];
    for header in strange {
        bench.check_header(header, Err("token_header"));
    }
    bench.check_header(json!({"x5t": "a", "cty": "json", "other": 1}), Ok(()));
    for name in ["none", "None", "NONE", "nOnE", "", "eddsa", "RS1", "dir"] {
        bench.check_header(json!({"alg": name}), Err("token_algorithm"));
    }
    for name in ["../../dev/null", "https://evil.example/k", "1' OR '1'='1", "2", "a".repeat(256).as_str()] {
        bench.check_header(json!({"kid": name}), Err("token_unknown_key"));
    }
    bench.check_header(json!({"alg": "Ed25519"}), Ok(()));
}

#[test]
fn only_one_text_is_a_token() {
    let bench = Bench::new();
    let good = bench.signer.token(json!({}), &claims(json!({})));
    let check = |token: &str, expected: &str| {
        assert_eq!(bench.look(token).map_err(|refusal| refusal.reason()), Err(expected), "{token}");
    };
    let parts: Vec<&str> = good.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("{good}") };
    for token in
        ["", ".", "..", "...", "a.b", &format!("{good}."), &format!("{header}.{payload}"), &format!("{good}.a.b.c")]
    {
        check(token, "token_malformed");
    }
    for token in [
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}=.{signature}"),
        format!("{header}.{payload} .{signature}"),
    ] {
        check(&token, "token_malformed");
    }
    check("a.b.c.d.e", "token_encrypted");
    check(&format!("{header}.{payload}."), "token_signature");
    check(&format!("{header}.{payload}.{}", to_base64url(&[0; 64])), "token_signature");
    check(
        &format!("{header}.{}.{signature}", to_base64url(claims(json!({"sub": "eve"})).to_string().as_bytes())),
        "token_signature",
    );
    check(
        &format!("{}.{payload}.{signature}", to_base64url(br#"{"typ":"at+jwt","alg":"EdDSA","kid":"1"}"#)),
        "token_signature",
    );
}

#[test]
fn json_that_programs_read_differently_is_refused() {
    let bench = Bench::new();
    let header = r#"{"alg":"EdDSA","kid":"1","typ":"at+jwt"}"#;
    let good = claims(json!({})).to_string();
    let check = |header: &str, payload: &str, expected: Result<(), &str>| {
        let found = bench.look(&bench.signer.sign(header, payload)).map(drop);
        assert_eq!(found.map_err(|refusal| refusal.reason()), expected, "{header} {payload}");
    };
    check(header, &good, Ok(()));
    check(header, &good.replacen('{', r#"{"sub":"eve","#, 1), Err("token_malformed"));
    check(header, &good.replacen('{', r#"{"a":{"b":1,"b":2},"#, 1), Err("token_malformed"));
    check(header, &good.replacen('{', r#"{"a":NaN,"#, 1), Err("token_malformed"));
    check(header, &good.replacen('{', r#"{"a":1e400,"#, 1), Err("token_malformed"));
    check(
        header,
        &good.replacen('{', &format!("{{\"a\":{}{},", "[".repeat(9), "]".repeat(9)), 1),
        Err("token_malformed"),
    );
    check(header, &format!("[{good}]"), Err("token_malformed"));
    check(header, &format!("{good}{good}"), Err("token_malformed"));
    check(header, "", Err("token_malformed"));
    check(&header.replacen('{', r#"{"alg":"none","#, 1), &good, Err("token_malformed"));
    check("[]", &good, Err("token_malformed"));
    check("", &good, Err("token_malformed"));
}

#[test]
fn tokens_have_a_bound() {
    let bench = Bench::new();
    let token = |filler: usize| bench.signer.token(json!({}), &claims(json!({"filler": "x".repeat(filler)})));
    let mut filler = TOKEN_BYTES_MAX * 3 / 4;
    while token(filler).len() > TOKEN_BYTES_MAX {
        filler -= 1;
    }
    assert!(bench.look(&token(filler)).is_ok());
    let refused = bench.look(&token(filler + 1)).unwrap_err();
    assert_eq!(refused.reason(), "token_malformed");
    let source = std::error::Error::source(&refused).unwrap().to_string();
    assert!(source.ends_with("bytes; the most is 16384"), "{source}");
}

#[test]
fn peeking_tells_whose_token_it_claims_to_be() {
    let signer = Signer::new(Algorithm::Es256);
    let token = signer.token(json!({"kid": "x"}), &claims(json!({"iss": "https://other.example"})));
    let peeked = peek(&token).unwrap();
    assert_eq!(
        (peeked.issuer(), peeked.key_id(), peeked.algorithm()),
        ("https://other.example", Some("x"), Algorithm::Es256)
    );
}

#[test]
fn refusals_name_both_values_and_never_the_token() {
    let bench = Bench::new();
    let refused =
        |changes: Value| bench.look(&bench.signer.token(json!({}), &claims(changes))).unwrap_err().to_string();
    assert_eq!(refused(json!({"exp": 0})), "the token expired at 1970-01-01T00:00:00Z, and it is 2027-01-15T08:00:00Z");
    assert_eq!(refused(json!({"aud": "a"})), r#"the token is for ["a"], not for ["https://llm.example", "llm"]"#);
    let long = refused(json!({"iss": format!("https://{}", "a".repeat(500))}));
    assert_eq!(
        long,
        format!("the token is from \"https://{}…\", not from \"https://issuer.example\"", "a".repeat(112))
    );
}

#[test]
fn a_bound_token_is_accepted_from_its_holder_only() {
    let bench = Bench::new();
    let bound = |cnf: Value| bench.look(&bench.signer.token(json!({}), &claims(json!({"cnf": cnf}))));
    let (one, other) = (to_base64url(&[1; 32]), to_base64url(&[2; 32]));
    let token = bound(json!({"x5t#S256": one})).unwrap();
    assert_eq!(token.confirmed(Some(&[1; 32]), None), Ok(()));
    assert_eq!(
        token.confirmed(Some(&[2; 32]), None).unwrap_err().to_string(),
        format!("the token is bound to the certificate {one}, and was shown on {other}")
    );
    assert_eq!(token.confirmed(None, None).unwrap_err().reason(), "token_no_certificate");
    let token = bound(json!({"jkt": one})).unwrap();
    assert_eq!(token.confirmed(Some(&[1; 32]), None).unwrap_err().reason(), "token_no_proof");
    let token = bound(json!({"jkt": one, "x5t#S256": other})).unwrap();
    assert_eq!(token.confirmed(None, None).unwrap_err().reason(), "token_no_certificate");
    assert_eq!(token.confirmed(Some(&[1; 32]), None).unwrap_err().reason(), "token_other_certificate");
    assert_eq!(token.confirmed(Some(&[2; 32]), None).unwrap_err().reason(), "token_no_proof");
    let free = bench.look(&bench.signer.token(json!({}), &claims(json!({})))).unwrap();
    assert_eq!(free.confirmed(Some(&[1; 32]), None), Ok(()));
    for strange in [
        json!({}),
        json!("x"),
        json!([]),
        json!({"kid": "x"}),
        json!({"x5t#S256": one, "other": 1}),
        json!({"jwk": {}}),
        json!({"x5t#S256": 1}),
        json!({"jkt": "AAAA"}),
        json!({"jkt": format!("{one}=")}),
        json!({"x5t": one}),
    ] {
        assert_eq!(bound(strange.clone()).unwrap_err().reason(), "token_confirmation", "{strange}");
    }
}

#[test]
fn settings_that_accept_nothing_or_too_much_are_refused() {
    let check = |change: &dyn Fn(&mut IssuerSettings), expected: Option<IssuerError>| {
        let mut changed = settings(Algorithm::Es256);
        change(&mut changed);
        assert_eq!(Issuer::new(changed).err(), expected);
    };
    check(&|_| {}, None);
    check(&|it| it.algorithms.clear(), Some(IssuerError::Algorithms));
    check(&|it| it.audiences.clear(), Some(IssuerError::Audiences { count: 0 }));
    check(&|it| it.audiences = vec!["a".to_owned(); 32], None);
    check(&|it| it.audiences = vec!["a".to_owned(); 33], Some(IssuerError::Audiences { count: 33 }));
    check(&|it| it.audiences.push(String::new()), Some(IssuerError::Name(String::new())));
    check(&|it| it.issuer.clear(), Some(IssuerError::Name(String::new())));
    check(&|it| it.issuer = "a\n".to_owned(), Some(IssuerError::Name("a\n".to_owned())));
    check(&|it| it.leeway = Duration::from_secs(300), None);
    check(&|it| it.leeway = Duration::from_secs(301), Some(IssuerError::Leeway(Duration::from_secs(301))));
    check(&|it| it.age_max = Some(Duration::ZERO), Some(IssuerError::Zero));
    check(&|it| it.lifetime_max = Some(Duration::ZERO), Some(IssuerError::Zero));
    check(&|it| it.algorithms = vec![Algorithm::Hs256, Algorithm::Hs512], None);
    let mixed = IssuerError::Mixed { symmetric: Algorithm::Hs256, asymmetric: Algorithm::Es256 };
    check(&|it| it.algorithms.push(Algorithm::Hs256), Some(mixed));
}
