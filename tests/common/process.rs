//! Cases that change what belongs to the process (limits, users, signals) run in one of their own:
//! the test program once more, with this case alone.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use spliceport::proactor::BackendChoice;

use super::LIMIT;

/// Makes of each case a test for each backend, run in a process of its own.
macro_rules! in_processes_of_their_own {
    ($(fn $name:ident($backend:ident: BackendChoice) $body:block)*) => {
        mod cases {
            #[allow(unused_imports)]
            use super::*;
            $(pub(super) fn $name($backend: BackendChoice) $body)*
        }
        $crate::common::process::in_processes_of_their_own!(@ ring Ring $($name)*);
        $crate::common::process::in_processes_of_their_own!(@ emulated Emulated $($name)*);
    };
    (@ $module:ident $backend:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                $crate::common::process::alone(
                    concat!(module_path!(), "::", stringify!($name)),
                    spliceport::proactor::BackendChoice::$backend,
                    super::cases::$name,
                );
            })*
        }
    };
}
pub(crate) use in_processes_of_their_own;

/// Set for the process in which the case itself runs.
const CHILD: &str = "SPLICEPORT_TEST_CHILD";

/// Runs the test with this path in a process of its own, and shows what it said if it fails.
pub fn alone(path: &str, backend: BackendChoice, case: fn(BackendChoice)) {
    if std::env::var_os(CHILD).is_some() {
        return case(backend);
    }
    let (_, name) = path.split_once("::").expect("a test in a module");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the test program starts");
    let said = [
        super::read_all(child.stdout.take().expect("a pipe")),
        super::read_all(child.stderr.take().expect("a pipe")),
    ];
    let end = Instant::now() + 2 * LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill().expect("it is our child");
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let said: Vec<u8> = said.into_iter().flat_map(|s| s.join().unwrap()).collect();
    let said = String::from_utf8_lossy(&said);
    assert!(status.is_some_and(|s| s.success()), "{status:?}: {said}");
    // What can't be shown here is said, not passed over.
    for line in said.lines().filter(|line| line.starts_with("not run")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
