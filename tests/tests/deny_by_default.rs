//! Promise 1: no route without a policy, and what is wrong with a config is said by name when it is loaded: by `check`, by
//! `run`, and by a running agent, which keeps what it had.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test that finds less than it expects has failed"
)]

use countersign_tests::agent::TestAgent;
use countersign_tests::backend::EchoBackend;
use countersign_tests::http;
use countersign_tests::mesh::{Mesh, Plan, SERVICE, certificate};
use countersign_tests::pki::{Leaf, TestPki};
use countersign_tests::tools;

/// A config that is wrong in one way, and what must be said of it.
struct Wrong {
    name: &'static str,
    /// In the good config this text is replaced...
    good: &'static str,
    /// ...by this one. What stands between guillemets is what the caret must point at.
    bad: &'static str,
    message: &'static str,
    hint: &'static str,
}

const GOOD: &str = r#"
[[role]]
name    = "inference_client"
members = ["spiffe://mesh.test/web/*"]

[[inbound]]
name     = "llm"
identity = "spiffe://mesh.test/llm"
listen   = "127.0.0.1:INBOUND"
backend  = "http://127.0.0.1:9"

[[inbound.allow]]
roles   = ["inference_client"]
methods = ["POST"]
paths   = ["/v1/models/*"]

[[outbound]]
name      = "out"
identity  = "spiffe://mesh.test/llm"
listen    = "127.0.0.1:OUTBOUND"
service   = "spiffe://mesh.test/llm"
endpoints = ["127.0.0.1:9"]
"#;

/// The bad inputs, by name.
const WRONG: &[Wrong] = &[
    Wrong {
        name: "unknown key",
        good: "listen   = \"127.0.0.1:INBOUND\"",
        bad: "listen   = \"127.0.0.1:INBOUND\"\n«lisen»  = \"127.0.0.1:1\"",
        message: "unknown key \"lisen\"",
        hint: "did you mean \"listen\"?",
    },
    Wrong {
        name: "unknown table",
        good: "[[role]]\n",
        bad: "[[«rol»]]\n",
        message: "unknown key \"rol\"",
        hint: "did you mean \"role\"?",
    },
    Wrong {
        name: "wrong type",
        good: "members = [\"spiffe://mesh.test/web/*\"]",
        bad: "members = «\"spiffe://mesh.test/web/*\"»",
        message: "expected a sequence",
        hint: "",
    },
    Wrong {
        name: "unknown role",
        good: "roles   = [\"inference_client\"]",
        bad: "roles   = [«\"inferrence_client\"»]",
        message: "unknown role \"inferrence_client\"",
        hint: "did you mean \"inference_client\"?",
    },
    Wrong {
        name: "rule without roles",
        good: "[[inbound.allow]]\nroles   = [\"inference_client\"]",
        bad: "[[inbound.allow]]\nroles   = «[]»",
        message: "this rule can never match: it names no role",
        hint: "list at least one role",
    },
    Wrong {
        name: "role of local programs on an inbound",
        good: "[[inbound.allow]]\n",
        bad: "[[role]]\nname = \"programs\"\nmembers = [\"local:loopback\"]\n[[inbound.deny]]\nroles = «[\"programs\"]»\n[[inbound.allow]]\n",
        message: "this rule can never match: nobody could hold its role",
        hint: "name a role with a member that shows it, or change require or any_of",
    },
    Wrong {
        name: "role of token holders where no token is taken",
        good: "[[inbound.allow]]\n",
        bad: "[[inbound.allow]]\nroles = «[\"researcher\"]»\n[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[role]]\nname = \"researcher\"\nmembers = [\"group:corp/research\"]\n[[inbound.allow]]\n",
        message: "this rule can never match: nobody could hold its role",
        hint: "name a role with a member that shows it, or change require or any_of",
    },
    Wrong {
        name: "condition on a header that is never seen",
        good: "[[role]]\nname    = \"inference_client\"",
        bad: "[conditions]\nheaders = [\"x-tenant\", «\"host\"»]\n[[role]]\nname    = \"inference_client\"",
        message: "conditions see no Host",
        hint: "what a caller calls is resource.name",
    },
    Wrong {
        name: "inbound whose rules are all observed",
        good: "name     = \"llm\"\nidentity = \"spiffe://mesh.test/llm\"\nlisten   = \"127.0.0.1:INBOUND\"\nbackend  = \"http://127.0.0.1:9\"\n\n[[inbound.allow]]\n",
        bad: "name     = «\"llm\"»\nidentity = \"spiffe://mesh.test/llm\"\nlisten   = \"127.0.0.1:INBOUND\"\nbackend  = \"http://127.0.0.1:9\"\n\n[[inbound.allow]]\nmode = \"observe\"\n",
        message: "nobody could use inbound \"llm\": what would allow it is only observed",
        hint: "enforce one [[inbound.allow]], or the policy file",
    },
    Wrong {
        name: "outbound whose rules are all observed",
        good: "[[outbound]]\nname      = \"out\"\nidentity  = \"spiffe://mesh.test/llm\"\nlisten    = \"127.0.0.1:OUTBOUND\"\nservice   = \"spiffe://mesh.test/llm\"\nendpoints = [\"127.0.0.1:9\"]\n",
        bad: "[[role]]\nname = \"programs\"\nmembers = [\"local:loopback\"]\n[[outbound]]\nname      = «\"out\"»\nidentity  = \"spiffe://mesh.test/llm\"\nlisten    = \"127.0.0.1:OUTBOUND\"\nservice   = \"spiffe://mesh.test/llm\"\nendpoints = [\"127.0.0.1:9\"]\n[[outbound.allow]]\nroles = [\"programs\"]\nmode = \"observe\"\n",
        message: "nobody could use outbound \"out\": what would allow it is only observed",
        hint: "enforce one [[outbound.allow]] or the policy file; without any rule whoever can reach the outbound may use it",
    },
    Wrong {
        name: "role of workloads where a token says who asks",
        good: "backend  = \"http://127.0.0.1:9\"\n\n[[inbound.allow]]\n",
        bad: "backend  = \"http://127.0.0.1:9\"\nrequire = [\"mtls\", \"jwt\"]\n[[inbound.allow]]\nroles = «[\"inference_client\"]»\n[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[inbound.allow]]\n",
        message: "this rule can never match: nobody could hold its role",
        hint: "name a role with a member that shows it, or change require or any_of",
    },
    Wrong {
        name: "via where nobody acts for another",
        good: "[[inbound.allow]]\n",
        bad: "[[inbound.deny]]\nvia = «[\"inference_client\"]»\n[[inbound.allow]]\n",
        message: "this rule can never match: nobody could hold its role",
        hint: "name a role with a member that shows it, or change require or any_of",
    },
    Wrong {
        name: "networks on a Unix socket",
        good: "listen   = \"127.0.0.1:INBOUND\"\nbackend  = \"http://127.0.0.1:9\"\n\n[[inbound.allow]]\n",
        bad: "listen   = \"unix:/run/countersign-nowhere.sock\"\nbackend  = \"http://127.0.0.1:9\"\n\n[[inbound.deny]]\nnetworks = «[\"10.0.0.0/8\"]»\n[[inbound.allow]]\n",
        message: "this rule can never match: who comes over a Unix socket comes from no network",
        hint: "leave networks out, or listen on an address",
    },
    Wrong {
        name: "rule that names no roles at all",
        good: "[[inbound.allow]]\nroles   = [\"inference_client\"]",
        bad: "«[[inbound.allow]]»",
        message: "this rule can never match: it names no role",
        hint: "list at least one role",
    },
    Wrong {
        name: "credential that does not exist",
        good: "[[inbound.allow]]",
        bad: "require = [«\"mtl\"»]\n[[inbound.allow]]",
        message: "unknown credential \"mtl\"",
        hint: "did you mean \"mtls\"?",
    },
    Wrong {
        name: "nothing demanded",
        good: "[[inbound.allow]]",
        bad: "require = «[]»\n[[inbound.allow]]",
        message: "anybody could call",
        hint: "leave both keys out to demand a certificate",
    },
    Wrong {
        name: "credential demanded twice",
        good: "[[inbound.allow]]",
        bad: "require = «[\"mtls\"]»\nany_of = [\"mtls\"]\n[[inbound.allow]]",
        message: "mtls is required already",
        hint: "name each credential once",
    },
    Wrong {
        name: "two credentials of one request",
        good: "[[inbound.allow]]",
        bad: "require = «[\"jwt\", \"opaque_token\"]»\n[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[issuer.introspection]\nclient_id = \"a\"\nclient_secret = \"b\"\n[[inbound.allow]]",
        message: "cannot be required to carry more",
        hint: "put those of which one will do into any_of",
    },
    Wrong {
        name: "member whom nothing vouches for",
        good: "members = [\"spiffe://mesh.test/web/*\"]",
        bad: "members = [«\"team:research\"»]",
        message: "no inbound takes API keys",
        hint: "name \"api_key\" in require or any_of",
    },
    Wrong {
        name: "rule without methods",
        good: "methods = [\"POST\"]",
        bad: "methods = «[]»",
        message: "this rule can never match: it names no method",
        hint: "leave the key out to mean every method",
    },
    Wrong {
        name: "rule without paths",
        good: "paths   = [\"/v1/models/*\"]",
        bad: "paths   = «[]»",
        message: "this rule can never match: it names no path",
        hint: "leave the key out to mean every path",
    },
    Wrong {
        name: "path with two dots",
        good: "paths   = [\"/v1/models/*\"]",
        bad: "paths   = [\"/v1/models/*\", «\"/v1/../admin\"»]",
        message: "would be refused before any rule is asked",
        hint: "",
    },
    Wrong {
        name: "method that is never let through",
        good: "methods = [\"POST\"]",
        bad: "methods = [«\"post\"»]",
        message: "a method is written in upper-case letters",
        hint: "",
    },
    Wrong {
        name: "member of an unknown trust domain",
        good: "members = [\"spiffe://mesh.test/web/*\"]",
        bad: "members = [«\"spiffe://mesch.test/web/*\"»]",
        message: "can never match: trust domain mesch.test is not trusted here",
        hint: "add a [[trust_domain]] with its name and bundle, or correct the name",
    },
    Wrong {
        name: "two listeners on one port",
        good: "listen    = \"127.0.0.1:OUTBOUND\"",
        bad: "listen    = «\"127.0.0.1:INBOUND\"»",
        message: "where \"llm\" listens already",
        hint: "",
    },
    Wrong {
        name: "inbound that nobody may use",
        good: "name     = \"llm\"\nidentity = \"spiffe://mesh.test/llm\"\nlisten   = \"127.0.0.1:INBOUND\"\nbackend  = \"http://127.0.0.1:9\"\n\n[[inbound.allow]]\nroles   = [\"inference_client\"]\nmethods = [\"POST\"]\npaths   = [\"/v1/models/*\"]",
        bad: "name     = «\"llm\"»\nidentity = \"spiffe://mesh.test/llm\"\nlisten   = \"127.0.0.1:INBOUND\"\nbackend  = \"http://127.0.0.1:9\"",
        message: "nobody could use inbound \"llm\": it has no allow rule",
        hint: "add an [[inbound.allow]] with the roles that may use it",
    },
    Wrong {
        name: "outbound that other hosts can reach",
        good: "listen    = \"127.0.0.1:OUTBOUND\"",
        bad: "listen    = «\"0.0.0.0:OUTBOUND\"»",
        message: "other hosts could use the identity spiffe://mesh.test/llm",
        hint: "listen on 127.0.0.1, [::1] or a Unix socket, or set unsafe_listen_beyond_loopback = true",
    },
    Wrong {
        name: "backend on another host",
        good: "backend  = \"http://127.0.0.1:9\"",
        bad: "backend  = «\"http://10.0.0.1:9\"»",
        message: "what is forwarded would leave this host in clear text",
        hint: "put an agent on that host, or set unsafe_backend_beyond_loopback = true",
    },
    Wrong {
        name: "identity that nobody gives",
        good: "identity  = \"spiffe://mesh.test/llm\"",
        bad: "identity  = «\"spiffe://mesh.test/nobody\"»",
        message: "nothing gives this agent the identity spiffe://mesh.test/nobody",
        hint: "set state_dir and enroll this host, or add a [[certificate]] with this identity",
    },
    Wrong {
        name: "issuer in clear text",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = «\"http://issuer.test\"»\naudiences = [\"a\"]\n[[role]]\n",
        message: "it is asked in clear text",
        hint: "",
    },
    Wrong {
        name: "issuer at an address of this host",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = «\"https://127.0.0.1:8443\"»\naudiences = [\"a\"]\n[[role]]\n",
        message: "is at 127.0.0.1",
        hint: "add private_addresses = [\"127.0.0.1\"] if it is meant",
    },
    Wrong {
        name: "keys at an address of the cloud's own",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\njwks_uri = «\"https://169.254.169.254/keys\"»\n[[role]]\n",
        message: "is at 169.254.169.254",
        hint: "add private_addresses = [\"169.254.169.254\"]",
    },
    Wrong {
        name: "issuer whose tokens are for nobody",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = «[]»\n[[role]]\n",
        message: "0 audiences",
        hint: "",
    },
    Wrong {
        name: "algorithm that is none",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nalgorithms = [«\"none\"»]\n[[role]]\n",
        message: "no signature algorithm",
        hint: "",
    },
    Wrong {
        name: "no algorithm",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nalgorithms = «[]»\n[[role]]\n",
        message: "no algorithm is accepted",
        hint: "",
    },
    Wrong {
        name: "secrets and public keys at once",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nalgorithms = «[\"RS256\", \"HS256\"]»\n[[role]]\n",
        message: "one issuer has one kind",
        hint: "",
    },
    Wrong {
        name: "secret that would be fetched",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = «\"https://issuer.test\"»\naudiences = [\"a\"]\nalgorithms = [\"HS256\"]\n[[role]]\n",
        message: "HS256 needs a secret, which is not fetched",
        hint: "name a file of mode 0600",
    },
    Wrong {
        name: "types that are none",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\ntypes = «\"any\"»\n[[role]]\n",
        message: "it is access_token or any_jwt",
        hint: "",
    },
    Wrong {
        name: "leeway of an hour",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nleeway = «\"1h\"»\n[[role]]\n",
        message: "it is 0s to 5m, in whole seconds",
        hint: "",
    },
    Wrong {
        name: "keys that would be too old before they are fetched again",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nrefresh = \"2h\"\nstale_max = «\"1h\"»\n[[role]]\n",
        message: "keys would be too old",
        hint: "make stale_max longer than refresh",
    },
    Wrong {
        name: "keys in a file and fetched",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\njwks_file = \"/etc/hosts\"\njwks_uri = «\"https://issuer.test/keys\"»\n[[role]]\n",
        message: "keys in a file are not fetched",
        hint: "leave this key or jwks_file out",
    },
    Wrong {
        name: "keys in a file that is none",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\njwks_file = «\"/etc/hosts\"»\n[[role]]\n",
        message: "key set cannot be read",
        hint: "",
    },
    Wrong {
        name: "exception that is no address",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\nprivate_addresses = [«\"10.0.0.1/8\"»]\n[[role]]\n",
        message: "bits behind its prefix",
        hint: "",
    },
    Wrong {
        name: "introspection without a place to ask",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\njwks_uri = «\"https://issuer.test/keys\"»\n[issuer.introspection]\nclient_id = \"a\"\nclient_secret = \"b\"\n[[role]]\n",
        message: "nothing says where to ask about tokens",
        hint: "name the endpoint",
    },
    Wrong {
        name: "two issuers of one name",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[issuer]]\nname = «\"corp\"»\nissuer = \"https://other.test\"\naudiences = [\"a\"]\n[[role]]\n",
        message: "two issuers are called",
        hint: "",
    },
    Wrong {
        name: "one issuer twice",
        good: "[[role]]\n",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[issuer]]\nname = \"other\"\nissuer = «\"https://issuer.test\"»\naudiences = [\"a\"]\n[[role]]\n",
        message: "is an issuer already",
        hint: "",
    },
    Wrong {
        name: "member of an unknown issuer",
        good: "[[role]]\nname    = \"inference_client\"\nmembers = [\"spiffe://mesh.test/web/*\"]",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[role]]\nname    = \"inference_client\"\nmembers = [«\"group:crop/staff\"»]",
        message: "there is no issuer \"crop\"",
        hint: "did you mean \"corp\"?",
    },
    Wrong {
        name: "claim that is not looked at",
        good: "[[role]]\nname    = \"inference_client\"\nmembers = [\"spiffe://mesh.test/web/*\"]",
        bad: "[[issuer]]\nname = \"corp\"\nissuer = \"https://issuer.test\"\naudiences = [\"a\"]\n[[role]]\nname    = \"inference_client\"\nmembers = [«\"claim:corp/plan=gold\"»]",
        message: "the claim \"plan\" is not looked at",
        hint: "add \"plan\" to the claims",
    },
    Wrong {
        name: "tokens of nobody",
        good: "[[inbound.allow]]",
        bad: "any_of = [«\"jwt\"»]\n[[inbound.allow]]",
        message: "no issuer of tokens is configured",
        hint: "write an [[issuer]]",
    },
    Wrong {
        name: "opaque tokens that nobody is asked about",
        good: "[[inbound.allow]]",
        bad: "any_of = [«\"opaque_token\"»]\n[[inbound.allow]]",
        message: "no issuer can be asked about opaque tokens",
        hint: "write an [issuer.introspection]",
    },
    Wrong {
        name: "bound tokens where none are taken",
        good: "[[inbound.allow]]",
        bad: "require = «[\"mtls\"]»\nbound_tokens_only = true\n[[inbound.allow]]",
        message: "only bound tokens are to be taken, and none is",
        hint: "name \"jwt\" or \"opaque_token\"",
    },
    Wrong { name: "syntax", good: "[[role]]\n", bad: "[[role]\n", message: "", hint: "" },
];

/// An agent with the good config, which is not running.
struct Site {
    agent: TestAgent,
    good: String,
}

fn site() -> Site {
    let agent = TestAgent::new("agent");
    let pki = TestPki::new("mesh");
    let good =
        GOOD.replace("INBOUND", &tools::free_port().to_string()).replace("OUTBOUND", &tools::free_port().to_string());
    let good = certificate(&pki, agent.folder(), SERVICE, &Leaf::of(SERVICE)) + &good;
    agent.configure(&good);
    Site { agent, good }
}

impl Site {
    /// The bad config, and where in the file it is bad: line, column, and width of the caret.
    fn bad(&self, wrong: &Wrong) -> (String, Option<(usize, usize, usize)>) {
        let ports = |text: &str| {
            let port_of = |key: &str| {
                let line = self.good.lines().find(|line| line.starts_with(key)).unwrap();
                line.rsplit(':').next().unwrap().trim_end_matches('"').to_owned()
            };
            text.replace("INBOUND", &port_of("listen   =")).replace("OUTBOUND", &port_of("listen    ="))
        };
        assert!(self.good.contains(&ports(wrong.good)), "{}: the good text is not in the config", wrong.name);
        let marked = self.good.replace(&ports(wrong.good), &ports(wrong.bad));
        let whole = self.agent.whole_config(&marked);
        let place = whole.find('«').map(|start| {
            let line_start = whole[..start].rfind('\n').map_or(0, |newline| newline + 1);
            let width = whole[start..].find('»').unwrap() - '«'.len_utf8();
            (whole[..start].matches('\n').count() + 1, whole[line_start..start].chars().count() + 1, width)
        });
        (marked.replace(['«', '»'], ""), place)
    }

    fn check_said(&self, wrong: &Wrong, said: &str, place: Option<(usize, usize, usize)>) {
        let Wrong { name, message, hint, .. } = wrong;
        assert!(said.contains(message), "{name}: {message:?} is not in:\n{said}");
        let file = self.agent.config_path();
        match place {
            Some((line, column, width)) => {
                let expected = format!("{}:{line}:{column}: ", file.display());
                assert!(said.contains(&expected), "{name}: {expected:?} is not in:\n{said}");
                let caret = format!("| {}{}", " ".repeat(column - 1), "^".repeat(width));
                assert!(said.lines().any(|line| line.ends_with(&caret)), "{name}: the caret is elsewhere:\n{said}");
            }
            None => assert!(said.contains(&format!("{}:", file.display())) && said.contains('^'), "{name}:\n{said}"),
        }
        if !hint.is_empty() {
            assert!(said.contains(&format!("hint: {hint}")), "{name}: no hint in:\n{said}");
        }
    }
}

#[test]
fn the_good_config_is_good() {
    let site = site();
    let finished = site.agent.ask("check", &[]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn check_refuses_each_bad_config_with_place_caret_and_hint() {
    let site = site();
    for wrong in WRONG {
        let (bad, place) = site.bad(wrong);
        site.agent.configure(&bad);
        let finished = site.agent.ask("check", &[]);
        assert_eq!(finished.code, Some(78), "{}: {finished:?}", wrong.name);
        assert_eq!(finished.stdout, "", "{}: errors belong on stderr", wrong.name);
        site.check_said(wrong, &finished.stderr, place);
    }
}

#[test]
fn run_refuses_a_bad_config_as_check_does() {
    let site = site();
    let (bad, place) = site.bad(&WRONG[0]);
    site.agent.configure(&bad);
    let finished = site.agent.ask("run", &[]);
    assert_eq!(finished.code, Some(78), "{finished:?}");
    site.check_said(&WRONG[0], &finished.stderr, place);
}

#[test]
fn a_running_agent_keeps_its_config_and_says_what_is_wrong_with_the_new_one() {
    let mut site = site();
    site.agent.start();
    for wrong in WRONG {
        let generation = site.agent.status()["generation"].clone();
        let (bad, place) = site.bad(wrong);
        let said = site.agent.reload_refused(&bad);
        site.check_said(wrong, &said, place);
        let status = site.agent.status();
        assert_eq!(status["generation"], generation, "{}: something was taken up", wrong.name);
        assert_eq!(status["ready"], true, "{}", wrong.name);
        assert_eq!(status["routes"].as_array().unwrap().len(), 2, "{}", wrong.name);
        assert_eq!(site.agent.metric("countersign_config_valid", &[]), 0.0, "{}", wrong.name);
        let good = site.good.clone();
        site.agent.reload(&good);
        assert_eq!(site.agent.metric("countersign_config_valid", &[]), 1.0, "{}", wrong.name);
    }
}

#[test]
fn status_of_a_running_agent_is_told_while_its_config_file_is_broken() {
    let mut site = site();
    site.agent.start();
    for wrong in WRONG {
        let (bad, place) = site.bad(wrong);
        site.agent.reload_refused(&bad);
        let finished = site.agent.ask("status", &[]);
        assert_eq!(finished.code, Some(0), "{}: {finished:?}", wrong.name);
        assert!(finished.stdout.contains("the newest config is refused"), "{}: {finished:?}", wrong.name);
        site.check_said(wrong, &finished.stdout, place);
        let good = site.good.clone();
        site.agent.reload(&good);
    }
}

#[test]
fn a_secret_in_a_wrong_config_reaches_neither_log_nor_status() {
    let mut site = site();
    site.agent.start();
    for value in ["\"Bearer hunter2 ${oops\"", "\"${hunter2}\"", "hunter2", "\"hunter2", "[\"hunter2\"]"] {
        let bad = format!("{}\n[inbound.inject]\nheader = \"authorization\"\nvalue = {value}\n", site.good);
        site.agent.reload_refused(&bad);
        let said = [site.agent.ask("status", &[]), site.agent.ask("check", &[])];
        let said = said.map(|finished| finished.stdout + &finished.stderr).concat();
        assert!(said.contains("agent.toml:"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        let good = site.good.clone();
        site.agent.reload(&good);
    }
    assert!(!site.agent.process().stderr().concat().contains("hunter2"));
}

#[test]
fn a_refused_config_does_not_disturb_what_is_served() {
    let backend = EchoBackend::start();
    let mut mesh = Mesh::of_files(&Plan::to(backend.url()));
    let good = mesh.host_b.tables();
    mesh.host_b.reload_refused(&good.replace("roles   = [\"inference_client\"]", "roles = []"));
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
    assert_eq!(http::get(mesh.other, "/a").unwrap().status(), 403);
    mesh.host_b.reload(&good);
    assert_eq!(http::get(mesh.frontend, "/a").unwrap().status(), 200);
}

#[test]
fn what_no_rule_allows_is_denied() {
    let backend = EchoBackend::start();
    let rule = "methods = [\"POST\"]\npaths = [\"/v1/chat\", \"/v1/models/*\", \"/files/**\"]";
    let mesh = Mesh::of_files(&Plan { rule: rule.to_owned(), ..Plan::to(backend.url()) });
    let status = |method: &str, path: &str| {
        http::Client::connect(mesh.frontend).unwrap().ask(method, path, &[], b"").unwrap().status()
    };
    for (method, path) in [
        ("POST", "/v1/chat"),
        ("POST", "/v1/models/a"),
        ("POST", "/files/a"),
        ("POST", "/files/a/b"),
        ("POST", "/v1/chat?x=/.."),
    ] {
        assert_eq!(status(method, path), 200, "{method} {path}");
    }
    for (method, path) in [
        ("GET", "/v1/chat"),
        ("HEAD", "/v1/chat"),
        ("POST", "/"),
        ("POST", "/v1/chat/"),
        ("POST", "/v1/chat/x"),
        ("POST", "/v1/Chat"),
        ("POST", "/v1/models"),
        ("POST", "/v1/models/a/b"),
        ("POST", "/filesx"),
    ] {
        assert_eq!(status(method, path), 403, "{method} {path}");
    }
    assert_eq!(backend.seen().len(), 5, "what was denied did not reach the backend");
}
