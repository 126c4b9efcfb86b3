//! Clients that people use, on both backends. What is not installed is skipped, and says so.

mod support;

use std::fs;

use support::*;

on_both_backends! {
    works_with_curl,
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
            eprintln!("skipped: curl is not installed");
            return;
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
