// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The end of a migration, and files for its state.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::json;

use crate::{until, Machine};

/// Waits until a migration has ended.
///
/// # Errors
///
/// QEMU's reason, if the migration has failed.
#[track_caller]
pub fn outcome(machine: &Machine) -> Result<(), String> {
    until("end of the migration", || {
        let state = machine.qmp("query-migrate", json!({}));
        match state["status"].as_str() {
            Some("completed") => Some(Ok(())),
            Some("failed") => Some(Err(state["error-desc"].to_string())),
            _ => None,
        }
    })
}

/// A file that is deleted with the test.
pub struct TemporaryFile(PathBuf);

impl TemporaryFile {
    /// Returns a name for a file that does not exist yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("smmuv3-state-{}-{number}", process::id());
            let path = env::temp_dir().join(name);
            // a process that was killed, and had this number, has left its file
            if !path.exists() {
                return Self(path);
            }
        }
    }

    /// Returns its name.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns its URI for `migrate` and `-incoming`.
    pub fn uri(&self) -> String {
        format!("file:{}", self.0.display())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
