// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks the names of tests: `subject_condition_result`, short, and unique, so
//! that `grep -rn 'fn NAME'` finds the one test that a page names.

use std::{collections::BTreeMap, path::PathBuf};

use smmuv3_docs::tests::{python_tests, rust_tests};

/// Directories with Rust tests.
const DIRECTORIES: [&str; 3] = ["fuzz", "rust", "tests"];

/// Longest name of a test.
const LENGTH: usize = 60;

/// Returns the names of all tests, each with the files that define it.
fn names() -> BTreeMap<String, Vec<PathBuf>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    let rust = DIRECTORIES.into_iter().flat_map(rust_tests);
    for (name, path) in rust.chain(python_tests()) {
        names.entry(name).or_default().push(path);
    }
    names
}

/// Checks that `is_good` holds for every test.
#[track_caller]
fn check(is_good: impl Fn(&str, &[PathBuf]) -> bool) {
    let bad: Vec<_> = names()
        .into_iter()
        .filter(|(name, paths)| !is_good(name, paths))
        .map(|(name, paths)| format!("{name}: {paths:?}"))
        .collect();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

#[test]
fn test_names_are_unique() {
    check(|_, paths| paths.len() == 1);
}

#[test]
fn test_names_have_at_most_60_characters() {
    check(|name, _| name.len() <= LENGTH);
}

#[test]
fn test_names_are_snake_case() {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    check(|name, _| {
        name.chars().all(is_part) && name.starts_with(|c: char| c.is_ascii_lowercase())
    });
}
