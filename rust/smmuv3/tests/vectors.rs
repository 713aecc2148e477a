// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Test vectors: actions of a guest, and the results that it and the host must see.
//! They are in `vectors/*.txt`, one per `vector ID: title`, followed by
//! lines of the form
//!
//! | line | meaning |
//! |---|---|
//! | `cfg NAME=VALUE ...` | differs from `vector_features` in this; also `erratum`, `streams` |
//! | `host ANSWER ...` | answers to the next calls: `done` or `ERRNO:entry_num`; `forever` repeats the last |
//! | `gone` | the host reports that its vIOMMU has been destroyed |
//! | `abort_reads A`, `abort_writes A` | the 16 bytes at address A abort |
//! | `slot N COMMAND ...` | stores commands from queue index N on |
//! | `mem A COMMAND ...` | stores commands from address A on |
//! | `write REG VALUE`, `read REG VALUE` | register by name (of its full width) or offset (32 bits); reads compare |
//! | `peek A VALUE` | 32 bits of memory compare |
//! | `=> NAME=VALUE ...` | checkpoint |
//! | `call COMMAND ...` | after a checkpoint: the next call of the host since the one before |
//!
//! A command is `word0,word1` or one of the names in `COMMANDS`, with `N*`
//! before it for repetition. A checkpoint compares `CMDQ_CONS.RD`, the error
//! code (`-`: no error is active), `GERROR`, `GERRORN`, and the interrupts so
//! far (`irqG`, `irqS`). `msi=ADDRESS:DATA` and `local=SID,...` are the MSIs
//! and the Stream table entries attached since the last checkpoint,
//! `quarantine=SID,...` the streams quarantined so far. Events that are not
//! mentioned must not have happened.

#[path = "vectors_support/notation.rs"]
mod notation;
#[path = "vectors_support/replay.rs"]
mod replay;

const FILES: [&str; 8] = [
    include_str!("vectors/registers.txt"),
    include_str!("vectors/queue.txt"),
    include_str!("vectors/sync.txt"),
    include_str!("vectors/illegal.txt"),
    include_str!("vectors/legal.txt"),
    include_str!("vectors/errors.txt"),
    include_str!("vectors/config.txt"),
    include_str!("vectors/host.txt"),
];

fn run(id: &str) {
    let vector = FILES
        .iter()
        .find_map(|file| notation::find(file, id))
        .unwrap_or_else(|| panic!("no vector {id}"));
    replay::replay(&vector);
}

macro_rules! vectors {
    ($($id:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($id)),*];

        $(
            #[test]
            #[allow(non_snake_case)]
            fn $id() {
                run(stringify!($id));
            }
        )*
    };
}

vectors! {
    M01 M02 M03 M04 M05 M06 M07 M08 M09 M10 M11 M12 M13 M14
    V01 V02 V03 V04 V05 V06 V07 V08 V09 V10 V11 V12 V13 V14 V15 V16 V17 V18
    V19 V20 V21 V22 V23 V24 V25 V26 V27 V28 V29 V30 V31 V32 V33 V35 V37 V39
    V41 V43 V45 V47 V49 V51 V53 V55 V57 V59 V61 V63 V65 V67 V71 V73 V75 V77
    V79 V81 V83 V85 V87 V91 V93 V95 V97 V99 V101 V103 V105 V107 V109 V111
    V119 V121 V123 V125 V127 V129 V131 V133 V135 V137 V139 V141
    C01 C02 C03 C04 C05 C06 C07 C08
}

#[test]
fn vector_list_covers_every_id() {
    let written: Vec<_> = FILES.iter().flat_map(|file| notation::ids(file)).collect();
    for id in &written {
        assert!(LISTED.contains(id), "{id} is not in the list above");
    }
    assert_eq!(written.len(), LISTED.len(), "an ID occurs twice");
}
