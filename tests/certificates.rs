//! The certificate of `serve`, on both backends: what can't be used, and how it is renewed.

#[path = "common/certificate.rs"]
mod certificate;
#[path = "support/measured.rs"]
mod measured;
#[path = "support/secure.rs"]
mod secure;
mod support;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use certificate::*;
use measured::Measured;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, date_time_ymd};
use rustix::process::Signal;
use secure::Secure;
use support::*;

on_both_backends! {
    a_new_certificate_is_taken_at_a_hangup,
    is_renewed_whatever_becomes_of_the_settings,
    is_counted_where_it_can_not_be_renewed,
    a_changed_time_out_reaches_handshakes,
    serves_as_another_user_in_the_sandbox,
}

fn a_new_certificate_is_taken_at_a_hangup(backend: &str) {
    let dir = directory(&[("a", b"hello")]);
    let secure = Secure::with(backend, dir.path(), &["--threads", "2"]);
    let mut before = secure.connect();
    before.get("/a");
    assert_eq!(before.got().body, b"hello");
    let new = Certificate::with(|_| {}, &PKCS_ECDSA_P384_SHA384);
    assert!(secure.serves(&secure.certificate) && !secure.serves(&new));
    new.write(secure.files.path());
    secure.server.running.signal(Signal::HUP);
    wait_for("the new certificate", || secure.serves(&new).then_some(()));
    assert!(!secure.serves(&secure.certificate));
    // A connection that stood goes on.
    before.get("/a");
    assert_eq!(before.got().body, b"hello");
    // A broken one is not taken.
    fs::write(secure.files.path().join("cert.pem"), "gone").unwrap();
    secure.server.running.signal(Signal::HUP);
    for _ in 0..20 {
        assert!(secure.serves(&new));
    }
    let mut running = secure.server.running;
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let told = [
        "the certificate stays as it is",
        "cert.pem holds no certificate",
    ];
    for text in told {
        assert!(ended.stderr.contains(text), "{}", ended.stderr);
    }
}

/// A stranger that has begun a handshake, and goes no further.
fn a_changed_time_out_reaches_handshakes(backend: &str) {
    let dir = directory(&[]);
    let config = dir.path().join("spliceport.toml");
    fs::write(&config, "header-timeout = 3600\n").unwrap();
    let more = ["--config", config.to_str().unwrap()];
    let secure = Secure::with(backend, dir.path(), &more);
    fs::write(&config, "header-timeout = 0.1\n").unwrap();
    secure.server.running.signal(Signal::HUP);
    wait_for("a handshake that is ended", || {
        let mut stream = secure.tcp();
        stream.write_all(&[0x16, 3, 1]).unwrap();
        // One from before the change is not ended.
        let patience = Duration::from_secs(2);
        stream.set_read_timeout(Some(patience)).unwrap();
        let read = stream.read(&mut [0]);
        let waits = |e: &io::Error| e.kind() == io::ErrorKind::WouldBlock;
        (!read.as_ref().is_err_and(waits)).then_some(())
    });
}

fn is_renewed_whatever_becomes_of_the_settings(backend: &str) {
    let dir = directory(&[("a", b"hello"), ("404", b"not there")]);
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let config = path("spliceport.toml");
    let good = format!("error-page = \"404={}\"\n", path("404"));
    fs::write(&config, &good).unwrap();
    let secure = Secure::with(backend, dir.path(), &["--config", &config]);
    let renew = |what: &str| {
        let new = Certificate::with(|_| {}, &PKCS_ECDSA_P384_SHA384);
        new.write(secure.files.path());
        secure.server.running.signal(Signal::HUP);
        wait_for(what, || secure.serves(&new).then_some(()));
    };
    renew("a certificate beside good settings");
    fs::write(&config, "nonsense").unwrap();
    renew("a certificate beside settings that can't be read");
    fs::write(&config, &good).unwrap();
    fs::remove_file(path("404")).unwrap();
    renew("a certificate beside an error page that is missing");
    let mut running = secure.server.running;
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    let told = ended
        .stderr
        .matches("the settings stay as they are")
        .count();
    assert_eq!(told, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("send SIGHUP again"),
        "{}",
        ended.stderr
    );
}

fn is_counted_where_it_can_not_be_renewed(backend: &str) {
    let dir = directory(&[]);
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = Certificate::new().write(files.path());
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let more = ["--tls-cert", cert, "--tls-key", key];
    let measured = Measured::with(backend, dir.path(), &more);
    let reload = |result: &str| {
        measured.server.running.signal(Signal::HUP);
        let name = format!("spliceport_config_reloads_total{{result=\"{result}\"}}");
        let counted = wait_for(result, || {
            let samples = measured.scrape();
            (samples.get(&name) == 1.0).then_some(samples)
        });
        counted.get("spliceport_config_last_reload_successful")
    };
    assert_eq!(reload("ok"), 1.0);
    fs::write(cert, "gone").unwrap();
    assert_eq!(reload("failed"), 0.0);
}

fn serves_as_another_user_in_the_sandbox(backend: &str) {
    if !rustix::process::geteuid().is_root() {
        return not_run("only root can become another user");
    }
    let dir = directory(&[("a", b"hello")]);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    open(dir.path());
    let more = ["--user", "nobody", "--sandbox", "best-effort"];
    let mut secure = Secure::with(backend, dir.path(), &more);
    let get = |secure: &Secure| {
        let mut client = secure.connect();
        client.get("/a");
        assert_eq!(client.got().body, b"hello");
    };
    get(&secure);
    // It is root's, as it was at the start: what is served stays.
    let new = Certificate::with(|_| {}, &PKCS_ECDSA_P256_SHA256);
    let (_, key) = new.write(secure.files.path());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    secure.server.running.signal(Signal::HUP);
    // Two signals that come close together are one.
    let running = &secure.server.running;
    running.wait_until_said("the certificate stays as it is");
    get(&secure);
    // A new file, which it may read.
    open(secure.files.path());
    fs::remove_file(&key).unwrap();
    fs::write(&key, new.key.serialize_pem()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    secure.server.running.signal(Signal::HUP);
    let old = std::mem::replace(&mut secure.certificate, new);
    wait_for("the new certificate", || {
        let mut client = secure.connect();
        let asked = client
            .stream
            .write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        asked.and_then(|()| client.stream.read(&mut [0])).ok()
    });
    drop(old);
    secure.server.running.signal(Signal::TERM);
    let ended = secure.server.running.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

#[test]
fn what_can_not_be_used_is_told_at_the_start() {
    let dir = directory(&[]);
    let files = tempfile::tempdir().unwrap();
    let (good, other) = (Certificate::new(), Certificate::new());
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let put = |name: &str, content: &[u8]| fs::write(files.path().join(name), content).unwrap();
    let key = good.key.serialize_pem();
    put("cert", good.pem.as_bytes());
    put("key", key.as_bytes());
    put("other", other.key.serialize_pem().as_bytes());
    put("empty", b"");
    put("der", &good.der);
    put("cut", &good.pem.as_bytes()[..good.pem.len() / 2]);
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    put("nonsense", nonsense.as_bytes());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    put("encrypted", encrypted.as_bytes());
    let weak = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    put("weak", weak.as_bytes());
    let table = [
        (
            "missing",
            "key",
            vec!["cannot read the certificate", "check the path"],
        ),
        (
            "cert",
            "missing",
            vec!["cannot read the private key", "check the path"],
        ),
        (".", "key", vec!["cannot read the certificate", "directory"]),
        (
            "empty",
            "key",
            vec!["holds no certificate", "BEGIN CERTIFICATE"],
        ),
        (
            "key",
            "key",
            vec!["holds no certificate", "BEGIN CERTIFICATE"],
        ),
        ("der", "key", vec!["in DER", "openssl x509"]),
        ("cut", "key", vec!["damaged"]),
        ("nonsense", "key", vec!["can't be understood"]),
        (
            "cert",
            "empty",
            vec!["holds no private key", "BEGIN PRIVATE KEY"],
        ),
        ("cert", "cert", vec!["holds no private key"]),
        ("cert", "encrypted", vec!["passphrase", "openssl pkey"]),
        ("cert", "weak", vec!["can't be used", "RSA"]),
        (
            "cert",
            "other",
            vec!["does not belong to the certificate", "made for"],
        ),
    ];
    let start = |args: &[&str]| {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(args).arg(dir.path());
        run(command)
    };
    for (certificate, key, told) in table {
        let (cert, key) = (path(certificate), path(key));
        let ended = start(&["--tls-cert", &cert, "--tls-key", &key]);
        assert_eq!(ended.code(), Some(1), "{certificate}: {}", ended.stderr);
        for text in told {
            assert!(
                ended.stderr.contains(text),
                "{certificate}: {}",
                ended.stderr
            );
        }
    }
    for (option, other) in [("--tls-cert", "--tls-key"), ("--tls-key", "--tls-cert")] {
        let ended = start(&[option, &path("cert")]);
        assert_eq!(ended.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(other), "{}", ended.stderr);
    }
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(path("key"), fs::Permissions::from_mode(0o000)).unwrap();
        let ended = start(&["--tls-cert", &path("cert"), "--tls-key", &path("key")]);
        assert_eq!(ended.code(), Some(1));
        assert!(
            ended.stderr.contains("it has to be readable"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn dates_that_clients_refuse_are_warned_of() {
    let dir = directory(&[("a", b"hello")]);
    for (from, to, told) in [
        (2000, 2010, "expired at 2010"),
        (2090, 2099, "valid from 2090"),
    ] {
        let files = tempfile::tempdir().unwrap();
        let certificate = Certificate::with(
            |params| {
                params.not_before = date_time_ymd(from, 1, 1);
                params.not_after = date_time_ymd(to, 1, 1);
            },
            &PKCS_ECDSA_P256_SHA256,
        );
        let (cert, key) = certificate.write(files.path());
        let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
        // As variables, for once.
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--threads", "1"]);
        command
            .env("SPLICEPORT_TLS_CERT", cert)
            .env("SPLICEPORT_TLS_KEY", key);
        let mut running = Running::start({
            command.arg(dir.path());
            command
        });
        assert!(
            running
                .line()
                .starts_with("listening on https://127.0.0.1:")
        );
        running.signal(Signal::TERM);
        let ended = running.end();
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
}
