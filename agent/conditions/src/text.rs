//! Bounds on the text of policies, before it is read.
//!
//! Cedar's parser and its syntax trees are recursive: what is nested too deep or chained too long would overflow the stack,
//! which ends the whole program.

use cedar_policy_core::ast::{Expr, ExprKind};

/// Deepest nesting of brackets.
pub(crate) const DEPTH_MAX: usize = 32;

/// Longest policy of a file, and longest condition, in bytes without comments and blanks. A chain of operators nests as deep as it
/// is long.
pub(crate) const POLICY_BYTES_MAX: usize = 4096;

/// Longest chain of operators. Cedar's validator lets pass what is too deep for the stack, unchecked, and follows a chain as deep as
/// it is long.
pub(crate) const CHAIN_MAX: usize = 128;

/// Deepest expression that is decided, when chains of `&&` and `||` are flat. Without optimizations a level takes up to 45 KiB of the
/// two megabytes that a thread has, and the evaluator gives up on what is deeper.
pub(crate) const LEVELS_MAX: usize = 24;

/// Where and why a text is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// Brackets are nested deeper than allowed, at this byte.
    Depth { at: usize },
    /// A policy is longer than allowed; it reaches the bound at this byte.
    Length { at: usize },
}

/// Looks at the brackets and at the length between semicolons.
///
/// Texts in quotes and comments count as Cedar reads them: a bracket inside is none.
pub(crate) fn check(text: &str) -> Result<(), Excess> {
    let mut depth = 0_usize;
    let mut length = 0_usize;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'/' if bytes.next_if(|(_, next)| *next == b'/').is_some() => {
                while bytes.next_if(|(_, next)| *next != b'\n' && *next != b'\r').is_some() {}
                continue;
            }
            b'"' => {
                // A backslash takes the next byte along, whatever it is.
                while let Some((_, inside)) = bytes.next() {
                    length += 1;
                    match inside {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Excess::Depth { at });
                }
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b';' => length = 0,
            b' ' | b'\n' | b'\r' | b'\t' => continue,
            _ => {}
        }
        length += 1;
        if length > POLICY_BYTES_MAX {
            return Err(Excess::Length { at });
        }
    }
    Ok(())
}

/// Whether a syntax tree has no more levels than that.
pub(crate) fn is_within(expression: &Expr, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return false };
    let within = |part: &Expr| is_within(part, below);
    match expression.expr_kind() {
        ExprKind::Lit(_) | ExprKind::Slot(_) | ExprKind::Unknown(_) | ExprKind::Var(_) => true,
        ExprKind::And { left, right } | ExprKind::Or { left, right } => within(left) && within(right),
        ExprKind::BinaryApp { arg1, arg2, .. } => within(arg1) && within(arg2),
        ExprKind::ExtHasAttr { expr, attrs } => attrs.len() <= below && within(expr),
        ExprKind::ExtensionFunctionApp { args, .. } => args.iter().all(within),
        ExprKind::GetAttr { expr, .. }
        | ExprKind::HasAttr { expr, .. }
        | ExprKind::Is { expr, .. }
        | ExprKind::Like { expr, .. } => within(expr),
        ExprKind::If { test_expr, then_expr, else_expr } => within(test_expr) && within(then_expr) && within(else_expr),
        ExprKind::Record(attributes) => attributes.values().all(within),
        ExprKind::Set(members) => members.iter().all(within),
        ExprKind::UnaryApp { arg, .. } => within(arg),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_text(text: &str, expected: Result<(), Excess>) {
        assert_eq!(check(text), expected, "{}", text.chars().take(100).collect::<String>());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "([{".repeat(depth / 3 + 1).split_at(depth).0, "a");
        check_text(&nested(32), Ok(()));
        check_text(&nested(33), Err(Excess::Depth { at: 32 }));
        check_text(&"(a)".repeat(40), Ok(()));
        check_text(&")".repeat(9), Ok(()));
    }

    #[test]
    fn brackets_in_texts_and_comments_do_not_count() {
        check_text(&format!("\"{}\"", "(".repeat(40)), Ok(()));
        check_text(&format!("\"\\\"{}\"", "(".repeat(40)), Ok(()));
        check_text(&format!("// {}\n", "(".repeat(40)), Ok(()));
        check_text(&format!("// \"\n{}", "(".repeat(40)), Err(Excess::Depth { at: 37 }));
        check_text(&format!("\"//\"{}", "(".repeat(40)), Err(Excess::Depth { at: 36 }));
        check_text(&format!("\"\\\\\"{}", "(".repeat(40)), Err(Excess::Depth { at: 36 }));
        check_text(&format!("a / {}", "(".repeat(40)), Err(Excess::Depth { at: 36 }));
    }

    #[test]
    fn each_policy_is_bounded_for_itself() {
        let one = format!("{};\n", "a".repeat(POLICY_BYTES_MAX - 1));
        check_text(&one.repeat(3), Ok(()));
        check_text(&"a".repeat(POLICY_BYTES_MAX + 1), Err(Excess::Length { at: POLICY_BYTES_MAX }));
        check_text(&"a ".repeat(POLICY_BYTES_MAX), Ok(()));
        check_text(&"// a\n".repeat(POLICY_BYTES_MAX), Ok(()));
        check_text(&format!("\"{};\"", "a".repeat(POLICY_BYTES_MAX)), Err(Excess::Length { at: 0 }));
    }
}
