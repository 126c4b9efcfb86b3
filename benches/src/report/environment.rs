//! Where and with what it was measured.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::web;

/// What a reader must know to repeat a run, or to doubt it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    pub quick: bool,
    pub minutes: f64,
    /// Names and values, in the order in which they are to be read.
    pub facts: Vec<(String, String)>,
    pub notes: Vec<String>,
}

impl Environment {
    /// After [`prepare`](crate::setup::prepare); `tcp_mem` is what was read before, since a network
    /// namespace of its own does not show it.
    pub fn now(quick: bool, notes: Vec<String>, tcp_mem: String) -> Environment {
        let mut facts = Vec::new();
        let mut fact = |name: &str, value: String| {
            if !value.is_empty() {
                facts.push((name.to_owned(), value));
            }
        };
        fact("date", said("date", &["-u", "+%F %H:%M UTC"]));
        fact("commit", commit());
        fact("kernel", read("/proc/sys/kernel/osrelease"));
        fact("processor", cpuinfo("model name"));
        fact(
            "processors",
            std::thread::available_parallelism().map_or(String::new(), |n| n.to_string()),
        );
        fact("virtual machine", said("systemd-detect-virt", &["--vm"]));
        fact("container", said("systemd-detect-virt", &["--container"]));
        fact("memory", meminfo());
        fact("file system", file_system(&std::env::temp_dir()));
        fact(
            "pinning",
            "servers on processor 0, load on processor 1".to_owned(),
        );
        for name in [
            "net/ipv4/tcp_congestion_control",
            "net/core/default_qdisc",
            "net/ipv4/tcp_wmem",
            "net/ipv4/tcp_rmem",
            "net/ipv4/tcp_notsent_lowat",
            "net/core/somaxconn",
            "fs/pipe-max-size",
            "fs/pipe-user-pages-soft",
            "kernel/io_uring_disabled",
        ] {
            let value = read(&format!("/proc/sys/{name}"));
            let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
            fact(&name.replace('/', "."), value);
        }
        fact("net.ipv4.tcp_mem (pages)", tcp_mem);
        fact("open files", crate::setup::descriptors().to_string());
        for (program, argument) in [
            ("rustc", "--version"),
            ("nginx", "-v"),
            ("lighttpd", "-v"),
            ("static-web-server", "--version"),
            ("miniserve", "--version"),
            ("wrk", "-v"),
            ("python3", "--version"),
        ] {
            let path = web::find(program).map(|p| p.to_string_lossy().into_owned());
            fact(
                program,
                path.map_or("not installed".into(), |path| said(&path, &[argument])),
            );
        }
        for name in ["tokio", "tokio-uring", "compio", "monoio", "io-uring"] {
            fact(&format!("crate {name}"), locked(name));
        }
        Environment {
            quick,
            minutes: 0.0,
            facts,
            notes,
        }
    }
}

/// The bounds of TCP's memory, of the whole system.
pub fn tcp_mem() -> String {
    let text = read("/proc/sys/net/ipv4/tcp_mem");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// The first line that a program says, on either of its outputs.
fn said(program: &str, args: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(args).output() else {
        return String::new();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("").trim().to_owned()
}

fn commit() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let head = said("git", &["-C", root, "rev-parse", "--short=12", "HEAD"]);
    let changed = said("git", &["-C", root, "status", "--porcelain", "-uno"]);
    match changed.is_empty() {
        true => head,
        false => format!("{head}, with changes"),
    }
}

fn cpuinfo(field: &str) -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with(field));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or(String::new(), |(_, value)| value.trim().to_owned())
}

fn meminfo() -> String {
    let text = read("/proc/meminfo");
    let kib = text
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<f64>().ok());
    kib.map_or(String::new(), |kib| {
        format!("{:.1} GiB", kib / f64::from(1 << 20))
    })
}

/// The kind of file system of a directory: the longest mount point above it.
fn file_system(dir: &Path) -> String {
    let mounts = read("/proc/mounts");
    let mut found: Vec<(&str, &str)> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| dir.starts_with(at))
        .collect();
    found.sort_by_key(|(at, _)| at.len());
    found
        .last()
        .map_or(String::new(), |(at, kind)| format!("{kind} (at {at})"))
}

/// The version of a crate in the workspace's lock file.
fn locked(name: &str) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let versions = lock.match_indices(&entry).map(|(at, found)| {
        let rest = &lock[at + found.len()..];
        &rest[..rest.find('"').unwrap_or(0)]
    });
    versions.collect::<Vec<_>>().join(", ")
}
