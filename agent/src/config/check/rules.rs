//! The rules of an inbound or outbound. One that can never match is refused: nobody writes it on purpose.

use std::collections::HashSet;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use http::Method;
use toml::Spanned;

use super::super::file;
use super::conditions;
use super::scalars::{check_known, is_observed, name};
use crate::direction::Direction;
use crate::policy::condition::Compiler;
use crate::policy::network::Network;
use crate::policy::path::PathPattern;
use crate::policy::role::{RoleSet, Roles};
use crate::policy::rule::{Effect, NamedFile, Policy, Rule};
use countersign_certs::settings::diagnostic::Finding;

/// Most rules of one inbound or outbound.
const RULES_MAX: usize = 65_536;

/// What rules are checked against.
pub(super) struct RuleContext<'config> {
    /// The name of the inbound or outbound.
    pub(super) route: &'config str,
    pub(super) direction: Direction,
    /// Bytes are carried that are not looked at.
    pub(super) is_tcp: bool,
    pub(super) roles: &'config Arc<Roles>,
    pub(super) compiler: &'config Compiler,
    pub(super) could_be_held: CouldBeHeld,
    /// Who comes in comes from an address.
    pub(super) has_network: bool,
}

/// The roles of those who come here; none where every role could be held.
pub(super) struct CouldBeHeld {
    /// By those for whom a request is made, whom a rule allows.
    pub(super) by_caller: Option<RoleSet>,
    /// By those, or by a workload that makes it for them, whom a rule denies.
    pub(super) by_either: Option<RoleSet>,
    /// By a workload that makes a request for somebody.
    pub(super) by_carrier: RoleSet,
}

pub(super) fn policy(
    around: &RuleContext<'_>,
    deny: Vec<Spanned<file::Rule>>,
    allow: Vec<Spanned<file::Rule>>,
    file: Option<NamedFile>,
) -> Result<Policy, Finding> {
    let count = deny.len() + allow.len();
    if let Some(one_too_many) = deny.iter().chain(&allow).nth(RULES_MAX) {
        return Err(Finding::new(one_too_many.span(), format!("{count} rules of one route; the limit is {RULES_MAX}")));
    }
    let mut names = HashSet::new();
    let mut compile = |effect: Effect, word: &str, written: Vec<Spanned<file::Rule>>| {
        let each = written.into_iter().enumerate().map(|(index, written)| {
            let place = written.get_ref().name.as_ref().map_or_else(|| written.span(), Spanned::span);
            let rule = rule(effect, format!("{}.{word}[{index}]", around.route).into(), written, around)?;
            if names.insert(Arc::clone(&rule.name)) {
                Ok(rule)
            } else {
                Err(Finding::new(place, format!("two rules are called {:?}", rule.name)))
            }
        });
        each.collect::<Result<Vec<_>, _>>()
    };
    let deny = compile(Effect::Deny, "deny", deny)?;
    let allow = compile(Effect::Allow, "allow", allow)?;
    Ok(Policy::compile(Arc::clone(around.roles), deny, allow, file))
}

fn rule(
    effect: Effect,
    place: Arc<str>,
    written: Spanned<file::Rule>,
    around: &RuleContext<'_>,
) -> Result<Rule, Finding> {
    let span = written.span();
    let written = written.into_inner();
    if written.roles.is_none() && effect == Effect::Allow {
        return Err(Finding::with_hint(span, "this rule can never match: it names no role", "list at least one role"));
    }
    if around.is_tcp {
        let methods = written.methods.as_ref().map(Spanned::span);
        let paths = written.paths.as_ref().map(Spanned::span);
        let looked_at = methods.or(paths).or_else(|| written.when.as_ref().map(Spanned::span));
        if let Some(span) = looked_at {
            let message = "this rule can never match: plain TCP is carried, which has neither methods nor paths";
            let hint = "leave methods, paths and when out, or carry HTTP";
            return Err(Finding::with_hint(span, message, hint));
        }
    }
    if around.direction == Direction::Outbound {
        let of_others =
            written.networks.as_ref().map(Spanned::span).or_else(|| written.via.as_ref().map(Spanned::span));
        if let Some(span) = of_others {
            let message = "this rule can never match: programs of this host come from no network, and for nobody else";
            return Err(Finding::with_hint(span, message, "leave networks and via out"));
        }
    }
    if let Some(networks) = written.networks.as_ref().filter(|_| !around.has_network) {
        let message = "this rule can never match: who comes over a Unix socket comes from no network";
        return Err(Finding::with_hint(networks.span(), message, "leave networks out, or listen on an address"));
    }
    let CouldBeHeld { by_caller, by_either, by_carrier } = &around.could_be_held;
    let of_callers = match effect {
        Effect::Allow => by_caller,
        Effect::Deny => by_either,
    };
    let role_names = |list: Option<Spanned<Vec<Spanned<String>>>>, could_be_held: Option<&RoleSet>| {
        list.map(|list| role_set(&list, could_be_held, around)).transpose()
    };
    let networks = written.networks.map(|list| each(&list, "network", Network::from_str)).transpose()?;
    let methods = written.methods.map(|list| each(&list, "method", method)).transpose()?;
    let paths = written.paths.map(|list| each(&list, "path", PathPattern::parse)).transpose()?;
    Ok(Rule {
        name: written.name.as_ref().map(name).transpose()?.unwrap_or(place),
        roles: role_names(written.roles, of_callers.as_ref())?,
        via: role_names(written.via, Some(by_carrier))?,
        networks: networks.map(Into::into),
        methods: methods.map(Into::into),
        paths: paths.map(Into::into),
        condition: written.when.as_ref().map(|text| conditions::condition(text, around.compiler)).transpose()?,
        is_observed: is_observed(written.mode.as_ref())?,
    })
}

fn role_set(
    list: &Spanned<Vec<Spanned<String>>>,
    could_be_held: Option<&RoleSet>,
    around: &RuleContext<'_>,
) -> Result<RoleSet, Finding> {
    let roles = around.roles;
    if list.get_ref().is_empty() {
        let hint = "list at least one role";
        return Err(Finding::with_hint(list.span(), "this rule can never match: it names no role", hint));
    }
    let known = || roles.all_names().iter().map(|name| &**name);
    for role in list.get_ref() {
        check_known(role, "role", known)?;
    }
    let names = list.get_ref().iter().map(|role| role.get_ref().as_str());
    let set = roles.set(names).map_err(|unknown| Finding::new(list.span(), format!("unknown role {unknown:?}")))?;
    match could_be_held {
        Some(could_be_held) if !set.intersects(could_be_held) => Err(never_held(list, around)),
        Some(_) | None => Ok(set),
    }
}

fn never_held(list: &Spanned<Vec<Spanned<String>>>, around: &RuleContext<'_>) -> Finding {
    let (message, hint) = match around.direction {
        Direction::Inbound => (
            "this rule can never match: nobody could hold its role who shows what this inbound demands",
            "name a role with a member that shows it, or change require or any_of",
        ),
        Direction::Outbound => (
            "this rule can never match: no program on this socket could hold its role",
            "name a role with the member \"local:loopback\" where it listens on TCP, \"local:uid=1000\" or \"local:gid=100\" on a Unix socket",
        ),
    };
    Finding::with_hint(list.span(), message, hint)
}

/// Parses each text of a list that may not be empty.
fn each<T, E: Display>(
    list: &Spanned<Vec<Spanned<String>>>,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, Finding> {
    if list.get_ref().is_empty() {
        let hint = format!("leave the key out to mean every {what}");
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
