//! `allow` rules, compiled: which roles may use which methods on which paths of one service.

use std::sync::Arc;

use http::Method;

use super::path::PathPattern;
use super::role::{RoleSet, Roles};

/// Every rule of one service. Nothing is allowed that no rule allows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    pub(crate) roles: Arc<Roles>,
    pub(crate) rules: Vec<Rule>,
}

/// One `[[inbound.allow]]`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Where it stands, for example `llm.allow[0]`.
    pub(crate) name: Arc<str>,
    /// Holders of any of these roles.
    pub(crate) roles: RoleSet,
    /// These methods; none named means every method.
    pub(crate) methods: Option<Box<[Method]>>,
    /// Paths that one of these covers; none named means every path.
    pub(crate) paths: Option<Box<[PathPattern]>>,
}
