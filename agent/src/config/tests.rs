//! Configs that are right, and configs that are wrong in one place each.

use super::{Secrets, checked, parse};

/// A config with everything that the cases below change, and that others add to.
pub(crate) const RIGHT: &str = r#"
[[role]]
name = "inference_client"
members = ["spiffe://prod.example/web/*", "dns:batch.prod.example"]

[[certificate]]
identity = "spiffe://prod.example/llm"
chain = "/etc/countersign/llm.pem"
key = "/etc/countersign/llm.key"
bundle = "/etc/countersign/bundle.pem"

[[inbound]]
name = "llm"
identity = "spiffe://prod.example/llm"
listen = "0.0.0.0:9443"
backend = "http://127.0.0.1:11434"

[[inbound.allow]]
roles = ["inference_client"]
methods = ["POST"]
paths = ["/v1/chat/completions", "/v1/models/*"]

[[outbound]]
name = "other"
identity = "spiffe://prod.example/llm"
listen = "127.0.0.1:11435"
service = "spiffe://prod.example/other"
endpoints = ["host-b:9443"]
"#;

pub(crate) fn checked(text: &str) -> Result<checked::Agent, String> {
    parse("agent.toml", text, None, Secrets::Named).map_err(|error| error.to_string())
}

/// Replaces one piece of the right config and expects a finding at that very piece.
fn refused(right: &str, wrong: &str, marked: &str, expected: &str) {
    assert!(RIGHT.contains(right), "{right}");
    let text = RIGHT.replacen(right, wrong, 1);
    let error = checked(&text).expect_err(wrong);
    let before = text.get(..text.find(marked).expect(marked)).unwrap_or_default();
    let (line, column) =
        (before.matches('\n').count() + 1, before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1);
    let place = format!("agent.toml:{line}:{column}: ");
    assert!(error.starts_with(&place), "expected {place}, found {error}");
    assert!(error.contains(expected), "expected {expected:?} in {error}");
    assert!(error.contains('^'), "{error}");
}

#[test]
fn the_contract_s_own_config_is_right() {
    let config = checked(RIGHT).unwrap();
    assert_eq!((config.inbounds.len(), config.outbounds.len()), (1, 1));
    assert_eq!(config.roles.all_names().len(), 1);
}

#[test]
fn unknown_keys_and_wrong_types_are_refused_where_they_stand() {
    refused("listen = \"0.0.0.0:9443\"", "lsten = \"0.0.0.0:9443\"", "lsten", "hint: did you mean \"listen\"?");
    refused("methods = [\"POST\"]", "methods = \"POST\"", "\"POST\"", "invalid type");
    refused("name = \"llm\"", "name = 5", "5", "invalid type");
    refused("[[outbound]]", "[[outbond]]", "outbond", "did you mean \"outbound\"?");
}

#[test]
fn names_that_nothing_has_are_refused_with_the_nearest_one() {
    refused(
        "roles = [\"inference_client\"]",
        "roles = [\"inferrence_client\"]",
        "\"inferrence",
        "did you mean \"inference_client\"?",
    );
    refused(
        "identity = \"spiffe://prod.example/llm\"\nlisten = \"0",
        "identity = \"spiffe://prod.example/lm\"\nlisten = \"0",
        "\"spiffe://prod.example/lm\"",
        "nothing gives this agent",
    );
}

#[test]
fn rules_that_can_never_match_are_refused() {
    refused("roles = [\"inference_client\"]", "roles = []", "[]", "names no role");
    refused("roles = [\"inference_client\"]", "via = [\"inference_client\"]", "[[inbound.allow]]", "names no role");
    refused("methods = [\"POST\"]", "networks = []", "[]", "names no network");
    refused("methods = [\"POST\"]", "networks = [\"10.0.0.1/8\"]", "\"10.0.0.1/8\"", "10.0.0.0/8");
    refused("methods = [\"POST\"]", "mode = \"dry\"", "\"dry\"", "enforce or observe");
    refused("methods = [\"POST\"]", "name = \"a b\"", "\"a b\"", "no name");
    refused("methods = [\"POST\"]", "methods = []", "[]", "names no method");
    refused("paths = [\"/v1/chat/completions\", \"/v1/models/*\"]", "paths = []", "[]", "names no path");
    refused("\"/v1/models/*\"", "\"/v1/../models\"", "\"/v1/../models\"", "'..'");
    refused("\"/v1/models/*\"", "\"/v1/models*\"", "\"/v1/models*\"", "whole segments");
    refused("methods = [\"POST\"]", "methods = [\"post\"]", "\"post\"", "upper-case");
    refused("methods = [\"POST\"]", "methods = [\"CONNECT\"]", "\"CONNECT\"", "can never match");
    refused(
        "spiffe://prod.example/web/*",
        "spiffe://elsewhere.example/web/*",
        "\"spiffe://elsewhere",
        "not trusted here",
    );
    refused("http://127.0.0.1:11434", "tcp://127.0.0.1:11434", "[\"POST\"]", "plain TCP");
    refused(
        "members = [\"spiffe://prod.example/web/*\", \"dns:batch.prod.example\"]",
        "members = []",
        "\"inference_client\"",
        "no member",
    );
}

#[test]
fn routes_without_rules_or_with_a_taken_port_are_refused() {
    let (_, from_rule) = RIGHT.split_once("[[inbound.allow]]").unwrap();
    let rule = format!("[[inbound.allow]]{}", from_rule.split("[[outbound]]").next().unwrap());
    refused(&rule, "", "\"llm\"", "no allow rule");
    refused("listen = \"127.0.0.1:11435\"", "listen = \"127.0.0.1:9443\"", "\"127.0.0.1:9443\"", "listens already");
}

#[test]
fn what_would_leave_the_host_in_clear_text_needs_an_unsafe_word() {
    refused("http://127.0.0.1:11434", "http://10.0.0.1:11434", "\"http://10", "unsafe_backend_beyond_loopback");
    refused("127.0.0.1:11435", "0.0.0.0:11435", "\"0.0.0.0:11435\"", "unsafe_listen_beyond_loopback");
    let open = RIGHT.replace("127.0.0.1:11435\"", "0.0.0.0:11435\"\nunsafe_listen_beyond_loopback = true");
    assert!(checked(&open).is_ok());
}

#[test]
fn injected_headers_cannot_be_those_that_the_agent_sets() {
    let inject = |header: &str| {
        RIGHT.replace("[[outbound]]", &format!("[inbound.inject]\nheader = \"{header}\"\nvalue = \"x\"\n[[outbound]]"))
    };
    assert_eq!(checked(&inject("authorization")).unwrap().inbounds[0].inject.len(), 1);
    for header in ["x-countersign-id", "X-Forwarded-Client-Cert", "connection", "host", "content-length", "a b"] {
        assert!(checked(&inject(header)).is_err(), "{header}");
    }
}

#[test]
fn a_credential_stands_in_one_place_and_no_other_stands_there() {
    let check = |tables: &str, expected: Option<&str>| {
        let text = RIGHT.replace("[[outbound]]", &format!("{tables}\n[[outbound]]"));
        let found = checked(&text).map(drop);
        match expected {
            None => assert_eq!(found, Ok(()), "{tables}"),
            Some(expected) => {
                assert!(found.as_ref().is_err_and(|error| error.contains(expected)), "{tables}: {found:?}")
            }
        }
    };
    let inject = |keys: &str| format!("[[inbound.inject]]\n{keys}\n");
    let two = |one: &str, other: &str| inject(one) + &inject(other);
    check(&inject("query = \"key\"\nvalue = \"x\""), None);
    check(&inject("basic_user = \"svc\"\npassword = \"x\""), None);
    check(&two("query = \"key\"\nvalue = \"x\"", "query = \"sig\"\nvalue = \"x\""), None);
    check(&inject("value = \"hunter2\""), Some("does not say where it stands"));
    check(&inject("query = \"key\"\nheader = \"a\"\nvalue = \"x\""), Some("one place"));
    check(&inject("query = \"a b\"\nvalue = \"x\""), Some("no name of a parameter"));
    check(&inject("query = \"key\""), Some("has no value"));
    check(&inject("query = \"key\"\npassword = \"x\""), Some("has no value"));
    check(&inject("basic_user = \"a:b\"\npassword = \"x\""), Some("no name of a user"));
    check(&inject("basic_user = \"svc\"\nvalue = \"x\""), Some("has no password"));
    check(&inject("basic_user = \"svc\"\npassword = \"x\"\nvalue = \"x\""), Some("with password alone"));
    check(&two("query = \"key\"\nvalue = \"x\"", "query = \"Key\"\nvalue = \"x\""), Some("injected twice"));
    let basic = "basic_user = \"svc\"\npassword = \"x\"";
    check(&two("header = \"Authorization\"\nvalue = \"x\"", basic), Some("injected twice"));
    check(&inject("basic_user = \"svc\"\nvalue = \"x\"").repeat(17), Some("the most is 16"));
    check(&inject("query = \"key\"\nvalue = \"x\"\nnext = \"y\"\nrefused_by = [400, 401, 403]"), None);
    check(&inject("query = \"key\"\nvalue = \"x\"\nnext = \"${hunter2}\""), Some("may hold a secret"));
    for statuses in ["[]", "[200]", "[500]", "[401,401,401,401,401,401,401,401,401]"] {
        let keys = format!("query = \"key\"\nvalue = \"x\"\nrefused_by = {statuses}");
        check(&inject(&keys), Some("1 to 8 numbers of 400 to 499"));
    }
    let long = format!("query = \"key\"\nvalue = \"{}\"", "x".repeat(16 * 1024));
    check(&inject(&long), Some("may hold a secret"));
}

#[test]
fn limits_have_a_range() {
    for (limit, expected) in
        [("handshakes = 0", "out of range"), ("drain = \"soon\"", "not a duration"), ("header_bytes = 1", "8192 to")]
    {
        let error = checked(&format!("[limits]\n{limit}\n{RIGHT}")).unwrap_err();
        assert!(error.starts_with("agent.toml:2:") && error.contains(expected), "{error}");
    }
}

#[test]
fn idle_times_are_whole_seconds_because_idleness_is_counted_in_them() {
    for key in ["idle_stream", "idle_connection"] {
        for value in ["1ms", "500ms", "999ms", "1500ms"] {
            let error = checked(&format!("[limits]\n{key} = \"{value}\"\n{RIGHT}")).unwrap_err();
            let place = format!("agent.toml:2:{}: ", key.len() + 4);
            assert!(error.starts_with(&place) && error.contains("whole seconds"), "{error}");
            assert!(error.contains("hint: ") && error.contains("\"1s\""), "{error}");
        }
        for value in ["1s", "1000ms", "15m"] {
            assert!(checked(&format!("[limits]\n{key} = \"{value}\"\n{RIGHT}")).is_ok(), "{key} = {value}");
        }
    }
    assert!(checked(&format!("[limits]\nbackend_idle = \"500ms\"\n{RIGHT}")).is_ok());
}

#[test]
fn a_backend_that_nothing_can_serve_is_refused() {
    for backend in ["http://127.0.0.1:0", "http://localhost:0", "h2c://[::1]:0"] {
        refused("http://127.0.0.1:11434", backend, &format!("\"{backend}"), "port 0");
    }
}

#[test]
fn the_metrics_port_is_nobody_elses() {
    let with = |metrics: &str| format!("[control]\nmetrics = \"{metrics}\"\n{RIGHT}");
    for metrics in ["127.0.0.1:9443", "0.0.0.0:9443", "[::]:9443", "127.0.0.1:11435", "0.0.0.0:11435", "[::]:11435"] {
        let error = checked(&with(metrics)).expect_err(metrics);
        assert!(error.starts_with("agent.toml:2:11: ") && error.contains("listens already"), "{error}");
    }
    for metrics in ["127.0.0.1:9464", "[::1]:9443", "127.0.0.2:11435", "127.0.0.1:0"] {
        assert!(checked(&with(metrics)).is_ok(), "{metrics}");
    }
}

#[test]
fn a_request_to_the_agent_itself_is_refused() {
    let control = |backend: &str| {
        let text = RIGHT.replace("http://127.0.0.1:11434", backend);
        checked(&format!("[control]\nsocket = \"/run/own.sock\"\n{text}"))
    };
    for backend in ["http+unix:/run/own.sock", "h2c+unix:/run//own.sock"] {
        let error = control(backend).expect_err(backend);
        assert!(error.contains("control socket") && error.contains('^'), "{error}");
    }
    assert!(control("http+unix:/run/other.sock").is_ok());
    let standard = "http+unix:/run/countersign/agent.sock";
    refused("http://127.0.0.1:11434", standard, "\"http+unix", "control socket");
    let unix = |backend: &str, own: &str| {
        let text = RIGHT.replace("http://127.0.0.1:11434", backend).replace("127.0.0.1:11435", own);
        checked(&text)
    };
    let error = unix("http+unix:/run/hop.sock", "unix:/run/hop.sock").unwrap_err();
    assert!(error.contains("round for ever") && error.contains('^'), "{error}");
    assert!(unix("http+unix:/run/hop.sock", "unix:/run/other.sock").is_ok());
    let error = unix("http+unix:/run/hop.sock", "unix:/run/countersign/agent.sock").unwrap_err();
    assert!(error.contains("control socket") && error.contains('^'), "{error}");
}

#[test]
fn every_address_of_one_family_is_not_every_address_of_the_other() {
    let with = |listen: &str, backend: &str| {
        let open = "unsafe_listen_beyond_loopback = true";
        let text = RIGHT.replace("127.0.0.1:11435\"", &format!("{listen}\"\n{open}"));
        checked(&text.replace("http://127.0.0.1:11434", backend))
    };
    let backend = "http://127.0.0.1:11434";
    assert!(with("[::]:9443", backend).is_ok());
    assert!(with("[::1]:9443", backend).is_ok());
    assert!(with("127.0.0.1:9443", backend).unwrap_err().contains("listens already"));
    // The twin of a socket on every address of the other family is free for a service.
    assert!(with("[::]:11434", backend).is_ok());
    assert!(with("0.0.0.0:11434", backend).unwrap_err().contains("round for ever"));
    assert!(with("[::]:11434", "http://localhost:11434").unwrap_err().contains("round for ever"));
}

/// A config with these keys of `[audit]`.
fn audit(keys: &str) -> Result<checked::Agent, String> {
    checked(&format!("[audit]\n{keys}\n{RIGHT}"))
}

#[test]
fn audit_keys_that_contradict_each_other_are_refused() {
    for (keys, expected) in [
        ("output = \"stdout\"\nfolder = \"/a\"", "agent.toml:3:10: \"output\" and \"folder\" are both given"),
        ("segment_age = \"1h\"", "agent.toml:2:15: \"segment_age\" has no effect without \"folder\""),
        ("folder = \"a\"", "agent.toml:2:10: \"a\" is not absolute"),
        ("folder = \"/a\"\nsegment_bytes = 1", "agent.toml:3:17: 1 bytes are out of range"),
        ("folder = \"/a\"\nretention = \"1s\"", "agent.toml:3:13: \"1s\" is out of range; it is 1h to"),
        ("folder = \"/a\"\nformat = \"ocsf\"", "agent.toml:3:10: \"format\" has no effect on a \"folder\""),
        ("when_full = \"blok\"", "did you mean \"block\"?"),
    ] {
        let error = audit(keys).expect_err(keys);
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    }
    assert!(audit("folder = \"/a\"\nretention = \"365d\"").is_ok());
}

#[test]
fn audit_sinks_are_refused_where_they_could_not_work_or_would_leave_in_clear_text() {
    let check = |keys: &str, expected: &str| {
        let error = audit(&format!("[[audit.sink]]\nname = \"siem\"\n{keys}")).expect_err(keys);
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    };
    check("kind = \"sylog\"", "did you mean \"syslog\"?");
    check("kind = \"syslog\"", "this sink needs \"address\"");
    check("kind = \"syslog\"\naddress = \"tls://siem:6514\"", "TLS needs a \"bundle\"");
    check("kind = \"syslog\"\naddress = \"tcp://siem:6514\"", "no receiver");
    check("kind = \"syslog\"\naddress = \"tcp://10.0.0.1:6514\"", "only programs of this host");
    check("kind = \"syslog\"\naddress = \"tcp://127.0.0.1:6514\"\nbundle = \"/a\"", "no effect without TLS");
    check("kind = \"otlp\"\nurl = \"http://collector:4318/v1/logs\"", "no collector");
    check("kind = \"otlp\"\nurl = \"https://collector/v1/logs\"\nbundle = \"/a\"\nkey = \"/b\"", "needs \"chain\"");
    check("kind = \"file\"\npath = \"/a\"\nurl = \"http://127.0.0.1:1\"", "has no \"url\"");
    check("kind = \"file\"\npath = \"/a\"\nformat = \"xml\"", "unknown format");
    check("kind = \"file\"\npath = \"/a\"\n[[audit.sink]]\nname = \"siem\"\nkind = \"journald\"", "already");
    let contradiction =
        "when_full = \"drop\"\n[[audit.sink]]\nname = \"a\"\nkind = \"journald\"\nwhen_full = \"refuse\"";
    assert!(audit(contradiction).unwrap_err().contains("has no effect here"));
    let right =
        "[[audit.sink]]\nname = \"siem\"\nkind = \"otlp\"\nurl = \"https://collector/v1/logs\"\nbundle = \"/a\"";
    assert_eq!(audit(right).unwrap().audit.sinks.len(), 1);
    let local = "[[audit.sink]]\nname = \"siem\"\nkind = \"syslog\"\naddress = \"tcp://localhost:6514\"";
    assert_eq!(audit(local).unwrap().audit.sinks.len(), 1);
}

#[test]
fn headers_that_hold_secrets_are_never_recorded() {
    for (keys, expected) in [
        ("headers = [\"Authorization\"]", "holds a secret"),
        ("headers = [\"X-Team-Key\"]\n[api_keys]\nfile = \"/a\"\nheaders = [\"x-team-key\"]", "holds a secret"),
        ("query = [\"team\"]\n[api_keys]\nfile = \"/a\"\nquery = \"team\"", "holds a secret"),
        ("query = [\"access_token\"]", "holds a secret"),
        ("headers = [\"a b\"]", "agent.toml:2:12"),
        ("query = [\"a&b\"]", "no key of a query"),
    ] {
        let error = audit(keys).expect_err(keys);
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    }
    assert_eq!(audit("headers = [\"user-agent\"]\nquery = [\"api-version\"]").unwrap().audit.headers.len(), 1);
}

#[test]
fn limits_that_limit_nothing_or_nobody_are_refused() {
    let check = |limit: &str, marked: &str, expected: &str| {
        refused("[[outbound]]", &format!("[[limit]]\nname = \"x\"\n{limit}\n[[outbound]]"), marked, expected);
    };
    check("by = \"identity\"", "[[limit]]", "this limit limits nothing");
    check("by = \"identty\"\nconcurrent = 1", "\"identty\"", "did you mean \"identity\"?");
    check("by = \"identity\"\nrequests = \"20\"", "\"20\"", "no rate");
    check("by = \"identity\"\nrequests = \"0/1m\"", "\"0/1m\"", "it is 1 to 1000000");
    check("by = \"identity\"\nrequests = \"20/1ms\"", "\"20/1ms\"", "1s to 31d");
    check("by = \"identity\"\nrequests = \"20/1m\"\nburst = 21", "21", "it is 1 to 20");
    check("by = \"identity\"\nconcurrent = 1\nburst = 2", "2\n[[outbound]]", "a burst of nothing");
    check("by = \"identity\"\nconcurrent = 0", "0\n[[outbound]]", "it is 1 to 1000000");
    check("by = \"all\"\nconcurrent = 1\nroles = []", "[]", "it names no role");
    check("by = \"all\"\nconcurrent = 1\nroles = [\"inferrence_client\"]", "\"inferrence", "did you mean");
    check("by = \"all\"\nconcurrent = 1\ninbounds = [\"lm\"]", "\"lm\"", "did you mean \"llm\"?");
    check("by = \"all\"\nconcurrent = 1\nmembers = [\"team:a\"]", "\"team:a\"", "this member can never call");
    check("by = \"all\"\nconcurrent = 1\nmode = \"watch\"", "\"watch\"", "enforce or observe");
    check("by = \"key\"\nconcurrent = 1", "\"key\"", "no caller of its inbounds has a \"key\"");
    check("by = \"subject\"\nconcurrent = 1", "\"subject\"", "this limit can never hold");
    check("by = \"all\"\nconcurrent = 1\nonly_named = true", "true", "no inbound of it takes API keys");
    check("by = \"all\"\nrequests = \"1/1s\"\nshared = true", "true", "there is no store");
    check("by = \"all\"\nconcurrent = 1\nshared = true", "1\nshared", "counted by each agent alone");
    let twice = "by = \"all\"\nconcurrent = 1\n[[limit]]\nname = \"y\"\nby = \"all\"\nconcurrent = 1";
    assert!(
        checked(&RIGHT.replacen("[[outbound]]", &format!("[[limit]]\nname = \"x\"\n{twice}\n[[outbound]]"), 1)).is_ok()
    );
    check(&twice.replace("\"y\"", "\"x\" # again"), "\"x\" # again", "two limits are called");
}

#[test]
fn a_store_is_somewhere_safe_and_its_password_is_nowhere_shown() {
    let check = |store: &str, marked: &str, expected: &str| {
        refused("[[outbound]]", &format!("[store]\n{store}\n[[outbound]]"), marked, expected);
    };
    let right = |store: &str| {
        checked(&RIGHT.replacen("[[outbound]]", &format!("[store]\n{store}\n[[outbound]]"), 1)).unwrap().store.unwrap()
    };
    for url in ["redis://127.0.0.1:6379", "redis://[::1]:6379", "redis://localhost:6379", "unix:/run/valkey.sock"] {
        assert_eq!(right(&format!("url = {url:?}")).timeout.as_millis(), 50);
    }
    right("url = \"redis://store.example:6379\"\nunsafe_clear_text_beyond_loopback = true");
    check("url = \"redis://store.example:6379\"", "\"redis://", "in clear text");
    for url in ["redis://127.0.0.1", "http://127.0.0.1:1", "unix:run/a", "redis://127.0.0.1:6379/1"] {
        check(&format!("url = {url:?}"), &format!("{url:?}"), "this is no address of a store");
    }
    let secret = "redis://user:s3cret@127.0.0.1:6379";
    let text = RIGHT.replacen("[[outbound]]", &format!("[store]\nurl = {secret:?}\n[[outbound]]"), 1);
    let error = checked(&text).unwrap_err();
    assert!(!error.contains("s3cret") && error.contains("may hold a secret"), "{error}");
    check("url = \"redis://127.0.0.1:1\"\nbundle = \"/a\"", "\"/a\"", "with rediss:// only");
    check("url = \"unix:/a\"\nuser = \"u\"", "\"u\"", "a user without a password");
    check("url = \"unix:/a\"\ntimeout = \"6s\"", "\"6s\"", "1ms to 5s");
    check("url = \"unix:/a\"\nwhen_away = \"local\"", "\"local\"", "how large one agent's part is");
    check("url = \"unix:/a\"\nshare = 2", "2\n[[outbound]]", "of use with when_away = \"local\" only");
    check("url = \"unix:/a\"\nwhen_away = \"allow\"", "\"allow\"", "it is refuse or local");
    check("url = \"unix:/a\"\nwhen_away = \"local\"\nshare = 0", "0\n[[outbound]]", "it is 1 to 10000");
}

#[test]
fn commands_are_whole_paths_with_a_bound_on_everything() {
    let check = |command: &str, value: &str, expected: Option<&str>| {
        let text = format!("[[secret_command]]\n{command}\n{RIGHT}");
        let inject = format!("[[inbound.inject]]\nheader = \"a\"\nvalue = \"{value}\"\n[[outbound]]");
        let found = checked(&text.replace("[[outbound]]", &inject)).map(drop);
        match expected {
            None => assert_eq!(found, Ok(()), "{command}"),
            Some(expected) => {
                assert!(found.as_ref().is_err_and(|error| error.contains(expected)), "{command}: {found:?}");
            }
        }
    };
    let named = "Bearer ${command:vault}";
    let command = |keys: &str| format!("name = \"vault\"\n{keys}");
    let right = command("command = [\"/usr/bin/vault\", \"kv\"]");
    check(&right, named, None);
    check(&format!("{right}\nrefresh = \"1s\"\nenvironment = [\"COUNTERSIGN_SURELY_UNSET\"]"), named, None);
    check(&right, "${command:valt}", Some("hint: did you mean \"vault\"?"));
    check(&format!("{right}\nrefresh = \"999ms\""), named, Some("once a second at most"));
    check(&format!("{right}\nenvironment = [\"A=B\"]"), named, Some("a list of names"));
    check(&format!("{right}\nenvironment = [{}]", "\"A\",".repeat(65)), named, Some("64 at most"));
    check(&format!("{right}\n[[secret_command]]\n{right}"), named, Some("two commands are called"));
    check(&format!("{right}\n{}", other_commands(32)), named, Some("the limit is 32"));
    check(&command("command = [\"vault\"]"), named, Some("not named by its whole path"));
    check(&command("command = []"), named, Some("not named by its whole path"));
    check(&command("command = \"/usr/bin/vault kv\""), named, Some("invalid type"));
    check(&command(&format!("command = [\"/a\"{}]", ", \"a\"".repeat(64))), named, Some("64 words at most"));
    check(&command(&format!("command = [\"/a\", \"{}\"]", "a".repeat(4097))), named, Some("4096 bytes"));
}

fn other_commands(count: usize) -> String {
    (0..count).map(|number| format!("[[secret_command]]\nname = \"c{number}\"\ncommand = [\"/a\"]\n")).collect()
}

#[test]
fn a_command_is_run_only_if_nobody_else_can_change_it() {
    let text = format!("[[secret_command]]\nname = \"vault\"\ncommand = [\"/surely/absent\"]\n{RIGHT}");
    let found = parse("agent.toml", &text, None, Secrets::Read).map_err(|error| error.to_string());
    assert!(found.is_err_and(|error| error.contains("/surely/absent: looking at failed")));
}

#[test]
fn a_token_comes_from_one_endpoint_to_which_the_agent_proves_itself_in_one_way() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("roots.pem");
    let roots = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    countersign_certs::store::write(&bundle, roots).unwrap();
    let check = |keys: &str, expected: Option<&str>| {
        let table = format!("[inbound.token]\nbundle = {bundle:?}\n{keys}\n[[outbound]]");
        let found = checked(&RIGHT.replace("[[outbound]]", &table)).map(drop);
        match expected {
            None => assert_eq!(found, Ok(()), "{keys}"),
            Some(expected) => assert!(found.as_ref().is_err_and(|error| error.contains(expected)), "{keys}: {found:?}"),
        }
    };
    let right = "grant = \"client_credentials\"\nendpoint = \"https://idp.example/token\"\nclient_id = \"a\"\nidentity = \"spiffe://prod.example/llm\"";
    let with = |from: &str, to: &str| {
        assert!(right.contains(from), "{from}");
        right.replacen(from, to, 1)
    };
    check(right, None);
    check(
        &format!("{right}\nscope = \"a b\"\naudience = \"c\"\nresource = [\"d\", \"e\"]\nheader = \"x-token\""),
        None,
    );
    check(&with("identity = \"spiffe://prod.example/llm\"", "client_secret = \"x\""), None);
    check(&with("endpoint = \"https://idp.example/token\"", "issuer = \"https://idp.example\""), None);
    check(&format!("{right}\nissuer = \"https://idp.example\""), Some("either endpoint or issuer"));
    check(&with("endpoint = \"https://idp.example/token\"", ""), Some("nothing says where the token is given out"));
    check(&with("https://idp", "http://idp"), Some("in clear text"));
    check(&format!("{right}\nclient_secret = \"x\""), Some("by client_secret or by identity"));
    check(&with("identity = \"spiffe://prod.example/llm\"", ""), Some("nothing proves who the client is"));
    check(&with("prod.example/llm", "prod.example/other"), Some("nothing gives this agent the identity"));
    check(&with("identity = \"spiffe://prod.example/llm\"", "client_secret = \"${command:x}\""), Some("there is not"));
    check(&with("client_credentials", "implicit"), Some("unknown grant"));
    check(&with("client_credentials", "token_exchange"), Some("nothing to exchange"));
    check(&with("client_id = \"a\"", "client_id = \"\""), Some("client_id is 1 to 2048"));
    check(&format!("{right}\naudience = [{}]", "\"a\",".repeat(17)), Some("the most is 16"));
    check(&format!("{right}\nheader = \"host\""), Some("the agent itself sets host"));
    check(&format!("{right}\n[[inbound.inject]]\nheader = \"authorization\"\nvalue = \"x\""), Some("injected already"));
}

const LOCAL_ROLES: &str = "[[role]]\nname = \"web\"\nmembers = [\"spiffe://prod.example/web\"]\n[[role]]\nname = \"loopback\"\nmembers = [\"local:loopback\"]\n[[role]]\nname = \"user\"\nmembers = [\"local:uid=1000\"]\n[[outbound]]";

/// The right config with these lines after its outbound.
fn with_local_rules(listen: &str, rules: &str) -> Result<checked::Agent, String> {
    let text = RIGHT.replace("[[outbound]]", LOCAL_ROLES).replace("127.0.0.1:11435", listen);
    checked(&(text + rules))
}

#[test]
fn rules_of_an_outbound_that_no_program_could_meet_are_refused() {
    let allow = |rest: &str| format!("[[outbound.allow]]\nroles = {rest}\n");
    for (listen, role) in [("127.0.0.1:11435", "loopback"), ("unix:/run/a.sock", "user"), ("systemd:a", "user")] {
        let config = with_local_rules(listen, &allow(&format!("[{role:?}]"))).unwrap();
        assert!(config.outbounds.first().unwrap().policy.is_some(), "{listen}");
    }
    assert!(with_local_rules("127.0.0.1:11435", "").unwrap().outbounds.first().unwrap().policy.is_none());
    for (listen, rules, expected) in [
        ("127.0.0.1:11435", allow("[\"user\"]"), "no program on this socket could hold its role"),
        ("unix:/run/a.sock", allow("[\"loopback\"]"), "no program on this socket could hold its role"),
        ("unix:/run/a.sock", allow("[\"web\"]"), "no program on this socket could hold its role"),
        ("127.0.0.1:11435", allow("[\"loopback\"]\nnetworks = [\"10.0.0.0/8\"]"), "come from no network"),
        ("127.0.0.1:11435", allow("[\"loopback\"]\nvia = [\"web\"]"), "for nobody else"),
        (
            "127.0.0.1:11435",
            allow("[\"loopback\"]\nwhen = 'principal is Workload'"),
            if cfg!(feature = "conditions") { "here there are" } else { "knows no conditions" },
        ),
        ("127.0.0.1:11435", "[[outbound.deny]]\nmethods = [\"GET\"]\n".to_owned(), "none that allows"),
        ("127.0.0.1:11435", "[[outbound.allow]]\nmethods = [\"GET\"]\n".to_owned(), "names no role"),
    ] {
        let error = with_local_rules(listen, &rules).unwrap_err();
        assert!(error.contains(expected), "expected {expected:?} in {error}");
    }
}

#[test]
fn bounds_of_tokens_and_times_arrive_where_they_are_looked_at() {
    let issuer = "[limits]\nconnect_timeout = \"3s\"\n[[issuer]]\nname = \"company\"\nissuer = \"https://login.example\"\n\
        audiences = [\"llm\"]\nleeway = \"7s\"\nage_max = \"10m\"\nlifetime_max = \"1h\"\n\
        [issuer.introspection]\nclient_id = \"agent\"\nclient_secret = \"literal\"\nlifetime_unnamed = \"2m\"\n[[certificate]]";
    let config = checked(&RIGHT.replacen("[[certificate]]", issuer, 1)).unwrap();
    let [company] = &config.accepted.issuers[..] else { panic!("{:?}", config.accepted.issuers) };
    let seconds = std::time::Duration::from_secs;
    let settings = company.tokens.settings();
    assert_eq!(
        (settings.leeway, settings.age_max, settings.lifetime_max),
        (seconds(7), Some(seconds(600)), Some(seconds(3600)))
    );
    let expected = &company.introspection.as_ref().unwrap().expected;
    assert_eq!((expected.leeway, expected.lifetime_unnamed), (seconds(7), Some(seconds(120))));
    assert_eq!((expected.age_max, expected.lifetime_max), (Some(seconds(600)), Some(seconds(3600))));
    assert_eq!(config.limits.connect_timeout, seconds(3));
}
