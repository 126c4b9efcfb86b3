//! Processes of a benchmark: the servers, and this same program in other roles. Each is bound to a
//! processor, dies with the benchmark, and is ended and waited for when it is dropped.

use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::measure::{self, LOAD_CORE, SERVER_CORE};
use crate::{peers, web};

/// A child that does not outlive this value, nor this process.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, core: usize, on_death: i32) -> io::Result<Process> {
        // SAFETY: system calls alone, which take and touch no memory but their own.
        unsafe {
            command.pre_exec(move || {
                measure::pin(core);
                // The benchmark blocks the signals that end it; its children do not.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
                libc::prctl(libc::PR_SET_PDEATHSIG, on_death);
                Ok(())
            });
        }
        command.stdin(Stdio::null()).spawn().map(Process)
    }

    fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.0.try_wait() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        // SIGTERM, so that a master takes its workers with it.
        // SAFETY: takes and touches no memory; the process is our child, not yet waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        if self.wait(Duration::from_secs(3)).is_none() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// A running server.
pub struct Server {
    pub name: String,
    pub address: SocketAddr,
    process: Process,
}

impl Server {
    /// Starts a program as a server at an address that it is told, and waits until it listens.
    pub fn start(
        name: &str,
        program: &Path,
        args: impl Fn(SocketAddr) -> io::Result<Vec<String>>,
    ) -> io::Result<Server> {
        let failed = |what: String| io::Error::other(format!("{name} {what}"));
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = Command::new(program);
        command.args(args(address)?).stdout(Stdio::null());
        // It is for this program, and ours warns of what it doesn't know.
        command.env_remove(web::SERVERS_IN);
        let process = Process::start(&mut command, SERVER_CORE, libc::SIGTERM)
            .map_err(|e| failed(format!("could not be started: {e}")))?;
        let mut server = Server {
            name: name.to_owned(),
            address,
            process,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = server.process.0.try_wait() {
                return Err(failed(format!("ended at once: {status}")));
            }
            if Instant::now() > end {
                return Err(failed(format!("does not listen on {address}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// Starts one of the peers: its kind, its name, its file or directory, and how much of the file.
    pub fn peer(kind: &str, name: &str, path: &Path, size: u64) -> io::Result<Server> {
        let path = path.to_string_lossy();
        Server::start(name, &std::env::current_exe()?, |address| {
            let args = [
                peers::ROLE,
                kind,
                name,
                &address.to_string(),
                &path,
                &size.to_string(),
            ];
            Ok(args.map(str::to_owned).to_vec())
        })
    }

    pub fn id(&self) -> u32 {
        self.process.0.id()
    }
}

/// This program in another role, on the load's processor; it prints what it has to say, in JSON.
pub struct Helper {
    process: Process,
    output: Option<BufReader<ChildStdout>>,
}

impl Helper {
    pub fn start(role: &str, args: &[String]) -> io::Result<Helper> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).args(args).stdout(Stdio::piped());
        let mut process = Process::start(&mut command, LOAD_CORE, libc::SIGKILL)?;
        let output = process.0.stdout.take().map(BufReader::new);
        Ok(Helper { process, output })
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if let Some(output) = &mut self.output {
            output.read_line(&mut line)?;
        }
        Ok(line)
    }

    /// Waits for its end and for its report.
    pub fn finish<R: DeserializeOwned>(mut self) -> io::Result<R> {
        let mut text = String::new();
        if let Some(output) = &mut self.output {
            output.read_to_string(&mut text)?;
        }
        match self.process.wait(Duration::from_secs(5)) {
            Some(status) if status.success() => {
                serde_json::from_str(&text).map_err(io::Error::other)
            }
            _ => Err(io::Error::other("the load failed; what it said is above")),
        }
    }
}
