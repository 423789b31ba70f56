//! Issuers of tokens: a real OpenID provider, and one of ours whose tokens are forged, foreign or spoilt.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::SanType;
use serde_json::Value;

use crate::http;
use crate::part::{self, Part};
use crate::pki::{Leaf, TestPki};
use crate::process::run;

/// The name under which the service is known to issuers.
pub const AUDIENCE: &str = "https://llm.mesh.test";

/// The provider's client that gets signed tokens for itself.
pub const SERVICE_CLIENT: &str = "reader-service";

/// A real OpenID provider (`tests/parts/oidc/provider.mjs`), called `corp` in configs.
pub struct Provider {
    part: Part,
    control: SocketAddr,
    issuer: String,
    bundle: Option<PathBuf>,
}

impl Provider {
    /// Over TLS, with a certificate of this PKI. Its clients' certificates are of the same.
    pub fn start(pki: &TestPki, folder: &Path) -> Self {
        Self::start_with(pki, folder, &[])
    }

    /// The same with more arguments.
    pub fn start_with(pki: &TestPki, folder: &Path, arguments: &[&str]) -> Self {
        let leaf = Leaf::of_dns("localhost")
            .and(SanType::IpAddress([127, 0, 0, 1].into()))
            .and(SanType::IpAddress(std::net::Ipv6Addr::LOCALHOST.into()));
        let files = pki.issue_files(folder, "provider", &leaf);
        let bundle = folder.join("provider-roots.pem");
        pki.write_bundle(&bundle);
        let [chain, key, roots] = [&files.chain, &files.key, &bundle].map(|path| path.to_str().unwrap());
        let mut all = vec!["--certificate", chain, "--key", key, "--client-authorities", roots];
        all.extend(arguments);
        let part = Part::serve("oidc/provider.mjs", &all);
        Self::of(part, Some(bundle))
    }

    /// Without TLS.
    pub fn start_plain() -> Self {
        Self::of(Part::serve("oidc/provider.mjs", &["--plain"]), None)
    }

    fn of(part: Part, bundle: Option<PathBuf>) -> Self {
        let said = part.said().remove(0);
        let control = said["address"].as_str().unwrap().parse().unwrap();
        Self { part, control, issuer: said["issuer"].as_str().unwrap().to_owned(), bundle }
    }

    /// Its name in tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its `[[issuer]]` with more keys. The last ones may open a table of their own.
    pub fn table(&self, keys: &str) -> String {
        let reach = match &self.bundle {
            Some(bundle) => format!("bundle = {bundle:?}\nprivate_addresses = [\"127.0.0.1\"]\n"),
            None => "private_addresses = [\"127.0.0.1\"]\nunsafe_http_on_loopback = true\n".to_owned(),
        };
        let Self { issuer, .. } = self;
        format!(
            "[[issuer]]\nname = \"corp\"\nissuer = \"{issuer}\"\naudiences = [\"{AUDIENCE}\"]\nclaims = {{ tenant = \"text\" }}\n{reach}{keys}\n"
        )
    }

    /// A token for a client, which proves itself by its secret.
    #[track_caller]
    pub fn token(&self, client: &str) -> String {
        self.granted(&["--user", &format!("{client}:{CLIENT_SECRET}")])
    }

    /// A token for a client that proves itself by the certificate of these arguments of curl.
    #[track_caller]
    pub fn bound_token(&self, client: &str, certificate: &[&str]) -> String {
        self.granted(&[certificate, &["--data", &format!("client_id={client}")]].concat())
    }

    #[track_caller]
    fn granted(&self, arguments: &[&str]) -> String {
        let answer = self.post("/token", arguments);
        answer["access_token"].as_str().unwrap_or_else(|| panic!("no token: {answer}")).to_owned()
    }

    /// Revokes a token (RFC 7009).
    #[track_caller]
    pub fn revoke(&self, client: &str, token: &str) {
        let user = format!("{client}:{CLIENT_SECRET}");
        self.post("/token/revocation", &["--user", &user, "--data-urlencode", &format!("token={token}")]);
    }

    fn post(&self, path: &str, arguments: &[&str]) -> Value {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30"]).args(arguments);
        if let Some(bundle) = &self.bundle {
            command.arg("--cacert").arg(bundle);
        }
        if path == "/token" {
            command.args(["--data", "grant_type=client_credentials", "--data", "scope=llm:read"]);
            command.args(["--data-urlencode", &format!("resource={AUDIENCE}")]);
        }
        let said = run(command.arg(format!("{}{path}", self.issuer))).success();
        if said.is_empty() { Value::Null } else { serde_json::from_str(&said).unwrap() }
    }

    /// Has a real client call it: to log a user in (`code`), or to call with a token bound to a key (`dpop`). Returns what it printed.
    #[track_caller]
    pub fn client(&self, arguments: &[&str]) -> Vec<Value> {
        let bundle = self.bundle.as_ref().unwrap().to_str().unwrap();
        let finished =
            part::call("oidc/caller.mjs", &[&["--issuer", &self.issuer, "--authorities", bundle], arguments].concat());
        assert_eq!(finished.code, Some(0), "{finished:?}");
        finished.json()
    }

    /// Answers everything so from now on: `serve`, `slow`, `hang`, `hold`, `refuse`, `fail`, `redirect`, `redirect-all` or `foreign`.
    /// What is held is answered when the mode changes.
    pub fn mode(&self, to: &str) {
        self.steer(&format!("/mode?to={to}"));
    }

    /// Signs with new keys from now on, and does not publish the old ones any more.
    pub fn rotate(&self) {
        self.steer("/rotate?keep=0");
    }

    /// Signs with new keys from now on, and still publishes the ones before.
    pub fn rotate_with_overlap(&self) {
        self.steer("/rotate?keep=1");
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> u64 {
        self.steer("/counts")[path].as_u64().unwrap_or(0)
    }

    fn steer(&self, path: &str) -> Value {
        http::get(self.control, path).unwrap().json()
    }

    /// Where it listens.
    pub fn tcp(&self) -> SocketAddr {
        self.part.tcp()
    }
}

/// What the provider's clients prove themselves by: a blank, a sign of its own in forms, and the one for which both are written.
/// OAuth has them encoded before Base64 (RFC 6749 §2.3.1).
const CLIENT_SECRET: &str = "a+secret+of+tests+%26+more";

/// The same secret as it stands in a config.
pub const CONFIG_SECRET: &str = "a secret of tests & more";

/// An issuer of ours, whose keys lie in a file. It is called `own` in configs.
pub struct Forger {
    folder: PathBuf,
    certificate: Option<PathBuf>,
}

impl Forger {
    /// Its name in tokens.
    pub const ISSUER: &str = "https://tokens.mesh.test";

    /// Makes its keys in this folder.
    pub fn new(folder: &Path) -> Self {
        let forger = Self { folder: folder.to_owned(), certificate: None };
        forger.tokens(1);
        forger
    }

    /// Binds the tokens that are called so to this certificate.
    #[must_use]
    pub fn bound_to(mut self, certificate: &Path) -> Self {
        self.certificate = Some(certificate.to_owned());
        self
    }

    /// The file with its keys.
    pub fn keys(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// Its `[[issuer]]` with more keys.
    pub fn table(&self, keys: &str) -> String {
        format!(
            "[[issuer]]\nname = \"own\"\nissuer = \"{}\"\naudiences = [\"{AUDIENCE}\"]\nclaims = {{ tenant = \"text\" }}\njwks_file = {:?}\n{keys}\n",
            Self::ISSUER,
            self.keys()
        )
    }

    /// Tokens of every kind, by name. Good ones live for so many seconds.
    #[track_caller]
    pub fn tokens(&self, seconds: u32) -> HashMap<String, String> {
        let seconds = seconds.to_string();
        let mut arguments = vec!["tokens", "--issuer", Self::ISSUER, "--audience", AUDIENCE, "--seconds", &seconds];
        if let Some(certificate) = &self.certificate {
            arguments.extend(["--certificate", certificate.to_str().unwrap()]);
        }
        self.make(&arguments)
    }

    /// Proofs of the key that `bound to a key` is bound to, for a GET of this URL.
    #[track_caller]
    pub fn proofs(&self, url: &str, token: &str, count: u32) -> HashMap<String, String> {
        self.make(&["proofs", "--url", url, "--token", token, "--count", &count.to_string()])
    }

    #[track_caller]
    fn make(&self, arguments: &[&str]) -> HashMap<String, String> {
        let made = part::call("token_maker", &[&["--folder", self.folder.to_str().unwrap()], arguments].concat());
        assert_eq!(made.code, Some(0), "{made:?}");
        let Value::Object(made) = made.result() else { panic!("{made:?}") };
        made.into_iter().map(|(name, text)| (name, text.as_str().unwrap().to_owned())).collect()
    }
}
