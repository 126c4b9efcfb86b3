//! One scenario, told of in the same way by each backend.

mod common;

use std::fs::File;
use std::io::{Cursor, Write};

use common::*;
use spliceport::proactor::{BackendChoice, Proactor};
use spliceport::{SendOptions, Source};

/// What is told of a life with a bit of everything, and what the peer has.
fn life(backend: BackendChoice) -> Option<(Vec<Note>, Vec<u8>)> {
    let proactor = Proactor::builder().backend(backend).build().ok()?;
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
    Some((record.signals(), bytes))
}

#[test]
fn c43_each_backend_tells_the_same() {
    let emulated = life(BackendChoice::Emulated).expect("it is always there");
    assert!(emulated.0.len() > 12, "{:?}", emulated.0);
    if let Some(ring) = life(BackendChoice::Ring) {
        assert_eq!(ring.0, emulated.0);
        assert_same(&ring.1, &emulated.1);
    }
}
