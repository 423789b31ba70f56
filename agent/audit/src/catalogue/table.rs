//! The catalogue in words: every event, its keys, and what they mean. The JSON Schema and the page that are shipped are made
//! from it.

use serde_json::{Map, Value, json};

use super::SCHEMA;

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its word.
    pub name: &'static str,
    /// When it is written.
    pub meaning: &'static str,
    /// Its keys, beside those that every line has.
    pub keys: &'static [Key],
}

/// One key of an event.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What values look like.
    pub form: Form,
    /// Whether every line of the event has it.
    pub required: bool,
    /// What it says.
    pub meaning: &'static str,
}

/// What values of a key look like.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// A number from zero.
    Count,
    /// `true`; where it is not so, the key is absent.
    Flag,
    /// SHA-256 in 64 lower-case hexadecimal digits.
    Hash,
    /// Any text.
    Text,
    /// A list of texts.
    Texts,
    /// RFC 3339 in UTC.
    Time,
    /// One of a few words.
    Word(&'static [&'static str]),
}

const fn must(name: &'static str, form: Form, meaning: &'static str) -> Key {
    Key { name, form, required: true, meaning }
}

const fn may(name: &'static str, form: Form, meaning: &'static str) -> Key {
    Key { name, form, required: false, meaning }
}

/// Keys of every line.
pub const COMMON: &[Key] = &[
    must("schema", Form::Count, "the number of the schema: keys and events are only added within one"),
    must("time", Form::Time, "when, in UTC with microseconds"),
    must("event", Form::Text, "the word of the event"),
    may("chain", Form::Hash, "in segments: SHA-256 of the chain value before and of the line without this key"),
];

const AGENT: &[Key] = &[must("version", Form::Text, "its version"), must("pid", Form::Count, "its process ID")];

const ACCESS: &[Key] = &[
    must("decision", Form::Text, "the ID of the decision, for `countersign-agent explain`"),
    must("direction", Form::Word(&["inbound", "outbound"]), "from another host, or to one"),
    must("route", Form::Text, "the name of the inbound or outbound"),
    must("address", Form::Text, "where the caller called from"),
    may("peer", Form::Text, "the verified name of the peer, or the program of this host (`local:...`)"),
    may("names", Form::Texts, "all of its verified names, if it has more than one"),
    may("serial", Form::Text, "the serial number of its certificate"),
    may("roles", Form::Texts, "its roles"),
    may(
        "principal",
        Form::Word(&["service", "user", "workload_on_behalf"]),
        "who asks, if it is not the peer for itself",
    ),
    may("subject", Form::Text, "the user or service with a credential of its own"),
    may("subject_facts", Form::Texts, "what its credential says of it: team, groups, scopes"),
    may("subject_roles", Form::Texts, "its roles, on which was decided"),
    may("credential", Form::Word(&["api_key", "basic", "jwt", "opaque_token"]), "what it showed"),
    may("claimed", Form::Text, "whom a refused certificate named; nobody vouches for it"),
    must(
        "outcome",
        Form::Word(&["allowed", "cancelled", "cut", "denied", "failed"]),
        "how it ended; `cancelled` too if nobody had proved who asks",
    ),
    may("reason", Form::Text, "why, in one fixed word"),
    may("detail", Form::Text, "why, in a sentence"),
    may("rule", Form::Text, "the rule that allowed it"),
    may("observed", Form::Text, "what the rules that are only observed would have changed"),
    may("limit", Form::Text, "the limit that refused it, or would have if it did not only watch"),
    may("method", Form::Text, "the method that was decided on"),
    may(
        "path",
        Form::Text,
        "the path as it was sent, without its query; its first 256 bytes where nobody has proved who asks",
    ),
    may("headers", Form::Texts, "request headers that the config lists, `name: value`"),
    may("query", Form::Texts, "parameters of the query that the config lists, `name=value`"),
    may("status", Form::Count, "the HTTP status that the caller got"),
    may(
        "credential_rotated",
        Form::Flag,
        "the backend has refused the credential that it was given; the next request is given the other",
    ),
    must(
        "received_bytes",
        Form::Count,
        "bytes from the peer: of a request's body, a WebSocket or plain TCP; 0 in the line of an HTTP connection, whose requests have lines \
         of their own",
    ),
    must(
        "sent_bytes",
        Form::Count,
        "bytes to the peer: of an answer's body, a WebSocket or plain TCP; 0 in the line of an HTTP connection, whose requests have lines \
         of their own",
    ),
    must("duration_us", Form::Count, "how long it took, in microseconds"),
    OMITTED,
];

const OMITTED: Key = may("omitted", Form::Count, "lines like this one that were left out before it");

const CONFIG_LOADED: &[Key] = &[CONFIG_PATH, CONFIG_SHA256, CONFIG_OWNER_UID, CONFIG_MODIFIED];

const CONFIG_REFUSED: &[Key] =
    &[CONFIG_PATH, CONFIG_SHA256, CONFIG_OWNER_UID, CONFIG_MODIFIED, may("error", Form::Text, "what is wrong with it")];

const CONFIG_PATH: Key = must("path", Form::Text, "the file");
const CONFIG_SHA256: Key = may("sha256", Form::Hash, "of its content");
const CONFIG_OWNER_UID: Key = may("owner_uid", Form::Count, "the user who owns it");
const CONFIG_MODIFIED: Key = may("modified", Form::Time, "when it was last changed");

const KEY: &[Key] = &[
    must("key", Form::Text, "the public ID of the key, never its secret"),
    may("owner", Form::Text, "whose it is"),
    may("caller_uid", Form::Count, "the user who owns the file of keys, as whom the command ran"),
    may("expires", Form::Time, "when the key ends"),
];

/// Every event, in alphabetical order.
pub const KINDS: &[Kind] = &[
    Kind { name: "agent_started", meaning: "the agent began", keys: AGENT },
    Kind { name: "agent_stopped", meaning: "the agent ended in order", keys: AGENT },
    Kind {
        name: "audit_gap",
        meaning: "lines were left out: there was no more room for them while they could not be written, or an additional sink did not get them",
        keys: &[
            must("count", Form::Count, "how many"),
            may("sink", Form::Text, "the additional sink that did not get them; without it they are in no record"),
        ],
    },
    Kind {
        name: "audit_opened",
        meaning: "the first line of a segment",
        keys: &[
            must("segment", Form::Count, "its number, from 1"),
            must("previous", Form::Hash, "the chain value before it, zeros in the first"),
            must("version", Form::Text, "the version of the agent"),
            must("host", Form::Text, "the identity of the host, or its name"),
            must("public_key", Form::Text, "the Ed25519 key that signs the seal, 32 bytes in base64"),
        ],
    },
    Kind {
        name: "audit_recovered",
        meaning: "an earlier segment was not sealed, because the agent did not end in order",
        keys: &[
            must("segment", Form::Count, "its number"),
            must("lines", Form::Count, "its whole lines"),
            must("last", Form::Hash, "the chain value after them"),
            must("torn_bytes", Form::Count, "bytes after them, which are left as they are"),
            must("torn_sha256", Form::Hash, "of those bytes"),
        ],
    },
    Kind {
        name: "audit_retired",
        meaning: "old segments are about to be removed",
        keys: &[
            must("through", Form::Count, "the number of the last one that is removed"),
            must("reason", Form::Word(&["age", "size"]), "`retention` or `keep_bytes`"),
        ],
    },
    Kind {
        name: "audit_sealed",
        meaning: "the last line of a segment",
        keys: &[
            must("segment", Form::Count, "its number"),
            must("lines", Form::Count, "lines before this one"),
            must("last", Form::Hash, "the chain value before this line"),
            must("signature", Form::Text, "Ed25519 over the line so far, in base64"),
        ],
    },
    Kind {
        name: "authentication",
        meaning: "somebody proved, or failed to prove, who they are by something other than a certificate",
        keys: &[
            must("method", Form::Text, "by what; of a failure, what would have been taken"),
            must("outcome", Form::Word(&["failure", "success"]), "whether it was proved"),
            may("reason", Form::Text, "why it failed, in one fixed word"),
            may("subject", Form::Text, "who it is; not told of a failure"),
            may("address", Form::Text, "where the caller called from"),
            may("route", Form::Text, "the name of the inbound or outbound"),
            OMITTED,
        ],
    },
    Kind { name: "config_loaded", meaning: "a config was taken up", keys: CONFIG_LOADED },
    Kind { name: "config_refused", meaning: "a config was refused; the one before stays in use", keys: CONFIG_REFUSED },
    Kind { name: "connection", meaning: "a connection has ended", keys: ACCESS },
    Kind {
        name: "control_command",
        meaning: "an operator gave a command that changes something",
        keys: &[
            must("command", Form::Text, "the command"),
            may("caller_uid", Form::Count, "the user who gave it, as the kernel says"),
            may("subject", Form::Text, "what it was about"),
        ],
    },
    Kind {
        name: "credential_rotated",
        meaning: "an own certificate or an injected secret is another one now",
        keys: &[
            must("credential", Form::Word(&["certificate", "injected_secret"]), "which kind"),
            must("name", Form::Text, "the identity of a certificate; the inbound and the place of a secret"),
            may("serial", Form::Text, "the serial number of the new certificate"),
            may("not_after", Form::Time, "when the new certificate ends"),
        ],
    },
    Kind { name: "key_created", meaning: "an API key was made", keys: KEY },
    Kind { name: "key_disabled", meaning: "an API key may not be used for now", keys: KEY },
    Kind { name: "key_enabled", meaning: "a disabled API key may be used again", keys: KEY },
    Kind { name: "key_revoked", meaning: "an API key is ended for ever", keys: KEY },
    Kind { name: "key_rotated", meaning: "an API key has a new secret", keys: KEY },
    Kind {
        name: "limit_hit",
        meaning: "a limit refused something",
        keys: &[
            must("limit", Form::Text, "the name of the limit"),
            may("subject", Form::Text, "who asked"),
            may("route", Form::Text, "the name of the inbound or outbound"),
            must("count", Form::Count, "how often since the last such line"),
        ],
    },
    Kind {
        name: "lockout",
        meaning: "somebody failed too often and is not listened to for a while",
        keys: &[
            must("subject", Form::Text, "the name and the address that it was tried from"),
            may("until", Form::Time, "until when"),
            OMITTED,
        ],
    },
    Kind {
        name: "omitted_lines",
        meaning: "lines were left out because there were too many like them, and the `omitted` of no other line counts these",
        keys: &[
            must(
                "of",
                Form::Word(&["authentication", "limit_hit", "lockout", "pattern", "policy_observed", "refusal"]),
                "their event; `refusal` for connections and requests",
            ),
            may("reason", Form::Text, "the reason, or the pattern, that they have in common"),
            must("count", Form::Count, "how many"),
        ],
    },
    Kind {
        name: "pattern",
        meaning: "something odd was seen",
        keys: &[
            must("pattern", Form::Word(&["new_address", "new_route", "refusal_burst"]), "which"),
            may("subject", Form::Text, "who shows it: a name or an address"),
            may("route", Form::Text, "the name of the inbound or outbound"),
            must("count", Form::Count, "how often"),
            must("seconds", Form::Count, "within how many seconds"),
            OMITTED,
        ],
    },
    Kind {
        name: "policy_observed",
        meaning: "a policy that is only observed would have decided so",
        keys: &[
            must("decision", Form::Text, "the ID of the decision that was made all the same"),
            must("policy", Form::Text, "what would have been decided otherwise, in words"),
            must("outcome", Form::Word(&["allowed", "denied"]), "what it would have said"),
            must("route", Form::Text, "the name of the inbound or outbound"),
            may("peer", Form::Text, "the verified name of the peer"),
            OMITTED,
        ],
    },
    Kind { name: "request", meaning: "a request has ended", keys: ACCESS },
    Kind {
        name: "unrecorded_refusals",
        meaning: "what was refused while nothing could be written was only counted",
        keys: &[must("count", Form::Count, "how many")],
    },
];

/// The JSON Schema (draft 2020-12) of one line.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("One line of Countersign's audit log, schema {SCHEMA}"),
        "type": "object",
        "required": ["schema", "time", "event"],
        "properties": {
            "schema": { "const": SCHEMA },
            "event": { "enum": KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>() },
        },
        "oneOf": KINDS.iter().map(of_kind).collect::<Vec<_>>(),
    })
}

fn of_kind(kind: &Kind) -> Value {
    let keys = || COMMON.iter().chain(kind.keys);
    let mut properties: Map<String, Value> =
        keys().map(|key| (key.name.to_owned(), key.form.schema(key.meaning))).collect();
    properties.insert("event".to_owned(), json!({ "const": kind.name }));
    let required: Vec<&str> = keys().filter(|key| key.required).map(|key| key.name).collect();
    json!({ "title": kind.name, "description": kind.meaning, "required": required, "properties": properties })
}

impl Form {
    fn schema(self, meaning: &str) -> Value {
        match self {
            Self::Count => json!({ "type": "integer", "minimum": 0, "description": meaning }),
            Self::Flag => json!({ "const": true, "description": meaning }),
            Self::Hash => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$", "description": meaning }),
            Self::Text => json!({ "type": "string", "description": meaning }),
            Self::Texts => json!({ "type": "array", "items": { "type": "string" }, "description": meaning }),
            Self::Time => json!({ "type": "string", "format": "date-time", "description": meaning }),
            Self::Word(words) => json!({ "enum": words, "description": meaning }),
        }
    }

    fn in_words(self) -> String {
        match self {
            Self::Count => "number".to_owned(),
            Self::Flag => "`true`".to_owned(),
            Self::Hash => "SHA-256".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Texts => "list of texts".to_owned(),
            Self::Time => "RFC 3339".to_owned(),
            Self::Word(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The catalogue as Markdown: a table for the keys of every line, and one for each event.
pub fn page() -> String {
    let mut page = format!("### Every line\n\n{}", keys_as_table(COMMON));
    for kind in KINDS {
        page.push_str(&format!(
            "\n### {}\n\n{}.\n\n{}",
            kind.name,
            upper_first(kind.meaning),
            keys_as_table(kind.keys)
        ));
    }
    page
}

fn keys_as_table(keys: &[Key]) -> String {
    let mut table = "| key | form | always | meaning |\n|---|---|---|---|\n".to_owned();
    for key in keys {
        let always = if key.required { "yes" } else { "" };
        table.push_str(&format!("| `{}` | {} | {always} | {} |\n", key.name, key.form.in_words(), key.meaning));
    }
    table
}

fn upper_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::samples;
    use std::path::Path;

    /// Every key of a line is in the table with the form that it has there, and every required one is in the line.
    fn check(line: &Value) -> Result<(), String> {
        let name = line["event"].as_str().unwrap();
        let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| format!("{name} is in no table"))?;
        let keys = || COMMON.iter().chain(kind.keys);
        for (name, value) in line.as_object().unwrap() {
            let key = keys().find(|key| key.name == name).ok_or_else(|| format!("{} has no {name:?}", kind.name))?;
            let fits = match key.form {
                Form::Count => value.is_u64(),
                Form::Flag => *value == Value::Bool(true),
                Form::Hash => value.as_str().is_some_and(|text| text.len() == 64),
                Form::Text | Form::Time => value.is_string(),
                Form::Texts => value.is_array(),
                Form::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            };
            fits.then_some(()).ok_or_else(|| format!("{}: {name} is {value}", kind.name))?;
        }
        match keys().find(|key| key.required && line.get(key.name).is_none()) {
            Some(key) => Err(format!("{} lacks {:?}", kind.name, key.name)),
            None => Ok(()),
        }
    }

    #[test]
    fn types_and_table_say_the_same() {
        let samples = samples::all();
        for entry in &samples {
            assert_eq!(check(&serde_json::to_value(entry).unwrap()), Ok(()));
        }
        let mut names: Vec<&str> = samples.iter().map(|entry| entry.event.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>(), "each event has a sample");
    }

    #[test]
    fn a_key_that_the_table_lacks_is_noticed() {
        assert!(check(&json!({ "schema": 1, "time": "t", "event": "audit_gap", "count": 1, "more": 1 })).is_err());
        assert!(check(&json!({ "schema": 1, "time": "t", "event": "audit_gap" })).is_err());
    }

    #[test]
    fn what_is_shipped_is_what_the_table_makes() {
        let shipped = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/audit").join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let shipped_schema: Value = serde_json::from_str(&shipped("schema-1.json")).unwrap();
        assert!(shipped_schema == schema(), "write it anew: countersign-agent audit schema");
        assert!(
            shipped("README.md").ends_with(&page()),
            "write the end of the page anew: countersign-agent audit schema --page"
        );
    }
}
