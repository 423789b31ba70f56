//! The query of a request target, read as forms are (WHATWG URL, application/x-www-form-urlencoded).

/// Its parameters, decoded. One that cannot be decoded is left out.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|parameter| !parameter.is_empty()).filter_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let text = |part| decoded(part).and_then(|bytes| String::from_utf8(bytes).ok());
        Some((text(name)?, text(value)?))
    })
}

/// A name or value without its percent-encoding; none if that is broken. A plus sign stands for a space.
pub(crate) fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            _ => byte,
        });
    }
    Some(decoded)
}
