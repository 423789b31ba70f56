//! What happens while a caller is being authenticated: a config that changes meanwhile decides, and whoever asks much from one address
//! takes nobody else's turn.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use countersign_tests::agent::TestAgent;
use countersign_tests::gateway::Gateway;
use countersign_tests::hostile::HostilePeer;
use countersign_tests::http::Client;
use countersign_tests::issuer::{CONFIG_SECRET, Provider};
use countersign_tests::pki::TestPki;
use countersign_tests::process::Process;
use countersign_tests::raw_http2::{End, RawHttp2};
use countersign_tests::wait;
use serde_json::Value;

const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

const READERS: &str = "members = [\"scope:corp/llm:read\", \"spiffe://mesh.test/web/*\"]";

const RULES: &str = "[[inbound.allow]]\nroles = [\"reader\"]\n";

const ANY_OF: &str = "any_of = [\"mtls\", \"opaque_token\"]\n";

const QUESTIONS: &str = "/token/introspection";

/// A provider that is asked about each token, and a gateway that asks it.
struct Site {
    provider: Provider,
    gateway: Gateway,
    /// A good token, as curl shows it.
    header: String,
    members: &'static str,
}

fn site(members: &'static str) -> Site {
    let (agent, pki) = (TestAgent::new("gateway"), TestPki::new("corp"));
    let provider = Provider::start(&pki, agent.folder());
    let introspection =
        format!("[issuer.introspection]\nclient_id = \"gateway\"\nclient_secret = \"{CONFIG_SECRET}\"\n");
    let before = provider.table(&introspection) + &format!("[[role]]\nname = \"reader\"\n{members}\n");
    let header = format!("Authorization: Bearer {}", provider.token("opaque-service"));
    let gateway = Gateway::start_of(pki, agent, &before, &format!("{ANY_OF}{RULES}"));
    // Where to ask about tokens is known to whoever has asked once.
    gateway.refused("/", &["-H", "Authorization: Bearer nobody-made-this"], 401, "token_inactive");
    Site { provider, gateway, header, members }
}

impl Site {
    /// The tables with other members of the role, and other rules.
    fn tables(&self, members: &str, keys: &str) -> String {
        self.gateway.tables_before(self.members, members, keys)
    }

    /// Begins a request whose token is asked about, takes up these tables, by which the workload is answered so, and has the provider
    /// answer after that.
    fn meanwhile(&mut self, tables: &str, workload: u16) -> Answered {
        let Self { provider, gateway, header, .. } = self;
        provider.mode("hold");
        let asked = provider.asked(QUESTIONS);
        let mut call = gateway.start_call("/slow", &["-H", header]);
        wait::until_so("the provider is asked", || provider.asked(QUESTIONS) > asked);
        gateway.agent.reload(tables);
        let frontend = gateway.workload(FRONTEND);
        let frontend: Vec<&str> = frontend.iter().map(String::as_str).collect();
        let mut in_a_row = 0;
        wait::until_so("both workers have taken it up", || {
            in_a_row = if gateway.call("/", &frontend).status == workload { in_a_row + 1 } else { 0 };
            in_a_row == 6
        });
        assert_eq!(call.poll_end(), None, "it was answered before the provider had answered: {:?}", call.stdout());
        provider.mode("serve");
        call.wait_for_end(wait::SOON);
        let line = gateway.agent.wait_for_audit("its line", |line| line["path"] == "/slow");
        let forwarded = gateway.backend.seen().iter().any(|seen| seen.line().contains("/slow"));
        Answered { status: status_of(&call), line, forwarded }
    }
}

/// How a request was answered.
struct Answered {
    status: u16,
    line: Value,
    forwarded: bool,
}

fn status_of(call: &Process) -> u16 {
    let head = call.stdout().first().cloned().unwrap_or_default();
    head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[test]
fn a_role_that_is_taken_back_while_its_holder_is_authenticated_is_not_held() {
    let mut site = site(READERS);
    let tables = site.tables("members = [\"scope:corp/llm:write\"]", &format!("{ANY_OF}{RULES}"));
    let Answered { status, line, forwarded } = site.meanwhile(&tables, 403);
    assert_eq!((status, line["reason"].as_str()), (403, Some("no_role")), "{line}");
    assert_eq!(line["subject_roles"], Value::Array(Vec::new()), "{line}");
    assert!(!forwarded, "what was refused reached the service");
}

#[test]
fn a_role_that_is_given_while_its_holder_is_authenticated_is_held() {
    let mut site = site("members = [\"scope:corp/llm:write\"]");
    let tables = site.tables(READERS, &format!("{ANY_OF}{RULES}"));
    let Answered { status, line, forwarded } = site.meanwhile(&tables, 200);
    assert!(status == 200 && forwarded, "{line}");
    assert_eq!(line["subject_roles"], Value::from(vec!["reader"]), "{line}");
}

#[test]
fn a_credential_that_is_no_longer_taken_when_it_is_found_good_is_refused() {
    let mut site = site(READERS);
    let tables = site.tables("members = [\"scope:corp/llm:read\"]", &format!("any_of = [\"mtls\", \"jwt\"]\n{RULES}"));
    let Answered { status, line, forwarded } = site.meanwhile(&tables, 403);
    assert_eq!((status, line["reason"].as_str()), (403, Some("withdrawn_credential")), "{line}");
    assert!(!forwarded, "what was refused reached the service");
}

#[test]
fn a_token_that_must_be_bound_when_it_is_found_good_is_refused() {
    let mut site = site(READERS);
    let tables = site.tables(READERS, &format!("{ANY_OF}bound_tokens_only = true\n{RULES}"));
    let Answered { status, line, forwarded } = site.meanwhile(&tables, 200);
    assert_eq!((status, line["reason"].as_str()), (403, Some("withdrawn_credential")), "{line}");
    assert!(!forwarded, "what was refused reached the service");
}

#[test]
fn questions_about_tokens_of_one_address_take_no_turn_of_another() {
    let Site { provider, gateway, header, .. } = site(READERS);
    provider.mode("hold");
    let asked = provider.asked(QUESTIONS);
    // More on each worker than it asks at once, however its kernel hands out connections.
    let peer = HostilePeer::showing(None).speaking(&[b"h2"]);
    let flood: Vec<RawHttp2> = (0..10)
        .map(|connection| {
            let mut stream = RawHttp2::open(peer.connect(gateway.address()).unwrap()).unwrap();
            for request in 0..20 {
                let token = format!("Bearer nobody-made-this-{connection}-{request}");
                stream.get(2 * request + 1, "/flood", &[("authorization", &token)]).unwrap();
            }
            stream
        })
        .collect();
    gateway.agent.wait_for_audit("one address has all its turns", |line| line["reason"] == "issuer_busy");
    let of_flood = provider.asked(QUESTIONS) - asked;
    assert!((8..=16).contains(&of_flood), "{of_flood} questions for one address");
    let mut call = gateway.start_call("/slow", &["--interface", "127.0.0.9", "-H", &header]);
    wait::until_so("the provider is asked for the other address too", || {
        assert_eq!(call.poll_end(), None, "{:?}", call.stdout());
        provider.asked(QUESTIONS) > asked + of_flood
    });
    provider.mode("serve");
    call.wait_for_end(wait::SOON);
    assert_eq!(status_of(&call), 200, "{:?}", call.stdout());
    assert_eq!(gateway.backend.seen().len(), 1, "nothing of the flood reached the service");
    drop(flood);
}

/// A connection of a stranger, and the number of its next request.
struct Stranger {
    stream: RawHttp2,
    next: u32,
}

impl Stranger {
    /// Makes requests with this token, and takes each back that is not answered when all are under way.
    fn ask_and_take_back(&mut self, token: &str, requests: u32) {
        let Self { stream, next } = self;
        let ids = || (*next..).step_by(2);
        let (asked, last) = (usize::try_from(requests).unwrap(), *next + 2 * requests);
        let token = format!("Bearer {token}");
        ids().take(asked).for_each(|id| stream.get(id, "/taken-back", &[("authorization", &token)]).unwrap());
        // Requests of one connection begin in their order: when this one is answered, the others are under way.
        stream.get(last, "/no-token", &[]).unwrap();
        assert!(matches!(stream.end_of(last), End::Answered(_)), "the connection ended");
        ids().take(asked).for_each(|id| stream.reset(id).unwrap());
        *next = last + 2;
    }
}

#[test]
fn requests_that_a_stranger_takes_back_fill_no_disk_and_have_the_issuer_work_on_no_more() {
    let Site { provider, gateway, .. } = site(READERS);
    provider.mode("hold");
    let (asked, peer) = (provider.asked(QUESTIONS), HostilePeer::showing(None).speaking(&[b"h2"]));
    let stranger = || Stranger { stream: RawHttp2::open(peer.connect(gateway.address()).unwrap()).unwrap(), next: 1 };
    // One request asks the issuer, the others wait for what it says.
    (0..4).for_each(|number| stranger().ask_and_take_back(&format!("nobody-made-this-{number}"), 200));
    let told = || gateway.agent.told(|line| line["path"] == "/taken-back" || line["reason"] == "cancelled");
    wait::until_so("all are told of, in lines and in counts", || told() >= 800);
    let lines = gateway.agent.audit().into_iter().filter(|line| line["path"] == "/taken-back");
    let written = lines.inspect(|line| assert_eq!(line["outcome"], "cancelled", "{line}")).count();
    assert!((100..=250).contains(&written), "{written} lines about 800 requests, on two workers");
    let mut one = stranger();
    (4..60).for_each(|number| one.ask_and_take_back(&format!("nobody-made-this-{number}"), 1));
    let of_stranger = provider.asked(QUESTIONS) - asked;
    assert!((8..=16).contains(&of_stranger), "{of_stranger} questions under way for one address");
    provider.mode("serve");
}

#[test]
fn whoever_opens_many_connections_ends_their_own_and_not_those_of_another_address() {
    let mut site = site(READERS);
    let limited = site.tables(READERS, &format!("{ANY_OF}{RULES}")) + "\n[limits]\nhandshakes = 4\n";
    let Site { provider, gateway, header, .. } = &mut site;
    gateway.agent.reload(&limited);
    provider.mode("hold");
    let asked = provider.asked(QUESTIONS);
    let mut call = gateway.start_call("/slow", &["--interface", "127.0.0.9", "-H", header]);
    wait::until_so("the provider is asked", || provider.asked(QUESTIONS) > asked);
    let stranger = HostilePeer::showing(None);
    let silent: Vec<Client> = (0..24).map(|_| stranger.client(gateway.address()).unwrap()).collect();
    gateway.agent.wait_for_audit("a stranger that gives way", |line| line["reason"] == "gave_way");
    provider.mode("serve");
    call.wait_for_end(wait::SOON);
    assert_eq!(status_of(&call), 200, "{:?}", call.stdout());
    drop(silent);
}

#[test]
fn explain_believes_tokens_only_of_issuers_that_the_config_has() {
    let Site { gateway, .. } = site(READERS);
    let explain = |subject: &str| gateway.agent.ask("explain", &["--inbound", "llm", "--subject", subject]).success();
    let said = explain("user:nobody-s/alice");
    assert!(said.contains("decision: denied, no issuer of tokens that is known here"), "{said}");
    let said = explain("user:corp/alice");
    assert!(!said.contains("no issuer of tokens"), "{said}");
}
