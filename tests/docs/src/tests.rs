// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright 2026 the smmuv3-accel authors

//! The tests of the project by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::project;

/// The place of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `rust/`: a test of the architecture, or one of its vectors.
    Architecture,
    /// `tests/qtest`: a test of the device inside QEMU.
    Device,
    /// `tests/simhost`: a test of the simulated host itself.
    SimulatedHost,
    /// `tests/e2e`: a scenario with real guests.
    Guest,
}

/// All tests of the project.
#[derive(Debug)]
pub struct Tests(BTreeMap<String, BTreeSet<Place>>);

impl Tests {
    /// Reads the sources.
    ///
    /// # Panics
    ///
    /// If there are no tests in one of the places: then this has not looked
    /// where they are.
    pub fn collect() -> Self {
        let mut tests = Self(BTreeMap::new());
        for (directory, place) in [
            ("rust", Place::Architecture),
            ("tests/qtest", Place::Device),
            ("tests/simhost", Place::SimulatedHost),
        ] {
            for path in files(&project().join(directory)) {
                tests.add_file(&path, place);
            }
        }
        tests.add(scenarios(), Place::Guest);
        for place in [
            Place::Architecture,
            Place::Device,
            Place::SimulatedHost,
            Place::Guest,
        ] {
            assert!(
                tests.0.values().any(|places| places.contains(&place)),
                "no tests: {place:?}"
            );
        }
        tests
    }

    fn add_file(&mut self, path: &Path, place: Place) {
        let kind = path.extension().and_then(|extension| extension.to_str());
        let names: fn(&str) -> Vec<String> = match kind {
            Some("rs") => functions,
            Some("txt") => vectors,
            _ => return,
        };
        self.add(names(&read(path)), place);
    }

    fn add(&mut self, names: Vec<String>, place: Place) {
        for name in names {
            self.0.entry(name).or_default().insert(place);
        }
    }

    /// Returns where tests of this name are.
    pub fn places(&self, name: &str) -> BTreeSet<Place> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// Returns whether there is a test of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// Returns every Rust test function below a directory of the project, with its
/// file.
pub fn rust_tests(directory: &str) -> Vec<(String, PathBuf)> {
    let sources = files(&project().join(directory)).into_iter();
    sources
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .flat_map(|path| {
            let names = functions(&read(&path));
            names.into_iter().map(move |name| (name, path.clone()))
        })
        .collect()
}

/// Returns every test case of `scripts/test-*.py`, with its file: functions
/// whose only argument is the case's directory.
pub fn python_tests() -> Vec<(String, PathBuf)> {
    let sources = files(&project().join("scripts")).into_iter();
    sources
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("test-") && name.ends_with(".py")
        })
        .flat_map(|path| {
            let names = cases(&read(&path));
            names.into_iter().map(move |name| (name, path.clone()))
        })
        .collect()
}

/// Returns the test cases of a Python source.
fn cases(source: &str) -> Vec<String> {
    let definitions = source.lines().filter_map(|line| line.strip_prefix("def "));
    definitions
        .filter_map(|rest| rest.strip_suffix(" -> None:")?.strip_suffix(')'))
        .filter_map(|rest| rest.split_once('('))
        .filter(|(_, argument)| ["case: Case", "world: World"].contains(argument))
        .map(|(name, _)| name.to_owned())
        .collect()
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns all files below a directory, except for build output.
///
/// # Panics
///
/// If a directory cannot be read.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                found.extend(files(&path));
            }
        } else if path.is_file() {
            found.push(path);
        }
    }
    found
}

/// Returns the functions that a Rust source marks as tests.
fn functions(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let name: String = rest.chars().take_while(|c| is_part(*c)).collect();
            // in a macro that generates tests it has no name yet
            if !name.is_empty() {
                names.push(name);
            }
            marked = false;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            marked = false;
        }
    }
    names
}

/// Returns the vectors of a file; a test in `rust/smmuv3/tests/vectors.rs`
/// checks that each is run.
fn vectors(file: &str) -> Vec<String> {
    file.lines()
        .filter_map(|line| Some(line.strip_prefix("vector ")?.split_once(':')?.0.to_owned()))
        .collect()
}

/// Returns the scenarios of the nested testbed, as it lists them itself.
fn scenarios() -> Vec<String> {
    let path = project().join("tests/e2e/run");
    let done = Command::new(&path)
        .arg("--list")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{} --list: {}",
        path.display(),
        String::from_utf8_lossy(&done.stderr)
    );
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod self_tests {
    use super::*;

    #[test]
    fn test_attribute_marks_tests() {
        let source = "
            /// Text
            #[test]
            #[allow(non_snake_case)]
            fn first() {
                fn inner() {}
            }
            fn helper() {}
            proptest! {
                #[test]
                // a comment
                fn second(a in any::<u8>()) {}
            }
            #[test]
            struct Nothing;
            fn third() {}
            #[test]
            fn $id() {}
        ";
        assert_eq!(functions(source), ["first", "second"]);
    }

    #[test]
    fn python_cases_take_a_case_or_a_world() {
        let source = "def one(case: Case) -> None:\n    def inner(case: Case) -> None:\n\
                      def helper(case: Case) -> bool:\ndef other(world: World) -> None:\n";
        assert_eq!(cases(source), ["one", "other"]);
    }

    #[test]
    fn vector_names_come_from_headings() {
        let file = "# vector X: none\nvector V01: text: more\n  slot 0 vector\nvector M1: x\n";
        assert_eq!(vectors(file), ["V01", "M1"]);
    }
}
