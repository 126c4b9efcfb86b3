//! Where requests begin and end (RFC 9112), and what becomes of those that are none, on both
//! backends.

mod support;

use std::fs;
use std::io::Write;
use std::thread;
use std::time::Duration;

use support::*;

on_both_backends! {
    answers_before_a_body_that_has_no_end,
    answers_each_request_with_its_status,
    ends_what_cannot_go_on,
    refuses_heads_without_content,
    gives_a_body_as_long_as_a_head,
    refuses_too_long_heads_and_says_so,
    reads_bodies_away,
    keeps_connections,
    answers_pipelined_requests_in_order,
    bounds_what_a_client_that_reads_nothing_costs,
    takes_requests_byte_by_byte,
    survives_half_closed_clients,
}

/// Answered, and the connection goes on. (RFC 9110 and 9112 by section.)
fn answers_each_request_with_its_status(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let table: &[(&str, u16)] = &[
        ("GET /a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        // 9112, 2.2: an empty line before a request.
        ("\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        // 9110, 2.5: later minor versions.
        ("GET /a HTTP/1.2\r\nHost: t\r\n\r\n", 200),
        ("HEAD /a HTTP/1.9\r\nHost: t\r\n\r\n", 200),
        ("GET /none HTTP/1.5\r\nHost: t\r\n\r\n", 404),
        // 9110, 7.4: what is asked of another scheme.
        ("GET https://t/a HTTP/1.1\r\nHost: t\r\n\r\n", 421),
        ("GET HTTPS://t/a HTTP/1.1\r\nHost: t\r\n\r\n", 421),
        (
            "PUT https://t/a HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc",
            421,
        ),
        // 9112, 3.2: targets; the host of an absolute one counts, whatever Host says.
        ("GET http://t/a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ("GET HTTP://u:80/a?q HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ("GET http://[::1]:80/a HTTP/1.1\r\nHost:\r\n\r\n", 200),
        ("GET /a?query HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ("GET /none HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        ("GET /a/ HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        ("GET /a/b HTTP/1.1\r\nHost: t\r\n\r\n", 404),
        ("GET * HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET t:80 HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET http:///a HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET http://user@t/a HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET /a#b HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        // 9112, 3.2: Host.
        ("GET /a HTTP/1.1\r\nHost:\r\n\r\n", 200),
        ("GET /a HTTP/1.1\r\nhOST: [::1]:8000\r\n\r\n", 200),
        ("GET /a HTTP/1.1\r\nHost: a%2db\r\n\r\n", 200),
        // 9112, 5: fields.
        ("GET /a HTTP/1.1\r\nHost: \t t \t\r\nX:\r\nY:y\r\n\r\n", 200),
        ("GET /a HTTP/1.1\r\nHost: t\r\nX: \u{fc}\r\n\r\n", 200),
        // 9110, 9: methods.
        ("HEAD /a HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ("OPTIONS /a HTTP/1.1\r\nHost: t\r\n\r\n", 204),
        ("OPTIONS * HTTP/1.1\r\nHost: t\r\n\r\n", 204),
        ("POST /a HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        (
            "PUT /a HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc",
            405,
        ),
        ("PATCH /a HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        ("DELETE /none HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        ("TRACE /a HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        ("CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n", 405),
        ("BREW /a HTTP/1.1\r\nHost: t\r\n\r\n", 501),
        ("get /a HTTP/1.1\r\nHost: t\r\n\r\n", 501),
        // 9110, 10.1.1: no body comes, so nothing is to be waited for.
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n\r\n",
            200,
        ),
        // 9110, 5.6.1: empty elements of lists are none.
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nExpect: , 100-continue,\r\nConnection: ,\r\n\r\n",
            200,
        ),
        // 9112, 6 and 7: bodies.
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
            200,
        ),
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 3, 3\r\n\r\nabc",
            200,
        ),
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\nabc",
            200,
        ),
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            200,
        ),
        (
            "POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: Chunked\r\n\r\n\
             1a ; x=y\r\nGET /none HTTP/1.1\r\nHost: \r\n0\r\nTrailer: x\r\n\r\n",
            405,
        ),
    ];
    let mut kept = server.connect();
    for (request, status) in table {
        let response = server.ask(request.as_bytes());
        assert_eq!(response.status, *status, "{request:?}");
        assert_eq!(response.field("Connection"), None, "{request:?}");
        match status {
            405 => assert_eq!(response.field("Allow"), Some("GET, HEAD, OPTIONS")),
            204 => {
                assert_eq!(response.field("Allow"), Some("GET, HEAD, OPTIONS"));
                assert_eq!(response.field("Content-Length"), None);
            }
            200 if !request.starts_with("HEAD") => assert_eq!(response.body, b"hello"),
            _ => {}
        }
        // And all on one connection.
        kept.send(request.as_bytes());
        let request = request.trim_start();
        assert_eq!(
            kept.response(request.as_bytes()).status,
            *status,
            "{request:?}"
        );
    }
}

/// Answered, and the connection ends: where a request can't be told from what follows it, or
/// where it was asked for.
fn ends_what_cannot_go_on(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::start(backend, dir.path());
    let get = |fields: &str| format!("GET /a HTTP/1.1\r\nHost: t\r\n{fields}\r\n");
    let body = "abc";
    let table: &[(String, u16)] = &[
        // 9112, 9.3: persistence.
        (get("Connection: close\r\n"), 200),
        (get("Connection: x, Close\r\n"), 200),
        ("GET /a HTTP/1.0\r\n\r\n".to_owned(), 200),
        ("GET /a HTTP/1.0\r\nHost: t\r\n\r\n".to_owned(), 200),
        ("BREW /a HTTP/1.0\r\n\r\n".to_owned(), 501),
        // 9110, 10.1.1: whether the body follows is not known.
        (get("Expect: 100-continue\r\nContent-Length: 3\r\n"), 200),
        (
            get("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"),
            200,
        ),
        (get("Expect: the impossible\r\n"), 417),
        (
            "GET /a HTTP/1.0\r\nExpect: the impossible\r\n\r\n".to_owned(),
            200,
        ),
        // 9112, 3: the request line.
        ("GET /a\r\n\r\n".to_owned(), 400),
        // 9112, 2.2: before it, one empty line and no more.
        ("\r\n\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("\rGET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("\r\r\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("\r\n\rGET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("\nGET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("GET\r\n\r\n".to_owned(), 400),
        ("GET /a b HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("GET  /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("GET /a  HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        (" GET /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("GET /a http/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1x\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("G(T /a HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}".to_owned(), 400),
        ("GET /a HTTP/2.0\r\nHost: t\r\n\r\n".to_owned(), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        ("GET /a HTTP/0.9\r\n\r\n".to_owned(), 505),
        ("GET /a HTTP/1.2\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.10\r\nHost: t\r\n\r\n".to_owned(), 400),
        // 9112, 3.2: Host.
        ("GET /a HTTP/1.1\r\n\r\n".to_owned(), 400),
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n".to_owned(),
            400,
        ),
        ("GET /a HTTP/1.1\r\nHost: t, u\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: t/u\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: user@t\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: t:port\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: %zz\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: [zz!!]\r\n\r\n".to_owned(), 400),
        ("GET http://t/a HTTP/1.1\r\n\r\n".to_owned(), 400),
        // 9112, 2.2 and 5: lines and fields.
        ("GET /a HTTP/1.1\nHost: t\n\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: t\nX: y\r\n\r\n".to_owned(), 400),
        ("GET /a HTTP/1.1\r\nHost: t\r\n\n".to_owned(), 400),
        (get("X: y\rZ: z\r\n"), 400),
        (get("X: y\0\r\n"), 400),
        (get("X: a\r\n b\r\n"), 400),
        (get("X: a\r\n\tb\r\n"), 400),
        (get(" X: a\r\n"), 400),
        (get("X : a\r\n"), 400),
        (get("X\r\n"), 400),
        (get(": x\r\n"), 400),
        (get("X y: z\r\n"), 400),
        // 9112, 6.3: where two readers might find different ends.
        (get("Content-Length: x\r\n"), 400),
        (get("Content-Length: -1\r\n"), 400),
        (get("Content-Length: +1\r\n"), 400),
        (get("Content-Length: 0x1\r\n"), 400),
        (get("Content-Length: 1 1\r\n"), 400),
        (get("Content-Length: 1, 2\r\n"), 400),
        (get("Content-Length:\r\n"), 400),
        (get("Content-Length: 18446744073709551616\r\n"), 400),
        (get("Content-Length: 1\r\nContent-Length: 2\r\n"), 400),
        (
            get("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + body,
            400,
        ),
        (
            get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"),
            400,
        ),
        (get("Transfer-Encoding: identity\r\n"), 400),
        (get("Transfer-Encoding: gzip\r\n"), 400),
        (get("Transfer-Encoding: chunked, gzip\r\n"), 400),
        (
            get("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (get("Transfer-Encoding: \u{b}chunked\r\n"), 400),
        (get("Transfer-Encoding: xchunked\r\n"), 400),
        (get("Transfer-Encoding: gzip, chunked\r\n"), 501),
        // Empty elements, which one reader passes over and another doesn't.
        (get("Transfer-Encoding: ,chunked\r\n"), 400),
        (get("Transfer-Encoding: chunked ,\r\n"), 400),
        (get("Transfer-Encoding: gzip,,chunked\r\n"), 400),
        (
            get("Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (get("Content-Length: 3,\r\n") + body, 400),
        (
            "GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        // Chunks that have no end that all would find: answered already, then the end.
        (get("Transfer-Encoding: chunked\r\n") + "3\nabc\n0\n\n", 200),
        (
            get("Transfer-Encoding: chunked\r\n") + "3\r\nabcd\r\n0\r\n\r\n",
            200,
        ),
        (get("Transfer-Encoding: chunked\r\n") + "-1\r\n\r\n", 200),
        (
            get("Transfer-Encoding: chunked\r\n") + "1 a\r\nx\r\n0\r\n\r\n",
            200,
        ),
        (
            get("Transfer-Encoding: chunked\r\n") + "0\r\nXYZ\r\n\r\n",
            200,
        ),
        (
            get("Transfer-Encoding: chunked\r\n") + "0\r\n X: y\r\n\r\n",
            200,
        ),
        (
            get("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n",
            200,
        ),
        (
            get("Transfer-Encoding: chunked\r\n") + &"1\r\nx\r\n".repeat(20_000),
            200,
        ),
    ];
    for (request, status) in table {
        let shown: String = request.chars().take(200).collect();
        let mut client = server.connect();
        // Smuggled: never answered. In one piece: what comes late, behind an end that the client
        // has asked for, resets the connection.
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";
        client.send(format!("{request}{smuggled}").as_bytes());
        assert_eq!(client.got().status, *status, "{shown:?}");
        client.assert_ended();
    }
}

/// RFC 9110, 9.3.2: no content, be it that HEAD is all that can be understood.
fn refuses_heads_without_content(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let server = Server::with(backend, dir.path(), &["--header-timeout", "1"]);
    let long = "x".repeat(20_000);
    for (rest, status) in [
        ("/a HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("/a b HTTP/1.1\r\nHost: t\r\n\r\n".to_owned(), 400),
        (
            "/a HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "/a HTTP/1.1\r\nHost: t\r\nExpect: the impossible\r\n\r\n".to_owned(),
            417,
        ),
        (format!("/{long} HTTP/1.1\r\nHost: t\r\n\r\n"), 414),
        (format!("/a HTTP/1.1\r\nHost: t\r\nX: {long}\r\n\r\n"), 431),
        ("/a HTTP/2.0\r\n\r\n".to_owned(), 505),
        // Never ended.
        ("/a HTTP/1.1\r\nHost: t\r\n".to_owned(), 408),
    ] {
        let request = format!("\r\nHEAD {rest}");
        let mut client = server.connect();
        client.send(request.as_bytes());
        let response = client.response(b"HEAD ");
        assert_eq!(response.status, status, "{status}");
        assert_eq!(response.field("Connection"), Some("close"));
        client.assert_ended();
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

/// A client that never ends a body, or sends empty lines one after the other, is not kept for ever.
fn gives_a_body_as_long_as_a_head(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let limits = ["--idle-timeout", "1", "--header-timeout", "1"];
    let server = Server::with(backend, dir.path(), &limits);
    for (start, drip) in [
        (
            "GET /a HTTP/1.1\r\nHost: t\r\nContent-Length: 60000\r\n\r\n",
            "x",
        ),
        ("GET /a HTTP/1.1\r\nHost: t\r\n\r\n", "\r\n"),
    ] {
        let mut client = server.connect();
        client.send(start.as_bytes());
        assert_eq!(client.got().status, 200);
        wait_for("the end", || {
            thread::sleep(Duration::from_millis(50));
            client.stream.write_all(drip.as_bytes()).err()
        });
    }
}

fn answers_before_a_body_that_has_no_end(backend: &str) {
    let bodies = [
        "-1\r\n\r\n",
        "zz\r\n",
        "fffffffffffffffff\r\n",
        "1\r\nab\r\n",
    ];
    let dir = directory(&[]);
    // The files have not been open yet: the body is there before the response is.
    let server = Server::with(backend, dir.path(), &["--precompressed"]);
    for (index, body) in bodies.iter().enumerate() {
        std::fs::write(dir.path().join(index.to_string()), "hello").unwrap();
        let mut client = server.connect();
        let head =
            format!("GET /{index} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send((head + body).as_bytes());
        let response = client.got();
        assert_eq!(
            (response.status, &response.body[..]),
            (200, &b"hello"[..]),
            "{body}"
        );
        client.assert_ended();
    }
}
