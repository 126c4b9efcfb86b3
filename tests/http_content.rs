//! What responses say and bring besides the files themselves: listings, compressed forms, error
//! pages, header fields by option; on both backends.

mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use support::*;

on_both_backends! {
    tells_types,
    lists_directories,
    lists_as_json,
    lists_nothing_unless_asked,
    escapes_names_in_listings,
    bounds_listings,
    lists_without_openat2,
    bounds_the_memory_of_listings,
    paces_what_is_made,
    hides_names_with_a_dot,
    sends_compressed_forms,
    sees_changes_of_compressed_forms,
    sends_error_pages,
    falls_back,
    adds_fields,
    answers_preflights,
}

fn tells_types(backend: &str) {
    let types = [
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.md", "text/markdown; charset=utf-8"),
        ("a.csv", "text/csv; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.wasm", "application/wasm"),
        ("a.svg", "image/svg+xml"),
        ("a.png", "image/png"),
        ("a.webp", "image/webp"),
        ("a.avif", "image/avif"),
        ("a.woff2", "font/woff2"),
        ("a.mp4", "video/mp4"),
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a", "application/octet-stream"),
    ];
    let files: Vec<(&str, &[u8])> = types.iter().map(|(n, _)| (*n, &b"x"[..])).collect();
    let dir = directory(&files);
    let server = Server::start(backend, dir.path());
    for (name, kind) in types {
        let response = server.get(&format!("/{name}"), "");
        assert_eq!(response.field("Content-Type"), Some(kind), "{name}");
    }
}

fn text(response: &Response) -> &str {
    std::str::from_utf8(&response.body).expect("UTF-8")
}

/// The rows' links, in their order.
fn links(page: &str) -> Vec<&str> {
    let rows = page.split("<tbody>").nth(1).expect("a table");
    rows.split("href=\"./")
        .skip(1)
        .map(|rest| rest.split('"').next().expect("an end"))
        .collect()
}

fn lists_directories(backend: &str) {
    let dir = directory(&[
        ("d/b.txt", &[0; 3000]),
        ("d/a 10.txt", &[0; 10]),
        ("d/a 9.txt", b""),
        ("d/sub/x", b""),
        ("d/.hidden", b""),
        ("with/index.html", b"index"),
    ]);
    let oldest = fs::File::open(dir.path().join("d/b.txt")).unwrap();
    oldest.set_modified(std::time::UNIX_EPOCH).unwrap();
    let server = Server::with(backend, dir.path(), &["--list"]);
    let response = server.get("/d/", "");
    assert_eq!(response.status, 200);
    for (name, value) in [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Vary", "Accept"),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        assert_eq!(response.field(name), Some(value));
    }
    let policy = response.field("Content-Security-Policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let page = text(&response);
    assert_eq!(links(page), ["sub/", "a%209.txt", "a%2010.txt", "b.txt"]);
    assert!(page.contains("<title>Index of /d/</title>"));
    assert!(page.contains("<data value=\"3000\" title=\"3000 bytes\">2.9 KiB</data>"));
    assert!(page.contains("1 directory, 3 files, 2.9 KiB"));
    for (query, first, sorted) in [
        ("?sort=name&order=desc", "b.txt", "name, descending"),
        ("?sort=size&order=desc", "b.txt", "size, descending"),
        ("?sort=size", "a%209.txt", "size, ascending"),
        ("?sort=modified", "b.txt", "modified, ascending"),
    ] {
        let response = server.get(&format!("/d/{query}"), "");
        let page = text(&response);
        assert_eq!(links(page)[..2], ["sub/", first], "{query}");
        assert!(page.contains(&format!("sorted by {sorted}<")), "{query}");
    }
    // HEAD says the same; an index goes before a listing; a file has none.
    let head = server.ask(b"HEAD /d/ HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((head.status, head.length()), (200, response.body.len()));
    assert_eq!(server.get("/with/", "").body, b"index");
    assert_eq!(server.get("/d", "").status, 301);
    assert_eq!(server.get("/none/", "").status, 404);
    assert_eq!(server.get("/d/b.txt/", "").status, 404);
    assert_eq!(links(text(&server.get("/", ""))), ["d/", "with/"]);
    // Conditions hold for it as far as they can.
    for (fields, status) in [
        ("If-None-Match: *", 304),
        ("If-Match: \"x\"", 412),
        ("If-Modified-Since: Fri, 06 Nov 2093 08:49:37 GMT", 200),
        ("Range: bytes=0-9", 200),
    ] {
        let response = server.get("/d/", &format!("{fields}\r\n"));
        assert_eq!(response.status, status, "{fields}");
    }
    // Requests behind it are answered behind it.
    let mut client = server.connect();
    for _ in 0..5 {
        client.get("/d/");
        client.get("/with/");
    }
    for _ in 0..5 {
        assert_eq!(client.got().body, response.body);
        assert_eq!(client.got().body, b"index");
    }
}

fn lists_as_json(backend: &str) {
    let dir = directory(&[("d/b&\".txt", b"hello"), ("d/sub/x", b"")]);
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(dir.path().join("d").join(odd), "x").unwrap();
    let server = Server::with(backend, dir.path(), &["--list"]);
    fs::create_dir(dir.path().join("colon")).unwrap();
    fs::write(dir.path().join("colon/a:b"), "x").unwrap();
    let response = server.get("/colon/", "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    // Else it would be of the scheme `a` (RFC 3986, section 4.2).
    assert_eq!(json["entries"][0]["href"], "./a:b");
    let response = server.get("/d/?sort=size&order=desc", "Accept: application/json\r\n");
    assert_eq!(response.field("Content-Type"), Some("application/json"));
    assert_eq!(response.field("Vary"), Some("Accept"));
    let json: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(json["path"], "/d/");
    assert_eq!(json["truncated"], false);
    let entries = json["entries"].as_array().expect("entries");
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[0]["name"], "sub");
    assert_eq!(entries[0]["href"], "sub/");
    assert_eq!(entries[0]["type"], "directory");
    assert!(entries[0].get("size").is_none());
    assert_eq!(entries[1]["name"], "b&\".txt");
    assert_eq!(entries[1]["type"], "file");
    assert_eq!(entries[1]["size"], 5);
    let modified = entries[1]["modified"].as_str().expect("a time");
    assert!(
        modified.len() == 20 && modified.ends_with('Z'),
        "{modified}"
    );
    assert_eq!(entries[2]["name"], "\u{fffd}");
    for entry in entries {
        let href = entry["href"].as_str().expect("a link");
        let status = if href == "sub/" { "listed" } else { "sent" };
        assert_eq!(
            server.get(&format!("/d/{href}"), "").status,
            200,
            "{href}: {status}"
        );
    }
}

fn bounds_the_memory_of_listings(backend: &str) {
    let dir = tempfile::tempdir().unwrap();
    // Characters that take more room in a page: some megabytes of it.
    for i in 0..2000 {
        fs::write(dir.path().join(format!("{i}{}", "\"".repeat(200))), "").unwrap();
    }
    // They take hours.
    let server = Server::with(backend, dir.path(), &["--list", "--rate", "1000"]);
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = server.connect();
        client.get("/");
        let response = client.head();
        if response.status != 200 {
            break response;
        }
        assert!(response.length() > 2 << 20);
        clients.push(client);
        assert!(clients.len() < 40);
    };
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("Retry-After"), Some("1"));
    assert!(clients.len() > 4);
    // They leave.
    drop(clients);
    wait_for("a listing", || {
        let mut client = server.connect();
        client.get("/");
        (client.head().status == 200).then_some(())
    });
}

fn paces_what_is_made(backend: &str) {
    const RATE: usize = 200_000;
    let files = tempfile::tempdir().unwrap();
    let page = files.path().join("404.html");
    fs::write(&page, pattern(RATE)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for i in 0..100 {
        fs::write(dir.path().join(format!("{i}{}", "\"".repeat(200))), "").unwrap();
    }
    let page = format!("404={}", page.display());
    let rate = RATE.to_string();
    let options = ["--list", "--rate", &rate, "--error-page", &page];
    let server = Server::with(backend, dir.path(), &options);
    for (target, status) in [("/none", 404), ("/", 200)] {
        let begun = Instant::now();
        let response = server.get(target, "");
        let took = begun.elapsed();
        assert_eq!(response.status, status);
        let length = response.body.len();
        if status == 404 {
            assert_same(&response.body, &pattern(RATE), target);
        }
        assert!(length > RATE / 2);
        // A burst of a tenth of a second's worth may come at once.
        let least = Duration::from_secs_f64(length as f64 / RATE as f64 - 0.2);
        assert!(took >= least, "{target}: {length} bytes in {took:?}");
    }
}

fn lists_nothing_unless_asked(backend: &str) {
    let dir = directory(&[("d/a", b"")]);
    let server = Server::start(backend, dir.path());
    assert_eq!(server.get("/d/", "").status, 404);
    assert_eq!(server.get("/", "Accept: application/json\r\n").status, 404);
}

fn escapes_names_in_listings(backend: &str) {
    let hostile = "<img src=x onerror=alert(1)>&\"'%2e#?.txt";
    let dir = directory(&[("d/x", b"")]);
    fs::write(dir.path().join("d").join(hostile), "hello").unwrap();
    fs::create_dir(dir.path().join("d").join("javascript:alert(1)")).unwrap();
    let server = Server::with(backend, dir.path(), &["--list"]);
    let response = server.get("/d/?\"><script>alert(1)</script>", "");
    assert_eq!(response.status, 200);
    let page = text(&response);
    assert!(!page.contains("<img") && !page.contains("<script"));
    let links = links(page);
    assert_eq!(links[0], "javascript:alert(1)/");
    let link = links
        .iter()
        .find(|link| link.contains("img"))
        .expect("its link");
    let link = link.replace("&amp;", "&").replace("&#39;", "'");
    assert_eq!(server.get(&format!("/d/{link}"), "").body, b"hello");
}

fn bounds_listings(backend: &str) {
    let dir = directory(&[]);
    for index in 0..10_001 {
        fs::write(dir.path().join(format!("{index}")), "").unwrap();
    }
    let server = Server::with(backend, dir.path(), &["--list"]);
    let response = server.get("/", "Accept: application/json\r\n");
    let json: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(json["truncated"], true);
    assert_eq!(json["entries"].as_array().map(Vec::len), Some(10_000));
    let response = server.get("/", "");
    assert_eq!(links(text(&response)).len(), 10_000);
    assert!(text(&response).contains("there are more"));
    // Many at a time: each is listed, or told to come again.
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.get("/");
    }
    let mut listed = 0;
    for client in &mut clients {
        let got = client.got();
        match got.status {
            200 => listed += 1,
            503 => assert_eq!(got.field("Retry-After"), Some("1")),
            other => panic!("{other}"),
        }
    }
    assert!(listed > 0);
}

fn lists_without_openat2(backend: &str) {
    let dir = directory(&[("d/a", b"hello")]);
    symlink("a", dir.path().join("d/link")).unwrap();
    let (path, name) = (dir.path().to_owned(), backend.to_owned());
    // A filter is for the thread that sets it, and for those it starts.
    let server = std::thread::spawn(move || {
        deny(libc::SYS_openat2, libc::ENOSYS);
        Server::with(&name, &path, &["--list"])
    });
    let server = server.join().unwrap();
    assert_eq!(links(text(&server.get("/d/", ""))), ["a"]);
    assert_eq!(links(text(&server.get("/", ""))), ["d/"]);
}

fn hides_names_with_a_dot(backend: &str) {
    let dir = directory(&[
        (".git/config", b"secret"),
        ("d/.env", b"secret"),
        ("d/a.b", b"hello"),
        (".well-known/acme-challenge/x", b"hello"),
        (".well-known/.env", b"secret"),
    ]);
    let hidden = [
        "/.git/config",
        "/.git/",
        "/.git",
        "/%2egit/config",
        "/d/../.git/config",
        "/d/.env",
        "/d/%2Eenv",
        "//.git//config",
        "/.well-known/.env",
    ];
    let server = Server::with(backend, dir.path(), &["--list"]);
    for target in hidden {
        assert_eq!(server.get(target, "").status, 404, "{target}");
    }
    for target in ["/d/a.b", "/.well-known/acme-challenge/x", "/d/./a.b"] {
        assert_eq!(server.get(target, "").body, b"hello", "{target}");
    }
    assert_eq!(links(text(&server.get("/", ""))), ["d/"]);
    assert_eq!(links(text(&server.get("/d/", ""))), ["a.b"]);
    let server = Server::with(backend, dir.path(), &["--list", "--hidden"]);
    assert_eq!(server.get("/.git/config", "").body, b"secret");
    assert_eq!(
        links(text(&server.get("/", ""))),
        [".git/", ".well-known/", "d/"]
    );
}

fn sends_compressed_forms(backend: &str) {
    let big = pattern(300_000);
    let dir = directory(&[
        ("a.js", b"plain"),
        ("a.js.gz", b"in gzip"),
        ("a.js.br", b"in brotli"),
        ("b.css", b"plain"),
        ("b.css.zst", &big),
        ("d/index.html", b"plain"),
        ("d/index.html.gz", b"in gzip"),
        ("only.gz", b"in gzip"),
        ("odd", b"plain"),
        ("odd.gz/x", b""),
    ]);
    let server = Server::with(backend, dir.path(), &["--precompressed"]);
    let ask = |target: &str, fields: &str| server.get(target, fields);
    for round in ["first", "cached"] {
        for (target, accept, coding, body) in [
            (
                "/a.js",
                "gzip, deflate, br, zstd",
                Some("br"),
                &b"in brotli"[..],
            ),
            ("/a.js", "gzip", Some("gzip"), b"in gzip"),
            ("/a.js", "br;q=0.5, gzip;q=0.8", Some("gzip"), b"in gzip"),
            ("/a.js", "br;q=0, gzip;q=0", None, b"plain"),
            ("/a.js", "zstd", None, b"plain"),
            ("/a.js", "identity", None, b"plain"),
            ("/a.js", "*", Some("br"), b"in brotli"),
            ("/b.css", "gzip, deflate, br, zstd", Some("zstd"), &big),
            ("/d/", "gzip", Some("gzip"), b"in gzip"),
            ("/odd", "gzip", None, b"plain"),
            // Asked for by its own name, it is a file like others.
            ("/a.js.gz", "gzip", None, b"in gzip"),
        ] {
            let response = ask(target, &format!("Accept-Encoding: {accept}\r\n"));
            assert_eq!(
                response.field("Content-Encoding"),
                coding,
                "{target} {accept} {round}"
            );
            assert_same(&response.body, body, (target, accept));
            assert_eq!(response.field("Vary"), Some("Accept-Encoding"));
            if target == "/a.js" {
                let kind = response.field("Content-Type");
                assert_eq!(kind, Some("text/javascript; charset=utf-8"));
            }
        }
    }
    assert_eq!(ask("/only", "Accept-Encoding: gzip\r\n").status, 404);
    // Each form has its tag; conditions and ranges are about the form that is chosen.
    let plain = ask("/a.js", "");
    let plain = plain.field("ETag").expect("a tag");
    let gzip = ask("/a.js", "Accept-Encoding: gzip\r\n");
    let gzip = gzip.field("ETag").expect("a tag");
    assert_ne!(plain, gzip);
    let accept = "Accept-Encoding: gzip\r\n";
    let response = ask("/a.js", &format!("{accept}If-None-Match: {gzip}\r\n"));
    assert_eq!(response.status, 304);
    assert_eq!(response.field("Vary"), Some("Accept-Encoding"));
    let response = ask("/a.js", &format!("{accept}If-None-Match: {plain}\r\n"));
    assert_eq!(response.status, 200);
    let response = ask(
        "/a.js",
        &format!("{accept}Range: bytes=3-\r\nIf-Range: {gzip}\r\n"),
    );
    assert_eq!((response.status, &response.body[..]), (206, &b"gzip"[..]));
    assert_eq!(response.field("Content-Encoding"), Some("gzip"));
    let accept = "Accept-Encoding: zstd\r\n";
    let response = ask("/b.css", &format!("{accept}Range: bytes=0-1,250000-\r\n"));
    assert_eq!(response.field("Content-Encoding"), Some("zstd"));
    assert_eq!(response.status, 206);
    // Not without being asked.
    let server = Server::start(backend, dir.path());
    let response = server.get("/a.js", "Accept-Encoding: gzip\r\n");
    assert_eq!(response.body, b"plain");
    assert_eq!(response.field("Vary"), None);
}

fn sees_changes_of_compressed_forms(backend: &str) {
    let dir = directory(&[("a", b"one"), ("a.gz", b"one in gzip")]);
    let server = Server::with(backend, dir.path(), &["--precompressed"]);
    let mut client = server.connect();
    let mut ask = |accept: &str| {
        let request = format!("GET /a HTTP/1.1\r\nHost: t\r\nAccept-Encoding: {accept}\r\n\r\n");
        client.send(request.as_bytes());
        client.got().body
    };
    assert_eq!(ask("gzip"), b"one in gzip");
    // Changed, replaced: at once. Removed: at once.
    fs::write(dir.path().join("a.gz"), "second in gzip").unwrap();
    assert_eq!(ask("gzip"), b"second in gzip");
    fs::write(dir.path().join("new"), "3 in gzip").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("a.gz")).unwrap();
    assert_eq!(ask("gzip"), b"3 in gzip");
    fs::remove_file(dir.path().join("a.gz")).unwrap();
    assert_eq!(ask("gzip"), b"one");
    // One that comes: after a second at the latest.
    fs::write(dir.path().join("a.br"), "in brotli").unwrap();
    wait_for("the new form", || (ask("br") == b"in brotli").then_some(()));
    assert_eq!(ask("gzip"), b"one");
}

fn sends_error_pages(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("d/x", b"")]);
    let pages = directory(&[("404.html", b"<p>Nothing here"), ("405.txt", b"No.")]);
    let page = |status: u16, name: &str| format!("{status}={}", pages.path().join(name).display());
    let (not_found, not_allowed) = (page(404, "404.html"), page(405, "405.txt"));
    let options = ["--error-page", &not_found, "--error-page", &not_allowed];
    let server = Server::with(backend, dir.path(), &options);
    let response = server.get("/none", "");
    assert_eq!(response.status, 404);
    assert_eq!(response.body, b"<p>Nothing here");
    assert_eq!(
        response.field("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    let head = server.ask(b"HEAD /none HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((head.status, head.length()), (404, 15));
    let post = server.ask(b"POST /a HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((post.status, &post.body[..]), (405, &b"No."[..]));
    assert_eq!(server.get("/%zz", "").body, b"400 Bad Request\n");
}

fn falls_back(backend: &str) {
    let dir = directory(&[
        ("app/index.html", b"the app"),
        ("a.js", b"hello"),
        ("d/x", b""),
    ]);
    let server = Server::with(backend, dir.path(), &["--fallback", "app/index.html"]);
    let mut client = server.connect();
    for (target, status, body) in [
        ("/", 200, &b"the app"[..]),
        ("/some/where", 200, b"the app"),
        ("/some/where?x=1", 200, b"the app"),
        ("/some/where/", 200, b"the app"),
        ("/d/", 200, b"the app"),
        ("/a.js", 200, b"hello"),
        ("/none.js", 404, b"404 Not Found\n"),
        ("/.hidden", 404, b"404 Not Found\n"),
        ("/%zz", 400, b"400 Bad Request\n"),
    ] {
        client.get(target);
        let response = client.got();
        assert_eq!(
            (response.status, &response.body[..]),
            (status, body),
            "{target}"
        );
        if body == b"the app" {
            let kind = response.field("Content-Type");
            assert_eq!(kind, Some("text/html; charset=utf-8"));
        }
    }
    fs::remove_file(dir.path().join("app/index.html")).unwrap();
    assert_eq!(server.get("/some/where", "").status, 404);
}

fn adds_fields(backend: &str) {
    let dir = directory(&[
        ("a.css", b"hello"),
        ("d/b \u{fc}.zip", b"hello"),
        ("c", b"hello"),
    ]);
    let options = [
        "--cache-control",
        "no-cache",
        "--cache-control",
        "*.{css,js}: public, max-age=31536000, immutable",
        "--download",
        "*.zip",
        "--header",
        "X-Frame-Options: DENY",
        "--list",
    ];
    let server = Server::with(backend, dir.path(), &options);
    let long = "public, max-age=31536000, immutable";
    for (target, cache, disposition) in [
        ("/a.css", long, None),
        ("/c", "no-cache", None),
        (
            "/d/b%20%C3%BC.zip",
            "no-cache",
            Some("attachment; filename=\"b _.zip\"; filename*=UTF-8''b%20%C3%BC%2Ezip"),
        ),
    ] {
        let response = server.get(target, "");
        assert_eq!(response.body, b"hello");
        assert_eq!(response.field("Cache-Control"), Some(cache), "{target}");
        assert_eq!(
            response.field("Content-Disposition"),
            disposition,
            "{target}"
        );
        assert_eq!(response.field("X-Frame-Options"), Some("DENY"));
        let tag = response.field("ETag").expect("a tag");
        let same = server.get(target, &format!("If-None-Match: {tag}\r\n"));
        assert_eq!(same.status, 304);
        assert_eq!(same.field("Cache-Control"), Some(cache), "{target}");
        assert_eq!(same.field("X-Frame-Options"), Some("DENY"));
        assert_eq!(same.field("Content-Disposition"), None);
        let part = server.get(target, "Range: bytes=1-2\r\n");
        assert_eq!(
            (part.status, part.field("Cache-Control")),
            (206, Some(cache))
        );
        assert_eq!(part.field("X-Frame-Options"), Some("DENY"));
    }
    for target in ["/none", "/", "/d", "/%zz"] {
        let response = server.get(target, "");
        assert_eq!(response.field("X-Frame-Options"), Some("DENY"), "{target}");
    }
}

fn answers_preflights(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    for origin in ["*", "https://example.org"] {
        let server = Server::with(backend, dir.path(), &["--cors", origin]);
        let preflight = server.ask(
            b"OPTIONS /a HTTP/1.1\r\nHost: t\r\nOrigin: https://example.org\r\n\
              Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range\r\n\r\n",
        );
        assert_eq!(preflight.status, 204);
        let allowed = |name: &str, what: &str| {
            let field = preflight.field(name).expect("it is told");
            assert!(field.to_lowercase().contains(what), "{name}: {field}");
        };
        allowed("Access-Control-Allow-Origin", origin);
        allowed("Access-Control-Allow-Methods", "get");
        allowed("Access-Control-Allow-Headers", "range");
        for target in ["/a", "/none"] {
            let response = server.get(target, "Origin: https://example.org\r\n");
            assert_eq!(response.field("Access-Control-Allow-Origin"), Some(origin));
            let exposed = response.field("Access-Control-Expose-Headers");
            assert!(exposed.is_some_and(|fields| fields.contains("Content-Range")));
        }
    }
    let server = Server::start(backend, dir.path());
    let response = server.get("/a", "Origin: https://example.org\r\n");
    assert_eq!(response.field("Access-Control-Allow-Origin"), None);
}

#[test]
fn says_what_is_wrong() {
    let dir = directory(&[("a", b"hello")]);
    let path = dir.path().to_str().expect("UTF-8");
    for (option, value, code, said) in [
        ("--error-page", "404", 2, "404=404.html"),
        ("--error-page", "404=/none/404.html", 1, "/none/404.html"),
        ("--error-page", "200=/dev/null", 2, "400 to 599"),
        ("--cache-control", "[a: b", 2, "pattern"),
        ("--cache-control", "a: \u{7}", 2, "header field"),
        ("--download", "[", 2, "pattern"),
        ("--cors", "example.org", 2, "origin"),
        ("--header", "nonsense", 2, "--header"),
        ("--header", "Content-Length: 5", 2, "the server itself"),
        ("--fallback", "../x", 2, "below the directory"),
    ] {
        let ended = run(program(&["serve", path, option, value]));
        assert_eq!(ended.code(), Some(code), "{option} {value}: {ended:?}");
        assert!(ended.stderr.contains(said), "{option} {value}: {ended:?}");
    }
}
