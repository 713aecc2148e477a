// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Every message that `docs/troubleshooting.md` quotes is in the sources of the
//! device as it stands there, every message of the device is on the page, and
//! every row names a test that exists.

use std::collections::BTreeSet;

use smmuv3_docs::{
    literals::{literals, unformatted, without_arguments},
    page::{self, Row},
    tests::{Place, Tests},
};

const PAGE: &str = "troubleshooting.md";

/// Literals of the device with fewer words are parts of messages, or names.
const WORDS: usize = 4;

fn rows(heading: &str) -> Vec<Row> {
    page::rows(&page::text(PAGE), heading)
}

/// Returns the message of a row, with its arguments replaced.
fn message(row: &Row) -> String {
    let quoted: Vec<_> = page::code(row.cell(0)).collect();
    let [message] = quoted[..] else {
        panic!("{row:?}: not one message");
    };
    without_arguments(message, '<', '>')
}

#[track_caller]
fn expect_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn troubleshooting_messages_are_in_the_sources() {
    let known: BTreeSet<_> = literals("rust").into_iter().collect();
    let missing: Vec<_> = rows("## Messages")
        .iter()
        .map(message)
        .filter(|message| !known.contains(message))
        .collect();
    expect_none(&missing);
}

#[test]
fn ensure_messages_are_formatted() {
    expect_none(&unformatted("rust"));
}

#[test]
fn troubleshooting_lists_every_message_of_the_device() {
    let listed: BTreeSet<_> = rows("## Messages").iter().map(message).collect();
    let messages = literals("rust/hw/smmuv3-accel");
    let is_message = |literal: &&String| literal.split_whitespace().count() >= WORDS;
    let missing: Vec<_> = messages
        .iter()
        .filter(is_message)
        .filter(|literal| !listed.contains(*literal))
        .cloned()
        .collect();
    assert!(
        messages.iter().filter(is_message).count() > 20,
        "messages are elsewhere now"
    );
    expect_none(&missing);
}

#[test]
fn troubleshooting_messages_are_listed_once() {
    let rows = rows("## Messages");
    let listed: BTreeSet<_> = rows.iter().map(message).collect();
    assert_eq!(listed.len(), rows.len());
}

/// A test of the device or of the testbed reproduces each row, or the page says
/// why none does.
#[test]
fn troubleshooting_rows_have_cause_remedy_and_test() {
    let tests = Tests::collect();
    let mut problems = Vec::new();
    for (heading, columns) in [("## Symptoms", 5), ("## Messages", 4)] {
        for row in rows(heading) {
            let what = row.cell(0);
            if row.cells.len() != columns || row.cells.iter().any(String::is_empty) {
                problems.push(format!("{what}: not {columns} cells with text"));
            }
            let evidence = row.cell(columns - 1);
            let names: Vec<_> = page::code(evidence).collect();
            let is_excused = evidence
                .strip_prefix("none: ")
                .is_some_and(|reason| reason.len() > 10);
            if names.is_empty() && !is_excused {
                problems.push(format!("{what}: {evidence:?} is no test"));
            }
            for name in names {
                let places = tests.places(name);
                if !places.contains(&Place::Device) && !places.contains(&Place::Guest) {
                    problems.push(format!("{what}: no test {name}"));
                }
            }
        }
    }
    expect_none(&problems);
}
