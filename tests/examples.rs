//! The examples run, on both backends: each with a client that looks at what it gets, and at what
//! the example says. They are found beside this test, where `cargo test` puts them; for this test
//! alone, `cargo build --profile test --examples --features tokio-uring` does.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{LIMIT, assert_same, contents, is_denied};

/// An example that is running; killed at the end.
struct Example {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Example {
    fn start(name: &str, backend: &str, file: &Path, more: &[&str]) -> Example {
        let here = std::env::current_exe().unwrap();
        let path = here.ancestors().nth(2).unwrap().join("examples").join(name);
        let ours = if is_denied() { "auto" } else { backend };
        let mut child = Command::new(&path)
            .arg(file)
            .arg("127.0.0.1:0")
            .args(more)
            .env("SPLICEPORT_BACKEND", ours)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!(
                    "{} (see the head of tests/examples.rs): {e}",
                    path.display()
                )
            });
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut example = Example {
            child,
            out,
            address: String::new(),
        };
        let line = example.line();
        let address = line.strip_prefix("listening on ");
        example.address = address
            .unwrap_or_else(|| panic!("it says {line:?}"))
            .to_owned();
        example
    }

    /// What it says next; nothing once it has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    fn fetch(&self) -> Vec<u8> {
        let mut got = Vec::new();
        self.connect().read_to_end(&mut got).unwrap();
        got
    }

    fn ends_well(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of known contents, removed at the end.
struct Named(PathBuf);

impl Named {
    fn new(len: usize) -> Named {
        let path = common::path();
        std::fs::write(&path, contents(0, len)).unwrap();
        Named(path)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn hello(backend: &str) {
    let file = Named::new(300_000);
    let mut example = Example::start("hello", backend, &file.0, &[]);
    let expected = [
        format!("{}\n", file.0.display()).as_bytes(),
        &contents(0, 300_000),
    ]
    .concat();
    assert_same(&example.fetch(), &expected);
    let line = example.line();
    assert!(line.contains(": 300000 bytes ("), "{line}");
    assert!(
        is_denied() || line.ends_with(&format!("({backend})")),
        "{line}"
    );
    example.ends_well();
}

fn progress(backend: &str) {
    let file = Named::new(8_000_000);
    let mut example = Example::start("progress", backend, &file.0, &[]);
    assert_same(&example.fetch(), &contents(0, 8_000_000));
    let mut before = 0;
    loop {
        let line = example.line();
        let Some(sent) = line.strip_suffix(" of 8000000") else {
            assert_eq!(line, "all 8000000 bytes sent");
            break;
        };
        let sent = sent.parse().unwrap();
        assert!(sent > before, "{sent} after {before}");
        before = sent;
    }
    assert_eq!(before, 8_000_000);
    example.ends_well();
}

fn progress_until_it_is_enough(backend: &str) {
    let file = Named::new(64_000_000);
    let mut example = Example::start("progress", backend, &file.0, &["3000000"]);
    let mut got = Vec::new();
    // It ends with a reset, which may take the last bytes along.
    let _ = example.connect().read_to_end(&mut got);
    assert!(got.len() < 64_000_000);
    assert_same(&got, &contents(0, got.len()));
    let last = std::iter::repeat_with(|| example.line()).find(|line| !line.contains(" of "));
    let last = last.unwrap();
    let sent = last
        .strip_prefix("cancelled after ")
        .and_then(|l| l.strip_suffix(" bytes"));
    let sent: usize = sent
        .unwrap_or_else(|| panic!("it says {last:?}"))
        .parse()
        .unwrap();
    assert!(
        (3_000_000..64_000_000).contains(&sent) && sent >= got.len(),
        "{sent}"
    );
    example.ends_well();
}

fn tokio(backend: &str) {
    let file = Named::new(3_000_000);
    let mut example = Example::start("tokio", backend, &file.0, &[]);
    let data = contents(0, 3_000_000);
    let expected = [b"here it comes\n", &data[..], b"that was it\n"].concat();
    for _ in 0..2 {
        assert_same(&example.fetch(), &expected);
        let line = example.line();
        assert!(line.ends_with(": 3000000 bytes"), "{line}");
    }
}

fn tokio_uring(backend: &str) {
    if is_denied() {
        return;
    }
    let file = Named::new(3_000_000);
    let mut example = Example::start("tokio_uring", backend, &file.0, &[]);
    let expected = [b"here it comes\n", &contents(0, 3_000_000)[..]].concat();
    for _ in 0..2 {
        assert_same(&example.fetch(), &expected);
        let line = example.line();
        assert!(line.ends_with(": 3000014 bytes"), "{line}");
    }
}

/// Three requests over one connection, the second and third at once, one of them no GET.
fn hyper(backend: &str) {
    let file = Named::new(3_000_000);
    let mut example = Example::start("hyper", backend, &file.0, &[]);
    let mut stream = BufReader::new(example.connect());
    let get = "GET / HTTP/1.1\r\nHost: x\r\n";
    write!(stream.get_mut(), "{get}\r\n").unwrap();
    expect(&mut stream, "200", 3_000_000);
    let post = "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n";
    write!(
        stream.get_mut(),
        "{get}\r\n{post}{get}connection: close\r\n\r\n"
    )
    .unwrap();
    expect(&mut stream, "200", 3_000_000);
    expect(&mut stream, "405", 0);
    expect(&mut stream, "200", 3_000_000);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let line = example.line();
    assert!(line.ends_with(": 3 files"), "{line}");
}

fn expect(stream: &mut BufReader<TcpStream>, status: &str, len: usize) {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    assert!(
        head[0].starts_with(&format!("http/1.1 {status}")),
        "{head:?}"
    );
    assert!(head.contains(&format!("content-length: {len}")), "{head:?}");
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    assert_same(&body, &contents(0, len));
}

macro_rules! on_both_backends {
    ($($name:ident)*) => {
        mod ring {
            $(#[test] fn $name() { super::$name("ring"); })*
        }
        mod emulated {
            $(#[test] fn $name() { super::$name("emulated"); })*
        }
    };
}

on_both_backends! { hello progress progress_until_it_is_enough tokio tokio_uring hyper }
