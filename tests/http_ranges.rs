//! Ranges (RFC 9110, section 14), on both backends.

mod support;

use support::*;

on_both_backends! {
    answers_ranges,
    answers_several_ranges,
    sends_no_byte_twice,
    ignores_too_many_ranges,
    sends_many_parts_to_a_slow_reader,
    answers_ranges_to_get_only,
    depends_on_if_range,
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
    for range in [
        "bytes=5-1",
        "lines=0-1",
        "bytes=x",
        "",
        "bytes=0-1,x",
        "bytes=1 - 2",
    ] {
        let response = ask("/a", range);
        assert_eq!(response.status, 200, "{range}");
        assert_same(&response.body, &content, range);
    }
}

/// Takes a `multipart/byteranges` body apart: for each part its fields and its content.
fn parts(response: &Response) -> Vec<(String, Vec<u8>)> {
    let kind = response.field("Content-Type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap_or_else(|| panic!("{kind}"));
    let mut rest = response.body.as_slice();
    let mut parts = vec![];
    let mut delimiter = format!("--{boundary}\r\n");
    loop {
        rest = rest
            .strip_prefix(delimiter.as_bytes())
            .expect("a delimiter");
        let end = rest
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .expect("a head");
        let head = String::from_utf8(rest[..end].to_vec()).expect("ASCII");
        let range = head.rsplit_once("bytes ").expect("Content-Range").1;
        let (range, _) = range.split_once('/').expect("a size");
        let (start, last) = range.split_once('-').expect("a range");
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let length = number(last) + 1 - number(start);
        rest = &rest[end + 4..];
        parts.push((head, rest[..length].to_vec()));
        rest = &rest[length..];
        if rest == format!("\r\n--{boundary}--\r\n").as_bytes() {
            return parts;
        }
        delimiter = format!("\r\n--{boundary}\r\n");
    }
}

fn answers_several_ranges(backend: &str) {
    let size = 300_000;
    let content = pattern(size);
    let dir = directory(&[("a.txt", &content)]);
    let server = Server::start(backend, dir.path());
    let whole = server.get("/a.txt", "");
    let mut client = server.connect();
    for (range, expected) in [
        ("bytes=0-0,1000-1999", &[(0, 1), (1000, 2000)][..]),
        ("bytes=200000-,5-9", &[(200_000, size), (5, 10)]),
        (
            "bytes=-5,0-99999,150000-150000",
            &[(size - 5, size), (0, 100_000), (150_000, 150_001)],
        ),
        ("bytes=0-9,,500-509,", &[(0, 10), (500, 510)]),
        // What lies behind the end is left out.
        ("bytes=0-9,500-509,300000-,999999-", &[(0, 10), (500, 510)]),
    ] {
        let request = format!("GET /a.txt HTTP/1.1\r\nHost: t\r\nRange: {range}\r\n\r\n");
        client.send(request.as_bytes());
        let response = client.got();
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(response.field("Content-Range"), None);
        assert_eq!(response.field("ETag"), whole.field("ETag"));
        assert_eq!(
            response.field("Last-Modified"),
            whole.field("Last-Modified")
        );
        let parts = parts(&response);
        assert_eq!(parts.len(), expected.len(), "{range}");
        for ((head, body), (start, end)) in parts.iter().zip(expected) {
            let told = format!(
                "Content-Type: text/plain; charset=utf-8\r\nContent-Range: bytes {start}-{}/{size}",
                end - 1
            );
            assert_eq!(*head, told);
            assert_same(body, &content[*start..*end], range);
        }
    }
    // One is left: no multipart.
    for range in ["bytes=0-9,300000-", "bytes=0-9,10-19", "bytes=0-,0-,-1"] {
        let response = server.get("/a.txt", &format!("Range: {range}\r\n"));
        assert_eq!(response.status, 206, "{range}");
        assert!(response.field("Content-Range").is_some(), "{range}");
    }
    let response = server.get("/a.txt", "Range: bytes=300000-,400000-400001\r\n");
    assert_eq!(response.status, 416);
    assert_eq!(response.field("Content-Range"), Some("bytes */300000"));
}

fn sends_no_byte_twice(backend: &str) {
    let content = pattern(100_000);
    let dir = directory(&[("a", &content)]);
    let server = Server::start(backend, dir.path());
    let mut ranges = String::from("bytes=0-");
    for start in 1..31 {
        ranges += &format!(",{start}-");
    }
    let response = server.get("/a", &format!("Range: {ranges}\r\n"));
    assert_eq!(response.status, 206);
    assert_same(&response.body, &content, "one part");
    let response = server.get("/a", "Range: bytes=0-9,50000-50009,5-60,40-99\r\n");
    let bodies: Vec<_> = parts(&response).into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [&content[..100], &content[50_000..50_010]]);
}

fn ignores_too_many_ranges(backend: &str) {
    let content = pattern(100_000);
    let dir = directory(&[("a", &content)]);
    let server = Server::start(backend, dir.path());
    let ranges = |n: usize| {
        let ranges: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 1000)).collect();
        server.get("/a", &format!("Range: bytes={}\r\n", ranges.join(",")))
    };
    assert_eq!(parts(&ranges(32)).len(), 32);
    let response = ranges(33);
    assert_eq!(response.status, 200);
    assert_same(&response.body, &content, "33 ranges");
}

/// Parts are sent as the client takes them, and what is behind them comes behind them.
fn sends_many_parts_to_a_slow_reader(backend: &str) {
    let content = pattern(8 << 20);
    let dir = directory(&[("a", &content), ("b", b"hello")]);
    let server = Server::start(backend, dir.path());
    let mut client = server.connect();
    let ranges: Vec<_> = (0..20)
        .map(|i| (i * 400_000, i * 400_000 + 300_000))
        .collect();
    let listed: Vec<_> = ranges
        .iter()
        .map(|(a, b)| format!("{a}-{}", b - 1))
        .collect();
    let listed = listed.join(",");
    for _ in 0..3 {
        let request = format!("GET /a HTTP/1.1\r\nHost: t\r\nRange: bytes={listed}\r\n\r\n");
        client.send(request.as_bytes());
        client.get("/b");
    }
    for round in 0..3 {
        let parts = parts(&client.got());
        assert_eq!(parts.len(), ranges.len());
        for ((_, body), (start, end)) in parts.iter().zip(&ranges) {
            assert_same(body, &content[*start..*end], (round, start));
        }
        assert_eq!(client.got().body, b"hello");
    }
}

fn answers_ranges_to_get_only(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let head = server.ask(b"HEAD /a HTTP/1.1\r\nHost: t\r\nRange: bytes=1-2\r\n\r\n");
    assert_eq!((head.status, head.length()), (200, 5));
    assert_eq!(head.field("Accept-Ranges"), Some("bytes"));
    let twice = server.get("/a", "Range: bytes=1-2\r\nRange: bytes=1-2\r\n");
    assert_eq!(twice.status, 200);
    // What is no file has no ranges.
    assert_eq!(server.get("/none", "Range: bytes=1-2\r\n").status, 404);
}

fn depends_on_if_range(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("new", b"hello")]);
    let server = Server::start(backend, dir.path());
    let whole = server.get("/a", "");
    let tag = whole.field("ETag").expect("a tag");
    let modified = whole.field("Last-Modified").expect("a date");
    let table: &[(String, u16)] = &[
        (format!("If-Range: {tag}"), 206),
        (format!("If-Range: W/{tag}"), 200),
        ("If-Range: \"other\"".to_owned(), 200),
        (format!("If-Range: {tag}, {tag}"), 200),
        ("If-Range: *".to_owned(), 200),
        ("If-Range: nonsense".to_owned(), 200),
        ("If-Range: ".to_owned(), 200),
        (format!("If-Range: {modified}"), 206),
        ("If-Range: Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), 200),
        ("If-Range: Fri, 06 Nov 2093 08:49:37 GMT".to_owned(), 200),
        (format!("If-Range: {tag}\r\nIf-None-Match: \"other\""), 206),
        (format!("If-Range: \"other\"\r\nIf-Match: {tag}"), 200),
        (format!("If-Range: {tag}\r\nIf-None-Match: {tag}"), 304),
    ];
    for (fields, status) in table {
        let response = server.get("/a", &format!("Range: bytes=1-2\r\n{fields}\r\n"));
        assert_eq!(response.status, *status, "{fields}");
        // Without a range it decides nothing.
        let response = server.get("/a", &format!("{fields}\r\n"));
        let expected = if *status == 304 { 304 } else { 200 };
        assert_eq!(response.status, expected, "{fields}");
    }
    // Not fulfilled, it hides that the range lies behind the end.
    let behind = server.get("/a", "Range: bytes=9-\r\nIf-Range: \"other\"\r\n");
    assert_eq!(behind.status, 200);
    let behind = server.get("/a", &format!("Range: bytes=9-\r\nIf-Range: {tag}\r\n"));
    assert_eq!(behind.status, 416);
}
