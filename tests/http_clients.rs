//! Clients that people use, on both backends. What is not installed is skipped, and says so.

mod support;

use std::fs;

use support::*;

on_both_backends! {
    works_with_curl,
    works_with_wget,
    works_with_aria2,
    curl_compares_tags,
}

fn works_with_curl(backend: &str) {
    let content = pattern((5 << 20) + 1);
    let dir = directory(&[("a b.bin", &content)]);
    let server = Server::start(backend, dir.path());
    let url = format!("http://{}/a%20b.bin", server.address);
    let into = dir.path().join("got");
    let curl = |args: &[&str]| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60"]);
        curl.args(args).arg("--output").arg(&into).arg(&url);
        curl.status()
    };
    match curl(&[]) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return not_run("there is no curl here");
        }
        status => assert!(status.unwrap().success()),
    }
    assert_same(&fs::read(&into).unwrap(), &content, "curl");
    let half = fs::OpenOptions::new().write(true).open(&into).unwrap();
    half.set_len(1_000_000).unwrap();
    assert!(curl(&["--continue-at", "-"]).unwrap().success());
    assert_same(&fs::read(&into).unwrap(), &content, "curl, continued");
    assert!(curl(&["--http1.0"]).unwrap().success());
    assert_same(&fs::read(&into).unwrap(), &content, "curl, HTTP/1.0");
}

/// Runs a client; `None`, and a word about it, where it is not installed.
fn client(name: &str, args: &[&str]) -> Option<bool> {
    let mut command = std::process::Command::new(name);
    match command.args(args).output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            not_run(format_args!("there is no {name} here"));
            None
        }
        output => {
            let output = output.unwrap();
            if !output.status.success() {
                eprintln!("{}", String::from_utf8_lossy(&output.stderr));
                eprintln!("{}", String::from_utf8_lossy(&output.stdout));
            }
            Some(output.status.success())
        }
    }
}

fn works_with_wget(backend: &str) {
    let content = pattern((3 << 20) + 1);
    let dir = directory(&[("files/a b.bin", &content), ("files/d/c.txt", b"hello")]);
    let into = tempfile::tempdir().unwrap();
    let server = Server::with(backend, dir.path(), &["--list"]);
    let url = format!("http://{}/files/a%20b.bin", server.address);
    let got = into.path().join("got");
    let path = got.to_str().expect("UTF-8");
    let common = ["--no-verbose", "--no-proxy", "--tries=1", "--timeout=60"];
    let wget = |args: &[&str]| client("wget", &[&common[..], args].concat());
    if wget(&["-O", path, &url]).is_none() {
        return;
    }
    assert_same(&fs::read(&got).unwrap(), &content, "wget");
    // Resumed, as it stands in a directory of its own.
    let half = into.path().join("a b.bin");
    fs::write(&half, &content[..1_000_000]).unwrap();
    let directory = into.path().to_str().expect("UTF-8");
    assert_eq!(wget(&["--continue", "-P", directory, &url]), Some(true));
    assert_same(&fs::read(&half).unwrap(), &content, "wget, continued");
    // What is not newer is not fetched again.
    let again = wget(&["--timestamping", "-P", directory, &url]);
    assert_eq!(again, Some(true));
    assert_same(&fs::read(&half).unwrap(), &content, "wget, not newer");
    // A whole tree, by its listings.
    let tree = format!("http://{}/files/", server.address);
    let mirror = [
        "--recursive",
        "--no-parent",
        "--no-host-directories",
        "-P",
        directory,
        &tree,
    ];
    assert_eq!(wget(&mirror), Some(true));
    let below = into.path().join("files");
    assert_same(
        &fs::read(below.join("a b.bin")).unwrap(),
        &content,
        "the tree",
    );
    assert_eq!(fs::read(below.join("d/c.txt")).unwrap(), b"hello");
}

/// In eight segments at a time, over connections that are used again.
fn works_with_aria2(backend: &str) {
    let content = pattern((24 << 20) + 12_345);
    let dir = directory(&[("a.bin", &content)]);
    let into = tempfile::tempdir().unwrap();
    let server = Server::start(backend, dir.path());
    let url = format!("http://{}/a.bin", server.address);
    let directory = into.path().to_str().expect("UTF-8");
    let args = [
        "--no-conf",
        "-q",
        "-x",
        "8",
        "-s",
        "8",
        "-k",
        "1M",
        "--file-allocation=none",
    ];
    let args = [
        &args[..],
        &["--max-tries=1", "--timeout=60", "-d", directory, &url],
    ]
    .concat();
    match client("aria2c", &args) {
        None => {}
        Some(done) => {
            assert!(done);
            assert_same(
                &fs::read(into.path().join("a.bin")).unwrap(),
                &content,
                "aria2c",
            );
        }
    }
}

/// A browser's way: what it has is asked for again with its tag.
fn curl_compares_tags(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let into = tempfile::tempdir().unwrap();
    let server = Server::start(backend, dir.path());
    let url = format!("http://{}/a", server.address);
    let path = |name: &str| into.path().join(name).to_str().expect("UTF-8").to_owned();
    let (tag, got) = (path("tag"), path("got"));
    let args = ["-sS", "--fail", "--max-time", "60", "--output", &got, &url];
    let save = [&["--etag-save", &tag][..], &args].concat();
    if client("curl", &save).is_none() {
        return;
    }
    assert_eq!(fs::read(&got).unwrap(), b"hello");
    fs::remove_file(&got).unwrap();
    let compare = [
        &["--etag-compare", &tag, "--write-out", "%{http_code}"][..],
        &args,
    ]
    .concat();
    let output = std::process::Command::new("curl")
        .args(&compare)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"304");
    assert!(fs::read(&got).unwrap_or_default().is_empty());
    fs::write(dir.path().join("a"), "changed").unwrap();
    let output = std::process::Command::new("curl")
        .args(&compare)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"200");
    assert_eq!(fs::read(&got).unwrap(), b"changed");
}
