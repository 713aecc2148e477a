// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! Checks sources and documents for words that the glossary of CONTRIBUTING.md
//! replaces and that have no other use here.

use std::fs;

use smmuv3_docs::{project, tests::files};

/// Directories with text. The fuzz targets' corpus is none.
const DIRECTORIES: [&str; 8] = [
    "docs",
    "fuzz/fuzz_targets",
    "fuzz/src",
    "include",
    "qapi",
    "rust",
    "scripts",
    "tests",
];

/// Documents outside of them. CONTRIBUTING.md lists the words.
const PAGES: [&str; 3] = ["CHANGELOG.md", "README.md", "SECURITY.md"];

/// The words, in lower case.
const WORDS: [&str; 14] = [
    "anew",
    "anybody",
    "forget",
    "forgets",
    "forgot",
    "forgotten",
    "nobody",
    "overtake",
    "overtaken",
    "overtakes",
    "overtook",
    "somebody",
    "soup",
    "whoever",
];

/// Names that contain one: a function of Rust's library and a user of the system.
const NAMES: [&str; 2] = ["mem::forget", "NOBODY"];

/// Returns the words in a line that should not be there.
fn replaced_words(line: &str) -> Vec<String> {
    let line = NAMES
        .iter()
        .fold(line.to_owned(), |line, name| line.replace(name, ""));
    line.split(|c: char| !c.is_alphabetic())
        .map(str::to_lowercase)
        .filter(|word| WORDS.contains(&word.as_str()))
        .collect()
}

#[test]
fn language_words_exclude_names() {
    let line = "Forget it; std::mem::forget(x), setuid(NOBODY): has_forgotten, unforgettable";
    assert_eq!(replaced_words(line), ["forget", "forgotten"]);
}

#[test]
fn language_follows_glossary() {
    let root = project();
    let pages = PAGES.iter().map(|page| root.join(page));
    let below = DIRECTORIES
        .iter()
        .flat_map(|directory| files(&root.join(directory)));
    let mut found = Vec::new();
    for path in pages.chain(below).filter(|path| !path.ends_with(file!())) {
        // compiled Python is no text
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            for word in replaced_words(line) {
                found.push(format!("{}:{}: {word}", path.display(), index + 1));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
