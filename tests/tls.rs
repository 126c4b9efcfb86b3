//! `serve` over TLS, on both backends: what clients get, and what happens with those that speak
//! something else, break off or read nothing.

#[path = "common/certificate.rs"]
mod certificate;
#[path = "support/secure.rs"]
mod secure;
mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::sync::Arc;

use certificate::*;
use rustix::process::Signal;
use secure::Secure;
use spliceport::rustls::HandshakeKind;
use support::*;

on_both_backends! {
    files_and_ranges_arrive,
    pipelined_requests_are_answered_in_order,
    speaks_both_versions_and_resumes,
    works_with_curl_and_wget,
    works_with_openssl,
    what_is_no_tls_harms_nobody,
    a_slow_handshake_is_ended,
    a_file_that_shrinks_ends_its_connection,
    readers_that_stall_are_bounded,
    uploads_arrive,
    a_stop_finishes_what_is_being_sent,
}

fn files_and_ranges_arrive(backend: &str) {
    let sizes = [0, 1, 1000, 16 << 10, (16 << 10) + 1, 100_000, 5_000_001];
    let contents = sizes.map(pattern);
    let names = sizes.map(|size| size.to_string());
    let contents_of = contents.iter().map(Vec::as_slice);
    let files: Vec<_> = names.iter().map(String::as_str).zip(contents_of).collect();
    let dir = directory(&files);
    fs::create_dir(dir.path().join("below")).unwrap();
    let secure = Secure::start(backend, dir.path());
    let mut client = secure.connect();
    for (name, content) in names.iter().zip(&contents) {
        client.get(&format!("/{name}"));
        let response = client.got();
        assert_eq!(response.status, 200);
        assert_same(&response.body, content, name);
        let head = format!("HEAD /{name} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(head.as_bytes());
        assert_eq!(client.response(head.as_bytes()).length(), content.len());
    }
    let last = contents.last().unwrap();
    for (range, start, end) in [
        ("0-0", 0, 1),
        ("1000-", 1000, last.len()),
        ("-70000", last.len() - 70_000, last.len()),
        ("16383-16384", 16_383, 16_385),
    ] {
        let name = names.last().unwrap();
        client.send(
            format!("GET /{name} HTTP/1.1\r\nHost: a\r\nRange: bytes={range}\r\n\r\n").as_bytes(),
        );
        let response = client.got();
        assert_eq!(response.status, 206);
        assert_same(&response.body, &last[start..end], range);
    }
    client.get("/below");
    let moved = client.got();
    // Without a scheme, so that it stays in this one.
    assert_eq!(
        (moved.status, moved.field("Location")),
        (301, Some("/below/"))
    );
    client.send(b"GET http://a/1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.got().status, 421);
    client.send(b"GET https://a/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.got().body, pattern(1));
    // With a close_notify: else this would be an error.
    client.assert_ended();
}

fn pipelined_requests_are_answered_in_order(backend: &str) {
    let (small, large) = (pattern(700), pattern(300_000));
    let dir = directory(&[("small", &small), ("large", &large)]);
    let secure = Secure::start(backend, dir.path());
    let mut client = secure.connect();
    let pair = "GET /small HTTP/1.1\r\nHost: a\r\n\r\nGET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(pair.repeat(40).as_bytes());
    for round in 0..40 {
        assert_same(&client.got().body, &small, round);
        assert_same(&client.got().body, &large, round);
    }
}

fn speaks_both_versions_and_resumes(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let secure = Secure::with(backend, dir.path(), &["--threads", "2"]);
    for version in [&TLS12, &TLS13] {
        let mut config = secure.certificate.client(&[version]);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        for round in 0..3 {
            let mut client = secure.connect_as(config.clone());
            client.get("/a");
            assert_eq!(client.got().body, b"hello");
            let tls = &client.stream.conn;
            assert_eq!(tls.protocol_version(), Some(version.version));
            assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
            let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "{version:?}");
        }
    }
    let mut config = secure.config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stranger = peer(secure.tcp(), Arc::new(config));
    let refused = stranger.read(&mut [0]).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

/// Runs a client; `None`, and a word about it, where it is not installed.
fn output(command: &mut Command) -> Option<std::process::Output> {
    match command.output() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            not_run(format_args!("there is no {command:?} here"));
            None
        }
        output => Some(output.unwrap()),
    }
}

fn works_with_curl_and_wget(backend: &str) {
    let content = pattern((5 << 20) + 1);
    let dir = directory(&[("a.bin", &content)]);
    let secure = Secure::start(backend, dir.path());
    let into = secure.files.path().join("got");
    let ca = secure.files.path().join("cert.pem");
    let curl = |args: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "60",
            "--cacert",
        ]);
        curl.arg(&ca).args(args).arg("-o").arg(&into);
        let output = output(curl.arg(secure.url("a.bin")))?;
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_same(&fs::read(&into).unwrap(), &content, args);
        Some(())
    };
    if curl(&[]).is_some() {
        for args in [&["--tls-max", "1.2"][..], &["--http1.0"], &["--no-alpn"]] {
            curl(args);
        }
        let half = fs::OpenOptions::new().write(true).open(&into).unwrap();
        half.set_len(1_000_000).unwrap();
        curl(&["--continue-at", "-"]);
    }
    let mut wget = Command::new("wget");
    wget.args([
        "--no-verbose",
        "--no-proxy",
        "--tries=1",
        "--timeout=60",
        "-O",
    ]);
    wget.arg(&into)
        .arg(format!("--ca-certificate={}", ca.display()));
    if let Some(output) = output(wget.arg(secure.url("a.bin"))) {
        assert!(output.status.success(), "{output:?}");
        assert_same(&fs::read(&into).unwrap(), &content, "wget");
    }
}

fn works_with_openssl(backend: &str) {
    let dir = directory(&[("a", b"hello from afar")]);
    let secure = Secure::start(backend, dir.path());
    let openssl = |args: &[&str]| {
        let mut client = Command::new("openssl");
        client.args([
            "s_client",
            "-connect",
            &secure.server.address,
            "-servername",
            NAME,
        ]);
        client.args(["-verify_return_error", "-ign_eof", "-CAfile"]);
        client.arg(secure.files.path().join("cert.pem")).args(args);
        client
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match client.spawn() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                not_run("there is no openssl here (package openssl)");
                return None;
            }
            child => child.unwrap(),
        };
        let request = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        // It may have been refused by then.
        let _ = child.stdin.as_mut().unwrap().write_all(request);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Some((said, output.status.success()))
    };
    for (args, version) in [(&["-tls1_2"][..], "TLSv1.2"), (&["-tls1_3"], "TLSv1.3")] {
        let Some((said, success)) = openssl(args) else {
            return;
        };
        assert!(success && said.contains("hello from afar"), "{said}");
        assert!(
            said.contains(version) && said.contains("return code: 0"),
            "{said}"
        );
    }
    let old = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let (said, success) = openssl(&old).unwrap();
    assert!(!success && !said.contains("hello from afar"), "{said}");
}

fn what_is_no_tls_harms_nobody(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let secure = Secure::start(backend, dir.path());
    let strangers = [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0; 50_000],
        // The beginning of a hello that never comes.
        &[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3],
        b"",
    ];
    let mut open = Vec::new();
    for bytes in strangers {
        let mut stream = secure.tcp();
        // It may be reset before that is written.
        let _ = stream.write_all(bytes);
        open.push(stream.try_clone().unwrap());
        let _ = stream.shutdown(Shutdown::Write);
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told);
        assert!(told.len() < 100, "{told:?}");
        assert!(!told.starts_with(b"HTTP"));
        drop(secure.tcp());
        let mut client = secure.connect();
        client.get("/a");
        assert_eq!(client.got().body, b"hello");
    }
}

fn a_slow_handshake_is_ended(backend: &str) {
    let dir = directory(&[]);
    let secure = Secure::with(backend, dir.path(), &["--header-timeout", "0.2"]);
    let mut stream = secure.tcp();
    stream.write_all(&[0x16, 3, 1]).unwrap();
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told);
    assert!(told.is_empty(), "{told:?}");
}

fn a_file_that_shrinks_ends_its_connection(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let big = dir.path().join("big");
    make_big(&big);
    let secure = Secure::start(backend, dir.path());
    let mut client = secure.connect();
    client.get("/big");
    assert_eq!(client.head().status, 200);
    fs::File::options()
        .write(true)
        .open(&big)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let error = io::copy(&mut client.stream, &mut io::sink()).unwrap_err();
    let cut = [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset];
    assert!(cut.contains(&error.kind()), "{error}");
    let mut other = secure.connect();
    other.get("/a");
    assert_eq!(other.got().body, b"hello");
}

/// The memory of a process, in KiB.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn readers_that_stall_are_bounded(backend: &str) {
    const READERS: u64 = 100;
    let dir = directory(&[("a", b"hello")]);
    make_big(&dir.path().join("big"));
    let secure = Secure::start(backend, dir.path());
    let ask = |name: &str| {
        let mut client = secure.connect();
        client.get(name);
        client
    };
    let mut first = ask("/a");
    assert_eq!(first.got().body, b"hello");
    let before = resident(secure.server.running.id());
    let stalled: Vec<_> = (0..READERS)
        .map(|_| {
            let mut client = ask("/big");
            assert_eq!(client.head().status, 200);
            client
        })
        .collect();
    for _ in 0..20 {
        first.get("/a");
        assert_eq!(first.got().body, b"hello");
    }
    let more = resident(secure.server.running.id()).saturating_sub(before);
    // A buffer of records, a buffer that is shared by who comes by, a session.
    assert!(more < READERS * 192, "{more} KiB more");
    drop(stalled);
}

fn uploads_arrive(backend: &str) {
    let dir = directory(&[]);
    let token = "0123456789abcdef0123456789abcdef";
    let uploads = ["--upload", "--upload-token", token];
    let secure = Secure::with(backend, dir.path(), &uploads);
    let content = pattern(3_000_000);
    let mut client = secure.connect();
    let length = content.len();
    client.send(
        format!(
            "PUT /new HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
        .as_bytes(),
    );
    client.send(&content);
    assert_eq!(client.got().status, 201);
    assert_same(
        &fs::read(dir.path().join("new")).unwrap(),
        &content,
        "what was put",
    );
    client.get("/new");
    assert_same(&client.got().body, &content, "what is got");
}

fn a_stop_finishes_what_is_being_sent(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let mut secure = Secure::start(backend, dir.path());
    let mut client = secure.connect();
    client.get("/big");
    assert_eq!(client.head().status, 200);
    secure.server.running.signal(Signal::TERM);
    assert_eq!(client.take(size).len(), size);
    client.assert_ended();
    drop(client);
    let ended = secure.server.running.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}
