//! What is sent of a file, and what when it changes, on both backends.

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use support::*;

on_both_backends! {
    sends_files_of_all_sizes,
    answers_head_without_the_body,
    sees_changes_of_files,
    cuts_the_connection_when_a_file_shrinks,
    goes_every_route,
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
