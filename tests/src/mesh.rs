//! Two agents and what is between them: `host_a` calls for two local programs, `host_b` guards a service.
//!
//! The program behind [`Mesh::frontend`] has the identity `web/frontend`, which holds the role `inference_client`; the one
//! behind [`Mesh::other`] has the identity `other`, which holds no role.

use std::net::SocketAddr;
use std::path::Path;

use crate::agent::TestAgent;
use crate::ca::TestCa;
use crate::http::Address;
use crate::pki::{CertificateFiles, HOUR, Leaf, TestPki};
use crate::tools;

/// The trust domain of every mesh.
pub const DOMAIN: &str = "mesh.test";

/// The identity of the service.
pub const SERVICE: &str = "spiffe://mesh.test/llm";

/// The identity that is let in.
pub const FRONTEND: &str = "spiffe://mesh.test/web/frontend";

/// The identity that is refused.
pub const OTHER: &str = "spiffe://mesh.test/other";

/// What differs from test to test.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The backend of the inbound.
    pub backend: String,
    /// Keys of the allow rule, beside its role.
    pub rule: String,
    /// Lines that follow the inbound, its `[inbound.inject]` first.
    pub host_b: String,
    /// More keys of both outbounds.
    pub outbound: String,
    /// Lines that follow the outbounds.
    pub host_a: String,
    /// Seconds until the frontend's certificate ends; only for certificates in files.
    pub frontend_lives: i64,
}

/// Two agents that run.
pub struct Mesh {
    /// Calls.
    pub host_a: TestAgent,
    /// Serves.
    pub host_b: TestAgent,
    /// Where a local program calls as `web/frontend`.
    pub frontend: SocketAddr,
    /// Where a local program calls as `other`.
    pub other: SocketAddr,
    /// Where other hosts call.
    pub inbound: SocketAddr,
    /// Who signed, if certificates are in files.
    pub pki: Option<TestPki>,
    /// Who signed, if both agents are enrolled.
    pub ca: Option<TestCa>,
}

/// Addresses of a mesh.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// See [`Mesh::frontend`].
    pub frontend: SocketAddr,
    /// See [`Mesh::other`].
    pub other: SocketAddr,
    /// See [`Mesh::inbound`].
    pub inbound: SocketAddr,
}

impl Plan {
    /// The role may do everything with this backend.
    pub fn to(backend: impl Into<String>) -> Self {
        Self {
            backend: backend.into(),
            rule: String::new(),
            host_b: String::new(),
            outbound: String::new(),
            host_a: String::new(),
            frontend_lives: HOUR,
        }
    }

    /// The tables of `host_b`.
    pub fn tables_of_b(&self, places: &Places) -> String {
        let Self { backend, rule, host_b, .. } = self;
        let inbound = places.inbound;
        format!(
            r#"[[role]]
name    = "inference_client"
members = ["spiffe://mesh.test/web/*"]

[[inbound]]
name     = "llm"
identity = "{SERVICE}"
listen   = "{inbound}"
backend  = "{backend}"

[[inbound.allow]]
roles   = ["inference_client"]
{rule}

{host_b}
"#
        )
    }

    /// The tables of `host_a`.
    pub fn tables_of_a(&self, places: &Places) -> String {
        let Self { outbound, host_a, .. } = self;
        let Places { frontend, other, inbound } = places;
        format!(
            r#"[[outbound]]
name      = "llm"
identity  = "{FRONTEND}"
listen    = "{frontend}"
service   = "{SERVICE}"
endpoints = ["{inbound}"]
{outbound}

[[outbound]]
name      = "llm-as-other"
identity  = "{OTHER}"
listen    = "{other}"
service   = "{SERVICE}"
endpoints = ["{inbound}"]
{outbound}

{host_a}
"#
        )
    }
}

impl Places {
    /// Free ports of this machine.
    pub fn choose() -> Self {
        Self { frontend: tools::free_address(), other: tools::free_address(), inbound: tools::free_address() }
    }
}

impl Mesh {
    /// Identities in PEM files: no CA.
    pub fn of_files(plan: &Plan) -> Self {
        Self::of_files_as(plan, TestAgent::new("host-a"), TestAgent::new("host-b"))
    }

    /// The same with agents of the test's choice.
    pub fn of_files_as(plan: &Plan, host_a: TestAgent, host_b: TestAgent) -> Self {
        let pki = TestPki::new("mesh");
        let places = Places::choose();
        let frontend = Leaf::of(FRONTEND).valid(-HOUR, plan.frontend_lives);
        let a = certificate(&pki, host_a.folder(), FRONTEND, &frontend)
            + &certificate(&pki, host_a.folder(), OTHER, &Leaf::of(OTHER));
        let b = certificate(&pki, host_b.folder(), SERVICE, &Leaf::of(SERVICE));
        host_a.configure(&(a + &plan.tables_of_a(&places)));
        host_b.configure(&(b + &plan.tables_of_b(&places)));
        Self::started(host_a, host_b, places, Some(pki), None)
    }

    /// A CA that runs, and two agents that have joined it.
    pub fn enrolled(plan: &Plan) -> Self {
        let mut ca = TestCa::init(DOMAIN);
        ca.start();
        Self::enrolled_at(ca, plan)
    }

    /// Two agents that join this CA, which runs.
    pub fn enrolled_at(ca: TestCa, plan: &Plan) -> Self {
        Self::enrolled_as(ca, plan, TestAgent::new("host-a"), TestAgent::new("host-b"), &[])
    }

    /// The same with agents of the test's choice, and with more in each registration entry.
    pub fn enrolled_as(
        ca: TestCa,
        plan: &Plan,
        mut host_a: TestAgent,
        mut host_b: TestAgent,
        entries: &[&str],
    ) -> Self {
        let places = Places::choose();
        ca.grant("host-b", SERVICE, entries);
        ca.grant("host-a", FRONTEND, entries);
        ca.grant("host-a", OTHER, entries);
        host_a.enroll(&ca.token("host-a")).success();
        host_b.enroll(&ca.token("host-b")).success();
        host_a.configure(&plan.tables_of_a(&places));
        host_b.configure(&plan.tables_of_b(&places));
        Self::started(host_a, host_b, places, None, Some(ca))
    }

    fn started(
        mut host_a: TestAgent,
        mut host_b: TestAgent,
        places: Places,
        pki: Option<TestPki>,
        ca: Option<TestCa>,
    ) -> Self {
        host_b.launch();
        host_a.launch();
        host_b.wait_until_ready();
        host_a.wait_until_ready();
        let Places { frontend, other, inbound } = places;
        Self { host_a, host_b, frontend, other, inbound, pki, ca }
    }

    /// Who signed.
    ///
    /// # Panics
    /// The agents are enrolled.
    pub fn pki(&self) -> &TestPki {
        self.pki.as_ref().unwrap()
    }

    /// Who signed.
    ///
    /// # Panics
    /// Identities are in files.
    pub fn ca(&mut self) -> &mut TestCa {
        self.ca.as_mut().unwrap()
    }

    /// Where a local program calls as `web/frontend`.
    pub fn frontend(&self) -> Address {
        self.frontend.into()
    }
}

/// Issues a certificate into the folder, and returns the `[[certificate]]` that names its files.
pub fn certificate(pki: &TestPki, folder: &Path, id: &str, leaf: &Leaf) -> String {
    let files = pki.issue_files(folder, last_segment(id), leaf);
    let bundle = folder.join("bundle.pem");
    pki.write_bundle(&bundle);
    certificate_table(id, &files, &bundle)
}

/// The files of an identity that [`certificate`] has issued.
pub fn files_of(agent: &TestAgent, id: &str) -> CertificateFiles {
    CertificateFiles::named(agent.folder(), last_segment(id))
}

/// A `[[certificate]]`.
pub fn certificate_table(id: &str, files: &CertificateFiles, bundle: &Path) -> String {
    let CertificateFiles { chain, key } = files;
    format!("[[certificate]]\nidentity = {id:?}\nchain = {chain:?}\nkey = {key:?}\nbundle = {bundle:?}\n\n")
}

fn last_segment(id: &str) -> &str {
    id.rsplit(['/', ':', '@']).next().unwrap()
}
