//! How `spliceport serve` starts, or says why it doesn't: rights that it lacks, addresses that are
//! taken, what service managers do around it.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::*;

/// Nobody's, on every system.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        not_run("only root can become another user");
    }
    root
}

/// The program, for a user without privileges.
fn as_nobody(mut command: Command) -> Command {
    become_nobody(&mut command, 0);
    command
}

/// The same, in a network of its own: its settings are the kernel's defaults.
fn as_nobody_elsewhere(mut command: Command) -> Command {
    become_nobody(&mut command, libc::CLONE_NEWNET);
    command
}

fn become_nobody(command: &mut Command, unshare: i32) {
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            let done = libc::unshare(unshare) == 0
                && libc::setgroups(0, std::ptr::null()) == 0
                && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
                && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0;
            done.then_some(()).ok_or_else(std::io::Error::last_os_error)
        });
    }
}

fn serve(directory: &Path, args: &[&str]) -> Command {
    let mut command = program(&["serve"]);
    command.arg(directory);
    if !args.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(args);
    command
}

/// It ends with this code, and says all of these.
fn assert_refused(command: Command, code: i32, said: &[&str]) {
    let what = format!("{command:?}");
    let ended = run(command);
    assert_eq!(ended.code(), Some(code), "{what}: {ended:?}");
    for word in said {
        assert!(ended.stderr.contains(word), "{what}: {word}: {ended:?}");
    }
    assert_eq!(ended.stderr.lines().count(), 1, "{what}: {ended:?}");
}

/// A directory that everybody may read.
fn public(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = directory(files);
    set_mode(dir.path(), 0o755);
    dir
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_is_not_there_or_taken_is_told() {
    let dir = public(&[("file", b"no directory"), ("404.html", b"<p>")]);
    let path = |name: &str| dir.path().join(name);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let _lives = UnixListener::bind(path("lives")).unwrap();
    let unix = |name: &str| format!("unix:{}", path(name).display());
    let page = |name: &str| format!("404={}", path(name).display());
    for (directory, args, said) in [
        (
            path("none"),
            vec![],
            vec!["/none", "No such file", "check the path"],
        ),
        (
            path("file"),
            vec![],
            vec!["/file", "no directory", "name the directory"],
        ),
        (
            path(""),
            vec!["--listen", &taken],
            vec![&taken, "in use", "port 0"],
        ),
        (
            path(""),
            vec!["--listen", &taken, "--threads", "3"],
            vec![&taken, "in use", "port 0"],
        ),
        (
            path(""),
            vec!["--listen", &unix("lives")],
            vec!["/lives", "in use", "stop it"],
        ),
        // It is a file, and no socket that was left behind: it is not removed.
        (
            path(""),
            vec!["--listen", &unix("file")],
            vec!["/file", "in use"],
        ),
        (
            path(""),
            vec!["--listen", &unix("none/s")],
            vec!["/none/s", "No such file"],
        ),
        (
            path(""),
            vec!["--listen", "192.0.2.1:0"],
            vec!["192.0.2.1", "127.0.0.1", "0.0.0.0"],
        ),
        (
            path(""),
            vec!["--error-page", &page("none")],
            vec!["/none", "error page", "check the path"],
        ),
        (
            path(""),
            vec!["--upload", "--upload-token-file", "/none"],
            vec!["/none", "check the path"],
        ),
    ] {
        assert_refused(serve(&directory, &args), 1, &said);
    }
    assert_eq!(fs::read(path("file")).unwrap(), b"no directory");
    assert!(path("lives").exists());
}

#[test]
fn what_may_not_be_done_is_told() {
    if !is_root() {
        return;
    }
    let dir = public(&[
        ("secret.toml", b"threads = 1"),
        ("closed/a", b"a"),
        ("open/a", b"a"),
        ("listed/a", b"a"),
    ]);
    let path = |name: &str| dir.path().join(name);
    set_mode(&path("secret.toml"), 0o600);
    set_mode(&path("closed"), 0o700);
    set_mode(&path("listed"), 0o744);
    let open = path("open");
    let config = path("secret.toml");
    let config = config.to_str().unwrap();
    let page = format!("404={config}");
    let unix = format!("unix:{}", open.join("socket").display());
    for (directory, args, said) in [
        (
            path("closed"),
            vec![],
            vec!["/closed", "Permission denied", "this user may not"],
        ),
        // It can be opened, but nothing in it.
        (
            path("listed"),
            vec![],
            vec!["/listed", "Permission denied", "this user may not"],
        ),
        (
            open.clone(),
            vec!["--config", config],
            vec!["secret.toml", "configuration file", "this user may not"],
        ),
        (
            open.clone(),
            vec!["--error-page", &page],
            vec!["secret.toml", "error page", "this user may not"],
        ),
        (
            open.clone(),
            vec!["--upload", "--upload-token-file", config],
            vec!["secret.toml", "this user may not"],
        ),
        (
            open.clone(),
            vec!["--listen", &unix],
            vec!["/socket", "Permission denied", "this user may not"],
        ),
        (
            open.clone(),
            vec!["--user", "root"],
            vec!["root", "name another"],
        ),
        (
            open.clone(),
            vec!["--user", "bin"],
            vec!["bin", "only root can become", "without --user"],
        ),
    ] {
        let code = if args.contains(&"root") { 2 } else { 1 };
        assert_refused(as_nobody(serve(&directory, &args)), code, &said);
    }
    let said = [
        "0.0.0.0:80",
        "Permission denied",
        "below 1024",
        "--user",
        "systemd",
    ];
    let privileged = serve(&open, &["--listen", "0.0.0.0:80"]);
    assert_refused(as_nobody_elsewhere(privileged), 1, &said);
    // Root may open it; whom it becomes may not.
    let user = serve(&path("closed"), &["--user", "nobody"]);
    assert_refused(user, 1, &["/closed", "Permission denied", "another user"]);

    let mut running = Running::start(as_nobody(serve(&open, &[])));
    assert!(running.line().starts_with("listening on"));
}

#[test]
fn a_socket_that_was_left_behind_gives_way() {
    let dir = directory(&[("a", b"hello")]);
    let socket = dir.path().join("socket");
    drop(UnixListener::bind(&socket).unwrap());
    let listen = format!("unix:{}", socket.display());
    let mut running = Running::start(serve(dir.path(), &["--listen", &listen]));
    assert!(running.line().contains("socket"));
    // And a second server does not take it from the first.
    assert_refused(serve(dir.path(), &["--listen", &listen]), 1, &["in use"]);
    let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = Client::new(stream);
    client.get("/a");
    assert_eq!(client.got().body, b"hello");
    drop(client);
    running.signal(Signal::TERM);
    assert_eq!(running.end().code(), Some(0));
    assert!(!socket.exists());
}

/// A tool of systemd's; said when it is not there.
fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").output().is_ok();
    if !there {
        not_run(format_args!("there is no {tool} here (package systemd)"));
    }
    there
}

#[test]
fn systemd_understands_the_units() {
    if !has("systemd-analyze") {
        return;
    }
    let dir = directory(&[]);
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd");
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify");
    for name in ["spliceport.service", "spliceport.socket"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        // The program must be there.
        let text = text.replace(
            "/usr/local/bin/spliceport",
            env!("CARGO_BIN_EXE_spliceport"),
        );
        let unit = dir.path().join(name);
        fs::write(&unit, text).unwrap();
        verify.arg(unit);
    }
    let verified = verify.output().unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    // What it does not know, it only warns of.
    assert!(!said.contains("spliceport."), "{said}");
}

#[test]
fn systemd_passes_its_sockets() {
    if !has("systemd-socket-activate") {
        return;
    }
    let dir = directory(&[("a", b"hello")]);
    let socket = dir.path().join("socket");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&socket);
    command
        .arg(env!("CARGO_BIN_EXE_spliceport"))
        .arg("serve")
        .arg(dir.path());
    command.args(["--threads", "2", "--sandbox", "required"]);
    let mut running = Running::start(command);
    // It starts the program when somebody connects.
    let stream = wait_for("its socket", || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = Client::new(stream);
    client.get("/a");
    assert_eq!(client.got().body, b"hello");
    assert!(running.line().contains("socket"));
    drop(client);
    // (It has become the program.)
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    // A socket that was passed is its maker's to remove.
    assert!(socket.exists());
}
