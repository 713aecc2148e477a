// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Streams that no device can have saved: the destination reports an error and
//! exits with a status, not by a signal. The C device accepts them and computes
//! shifts and addresses from them.

use std::os::unix::process::ExitStatusExt;

use smmuv3_qtest::{qemu, qemu_c};

use crate::{
    guest::{Form, Guest, Table},
    stream::{field, Stream},
};

const GUEST: Guest = Guest {
    form: Form::Device,
    table: Table::TwoLevels,
};

/// Returns a valid stream of the C device.
fn sound() -> Stream {
    let machine = GUEST.form.builder(qemu_c()).start();
    GUEST.run_to_state(&machine);
    Stream::save(machine)
}

/// Checks that a QEMU that is started with `stream` exits at once, with all of
/// `words` in its last line.
#[track_caller]
fn refused(stream: &Stream, words: &[&str]) {
    let file = stream.write();
    let finished = GUEST
        .form
        .builder(qemu())
        .args(["-incoming", &file.uri()])
        .run();
    assert_eq!(finished.status.signal(), None, "{finished}");
    assert_eq!(finished.status.code(), Some(1), "{finished}");
    for word in words {
        assert!(finished.stderr.contains(word), "no {word:?} in\n{finished}");
    }
}

#[track_caller]
fn refused_values(name: &str, values: &[u64]) {
    let stream = sound();
    for value in values {
        let damaged = stream.with(field(name), *value);
        refused(&damaged, &["smmuv3.1: ", "damaged", name]);
    }
}

#[test]
fn valid_vmstate_is_accepted() {
    let machine = sound().load(GUEST.form.builder(qemu()));
    GUEST.resume(&machine);
}

#[test]
fn vmstate_with_unknown_features_is_refused() {
    refused_values("features", &[0xffff_ffff, 2, 0x8000_0001, 3]);
}

#[test]
fn vmstate_with_invalid_split_is_refused() {
    refused_values("sid_split", &[200, 255, 1, 7, 11, 12, 64]);
}

#[test]
fn vmstate_with_spurious_cr0ack_is_refused() {
    refused_values("cr0ack", &[0xffff_ffff, 0x1d, 0x8000_0000]);
}

#[test]
fn vmstate_with_oversized_cmdq_is_refused() {
    refused_values("cmdq.log2size", &[20, 31, 32, 64, 200, 255]);
}

#[test]
fn vmstate_with_oversized_eventq_is_refused() {
    refused_values("eventq.log2size", &[20, 31, 32, 64, 200, 255]);
}

#[test]
fn truncated_vmstate_is_refused() {
    let stream = sound();
    let end = field("gbpa").offset;
    for length in [0, 1, 5, 40, 82, 99, end - 4, end, end + 3] {
        refused(&stream.cut(length), &["load of migration failed"]);
    }
}

#[test]
fn vmstate_of_later_version_is_refused() {
    refused(&sound().with_version(2), &["smmuv3", "version"]);
}
