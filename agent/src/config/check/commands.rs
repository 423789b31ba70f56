//! Commands that print secrets: what is run, how often, and with what in its environment.

use std::sync::Arc;
use std::time::Duration;

use countersign_certs::settings::diagnostic::{Finding, did_you_mean};
use countersign_certs::store;
use toml::Spanned;
use zeroize::Zeroizing;

use super::super::checked::SecretCommand;
use super::super::secret::{Template, variable};
use super::super::{Secrets, file};
use super::scalars::{name, span_of_time};
use crate::in_words::in_one_line;

/// Most commands of one config.
const COMMANDS_MAX: usize = 32;

/// Most arguments of one command, and most variables that it is given.
const WORDS_MAX: usize = 64;

/// Longest argument in bytes.
const WORD_BYTES_MAX: usize = 4096;

/// Where programs are looked for that the command itself runs, if the agent has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn commands(written: &[file::SecretCommand], secrets: Secrets) -> Result<Vec<Arc<SecretCommand>>, Finding> {
    let mut commands: Vec<Arc<SecretCommand>> = Vec::new();
    for command in written {
        let place = command.name.span();
        if commands.len() == COMMANDS_MAX {
            return Err(Finding::new(place, format!("{} commands; the limit is {COMMANDS_MAX}", written.len())));
        }
        let checked = one(command, secrets)?;
        if commands.iter().any(|other| other.name == checked.name) {
            return Err(Finding::new(place, format!("two commands are called {:?}", checked.name)));
        }
        commands.push(Arc::new(checked));
    }
    Ok(commands)
}

fn one(written: &file::SecretCommand, secrets: Secrets) -> Result<SecretCommand, Finding> {
    let span = written.command.span();
    let words = written.command.get_ref();
    if words.len() > WORDS_MAX || words.iter().any(|word| word.len() > WORD_BYTES_MAX || word.contains('\0')) {
        let message = format!("a command has {WORDS_MAX} words at most, and a word {WORD_BYTES_MAX} bytes");
        return Err(Finding::new(span, message));
    }
    let (program, arguments) = match words.split_first() {
        Some((program, arguments)) if program.starts_with('/') => (program.into(), arguments.to_vec()),
        Some(_) | None => {
            let hint = "no shell is asked, and no PATH: write command = [\"/usr/bin/vault\", \"...\"]";
            return Err(Finding::with_hint(span, "the program is not named by its whole path", hint));
        }
    };
    let refresh = span_of_time(written.refresh.clone(), Duration::from_secs(5 * 60))?;
    if refresh < Duration::from_secs(1) {
        let span = written.refresh.as_ref().map_or(span, Spanned::span);
        return Err(Finding::new(span, "a command is run once a second at most"));
    }
    let command = SecretCommand {
        name: name(&written.name)?,
        program,
        arguments,
        refresh,
        environment: environment(&written.environment, secrets)?,
    };
    if secrets == Secrets::Read {
        let user = rustix::process::geteuid().as_raw();
        store::check_program(&command.program, user).map_err(|error| Finding::new(span, in_one_line(&error)))?;
    }
    Ok(command)
}

/// Variables of the agent that the command is given. Nothing else is: what is in the agent's environment is not the command's to know.
fn environment(names: &[Spanned<String>], secrets: Secrets) -> Result<Vec<(String, Zeroizing<String>)>, Finding> {
    let path = variable("PATH").unwrap_or_else(|| PATH.to_owned());
    let mut environment = vec![("PATH".to_owned(), Zeroizing::new(path))];
    for name in names {
        let is_name = !name.get_ref().is_empty() && !name.get_ref().contains(['=', '\0']);
        if !is_name || names.len() > WORDS_MAX {
            let message = format!("an environment is a list of names, {WORDS_MAX} at most");
            return Err(Finding::new(name.span(), message));
        }
        match variable(name.get_ref()) {
            Some(value) => environment.push((name.get_ref().clone(), Zeroizing::new(value))),
            None if secrets == Secrets::Named => {}
            None => {
                let message = format!("the environment variable {} is not set", name.get_ref());
                return Err(Finding::new(name.span(), message));
            }
        }
    }
    Ok(environment)
}

/// A text may name the commands of the config alone. `what` names the text in the finding, which stands at `span`: the line itself
/// may hold a secret, and is not shown.
pub(super) fn check_named(
    template: &Template,
    known: &[Arc<SecretCommand>],
    what: &str,
    span: &std::ops::Range<usize>,
) -> Result<(), Finding> {
    let names = || known.iter().map(|command| &*command.name);
    match template.commands().find(|name| !names().any(|known| *known == ***name)) {
        None => Ok(()),
        Some(unknown) => {
            let hint = did_you_mean(unknown, names()).unwrap_or_else(|| "write a [[secret_command]]".to_owned());
            let message = format!("{what} names a command {unknown:?}, which there is not");
            Err(Finding::with_hint(span.clone(), message, hint))
        }
    }
}
