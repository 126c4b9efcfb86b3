//! One scenario, told of in the same way by each backend.

mod common;

use std::fs::File;
use std::io::{Cursor, Write};

use common::*;
use spliceport::proactor::BackendChoice;
use spliceport::{SendOptions, Source};

/// What is told of a life with a bit of everything, and what the peer has.
fn life(backend: BackendChoice) -> (Vec<Note>, Vec<u8>) {
    let proactor = build(builder(backend));
    let (ours, mut peer) = tcp();
    let (transport, record) = over(&proactor, ours);
    record.half_open.set(true);
    peer.write_all(b"question").unwrap();
    run_until(&proactor, "data", || record.received() == b"question");
    let reader = read_all(peer.try_clone().unwrap());
    let keep = || SendOptions::new().keep_connection(true).write_weight(0);
    let mut number = 0;
    let mut add = |source: Source, options| {
        number += 1;
        send_noted(&transport, &record, number, source, options)
    };
    transport.write(&b"answer: "[..]).unwrap();
    add(Source::file(file(1000), ..), keep());
    add(Source::file(empty_file(), ..), keep());
    add(Source::file(file(100), 50..200), keep());
    add(Source::from(File::open("/").unwrap()), keep());
    add(Source::file(file(10), ..), keep()).cancel();
    add(Source::file(file(3_000_000), 1..), keep());
    add(
        Source::reader(Cursor::new(contents(0, 100_000)), Some(90_000)),
        keep(),
    );
    add(
        Source::file(File::open("/proc/version").unwrap(), ..),
        keep(),
    );
    add(Source::file(file(50), 60..), keep());
    add(Source::file(file(50), 60..70), keep());
    transport.write(&b"."[..]).unwrap();
    transport.write_eof().unwrap();
    let bytes = join(&proactor, reader);
    drop(peer);
    run_until(&proactor, "the peer's end", || record.has(&Note::End));
    transport.close();
    add(Source::file(file(50), ..), keep());
    run_until(&proactor, "the end", || record.is_lost());
    (record.signals(), bytes)
}

#[test]
fn c43_each_backend_tells_the_same() {
    let emulated = life(BackendChoice::Emulated);
    assert!(emulated.0.len() > 12, "{:?}", emulated.0);
    if is_denied() {
        return not_run("io_uring is denied: there is nothing to compare with");
    }
    let ring = life(BackendChoice::Ring);
    assert_eq!(ring.0, emulated.0);
    assert_same(&ring.1, &emulated.1);
}

/// How sends of all kinds end, by every route: count, end, and the error's kind.
fn ends(backend: BackendChoice) -> Vec<String> {
    let proactor = build(builder(backend));
    let mut ends = Vec::new();
    for route in ROUTES {
        let sources: [fn() -> Source; 9] = [
            || Source::file(file(200_000), ..),
            || Source::file(file(200_000), 10..300_000),
            || Source::file(file(10), 20..),
            || Source::file(file(10), 20..30),
            || Source::from(File::open("/").unwrap()),
            || Source::from(File::options().write(true).open("/dev/null").unwrap()),
            || Source::from(File::open("/dev/null").unwrap()),
            || Source::from(File::open("/proc/version").unwrap()),
            || Source::reader(Cursor::new(contents(0, 100)), Some(200)),
        ];
        for (number, source) in sources.iter().enumerate() {
            let (outcome, body) = sandwich(&proactor, tcp(), source(), route);
            assert_eq!(body.len() as u64, outcome.sent());
            let (sent, end, kind) = (outcome.sent(), outcome.end(), outcome.kind());
            ends.push(format!("{route:?} {number}: {sent} {end:?} {kind:?}"));
        }
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        let outcome = send(&transport, file(5_000_000), by(route));
        run_a_while(&proactor);
        drop(peer);
        run_until(&proactor, "the end", || record.is_lost());
        ends.push(format!("{route:?} peer: {:?}", outcome.end()));
    }
    ends
}

#[test]
fn c38_each_backend_ends_the_same() {
    let emulated = ends(BackendChoice::Emulated);
    if is_denied() {
        return not_run("io_uring is denied: there is nothing to compare with");
    }
    assert_eq!(ends(BackendChoice::Ring), emulated);
}
