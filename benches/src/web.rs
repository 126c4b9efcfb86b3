//! The web servers that are compared: ours on each backend, and those that are installed of nginx,
//! lighttpd, static-web-server and miniserve, each with one thread that serves.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::Server;
use crate::setup::{Options, descriptors};

/// How each server is started, and the program that it needs.
const SERVERS: [(&str, &str); 8] = [
    (RING, "spliceport"),
    (EMULATED, "spliceport"),
    (NGINX, "nginx"),
    (NGINX_CACHE, "nginx"),
    (NGINX_THREADS, "nginx"),
    (LIGHTTPD, "lighttpd"),
    (STATIC, "static-web-server"),
    (MINISERVE, "miniserve"),
];

pub const RING: &str = "spliceport (ring)";
pub const EMULATED: &str = "spliceport (emulated)";
pub const NGINX: &str = "nginx";
pub const NGINX_CACHE: &str = "nginx (open_file_cache)";
pub const NGINX_THREADS: &str = "nginx (aio threads)";
pub const LIGHTTPD: &str = "lighttpd";
pub const STATIC: &str = "static-web-server";
pub const MINISERVE: &str = "miniserve";

/// All but nginx with threads, which is for cold files.
pub fn usual(name: &str) -> bool {
    name != NGINX_THREADS
}

/// Starts all servers that there are and that are wanted, for the files of `dir`; gives the names of
/// those that are missing beside them.
pub fn start_all(
    dir: &Path,
    state: &Path,
    options: &Options,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<(Vec<Server>, Vec<String>)> {
    let (mut servers, mut missing) = (Vec::new(), Vec::new());
    for (name, program) in SERVERS {
        if !wanted(name) || !options.wants(name) {
            continue;
        }
        let program = match program {
            "spliceport" => Some(our_program()?),
            other => find(other),
        };
        match program {
            Some(program) => servers.push(start(name, &program, dir, state)?),
            None => missing.push(name.to_owned()),
        }
    }
    for name in &missing {
        println!("not installed, so not measured: {name}");
    }
    Ok((servers, missing))
}

/// Another process of a server that is running.
pub fn start_twin(of: &Server, dir: &Path, state: &Path) -> io::Result<Server> {
    let program = match SERVERS.iter().find(|(name, _)| *name == of.name) {
        Some((_, "spliceport")) => Some(our_program()?),
        Some((_, other)) => find(other),
        None => None,
    };
    let program = program.ok_or_else(|| io::Error::other("it is no web server"))?;
    start(&of.name, &program, dir, state)
}

fn start(name: &str, program: &Path, dir: &Path, state: &Path) -> io::Result<Server> {
    Server::start(name, program, |address| {
        arguments(name, dir, state, address)
    })
}

fn arguments(name: &str, dir: &Path, state: &Path, at: SocketAddr) -> io::Result<Vec<String>> {
    let (files, port, address) = (path(dir), at.port().to_string(), at.to_string());
    let config = |text: String| {
        let file = state.join(format!("{port}.conf"));
        fs::write(&file, text)?;
        Ok::<_, io::Error>(path(&file).to_owned())
    };
    let ours = |backend| {
        let listen = [
            "serve",
            files,
            "--listen",
            &address,
            "--threads",
            "1",
            "--backend",
            backend,
        ];
        listen.map(str::to_owned).to_vec()
    };
    let nginx = |more| config(nginx_config(dir, state, at, more));
    Ok(match name {
        RING => ours("ring"),
        EMULATED => ours("emulated"),
        NGINX => vec!["-c".into(), nginx("")?],
        NGINX_CACHE => {
            // As many as there are in any cell.
            let cache = "open_file_cache max=20000 inactive=60s; open_file_cache_valid 60s;";
            vec!["-c".into(), nginx(cache)?]
        }
        NGINX_THREADS => vec!["-c".into(), nginx("aio threads;")?],
        LIGHTTPD => vec![
            "-D".into(),
            "-f".into(),
            config(lighttpd_config(dir, state, at))?,
        ],
        STATIC => {
            let place = ["-a", "127.0.0.1", "-p", &port, "-d", files, "-g", "error"];
            let plain = [
                "--threads-multiplier",
                "1",
                "--cache-control-headers",
                "false",
            ];
            let rest = ["--compression", "false"];
            [&place[..], &plain, &rest]
                .concat()
                .iter()
                .map(|s| (*s).to_owned())
                .collect()
        }
        _ => ["-i", "127.0.0.1", "-p", &port, files]
            .map(str::to_owned)
            .to_vec(),
    })
}

/// The program as this workspace builds it, optimised; built once.
pub fn our_program() -> io::Result<PathBuf> {
    static BUILT: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = BUILT.get_or_init(|| {
        let build = [
            "build",
            "--release",
            "--quiet",
            "-p",
            "spliceport",
            "--bin",
            "spliceport",
        ];
        let status = Command::new(cargo).args(build).current_dir(&root).status();
        status.is_ok_and(|s| s.success())
    });
    if !built {
        return Err(io::Error::other(
            "`cargo build --release --bin spliceport` failed",
        ));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Ok(target.join("release/spliceport"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the benchmark's paths are its own")
}

/// Names a directory with more servers.
pub const SERVERS_IN: &str = "SPLICEPORT_BENCH_SERVERS";

/// A program in `PATH`, or where Debian puts servers, or in the directory that
/// `SPLICEPORT_BENCH_SERVERS` names.
pub fn find(program: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::var_os(SERVERS_IN).map(PathBuf::from);
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    let all = own
        .into_iter()
        .chain(std::env::split_paths(&places))
        .chain(sbin);
    all.map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn nginx_config(dir: &Path, state: &Path, address: SocketAddr, more: &str) -> String {
    let (dir, state, port) = (path(dir), path(state), address.port());
    let limit = descriptors();
    format!(
        "daemon off; worker_processes 1; pid {state}/nginx-{port}.pid; error_log {state}/nginx.log;
user root; worker_rlimit_nofile {limit};
events {{ worker_connections {limit}; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000000; keepalive_timeout 600; {more}
  client_body_temp_path {state}/body; proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi; uwsgi_temp_path {state}/uwsgi; scgi_temp_path {state}/scgi;
  server {{ listen {address} backlog=16384; root {dir}; }}
}}
"
    )
}

fn lighttpd_config(dir: &Path, state: &Path, address: SocketAddr) -> String {
    format!(
        "server.document-root = \"{}\"
server.bind = \"127.0.0.1\"
server.port = {}
server.listen-backlog = 16384
server.max-keep-alive-requests = 1000000000
server.max-keep-alive-idle = 600
server.max-fds = {}
server.max-connections = {}
server.network-backend = \"sendfile\"
server.errorlog = \"{}/lighttpd.log\"
",
        path(dir),
        address.port(),
        descriptors(),
        // It allows no more.
        descriptors() / 2,
        path(state),
    )
}
