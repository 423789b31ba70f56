//! Bounded values. What a caller chooses is never longer than what a condition was made for.

use std::collections::BTreeMap;
use std::sync::Arc;

use cedar_policy_core::ast::Value;

use crate::attributes::AttributeError;

/// Longest text in bytes that is given to a condition: as long as the longest request head that servers commonly take.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Most members of a set: groups, scopes, names, roles.
pub const MEMBERS_MAX: usize = 1_024;

/// Seconds as conditions count them; a number that is too large for them is the largest.
pub(crate) fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A text, if it is not too long.
pub(crate) fn text(what: &'static str, text: &str) -> Result<Value, AttributeError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(AttributeError::Long { what, found: text.len() });
    }
    Ok(Value::from(text))
}

/// A record of attributes with different names.
pub(crate) fn record(
    attributes: impl Iterator<Item = Result<(String, Value), AttributeError>>,
) -> Result<Value, AttributeError> {
    let mut record = BTreeMap::new();
    for attribute in attributes {
        let (name, value) = attribute?;
        if record.insert(name.as_str().into(), value).is_some() {
            return Err(AttributeError::Twice(name));
        }
    }
    Ok(Value::record_arc(Arc::new(record), None))
}

pub(crate) fn texts<'text>(
    what: &'static str,
    members: impl ExactSizeIterator<Item = &'text str>,
) -> Result<Value, AttributeError> {
    if members.len() > MEMBERS_MAX {
        return Err(AttributeError::Many { what, found: members.len() });
    }
    let members: Vec<Value> = members.map(|member| text(what, member)).collect::<Result<_, _>>()?;
    Ok(Value::set(members, None))
}
