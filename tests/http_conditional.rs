//! Conditional requests (RFC 9110, section 13), on both backends.

mod support;

use std::fs;

use support::*;

on_both_backends! {
    obeys_conditions,
    conditions_are_for_what_exists,
    tags_follow_the_content,
}

/// RFC 9110, section 13.2.2, step by step.
fn obeys_conditions(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let whole = server.get("/a", "");
    let tag = whole.field("ETag").expect("a tag");
    let modified = whole.field("Last-Modified").expect("a date");
    let earlier = "Sun, 06 Nov 1994 08:49:37 GMT";
    let later = "Fri, 06 Nov 2093 08:49:37 GMT";
    let table: &[(String, u16)] = &[
        // 1: If-Match, by strong comparison.
        (format!("If-Match: {tag}"), 200),
        (format!("If-Match: \"x\", {tag}"), 200),
        (format!("If-Match: \"x\"\r\nIf-Match: {tag}"), 200),
        ("If-Match: *".to_owned(), 200),
        (format!("If-Match: W/{tag}"), 412),
        ("If-Match: \"x\"".to_owned(), 412),
        ("If-Match: nonsense".to_owned(), 412),
        // 2: If-Unmodified-Since, only without If-Match.
        (format!("If-Unmodified-Since: {modified}"), 200),
        (format!("If-Unmodified-Since: {later}"), 200),
        (format!("If-Unmodified-Since: {earlier}"), 412),
        ("If-Unmodified-Since: nonsense".to_owned(), 200),
        (
            format!("If-Match: {tag}\r\nIf-Unmodified-Since: {earlier}"),
            200,
        ),
        (
            format!("If-Match: \"x\"\r\nIf-Unmodified-Since: {later}"),
            412,
        ),
        // 3: If-None-Match, by weak comparison.
        (format!("If-None-Match: {tag}"), 304),
        (format!("If-None-Match: W/{tag}"), 304),
        (format!("If-None-Match: \"x\",{tag} , \"y\""), 304),
        (format!("If-None-Match: \"x\"\r\nIf-None-Match: {tag}"), 304),
        ("If-None-Match: *".to_owned(), 304),
        ("If-None-Match: \"x\"".to_owned(), 200),
        ("If-None-Match: nonsense".to_owned(), 200),
        // 4: If-Modified-Since, only without If-None-Match.
        (format!("If-Modified-Since: {modified}"), 304),
        (format!("If-Modified-Since: {later}"), 304),
        (format!("If-Modified-Since: {earlier}"), 200),
        ("If-Modified-Since: nonsense".to_owned(), 200),
        // Dates are no lists: of several, none counts.
        (
            format!("If-Modified-Since: {later}\r\nIf-Modified-Since: {later}"),
            200,
        ),
        (
            format!("If-Modified-Since: nonsense\r\nIf-Modified-Since: {later}"),
            200,
        ),
        (
            format!("If-Unmodified-Since: {earlier}\r\nIf-Unmodified-Since: {earlier}"),
            200,
        ),
        (format!("If-Unmodified-Since: {earlier}, {earlier}"), 200),
        (
            format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {later}"),
            200,
        ),
        (
            format!("If-None-Match: {tag}\r\nIf-Modified-Since: {earlier}"),
            304,
        ),
        // Before those: what failed first.
        (format!("If-Match: \"x\"\r\nIf-None-Match: {tag}"), 412),
        (format!("If-Match: {tag}\r\nIf-None-Match: {tag}"), 304),
        (
            format!("If-Unmodified-Since: {earlier}\r\nIf-Modified-Since: {modified}"),
            412,
        ),
        // 5: Range, last of all.
        (format!("If-Match: {tag}\r\nRange: bytes=1-2"), 206),
        ("If-Match: \"x\"\r\nRange: bytes=1-2".to_owned(), 412),
        (format!("If-None-Match: {tag}\r\nRange: bytes=1-2"), 304),
        (format!("If-None-Match: {tag}\r\nRange: bytes=9-"), 304),
    ];
    let mut client = server.connect();
    for (fields, status) in table {
        for method in ["GET", "HEAD"] {
            let request = format!("{method} /a HTTP/1.1\r\nHost: t\r\n{fields}\r\n\r\n");
            client.send(request.as_bytes());
            let response = client.response(request.as_bytes());
            let partial = method == "HEAD" && *status == 206;
            let status = if partial { 200 } else { *status };
            assert_eq!(response.status, status, "{request}");
            if matches!(status, 200 | 206 | 304) {
                assert_eq!(response.field("ETag"), Some(tag), "{request}");
            }
            if status == 304 {
                assert!(response.field("Date").is_some());
                for absent in ["Content-Type", "Content-Length", "Last-Modified"] {
                    assert_eq!(response.field(absent), None, "{request}");
                }
            }
        }
    }
}

/// Section 13.2.1: where the answer is an error without them, they are not looked at.
fn conditions_are_for_what_exists(backend: &str) {
    let dir = directory(&[("d/x", b"hello")]);
    let server = Server::start(backend, dir.path());
    for fields in ["If-Match: \"x\"\r\n", "If-None-Match: *\r\n"] {
        assert_eq!(server.get("/none", fields).status, 404, "{fields}");
        assert_eq!(server.get("/d", fields).status, 301, "{fields}");
    }
    let post = server.ask(b"POST /d/x HTTP/1.1\r\nHost: t\r\nIf-Match: \"x\"\r\n\r\n");
    assert_eq!(post.status, 405);
}

/// A tag is that of one content of one file.
fn tags_follow_the_content(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("b", b"hello")]);
    let path = dir.path().join("a");
    let tag = |server: &Server, target: &str| {
        let response = server.get(target, "");
        response.field("ETag").expect("a tag").to_owned()
    };
    let server = Server::start(backend, dir.path());
    let first = tag(&server, "/a");
    assert!(first.starts_with('"') && first.ends_with('"'), "{first}");
    assert_eq!(tag(&server, "/a"), first);
    assert_ne!(tag(&server, "/b"), first);
    // The same from another process.
    assert_eq!(tag(&Server::start(backend, dir.path()), "/a"), first);
    // As long as before, and as old to the second.
    let changed = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, b"HELLO").unwrap();
    let file = fs::File::open(&path).unwrap();
    let nanos = std::time::Duration::from_nanos(1);
    file.set_modified(changed + nanos).unwrap();
    let second = tag(&server, "/a");
    assert_ne!(second, first);
    assert_eq!(
        server
            .get("/a", &format!("If-None-Match: {first}\r\n"))
            .body,
        b"HELLO"
    );
    // Just changed, it might change again within the clock's tick: no strong tag, no If-Range.
    fs::write(&path, b"Hello").unwrap();
    let third = tag(&server, "/a");
    if third.starts_with("W/") {
        let fields = format!("Range: bytes=1-\r\nIf-Range: {third}\r\n");
        assert_eq!(server.get("/a", &fields).status, 200);
        let strong = wait_for("a strong tag", || {
            Some(tag(&server, "/a")).filter(|tag| !tag.starts_with("W/"))
        });
        assert_eq!(third.strip_prefix("W/"), Some(strong.as_str()));
    }
}
