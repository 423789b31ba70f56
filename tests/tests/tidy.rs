//! Rules of the layout that no lint knows: who may name whom. Each exception stands here with its reason.
#![allow(clippy::unwrap_used, reason = "a test that finds less than it expects has failed")]

use std::path::{Path, PathBuf};

/// A file that is longer than this has more than one purpose.
const LINES_MAX: usize = 600;

/// Words that may not stand in the files below a folder, but for the files and folders (`.../`) that are named with their reason.
struct Rule {
    folder: &'static str,
    words: &'static [&'static str],
    why: &'static str,
    except: &'static [(&'static str, &'static str)],
}

const RULES: &[Rule] = &[
    Rule {
        folder: "agent/src",
        words: &["countersign_ca", "countersign-ca/"],
        why: "agent and CA never import each other",
        except: &[],
    },
    Rule { folder: "ca/src", words: &["countersign_agent"], why: "agent and CA never import each other", except: &[] },
    Rule {
        folder: "certs/src",
        words: &["tokio::", "hyper::", "std::net::Tcp", "SystemTime::now", "Instant::now", "std::env"],
        why: "certs knows no network, no runtime, no clock and no environment",
        except: &[],
    },
    Rule {
        folder: "agent/src/policy",
        words: &[
            "tokio::",
            "hyper::",
            "std::net::Tcp",
            "std::net::Udp",
            "SystemTime",
            "Instant",
            "Clock",
            "std::fs",
            "crate::forward",
        ],
        why: "a decision is pure",
        except: &[],
    },
    Rule {
        folder: "agent",
        words: &["cedar_policy"],
        why: "one crate alone knows Cedar",
        except: &[("agent/conditions/", "it is that crate")],
    },
    Rule {
        folder: "agent/conditions/src",
        words: &["tokio::", "hyper::", "std::net::Tcp", "std::net::Udp", "SystemTime::now", "Instant::now", "std::fs"],
        why: "a condition is asked, and looks nowhere itself",
        except: &[],
    },
    Rule {
        folder: "agent/credentials/src",
        words: &["tokio::", "hyper::", "std::net::Tcp", "std::net::Udp", "SystemTime::now", "Instant::now", "std::fs"],
        why: "documents are bytes that somebody has fetched, and time is an argument",
        except: &[],
    },
    Rule {
        folder: "agent/limits/src",
        words: &["tokio::", "hyper::", "std::net::", "SystemTime::now", "Instant::now", "std::fs"],
        why: "it counts, and whoever asks it has the time and the connection",
        except: &[
            ("agent/limits/src/store.rs", "it speaks on a stream that somebody has opened"),
            ("agent/limits/src/store/answers.rs", "it watches that stream"),
        ],
    },
    Rule {
        folder: "agent/src/forward",
        words: &["crate::inbound", "crate::outbound", "crate::exchange", "crate::serve", "policy::decide"],
        why: "a step does not know the story that it is a step of, and what decides is asked by authorize alone",
        except: &[],
    },
    Rule {
        folder: "agent/src",
        words: &["std::fs::", "File::open", "OpenOptions"],
        why: "files are read by config and written by the store",
        except: &[
            ("agent/src/config/mod.rs", "an audit file that is read again is as long as it is"),
            ("agent/src/listener.rs", "a socket's file belongs to the socket"),
            ("agent/src/record/output.rs", "the audit file is appended to, not replaced"),
        ],
    },
    Rule {
        folder: "agent/src",
        words: &["std::env::var", "env::var_os"],
        why: "only config reads the environment",
        except: &[("agent/src/config/secret.rs", "it is part of config")],
    },
    Rule {
        folder: "ca/src",
        words: &["std::env::var", "env::var_os"],
        why: "only config reads the environment",
        except: &[("ca/src/config/passphrase.rs", "it is part of config")],
    },
    Rule {
        folder: "ca/src",
        words: &["key_pair()", "SigningPair"],
        why: "only sign and authority see the CA's key",
        except: &[
            ("ca/src/authority/make.rs", "makes it"),
            ("ca/src/authority/mod.rs", "holds it"),
            ("ca/src/authority/renew.rs", "makes the next one"),
            ("ca/src/sign.rs", "signs with it"),
        ],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Every source file below a folder, by its path from the top.
fn sources(folder: &str) -> Vec<(String, String)> {
    fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root()).unwrap().display().to_string(), text)
    };
    found.into_iter().map(named).collect()
}

/// The text without comments and without its tests, where those stand at its end and not in a file of their own.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// Whether a path is the one of an exception, or below it.
fn is_of(path: &str, excepted: &str) -> bool {
    path == excepted || excepted.ends_with('/') && path.starts_with(excepted)
}

#[test]
fn nobody_names_whom_the_layout_keeps_away() {
    let mut broken = Vec::new();
    for rule in RULES {
        let mut used = Vec::new();
        for (path, text) in sources(rule.folder) {
            let text = code(&text);
            let Some(word) = rule.words.iter().find(|word| text.contains(**word)) else { continue };
            match rule.except.iter().find(|(excepted, _)| is_of(&path, excepted)) {
                Some((excepted, _)) => used.push(*excepted),
                None => broken.push(format!("{path} names {word:?}, but {}", rule.why)),
            }
        }
        let needless = rule.except.iter().filter(|(path, _)| !used.contains(path));
        broken.extend(needless.map(|(path, _)| format!("{path} is excepted needlessly: {}", rule.why)));
    }
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn no_room_has_grown_too_large() {
    let folders = [
        "agent/src",
        "agent/audit/src",
        "agent/conditions/src",
        "agent/credentials/src",
        "agent/limits/src",
        "ca/src",
        "certs/src",
        "examples/src",
        "tests/src",
    ];
    let files = folders.iter().flat_map(|folder| sources(folder));
    let large: Vec<_> = files.filter(|(_, text)| text.lines().count() > LINES_MAX).map(|(path, _)| path).collect();
    assert_eq!(large, Vec::<String>::new(), "longer than {LINES_MAX} lines");
}

#[test]
fn nothing_is_left_undone_in_the_code() {
    let marks =
        ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "todo".to_owned() + "!(", "unimplemented".to_owned() + "!("];
    for folder in ["agent", "ca", "certs", "examples", "tests"] {
        for (path, text) in sources(folder) {
            let found = marks.iter().find(|mark| text.contains(mark.as_str()));
            assert!(found.is_none(), "{path} says {found:?}");
        }
    }
}
