//! The servers that are compared: ours on each backend, and those that are installed of nginx,
//! lighttpd, static-web-server and miniserve, each with one thread on the first processor.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; ended when dropped.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that a master takes its workers with it.
        // SAFETY: takes and touches no memory; the process is our child, not yet waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Processor seconds of the server and its children so far: its threads and the kernel's
    /// workers for it included, interrupts not.
    pub fn cpu_seconds(&self) -> f64 {
        let mut processes = vec![self.child.id()];
        let mut ticks = 0;
        while let Some(id) = processes.pop() {
            let path = format!("/proc/{id}/task/{id}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            processes.extend(
                children
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap_or("")
                .split_whitespace()
                .collect();
            for field in [11, 12] {
                ticks += fields
                    .get(field)
                    .and_then(|f| f.parse::<u64>().ok())
                    .unwrap_or(0);
            }
        }
        // SAFETY: takes and touches no memory.
        ticks as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
    }

    /// The server's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Seconds in which the first processor was not idle so far.
pub fn first_cpu_busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find(|l| l.starts_with("cpu0 ")).unwrap_or("");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|t| t.parse().ok())
        .collect();
    let idle = ticks.get(3).unwrap_or(&0) + ticks.get(4).unwrap_or(&0);
    let all: u64 = ticks.iter().take(8).sum();
    // SAFETY: takes and touches no memory.
    (all - idle) as f64 / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// Starts all servers that there are for `dir`; the names of those that are missing.
pub fn start_all(dir: &Path, state: &Path) -> io::Result<(Vec<Server>, Vec<&'static str>)> {
    let mut servers = Vec::new();
    let mut missing = Vec::new();
    let ours = our_program();
    for backend in ["ring", "emulated"] {
        let name = format!("spliceport ({backend})");
        let args = |address: SocketAddr| {
            let listen = address.to_string();
            let args = [
                "serve",
                path(dir),
                "--listen",
                &listen,
                "--backend",
                backend,
                "--threads",
                "1",
            ];
            args.map(str::to_owned).to_vec()
        };
        servers.push(start(&name, &ours, args)?);
    }
    if let Some(nginx) = find("nginx") {
        for (name, cache) in [
            ("nginx", ""),
            ("nginx (aio threads)", "aio threads;"),
            (
                "nginx (open_file_cache)",
                "open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;",
            ),
        ] {
            let args = |address: SocketAddr| {
                let file = state.join(format!("nginx-{}.conf", address.port()));
                let text = nginx_config(dir, state, address, cache);
                fs::write(&file, text).expect("the state directory is writable");
                vec!["-c".to_owned(), path(&file).to_owned()]
            };
            servers.push(start(name, &nginx, args)?);
        }
    } else {
        missing.push("nginx");
    }
    if let Some(lighttpd) = find("lighttpd") {
        let args = |address: SocketAddr| {
            let file = state.join("lighttpd.conf");
            let text = lighttpd_config(dir, address);
            fs::write(&file, text).expect("the state directory is writable");
            vec!["-D".to_owned(), "-f".to_owned(), path(&file).to_owned()]
        };
        servers.push(start("lighttpd", &lighttpd, args)?);
    } else {
        missing.push("lighttpd");
    }
    if let Some(program) = find("static-web-server") {
        let args = |address: SocketAddr| {
            let port = address.port().to_string();
            let args = [
                "-a",
                "127.0.0.1",
                "-p",
                &port,
                "-d",
                path(dir),
                "--threads-multiplier",
                "1",
                "--cache-control-headers",
                "false",
                "--compression",
                "false",
                "-g",
                "error",
            ];
            args.map(str::to_owned).to_vec()
        };
        servers.push(start("static-web-server", &program, args)?);
    } else {
        missing.push("static-web-server");
    }
    if let Some(program) = find("miniserve") {
        let args = |address: SocketAddr| {
            let port = address.port().to_string();
            ["-i", "127.0.0.1", "-p", &port, path(dir)]
                .map(str::to_owned)
                .to_vec()
        };
        servers.push(start("miniserve", &program, args)?);
    } else {
        missing.push("miniserve");
    }
    Ok((servers, missing))
}

/// The program as this workspace built it, optimised.
pub fn our_program() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            "spliceport",
            "--bin",
            "spliceport",
        ])
        .current_dir(&root)
        .status();
    assert!(
        built.is_ok_and(|s| s.success()),
        "spliceport could not be built"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    target.join("release/spliceport")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the benchmark's paths are its own")
}

fn find(program: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH")?;
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    std::env::split_paths(&places)
        .chain(sbin)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

fn start(
    name: &str,
    program: &Path,
    args: impl Fn(SocketAddr) -> Vec<String>,
) -> io::Result<Server> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let child = Command::new("taskset")
        .args(["-c", "0"])
        .arg(program)
        .args(args(address))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let server = Server {
        name: name.to_owned(),
        address,
        child,
    };
    let end = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            return Err(io::Error::other(format!(
                "{name} did not start on {address}"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn nginx_config(dir: &Path, state: &Path, address: SocketAddr, cache: &str) -> String {
    let (dir, state, port) = (path(dir), path(state), address.port());
    format!(
        "daemon off; worker_processes 1; pid {state}/nginx-{port}.pid; error_log {state}/nginx.log;
user root; worker_rlimit_nofile 30000;
events {{ worker_connections 16384; }}
http {{
  access_log off; sendfile on; tcp_nopush on; tcp_nodelay on;
  keepalive_requests 1000000000; keepalive_timeout 600; {cache}
  client_body_temp_path {state}/body; proxy_temp_path {state}/proxy;
  fastcgi_temp_path {state}/fastcgi; uwsgi_temp_path {state}/uwsgi; scgi_temp_path {state}/scgi;
  server {{ listen {address} backlog=16384; root {dir}; }}
}}
"
    )
}

fn lighttpd_config(dir: &Path, address: SocketAddr) -> String {
    format!(
        "server.document-root = \"{}\"
server.bind = \"127.0.0.1\"
server.port = {}
server.max-keep-alive-requests = 1000000000
server.max-keep-alive-idle = 600
server.max-fds = 16384
server.max-connections = 8192
server.network-backend = \"sendfile\"
",
        path(dir),
        address.port()
    )
}
