//! `serve --upload`: PUT, its refusals, and what is in the directory afterwards.

mod support;

use std::fs;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::*;
use tempfile::TempDir;

on_both_backends! {
    makes_and_replaces_files,
    goes_on_with_the_connection,
    asks_for_the_body,
    refuses_before_the_body,
    obeys_conditions,
    stays_below_the_directory,
    leaves_nothing_of_what_is_cut_off,
    ends_uploads_that_stall,
    finishes_uploads_when_stopped,
    takes_many_at_once,
    offers_nothing_unless_asked,
    says_that_the_disk_is_full,
    says_that_the_quota_is_used_up,
}

const TOKEN: &str = "s3cret";
const AUTH: &str = "Authorization: Bearer s3cret\r\n";
const LEN: usize = 3_000_000;

fn server(backend: &str, dir: &Path) -> Server {
    let more = ["--upload", "--upload-limit", "4M", "--upload-token", TOKEN];
    Server::with(backend, dir, &more)
}

fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| ((i * 31 + i / 251) + seed) as u8)
        .collect()
}

fn head(target: &str, length: usize, fields: &str) -> Vec<u8> {
    format!("PUT {target} HTTP/1.1\r\nHost: t\r\n{fields}Content-Length: {length}\r\n\r\n")
        .into_bytes()
}

fn put(target: &str, body: &[u8]) -> Vec<u8> {
    [&head(target, body.len(), AUTH), body].concat()
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn empty() -> TempDir {
    directory(&[])
}

fn makes_and_replaces_files(backend: &str) {
    let dir = empty();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let server = server(backend, dir.path());
    for (index, len) in [0, 1, 10_000, 100_000, LEN].into_iter().enumerate() {
        let body = content(len, index);
        for status in [201, 204] {
            let target = format!("/sub/file%20{index}");
            let response = server.ask(&put(&target, &body));
            assert_eq!(response.status, status, "{len}");
            let path = dir.path().join(format!("sub/file {index}"));
            assert!(fs::read(path).unwrap() == body);
            // Seen at once, though the one before may be open still.
            let got = server.get(&target, "");
            assert!(got.body == body);
        }
    }
    assert_eq!(names(&dir.path().join("sub")).len(), 5);
}

fn goes_on_with_the_connection(backend: &str) {
    let dir = empty();
    let server = server(backend, dir.path());
    let mut client = server.connect();
    // All at once: what follows a body is the next request.
    let mut bytes = put("/a", b"first");
    bytes.extend(put("/b", &content(200_000, 1)));
    bytes.extend(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n");
    bytes.extend(put("/a", b"second"));
    bytes.extend(b"GET /a HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    client.send(&bytes);
    assert_eq!(client.response(b"PUT ").status, 201);
    assert_eq!(client.response(b"PUT ").status, 201);
    assert_eq!(client.got().body, b"first");
    assert_eq!(client.response(b"PUT ").status, 204);
    assert_eq!(client.got().body, b"second");
    client.assert_ended();
    assert!(fs::read(dir.path().join("b")).unwrap() == content(200_000, 1));
    // Byte by byte.
    let mut client = server.connect();
    for byte in put("/c", b"slowly") {
        client.send(&[byte]);
    }
    assert_eq!(client.response(b"PUT ").status, 201);
    assert_eq!(fs::read(dir.path().join("c")).unwrap(), b"slowly");
}

fn asks_for_the_body(backend: &str) {
    let dir = empty();
    let server = server(backend, dir.path());
    let mut client = server.connect();
    let fields = format!("{AUTH}Expect: 100-continue\r\n");
    for status in [201, 204] {
        client.send(&head("/a", 5, &fields));
        let go_on = client.head();
        assert_eq!(go_on.status, 100);
        assert!(go_on.fields.is_empty());
        client.send(b"hello");
        assert_eq!(client.response(b"PUT ").status, status);
    }
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"hello");
    // What is refused is not asked for.
    client.send(&head("/a", 5, "Expect: 100-continue\r\n"));
    assert_eq!(client.response(b"PUT ").status, 401);
    client.assert_ended();
}

fn refuses_before_the_body(backend: &str) {
    let dir = directory(&[("there/file", b"kept")]);
    let server = server(backend, dir.path());
    let wrong = "Authorization: Bearer s3creT\r\n";
    let part = format!("{AUTH}Content-Range: bytes 0-3/4\r\n");
    for (target, fields, length, status) in [
        ("/a", "", 4, 401),
        ("/a", wrong, 4, 401),
        ("/a", "Authorization: Basic czNjcmV0\r\n", 4, 401),
        ("/a", AUTH, (4 << 20) + 1, 413),
        ("/a", &part, 4, 400),
        ("/", AUTH, 4, 409),
        ("/there/", AUTH, 4, 409),
        ("/there", AUTH, 4, 409),
        ("/none/a", AUTH, 4, 409),
        ("/there/file/a", AUTH, 4, 409),
        ("/.hidden", AUTH, 4, 403),
        ("/.git/config", AUTH, 4, 403),
        ("/%00", AUTH, 4, 400),
        ("/../a", AUTH, 4, 400),
    ] {
        // With and without a body behind it: the answer comes, and then the end.
        for body in [&b""[..], b"body"] {
            let mut client = server.connect();
            client.send(&[&head(target, length, fields), body].concat());
            let response = client.response(b"PUT ");
            assert_eq!(response.status, status, "{target} {fields}");
            let challenge = response.field("WWW-Authenticate");
            assert_eq!(challenge.is_some(), status == 401);
            client.stream.shutdown(Shutdown::Write).unwrap();
            client.assert_ended();
        }
    }
    let chunked = format!(
        "PUT /a HTTP/1.1\r\nHost: t\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    );
    assert_eq!(server.ask(chunked.as_bytes()).status, 411);
    let none = format!("PUT /a HTTP/1.1\r\nHost: t\r\n{AUTH}\r\n");
    assert_eq!(server.ask(none.as_bytes()).status, 411);
    assert_eq!(names(dir.path()), ["there"]);
    assert_eq!(names(&dir.path().join("there")), ["file"]);
    // Still there.
    assert_eq!(server.get("/there/file", "").body, b"kept");
}

fn obeys_conditions(backend: &str) {
    let dir = directory(&[("a", b"old")]);
    let server = server(backend, dir.path());
    let tag = server.get("/a", "").field("ETag").unwrap().to_owned();
    let ask = |target: &str, condition: &str| {
        let fields = format!("{AUTH}{condition}\r\n");
        server
            .ask(&[&head(target, 3, &fields)[..], b"new"].concat())
            .status
    };
    assert_eq!(ask("/a", "If-None-Match: *"), 412);
    assert_eq!(ask("/a", "If-Match: \"other\""), 412);
    assert_eq!(ask("/none", "If-Match: *"), 412);
    assert_eq!(ask("/a", &format!("If-None-Match: {tag}")), 412);
    let early = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
    let late = "If-Unmodified-Since: Fri, 06 Nov 2093 08:49:37 GMT";
    assert_eq!(ask("/a", early), 412);
    assert_eq!(ask("/a", &format!("{early}\r\nIf-None-Match: \"x\"")), 412);
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
    // It says nothing of a PUT.
    let since = "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT";
    assert_eq!(ask("/b", since), 201);
    assert_eq!(ask("/a", &format!("If-Match: {tag}")), 204);
    assert_eq!(ask("/c", "If-None-Match: *"), 201);
    // There is no date to hold it against; and what is said twice is not said.
    assert_eq!(ask("/e", early), 201);
    assert_eq!(ask("/e", late), 204);
    assert_eq!(ask("/e", &format!("{early}\r\n{early}")), 204);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"new");
    // One that appears meanwhile is not replaced.
    let mut client = server.connect();
    client.send(&head(
        "/d",
        5,
        &format!("{AUTH}If-None-Match: *\r\nExpect: 100-continue\r\n"),
    ));
    assert_eq!(client.head().status, 100);
    fs::write(dir.path().join("d"), "first").unwrap();
    client.send(b"later");
    assert_eq!(client.response(b"PUT ").status, 412);
    assert_eq!(fs::read(dir.path().join("d")).unwrap(), b"first");
}

fn stays_below_the_directory(backend: &str) {
    let top = directory(&[("secret", b"kept"), ("root/in/file", b"kept")]);
    let root = top.path().join("root");
    symlink("../..", root.join("in/out")).unwrap();
    symlink("../secret", root.join("link")).unwrap();
    let server = server(backend, &root);
    for target in ["/in/out/evil", "/in/out/secret"] {
        assert_eq!(server.ask(&put(target, b"evil")).status, 409, "{target}");
    }
    // What nobody can have has no tag.
    for condition in ["If-Match: \"x\"\r\n", "If-Match: *\r\n"] {
        let head = head("/link", 4, &format!("{AUTH}{condition}"));
        let status = server.ask(&[&head[..], b"evil"].concat()).status;
        assert_eq!(status, 412, "{condition}");
    }
    assert!(
        fs::symlink_metadata(root.join("link"))
            .unwrap()
            .is_symlink()
    );
    // A link is replaced itself; one that leads out was, to clients, not there.
    symlink("in/file", root.join("inner")).unwrap();
    assert_eq!(server.ask(&put("/inner", b"mine")).status, 204);
    assert_eq!(fs::read(root.join("in/file")).unwrap(), b"kept");
    assert_eq!(server.get("/link", "").status, 404);
    assert_eq!(server.ask(&put("/link", b"mine")).status, 201);
    assert_eq!(fs::read(top.path().join("secret")).unwrap(), b"kept");
    assert_eq!(fs::read(root.join("link")).unwrap(), b"mine");
    assert_eq!(names(top.path()), ["root", "secret"]);
}

fn leaves_nothing_of_what_is_cut_off(backend: &str) {
    let dir = directory(&[("a", b"old")]);
    let mut server = server(backend, dir.path());
    for reset in [false, true] {
        let mut client = server.connect();
        client.send(&head("/a", LEN, AUTH));
        client.send(&content(1_000_000, 0));
        if reset {
            let time = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&client.stream, time).unwrap();
        }
        drop(client);
    }
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(names(dir.path()), ["a"]);
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"old");
}

fn ends_uploads_that_stall(backend: &str) {
    let dir = empty();
    let more = [
        "--upload",
        "--upload-token",
        TOKEN,
        "--send-timeout",
        "1",
        "--header-timeout",
        "1",
    ];
    let server = Server::with(backend, dir.path(), &more);
    let mut client = server.connect();
    client.send(&head("/a", 100, AUTH));
    client.send(b"and then nothing");
    // In whatever way it ends.
    assert!(client.rest().is_empty());
    // One that goes on, however slowly, may take longer.
    let response = wait_for("an upload without too long a pause", || {
        let mut client = server.connect();
        client.send(&head("/b", 8, AUTH));
        let steady = unhurried(b"patience", Duration::from_millis(400), |byte| {
            client.stream.write_all(&[*byte]).is_ok()
        });
        steady.then(|| client.response(b"PUT "))
    });
    assert_eq!(response.status, 201);
    assert_eq!(names(dir.path()), ["b"]);
}

fn finishes_uploads_when_stopped(backend: &str) {
    let dir = empty();
    let mut server = server(backend, dir.path());
    let mut client = server.connect();
    client.send(&head("/a", 5, &format!("{AUTH}Expect: 100-continue\r\n")));
    assert_eq!(client.head().status, 100);
    server.running.signal(Signal::TERM);
    wait_for("the end of listening", || {
        std::net::TcpStream::connect(&server.address)
            .is_err()
            .then_some(())
    });
    client.send(b"whole");
    let response = client.response(b"PUT ");
    assert_eq!(response.status, 201);
    assert_eq!(response.field("Connection"), Some("close"));
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.assert_ended();
    assert_eq!(server.running.end().code(), Some(0));
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"whole");
}

fn takes_many_at_once(backend: &str) {
    let dir = empty();
    let server = server(backend, dir.path());
    let clients: Vec<_> = (0..32)
        .map(|i| {
            let mut client = server.connect();
            thread::spawn(move || {
                client.send(&put(&format!("/{i}"), &content(300_000, i)));
                assert_eq!(client.response(b"PUT ").status, 201);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    for i in 0..32 {
        let path = dir.path().join(i.to_string());
        assert!(fs::read(path).unwrap() == content(300_000, i));
    }
    assert_eq!(names(dir.path()).len(), 32);
}

fn offers_nothing_unless_asked(backend: &str) {
    let dir = empty();
    let server = Server::start(backend, dir.path());
    let response = server.ask(&put("/a", b"body"));
    assert_eq!(response.status, 405);
    assert_eq!(response.field("Allow"), Some("GET, HEAD, OPTIONS"));
    assert!(names(dir.path()).is_empty());
    let server = self::server(backend, dir.path());
    let response = server.ask(b"OPTIONS / HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(response.field("Allow"), Some("GET, HEAD, PUT, OPTIONS"));
}

/// A file system of memory with room for this many bytes. Unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount(size: usize) -> Option<SmallDisk> {
        let dir = empty();
        let options = format!("size={size}");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(dir.path())
            .output();
        let mounted = mount.is_ok_and(|done| done.status.success());
        if !mounted {
            not_run("only root can mount a file system");
        }
        mounted.then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
        let _ = umount;
    }
}

fn says_that_the_disk_is_full(backend: &str) {
    let Some(disk) = SmallDisk::mount(1 << 20) else {
        return;
    };
    let dir = disk.0.path();
    fs::write(dir.join("kept"), "old").unwrap();
    let server = server(backend, dir);
    for route in ["/kept", "/new"] {
        let body = content(LEN, 1);
        let mut client = server.connect();
        // Whoever is told too early may not get all of it away.
        let _ = std::io::Write::write_all(&mut client.stream, &put(route, &body));
        let response = client.response(b"PUT ");
        assert_eq!(response.status, 507, "{route}");
        assert_eq!(response.field("Connection"), Some("close"));
    }
    // All the room is there again, and what was there as well.
    assert_eq!(names(dir), ["kept"]);
    assert_eq!(server.get("/kept", "").body, b"old");
    let body = content(900_000, 2);
    wait_for("the room", || {
        (server.ask(&put("/fits", &body)).status == 201).then_some(())
    });
    assert!(fs::read(dir.join("fits")).unwrap() == body);
}

/// No quota can be set up where the tests run: its error is made, at the place of a new name.
fn says_that_the_quota_is_used_up(backend: &str) {
    let dir = directory(&[("kept", b"old")]);
    let mut command = program(&["serve", "--backend", backend, "--listen", "127.0.0.1:0"]);
    command
        .args(["--upload", "--upload-token", TOKEN])
        .arg(dir.path());
    let places = [libc::SYS_linkat, libc::SYS_renameat2, libc::SYS_renameat];
    deny_in(&mut command, &places, libc::EDQUOT);
    let mut server = Server::running(backend, command);
    for target in ["/new", "/kept"] {
        assert_eq!(server.ask(&put(target, b"body")).status, 507, "{target}");
    }
    assert_eq!(server.get("/kept", "").body, b"old");
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("can't be uploaded"), "{ended:?}");
    assert_eq!(names(dir.path()), ["kept"]);
}

#[test]
fn the_token_comes_from_where_it_is_said() {
    let dir = empty();
    let file = dir.path().join("token");
    fs::write(&file, "s3cret\nmore\n").unwrap();
    let more = ["--upload", "--upload-token-file", file.to_str().unwrap()];
    let server = Server::with("emulated", dir.path(), &more);
    assert_eq!(server.ask(&put("/a", b"body")).status, 201);
    drop(server);
    for (args, said) in [
        (&["--upload"][..], "uploads need a token"),
        (&["--upload", "--upload-token", ""], "visible ASCII"),
        (&["--upload", "--upload-token", "a b"], "visible ASCII"),
        (&["--upload", "--upload-token-file", "/none"], "/none"),
        (&["--upload-token", "x"], "--upload"),
        (
            &["--upload", "--upload-limit", "0", "--upload-token", "x"],
            "above 0",
        ),
    ] {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0"]);
        command.arg(dir.path()).args(args);
        command.env_remove("SPLICEPORT_UPLOAD_TOKEN");
        let ended = run(command);
        assert_ne!(ended.code(), Some(0));
        assert!(ended.stderr.contains(said), "{args:?}: {}", ended.stderr);
    }
    let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--upload"]);
    command
        .arg(dir.path())
        .env("SPLICEPORT_UPLOAD_TOKEN", TOKEN);
    let mut running = Running::start(command);
    assert!(running.line().starts_with("listening on http://"));
}

/// curl, as people use it.
#[test]
fn curl_uploads() {
    let dir = empty();
    let server = server("emulated", dir.path());
    let source = dir.path().join("source");
    fs::write(&source, content(LEN, 7)).unwrap();
    let curl = std::process::Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*", "-H"])
        .arg(AUTH.trim_end())
        .arg("-T")
        .arg(&source)
        .arg(format!("http://{}/target", server.address))
        .output();
    let Ok(curl) = curl else {
        return not_run("there is no curl here");
    };
    assert!(curl.status.success(), "{curl:?}");
    assert!(fs::read(dir.path().join("target")).unwrap() == content(LEN, 7));
}
