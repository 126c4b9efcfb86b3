//! How a test says that it can't show here what it is for. Included by the tests of both crates.

use std::fmt::Display;
use std::io::Write;

/// What machines may lack on which everything else has to run, by words of the reasons: those are of
/// the kernel, of the file system that holds the build, or of tools that only tests of them need.
const MAY_LACK: [&str; 7] = [
    "io_uring is denied",
    "Landlock",
    "this kernel",
    "this file system",
    "(package systemd)",
    "(package openssl)",
    "(package chromium-driver)",
];

/// Says what can't be shown here, and why: past the test harness, which keeps to itself what a test
/// prints that passes.
///
/// # Panics
/// With `SPLICEPORT_TEST_ALL=1`, unless it is for want of something that a machine may lack: so that
/// nothing is passed over where all is meant to run.
#[track_caller]
pub fn not_run(why: impl Display) {
    let why = why.to_string();
    // One write, so that lines of several tests stay apart.
    let _ = std::io::stderr().write_all(format!("not run: {why}\n").as_bytes());
    let all = std::env::var_os("SPLICEPORT_TEST_ALL").is_some_and(|value| value == "1");
    assert!(
        !all || MAY_LACK.iter().any(|words| why.contains(words)),
        "not run, though all is meant to be: {why}"
    );
}
