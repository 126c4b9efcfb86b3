//! The conformance list and the guarantees name their tests, and the tests are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Tests that are named and stand in none of the macros that make a test for each backend, and why
/// that will do.
const ONCE: [(&str, &[&str]); 4] = [
    (
        "go through both backends themselves, or stand in a module of each by hand",
        &[
            "a_receive_that_fails_costs_no_buffer",
            "c10_streams_that_may_not_be_copied_wait_for_a_pipe",
            "c34_exhausted_descriptors",
            "c34_forbidden",
            "c34_what_can_not_listen_is_refused",
            "c36_pacing_by_the_clock",
            "c38_each_backend_ends_the_same",
            "c40_nothing_is_inherited",
            "c43_each_backend_tells_the_same",
            "nothing_is_held_back_for_what_was_cancelled",
        ],
    ),
    (
        "have the backend in their names",
        &[
            "c35_current_emulated",
            "c35_current_ring",
            "c35_multi_emulated",
            "c35_multi_ring",
            "c41_transports_in_local_tasks_emulated",
            "c41_transports_in_local_tasks_ring",
        ],
    ),
    (
        "are of functions that no backend is part of",
        &[
            "a_record_counts_when_all_of_it_has_left",
            "asking_reads_nothing_in",
            "knows_at_once_what_is_near",
            "no_missing_page_is_overlooked",
            "pipes_take_a_share_of_the_descriptors",
            "where_nobody_counts_pages_are_looked_at_in_steps",
        ],
    ),
    (
        "are of the sandbox, and try what each backend may call",
        &[
            "a_required_sandbox_is_one_or_there_is_no_start",
            "nothing_outside_of_the_directory_can_be_opened",
            "what_serving_does_not_need_is_unknown",
        ],
    ),
];

/// The macros of the tests that make one for each backend, out of functions or of their names.
const MACROS: [&str; 2] = ["on_both_backends!", "in_processes_of_their_own!"];

/// Which tests there are.
#[derive(Default)]
struct Tests {
    /// All functions, tests or not.
    functions: BTreeSet<String>,
    /// Those that a macro makes a test of, for each backend.
    both: BTreeSet<String>,
    /// Those that are tests by an attribute of their own.
    once: BTreeSet<String>,
}

/// The name of a function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub ").unwrap_or(line);
    line.strip_prefix("fn ")?.split(['(', '<']).next()
}

impl Tests {
    /// All of both crates.
    fn all() -> Tests {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut tests = Tests::default();
        for dir in ["tests", "src", "proactor/tests", "proactor/src"] {
            tests.add_directory(&root.join(dir));
        }
        tests
    }

    fn add_directory(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).expect("a directory of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.add_directory(&path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source");
                self.add_source(&text, &path.display().to_string());
            }
        }
    }

    /// Reads a source as rustfmt leaves it: what a macro is given stands between its line and the
    /// next that is not indented.
    fn add_source(&mut self, text: &str, file: &str) {
        let mut in_macro = false;
        let mut attributed = false;
        for line in text.lines() {
            // Under Miri alone some are left out, each with its reason.
            assert!(!line.trim_start().starts_with("#[ignore"), "{file}: {line}");
            self.functions.extend(function(line).map(str::to_owned));
            let given = MACROS.iter().find_map(|name| line.split_once(name));
            if let Some((before, given)) = given
                && !before.contains([' ', '/', '"'])
            {
                in_macro = !line.ends_with(");") && !line.ends_with(" }");
                self.add_names(given.trim_matches([' ', '(', ')', '{', '}', ';']));
            } else if in_macro && line.starts_with("    ") {
                match (line.strip_prefix("    fn "), line.as_bytes().get(4)) {
                    (Some(_), _) => self.both.extend(function(line).map(str::to_owned)),
                    (None, Some(b' ') | None) => {}
                    (None, _) => self.add_names(line.trim()),
                }
            } else if !line.is_empty() {
                in_macro = false;
            }
            attributed = match line.trim_start() {
                "#[test]" => true,
                line if attributed && !line.starts_with("#[") => {
                    self.once.extend(function(line).map(str::to_owned));
                    false
                }
                _ => attributed,
            };
        }
    }

    /// Takes a list of names, if it is one.
    fn add_names(&mut self, list: &str) {
        let names = || {
            list.split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
        };
        let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if names().all(is_name) {
            self.both.extend(names().map(str::to_owned));
        }
    }

    /// Checks that this is a test, and of both backends or one of those that need not be.
    #[track_caller]
    fn check(&self, name: &str) {
        assert!(self.functions.contains(name), "no such test: {name}");
        let may = ONCE.iter().any(|(_, names)| names.contains(&name));
        if !may {
            assert!(self.both.contains(name), "not run on both backends: {name}");
        }
        assert!(
            may != self.both.contains(name),
            "an exception in vain: {name}"
        );
        assert!(
            self.both.contains(name) || self.once.contains(name),
            "no test: {name}"
        );
    }
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
    let tests = Tests::all();
    let functions = &tests.functions;
    let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in document("conformance.md").lines() {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (Some(case), Some(_), Some(tests)) = (cells.next(), cells.next(), cells.next()) else {
            continue;
        };
        if !case.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let names = quoted(tests).map(str::to_owned).collect();
        assert!(named.insert(prefix(case), names).is_none(), "{case} twice");
    }
    assert!(named.len() >= 52, "{} cases", named.len());
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for name in functions {
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
    for name in named.values().flatten() {
        tests.check(name);
    }
}

#[test]
fn what_is_not_run_on_both_backends_is_seen() {
    let mut tests = Tests::default();
    let source = "fn never_called() {}\n\
        on_both_backends!(a, b);\n\
        on_both_backends! {\n    c,\n    d,\n}\n\
        on_both_backends! {\n    fn e(proactor: Proactor) {\n        inner,\n    }\n}\n\
        #[test]\nfn one() {}\n";
    tests.add_source(source, "a source");
    assert_eq!(Vec::from_iter(&tests.both), ["a", "b", "c", "d", "e"]);
    assert_eq!(Vec::from_iter(&tests.once), ["one"]);
    for name in ["never_called", "one", "inner"] {
        let checked = std::panic::catch_unwind(|| tests.check(name));
        assert!(checked.is_err(), "{name}");
    }
}

#[test]
fn each_guarantee_names_tests_that_are_there() {
    let all = Tests::all();
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
            // A command is none.
            if !test.contains(['/', ' ']) {
                all.check(test);
            }
        }
    }
}
