// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! `docs/conformance.md` is complete, says what the decoder does, and names
//! tests that exist.

use std::collections::BTreeSet;

use smmuv3::{command::decode, Features};
use smmuv3_docs::{
    page::{self, Row},
    tests::{Place, Tests},
};

const PAGE: &str = "conformance.md";

/// How many requirements there are.
const REQUIREMENTS: u32 = 64;
/// How many rules there are about ranges.
const RANGE_RULES: u32 = 8;

/// Checks the last two cells of a row: tests of the architecture, and tests of
/// the device. One at least has to be there, whatever else the row says.
fn check_tests(row: &Row, tests: &Tests, complaints: &mut Vec<String>) {
    let [.., architecture, device] = &row.cells[..] else {
        complaints.push(format!("{row:?}: too few cells"));
        return;
    };
    let first = row.cell(0);
    let mut count = 0;
    for (cell, allowed) in [
        (architecture, &[Place::Architecture][..]),
        (device, &[Place::Device, Place::Guest]),
    ] {
        for name in page::code(cell) {
            count += 1;
            if !allowed
                .iter()
                .any(|place| tests.places(name).contains(place))
            {
                complaints.push(format!("{first}: no test {name} of {allowed:?}"));
            }
        }
        let beside: String = cell.split('`').step_by(2).collect();
        if !beside
            .trim_matches([',', ' ', '–'])
            .replace(", ", "")
            .is_empty()
        {
            complaints.push(format!("{first}: {beside:?} is no test"));
        }
    }
    if count == 0 {
        complaints.push(format!("{first}: no test"));
    }
    if let Some((_, reason)) = row.cell(1).split_once("does not apply") {
        if !reason.starts_with(": ") || reason.len() < 10 {
            complaints.push(format!("{first}: does not apply, but why?"));
        }
    }
}

#[track_caller]
fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Checks a table whose rows are `PREFIX1` to `PREFIXn`, in order.
fn check_numbered(heading: &str, prefix: &str, count: u32) {
    let rows = page::rows(&page::text(PAGE), heading);
    let labels: Vec<_> = rows.iter().map(|row| row.cell(0).to_owned()).collect();
    let expected: Vec<_> = (1..=count).map(|n| format!("{prefix}{n}")).collect();
    assert_eq!(labels, expected);
    let tests = Tests::collect();
    let mut complaints = Vec::new();
    for row in &rows {
        if row.cells.len() != 5 || row.cell(1).is_empty() {
            complaints.push(format!("{}: not five cells", row.cell(0)));
        }
        if !row.cell(2).starts_with(|c: char| c.is_ascii_digit()) {
            complaints.push(format!("{}: no section", row.cell(0)));
        }
        check_tests(row, &tests, &mut complaints);
    }
    expect_none(&complaints);
}

#[test]
fn conformance_requirements_have_tests() {
    check_numbered("## Requirements", "R", REQUIREMENTS);
}

#[test]
fn conformance_range_rules_have_tests() {
    check_numbered("## Ranges", "G", RANGE_RULES);
}

/// The opcodes of a cell like `0x08`-`0x0F`, `0x14`.
fn opcodes(cell: &str) -> BTreeSet<u8> {
    let number = |text: &str| {
        let digits = text.trim().trim_matches('`').strip_prefix("0x");
        digits
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .unwrap_or_else(|| panic!("{text:?} is no opcode"))
    };
    cell.split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => number(part)..=number(part),
        })
        .collect()
}

#[test]
fn conformance_opcodes_have_tests() {
    let rows = page::rows(&page::text(PAGE), "## Opcodes");
    let tests = Tests::collect();
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &rows {
        for opcode in opcodes(row.cell(0)) {
            if !seen.insert(opcode) {
                complaints.push(format!("{opcode:#04x} is there twice"));
            }
        }
        if row.cells.len() != 7 {
            complaints.push(format!("{}: not seven cells", row.cell(0)));
        }
        check_tests(row, &tests, &mut complaints);
    }
    for missing in (0..=0xff).filter(|opcode| !seen.contains(opcode)) {
        complaints.push(format!("{missing:#04x} is missing"));
    }
    expect_none(&complaints);
}

/// Makes an ID register say that something is there or not.
type With = fn(Features, bool) -> Features;

/// What has to be there for opcodes to be legal.
const CONDITIONS: [(&str, With); 8] = [
    ("S1P", Features::with_s1p),
    ("S2P", Features::with_s2p),
    ("Hyp", Features::with_hyp),
    ("ATS", Features::with_ats),
    ("PRI", Features::with_pri),
    ("MPAM", Features::with_mpam),
    ("DPT", Features::with_dpt),
    ("stalls", |features, stalls| {
        features.with_stall_model(u8::from(!stalls))
    }),
];

/// Whether `text`, like "S1P and Hyp", is true when these conditions are.
fn holds(text: &str, true_ones: &BTreeSet<&str>) -> bool {
    match text {
        "always" => true,
        "never" => false,
        _ => text.split(" and ").all(|condition| {
            assert!(
                CONDITIONS.iter().any(|(name, _)| *name == condition),
                "{condition:?} is no condition"
            );
            true_ones.contains(condition)
        }),
    }
}

/// The page's column "legal if" against the decoder, with every combination of
/// features.
#[test]
fn conformance_opcode_legality_matches_decoder() {
    let rows = page::rows(&page::text(PAGE), "## Opcodes");
    let mut complaints = BTreeSet::new();
    for combination in 0..1_u32 << CONDITIONS.len() {
        let mut features = Features::arm_smmuv3();
        let mut true_ones = BTreeSet::new();
        for (bit, (name, with)) in CONDITIONS.iter().enumerate() {
            let is_true = combination & (1 << bit) != 0;
            features = with(features, is_true);
            if is_true {
                true_ones.insert(*name);
            }
        }
        for row in &rows {
            let expected = holds(row.cell(3), &true_ones);
            for opcode in opcodes(row.cell(0)) {
                if decode([opcode.into(), 0], &features).is_ok() != expected {
                    complaints.insert(format!("{opcode:#04x} is not legal {:?}", row.cell(3)));
                }
            }
        }
    }
    expect_none(&complaints.into_iter().collect::<Vec<_>>());
}

/// What the page says of the ID registers, which is why some of it does not apply.
#[test]
fn conformance_missing_features_match_id_registers() {
    let shown = Features::arm_smmuv3();
    let expected = shown
        .with_hyp(false)
        .with_pri(false)
        .with_mpam(false)
        .with_dpt(false)
        .with_msi(false)
        .with_sev(false)
        .with_ecmdq(false)
        .with_stall_model(1);
    assert_eq!(shown, expected);
    let words: Vec<String> = page::text(PAGE)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let said = "Hyp, PRI, MPAM, DPT, MSI, SEV, ECMDQ, SECURE_IMPL all 0, STALL_MODEL = 1";
    assert!(words.join(" ").contains(said));
}
