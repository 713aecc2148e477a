// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Migration and snapshots with assigned devices. Two QEMUs with a simulated host each: the
//! devices of both can be migrated, and each device must only do DMA while it is attached to
//! what the guest's registers and tables say.

mod attach;
mod blockers;
mod failures;
mod features;
mod run_state;
mod snapshots;

use serde_json::json;
use smmuv3_qtest::{
    assigned::{sid, ste, Bench, Guest, Setup, EXPLICIT},
    command::TLBI_NSNH_ALL,
    journal::On,
    machine::RAM,
    until, Smmu,
};

use crate::stream::{outcome, permit_downtime, Stream, TemporaryFile};

/// What the devices can do in most tests.
pub const P2P: &str = "stop-copy,p2p";

/// Returns a machine with the devices "d0" in slot 1 and "d1" in slot 2.
pub fn machine() -> Setup {
    on_host("smmu a", EXPLICIT)
}

/// Returns such a machine on another host, and with other properties.
pub fn on_host(lines: &str, properties: &str) -> Setup {
    Setup::on_host(lines, properties)
        .assign_migratable("d0", 1, P2P)
        .assign_migratable("d1", 2, P2P)
}

/// Boots the guest: "d0" gets the first STE of stage 1, "d1" the second.
#[track_caller]
pub fn boot(bench: &Bench) -> Smmu<'_> {
    bench.translating(&[ste::FIRST, ste::SECOND])
}

/// What the host of a guest after [`boot`] has its devices attached to.
pub const BOOTED: [(&str, On); 2] = [
    ("d0", On::Nested(ste::FIRST)),
    ("d1", On::Nested(ste::SECOND)),
];

/// Checks that the guest goes on in this QEMU: it runs, and its commands reach the host.
#[track_caller]
pub fn goes_on(bench: &Bench, when: &str) {
    until("the machine runs", || {
        (bench.machine().status() == "running").then_some(())
    });
    bench.expect_as_configured(when);
    let smmu = Smmu::find(bench.machine());
    smmu.adopt_queue();
    bench.mark();
    smmu.commands(&[TLBI_NSNH_ALL]);
    let batches = bench.journal().batches();
    assert_eq!(batches, [[TLBI_NSNH_ALL]], "{when}");
    smmu.install(sid(1), ste::BYPASS);
    bench.expect(when, &[("d0", On::Bypass)]);
    smmu.install(sid(1), ste::FIRST);
    bench.expect(when, &[("d0", On::Nested(ste::FIRST))]);
}

/// A migration from one QEMU to another that runs.
pub struct Migration<'a> {
    pub source: &'a Bench,
    pub target: &'a Bench,
}

impl Migration<'_> {
    /// Starts it: the source learns whether the target has taken the guest. Returns the socket,
    /// which has to live until the source has connected to it.
    #[track_caller]
    pub fn begin(&self) -> TemporaryFile {
        permit_downtime(self.source.machine());
        self.begin_with_limits()
    }

    /// The same with the limits that the source has.
    #[track_caller]
    fn begin_with_limits(&self) -> TemporaryFile {
        let socket = TemporaryFile::new();
        let uri = format!("unix:{}", socket.path().display());
        for bench in [self.source, self.target] {
            let capability = json!({ "capability": "return-path", "state": true });
            let machine = bench.machine();
            machine.qmp(
                "migrate-set-capabilities",
                json!({ "capabilities": [capability] }),
            );
        }
        let target = self.target.machine();
        let incoming = json!({ "uri": uri, "exit-on-error": false });
        target.qmp("migrate-incoming", incoming);
        self.target.mark();
        self.source.machine().qmp("migrate", json!({ "uri": uri }));
        socket
    }

    /// Makes it, and checks that the target has the guest and runs it.
    #[track_caller]
    pub fn succeeds(&self) {
        let _socket = self.begin();
        let ended = [self.source, self.target].map(|bench| outcome(bench.machine()));
        let logs = [self.source, self.target].map(Bench::messages);
        assert_eq!(ended, [Ok(()), Ok(())], "{logs:?}");
        until("the target runs", || {
            (self.target.machine().status() == "running").then_some(())
        });
        assert_eq!(self.source.machine().status(), "postmigrate");
        self.target.expect_only_as_configured("after the migration");
    }

    /// Makes it, and checks that the target refuses the guest with `words` and that it goes on at
    /// the source.
    #[track_caller]
    pub fn is_refused(&self, words: &str) {
        let _socket = self.begin();
        self.expect_refusal(words);
    }

    /// Makes it, and checks that the target refuses the guest with `words` before the source has
    /// stopped it to send its memory.
    #[track_caller]
    pub fn is_refused_early(&self, words: &str) {
        /// Takes seconds with the limit below
        const BYTES: u64 = 16 << 20;
        let source = self.source.machine();
        source.fill_memory(RAM + (64 << 20), BYTES, 0x5a);
        let limits = json!({ "downtime-limit": 1, "max-bandwidth": 1 << 20 });
        source.qmp("migrate-set-parameters", limits);
        self.source.mark();
        let _socket = self.begin_with_limits();
        let ended = outcome(source);
        assert!(ended.is_err(), "the source has not noticed it");
        {
            let journal = self.source.journal();
            assert_eq!(journal.migration_states("d0"), [""; 0], "it was stopped");
        }
        self.expect_refusal(words);
    }

    #[track_caller]
    fn expect_refusal(&self, words: &str) {
        let refusal = outcome(self.target.machine());
        assert!(refusal.is_err(), "the target has taken the guest");
        let ended = outcome(self.source.machine());
        assert!(ended.is_err(), "the source has not noticed it");
        self.target.expect_message(words);
        goes_on(self.source, "after a failed migration");
    }
}

/// Saves the state of a guest, and ends its QEMU.
#[track_caller]
pub fn saved(bench: Bench) -> Stream {
    let stream = Stream::copy(bench.machine());
    bench.finish_migratable();
    stream
}

/// Loads a state into a QEMU that waits for it. The machine is stopped then.
#[track_caller]
pub fn load(stream: &Stream, bench: &Bench) {
    bench.mark();
    let result = stream.load_into(bench.machine());
    assert_eq!(result, Ok(()), "{:?}", bench.messages());
    assert_eq!(bench.machine().status(), "paused");
}

/// Starts a machine.
#[track_caller]
pub fn start(bench: &Bench) {
    bench.machine().qmp("cont", json!({}));
}
