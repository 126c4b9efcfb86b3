//! Files beyond what 31 and 32 bits count. They are sparse, in memory, and mostly thrown away by
//! the peer: the bytes around the places that matter are looked at.

mod common;

use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Route, RouteChoice, Source};

const GIB: u64 = 1 << 30;

/// Places around which the file has bytes: this many before and behind.
const PLACES: [u64; 3] = [0, 2 * GIB, 4 * GIB];
const AROUND: u64 = 5000;

/// One above and one below the limits of 31 and 32 bits.
const COUNTS: [u64; 6] = [
    2 * GIB - 1,
    2 * GIB,
    2 * GIB + 1,
    4 * GIB - 1,
    4 * GIB,
    4 * GIB + 1,
];

/// The file: nothing but holes, and [`contents`] around the places.
fn sparse() -> Fd {
    let file = kernel::memory_file();
    for place in PLACES {
        let from = place.saturating_sub(AROUND);
        let len = (place + AROUND - from) as usize;
        file.write_all_at(&contents(from, len), from).unwrap();
    }
    Fd::from(file)
}

/// Receives `from..to` of the file, and nothing more.
fn check(mut peer: impl Read + AsRawFd, from: u64, to: u64) {
    let mut at = from;
    let skip_to = |peer: &mut _, place: u64, at: &mut u64| {
        while *at < place {
            let n = kernel::discard(peer, place - *at).unwrap();
            assert!(n > 0, "ended at {at}");
            *at += n;
        }
    };
    for place in PLACES {
        skip_to(&mut peer, to.min(place.saturating_sub(AROUND)), &mut at);
        let end = to.min(place + AROUND);
        if at < end {
            let mut bytes = vec![0; (end - at) as usize];
            peer.read_exact(&mut bytes).unwrap();
            assert_same(&bytes, &contents(at, bytes.len()));
            at = end;
        }
    }
    skip_to(&mut peer, to, &mut at);
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0, "more than {to}");
}

/// Sends a part of the file, and has it checked.
fn send_and_check(
    proactor: &Proactor,
    file: &Fd,
    (from, to): (u64, u64),
    route: RouteChoice,
    (ours, peer): (Fd, impl Read + AsRawFd + Send + 'static),
) {
    let (transport, record) = over(proactor, ours);
    let thread = std::thread::spawn(move || check(peer, from, to));
    let outcome = send(&transport, Source::file(file.clone(), from..to), by(route));
    transport.close();
    outcome.succeed(proactor, to - from);
    assert_eq!(outcome.end(), End::Complete);
    join(proactor, thread);
    run_until(proactor, "the end", || record.is_lost());
}

/// A connection over a pipe, which takes pages as they are: gigabytes a second, many of them.
fn pipe() -> (Fd, PipeReader) {
    let (reading, writing) = std::io::pipe().unwrap();
    kernel::pipe_size(&writing, Some(1 << 20));
    (Fd::new(OwnedFd::from(writing)), reading)
}

on_both_backends! {
    fn c08_counts_around_two_and_four_gibibytes(proactor: Proactor) {
        let file = sparse();
        for count in COUNTS {
            for route in [Route::Inline, Route::Sendfile] {
                let route = RouteChoice::Force(route);
                send_and_check(&proactor, &file, (0, count), route, pipe());
            }
        }
        // These have a copy or a worker's turn to make.
        for (count, route) in [
            (2 * GIB + 1, RouteChoice::Force(Route::Chain)),
            (4 * GIB + 1, RouteChoice::Force(Route::Chain)),
            (4 * GIB + 1, RouteChoice::Force(Route::Copy)),
            (4 * GIB - 1, RouteChoice::Auto),
        ] {
            send_and_check(&proactor, &file, (0, count), route, pipe());
        }
        send_and_check(&proactor, &file, (0, 2 * GIB + 1), RouteChoice::Auto, tcp());
    }

    fn c08_whole_files_beyond_four_gibibytes(proactor: Proactor) {
        let file = sparse();
        let size = 4 * GIB + AROUND;
        let (ours, reading) = pipe();
        let (transport, _record) = over(&proactor, ours);
        let thread = std::thread::spawn(move || check(reading, 1, size));
        let outcome = send(&transport, Source::file(file, 1..), Default::default());
        transport.close();
        outcome.succeed(&proactor, size - 1);
        assert_eq!(outcome.end(), End::EndOfFile);
        join(&proactor, thread);
    }
}
