// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Every row of `docs/parity.md` has a verdict, a reason, and tests that exist.

use smmuv3_docs::{
    page::{self, Row},
    tests::Tests,
};

const PAGE: &str = "parity.md";

/// The headings of the page.
const HEADINGS: [&str; 15] = [
    "## Properties",
    "## Command lines and machines",
    "## Registers",
    "## Command queue",
    "## Stream table",
    "## Context descriptors",
    "## Page tables",
    "## Caches",
    "## Notifiers",
    "## Events",
    "## Event queue",
    "## Accelerated mode",
    "## Migration",
    "## Reset",
    "## Limits and sizes",
];
const TRACE: &str = "## Trace events";

fn all_rows() -> Vec<Row> {
    let text = page::text(PAGE);
    let headings = HEADINGS.iter().chain([&TRACE]);
    headings
        .flat_map(|heading| page::rows(&text, heading))
        .collect()
}

/// Returns verdict and tests, the last two cells.
fn verdict_and_tests(row: &Row) -> Option<(&str, &str)> {
    match &row.cells[..] {
        [_, .., verdict, tests] => Some((verdict, tests)),
        _ => None,
    }
}

/// Returns whether a text names a section of a specification, such as 6.3.9.
fn names_a_section(text: &str) -> bool {
    let digit = |c: char| c.is_ascii_digit();
    text.split(|c: char| !digit(c) && c != '.').any(|word| {
        word.split_once('.')
            .is_some_and(|(chapter, rest)| chapter.starts_with(digit) && rest.starts_with(digit))
    })
}

fn problem(row: &Row, tests: &Tests) -> Option<String> {
    let what = row.cell(0);
    let Some((verdict, evidence)) = verdict_and_tests(row) else {
        return Some(format!("{what}: no verdict, no tests"));
    };
    if !["same", "different: ", "not yet: "]
        .iter()
        .any(|word| verdict.starts_with(word))
    {
        return Some(format!("{what}: {verdict:?} is no verdict"));
    }
    let reasons = ["defect", "(choice)"];
    let reasoned =
        names_a_section(verdict) || reasons.iter().any(|reason| verdict.contains(reason));
    if verdict.to_lowercase().contains("different: ") && !reasoned {
        return Some(format!("{what}: different, but why?"));
    }
    let missing: Vec<_> = page::code(evidence)
        .filter(|name| !tests.has(name))
        .collect();
    if !missing.is_empty() {
        return Some(format!("{what}: no such tests: {missing:?}"));
    }
    page::code(evidence)
        .next()
        .is_none()
        .then(|| format!("{what}: no test"))
}

#[test]
fn parity_rows_have_verdict_reason_and_tests() {
    let tests = Tests::collect();
    let problems: Vec<_> = all_rows()
        .iter()
        .filter_map(|row| problem(row, &tests))
        .collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn parity_page_has_only_known_headings() {
    let text = page::text(PAGE);
    let headings: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("## "))
        .collect();
    let mut known = HEADINGS.to_vec();
    known.insert(known.len() - 1, TRACE);
    assert_eq!(headings, known);
}

#[test]
fn parity_nothing_is_missing() {
    let missing: Vec<_> = all_rows()
        .iter()
        .filter(|row| row.cells.iter().any(|cell| cell.contains("not yet")))
        .map(|row| row.cell(0).to_owned())
        .collect();
    assert_eq!(missing, [""; 0]);
}

/// The opcodes that the C device names.
const OPCODES: [u8; 24] = [
    0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x18, 0x1a, 0x20, 0x21, 0x22, 0x23,
    0x28, 0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46,
];

#[test]
fn parity_opcodes_have_one_row() {
    let rows = page::rows(&page::text(PAGE), "### Opcodes");
    let listed: Vec<u8> = rows
        .iter()
        .flat_map(|row| page::code(row.cell(0)))
        .map(|code| {
            let digits = code.strip_prefix("0x").expect("an opcode");
            u8::from_str_radix(digits, 16).expect("an opcode")
        })
        .collect();
    assert_eq!(listed, OPCODES);
}

#[test]
fn section_number_is_recognized() {
    for text in ["(6.3.9)", "as 7.4 says", "(5.2, S2SL0)"] {
        assert!(names_a_section(text), "{text}");
    }
    for text in ["1024 of them", "SMMUv3.", "IDR0.ATS"] {
        assert!(!names_a_section(text), "{text}");
    }
}
