//! `spliceport serve`: what a client sees, on both backends.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::*;
use tempfile::TempDir;

on_both_backends! {
    sends_files_of_all_sizes,
    answers_head_without_the_body,
    answers_ranges,
    obeys_conditions,
    answers_each_request_with_its_status,
    refuses_too_long_heads_and_says_so,
    reads_bodies_away,
    keeps_connections,
    answers_pipelined_requests_in_order,
    bounds_what_a_client_that_reads_nothing_costs,
    never_leaves_the_directory,
    follows_links_inside_only,
    sends_regular_files_only,
    needs_no_openat2,
    answers_directories_with_their_index,
    sees_changes_of_files,
    cuts_the_connection_when_a_file_shrinks,
    takes_requests_byte_by_byte,
    survives_half_closed_clients,
    ends_idle_and_slow_connections,
    keeps_slow_readers,
    finishes_transfers_when_stopped,
    finishes_transfers_with_requests_behind_them_when_stopped,
    stops_at_once_on_the_second_signal,
    stops_after_the_time_limit,
    ends_when_a_thread_fails,
    serves_unix_sockets,
    serves_with_several_threads,
    goes_every_route,
    works_with_curl,
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    dir
}

fn sends_files_of_all_sizes(backend: &str) {
    let dir = directory(&[]);
    let server = Server::start(backend, dir.path());
    for size in [0, 1, 511, 4096, 16_384, 16_385, 70_000, (3 << 20) + 17] {
        let content = pattern(size);
        let name = format!("{size}.bin");
        fs::write(dir.path().join(&name), &content).unwrap();
        let response = server.get(&format!("/{name}"), "");
        assert_eq!(response.status, 200);
        assert_same(&response.body, &content, size);
        assert_eq!(
            response.field("Content-Type"),
            Some("application/octet-stream")
        );
        assert_eq!(response.field("Accept-Ranges"), Some("bytes"));
        let server_field = response.field("Server").expect("a Server field");
        assert!(server_field.starts_with("spliceport/"));
        for date in ["Date", "Last-Modified"] {
            let value = response.field(date).expect("a date");
            assert!(value.ends_with(" GMT") && value.len() == 29, "{value}");
        }
        assert_eq!(response.field("Connection"), None);
    }
    fs::write(dir.path().join("a.html"), "<p>").unwrap();
    let response = server.get("/a.html", "");
    assert_eq!(
        response.field("Content-Type"),
        Some("text/html; charset=utf-8")
    );
}

fn answers_head_without_the_body(backend: &str) {
    let dir = directory(&[("a", &pattern(100_000))]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    for (target, status, length) in [("/a", 200, 100_000), ("/none", 404, 14)] {
        let head = format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n");
        client.send(head.as_bytes());
        let response = client.response(head.as_bytes());
        assert_eq!(response.status, status);
        assert_eq!(response.length(), length);
    }
    // Nothing but heads was sent: the next response follows.
    client.get("/a");
    assert_same(&client.got().body, &pattern(100_000), "after HEAD");
}

fn answers_ranges(backend: &str) {
    let size = 300_000;
    let content = pattern(size);
    let dir = directory(&[("a", &content), ("empty", b"")]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    let mut ask = |target: &str, range: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nRange: {range}\r\n\r\n");
        client.send(request.as_bytes());
        client.got()
    };
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1-4096", 1, 4097),
        ("bytes=4095-70000", 4095, 70_001),
        ("bytes=299999-", size - 1, size),
        ("bytes=100000-", 100_000, size),
        ("bytes=-1", size - 1, size),
        ("bytes=-65537", size - 65_537, size),
        ("bytes=-900000", 0, size),
        ("bytes=0-900000", 0, size),
    ] {
        let response = ask("/a", range);
        assert_eq!(response.status, 206, "{range}");
        let told = format!("bytes {start}-{}/{size}", end - 1);
        assert_eq!(response.field("Content-Range"), Some(told.as_str()));
        assert_same(&response.body, &content[start..end], range);
    }
    for range in ["bytes=300000-", "bytes=400000-500000", "bytes=-0"] {
        let response = ask("/a", range);
        assert_eq!(response.status, 416, "{range}");
        assert_eq!(response.field("Content-Range"), Some("bytes */300000"));
    }
    assert_eq!(ask("/empty", "bytes=0-").status, 416);
    assert_eq!(ask("/empty", "bytes=-1").status, 200);
    for range in ["bytes=0-1,3-4", "bytes=5-1", "lines=0-1", "bytes=x", ""] {
        let response = ask("/a", range);
        assert_eq!(response.status, 200, "{range}");
        assert_same(&response.body, &content, range);
    }
}

fn obeys_conditions(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let modified = server.get("/a", "");
    let modified = modified.field("Last-Modified").expect("a date");
    let earlier = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (fields, status) in [
        (format!("If-Modified-Since: {modified}\r\n"), 304),
        (format!("If-Modified-Since: {earlier}\r\n"), 200),
        ("If-Modified-Since: nonsense\r\n".to_owned(), 200),
        (format!("If-Unmodified-Since: {modified}\r\n"), 200),
        (format!("If-Unmodified-Since: {earlier}\r\n"), 412),
        (format!("Range: bytes=1-2\r\nIf-Range: {modified}\r\n"), 206),
        (format!("Range: bytes=1-2\r\nIf-Range: {earlier}\r\n"), 200),
        ("Range: bytes=1-2\r\nIf-Range: \"tag\"\r\n".to_owned(), 200),
    ] {
        assert_eq!(server.get("/a", &fields).status, status, "{fields}");
    }
}

fn answers_each_request_with_its_status(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let table: &[(&[u8], u16)] = &[
        (b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"\r\n\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET /a HTTP/1.0\r\n\r\n", 200),
        (b"GET http://t/a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET /a?query HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        (b"GET /none HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        (b"GET /a/ HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        (b"GET /a/b HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        (b"POST /a HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        (b"DELETE /none HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        (b"BREW /a HTTP/1.1\r\nHost: t\r\n\r\n", 501),
        (
            b"GET /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (b"GET /a HTTP/1.1\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n", 400),
        (b"GET /a\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        (b"GET /a HTTP/1.1\r\nHost t\r\n\r\n", 400),
        (
            b"GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n",
            400,
        ),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /a HTTP/3.0\r\nHost: t\r\n\r\n", 505),
    ];
    for (request, status) in table {
        let shown = String::from_utf8_lossy(request);
        let response = server.ask(request);
        assert_eq!(response.status, *status, "{shown:?}");
        if *status == 405 {
            assert_eq!(response.field("Allow"), Some("GET, HEAD"));
        }
        if *status == 200 {
            assert_eq!(response.body, b"hello", "{shown:?}");
        }
    }
}

fn refuses_too_long_heads_and_says_so(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let long = "x".repeat(100_000);
    let many = "X: y\r\n".repeat(200);
    for (request, status) in [
        (format!("GET /{long} HTTP/1.1\r\nHost: t\r\n\r\n"), 414),
        (
            format!("GET /a HTTP/1.1\r\nHost: t\r\nX: {long}\r\n\r\n"),
            431,
        ),
        (format!("GET /a HTTP/1.1\r\nHost: t\r\n{many}\r\n"), 431),
        // Without an end, and with much behind it that is never read as a request.
        (format!("GET /{long}{long}{long}"), 414),
        (format!("\0{long}{long}{long}"), 400),
    ] {
        let mut client = server.connect();
        client.send(request.as_bytes());
        let response = client.got();
        assert_eq!(response.status, status);
        assert_eq!(response.field("Connection"), Some("close"));
        client.assert_ended();
    }
}

fn reads_bodies_away(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    // One in pieces, one behind the other; what looks like a request in them is none.
    let body = "GET /none HTTP/1.1\r\n\r\n";
    let length = body.len();
    let head = format!("GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n");
    client.send(head.as_bytes());
    assert_eq!(client.got().status, 200);
    let (one, two) = body.split_at(7);
    client.send(one.as_bytes());
    client.send(format!("{two}{head}{body}").as_bytes());
    assert_eq!(client.got().status, 200);
    let post = format!("POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n{body}");
    client.send(post.as_bytes());
    assert_eq!(client.got().status, 405);
    client.get("/a");
    assert_eq!(client.got().body, b"hello");

    // One that is too long ends the connection, with the answer arriving.
    let mut client = server.connect();
    client.send(b"GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 500000\r\n\r\n");
    client.send(&[b'x'; 500_000]);
    let response = client.got();
    assert_eq!(response.status, 413);
    assert_eq!(response.field("Connection"), Some("close"));
    client.assert_ended();
}

fn keeps_connections(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("big", &pattern(500_000))]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    for _ in 0..10 {
        for (target, status) in [("/a", 200), ("/none", 404), ("/big", 200)] {
            client.get(target);
            let response = client.got();
            assert_eq!(response.status, status);
            assert_eq!(response.field("Connection"), None);
        }
    }
    client.send(b"GET /big HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    let response = client.got();
    assert_eq!(response.field("Connection"), Some("close"));
    assert_same(&response.body, &pattern(500_000), "the last");
    client.assert_ended();

    let mut client = server.connect();
    for _ in 0..3 {
        client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.got().field("Connection"), Some("keep-alive"));
    }
    client.send(b"GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(client.got().field("Connection"), Some("close"));
    client.assert_ended();
}

fn answers_pipelined_requests_in_order(backend: &str) {
    let names: Vec<String> = (0..40).map(|i| format!("f{i}")).collect();
    let contents: Vec<Vec<u8>> = (0..40).map(|i| pattern(1 + i * i * 97)).collect();
    let files: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    let dir = directory(&files);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    let mut requests = Vec::new();
    for round in 0..3 {
        for (index, name) in names.iter().enumerate() {
            let name = if index % 7 == round { "none" } else { name };
            requests
                .extend_from_slice(format!("GET /{name} HTTP/1.1\r\nHost: t\r\n\r\n").as_bytes());
        }
    }
    requests.extend_from_slice(b"GET /f1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    // Nothing behind a request that asks for the end is answered.
    requests.extend_from_slice(b"GET /f2 HTTP/1.1\r\nHost: t\r\n\r\n");
    client.send(&requests);
    for round in 0..3 {
        for (index, content) in contents.iter().enumerate() {
            let response = client.got();
            if index % 7 == round {
                assert_eq!(response.status, 404);
            } else {
                assert_same(&response.body, content, (round, index));
            }
        }
    }
    assert_eq!(client.got().field("Connection"), Some("close"));
    client.assert_ended();
}

fn bounds_what_a_client_that_reads_nothing_costs(backend: &str) {
    let content = pattern(64 << 10);
    let dir = directory(&[("a", &content)]);
    let server = Server::start(backend, dir.path());
    for (target, padding) in [("/a", 4000), ("/none", 10)] {
        let mut client = server.connect();
        let buffers = 128 << 10;
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, buffers).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&client.stream, buffers).unwrap();
        // Until the server has stopped reading for a while.
        let pause = Duration::from_millis(300);
        client.stream.set_write_timeout(Some(pause)).unwrap();
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: t\r\nX: {:padding$}\r\n\r\n",
            ""
        );
        let (mut written, mut at) = (0, 0);
        while let Ok(n) = client.stream.write(&request.as_bytes()[at..]) {
            written += n;
            at = (at + n) % request.len();
            assert!(written < 64 << 20, "it reads without end");
        }
        // What was taken is answered, the request that was cut with the rest of it.
        let mut rest = client.stream.try_clone().unwrap();
        rest.set_write_timeout(Some(LIMIT)).unwrap();
        let end = if at > 0 {
            &request.as_bytes()[at..]
        } else {
            &[]
        };
        let end = end.to_vec();
        let writer = thread::spawn(move || rest.write_all(&end));
        for index in 0..written.div_ceil(request.len()) {
            let response = client.got();
            if target == "/a" {
                assert_same(&response.body, &content, index);
            } else {
                assert_eq!(response.status, 404);
            }
        }
        writer.join().expect("it doesn't panic").expect("it reads");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.running.id()));
    let status = status.expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.trim().strip_suffix(" kB"));
    let peak: u64 = peak.and_then(|n| n.parse().ok()).expect("a number");
    assert!(peak < 64 << 10, "{peak} KiB of memory were in use");
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
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    fs::create_dir(dir.path().join("e")).unwrap();
    fs::rename(&fifo, dir.path().join("e/index.html")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
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

fn deny(call: i64, errno: i32) {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into_iter().collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH
            .try_into()
            .expect("a known processor"),
    );
    let filter: BpfProgram = filter.expect("a filter").try_into().expect("a program");
    seccompiler::apply_filter(&filter).expect("filters may be set");
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

fn sees_changes_of_files(backend: &str) {
    let dir = directory(&[("a", b"one"), ("v1", b"first"), ("v2", b"second one")]);
    let path = dir.path().join("a");
    symlink("v1", dir.path().join("link")).unwrap();
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    let mut get = |target: &str| {
        client.get(target);
        client.got()
    };
    assert_eq!(get("/a").body, b"one");
    // Replaced, written to, cut, deleted, made again: seen at once.
    for content in ["number two", "3", "the fourth is longer"] {
        let new = dir.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(get("/a").body, content.as_bytes());
    }
    fs::write(&path, "written over").unwrap();
    assert_eq!(get("/a").body, b"written over");
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b", and more").unwrap();
    assert_eq!(get("/a").body, b"written over, and more");
    file.set_len(7).unwrap();
    assert_eq!(get("/a").body, b"written");
    fs::remove_file(&path).unwrap();
    assert_eq!(get("/a").status, 404);
    fs::write(&path, "again").unwrap();
    assert_eq!(get("/a").body, b"again");
    // A link that leads elsewhere: seen after a second at the latest.
    assert_eq!(get("/link").body, b"first");
    let link = dir.path().join("new link");
    symlink("v2", &link).unwrap();
    fs::rename(&link, dir.path().join("link")).unwrap();
    wait_for("the new link", || {
        let body = get("/link").body;
        assert!(body == b"first" || body == b"second one");
        (body == b"second one").then_some(())
    });
}

/// Makes a file that no socket's buffers hold wholly.
fn make_big(path: &Path) -> usize {
    let size = 96 << 20;
    let file = fs::File::create(path).expect("a file");
    file.set_len(size as u64).expect("room");
    size
}

fn cuts_the_connection_when_a_file_shrinks(backend: &str) {
    let dir = directory(&[]);
    let path = dir.path().join("big");
    let size = make_big(&path);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    client.get("/big");
    let head = client.head();
    assert_eq!(head.length(), size);
    client.take(1000);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(4096).unwrap();
    let rest = client.rest().len();
    assert!(1000 + rest < size, "all of it came");
    // And the next one gets what there is.
    assert_eq!(server.get("/big", "").body.len(), 4096);
}

fn takes_requests_byte_by_byte(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    client.stream.set_nodelay(true).unwrap();
    for _ in 0..3 {
        for byte in b"\r\nGET /a HTTP/1.1\r\nHost: t\r\nRange: bytes=1-3\r\n\r\n" {
            client.send(&[*byte]);
        }
        let response = client.got();
        assert_eq!(response.status, 206);
        assert_eq!(response.body, b"ell");
    }
}

fn survives_half_closed_clients(backend: &str) {
    let content = pattern(2 << 20);
    let dir = directory(&[("a", &content), ("b", b"hello")]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    client.get("/a");
    for _ in 0..50 {
        client.get("/b");
    }
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_same(&client.got().body, &content, "after the half-close");
    for _ in 0..50 {
        assert_eq!(client.got().body, b"hello");
    }
    client.assert_ended();
}

fn ends_idle_and_slow_connections(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let big = make_big(&dir.path().join("big"));
    let limits = [
        "--idle-timeout",
        "1",
        "--header-timeout",
        "1",
        "--send-timeout",
        "1",
    ];
    let server = Server::with(backend, dir.path(), &limits);
    let before = sockets_of(&server);
    let mut new = server.connect();
    let mut idle = server.connect();
    idle.get("/a");
    assert_eq!(idle.got().status, 200);
    // As some old clients do; it is no request.
    idle.send(b"\r\n");
    let mut slow = server.connect();
    slow.send(b"GET /a HTTP/1.1\r\nHost:");
    let mut stalled = server.connect();
    stalled.get("/big");
    assert_eq!(stalled.head().status, 200);
    new.assert_ended();
    idle.assert_ended();
    assert_eq!(slow.got().status, 408);
    slow.assert_ended();
    drop(slow);
    // The server gives the stalled one up while nobody reads; only then do we.
    wait_for("the end of the stalled connection", || {
        (sockets_of(&server) == before).then_some(())
    });
    assert!(stalled.rest().len() < big);
}

fn keeps_slow_readers(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let server = Server::with(backend, dir.path(), &["--send-timeout", "2"]);
    let mut slow = server.connect();
    rustix::net::sockopt::set_socket_recv_buffer_size(&slow.stream, 64 << 10).unwrap();
    slow.get("/big");
    assert_eq!(slow.head().length(), size);
    let mut left = size;
    // So little that for long the server's socket takes no more.
    for _ in 0..70 {
        left -= slow.take(10_000).len();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(slow.take(left).len(), left);
}

/// How many sockets a server has open.
fn sockets_of(server: &Server) -> usize {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", server.running.id()));
    let targets = descriptors
        .expect("it runs")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

fn finishes_transfers_when_stopped(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut idle = server.connect();
    idle.get("/a");
    assert_eq!(idle.got().status, 200);
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    busy.take(10_000);
    server.running.signal(Signal::TERM);
    idle.assert_ended();
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    assert_eq!(busy.take(size - 10_000).len(), size - 10_000);
    busy.assert_ended();
    drop(busy);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
}

fn finishes_transfers_with_requests_behind_them_when_stopped(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    busy.take(10_000);
    server.running.signal(Signal::TERM);
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    // Left unread, these would make the kernel throw the end of the response away.
    for _ in 0..10 {
        busy.get("/a");
    }
    let mut left = size - 10_000;
    while left > 0 {
        let n = left.min(1 << 20);
        assert_eq!(busy.take(n).len(), n);
        left -= n;
        thread::sleep(Duration::from_millis(2));
    }
    busy.assert_ended();
    drop(busy);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

fn stops_at_once_on_the_second_signal(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::start(backend, dir.path());
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    server.running.signal(Signal::INT);
    wait_for("the listener's end", || {
        std::net::TcpStream::connect(&server.address).err()
    });
    server.running.signal(Signal::INT);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("second signal"), "{ended:?}");
    assert!(busy.rest().len() < size);
}

fn stops_after_the_time_limit(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut server = Server::with(backend, dir.path(), &["--stop-timeout", "0.2"]);
    let mut busy = server.connect();
    busy.get("/big");
    assert_eq!(busy.head().length(), size);
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("--stop-timeout"), "{ended:?}");
    assert!(busy.rest().len() < size);
}

fn ends_when_a_thread_fails(backend: &str) {
    let dir = directory(&[]);
    let mut command = std::process::Command::new("sh");
    // Not all of the threads get the descriptors that they need.
    let script = "ulimit -n 24 && exec \"$0\" serve --backend \"$1\" --listen 127.0.0.1:0 \
                  --threads 12 \"$2\"";
    let program = env!("CARGO_BIN_EXE_spliceport");
    command.args(["-c", script, program, backend]);
    command.arg(dir.path());
    let ended = run(command);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("Too many open files"), "{ended:?}");
}

fn serves_unix_sockets(backend: &str) {
    let content = pattern(500_000);
    let dir = directory(&[("a", &content)]);
    let socket = dir.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    for threads in ["1", "2"] {
        let more = ["--listen", listen.as_str(), "--threads", threads];
        let mut server = Server::with(backend, dir.path(), &more);
        assert_eq!(server.address, listen);
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut client = Client::new(stream);
        client.get("/a");
        assert_same(&client.got().body, &content, "over a Unix socket");
        // A second one is told that the path is taken.
        let mut second = program(&["serve", "--backend", backend, "--listen", &listen]);
        second.arg(dir.path());
        let second = run(second);
        assert_eq!(second.code(), Some(1), "{second:?}");
        assert!(second.stderr.contains(&listen), "{second:?}");
        server.running.signal(Signal::TERM);
        assert_eq!(server.running.end().code(), Some(0));
        assert!(!socket.exists());
    }
    // What a killed one left behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    Server::with(backend, dir.path(), &["--listen", &listen]);
}

fn serves_with_several_threads(backend: &str) {
    let content = pattern(100_000);
    let dir = directory(&[("a", &content)]);
    let mut server = Server::with(backend, dir.path(), &["--threads", "3"]);
    let mut clients: Vec<_> = (0..24).map(|_| server.connect()).collect();
    for round in 0..3 {
        for client in &mut clients {
            client.get("/a");
        }
        for client in &mut clients {
            assert_same(&client.got().body, &content, round);
        }
    }
    // Its port is taken, for one that would share it as well.
    for threads in ["1", "2"] {
        let mut second = program(&["serve", "--backend", backend, "--threads", threads]);
        second.args(["--listen", &server.address]).arg(dir.path());
        let second = run(second);
        assert_eq!(second.code(), Some(1), "{second:?}");
        let named = second.stderr.contains(&server.address);
        assert!(named && second.stderr.contains("another"), "{second:?}");
    }
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));
    for client in &mut clients {
        client.assert_ended();
    }
}

fn goes_every_route(backend: &str) {
    let content = pattern((1 << 20) + 12_345);
    let dir = directory(&[("a", &content)]);
    for route in ["auto", "copy", "chain", "inline", "sendfile"] {
        let server = Server::with(backend, dir.path(), &["--route", route]);
        let mut client = server.connect();
        for _ in 0..3 {
            client.get("/a");
            assert_same(&client.got().body, &content, route);
        }
        let part = server.get("/a", "Range: bytes=4097-900000\r\n");
        assert_same(&part.body, &content[4097..=900_000], route);
    }
}

fn works_with_curl(backend: &str) {
    let content = pattern((5 << 20) + 1);
    let dir = directory(&[("a b.bin", &content)]);
    let server = Server::start(backend, dir.path());
    let url = format!("http://{}/a%20b.bin", server.address);
    let into = dir.path().join("got");
    let curl = |args: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60"]);
        curl.args(args).arg("--output").arg(&into).arg(&url);
        curl.status()
    };
    match curl(&[]) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: curl is not installed");
            return;
        }
        status => assert!(status.unwrap().success()),
    }
    assert_same(&fs::read(&into).unwrap(), &content, "curl");
    let half = fs::OpenOptions::new().write(true).open(&into).unwrap();
    half.set_len(1_000_000).unwrap();
    assert!(curl(&["--continue-at", "-"]).unwrap().success());
    assert_same(&fs::read(&into).unwrap(), &content, "curl, continued");
    assert!(curl(&["--http1.0"]).unwrap().success());
    assert_same(&fs::read(&into).unwrap(), &content, "curl, HTTP/1.0");
}

#[test]
fn says_what_is_wrong() {
    let dir = directory(&[("a", b"hello")]);
    let path = dir.path().to_str().expect("UTF-8");
    let file = format!("{path}/a");
    let none = format!("{path}/none");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (args, code, said) in [
        (vec!["serve", &none], 1, vec![none.as_str(), "No such file"]),
        (vec!["serve", &file], 1, vec![file.as_str(), "directory"]),
        (
            vec!["serve", path, "--listen", "here"],
            2,
            vec!["\"here\"", "HOST:PORT"],
        ),
        (
            vec!["serve", path, "--listen", "192.0.2.1:80"],
            1,
            vec!["192.0.2.1:80", "no such address"],
        ),
        (
            vec!["serve", path, "--listen", &taken],
            1,
            vec![taken.as_str(), "another program"],
        ),
        (vec!["serve", path, "--threads", "0"], 2, vec!["--threads"]),
        (vec!["serve", path, "--backend", "x"], 2, vec!["emulated"]),
        (vec!["serve", path, "--route", "x"], 2, vec!["sendfile"]),
        (vec!["serve", path, "--nonsense"], 2, vec!["--nonsense"]),
        (vec![], 2, vec!["Usage"]),
    ] {
        let ended = run(program(&args));
        assert_eq!(ended.code(), Some(code), "{args:?}: {ended:?}");
        for word in said {
            assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
        }
    }
}
