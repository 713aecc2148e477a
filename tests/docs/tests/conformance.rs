// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks that `docs/conformance.md` is complete, agrees with the decoder, and
//! names tests that exist.

use std::collections::BTreeSet;

use smmuv3::{command::decode, Features};
use smmuv3_docs::{
    page::{self, Row},
    tests::{Place, Tests},
};

const PAGE: &str = "conformance.md";

/// Number of requirements.
const REQUIREMENTS: u32 = 64;
/// Number of rules about ranges.
const RANGE_RULES: u32 = 8;
/// Number of rules about CMDQ virtualization.
const CMDQV_RULES: u32 = 19;

/// Checks the last two cells of a row: tests of the architecture, and tests of
/// the device. At least one must be named.
fn check_tests(row: &Row, tests: &Tests, problems: &mut Vec<String>) {
    let [.., architecture, device] = &row.cells[..] else {
        problems.push(format!("{row:?}: too few cells"));
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
                problems.push(format!("{first}: no test {name} of {allowed:?}"));
            }
        }
        let beside: String = cell.split('`').step_by(2).collect();
        if !beside
            .trim_matches([',', ' ', '–'])
            .replace(", ", "")
            .is_empty()
        {
            problems.push(format!("{first}: {beside:?} is no test"));
        }
    }
    if count == 0 {
        problems.push(format!("{first}: no test"));
    }
    if let Some((_, reason)) = row.cell(1).split_once("does not apply") {
        if !reason.starts_with(": ") || reason.len() < 10 {
            problems.push(format!("{first}: does not apply, but why?"));
        }
    }
}

#[track_caller]
fn expect_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

/// Checks a table whose rows are `PREFIX1` to `PREFIXn`, in order.
fn check_numbered(heading: &str, prefix: &str, count: u32) {
    let rows = page::rows(&page::text(PAGE), heading);
    let labels: Vec<_> = rows.iter().map(|row| row.cell(0).to_owned()).collect();
    let expected: Vec<_> = (1..=count).map(|n| format!("{prefix}{n}")).collect();
    assert_eq!(labels, expected);
    let tests = Tests::collect();
    let mut problems = Vec::new();
    for row in &rows {
        if row.cells.len() != 5 || row.cell(1).is_empty() {
            problems.push(format!("{}: not five cells", row.cell(0)));
        }
        if !row.cell(2).starts_with(|c: char| c.is_ascii_digit()) {
            problems.push(format!("{}: no section", row.cell(0)));
        }
        check_tests(row, &tests, &mut problems);
    }
    expect_none(&problems);
}

#[test]
fn conformance_requirements_have_tests() {
    check_numbered("## Requirements", "R", REQUIREMENTS);
}

#[test]
fn conformance_range_rules_have_tests() {
    check_numbered("## Ranges", "G", RANGE_RULES);
}

#[test]
fn conformance_cmdqv_rules_have_tests() {
    check_numbered("## CMDQ virtualization", "Q", CMDQV_RULES);
}

/// Returns the opcodes of a cell like `0x08`-`0x0F`, `0x14`.
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
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for row in &rows {
        for opcode in opcodes(row.cell(0)) {
            if !seen.insert(opcode) {
                problems.push(format!("{opcode:#04x} is there twice"));
            }
        }
        if row.cells.len() != 7 {
            problems.push(format!("{}: not seven cells", row.cell(0)));
        }
        check_tests(row, &tests, &mut problems);
    }
    for missing in (0..=0xff).filter(|opcode| !seen.contains(opcode)) {
        problems.push(format!("{missing:#04x} is missing"));
    }
    expect_none(&problems);
}

/// Sets or clears a feature in the ID registers.
type With = fn(Features, bool) -> Features;

/// Features that make opcodes legal.
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

/// Returns whether `text`, like "S1P and Hyp", is true when these conditions
/// are.
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
    let mut problems = BTreeSet::new();
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
                    problems.insert(format!("{opcode:#04x} is not legal {:?}", row.cell(3)));
                }
            }
        }
    }
    expect_none(&problems.into_iter().collect::<Vec<_>>());
}

/// The ID registers of the page, which are the reason why some rules do not
/// apply.
#[test]
fn conformance_missing_features_match_id_registers() {
    let shown = Features::arm_smmuv3();
    let expected = shown
        .with_hyp(false)
        .with_pri(false)
        .with_mpam(false)
        .with_dpt(false)
        .with_sev(false)
        .with_ecmdq(false)
        .with_stall_model(1);
    assert_eq!(shown, expected);
    let words: Vec<String> = page::text(PAGE)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let sentence = "Hyp, PRI, MPAM, DPT, SEV, ECMDQ, SECURE_IMPL all 0, STALL_MODEL = 1";
    assert!(words.join(" ").contains(sentence));
}
