//! `spliceport serve` as a service: settings, limits, rights given up, service managers; with the
//! real program, on both backends.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::*;

on_both_backends! {
    turns_away_connections_above_the_limit,
    paces_each_connection,
    takes_changed_settings_at_a_hangup,
    takes_changed_pages_and_fields_at_a_hangup,
    serves_as_another_user,
    serves_in_the_sandbox,
    opens_nothing_outside_in_the_sandbox,
    gives_its_unix_socket_away,
    serves_on_passed_sockets_and_tells_the_manager,
}

fn turns_away_connections_above_the_limit(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let limit = ["--max-connections", "2", "--threads", "2"];
    let server = Server::with(backend, dir.path(), &limit);
    let mut first = server.connect();
    let mut second = server.connect();
    for client in [&mut first, &mut second] {
        client.get("/a");
        assert_eq!(client.got().body, b"hello");
    }
    // It is told without having asked, and whatever it asks.
    let mut third = server.connect();
    let refused = third.got();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.field("Retry-After"), Some("1"));
    assert_eq!(refused.field("Connection"), Some("close"));
    third.assert_ended();
    drop(first);
    wait_for("a place", || {
        let mut next = server.connect();
        next.get("/a");
        (next.got().status == 200).then_some(())
    });
    second.get("/a");
    assert_eq!(second.got().body, b"hello");
}

fn paces_each_connection(backend: &str) {
    let content = pattern(60_000);
    let dir = directory(&[("a", &content), ("small", b"hello")]);
    let server = Server::with(backend, dir.path(), &["--rate", "40000"]);
    let begun = std::time::Instant::now();
    let mut client = server.connect();
    // The first second's worth of them, pipelined, and half as much again.
    client.get("/small");
    client.get("/a");
    assert_eq!(client.got().body, b"hello");
    assert_same(&client.got().body, &content, "paced");
    // At the rate it takes 1.5 s; what the bucket holds at first is less than a tenth of that.
    let took = begun.elapsed();
    assert!(took.as_secs_f64() > 1.2, "{took:?}");
}

fn takes_changed_settings_at_a_hangup(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let config = dir.path().join("spliceport.toml");
    fs::write(&config, "max-connections = 1\nidle-timeout = 60\n").unwrap();
    let path = config.to_str().unwrap();
    let mut server = Server::with(backend, dir.path(), &["--config", path]);
    let mut first = server.connect();
    first.get("/a");
    assert_eq!(first.got().status, 200);
    assert_eq!(server.connect().got().status, 503);
    // What can't be read changes nothing; what needs a new start is named.
    fs::write(&config, "max-connections = 0\n").unwrap();
    server.running.signal(Signal::HUP);
    fs::write(
        &config,
        "max-connections = 10\nthreads = 7\nidle-timeout = 0\n",
    )
    .unwrap();
    wait_for("the new settings", || {
        server.running.signal(Signal::HUP);
        let mut next = server.connect();
        next.send(b"GET /a HTTP/1.0\r\n\r\n");
        (next.head().status == 200).then_some(())
    });
    // Idle connections have no time any more, those that were there before neither.
    first.assert_ended();
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    // (It is set on the command line by the test: that comes first, and nothing has changed.)
    assert!(!ended.stderr.contains("threads"), "{ended:?}");
}

fn takes_changed_pages_and_fields_at_a_hangup(backend: &str) {
    let top = directory(&[
        ("404.html", b"old page"),
        ("root/a", b"hello"),
        ("root/.dot", b"dot"),
    ]);
    let path = |name: &str| top.path().join(name);
    let (config, page) = (path("c.toml"), path("404.html"));
    let page_line = format!("error-page = \"404={}\"\n", page.display());
    fs::write(&config, format!("{page_line}cache-control = 'max-age=1'\n")).unwrap();
    let more = [
        "--config",
        config.to_str().unwrap(),
        "--threads",
        "2",
        "--sandbox",
        "best-effort",
    ];
    let mut server = Server::with(backend, &path("root"), &more);
    // Connections that there are see it too, each on its thread.
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    let mut ask = |target: &str| -> Vec<Response> {
        let answers = clients.iter_mut().map(|client| {
            client.get(target);
            client.got()
        });
        answers.collect()
    };
    assert!(ask("/none").iter().all(|r| r.body == b"old page"));
    let fields = |answers: Vec<Response>| -> Vec<_> {
        let fields = answers
            .iter()
            .map(|r| r.field("Cache-Control").map(str::to_owned));
        fields.collect()
    };
    assert_eq!(
        fields(ask("/a")),
        [const { Some("max-age=1") }; 8].map(|v| v.map(str::to_owned))
    );

    // The page alone, the configuration being what it was.
    fs::write(&page, "new page").unwrap();
    server.running.signal(Signal::HUP);
    wait_for("the new page", || {
        let answers = ask("/none");
        answers.iter().all(|r| r.body == b"new page").then_some(())
    });
    fs::write(
        &config,
        format!("{page_line}cache-control = 'max-age=2'\nhidden = true\n"),
    )
    .unwrap();
    server.running.signal(Signal::HUP);
    wait_for("the new fields", || {
        let fields = fields(ask("/a"));
        fields
            .iter()
            .all(|f| f.as_deref() == Some("max-age=2"))
            .then_some(())
    });
    assert!(ask("/.dot").iter().all(|r| r.body == b"dot"));

    // What can't be read changes nothing.
    fs::remove_file(&page).unwrap();
    server.running.signal(Signal::HUP);
    server.running.wait_until_said("stay as they are");
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

/// A field of /proc/PID/status.
fn status_of(server: &Server, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", server.running.id())).unwrap();
    let mut lines = status.lines();
    let found = lines.find_map(|line| line.strip_prefix(&format!("{field}:")));
    found.expect("a field").trim().to_owned()
}

/// Whether the test may become another user; said when it may not.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        not_run("only root can become another user");
    }
    root
}

fn serves_as_another_user(backend: &str) {
    if !is_root() {
        return;
    }
    let dir = directory(&[("a", b"hello"), ("secret", b"of root")]);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let secret = dir.path().join("secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let user = ["--user", "nobody", "--threads", "2"];
    let mut server = Server::with(backend, dir.path(), &user);
    assert_eq!(server.get("/a", "").body, b"hello");
    assert_eq!(server.get("/secret", "").status, 403);
    let nobody = status_of(&server, "Uid");
    let ids: Vec<_> = nobody.split_whitespace().collect();
    assert!(ids.len() == 4 && !ids.contains(&"0"), "{nobody}");
    assert!(
        !status_of(&server, "Gid")
            .split_whitespace()
            .any(|id| id == "0")
    );
    assert!(
        !status_of(&server, "Groups")
            .split_whitespace()
            .any(|id| id == "0")
    );
    assert_eq!(status_of(&server, "CapEff"), "0000000000000000");
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));
}

fn serves_in_the_sandbox(backend: &str) {
    if !can_sandbox() {
        return;
    }
    let content = pattern(5_000_000);
    let dir = directory(&[("a", &content), ("sub/b", b"hello")]);
    std::os::unix::fs::symlink("../a", dir.path().join("sub/up")).unwrap();
    let sandbox = ["--sandbox", "required", "--threads", "2"];
    let mut server = Server::with(backend, dir.path(), &sandbox);
    assert_eq!(status_of(&server, "Seccomp"), "2");
    assert_eq!(status_of(&server, "NoNewPrivs"), "1");
    for route in ["/a", "/sub/up"] {
        assert_same(&server.get(route, "").body, &content, route);
    }
    assert_eq!(server.get("/sub/b", "").body, b"hello");
    assert_eq!(server.get("/sub/b", "Range: bytes=1-2\r\n").body, b"el");
    assert_eq!(server.get("/none", "").status, 404);
    server.running.signal(Signal::TERM);
    let ended = server.running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "");
    let token = "a-token-of-the-test";
    let uploads = ["--sandbox", "required", "--upload", "--upload-token", token];
    let server = Server::with(backend, dir.path(), &uploads);
    let put = format!(
        "PUT /sub/new HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 3\r\n\r\nnew"
    );
    let mut client = server.connect();
    client.send(put.as_bytes());
    assert_eq!(client.head().status, 201);
    assert_eq!(server.get("/sub/new", "").body, b"new");
}

fn opens_nothing_outside_in_the_sandbox(backend: &str) {
    if !can_sandbox() {
        return;
    }
    let top = directory(&[
        ("root/a", b"hello"),
        ("c.toml", b"rate = '1M'"),
        ("new.toml", b""),
    ]);
    let path = |name: &str| top.path().join(name);
    let config = path("c.toml");
    let config = config.to_str().unwrap();
    for (sandbox, said) in [
        ("off", None),
        ("required", Some("c.toml: Permission denied")),
    ] {
        let more = ["--config", config, "--sandbox", sandbox];
        let mut server = Server::with(backend, &path("root"), &more);
        // A name that it was given, and now another file's, for which nothing was asked.
        fs::write(path("new.toml"), "rate = '2M'").unwrap();
        fs::rename(path("new.toml"), config).unwrap();
        server.running.signal(Signal::HUP);
        assert_eq!(server.get("/a", "").body, b"hello");
        server.running.signal(Signal::TERM);
        let ended = server.running.end();
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        match said {
            Some(said) => assert!(ended.stderr.contains(said), "{ended:?}"),
            None => assert_eq!(ended.stderr, ""),
        }
    }
}

fn gives_its_unix_socket_away(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let socket = dir.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let scrapers = dir.path().join("metrics");
    let metrics = format!("unix:{}", scrapers.display());
    let mut more = vec!["--metrics", &metrics, "--socket-mode", "620"];
    if is_root() {
        more.extend(["--socket-owner", "nobody"]);
    }
    let given = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o620, "{path:?}");
        if is_root() {
            assert_ne!(metadata.uid(), 0, "{path:?}");
            assert_ne!(metadata.gid(), 0, "{path:?}");
        }
    };
    // The one that is there.
    let mut server = Server::with(backend, dir.path(), &more);
    given(&scrapers);
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.end().code(), Some(0));
    more.extend(["--listen", &listen]);
    let _server = Server::with(backend, dir.path(), &more);
    given(&scrapers);
    given(&socket);
    let stream = UnixStream::connect(&socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut client = Client::new(stream);
    client.get("/a");
    assert_eq!(client.got().body, b"hello");
}

/// Passes sockets as systemd does: as descriptors 3 and up, with two variables. The shell has the
/// process's id, and keeps it.
fn pass(command: &Command, sockets: &[OwnedFd]) -> Command {
    let mut shell = Command::new("sh");
    let count = sockets.len();
    let script = format!("LISTEN_FDS={count} LISTEN_PID=$$ exec \"$0\" \"$@\"");
    shell.args(["-c", &script]).arg(command.get_program());
    shell.args(command.get_args());
    let raw: Vec<_> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    // SAFETY: between fork and exec only dup2 is called, on descriptors that stay open.
    unsafe {
        shell.pre_exec(move || {
            for (index, fd) in raw.iter().enumerate() {
                let target = 3 + index as i32;
                // High ones first: none is in the way of another.
                if libc::dup2(*fd, 100 + target) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            for index in 0..raw.len() as i32 {
                if libc::dup2(103 + index, 3 + index) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    shell
}

fn serves_on_passed_sockets_and_tells_the_manager(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let path = dir.path().join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let manager_path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&manager_path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let told = || {
        let mut text = [0; 200];
        let n = manager.recv(&mut text).expect("it is told in time");
        String::from_utf8_lossy(&text[..n]).trim().to_owned()
    };
    let mut command = program(&["serve", "--backend", backend, "--threads", "2"]);
    command.args(["--sandbox", "best-effort"]).arg(dir.path());
    let sockets: [OwnedFd; 2] = [tcp.into(), unix.into()];
    let mut command = pass(&command, &sockets);
    command.env("NOTIFY_SOCKET", &manager_path);
    command.env_remove("SPLICEPORT_BACKEND");
    let mut running = Running::start(command);
    assert_eq!(told(), "READY=1");
    assert!(running.line().contains(&address.to_string()));
    let ask = |stream: &mut dyn ReadWrite| {
        stream.write_all(b"GET /a HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    };
    ask(&mut TcpStream::connect(address).unwrap());
    ask(&mut UnixStream::connect(&path).unwrap());
    running.signal(Signal::HUP);
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    running.signal(Signal::TERM);
    assert_eq!(told(), "STOPPING=1");
    let ended = running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn flags_come_before_variables_before_the_file() {
    let dir = directory(&[]);
    let config = dir.path().join("c.toml");
    fs::write(&config, "rate = '3M'\nroute = 'copy'\nthreads = 5\n").unwrap();
    let mut command = program(&["serve", "--print-config", "--rate", "1M", "--config"]);
    command.arg(&config);
    command.env("SPLICEPORT_RATE", "2M");
    command.env("SPLICEPORT_ROUTE", "chain");
    let printed = command.output().unwrap();
    assert!(printed.status.success(), "{printed:?}");
    let printed = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "rate = \"1M\" # command line",
        "route = \"chain\" # environment",
        "threads = 5 # configuration file",
        "idle-timeout = 60 # default",
        "# user is not set",
    ] {
        assert!(printed.lines().any(|l| l == line), "{line}: {printed}");
    }
    // What was printed says the same again.
    fs::write(&config, &printed).unwrap();
    let mut command = program(&["serve", "--print-config", "--config"]);
    let again = command.arg(&config).output().unwrap();
    let values = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap().to_owned());
        lines.collect()
    };
    let again = String::from_utf8(again.stdout).unwrap();
    assert_eq!(values(&again), values(&printed));
}

#[test]
fn what_is_wrong_at_the_start_is_told() {
    let dir = directory(&[
        ("unknown.toml", b"\nnonsense = 1\n"),
        ("value.toml", b"threads = 'many'\n"),
        ("syntax.toml", b"rate = \n"),
    ]);
    let path = dir.path().to_str().expect("UTF-8");
    let config = |name: &str| format!("--config={path}/{name}");
    let (unknown, value) = (config("unknown.toml"), config("value.toml"));
    let (syntax, none) = (config("syntax.toml"), config("none.toml"));
    let long = format!("unix:{path}/none/socket");
    let mut table = vec![
        (
            vec![unknown.as_str()],
            2,
            vec!["unknown.toml, line 2", "nonsense", "idle-timeout"],
        ),
        (
            vec![&value],
            2,
            vec!["value.toml, line 1", "many", "--threads"],
        ),
        (vec![&syntax], 2, vec!["syntax.toml, line 1"]),
        (vec![&none], 1, vec!["none.toml", "No such file"]),
        (
            vec!["--user=no-such-user"],
            1,
            vec!["no-such-user", "getent passwd"],
        ),
        (
            vec!["--user=nobody:no-such-group"],
            1,
            vec!["no-such-group", "getent group"],
        ),
        (vec!["--user=root"], 2, vec!["--user", "name another"]),
        (
            vec!["--listen", &long],
            1,
            vec![long.as_str(), "No such file"],
        ),
        (
            vec!["--socket-mode=600"],
            2,
            vec!["--socket-mode", "unix:PATH"],
        ),
        (vec!["--socket-mode=999"], 2, vec!["--socket-mode", "octal"]),
        (vec!["--max-connections=0"], 2, vec!["--max-connections"]),
        (vec!["--rate=0"], 2, vec!["--rate", "10M"]),
        (vec!["--sandbox=maybe"], 2, vec!["--sandbox", "best-effort"]),
    ];
    if !is_root() {
        table.retain(|(args, ..)| !args[0].starts_with("--user=root"));
    }
    for (args, code, said) in table {
        let mut command = program(&["serve", path]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let ended = run({
            command.args(&args);
            command
        });
        assert_eq!(ended.code(), Some(code), "{args:?}: {ended:?}");
        for word in said {
            assert!(ended.stderr.contains(word), "{args:?}: {ended:?}");
        }
    }
    let mut command = program(&["serve", path, "--listen", "127.0.0.1:0"]);
    command.env("SPLICEPORT_THREADS", "none");
    let ended = run(command);
    assert_eq!(ended.code(), Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--threads"), "{ended:?}");
}

#[test]
fn a_required_sandbox_is_one_or_there_is_no_start() {
    let dir = directory(&[("a", b"hello")]);
    let path = dir.path().to_str().expect("UTF-8");
    let listen = ["serve", path, "--listen", "127.0.0.1:0", "--sandbox"];
    let mut command = program(&listen);
    command.arg("required");
    deny_in(
        &mut command,
        &[libc::SYS_landlock_create_ruleset],
        libc::ENOSYS,
    );
    let ended = run(command);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    for word in ["Landlock", "best-effort", "Linux 6.7"] {
        assert!(ended.stderr.contains(word), "{ended:?}");
    }
    let mut command = program(&listen);
    command.arg("best-effort");
    deny_in(
        &mut command,
        &[libc::SYS_landlock_create_ruleset],
        libc::ENOSYS,
    );
    let mut running = Running::start(command);
    assert!(running.line().starts_with("listening on"));
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("Landlock"), "{ended:?}");
}
