//! The store in which several agents count together.

use std::path::PathBuf;
use std::time::Duration;

use countersign_certs::settings::diagnostic::Finding;
use countersign_limits::store::Password;
use toml::Spanned;
use zeroize::Zeroizing;

use super::super::address::Endpoint;
use super::super::{Secrets, file, secret};
use super::issuers;
use super::scalars::{number, span_of_time};
use crate::in_words::in_one_line;
use crate::limit::definition::{Store, StoreAddress, WhenAway};

/// How long a request waits for the store. On the same network an answer takes a millisecond.
const TIMEOUT: Duration = Duration::from_millis(50);

/// A request that waits for longer keeps its caller waiting for nothing.
const TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// Most agents among which a limit is divided.
const SHARE_MAX: u32 = 10_000;

pub(super) fn store(
    written: Option<Spanned<file::Store>>,
    secrets: Secrets,
    files: &mut Vec<PathBuf>,
) -> Result<Option<Store>, Finding> {
    let Some(written) = written.map(Spanned::into_inner) else { return Ok(None) };
    let timeout_span = written.timeout.as_ref().map(Spanned::span).unwrap_or_default();
    let timeout = span_of_time(written.timeout.clone(), TIMEOUT)?;
    if timeout > TIMEOUT_MAX {
        return Err(Finding::new(timeout_span, "a request does not wait so long; it is 1ms to 5s"));
    }
    Ok(Some(Store {
        address: address(&written, files)?,
        password: password(&written, secrets, files)?,
        timeout,
        when_away: when_away(&written)?,
    }))
}

fn address(written: &file::Store, files: &mut Vec<PathBuf>) -> Result<StoreAddress, Finding> {
    let url = &written.url;
    let refused = || {
        let hint =
            "write redis://HOST:PORT, rediss://HOST:PORT or unix:/PATH; user and password have keys of their own";
        // What stands there is not repeated: a password may.
        Finding::with_hint(url.span(), "this is no address of a store", hint)
    };
    let bundle_of_nothing = |bundle: &Spanned<PathBuf>| {
        Finding::new(bundle.span(), "a bundle is of use with rediss:// only: this store shows no certificate")
    };
    let text = url.get_ref();
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        // sun_path holds 108 bytes with the final zero (unix(7)).
        if !path.is_absolute() || text.len() > 107 + "unix:".len() || text.contains('\0') {
            return Err(refused());
        }
        return written.bundle.as_ref().map(bundle_of_nothing).map_or(Ok(StoreAddress::Unix(path)), Err);
    }
    let is_encrypted = text.starts_with("rediss://");
    let place = text.strip_prefix("rediss://").or_else(|| text.strip_prefix("redis://")).ok_or_else(refused)?;
    let endpoint: Endpoint = place.parse().map_err(|_not_an_endpoint| refused())?;
    if is_encrypted {
        let server = issuers::web_server(written.bundle.as_ref(), &[], files)?;
        return Ok(StoreAddress::Tcp { host: endpoint.host, port: endpoint.port, roots: Some(server.roots) });
    }
    if !endpoint.is_local() && !written.unsafe_clear_text_beyond_loopback {
        let hint = "write rediss://, or set unsafe_clear_text_beyond_loopback = true";
        return Err(Finding::with_hint(
            url.span(),
            "the password and who calls would leave this host in clear text",
            hint,
        ));
    }
    let address = StoreAddress::Tcp { host: endpoint.host, port: endpoint.port, roots: None };
    written.bundle.as_ref().map(bundle_of_nothing).map_or(Ok(address), Err)
}

fn password(written: &file::Store, secrets: Secrets, files: &mut Vec<PathBuf>) -> Result<Option<Password>, Finding> {
    let Some(text) = &written.password else {
        return match &written.user {
            Some(user) => Err(Finding::new(user.span(), "a user without a password")),
            None => Ok(None),
        };
    };
    let resolved =
        secret::resolve(text.get_ref(), secrets).map_err(|error| Finding::new(text.span(), in_one_line(&error)))?;
    files.extend(resolved.files);
    let user = written.user.as_ref().map(|user| user.get_ref().clone());
    Ok(Some(Password { user, secret: Zeroizing::new(resolved.value.to_string()) }))
}

fn when_away(written: &file::Store) -> Result<WhenAway, Finding> {
    let word = written.when_away.as_ref();
    match (word.map_or("refuse", |word| word.get_ref()), &written.share) {
        ("local", None) => {
            let hint = "write share = 2 if two agents count together: each grants one of so many parts";
            let span = word.map(Spanned::span).unwrap_or_default();
            Err(Finding::with_hint(span, "nothing says how large one agent's part is", hint))
        }
        ("local", Some(share)) => Ok(WhenAway::Local { share: number(Some(share.clone()), 1, 1..=SHARE_MAX)? }),
        ("refuse", None) => Ok(WhenAway::Refuse),
        ("refuse", Some(share)) => Err(Finding::new(share.span(), "a share is of use with when_away = \"local\" only")),
        (other, _) => {
            let span = word.map(Spanned::span).unwrap_or_default();
            Err(Finding::new(span, format!("unknown word {other:?}; it is refuse or local")))
        }
    }
}
