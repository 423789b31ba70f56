//! From the config as written to the config as used. The first thing that is wrong ends it.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use countersign_certs::bundle::TrustBundle;
use countersign_certs::san::{San, SanError};
use countersign_certs::spiffe_id::TrustDomain;
use countersign_certs::store;
use countersign_certs::tls::KeyExchange;
use http::{HeaderName, HeaderValue, Method};
use toml::Spanned;

use super::address::{BackendAddress, BackendSocket, Endpoint, ListenAddress, Protocol};
use super::checked::{Agent, AuditOutput, CertificateFiles, Control, Inbound, Injection, Limits, LocalUsers, Outbound};
use super::diagnostic::{Finding, did_you_mean};
use super::{Secrets, duration, file, secret};
use crate::policy::path::PathPattern;
use crate::policy::role::{MemberPattern, RoleDefinition, Roles, RolesError};
use crate::policy::rule::{Policy, Rule};
use crate::refusal::in_one_line;
use crate::request::is_identity_header;

/// Most inbounds and outbounds together.
const ROUTES_MAX: usize = 1024;

/// Longest name of a route or role in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Checks a whole config.
pub(super) fn agent(file: file::Agent, enrolled: Option<&TrustDomain>, secrets: Secrets) -> Result<Agent, Finding> {
    let known = KnownDomains::of(&file, enrolled);
    let roles = Arc::new(roles(&file.role, &known)?);
    let mut files = Vec::new();
    let certificates = certificates(&file.certificate)?;
    let trust_domains = trust_domains(&file.trust_domain, &mut files)?;
    let identities = Identities { certificates: &certificates, enrolled, has_state: file.state_dir.is_some() };
    let mut inbounds = Vec::new();
    for inbound in file.inbound {
        inbounds.push(self::inbound(inbound, &roles, &identities, secrets, &mut files)?);
    }
    let mut outbounds = Vec::new();
    for outbound in file.outbound {
        outbounds.push(self::outbound(outbound, &identities, &known, &mut files)?);
    }
    check_routes(&inbounds, &outbounds)?;
    Ok(Agent {
        state_dir: file.state_dir,
        workers: workers(file.workers)?,
        key_exchange: match file.require_post_quantum {
            Some(true) => KeyExchange::PostQuantumRequired,
            Some(false) | None => KeyExchange::PostQuantumPreferred,
        },
        control: control(file.control)?,
        audit: audit(file.audit)?,
        log_level: log_level(file.log)?,
        limits: limits(file.limits)?,
        roles,
        trust_domains,
        certificates,
        inbounds: inbounds.into_iter().map(|(inbound, _)| inbound).collect(),
        outbounds: outbounds.into_iter().map(|(outbound, _)| outbound).collect(),
        files,
    })
}

/// The trust domains whose IDs can ever be verified here.
struct KnownDomains(Option<Vec<TrustDomain>>);

impl KnownDomains {
    /// With a state folder that holds no enrollment yet, nothing can be said.
    fn of(file: &file::Agent, enrolled: Option<&TrustDomain>) -> Self {
        if file.state_dir.is_some() && enrolled.is_none() {
            return Self(None);
        }
        let of_certificate = |certificate: &file::Certificate| match certificate.identity.get_ref().parse() {
            Ok(San::Spiffe(id)) => Some(id.trust_domain().clone()),
            Ok(San::Dns(_) | San::Email(_) | San::Ip(_)) | Err(_) => None,
        };
        let extra = file.trust_domain.iter().filter_map(|extra| extra.name.get_ref().parse().ok());
        let domains = file.certificate.iter().filter_map(of_certificate).chain(extra).chain(enrolled.cloned());
        Self(Some(domains.collect()))
    }

    fn check(&self, trust_domain: Option<&TrustDomain>, span: Range<usize>, what: &str) -> Result<(), Finding> {
        let (Some(known), Some(domain)) = (&self.0, trust_domain) else { return Ok(()) };
        if known.contains(domain) {
            return Ok(());
        }
        let known = known.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
        let message = format!("{what} can never match: trust domain {domain} is not trusted here, known are: {known}");
        Err(Finding::with_hint(span, message, "add a [[trust_domain]] with its name and bundle, or correct the name"))
    }
}

/// Where the identities of routes come from.
struct Identities<'config> {
    certificates: &'config [CertificateFiles],
    enrolled: Option<&'config TrustDomain>,
    has_state: bool,
}

impl Identities<'_> {
    fn check(&self, text: &Spanned<String>) -> Result<San, Finding> {
        let identity: San = parsed(text)?;
        if self.certificates.iter().any(|files| files.identity == identity) {
            return Ok(identity);
        }
        let San::Spiffe(id) = &identity else {
            let hint = "add a [[certificate]] with this identity";
            return Err(Finding::with_hint(text.span(), format!("only files can hold the identity {identity}"), hint));
        };
        if !self.has_state {
            let hint = "set state_dir and enroll this host, or add a [[certificate]] with this identity";
            return Err(Finding::with_hint(
                text.span(),
                format!("nothing gives this agent the identity {identity}"),
                hint,
            ));
        }
        match self.enrolled {
            Some(enrolled) if enrolled != id.trust_domain() => Err(Finding::new(
                text.span(),
                format!("{identity} is of trust domain {}, this host has joined {enrolled}", id.trust_domain()),
            )),
            Some(_) | None => Ok(identity),
        }
    }
}

fn roles(definitions: &[file::Role], known: &KnownDomains) -> Result<Roles, Finding> {
    let mut compiled = Vec::new();
    for definition in definitions {
        let mut members = Vec::new();
        for text in &definition.members {
            let member: MemberPattern = parsed(text)?;
            known.check(member.trust_domain(), text.span(), "this member")?;
            members.push(member);
        }
        let includes = definition.includes.iter().map(|include| include.get_ref().as_str().into()).collect();
        compiled.push(RoleDefinition { name: name(&definition.name)?, members, includes });
    }
    Roles::compile(&compiled).map_err(|error| roles_finding(&error, definitions))
}

fn roles_finding(error: &RolesError, definitions: &[file::Role]) -> Finding {
    let span_of = |index: usize| definitions.get(index).map(|role| role.name.span()).unwrap_or_default();
    match error {
        RolesError::Cycle { index, .. } | RolesError::Duplicate { index, .. } | RolesError::Empty { index, .. } => {
            Finding::new(span_of(*index), error)
        }
        RolesError::TooMany { .. } => Finding::new(0..0, error),
        RolesError::UnknownInclude { index, include } => {
            let includes = definitions.get(*index).map(|role| role.includes.as_slice()).unwrap_or_default();
            let span = includes.iter().find(|text| *text.get_ref() == **include).map(Spanned::span).unwrap_or_default();
            let hint = did_you_mean(include, definitions.iter().map(|role| role.name.get_ref().as_str()));
            Finding { span, message: error.to_string(), hint }
        }
    }
}

fn certificates(written: &[file::Certificate]) -> Result<Vec<CertificateFiles>, Finding> {
    let mut checked: Vec<CertificateFiles> = Vec::new();
    for certificate in written {
        let identity = parsed(&certificate.identity)?;
        if checked.iter().any(|other| other.identity == identity) {
            return Err(Finding::new(
                certificate.identity.span(),
                format!("{identity} has two [[certificate]] entries"),
            ));
        }
        checked.push(CertificateFiles {
            identity,
            chain: absolute(&certificate.chain)?,
            key: absolute(&certificate.key)?,
            bundle: absolute(&certificate.bundle)?,
        });
    }
    Ok(checked)
}

fn trust_domains(written: &[file::ExtraTrustDomain], files: &mut Vec<PathBuf>) -> Result<Vec<TrustBundle>, Finding> {
    let mut checked = Vec::new();
    for extra in written {
        let domain: TrustDomain = parsed(&extra.name)?;
        let path = absolute(&extra.bundle)?;
        let at = |error: &dyn Display| Finding::new(extra.bundle.span(), format!("the bundle cannot be used: {error}"));
        let bytes = store::read(&path).map_err(|error| at(&in_one_line(&error)))?;
        let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let bundle = match std::str::from_utf8(&bytes) {
            Ok(json) if is_json => TrustBundle::from_json(domain, json),
            Ok(_) | Err(_) => TrustBundle::from_pem(domain, &bytes),
        };
        checked.push(bundle.map_err(|error| at(&in_one_line(&error)))?);
        files.push(path);
    }
    Ok(checked)
}

/// A checked route and the places where its name and its address stand.
struct Places {
    name: Range<usize>,
    backend: Range<usize>,
    listen: Range<usize>,
}

fn inbound(
    written: file::Inbound,
    roles: &Arc<Roles>,
    identities: &Identities<'_>,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<(Inbound, Places), Finding> {
    let places = Places { name: written.name.span(), backend: written.backend.span(), listen: written.listen.span() };
    let name = name(&written.name)?;
    let backend: BackendAddress = parsed(&written.backend)?;
    if !backend.socket.is_local() && !written.unsafe_backend_beyond_loopback {
        let hint = "put an agent on that host, or set unsafe_backend_beyond_loopback = true";
        return Err(Finding::with_hint(
            written.backend.span(),
            "what is forwarded would leave this host in clear text",
            hint,
        ));
    }
    if written.allow.is_empty() {
        let hint = "add an [[inbound.allow]] with the roles that may use it";
        return Err(Finding::with_hint(
            places.name,
            format!("nobody could use inbound {name:?}: it has no allow rule"),
            hint,
        ));
    }
    let mut rules = Vec::new();
    for (index, allow) in written.allow.into_iter().enumerate() {
        rules.push(rule(format!("{name}.allow[{index}]").into(), allow, roles, &backend)?);
    }
    let inject = injections(written.inject.0, &backend, secrets, files)?;
    let inbound = Inbound {
        identity: identities.check(&written.identity)?,
        listen: parsed(&written.listen)?,
        policy: Arc::new(Policy { roles: Arc::clone(roles), rules }),
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        name,
        backend,
        inject,
    };
    files.extend(inbound.foreign_bundle.clone());
    Ok((inbound, places))
}

fn rule(
    name: Arc<str>,
    written: Spanned<file::Allow>,
    roles: &Roles,
    backend: &BackendAddress,
) -> Result<Rule, Finding> {
    let span = written.span();
    let written = written.into_inner();
    if written.roles.is_empty() {
        return Err(Finding::with_hint(span, "this rule can never match: it names no role", "list at least one role"));
    }
    for role in &written.roles {
        if !roles.all_names().iter().any(|known| **known == **role.get_ref()) {
            let hint = did_you_mean(role.get_ref(), roles.all_names().iter().map(|name| &**name));
            return Err(Finding { span: role.span(), message: format!("unknown role {:?}", role.get_ref()), hint });
        }
    }
    let set = roles
        .set(written.roles.iter().map(|role| role.get_ref().as_str()))
        .map_err(|unknown| Finding::new(span, format!("unknown role {unknown:?}")))?;
    if backend.protocol == Protocol::Tcp {
        let methods = written.methods.as_ref().map(Spanned::span);
        let looked_at = methods.or_else(|| written.paths.as_ref().map(Spanned::span));
        if let Some(span) = looked_at {
            let hint = "leave methods and paths out, or make the backend http:// or h2c://";
            return Err(Finding::with_hint(
                span,
                "this rule can never match: the backend is plain TCP, which has neither methods nor paths",
                hint,
            ));
        }
    }
    let methods = written.methods.map(|list| each(&list, "method", method)).transpose()?;
    let paths = written.paths.map(|list| each(&list, "path", PathPattern::parse)).transpose()?;
    Ok(Rule { name, roles: set, methods: methods.map(Into::into), paths: paths.map(Into::into) })
}

/// Parses each text of a list that may not be empty.
fn each<T, E: Display>(
    list: &Spanned<Vec<Spanned<String>>>,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Finding> {
    if list.get_ref().is_empty() {
        let hint = format!("leave the key out to allow every {what}");
        return Err(Finding::with_hint(list.span(), format!("this rule can never match: it names no {what}"), hint));
    }
    list.get_ref()
        .iter()
        .map(|text| {
            parse(text.get_ref())
                .map_err(|error| Finding::new(text.span(), format!("{what} {:?}: {error}", text.get_ref())))
        })
        .collect()
}

fn method(text: &str) -> Result<Method, String> {
    let upper = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !upper {
        return Err("a method is written in upper-case letters".to_owned());
    }
    if text == "CONNECT" || text == "TRACE" {
        return Err("this rule can never match: CONNECT and TRACE are refused before any rule is asked".to_owned());
    }
    Method::from_str(text).map_err(|error| error.to_string())
}

fn injections(
    written: Vec<file::Inject>,
    backend: &BackendAddress,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Vec<Injection>, Finding> {
    let mut injections: Vec<Injection> = Vec::new();
    for inject in written {
        if backend.protocol == Protocol::Tcp {
            return Err(Finding::new(inject.header.span(), "a plain TCP backend has no headers to inject into"));
        }
        let header: HeaderName = inject.header.get_ref().parse().map_err(|_not_a_name| {
            Finding::new(inject.header.span(), format!("{:?} is no header name", inject.header.get_ref()))
        })?;
        if is_identity_header(&header)
            || crate::request::is_hop_by_hop(&header)
            || header == http::header::HOST
            || header == http::header::CONTENT_LENGTH
        {
            return Err(Finding::new(
                inject.header.span(),
                format!("the agent itself sets {header}; it cannot be injected"),
            ));
        }
        if injections.iter().any(|other| other.header == header) {
            return Err(Finding::new(inject.header.span(), format!("{header} is injected twice")));
        }
        let at_value = |error: &dyn Display| Finding::new(inject.value.span(), error);
        let resolved =
            secret::resolve(inject.value.get_ref(), secrets).map_err(|error| at_value(&in_one_line(&error)))?;
        let mut value =
            HeaderValue::from_str(&resolved.value).map_err(|_not_a_value| at_value(&"this is no header value"))?;
        value.set_sensitive(true);
        files.extend(resolved.files);
        injections.push(Injection { header, value });
    }
    Ok(injections)
}

fn outbound(
    written: file::Outbound,
    identities: &Identities<'_>,
    known: &KnownDomains,
    files: &mut Vec<PathBuf>,
) -> Result<(Outbound, Places), Finding> {
    let places = Places { name: written.name.span(), backend: 0..0, listen: written.listen.span() };
    let name = name(&written.name)?;
    let listen: ListenAddress = parsed(&written.listen)?;
    if !listen.is_local() && !written.unsafe_listen_beyond_loopback {
        let hint = "listen on 127.0.0.1, [::1] or a Unix socket, or set unsafe_listen_beyond_loopback = true";
        let message =
            format!("other hosts could use the identity {} without proving who they are", written.identity.get_ref());
        return Err(Finding::with_hint(places.listen, message, hint));
    }
    let is_tcp = match written.protocol.as_ref().map(|protocol| (protocol.get_ref().as_str(), protocol.span())) {
        None | Some(("http", _)) => false,
        Some(("tcp", _)) => true,
        Some((other, span)) => {
            return Err(Finding::new(span, format!("unknown protocol {other:?}; it is \"http\" or \"tcp\"")));
        }
    };
    let service_span = written.service.span();
    let mut service = Vec::new();
    for text in &written.service.get_ref().0 {
        let expected: San =
            text.parse().map_err(|error: SanError| Finding::new(service_span.clone(), in_one_line(&error)))?;
        match &expected {
            San::Spiffe(id) => known.check(Some(id.trust_domain()), service_span.clone(), "this service")?,
            San::Dns(_) | San::Email(_) | San::Ip(_) if written.foreign_bundle.is_none() => {
                let hint = "add foreign_bundle with the authorities of that PKI";
                return Err(Finding::with_hint(service_span, "no foreign bundle could vouch for this service", hint));
            }
            San::Dns(_) | San::Email(_) | San::Ip(_) => {}
        }
        service.push(expected);
    }
    if service.is_empty() {
        return Err(Finding::new(service_span, "no service is named: nobody could answer"));
    }
    let mut endpoints = Vec::new();
    for text in written.endpoints.get_ref() {
        endpoints.push(parsed::<Endpoint>(text)?);
    }
    if endpoints.is_empty() {
        return Err(Finding::new(
            written.endpoints.span(),
            "at least one endpoint is needed, for example \"host-b:9443\"",
        ));
    }
    let allow = local_users(written.allow, &listen)?;
    let outbound = Outbound {
        identity: identities.check(&written.identity)?,
        foreign_bundle: written.foreign_bundle.as_ref().map(absolute).transpose()?,
        service: service.into(),
        name,
        listen,
        is_tcp,
        endpoints,
        unsafe_listen_beyond_loopback: written.unsafe_listen_beyond_loopback,
        allow,
    };
    files.extend(outbound.foreign_bundle.clone());
    Ok((outbound, places))
}

fn local_users(written: Vec<Spanned<file::AllowLocal>>, listen: &ListenAddress) -> Result<Option<LocalUsers>, Finding> {
    let mut users: Option<LocalUsers> = None;
    for allow in written {
        let span = allow.span();
        if matches!(listen, ListenAddress::Tcp(_)) {
            let hint = "listen on a Unix socket to tell local users apart";
            return Err(Finding::with_hint(
                span,
                "this rule can never match: the user behind a TCP connection is not known",
                hint,
            ));
        }
        let allow = allow.into_inner();
        if allow.uids.is_empty() && allow.gids.is_empty() {
            return Err(Finding::new(span, "this rule can never match: it names neither uids nor gids"));
        }
        let users = users.get_or_insert_with(|| LocalUsers { uids: Vec::new(), gids: Vec::new() });
        users.uids.extend(allow.uids);
        users.gids.extend(allow.gids);
    }
    Ok(users)
}

fn check_routes(inbounds: &[(Inbound, Places)], outbounds: &[(Outbound, Places)]) -> Result<(), Finding> {
    let of_inbounds = inbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    let of_outbounds = outbounds.iter().map(|(route, places)| (&route.name, &route.listen, places));
    let mut taken: HashMap<&ListenAddress, &str> = HashMap::new();
    for (name, listen, places) in of_inbounds.clone().chain(of_outbounds.clone()) {
        let clash = taken.iter().find(|(other, _)| overlap(other, listen));
        if let Some((_, other)) = clash {
            return Err(Finding::new(
                places.listen.clone(),
                format!("{name:?} listens on {listen}, where {other:?} listens already"),
            ));
        }
        taken.insert(listen, name);
    }
    for (inbound, places) in inbounds {
        if let BackendSocket::Tcp(backend) = &inbound.backend.socket
            && let Some((_, other)) = taken.iter().find(|(listen, _)| reaches(backend, listen))
        {
            let message = format!(
                "the backend of {:?} is this agent's own {other:?}: a request would go round for ever",
                inbound.name
            );
            return Err(Finding::new(places.backend.clone(), message));
        }
    }
    check_unique(of_inbounds.map(|(name, _, places)| (name, places)), "inbound")?;
    check_unique(of_outbounds.map(|(name, _, places)| (name, places)), "outbound")?;
    let count = inbounds.len() + outbounds.len();
    if count > ROUTES_MAX {
        return Err(Finding::new(0..0, format!("{count} inbounds and outbounds, the limit is {ROUTES_MAX}")));
    }
    Ok(())
}

fn check_unique<'route>(
    names: impl Iterator<Item = (&'route Arc<str>, &'route Places)>,
    what: &str,
) -> Result<(), Finding> {
    let mut seen = Vec::new();
    for (name, places) in names {
        if seen.contains(&name) {
            return Err(Finding::new(places.name.clone(), format!("two {what}s have the name {name:?}")));
        }
        seen.push(name);
    }
    Ok(())
}

/// Whether connecting to one of these addresses ends at a listener.
fn reaches(addresses: &[SocketAddr], listen: &ListenAddress) -> bool {
    let ListenAddress::Tcp(listen) = listen else { return false };
    let same = |address: &SocketAddr| {
        address.port() == listen.port() && (address.ip() == listen.ip() || listen.ip().is_unspecified())
    };
    addresses.iter().any(same)
}

/// Whether two addresses cannot be listened on at once: the same, or one port where one side takes every address.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let every = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && (one.ip() == other.ip() || every)
        }
        (one, other) => one == other,
    }
}

fn control(written: file::Control) -> Result<Control, Finding> {
    let metrics = match &written.metrics {
        None => None,
        Some(text) => Some(text.get_ref().parse().map_err(|_not_an_address| {
            Finding::new(text.span(), format!("{:?} is no address; write 127.0.0.1:9464", text.get_ref()))
        })?),
    };
    let socket = match &written.socket {
        None => PathBuf::from(super::checked::CONTROL_SOCKET),
        Some(path) => absolute(path)?,
    };
    Ok(Control { socket, metrics })
}

fn audit(written: file::Audit) -> Result<AuditOutput, Finding> {
    let Some(output) = &written.output else { return Ok(AuditOutput::Stdout) };
    match output.get_ref().as_str() {
        "stdout" => Ok(AuditOutput::Stdout),
        other => match other.strip_prefix("file:").map(Path::new).filter(|path| path.is_absolute()) {
            Some(path) => Ok(AuditOutput::File(path.to_owned())),
            None => Err(Finding::new(
                output.span(),
                format!("unknown output {other:?}; it is \"stdout\" or \"file:/PATH\""),
            )),
        },
    }
}

fn log_level(written: file::Log) -> Result<tracing::Level, Finding> {
    let Some(level) = &written.level else { return Ok(tracing::Level::INFO) };
    match level.get_ref().as_str() {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        other => {
            Err(Finding::new(level.span(), format!("unknown level {other:?}; it is error, warn, info, debug or trace")))
        }
    }
}

fn workers(written: Option<Spanned<usize>>) -> Result<usize, Finding> {
    match written {
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
        Some(count) if (1..=256).contains(count.get_ref()) => Ok(count.into_inner()),
        Some(count) => Err(Finding::new(count.span(), format!("{} workers; it is 1 to 256", count.get_ref()))),
    }
}

fn limits(written: file::Limits) -> Result<Limits, Finding> {
    let standard = Limits::default();
    Ok(Limits {
        connections: number(written.connections, standard.connections, 1..=1_000_000)?,
        connections_per_peer: number(written.connections_per_peer, standard.connections_per_peer, 1..=1_000_000)?,
        handshakes: number(written.handshakes, standard.handshakes, 1..=100_000)?,
        handshake_timeout: span_of_time(written.handshake_timeout, standard.handshake_timeout)?,
        // hyper's smallest buffer for a header is 8 KiB.
        header_bytes: number(written.header_bytes, standard.header_bytes, 8192..=1_048_576)?,
        streams_per_connection: number(written.streams_per_connection, standard.streams_per_connection, 1..=10_000)?,
        idle_connection: span_of_time(written.idle_connection, standard.idle_connection)?,
        idle_stream: span_of_time(written.idle_stream, standard.idle_stream)?,
        connect_timeout: span_of_time(written.connect_timeout, standard.connect_timeout)?,
        backend_connections: number(written.backend_connections, standard.backend_connections, 1..=1_000_000)?,
        backend_idle: span_of_time(written.backend_idle, standard.backend_idle)?,
        drain: span_of_time(written.drain, standard.drain)?,
    })
}

fn number(written: Option<Spanned<u32>>, standard: u32, range: std::ops::RangeInclusive<u32>) -> Result<u32, Finding> {
    match written {
        None => Ok(standard),
        Some(value) if range.contains(value.get_ref()) => Ok(value.into_inner()),
        Some(value) => {
            let (least, most) = range.into_inner();
            Err(Finding::new(value.span(), format!("{} is out of range; it is {least} to {most}", value.get_ref())))
        }
    }
}

fn span_of_time(written: Option<Spanned<String>>, standard: Duration) -> Result<Duration, Finding> {
    let Some(text) = written else { return Ok(standard) };
    let value = duration::parse(text.get_ref()).map_err(|error| Finding::new(text.span(), error))?;
    let range = Duration::from_millis(1)..=Duration::from_secs(7 * 86_400);
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(Finding::new(text.span(), format!("{:?} is out of range; it is 1ms to 7d", text.get_ref())))
    }
}

fn name(text: &Spanned<String>) -> Result<Arc<str>, Finding> {
    let value = text.get_ref();
    let fits = (1..=NAME_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if fits {
        Ok(value.as_str().into())
    } else {
        Err(Finding::new(
            text.span(),
            format!("{value:?} is no name: 1 to {NAME_BYTES_MAX} letters, digits, '_', '-' or '.'"),
        ))
    }
}

fn absolute(path: &Spanned<PathBuf>) -> Result<PathBuf, Finding> {
    if path.get_ref().is_absolute() {
        Ok(path.get_ref().clone())
    } else {
        Err(Finding::new(path.span(), format!("{:?} is not absolute", path.get_ref())))
    }
}

fn parsed<T>(text: &Spanned<String>) -> Result<T, Finding>
where
    T: FromStr,
    T::Err: std::error::Error,
{
    text.get_ref().parse().map_err(|error: T::Err| Finding::new(text.span(), in_one_line(&error)))
}
