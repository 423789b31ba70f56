//! Tests of a key's life: made, found, rotated, switched off and on, ended, stored and read again.

use std::time::Duration;

use countersign_certs::time::Timestamp;

use super::file::FILE_BYTES_MAX;
use super::record::RecordError;
use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_800_000_000);

fn at(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

fn digest(number: u8) -> KeyDigest {
    format!("{number:02x}").repeat(32).parse().unwrap()
}

fn id(number: u8) -> KeyId {
    format!("key_{number:016}").parse().unwrap()
}

fn new_key() -> NewKey {
    NewKey { owner: "ada@prod.example".to_owned(), roles: vec!["batch".to_owned()], ..NewKey::default() }
}

/// A file with one key: name 1, secret 1.
fn file() -> KeyFile {
    let mut file = KeyFile::default();
    file.create(id(1), new_key(), digest(1), NOW).unwrap();
    file
}

/// What showing a secret tells, from the file as it would be read again.
fn state(file: &KeyFile, secret: u8, now: Timestamp) -> Option<KeyState> {
    let read = KeyFile::parse(&file.to_json().unwrap()).unwrap();
    assert_eq!(read, *file);
    KeyIndex::new(&read).find(&digest(secret)).map(|found| found.state(now))
}

#[test]
fn a_new_key_is_found_by_its_secret_alone() {
    let file = file();
    assert_eq!(state(&file, 1, NOW), Some(KeyState::Active));
    assert_eq!(state(&file, 2, NOW), None);
    let index = KeyIndex::new(&file);
    let found = index.find(&digest(1)).unwrap();
    assert_eq!((found.key.id.clone(), found.secret.digest, found.not_after()), (id(1), digest(1), None));
    assert_eq!((index.len(), index.is_empty(), KeyIndex::default().is_empty()), (1, false, true));
}

#[test]
fn a_key_that_expires_is_refused_from_that_second_on() {
    let mut file = KeyFile::default();
    let new = NewKey { expires: Some(at(10)), ..new_key() };
    file.create(id(1), new, digest(1), NOW).unwrap();
    assert_eq!(state(&file, 1, at(9)), Some(KeyState::Active));
    assert_eq!(state(&file, 1, at(10)), Some(KeyState::Expired(at(10))));
    assert_eq!(KeyIndex::new(&file).find(&digest(1)).unwrap().not_after(), Some(at(9)));
    file.rotate(&id(1), digest(2), Duration::from_secs(5), NOW).unwrap();
    assert_eq!(KeyIndex::new(&file).find(&digest(1)).unwrap().not_after(), Some(at(5)));
    assert_eq!(KeyIndex::new(&file).find(&digest(2)).unwrap().not_after(), Some(at(9)));
    let late = NewKey { expires: Some(NOW), ..new_key() };
    let refused = file.create(id(2), late, digest(9), NOW).unwrap_err();
    assert_eq!(refused, EditError::ExpiresInPast { expires: NOW, now: NOW });
}

#[test]
fn both_secrets_are_accepted_until_the_overlap_ends() {
    let mut file = file();
    let rotated = file.rotate(&id(1), digest(2), Duration::from_secs(60), NOW).unwrap();
    assert_eq!(rotated.before_ends, Some(at(60)));
    assert_eq!(state(&file, 1, at(60)), Some(KeyState::Active));
    assert_eq!(state(&file, 1, at(61)), Some(KeyState::Replaced(at(60))));
    assert_eq!(state(&file, 2, at(61)), Some(KeyState::Active));

    let again = file.rotate(&id(1), digest(3), Duration::ZERO, at(60)).unwrap_err();
    assert_eq!(again, EditError::Rotating { id: id(1), until: at(60) });
    file.rotate(&id(1), digest(3), Duration::from_secs(60), at(61)).unwrap();
    assert_eq!(state(&file, 1, at(61)), None, "the oldest is forgotten");
    assert_eq!(state(&file, 2, at(121)), Some(KeyState::Active));
    assert_eq!(state(&file, 3, at(200)), Some(KeyState::Active));
}

#[test]
fn a_rotation_without_overlap_ends_the_secret_at_once() {
    let mut file = file();
    assert_eq!(file.rotate(&id(1), digest(2), Duration::ZERO, NOW), Ok(Rotated { before_ends: None }));
    assert_eq!((state(&file, 1, NOW), state(&file, 2, NOW)), (None, Some(KeyState::Active)));
}

#[test]
fn a_disabled_key_can_be_enabled_and_a_revoked_one_never() {
    let mut file = file();
    assert_eq!(file.enable(&id(1)), Err(EditError::AlreadyEnabled(id(1))));
    assert_eq!(file.disable(&id(1), at(1)), Ok(()));
    assert_eq!(state(&file, 1, at(2)), Some(KeyState::Disabled(at(1))));
    assert_eq!(file.disable(&id(1), at(2)), Err(EditError::Disabled { id: id(1), since: at(1) }));
    assert_eq!(file.enable(&id(1)), Ok(at(1)));
    assert_eq!(state(&file, 1, at(2)), Some(KeyState::Active));

    assert_eq!(file.disable(&id(1), at(3)), Ok(()));
    assert_eq!(file.revoke(&id(1), at(4)), Ok(()));
    assert_eq!(state(&file, 1, at(4)), Some(KeyState::Revoked(at(4))));
    let revoked = Err(EditError::Revoked { id: id(1), since: at(4) });
    assert_eq!(file.revoke(&id(1), at(5)), revoked);
    assert_eq!(file.disable(&id(1), at(5)), revoked);
    assert_eq!(file.enable(&id(1)), revoked.clone().map(|()| NOW));
    assert_eq!(file.rotate(&id(1), digest(2), Duration::ZERO, at(5)).map(drop), revoked);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let mut changed = file();
    let unknown = EditError::Unknown(id(2));
    assert_eq!(changed.revoke(&id(2), NOW), Err(unknown.clone()));
    assert_eq!(changed.disable(&id(2), NOW), Err(unknown.clone()));
    assert_eq!(changed.rotate(&id(2), digest(2), Duration::ZERO, NOW), Err(unknown));
    assert_eq!(changed.create(id(1), new_key(), digest(2), NOW), Err(EditError::Known));
    assert_eq!(changed.create(id(2), new_key(), digest(1), NOW), Err(EditError::Known));
    assert_eq!(changed.rotate(&id(1), digest(1), Duration::ZERO, NOW), Err(EditError::Known));
    let asked = edit::OVERLAP_MAX + Duration::from_secs(1);
    let refused = changed.rotate(&id(1), digest(2), asked, NOW).unwrap_err();
    assert_eq!(refused.to_string(), "two secrets side by side for 91 days; the most is 90 days");
    assert_eq!(changed, file());
    assert!(changed.rotate(&id(1), digest(2), edit::OVERLAP_MAX, NOW).is_ok());
}

#[test]
fn a_key_that_nobody_could_read_again_is_not_made() {
    let check = |new: NewKey, expected: RecordError| {
        let refused = KeyFile::default().create(id(1), new, digest(1), NOW).unwrap_err();
        assert_eq!(refused, EditError::Record(expected));
    };
    let name = |field, text: &str| RecordError::Name { field, text: text.to_owned() };
    let many = || vec!["x".to_owned(); 65];
    check(NewKey::default(), name("owner", ""));
    check(NewKey { owner: "a\nb".to_owned(), ..new_key() }, name("owner", "a\nb"));
    check(NewKey { owner: "o".repeat(257), ..new_key() }, name("owner", &"o".repeat(256)));
    check(NewKey { team: Some(String::new()), ..new_key() }, name("team", ""));
    check(NewKey { roles: many(), ..new_key() }, RecordError::TooMany { list: "roles", count: 65 });
    check(NewKey { routes: Some(vec![]), ..new_key() }, RecordError::Empty { list: "routes" });
    check(NewKey { methods: Some(vec![]), ..new_key() }, RecordError::Empty { list: "methods" });
    check(NewKey { limits: Some(many()), ..new_key() }, RecordError::TooMany { list: "limits", count: 65 });
    check(NewKey { limits: Some(vec![String::new()]), ..new_key() }, name("limits", ""));
    check(NewKey { note: "n".repeat(1025), ..new_key() }, RecordError::Note);
    let largest =
        NewKey { owner: "o".repeat(256), roles: vec!["r".to_owned(); 64], note: "n".repeat(1024), ..new_key() };
    assert!(KeyFile::default().create(id(1), largest, digest(1), NOW).is_ok());
}

/// A file of one key whose text is changed before it is read.
#[track_caller]
fn check_read(from: &str, to: &str, expected: &str) {
    let json = String::from_utf8(file().to_json().unwrap()).unwrap();
    assert!(json.contains(from), "{json}");
    let error = KeyFile::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error}: {source}").contains(expected), "{error}: {source}");
}

#[test]
fn a_file_that_says_anything_else_is_refused() {
    check_read("\"version\": 1", "\"version\": 2", "version 2; this program reads version 1");
    check_read("\"owner\"", "\"ovner\"", "unknown field `ovner`");
    check_read("\"owner\"", "\"team\": \"x\", \"team\": \"y\", \"owner\"", "duplicate field `team`");
    check_read("\"owner\": \"ada@prod.example\"", "\"owner\": \"\"", "owner must have");
    check_read("\"secrets\": [", "\"note\": [], \"secrets\": [", "invalid type");
    check_read(&digest(1).to_string(), &digest(1).to_string().replacen("01", "0", 1), "is no fingerprint");
    check_read(id(1).as_str(), "key_000000000000000", "is no key; the name of one is key_ and 16");
    check_read(id(1).as_str(), "key_000000000000000A", "is no key");
    check_read("\n  ]\n}\n", "\n  ]\n} {}", "trailing characters");
}

#[test]
fn two_keys_never_share_a_name_or_a_secret() {
    let mut other = file();
    other.keys.push(KeyRecord { id: id(2), ..other.keys[0].clone() });
    let error = KeyFile::parse(&other.to_json().unwrap()).unwrap_err();
    assert!(matches!(&error, KeyFileError::Digest { first, second } if (first, second) == (&id(1), &id(2))), "{error}");
    other.keys[1] = KeyRecord {
        secrets: vec![KeySecret { digest: digest(2), created: NOW, not_after: None }],
        ..other.keys[0].clone()
    };
    let error = KeyFile::parse(&other.to_json().unwrap()).unwrap_err();
    assert!(matches!(&error, KeyFileError::Id(twice) if *twice == id(1)), "{error}");
}

#[test]
fn a_key_has_one_secret_in_use_and_one_before_at_most() {
    let check = |ends: &[Option<u64>], expected: Option<RecordError>| {
        let mut file = file();
        let secret = |(number, end): (usize, &Option<u64>)| KeySecret {
            digest: digest(u8::try_from(number).unwrap()),
            created: NOW,
            not_after: end.map(at),
        };
        file.keys[0].secrets = ends.iter().enumerate().map(secret).collect();
        match (KeyFile::parse(&file.to_json().unwrap()), expected) {
            (Err(KeyFileError::Record { source, .. }), Some(expected)) => assert_eq!(source, expected),
            (read, expected) => assert_eq!(read.ok(), expected.is_none().then_some(file)),
        }
    };
    check(&[], Some(RecordError::Secrets { count: 0 }));
    check(&[None], None);
    check(&[Some(5)], Some(RecordError::Current { count: 0 }));
    check(&[None, None], Some(RecordError::Current { count: 2 }));
    check(&[Some(5), None], None);
    check(&[Some(4), Some(5), None], Some(RecordError::Secrets { count: 3 }));
}

#[test]
fn files_have_bounds() {
    assert_eq!(FILE_BYTES_MAX, 67_108_864);
    let large = vec![b' '; FILE_BYTES_MAX + 1];
    assert!(matches!(KeyFile::parse(&large), Err(KeyFileError::Bytes { .. })));
    let one = file().keys[0].clone();
    let mut full = KeyFile { keys: vec![one.clone(); file::KEYS_MAX] };
    assert!(!matches!(full.check(), Err(KeyFileError::Keys { .. })), "there is room for so many");
    assert_eq!(full.create(id(200), new_key(), digest(255), NOW), Err(EditError::Full));
    full.keys.push(one);
    assert!(matches!(full.check(), Err(KeyFileError::Keys { count: 100_001 })));
    let mut large = file();
    large.keys[0].note = "n".repeat(FILE_BYTES_MAX);
    assert!(matches!(large.to_json(), Err(KeyFileError::Bytes { .. })), "it would never be read again");
}

#[test]
fn names_of_keys_read_as_they_print() {
    let id = KeyId::generate().unwrap();
    assert_eq!(id.to_string().parse(), Ok(id.clone()));
    assert_ne!(KeyId::generate().unwrap(), id);
    for text in ["", "key_", "0123456789abcdef", "key_0123456789abcde", "key_0123456789abcdefg", "key_0123456789abcde/"]
    {
        assert!(text.parse::<KeyId>().is_err(), "{text}");
    }
}

#[test]
fn what_becomes_of_a_key_is_told_once_and_nothing_else_is() {
    let mut file = file();
    file.create(id(2), new_key(), digest(2), NOW).unwrap();
    let mut before = KeyIndex::new(&file);
    let mut told = |file: &KeyFile| {
        let now = KeyIndex::new(file);
        let changes = now.changes_since(&before);
        let changes: Vec<_> = changes.iter().map(|change| (change.key.id.clone(), change.kind)).collect();
        before = now;
        changes
    };
    assert_eq!(told(&file), []);
    file.disable(&id(1), NOW).unwrap();
    assert_eq!(told(&file), [(id(1), KeyChangeKind::Disabled)]);
    assert_eq!(told(&file), [], "it still is");
    file.enable(&id(1)).unwrap();
    assert_eq!(told(&file), [(id(1), KeyChangeKind::Enabled)]);
    file.rotate(&id(2), digest(3), Duration::from_secs(60), NOW).unwrap();
    assert_eq!(told(&file), [(id(2), KeyChangeKind::Rotated)]);
    file.create(id(3), new_key(), digest(4), NOW).unwrap();
    file.revoke(&id(1), NOW).unwrap();
    assert_eq!(told(&file), [(id(1), KeyChangeKind::Revoked), (id(3), KeyChangeKind::Created)]);
    assert_eq!(told(&file), []);
}
