// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! String literals of Rust sources, to find the messages that a page quotes.

use std::path::Path;

use crate::{
    project,
    tests::{files, read},
};

/// Stands for an argument of a message.
pub const ARGUMENT: &str = "<>";

/// Returns the string literals below a directory of the project, with
/// [`ARGUMENT`] for each `{...}`. C strings are none of them.
///
/// # Panics
///
/// If a file cannot be read.
pub fn literals(directory: &str) -> Vec<String> {
    let sources = files(&project().join(directory)).into_iter();
    sources
        .filter(|path| is_source(path))
        .flat_map(|path| of_source(&read(&path)))
        .map(|literal| without_arguments(&literal, '{', '}'))
        .collect()
}

fn is_source(path: &Path) -> bool {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    is_rust && path.components().any(|part| part.as_os_str() == "src")
}

/// Returns a message with [`ARGUMENT`] for each part between `open` and
/// `close`.
pub fn without_arguments(message: &str, open: char, close: char) -> String {
    let mut parts = message.split(open);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let after = part.split_once(close).map_or("", |(_, after)| after);
        result.push_str(ARGUMENT);
        result.push_str(after);
    }
    result
}

/// Returns the messages of `ensure!` below a directory that name an argument in braces and have no
/// argument after them: QEMU's macro does not format these, so users would see the braces.
///
/// # Panics
///
/// If a file cannot be read.
pub fn unformatted(directory: &str) -> Vec<String> {
    let sources = files(&project().join(directory)).into_iter();
    sources
        .filter(|path| is_source(path))
        .flat_map(|path| unformatted_of_source(&read(&path)))
        .collect()
}

fn unformatted_of_source(source: &str) -> Vec<String> {
    let calls = source.split("ensure!(").skip(1);
    calls.filter_map(unformatted_message).collect()
}

/// Returns the message of `call`, which is what follows `ensure!(`, if it is not formatted.
fn unformatted_message(call: &str) -> Option<String> {
    let mut rest = call.split_once("\n    }").map_or(call, |(body, _)| body);
    while let Some((_, from)) = rest.split_once('"') {
        let (message, after) = literal(from);
        let next = after.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if next.starts_with(");") {
            return message.contains('{').then_some(message);
        }
        rest = after;
    }
    None
}

/// Returns the literals of a source, as the compiler joins their lines.
fn of_source(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    let mut previous = ' ';
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '/' && rest.starts_with('/') {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if c == '\'' && rest.starts_with("\"'") {
            rest = &rest[2..];
        } else if c == '"' {
            let (literal, after) = literal(rest);
            if previous != 'c' {
                found.push(literal);
            }
            rest = after;
        }
        previous = c;
    }
    found
}

/// Returns the literal that `text` begins with, after its quotation mark, and
/// what follows it.
fn literal(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                // the next line continues this one, without its indentation
                Some((_, '\n')) => {
                    while chars.next_if(|(_, blank)| blank.is_whitespace()).is_some() {}
                }
                Some((_, escaped)) => value.push(escaped),
                None => {}
            },
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn literals_are_joined_and_exclude_comments() {
        let source =
            "// not \"this\"\nlet x = '\"'; f(\"one \\\n      two\", c\"three\", \"a \\\"b\\\"\");";
        assert_eq!(of_source(source), ["one two", "a \"b\""]);
        assert_eq!(of_source("\"without an end"), ["without an end"]);
    }

    #[test]
    fn ensure_without_arguments_is_found() {
        let source =
            r#"ensure!(x == "a", "{x} is not"); ensure!(y, "{} is", y); ensure!(z, "no",);"#;
        assert_eq!(unformatted_of_source(source), ["{x} is not"]);
    }

    #[test]
    fn arguments_of_messages_are_replaced() {
        assert_eq!(without_arguments("{}: {x:#?} y", '{', '}'), "<>: <> y");
        assert_eq!(without_arguments("<a b> c", '<', '>'), "<> c");
        assert_eq!(without_arguments("none", '<', '>'), "none");
    }
}
