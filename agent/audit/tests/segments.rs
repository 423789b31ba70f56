//! Segments as an agent writes them, and what an auditor finds out about those that somebody has changed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that finds less than it expects has failed")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use countersign_audit::catalogue::{AuditRecovered, AuditRetired, Entry, Event};
use countersign_audit::chain::Chain;
use countersign_audit::folder::{Folder, FolderError, Settings, file_name, segments};
use countersign_audit::key::AuditKey;
use countersign_audit::verify::{self, End, Report, Verifier};
use proptest::prelude::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_402_800 + seconds)
}

fn settings(folder: &Path) -> Settings {
    Settings {
        folder: folder.join("audit"),
        segment_bytes: 1_000,
        segment_age: Duration::from_secs(3600),
        retention: None,
        keep_bytes: None,
        version: "0.1.0".to_owned(),
        host: "host-a".to_owned(),
    }
}

fn open(settings: &Settings, now: SystemTime) -> Folder {
    let key = AuditKey::load_or_make(settings.folder.parent().unwrap()).unwrap();
    Folder::open(settings.clone(), key, now).unwrap()
}

fn line(number: usize) -> String {
    format!(
        "{{\"schema\":1,\"time\":\"2026-11-23T03:00:00.000000Z\",\"event\":\"unrecorded_refusals\",\"count\":{number}}}\n"
    )
}

fn write(folder: &mut Folder, numbers: std::ops::Range<usize>, now: SystemTime) {
    for number in numbers {
        folder.stage(line(number).as_bytes());
        folder.advance(now).unwrap();
    }
}

/// Several sealed segments.
fn sealed(settings: &Settings) {
    let mut folder = open(settings, at(0));
    write(&mut folder, 0..20, at(1));
    folder.finish(at(2)).unwrap();
}

fn look(settings: &Settings) -> Report {
    verify::folder(&settings.folder, Verifier::new(Vec::new())).unwrap()
}

fn look_closed(settings: &Settings) -> Report {
    verify::folder(&settings.folder, Verifier::new(Vec::new()).closed()).unwrap()
}

fn files(settings: &Settings) -> Vec<PathBuf> {
    segments(&settings.folder).unwrap().into_iter().map(|(_, path)| path).collect()
}

#[track_caller]
fn check_fault(report: &Report, file: &Path, line: u64, what: &str) {
    let fits = |fault: &&verify::Fault| fault.file == file.to_str().unwrap() && fault.line == line;
    let fault = report.faults.iter().find(fits);
    let fault = fault.unwrap_or_else(|| panic!("no fault at {}:{line}: {report:#?}", file.display()));
    assert!(fault.what.contains(what), "{fault:?}");
}

#[test]
fn segments_follow_each_other_and_are_sealed() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let report = look_closed(&settings);
    assert!(report.is_sound(), "{report}");
    assert!(report.segments.len() >= 3, "{report}");
    assert!(report.segments.iter().all(|segment| segment.end == End::Sealed), "{report}");
    let key = AuditKey::load_or_make(place.path()).unwrap().public();
    assert!(verify::folder(&settings.folder, Verifier::new(vec![key])).unwrap().is_sound());
    let numbers: Vec<u64> = report.segments.iter().map(|segment| segment.segment).collect();
    assert_eq!(numbers, (1..=u64::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
}

#[test]
fn a_segment_is_sealed_when_it_is_old_and_not_when_it_is_empty() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let mut folder = open(&settings, at(0));
    folder.advance(at(4000)).unwrap();
    assert_eq!(folder.position().0, 1, "nothing is in it");
    folder.stage(line(1).as_bytes());
    folder.advance(at(4001)).unwrap();
    assert_eq!(folder.position().0, 2);
}

#[test]
fn another_agents_segments_are_not_written_to() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let _first = open(&settings, at(0));
    let key = AuditKey::load_or_make(place.path()).unwrap();
    assert!(matches!(Folder::open(settings, key, at(1)), Err(FolderError::InUse { .. })));
}

/// What is left after a crash: `torn` at the end of a segment that was not sealed.
#[track_caller]
fn check_crash(torn: &[u8], expected_torn: u64) {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let mut folder = open(&settings, at(0));
    write(&mut folder, 0..2, at(1));
    drop(folder);
    let first = files(&settings)[0].clone();
    fs::OpenOptions::new().append(true).open(&first).unwrap().write_all(torn).unwrap();
    let before = fs::read(&first).unwrap();
    assert!(look(&settings).is_sound(), "it may still be written to");
    let mut folder = open(&settings, at(10));
    write(&mut folder, 2..3, at(11));
    folder.finish(at(12)).unwrap();
    assert_eq!(fs::read(&first).unwrap(), before, "what the crash left is as it was");
    let report = look_closed(&settings);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.segments[0].end, End::Recovered);
    assert_eq!(report.segments[0].torn_bytes, expected_torn);
    // Whoever changes the end of it afterwards is found.
    for changed in [&before[..before.len() - 1], &[before.as_slice(), b"x"].concat()] {
        fs::write(&first, changed).unwrap();
        assert!(!look(&settings).is_sound());
    }
}

#[test]
fn a_crash_leaves_a_segment_that_the_next_one_vouches_for() {
    check_crash(b"", 0);
    check_crash(b"{\"schema\":1,\"ti", 15);
    check_crash(&[0; 4096], 4096);
}

#[test]
fn a_crash_before_the_first_line_leaves_nothing_to_lose() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let last = segments(&settings.folder).unwrap().last().unwrap().0;
    for (number, content) in [(last + 1, ""), (last + 2, "{\"sch")] {
        fs::write(settings.folder.join(file_name(number)), content).unwrap();
    }
    let mut folder = open(&settings, at(10));
    folder.finish(at(11)).unwrap();
    let report = look_closed(&settings);
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.segments.last().unwrap().segment, last + 4, "what was found has a segment of its own");
}

#[test]
fn old_segments_are_removed_and_it_is_said_before() {
    for (retention, keep_bytes) in [(Some(Duration::ZERO), None), (None, Some(4_000))] {
        let place = tempfile::tempdir().unwrap();
        let settings = Settings { retention, keep_bytes, ..settings(place.path()) };
        let mut folder = open(&settings, at(0));
        // Files have the time of the machine, which is before this.
        write(&mut folder, 0..40, at(1_000_000_000));
        let report = look(&settings);
        assert!(report.is_sound() && report.segments[0].segment > 1, "while it runs: {report}");
        folder.finish(at(1_000_000_001)).unwrap();
        let report = look_closed(&settings);
        assert!(report.is_sound(), "{report}");
        assert!(report.segments[0].segment > 1, "{report}");
        let kept: u64 = files(&settings).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(kept < 9_000, "{kept}");
        // One more than was said is a theft.
        fs::remove_file(&files(&settings)[0]).unwrap();
        assert!(!look(&settings).is_sound());
    }
}

#[test]
fn lines_are_the_same_with_and_without_their_values() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let text: String = files(&settings).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for number in 0..20 {
        let line = line(number).replace("}\n", ",\"chain\":");
        assert_eq!(text.matches(&line).count(), 1, "{line}");
    }
}

/// What a thief may do, and where it is found. `place` is told how many lines there were.
#[test]
fn what_was_done_to_a_segment_is_found_where_it_was_done() {
    let check = |change: &dyn Fn(&mut Vec<String>), place: &dyn Fn(u64) -> u64, what: &str| {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(folder.path());
        sealed(&settings);
        let second = files(&settings)[1].clone();
        let text = fs::read_to_string(&second).unwrap();
        let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
        let count = u64::try_from(lines.len()).unwrap();
        change(&mut lines);
        let joined: String = lines.iter().map(|line| line.clone() + "\n").collect();
        fs::write(&second, joined).unwrap();
        check_fault(&look(&settings), &second, place(count), what);
    };
    check(&|lines| lines[2] = lines[2].replace("\"count\":", "\"count\":1"), &|_| 3, "does not follow");
    check(&|lines| drop(lines.remove(2)), &|_| 3, "does not follow");
    check(&|lines| lines.insert(2, lines[2].clone()), &|_| 4, "does not follow");
    check(&|lines| lines.swap(2, 3), &|_| 3, "does not follow");
    check(&|lines| drop(lines.pop()), &|count| count, "its end is missing");
    check(&|lines| lines.truncate(2), &|_| 3, "its end is missing");
    check(&|lines| lines.push(lines[2].clone()), &|count| count + 1, "something follows the seal");
    check(&|lines| drop(lines.remove(0)), &|_| 1, "begins with audit_opened");
}

#[test]
fn a_chain_that_was_made_anew_lacks_the_signature() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let key = AuditKey::load_or_make(place.path()).unwrap().public();
    // The thief has everything but the key: the same program, and the lines without the one that he does not like.
    let forged = Settings { folder: place.path().join("forged/audit"), ..settings.clone() };
    let mut folder = open(&forged, at(0));
    write(&mut folder, 0..7, at(1));
    write(&mut folder, 8..20, at(1));
    folder.finish(at(2)).unwrap();
    drop(folder);
    let report = verify::folder(&forged.folder, Verifier::new(vec![key])).unwrap();
    check_fault(&report, &files(&forged)[0], 1, "none of the known ones");
    assert!(report.faults.iter().any(|fault| fault.what.contains("signature of the seal is wrong")), "{report}");
    assert!(look(&forged).is_sound(), "without the key nobody can tell");
}

#[test]
fn segments_that_are_missing_are_named() {
    let check = |index: usize, fault_in: usize, what: &str| {
        let place = tempfile::tempdir().unwrap();
        let settings = settings(place.path());
        sealed(&settings);
        let files = files(&settings);
        fs::remove_file(&files[index]).unwrap();
        check_fault(&look(&settings), &files[fault_in], 0, what);
    };
    check(0, 1, "the segments before 2 are missing");
    check(1, 2, "segment 2 before it is missing");
}

#[test]
fn what_is_missing_at_the_end_is_missed_by_whoever_knows_a_later_value() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let last = look(&settings).last.unwrap();
    fs::remove_file(files(&settings).last().unwrap()).unwrap();
    assert!(look(&settings).is_sound());
    let report = verify::folder(&settings.folder, Verifier::new(Vec::new()).expect(last)).unwrap();
    assert!(report.faults[0].what.contains(&last.to_string()), "{report}");
    let there = report.last.unwrap();
    assert!(verify::folder(&settings.folder, Verifier::new(Vec::new()).expect(there)).unwrap().is_sound());
}

#[test]
fn what_is_not_sealed_and_who_was_believed_is_said() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let mut folder = open(&settings, at(0));
    write(&mut folder, 0..2, at(1));
    let (report, open) = (look(&settings), fs::read_to_string(&files(&settings)[0]).unwrap());
    assert!(report.is_sound() && report.key_from_segments);
    assert_eq!(report.unsealed_lines, u64::try_from(open.lines().count()).unwrap());
    let text = report.to_string();
    for part in ["no key was given", "nothing is sealed yet: the 3 lines prove nothing"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    folder.finish(at(2)).unwrap();
    let key = AuditKey::load_or_make(place.path()).unwrap().public();
    let report = verify::folder(&settings.folder, Verifier::new(vec![key])).unwrap();
    assert_eq!((report.unsealed_lines, report.key_from_segments), (0, false));
    let text = report.to_string();
    assert!(text.contains("nothing was changed; the chain ends with") && !text.contains("no key"), "{text}");
}

/// What somebody writes who can write files, but has no key: a chain, without a seal.
struct Forger {
    chain: Chain,
    lines: u64,
    bytes: Vec<u8>,
}

impl Forger {
    /// Goes on after the last line of a file, as `lines` of its own.
    fn after(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap();
        let value = text.trim_end().rsplit_once("\"chain\":\"").unwrap().1.trim_end_matches("\"}");
        Self { chain: Chain::after(value.parse().unwrap()), lines: 0, bytes: Vec::new() }
    }

    fn line(&mut self, line: &str) {
        self.lines += 1;
        self.chain.append(line.as_bytes(), &mut self.bytes).unwrap();
    }

    fn event(&mut self, event: Event) {
        self.line(&Entry::new(event, at(5)).to_line());
    }

    /// The first line of a segment, as another has it.
    fn opened(&mut self, like: &Path, number: u64) {
        let text = fs::read_to_string(like).unwrap();
        let mut entry = Entry::parse(text.lines().next().unwrap()).unwrap();
        let Event::AuditOpened(opened) = &mut entry.event else { panic!("{text}") };
        (opened.segment, opened.previous) = (number, self.chain.last());
        entry.chain = None;
        self.line(&entry.to_line());
    }

    /// That a segment which holds `lines` and ends here was found so.
    fn found(&self, segment: u64) -> AuditRecovered {
        let torn_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".parse().unwrap();
        AuditRecovered { segment, lines: self.lines, last: self.chain.last(), torn_bytes: 0, torn_sha256 }
    }

    fn write_to(&mut self, file: &Path) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
        file.write_all(&std::mem::take(&mut self.bytes)).unwrap();
        self.lines = 0;
    }
}

fn look_with_key(settings: &Settings) -> Report {
    let key = AuditKey::load_or_make(settings.folder.parent().unwrap()).unwrap().public();
    verify::folder(&settings.folder, Verifier::new(vec![key])).unwrap()
}

#[test]
fn a_log_without_any_seal_proves_nothing_whatever_it_says_of_crashes() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let real = files(&settings);
    let first = real[0].clone();
    let (mut forger, mut found) = (Forger { chain: Chain::beginning(), lines: 0, bytes: Vec::new() }, Vec::new());
    let copy = place.path().join("copy");
    fs::copy(&first, &copy).unwrap();
    for (number, file) in (1..).zip(&real) {
        fs::remove_file(file).unwrap();
        forger.opened(&copy, number);
        forger.line(line(1).trim_end());
        found.push(forger.found(number));
        forger.write_to(file);
    }
    let last = settings.folder.join(file_name(u64::try_from(real.len()).unwrap() + 1));
    forger.opened(&copy, u64::try_from(real.len()).unwrap() + 1);
    found.into_iter().for_each(|found| forger.event(Event::AuditRecovered(found)));
    forger.write_to(&last);
    let report = look_with_key(&settings);
    check_fault(&report, &first, 3, "no sealed line says why");
    // One segment alone may be open, and then nothing at all is said of its lines.
    real[1..].iter().chain([&last]).for_each(|file| fs::remove_file(file).unwrap());
    let report = look_with_key(&settings);
    assert!(report.is_sound(), "{report}");
    assert!(report.to_string().contains("nothing is sealed yet: the 2 lines prove nothing"), "{report}");
}

#[test]
fn segments_are_not_missed_only_if_a_sealed_line_says_that_they_were_removed() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    sealed(&settings);
    let files = files(&settings);
    let (next, mut forger) = (u64::try_from(files.len()).unwrap() + 1, Forger::after(files.last().unwrap()));
    forger.opened(&files[0], next);
    forger.event(Event::AuditRetired(AuditRetired { through: 2, reason: "age".to_owned() }));
    forger.write_to(&settings.folder.join(file_name(next)));
    assert!(look_with_key(&settings).is_sound(), "nothing is missing");
    files[..2].iter().for_each(|file| fs::remove_file(file).unwrap());
    check_fault(&look_with_key(&settings), &files[2], 0, "no sealed line says that they were removed");
    // The agent does not make it true by going on after it.
    open(&settings, at(10)).finish(at(11)).unwrap();
    check_fault(&look_with_key(&settings), &files[2], 0, "no sealed line says that they were removed");
}

#[test]
fn what_was_written_between_a_crash_and_the_next_start_is_not_called_unchanged() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let mut folder = open(&settings, at(0));
    write(&mut folder, 0..2, at(1));
    drop(folder);
    let file = files(&settings)[0].clone();
    let mut forger = Forger::after(&file);
    forger.line(line(999).trim_end());
    forger.write_to(&file);
    open(&settings, at(10)).finish(at(11)).unwrap();
    let text = look_closed(&settings).to_string();
    assert!(!text.contains("nothing was changed"), "{text}");
    assert!(text.contains("nothing that is sealed was changed; 4 lines of segments that were recovered"), "{text}");
}

#[test]
fn an_agent_that_runs_again_after_a_crash_has_no_fault() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    for start in 0..3 {
        let mut folder = open(&settings, at(10 * start));
        write(&mut folder, 0..2, at(10 * start + 1));
    }
    let report = look_with_key(&settings);
    assert!(report.is_sound(), "{report}");
    let ends: Vec<End> = report.segments.iter().map(|segment| segment.end).collect();
    assert_eq!(ends, [End::Recovered, End::Sealed, End::Recovered, End::Sealed, End::Open], "{report}");
    assert_eq!((report.recovered_lines, report.unsealed_lines), (6, 3));
    let text = report.to_string();
    for part in ["6 lines of segments that were recovered", "the last 3 lines are not sealed yet, and prove nothing"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_crash_before_the_finding_of_another_is_sealed_loses_nothing() {
    let place = tempfile::tempdir().unwrap();
    let settings = settings(place.path());
    let mut folder = open(&settings, at(0));
    write(&mut folder, 0..2, at(1));
    drop(folder);
    drop(open(&settings, at(10)));
    // As it is when the machine stops while the second begins: its first line is there, and the second or nothing else.
    let whole: Vec<PathBuf> = files(&settings);
    let second = fs::read_to_string(&whole[1]).unwrap();
    for lines in [1, 2] {
        whole[2..].iter().for_each(|file| drop(fs::remove_file(file)));
        let left: String = second.split_inclusive('\n').take(lines).collect();
        fs::write(&whole[1], left).unwrap();
        assert!(!look_closed(&settings).is_sound());
        open(&settings, at(20)).finish(at(21)).unwrap();
        let report = look_closed(&settings);
        assert!(report.is_sound(), "{report}");
        let ends: Vec<End> = report.segments.iter().map(|segment| segment.end).collect();
        assert_eq!(ends, [End::Recovered, End::Recovered, End::Sealed, End::Sealed], "{report}");
        files(&settings)[2..].iter().for_each(|file| fs::remove_file(file).unwrap());
    }
}

/// The contents of several sealed segments, made once.
fn contents() -> &'static [Vec<u8>] {
    static CONTENTS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    CONTENTS.get_or_init(|| {
        let place = tempfile::tempdir().unwrap();
        let settings = settings(place.path());
        sealed(&settings);
        files(&settings).iter().map(|file| fs::read(file).unwrap()).collect()
    })
}

fn look_at(contents: &[Vec<u8>]) -> Report {
    let mut verifier = Verifier::new(Vec::new()).closed();
    for (number, content) in (1..).zip(contents) {
        verifier.segment(&number.to_string(), number, content.as_slice()).unwrap();
    }
    verifier.finish()
}

#[test]
fn each_changed_byte_is_found() {
    assert!(look_at(contents()).is_sound());
    for segment in 0..contents().len() {
        for place in 0..contents()[segment].len() {
            let mut changed = contents().to_vec();
            // Bit 5 makes another letter of the same hexadecimal digit, and bit 0 another character.
            changed[segment][place] ^= if place % 2 == 0 { 0x20 } else { 1 };
            assert!(!look_at(&changed).is_sound(), "byte {place} of segment {segment}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_change_is_found(segment in 0..3_usize, first in any::<prop::sample::Index>(), second in any::<prop::sample::Index>(),
                           byte in any::<u8>(), kind in 0..6) {
        let mut changed = contents().to_vec();
        let content = &mut changed[segment];
        let mut lines: Vec<Vec<u8>> = content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        match kind {
            0 => content[first.index(contents()[segment].len())] = byte,
            1 => content.insert(first.index(contents()[segment].len() + 1), byte),
            2 => drop(content.remove(first.index(contents()[segment].len()))),
            3 => content.truncate(first.index(contents()[segment].len())),
            4 => drop(lines.remove(first.index(lines.len()))),
            _ => { let count = lines.len(); lines.swap(first.index(count), second.index(count)) }
        }
        if kind >= 4 {
            *content = lines.concat();
        }
        prop_assert_eq!(look_at(&changed).is_sound(), changed == contents());
    }
}
