// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! A live update of QEMU (`cpr-transfer`). The old QEMU's state passes through the test, which
//! can change it.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
};

use serde_json::{json, Value};

use crate::{
    migration::{outcome, TemporaryFile},
    qemu, until, Builder, Machine,
};

/// The header of the subsection of assigned devices: its mark, its name with the length,
/// version 1.
const HEADER: &[u8] = b"\x05\x0asmmuv3/cpr\0\0\0\x01";

/// Returns a `virt` machine whose QEMU can be updated: its memory is in files.
pub fn builder() -> Builder {
    Builder::virt_with(qemu(), "memory-backend=ram,aux-ram-share=on")
        .args(["-object", "memory-backend-memfd,id=ram,size=128M,share=on"])
}

fn channel(kind: &str, file: &TemporaryFile) -> Value {
    json!({
        "channel-type": kind,
        "addr": { "transport": "socket", "type": "unix", "path": file.path() },
    })
}

/// The sockets of a live update.
pub struct Update {
    files: TemporaryFile,
    from_old: TemporaryFile,
    to_new: TemporaryFile,
    listener: UnixListener,
}

impl Update {
    /// Returns sockets that no QEMU uses yet.
    #[track_caller]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let from_old = TemporaryFile::new();
        Self {
            files: TemporaryFile::new(),
            to_new: TemporaryFile::new(),
            listener: UnixListener::bind(from_old.path()).expect("a socket"),
            from_old,
        }
    }

    /// Returns the arguments of the new QEMU.
    pub fn arguments(&self) -> [String; 4] {
        let incoming = "-incoming".to_owned();
        let files = channel("cpr", &self.files).to_string();
        [incoming.clone(), "defer".to_owned(), incoming, files]
    }

    /// Has `old` send its files to a new QEMU that was started with
    /// [`arguments`](Self::arguments), and that answers nothing before. The guest still runs in
    /// `old`.
    #[track_caller]
    pub fn send_files(&self, old: &Machine) {
        old.qmp("migrate-set-parameters", json!({ "mode": "cpr-transfer" }));
        let channels =
            json!({ "channels": [channel("main", &self.from_old), channel("cpr", &self.files)] });
        // fails until the new QEMU listens
        until("the new QEMU", || {
            old.try_qmp("migrate", channels.clone()).ok()
        });
    }

    /// Has `new` ask for the state: the guest stops in `old`, and the state comes to the test.
    ///
    /// # Errors
    ///
    /// The reason why `old` has not sent all of it.
    #[track_caller]
    pub fn state(self, old: &Machine, new: &Machine) -> Result<State, String> {
        let uri = format!("unix:{}", self.to_new.path().display());
        new.qmp(
            "migrate-incoming",
            json!({ "uri": uri, "exit-on-error": false }),
        );
        let to_new = UnixStream::connect(self.to_new.path()).expect("a connection");
        let mut bytes = Vec::new();
        let (mut connection, _) = self.listener.accept().expect("the old QEMU connects");
        connection.read_to_end(&mut bytes).expect("the state");
        outcome(old)?;
        Ok(State { bytes, to_new })
    }
}

/// The state of a machine on its way from the old QEMU to the new one.
pub struct State {
    bytes: Vec<u8>,
    to_new: UnixStream,
}

impl State {
    /// Returns the offset of the fields of each subsection of assigned devices, one for each SMMU.
    pub fn subsections(&self) -> Vec<usize> {
        let windows = self.bytes.windows(HEADER.len()).enumerate();
        windows
            .filter(|(_, window)| *window == HEADER)
            .map(|(at, _)| at + HEADER.len())
            .collect()
    }

    /// Returns a byte of the first subsection.
    #[track_caller]
    pub fn byte(&self, offset: usize) -> u8 {
        self.bytes[self.subsections()[0] + offset]
    }

    /// Replaces bytes of the subsection of an SMMU.
    #[track_caller]
    pub fn replace(&mut self, smmu: usize, offset: usize, bytes: &[u8]) {
        let at = self.subsections()[smmu] + offset;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Drops everything from `offset` of the first subsection on.
    #[track_caller]
    pub fn truncate(&mut self, offset: usize) {
        let at = self.subsections()[0] + offset;
        self.bytes.truncate(at);
    }

    /// Sends the state to the new QEMU.
    ///
    /// # Errors
    ///
    /// QEMU's reason, if it does not take the state.
    #[track_caller]
    pub fn send(mut self, new: &Machine) -> Result<(), String> {
        // The new QEMU may close the connection in the middle.
        let _ = self.to_new.write_all(&self.bytes);
        drop(self.to_new);
        outcome(new)
    }
}

/// Offsets of fields in a subsection.
pub mod field {
    /// There is a state
    pub const IS_PRESENT: usize = 0;
    /// The register `IDR3`
    pub const IDR3: usize = 1 + 3 * 4;
    /// The vIOMMU
    pub const VIOMMU_ID: usize = 1 + 8 * 4 + 3;
    /// Its stage 2
    pub const STAGE2_ID: usize = VIOMMU_ID + 3 * 4;
    /// VFIO has made that
    pub const IS_STAGE2_VFIOS: usize = STAGE2_ID + 4;
    /// The vEVENTQ
    pub const VEVENTQ_ID: usize = IS_STAGE2_VFIOS + 3 + 2 * 8 + 13;
    /// Number of devices
    pub const STREAM_COUNT: usize = VEVENTQ_ID + 4 + 1 + 4 + 4;
}
