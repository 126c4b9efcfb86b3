//! Which files a target names, and that it names none outside, on both backends.

mod support;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, inotify, mknodat};
use rustix::io::Errno;
use support::*;

on_both_backends! {
    never_leaves_the_directory,
    follows_links_inside_only,
    sends_regular_files_only,
    opens_regular_files_only,
    needs_no_proc,
    needs_no_openat2,
    answers_directories_with_their_index,
}

fn never_leaves_the_directory(backend: &str) {
    let top = directory(&[("secret", b"secret"), ("root/a/file", b"hello")]);
    let root = top.path().join("root");
    let server = Server::start(backend, &root);
    let absolute = top.path().join("secret");
    let absolute = absolute.to_str().expect("UTF-8");
    let mut targets: Vec<Vec<u8>> = [
        "/../secret",
        "/a/../../secret",
        "/a/./../../secret",
        "/%2e%2e/secret",
        "/%2E%2E/secret",
        "/.%2e/secret",
        "/%2e./secret",
        "/a/%2e%2e/%2e%2e/secret",
        "/..%2fsecret",
        "/..%2Fsecret",
        "/a%2f..%2f..%2fsecret",
        "/%2e%2e%2fsecret",
        "/%252e%252e/secret",
        "/..%5csecret",
        "/..\\secret",
        "/..;/secret",
        "/../secret?x",
        "/?/../secret",
        "/..%00/secret",
        "/%c0%ae%c0%ae/secret",
        "//../secret",
        "/.../secret",
        "/a/file/../../../secret",
        "http://t/../secret",
        "http://t/%2e%2e/secret",
        "../secret",
        "file:///etc/passwd",
        "/a\u{0}/../../secret",
    ]
    .iter()
    .map(|target| target.as_bytes().to_vec())
    .collect();
    targets.push(format!("/{absolute}").into_bytes());
    targets.push(absolute.as_bytes().to_vec());
    targets.push(b"/../\xffsecret".to_vec());
    targets.push(b"/\xc0\xae\xc0\xae/secret".to_vec());
    targets.push(b"//proc/self/root/etc/passwd".to_vec());
    for target in targets {
        let shown = String::from_utf8_lossy(&target).into_owned();
        let mut request = b"GET ".to_vec();
        request.extend_from_slice(&target);
        request.extend_from_slice(b" HTTP/1.1\r\nHost: t\r\n\r\n");
        let response = server.ask(&request);
        assert!(
            matches!(response.status, 400 | 404),
            "{shown}: {response:?}"
        );
    }
    // Within the directory, dots are names like others.
    for target in ["/a/../a/file", "/./a/file", "/a/%2e/file", "/%61/file"] {
        assert_eq!(server.get(target, "").body, b"hello", "{target}");
    }
}

fn follows_links_inside_only(backend: &str) {
    let top = directory(&[("secret", b"secret"), ("root/a/file", b"hello")]);
    let root = top.path().join("root");
    symlink("a/file", root.join("inside")).unwrap();
    symlink("a", root.join("directory")).unwrap();
    symlink("../a/file", root.join("a/up")).unwrap();
    symlink("../secret", root.join("outside")).unwrap();
    symlink(top.path().join("secret"), root.join("absolute")).unwrap();
    symlink("..", root.join("parent")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("/proc/self/exe", root.join("magic")).unwrap();
    let server = Server::start(backend, &root);
    for target in ["/inside", "/directory/file", "/a/up"] {
        assert_eq!(server.get(target, "").body, b"hello", "{target}");
    }
    for target in [
        "/outside",
        "/absolute",
        "/parent/secret",
        "/parent/",
        "/parent",
        "/loop",
        "/dangling",
        "/magic",
    ] {
        assert_eq!(server.get(target, "").status, 404, "{target}");
    }
}

fn sends_regular_files_only(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("d/a", b"")]);
    let fifo = dir.path().join("fifo");
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(dir.path().join("e")).unwrap();
    fs::rename(&fifo, dir.path().join("e/index.html")).unwrap();
    mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let server = Server::start(backend, dir.path());
    for target in ["/fifo", "/socket", "/e/", "/d/"] {
        assert_eq!(server.get(target, "").status, 404, "{target}");
    }
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.path().join("closed");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(server.get("/closed", "").status, 403);
    }
    assert_eq!(server.get("/a", "").status, 200);
}

/// Makes a FIFO, and watches it: who opens it, at either end, is an event.
fn watched_fifo(path: &Path) -> OwnedFd {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, path, inotify::WatchFlags::OPEN).unwrap();
    watch
}

fn assert_unopened(watch: &OwnedFd, who: &str) {
    let seen = rustix::io::read(watch, &mut [0; 1024][..]);
    assert_eq!(seen, Err(Errno::AGAIN), "{who} opened it");
}

/// To open a FIFO, be it for a moment, is to wake who waits at its other end.
fn opens_regular_files_only(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let path = dir.path().join("fifo");
    let watch = watched_fifo(&path);
    let open = |server: &Server, who: &str| {
        assert_eq!(server.get("/fifo", "").status, 404);
        assert_eq!(server.get("/fifo/", "").status, 404);
        assert_eq!(server.get("/a", "").body, b"hello");
        assert_unopened(&watch, who);
    };
    let writer = {
        let path = path.clone();
        thread::spawn(move || fs::OpenOptions::new().write(true).open(path).map(drop))
    };
    open(&Server::start(backend, dir.path()), "the server");
    let more = ["--sandbox", "best-effort", "--precompressed"];
    open(&Server::with(backend, dir.path(), &more), "in the sandbox");
    let (root, name) = (dir.path().to_owned(), backend.to_owned());
    let server = thread::spawn(move || {
        deny(libc::SYS_openat2, libc::ENOSYS);
        Server::start(&name, &root)
    });
    open(&server.join().unwrap(), "the walk");
    assert!(!writer.is_finished());
    let reader = File::open(&path).unwrap();
    writer.join().unwrap().unwrap();
    drop(reader);
}

/// Files are opened by their names then, once it is known that they are files.
fn needs_no_proc(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("d/index.html", b"index")]);
    let watch = watched_fifo(&dir.path().join("fifo"));
    for openat2 in [true, false] {
        let mut command = program(&["serve", "--backend", backend, "--threads", "1"]);
        command.args(["--listen", "127.0.0.1:0"]).arg(dir.path());
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(hide_proc) };
        if !openat2 {
            deny_in(&mut command, &[libc::SYS_openat2], libc::ENOSYS);
        }
        if !rustix::process::geteuid().is_root() {
            return not_run("to hide /proc takes root");
        }
        let server = Server::running(backend, command);
        for (target, body) in [("/a", "hello"), ("/d/", "index")] {
            assert_eq!(server.get(target, "").body, body.as_bytes());
        }
        assert_eq!(server.get("/fifo", "").status, 404);
        assert_unopened(&watch, "the server");
    }
}

/// Puts an empty directory over /proc, for this process.
fn hide_proc() -> std::io::Result<()> {
    let none = c"none".as_ptr();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the strings are constants.
    let hidden = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()) == 0
            && libc::mount(
                none,
                c"/proc".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                std::ptr::null(),
            ) == 0
    };
    hidden
        .then_some(())
        .ok_or_else(std::io::Error::last_os_error)
}

/// As a seccomp profile does that is older than the call. (The ring opens without the system
/// call, so that there nothing changes.)
fn needs_no_openat2(backend: &str) {
    let top = directory(&[
        ("secret", b"secret"),
        ("root/a/file", b"hello"),
        ("root/a/index.html", b"index"),
    ]);
    let root = top.path().join("root");
    symlink("../secret", root.join("outside")).unwrap();
    symlink("..", root.join("parent")).unwrap();
    symlink("file", root.join("a/link")).unwrap();
    for errno in [libc::ENOSYS, libc::EPERM] {
        let (root, name) = (root.clone(), backend.to_owned());
        // A filter is for the thread that sets it, and for those it starts.
        let server = thread::spawn(move || {
            deny(libc::SYS_openat2, errno);
            Server::start(&name, &root)
        });
        let server = server.join().unwrap();
        for (target, status) in [
            ("/a/file", 200),
            ("/a/", 200),
            ("/a", 301),
            ("/", 404),
            ("/none", 404),
            ("/a/file/", 404),
            ("/a/file/x", 404),
            ("/outside", 404),
            ("/parent/secret", 404),
            ("/../secret", 400),
        ] {
            assert_eq!(server.get(target, "").status, status, "{target}");
        }
        assert_eq!(server.get("/a/file", "").body, b"hello");
        // Links are not followed, even where they stay inside.
        let link = if backend == "ring" { 200 } else { 404 };
        assert_eq!(server.get("/a/link", "").status, link);
    }
}

fn answers_directories_with_their_index(backend: &str) {
    let dir = directory(&[
        ("index.html", b"top"),
        ("a b/index.html", b"below"),
        ("empty/x", b""),
        ("d/index.html/x", b""),
    ]);
    let server = Server::start(backend, dir.path());
    let response = server.get("/", "");
    assert_eq!(response.body, b"top");
    assert_eq!(
        response.field("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(server.get("/a%20b/", "").body, b"below");
    assert_eq!(server.get("/a%20b/.", "").body, b"below");
    assert_eq!(server.get("/empty/", "").status, 404);
    assert_eq!(server.get("/d/", "").status, 404);
    for (target, location) in [
        ("/a%20b", "/a%20b/"),
        ("/a%20b?x=1", "/a%20b/?x=1"),
        ("//a%20b", "/a%20b/"),
        ("/empty", "/empty/"),
    ] {
        let response = server.get(target, "");
        assert_eq!(response.status, 301, "{target}");
        assert_eq!(response.field("Location"), Some(location));
    }
}
