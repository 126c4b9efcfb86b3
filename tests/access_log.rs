//! `spliceport serve --access-log`: what is in it, and that it neither loses lines nor holds up
//! serving; with the real program, on both backends.

#[path = "common/stuck.rs"]
mod stuck;
mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use stuck::Stuck;
use support::*;
use tempfile::TempDir;

on_both_backends! {
    writes_apaches_formats,
    writes_json,
    escapes_what_clients_send,
    tells_what_a_client_that_left_has_taken,
    names_clients_of_unix_sockets,
    loses_no_line_when_it_is_moved,
    goes_on_serving_when_nothing_takes_its_lines,
    goes_on_serving_when_its_disk_does_not_answer,
    drops_lines_rather_than_wait_for_the_end,
    writes_to_standard_output,
    is_opened_again_in_the_sandbox_by_another_user,
}

/// A served directory, and another with a log in it.
struct Site {
    dir: TempDir,
    logs: TempDir,
}

impl Site {
    fn new() -> Site {
        let dir = directory(&[("a", b"hello"), ("b", &pattern(100_000))]);
        let logs = tempfile::tempdir().unwrap();
        Site { dir, logs }
    }

    fn log(&self) -> PathBuf {
        self.logs.path().join("access.log")
    }

    fn serve(&self, backend: &str, format: &str, more: &[&str]) -> Server {
        let log = self.log();
        let mut args = vec![
            "--access-log",
            log.to_str().unwrap(),
            "--log-format",
            format,
        ];
        args.extend(more);
        Server::with(backend, self.dir.path(), &args)
    }

    /// The lines, once there are so many.
    fn lines(&self, count: usize) -> Vec<String> {
        wait_for("the lines", || {
            let lines = read_lines(&self.log());
            (lines.len() >= count).then_some(lines)
        })
    }
}

/// The whole lines of a file.
fn read_lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text
        .split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n'));
    whole.map(str::to_owned).collect()
}

/// A line with `T` in the place of its time.
fn timeless(line: &str) -> String {
    let (start, rest) = line.split_once('[').expect("a time");
    let (time, end) = rest.split_once(']').expect("a time");
    assert!(time.len() == 26 && time.ends_with(" +0000"), "{line}");
    format!("{start}[T]{end}")
}

/// Requests of each kind, pipelined; how many there are.
fn ask_all(server: &Server) -> usize {
    let requests = [
        "GET /a?q HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: agent/1\r\n\r\n",
        "HEAD /b HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /b HTTP/1.1\r\nHost: x\r\nRange: bytes=10-29\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n\r\n",
        "GET /none HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /b HTTP/1.1\r\nHost: x\r\nUser-Agent:\r\n\r\n",
        "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "nonsense \"here\"\r\n\r\n",
    ];
    let mut client = server.connect();
    client.send(requests.concat().as_bytes());
    client.rest();
    requests.len()
}

fn writes_apaches_formats(backend: &str) {
    let site = Site::new();
    let mut server = site.serve(backend, "common", &[]);
    let asked = ask_all(&server);
    let common = [
        r#"127.0.0.1 - - [T] "GET /a?q HTTP/1.1" 200 5"#,
        r#"127.0.0.1 - - [T] "HEAD /b HTTP/1.1" 200 -"#,
        r#"127.0.0.1 - - [T] "GET /b HTTP/1.1" 206 20"#,
        r#"127.0.0.1 - - [T] "GET /a HTTP/1.1" 304 -"#,
        r#"127.0.0.1 - - [T] "GET /none HTTP/1.1" 404 14"#,
        r#"127.0.0.1 - - [T] "GET /b HTTP/1.1" 200 100000"#,
        r#"127.0.0.1 - - [T] "GET /a HTTP/1.0" 200 5"#,
        r#"127.0.0.1 - - [T] "nonsense \"here\"" 400 16"#,
    ];
    // While it runs, and nothing else happens.
    let lines: Vec<_> = site.lines(asked).iter().map(|l| timeless(l)).collect();
    assert_eq!(lines, common);
    let mode = fs::metadata(site.log()).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));

    // It is appended to; and what was asked before the end is in it.
    let mut server = site.serve(backend, "combined", &[]);
    ask_all(&server);
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!((ended.code(), &*ended.stderr), (Some(0), ""));
    let lines = read_lines(&site.log());
    assert_eq!(lines.len(), 2 * asked);
    let agents = [r#""http://r/" "agent/1""#, r#""-" "-""#, r#""-" """#];
    for (at, line) in lines[asked..].iter().enumerate() {
        let agent = agents[match at {
            0 => 0,
            5 => 2,
            _ => 1,
        }];
        assert_eq!(timeless(line), format!("{} {agent}", common[at]));
    }
}

fn writes_json(backend: &str) {
    let site = Site::new();
    let server = site.serve(backend, "json", &[]);
    let asked = ask_all(&server);
    let lines: Vec<Value> = site
        .lines(asked)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut first = lines[0].clone();
    let taken = |line: &mut Value, name: &str| line.as_object_mut().unwrap().remove(name).unwrap();
    let time = taken(&mut first, "time");
    assert!(
        time.as_str()
            .is_some_and(|t| t.len() == 24 && t.ends_with('Z')),
        "{time}"
    );
    assert!(taken(&mut first, "duration").as_f64().unwrap() < LIMIT.as_secs_f64());
    assert!(taken(&mut first, "port").as_u64().unwrap() > 0);
    assert!(taken(&mut first, "header_bytes").as_u64().unwrap() > 100);
    assert!(taken(&mut first, "routes").is_array());
    let expected = serde_json::json!({
        "remote": "127.0.0.1",
        "request": "GET /a?q HTTP/1.1",
        "method": "GET",
        "target": "/a?q",
        "version": "HTTP/1.1",
        "host": "x",
        "referer": "http://r/",
        "user_agent": "agent/1",
        "status": 200,
        "content_bytes": 5,
        "received_bytes": 0,
        "end": "whole",
    });
    assert_eq!(first, expected);
    assert_eq!(lines[5]["content_bytes"], 100_000);
    let last = &lines[asked - 1];
    assert_eq!(
        (&last["request"], &last["status"]),
        (&"nonsense \"here\"".into(), &400.into())
    );
    assert_eq!(
        (&last["method"], &last["host"]),
        (&Value::Null, &Value::Null)
    );
}

fn escapes_what_clients_send(backend: &str) {
    let site = Site::new();
    let server = site.serve(backend, "combined", &[]);
    let hostile = b"GET /\"\\\xc3\xa4 HTTP/1.1\r\nHost: x\r\nReferer: \"a\\\r\n\
        User-Agent: \t\x80\xff\" 127.0.0.1\r\n\r\n";
    server.ask(hostile);
    // No request, and control characters in it: one line all the same.
    server.ask(b"GET /\x1b[31m\x00\x01 HTTP/1.1\n\r\n\r\n");
    let long = [b"GET /".to_vec(), vec![b'a'; 9000]].concat();
    server.ask(&long);
    let lines: Vec<_> = site.lines(3).iter().map(|l| timeless(l)).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        r#"127.0.0.1 - - [T] "GET /\"\\\xc3\xa4 HTTP/1.1" 404 14 "\"a\\" "\x80\xff\" 127.0.0.1""#
    );
    assert_eq!(
        lines[1],
        r#"127.0.0.1 - - [T] "GET /\x1b[31m\x00\x01 HTTP/1.1" 400 16 "-" "-""#
    );
    assert!(
        lines[2].ends_with(r#"aaa" 414 17 "-" "-""#),
        "{}",
        &lines[2][8900..]
    );
}

fn tells_what_a_client_that_left_has_taken(backend: &str) {
    let site = Site::new();
    let size = make_big(&site.dir.path().join("big")) as u64;
    let server = site.serve(backend, "json", &[]);
    let mut client = server.connect();
    client.get("/big");
    client.head();
    client.take(100_000);
    drop(client);
    let line: Value = serde_json::from_str(&site.lines(1)[0]).unwrap();
    assert_eq!(
        (&line["status"], &line["end"]),
        (&200.into(), &"peer-gone".into())
    );
    let taken = line["content_bytes"].as_u64().unwrap();
    assert!((100_000..size).contains(&taken), "{taken}");
    assert_ne!(line["routes"].as_array().unwrap().len(), 0);
}

fn names_clients_of_unix_sockets(backend: &str) {
    let site = Site::new();
    let socket = site.logs.path().join("socket");
    let address = format!("unix:{}", socket.display());
    let _server = site.serve(backend, "common", &["--listen", &address]);
    let mut client = Client::new(UnixStream::connect(socket).unwrap());
    client.get("/a");
    assert_eq!(client.got().status, 200);
    let line = timeless(&site.lines(1)[0]);
    assert_eq!(line, r#"unix: - - [T] "GET /a HTTP/1.1" 200 5"#);
}

fn loses_no_line_when_it_is_moved(backend: &str) {
    const CLIENTS: usize = 4;
    const REQUESTS: usize = 1500;
    let site = Site::new();
    let mut server = site.serve(backend, "common", &["--threads", "2"]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    let asking = thread::spawn(move || {
        for _ in 0..REQUESTS / 10 {
            for client in &mut clients {
                for _ in 0..10 {
                    client.get("/a");
                }
            }
            for client in &mut clients {
                for _ in 0..10 {
                    assert_eq!(client.got().status, 200);
                }
            }
        }
    });
    let mut moved = Vec::new();
    for number in 0..5 {
        wait_for("the file", || site.log().exists().then_some(()));
        let name = site.logs.path().join(format!("access.log.{number}"));
        fs::rename(site.log(), &name).unwrap();
        moved.push(name);
        server.running.signal(Signal::HUP);
        if asking.is_finished() {
            break;
        }
    }
    asking.join().unwrap();
    wait_for("the new file", || site.log().exists().then_some(()));
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));
    moved.push(site.log());
    let lines: Vec<_> = moved.iter().flat_map(|path| read_lines(path)).collect();
    assert_eq!(lines.len(), CLIENTS * REQUESTS);
    for line in lines {
        assert_eq!(
            timeless(&line),
            r#"127.0.0.1 - - [T] "GET /a HTTP/1.1" 200 5"#
        );
    }
}

/// Many requests whose lines are long, all answered; how many.
fn ask_at_length(server: &Server) -> usize {
    const REQUESTS: usize = 200;
    let agent = vec![0xff; 10_000];
    let request = [
        b"GET /a HTTP/1.1\r\nHost: x\r\nUser-Agent: ",
        &agent[..],
        b"\r\n\r\n",
    ]
    .concat();
    let mut client = server.connect();
    for _ in 0..REQUESTS {
        client.send(&request);
        assert_eq!(client.got().body, b"hello");
    }
    REQUESTS
}

fn goes_on_serving_when_nothing_takes_its_lines(backend: &str) {
    let site = Site::new();
    let mut reader = fifo(&site.log());
    let mut server = site.serve(backend, "combined", &[]);
    let asked = ask_at_length(&server);
    // Now it is read, to the end.
    fcntl_setfl(&reader, OFlags::empty()).unwrap();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let text = reading.join().unwrap();
    assert!(text.ends_with("\"\n"));
    let lines = text
        .lines()
        .inspect(|line| assert_eq!(line.matches('"').count(), 6));
    let dropped = dropped(&ended);
    assert!(dropped > 0);
    assert_eq!(lines.count() + dropped, asked);
}

/// How many lines it says to have dropped.
fn dropped(ended: &Ended) -> usize {
    let counts = ended.stderr.lines().map(|line| {
        let (_, rest) = line
            .split_once("the access log could not follow: ")
            .expect("a count");
        let (count, _) = rest.split_once(" lines were dropped").expect("a count");
        count.parse::<usize>().unwrap()
    });
    counts.sum()
}

fn goes_on_serving_when_its_disk_does_not_answer(backend: &str) {
    let disk = tempfile::tempdir().unwrap();
    let stuck = match Stuck::mount(disk.path()) {
        Ok(stuck) => stuck,
        Err(e) => {
            return not_run(format_args!(
                "a FUSE file system can't be mounted here (root may): {e}"
            ));
        }
    };
    stuck.release_after(4 * LIMIT);
    let site = Site::new();
    let log = disk.path().join("7");
    let log = log.to_str().unwrap();
    let mut server = Server::with(backend, site.dir.path(), &["--access-log", log]);
    assert_eq!(server.get("/a", "").body, b"hello");
    wait_for("a write that waits", || (stuck.writing() > 0).then_some(()));
    let asked = 1 + ask_at_length(&server);
    // Nothing has been written, nor has the writer been asked to open the file again.
    server.running.signal(Signal::HUP);
    assert_eq!(server.get("/a", "").body, b"hello");
    assert_eq!(stuck.writing(), 1);
    stuck.release();
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let dropped = dropped(&ended);
    assert!(dropped > 0);
    assert_eq!(stuck.lines() + dropped, asked + 1);
}

fn drops_lines_rather_than_wait_for_the_end(backend: &str) {
    let site = Site::new();
    let _reader = fifo(&site.log());
    let mut server = site.serve(backend, "combined", &[]);
    ask_at_length(&server);
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let said = "the access log does not take its last lines: they are lost";
    assert!(ended.stderr.contains(said), "{ended:?}");
}

fn writes_to_standard_output(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let output = dir.path().join("output");
    let socket = dir.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    // (Not by way of `Server`, which reads the first line alone.)
    let mut command = program(&["serve", "--backend", backend, "--listen", &listen]);
    command
        .arg(dir.path())
        .args(["--access-log", "-", "--log-format", "common"]);
    let mut child = command
        .stdout(File::create(&output).unwrap())
        .spawn()
        .unwrap();
    // It serves already when it says so.
    wait_for("the server", || {
        (read_lines(&output).len() == 1).then_some(())
    });
    let mut client = Client::new(UnixStream::connect(&socket).unwrap());
    client.get("/a");
    assert_eq!(client.got().status, 200);
    wait_for("the line", || {
        (read_lines(&output).len() == 2).then_some(())
    });
    // Nothing is opened again; nothing breaks.
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    client.get("/a");
    wait_for("the line", || {
        (read_lines(&output).len() == 3).then_some(())
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let lines = read_lines(&output);
    assert!(lines[0].starts_with("listening on"), "{lines:?}");
    assert!(
        lines[1].ends_with(r#""GET /a HTTP/1.1" 200 5"#),
        "{lines:?}"
    );
}

fn is_opened_again_in_the_sandbox_by_another_user(backend: &str) {
    if !geteuid().is_root() {
        return not_run("only root can become another user");
    }
    if !can_sandbox() {
        return;
    }
    let site = Site::new();
    fs::set_permissions(site.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let id = Command::new("id").args(["-u", "nobody"]).output().unwrap();
    let nobody: u32 = String::from_utf8(id.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    chown(site.logs.path(), Some(nobody), None).unwrap();
    let more = [
        "--sandbox",
        "required",
        "--user",
        "nobody",
        "--threads",
        "2",
    ];
    let mut server = site.serve(backend, "common", &more);
    assert_eq!(server.get("/a", "").status, 200);
    site.lines(1);
    assert_eq!(fs::metadata(site.log()).unwrap().uid(), nobody);
    // logrotate moves it, and has it opened again.
    let move_it = |name: &str| fs::rename(site.log(), site.logs.path().join(name)).unwrap();
    move_it("1");
    server.running.signal(Signal::HUP);
    wait_for("the new file", || site.log().exists().then_some(()));
    assert_eq!(server.get("/a", "").status, 200);
    site.lines(1);
    // Where that is refused, it goes on in the old one.
    chown(site.logs.path(), Some(0), None).unwrap();
    move_it("2");
    server.running.signal(Signal::HUP);
    let old = site.logs.path().join("2");
    for asked in 2..5 {
        assert_eq!(server.get("/a", "").status, 200);
        wait_for("the line", || {
            (read_lines(&old).len() == asked).then_some(())
        });
    }
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let said = "can't be opened again, and goes on in the file that was open";
    assert!(ended.stderr.contains(said), "{ended:?}");
    assert!(
        ended.stderr.contains("its directory must be writable"),
        "{ended:?}"
    );
    assert!(!site.log().exists());
}

#[test]
fn a_log_that_cannot_be_opened_is_told_at_the_start() {
    let dir = directory(&[]);
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (path, advice) in [
        (
            dir.path().join("none/access.log"),
            "make its directory first",
        ),
        (dir.path().to_owned(), "name a file in it"),
        (fifo, "start its reader first"),
    ] {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--access-log"]);
        command.arg(&path);
        let ended = run(command);
        assert_eq!(ended.code(), Some(1), "{ended:?}");
        let said = format!("error: cannot open the access log {}: ", path.display());
        assert!(ended.stderr.starts_with(&said), "{ended:?}");
        assert!(ended.stderr.contains(advice), "{ended:?}");
    }
    let ended = run(program(&["serve", "--log-format", "none"]));
    assert_eq!(ended.code(), Some(2), "{ended:?}");
}
