//! Which old segments go, by age and by size.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Segment, Settings, segments};
use crate::catalogue::AuditRetired;

/// Segments that are to be removed.
pub(super) struct Retired {
    through: u64,
    reason: &'static str,
    files: Vec<PathBuf>,
}

/// Looks at everything before the current segment, which is about to be sealed and stays. The oldest go first, so that what stays has
/// no hole.
pub(super) fn plan(settings: &Settings, current: &Segment, now: SystemTime) -> Option<Retired> {
    let mut kept: Vec<(u64, PathBuf, fs::Metadata)> = segments(&settings.folder)
        .ok()?
        .into_iter()
        .filter(|(number, _)| *number < current.number)
        .filter_map(|(number, path)| Some((number, fs::metadata(&path).ok()?, path)))
        .map(|(number, metadata, path)| (number, path, metadata))
        .collect();
    kept.sort_by_key(|(number, _, _)| *number);
    let mut bytes: u64 = kept.iter().map(|(_, _, metadata)| metadata.len()).sum::<u64>().saturating_add(current.bytes);
    let mut retired: Option<Retired> = None;
    for (number, path, metadata) in kept {
        let age = metadata.modified().ok().and_then(|sealed| now.duration_since(sealed).ok()).unwrap_or_default();
        let reason = match settings {
            Settings { retention: Some(retention), .. } if age > *retention => "age",
            Settings { keep_bytes: Some(limit), .. } if bytes > *limit => "size",
            Settings { .. } => break,
        };
        bytes = bytes.saturating_sub(metadata.len());
        let retired = retired.get_or_insert_with(|| Retired { through: number, reason, files: Vec::new() });
        retired.through = number;
        retired.files.push(path);
    }
    retired
}

impl Retired {
    pub(super) fn event(&self) -> AuditRetired {
        AuditRetired { through: self.through, reason: self.reason.to_owned() }
    }

    /// Removes them. One that cannot be removed stays; it is tried again with the next segment.
    pub(super) fn remove(&self, folder: &Path) {
        for file in &self.files {
            fs::remove_file(file).ok();
        }
        fs::File::open(folder).and_then(|folder| folder.sync_all()).ok();
    }
}
