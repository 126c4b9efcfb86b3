//! The conformance list and the guarantees name their tests, and the tests are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The functions of all tests in a directory and below.
fn functions(dir: &Path, into: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            functions(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            for line in text.lines() {
                let line = line.trim_start();
                let line = line.strip_prefix("pub ").unwrap_or(line);
                if let Some(rest) = line.strip_prefix("fn ") {
                    let name = rest.split(['(', '<']).next().unwrap_or_default();
                    into.insert(name.to_owned());
                }
            }
        }
    }
}

fn all_functions() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = BTreeSet::new();
    for dir in ["tests", "src", "proactor/tests", "proactor/src"] {
        functions(&root.join(dir), &mut all);
    }
    all
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(path).expect("the document is there")
}

/// A case's number as tests have it: "7" is "c07", "12a" is "c12a".
fn prefix(case: &str) -> String {
    let digits = case.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u32 = digits.parse().expect("a number");
    format!("c{number:02}{}", &case[digits.len()..])
}

/// Names between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn each_case_has_its_tests() {
    let functions = all_functions();
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in document("conformance.md").lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(case), Some(_), Some(tests)) = (cells.next(), cells.next(), cells.next()) else {
            continue;
        };
        if !case.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let tests = quoted(tests).map(str::to_owned).collect();
        assert!(named.insert(prefix(case), tests).is_none(), "{case} twice");
    }
    assert!(named.len() >= 52, "{} cases", named.len());
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in &functions {
        if let Some((case, _)) = name.split_once('_')
            && let Some(number) = case.strip_prefix('c')
            && number.len() >= 2
            && number.starts_with(|c: char| c.is_ascii_digit())
        {
            there
                .entry(case.to_owned())
                .or_default()
                .insert(name.clone());
        }
    }
    // Each case has a test, each test is of a case, and the document names them all.
    assert_eq!(named, there);
}

#[test]
fn each_guarantee_names_tests_that_are_there() {
    let functions = all_functions();
    let text = document("guarantees.md");
    for line in text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.contains("---"))
    {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if cells.get(2) == Some(&"Shown by") {
            continue;
        }
        let tests: Vec<_> = quoted(cells.get(2).expect("two cells")).collect();
        assert!(!tests.is_empty(), "no test: {line}");
        for test in tests {
            let known = functions.contains(test) || test.contains(['/', ' ']);
            assert!(known, "no such test: {test}");
        }
    }
}
