//! `spliceport serve --metrics`: what a scraper is told, with the real program, on both backends.

#[path = "support/measured.rs"]
mod measured;
mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use measured::{ACCEPT, Measured, parse};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use support::*;

on_both_backends! {
    counts_what_was_done,
    tells_how_files_travelled,
    counts_responses_that_were_cut,
    counts_who_was_turned_away,
    counts_uploads,
    sums_threads_and_never_falls,
    does_not_wait_for_a_thread_that_is_stuck,
    answers_for_its_page_alone,
    speaks_the_form_that_is_asked_for,
    answers_until_the_end_from_the_sandbox,
    answers_as_another_user,
    counts_reloads,
    says_that_the_address_is_taken,
}

fn counts_what_was_done(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("b", &pattern(2000))]);
    let measured = Measured::with(backend, dir.path(), &[]);
    let server = &measured.server;
    let none = measured.after(0);
    assert_eq!(none.sum("spliceport_responses_ended_total"), 0.0);
    let mut client = server.connect();
    // In one piece: the file is opened for the first of them, and is open for the others.
    let get = "GET /a HTTP/1.1\r\nHost: test\r\n\r\n";
    client.send(get.repeat(3).as_bytes());
    for _ in 0..3 {
        assert_eq!(client.got().body, b"hello");
    }
    let samples = measured.after(3);
    assert_eq!(
        samples.get("spliceport_open_file_lookups_total{result=\"hit\"}"),
        2.0
    );
    assert_eq!(
        samples.get("spliceport_open_file_lookups_total{result=\"miss\"}"),
        1.0
    );
    assert_eq!(samples.get("spliceport_connections_accepted_total"), 1.0);
    assert_eq!(samples.sum("spliceport_connections"), 1.0);
    let tag = server
        .get("/a", "")
        .field("ETag")
        .expect("a tag")
        .to_owned();
    assert_eq!(
        server
            .get("/a", &format!("If-None-Match: {tag}\r\n"))
            .status,
        304
    );
    assert_eq!(server.get("/b", "Range: bytes=0-99\r\n").status, 206);
    let ask = |method: &str| {
        let request = format!("{method} /b HTTP/1.1\r\nHost: test\r\n\r\n");
        server.ask(request.as_bytes()).status
    };
    assert_eq!(ask("HEAD"), 200);
    assert_eq!(ask("DELETE"), 405);
    assert_eq!(ask("BREW"), 501);
    assert_eq!(ask("STIR"), 501);
    let missing = server.get("/none", "");
    assert_eq!(missing.status, 404);
    let samples = measured.after(11);
    for (method, status, count) in [
        ("GET", "200", 4.0),
        ("GET", "304", 1.0),
        ("GET", "206", 1.0),
        ("HEAD", "200", 1.0),
        ("DELETE", "405", 1.0),
        ("other", "501", 2.0),
        ("GET", "404", 1.0),
    ] {
        let key = format!("spliceport_requests_total{{method=\"{method}\",status=\"{status}\"}}");
        assert_eq!(samples.get(&key), count, "{key}");
    }
    assert_eq!(samples.sum("spliceport_requests_total"), 11.0);
    assert_eq!(samples.get("spliceport_requests_in_flight"), 0.0);
    assert_eq!(
        samples.get("spliceport_responses_ended_total{ending=\"whole\"}"),
        11.0
    );
    let words = "405 Method Not Allowed\n".len() + 2 * "501 Not Implemented\n".len();
    let content = 4 * 5 + 100 + words + missing.body.len();
    assert_eq!(
        samples.get("spliceport_response_body_bytes_total"),
        content as f64
    );
    assert_eq!(
        samples.get("spliceport_response_size_bytes_sum"),
        content as f64
    );
    assert_eq!(
        samples.get("spliceport_response_size_bytes_bucket{le=\"256.0\"}"),
        11.0
    );
    let header = samples.get("spliceport_response_header_bytes_total");
    assert!(header > 11.0 * 50.0 && header < 11.0 * 500.0, "{header}");
    // What the process and its threads are.
    assert!(samples.get("process_cpu_seconds_total") > 0.0);
    assert!(samples.get("process_resident_memory_bytes") > 1e5);
    assert!(samples.get("process_open_fds") < samples.get("process_max_fds"));
    assert!(samples.get("process_start_time_seconds") > 1.7e9);
    let runs = format!(
        "spliceport_thread_info{{thread=\"0\",backend=\"{}\"",
        that_runs(backend)
    );
    assert!(
        samples.0.keys().any(|key| key.starts_with(&runs)),
        "{samples:#?}"
    );
    let build = format!(
        "spliceport_build_info{{version=\"{}\"}}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(samples.get(&build), 1.0);
    assert_eq!(samples.get("spliceport_thread_up{thread=\"0\"}"), 1.0);
    assert!(samples.get("spliceport_operations_completed_total{thread=\"0\"}") > 11.0);
}

fn tells_how_files_travelled(backend: &str) {
    let content = pattern(3_000_000);
    let dir = directory(&[("a", &content)]);
    for route in ["copy", "chain", "inline", "sendfile"] {
        let measured = Measured::with(backend, dir.path(), &["--route", route]);
        assert_same(&measured.server.get("/a", "").body, &content, route);
        let samples = measured.after(1);
        let key = format!("spliceport_sent_bytes_total{{route=\"{route}\"}}");
        assert_eq!(samples.get(&key), content.len() as f64);
        assert_eq!(
            samples.sum("spliceport_sent_bytes_total"),
            content.len() as f64
        );
        assert_eq!(samples.get("spliceport_sends_total"), 1.0);
        assert_eq!(
            samples.get("spliceport_transfers_ended_total{end=\"succeeded\"}"),
            1.0
        );
    }
}

fn counts_responses_that_were_cut(backend: &str) {
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let measured = Measured::with(backend, dir.path(), &[]);
    let mut client = measured.server.connect();
    client.get("/big");
    assert_eq!(client.head().length(), size);
    client.take(10_000);
    let under_way = measured.scrape();
    assert_eq!(under_way.get("spliceport_requests_in_flight"), 1.0);
    drop(client);
    let samples = measured.after(1);
    assert_eq!(
        samples.get("spliceport_responses_ended_total{ending=\"peer_gone\"}"),
        1.0
    );
    assert_eq!(samples.sum("spliceport_responses_ended_total"), 1.0);
    let key = "spliceport_requests_total{method=\"GET\",status=\"200\"}";
    assert_eq!(samples.get(key), 1.0);
    let came = samples.get("spliceport_response_body_bytes_total");
    assert!(came >= 10_000.0 && came < size as f64, "{came}");
    assert_eq!(samples.sum("spliceport_connections"), 0.0);
}

fn counts_who_was_turned_away(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let measured = Measured::with(backend, dir.path(), &["--max-connections", "1"]);
    let mut first = measured.server.connect();
    first.get("/a");
    assert_eq!(first.got().status, 200);
    for _ in 0..3 {
        assert_eq!(measured.server.connect().got().status, 503);
    }
    let samples = measured.after(4);
    assert_eq!(
        samples.get("spliceport_connections_turned_away_total{how=\"told\"}"),
        3.0
    );
    assert_eq!(
        samples.get("spliceport_connections_turned_away_total{how=\"unheard\"}"),
        0.0
    );
    assert_eq!(samples.get("spliceport_connections_accepted_total"), 4.0);
    let key = "spliceport_requests_total{method=\"other\",status=\"503\"}";
    assert_eq!(samples.get(key), 3.0);
}

fn counts_uploads(backend: &str) {
    let dir = directory(&[]);
    let token = "a-token-of-the-test";
    let more = ["--upload", "--upload-token", token];
    let measured = Measured::with(backend, dir.path(), &more);
    let put = |length: usize| {
        format!(
            "PUT /new HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let content = pattern(300_000);
    let mut client = measured.server.connect();
    client.send(put(content.len()).as_bytes());
    client.send(&content);
    assert_eq!(client.head().status, 201);
    // Who says less than it promised.
    let mut client = measured.server.connect();
    client.send(put(content.len()).as_bytes());
    client.send(&content[..1000]);
    drop(client);
    let samples = measured.after(2);
    assert_eq!(samples.get("spliceport_uploads_begun_total"), 2.0);
    assert_eq!(
        samples.get("spliceport_uploads_ended_total{result=\"placed\"}"),
        1.0
    );
    assert_eq!(
        samples.get("spliceport_uploads_ended_total{result=\"failed\"}"),
        1.0
    );
    assert!(samples.sum("spliceport_received_bytes_total") >= content.len() as f64);
    let key = "spliceport_requests_total{method=\"PUT\",status=\"201\"}";
    assert_eq!(samples.get(key), 1.0);
    let key = "spliceport_requests_total{method=\"PUT\",status=\"none\"}";
    assert_eq!(samples.get(key), 1.0);
}

fn sums_threads_and_never_falls(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let measured = Measured::with(backend, dir.path(), &["--threads", "3"]);
    let begun = measured.scrape();
    assert_eq!(begun.sum("spliceport_thread_up"), 3.0);
    assert_eq!(begun.get("spliceport_scrape_threads_missing"), 0.0);
    let (clients, requests) = (12, 200);
    let done = AtomicBool::new(false);
    let mut last = begun;
    thread::scope(|scope| {
        let load: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = measured.server.connect();
                    for _ in 0..requests {
                        client.get("/a");
                        assert_eq!(client.got().body, b"hello");
                    }
                })
            })
            .collect();
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            while !done.load(Ordering::Relaxed) || scrapes < 5 {
                let next = measured.scrape();
                for (key, before) in &last.0 {
                    let name = key.split('{').next().unwrap_or_default();
                    let grows = ["_total", "_count", "_sum", "_bucket"];
                    if grows.iter().any(|suffix| name.ends_with(suffix)) {
                        assert!(
                            next.get(key) >= *before,
                            "{key} fell from {before}: {next:#?}"
                        );
                    }
                }
                last = next;
                scrapes += 1;
            }
        });
        let load: Vec<_> = load.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(load.iter().all(Result::is_ok), "a client failed");
        scraper.join().expect("nothing fell");
    });
    let all = clients * requests;
    let samples = measured.after(all);
    assert_eq!(
        samples.get("spliceport_connections_accepted_total"),
        f64::from(clients)
    );
    assert_eq!(
        samples.get("spliceport_response_body_bytes_total"),
        f64::from(all * 5)
    );
}

/// The thread with this name.
fn thread_of(server: &Server, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.running.id())).unwrap();
    let mut tasks = tasks.map(|task| task.unwrap().path());
    let named =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|n| n.trim() == name);
    let task = tasks.find(named).expect("there is such a thread");
    let id = task
        .file_name()
        .and_then(|id| id.to_str())
        .expect("a number");
    Pid::from_raw(id.parse().expect("a number"))
}

fn does_not_wait_for_a_thread_that_is_stuck(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let measured = Measured::with(backend, dir.path(), &["--threads", "2"]);
    for _ in 0..20 {
        assert_eq!(measured.server.get("/a", "").status, 200);
    }
    let before = measured.after(20);
    // As a debugger does, and a disk that takes for ever.
    let stuck = thread_of(&measured.server, "serve-1");
    ptrace::seize(stuck, ptrace::Options::empty()).expect("it is our child's");
    ptrace::interrupt(stuck).expect("it runs");
    waitpid(stuck, Some(WaitPidFlag::__WALL)).expect("it stops");
    for _ in 0..2 {
        let meanwhile = measured.scrape();
        assert_eq!(meanwhile.get("spliceport_scrape_threads_missing"), 1.0);
        assert_eq!(meanwhile.get("spliceport_thread_up{thread=\"0\"}"), 1.0);
        assert_eq!(meanwhile.get("spliceport_thread_up{thread=\"1\"}"), 0.0);
        for sum in [
            "spliceport_requests_total",
            "spliceport_connections_accepted_total",
        ] {
            assert_eq!(meanwhile.sum(sum), before.sum(sum));
        }
    }
    ptrace::detach(stuck, None).expect("it is stopped");
    wait_for("the thread", || {
        let samples = measured.scrape();
        (samples.get("spliceport_scrape_threads_missing") == 0.0).then_some(())
    });
}

fn answers_for_its_page_alone(backend: &str) {
    let dir = directory(&[
        ("a", b"hello"),
        ("metrics", b"a file"),
        ("index.html", b"home"),
    ]);
    let measured = Measured::with(backend, dir.path(), &["--list"]);
    for target in [
        "/",
        "/a",
        "/metrics/",
        "/metrics/a",
        "/index.html",
        "/../a",
        "/%2e%2e/a",
    ] {
        let response = measured.ask(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert!(
            matches!(response.status, 400 | 404),
            "{target}: {response:?}"
        );
    }
    for target in ["/metrics", "/metrics?name=x", "/./metrics"] {
        let response = measured.ask(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!(response.status, 200, "{target}");
        assert_eq!(response.field("Cache-Control"), Some("no-store"));
    }
    let head = measured.ask("HEAD /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(head.status, 200);
    assert!(head.length() > 1000);
    for method in ["POST", "DELETE", "PUT"] {
        let request = format!("{method} /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        let response = measured.ask(&request);
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.field("Allow"), Some("GET, HEAD, OPTIONS"));
    }
    assert_eq!(measured.ask("nonsense\r\n\r\n").status, 400);
    // The site is as it was.
    assert_eq!(measured.server.get("/metrics", "").body, b"a file");
    // Scrapes are no requests of the site's.
    assert_eq!(measured.after(1).sum("spliceport_requests_total"), 1.0);
}

fn speaks_the_form_that_is_asked_for(backend: &str) {
    let dir = directory(&[]);
    let measured = Measured::with(backend, dir.path(), &[]);
    let ask = |accept: &str| {
        let page = measured.ask(&format!(
            "GET /metrics HTTP/1.1\r\nHost: test\r\n{accept}\r\n"
        ));
        let content_type = page.field("Content-Type").expect("a type").to_owned();
        (content_type, String::from_utf8(page.body).expect("UTF-8"))
    };
    let (content_type, text) = ask(ACCEPT);
    assert_eq!(
        content_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(text.contains("\n# TYPE spliceport_sends counter\n"));
    parse(&text);
    for accept in ["", "Accept: text/plain\r\n", "Accept: */*\r\n"] {
        let (content_type, text) = ask(accept);
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
        assert!(
            text.contains("\n# TYPE spliceport_sends_total counter\n"),
            "{text}"
        );
        assert!(!text.contains("# EOF"));
    }
}

fn answers_until_the_end_from_the_sandbox(backend: &str) {
    if !can_sandbox() {
        return;
    }
    let dir = directory(&[]);
    let size = make_big(&dir.path().join("big"));
    let more = [
        "--sandbox",
        "required",
        "--threads",
        "2",
        "--access-log",
        "/dev/null",
    ];
    let mut measured = Measured::with(backend, dir.path(), &more);
    let mut client = measured.server.connect();
    client.get("/big");
    assert_eq!(client.head().length(), size);
    client.take(10_000);
    measured.server.running.signal(Signal::TERM);
    wait_for("the listener's end", || {
        TcpStream::connect(&measured.server.address).err()
    });
    // One of the threads has ended, and what it did is still told.
    let samples = measured.scrape();
    assert_eq!(samples.get("spliceport_requests_in_flight"), 1.0);
    assert_eq!(
        samples.get("spliceport_access_log_lines_dropped_total"),
        0.0
    );
    assert_eq!(samples.get("spliceport_scrape_threads_missing"), 0.0);
    assert!(samples.get("process_open_fds") > 5.0);
    assert!(samples.get("process_resident_memory_bytes") > 1e5);
    assert!(samples.get("process_cpu_seconds_total") > 0.0);
    client.take(size - 10_000);
    let ended = measured.server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
    assert!(!measured.socket.exists());
}

fn answers_as_another_user(backend: &str) {
    if !rustix::process::geteuid().is_root() {
        return not_run("only root can become another user");
    }
    let dir = directory(&[]);
    let more = ["--user", "nobody", "--metrics", "127.0.0.1:0"];
    let mut server = Server::with(backend, dir.path(), &more);
    let line = server.running.line();
    let address = line
        .strip_prefix("metrics on http://")
        .and_then(|l| l.strip_suffix("/metrics"));
    let stream = TcpStream::connect(address.expect("an address")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = Client::new(stream);
    client.send(format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{ACCEPT}\r\n").as_bytes());
    let samples = parse(&String::from_utf8(client.got().body).expect("UTF-8"));
    assert!(samples.get("process_open_fds") > 5.0);
    assert!(samples.get("process_resident_memory_bytes") > 1e5);
}

fn counts_reloads(backend: &str) {
    let dir = directory(&[]);
    let config = dir.path().join("spliceport.toml");
    fs::write(&config, "idle-timeout = 50\n").unwrap();
    let measured = Measured::with(backend, dir.path(), &["--config", config.to_str().unwrap()]);
    let name = |result: &str| format!("spliceport_config_reloads_total{{result=\"{result}\"}}");
    let at = "spliceport_config_last_reload_success_timestamp_seconds";
    let begun = measured.scrape();
    assert_eq!(begun.get(&name("ok")), 0.0);
    assert_eq!(begun.get(at), begun.get("process_start_time_seconds"));
    measured.server.running.signal(Signal::HUP);
    let read = wait_for("the settings", || {
        let samples = measured.scrape();
        (samples.get(&name("ok")) == 1.0).then_some(samples)
    });
    assert!(read.get(at) > begun.get(at));
    assert_eq!(read.get("spliceport_config_last_reload_successful"), 1.0);
    fs::write(&config, "idle-timeout = nonsense\n").unwrap();
    measured.server.running.signal(Signal::HUP);
    let failed = wait_for("the refusal", || {
        let samples = measured.scrape();
        (samples.get(&name("failed")) == 1.0).then_some(samples)
    });
    assert_eq!(failed.get(&name("ok")), 1.0);
    assert_eq!(failed.get("spliceport_config_last_reload_successful"), 0.0);
    assert_eq!(failed.get(at), read.get(at));
}

fn says_that_the_address_is_taken(backend: &str) {
    let dir = directory(&[]);
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let start = |metrics: &str| {
        let args = ["serve", "--backend", backend, "--listen", "127.0.0.1:0"];
        let mut command = program(&args);
        command.arg(dir.path()).args(["--metrics", metrics]);
        run(command)
    };
    let ended = start(&address);
    assert_eq!(ended.code(), Some(1));
    let said = format!("error: cannot listen on {address} for --metrics: ");
    assert!(ended.stderr.starts_with(&said), "{ended:?}");
    assert!(ended.stderr.contains("choose another address"), "{ended:?}");
    let ended = start("nonsense");
    assert_eq!(ended.code(), Some(2), "{ended:?}");
}
