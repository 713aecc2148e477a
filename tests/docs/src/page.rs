// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The tables of a page in Markdown.

use std::fs;

use crate::project;

/// A row of a table, without its heading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its cells, without the blanks around them.
    pub cells: Vec<String>,
}

impl Row {
    /// Returns the cell `index`, or an empty one beyond the last.
    pub fn cell(&self, index: usize) -> &str {
        self.cells.get(index).map_or("", String::as_str)
    }
}

/// Returns the text of `docs/NAME`.
///
/// # Panics
///
/// If it cannot be read.
pub fn text(name: &str) -> String {
    let path = project().join("docs").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the rows of all tables below the heading `heading`, up to the next
/// heading of the same level or above.
///
/// # Panics
///
/// If there is no such heading, or no table below it.
#[track_caller]
pub fn rows(text: &str, heading: &str) -> Vec<Row> {
    let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
    let section: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != heading)
        .enumerate()
        .take_while(|(at, line)| *at == 0 || !(1..=level(heading)).contains(&level(line)))
        .map(|(_, line)| line)
        .collect();
    let mut rows = Vec::new();
    for pair in section.windows(2) {
        // the line above the rule is the table's heading
        let heads = is_rule(pair[1]);
        if pair[0].starts_with('|') && !is_rule(pair[0]) && !heads {
            rows.push(row(pair[0]));
        }
    }
    if let Some(last) = section.last().filter(|line| line.starts_with('|')) {
        rows.push(row(last));
    }
    assert!(!rows.is_empty(), "no table below {heading:?}");
    rows
}

/// Returns whether a line is the rule between a table's heading and its rows.
fn is_rule(line: &str) -> bool {
    line.starts_with('|') && line.chars().all(|c| "|-: ".contains(c))
}

fn row(line: &str) -> Row {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    Row {
        cells: inner.split('|').map(|c| c.trim().to_owned()).collect(),
    }
}

/// Returns the parts of `text` between backticks.
pub fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn page_rows_exclude_heading_rows() {
        let text =
            "# Page\n| a |\n|---|\n| 0 |\n## One\n### Part\n| a | b |\n|---|:-:|\n| 1 | `x` |\n\
                    | 2 |  |\n\n### Other\n| a |\n|---|\n| 3 |\n## Two\n| a |\n|---|\n| 4 |";
        let first = |heading| -> Vec<String> {
            let found = rows(text, heading);
            found.iter().map(|row| row.cell(0).to_owned()).collect()
        };
        assert_eq!(first("## One"), ["1", "2", "3"]);
        assert_eq!(first("## Two"), ["4"]);
        assert_eq!(rows(text, "### Part")[0].cells, ["1", "`x`"]);
        assert_eq!(rows(text, "### Part")[1].cell(1), "");
    }

    #[test]
    fn page_code_is_between_backticks() {
        assert_eq!(code("a `b`, `c d` e").collect::<Vec<_>>(), ["b", "c d"]);
    }
}
