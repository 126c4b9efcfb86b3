//! Disks that fail, refuse, lie and dawdle, for real, on every route: a FUSE file system of our
//! own.

mod common;
#[path = "common/faulty.rs"]
mod faulty;

use std::io::{self, Seek};
use std::time::Duration;

use common::*;
use faulty::{Faulty, FaultyDisk};
use spliceport::proactor::Proactor;
use spliceport::{End, Route, RouteChoice, SendOptions, Source};

/// More than a pipe holds, and no multiple of a page.
const LEN: u64 = 1_300_001;
const PAGE: u64 = 4096;

/// What a kernel says which does not splice, or not from here to there.
const REFUSALS: [i32; 6] = [
    libc::EINVAL,
    libc::ENOSYS,
    libc::EOPNOTSUPP,
    libc::EXDEV,
    libc::ESPIPE,
    libc::ENOTSOCK,
];

const NATIVE: [RouteChoice; 3] = [
    RouteChoice::Force(Route::Chain),
    RouteChoice::Force(Route::Inline),
    RouteChoice::Force(Route::Sendfile),
];

on_both_backends! {
    fn c09_files_of_fuse(proactor: Proactor) {
        let slow = Faulty { delay: Duration::from_millis(1), ..Faulty::sound(LEN) };
        let short = Faulty { most: 7001, ..Faulty::sound(LEN).direct() };
        let files = [Faulty::sound(LEN), Faulty::sound(LEN).direct(), slow, short];
        const SHORT: usize = 3;
        for route in ROUTES {
            // Mounted anew, so that nothing is cached.
            let Some(disk) = FaultyDisk::mount(files.to_vec()) else { return };
            for number in 0..files.len() {
                let (outcome, body) = sandwich(&proactor, tcp(), disk.open(number), route);
                outcome.succeed(&proactor, LEN);
                // Its own choice is a worker that splices: the loop would wait for the file system.
                let native = match route {
                    RouteChoice::Auto => Route::Chain,
                    RouteChoice::Force(route) => route,
                };
                let mut routes = outcome.routes();
                if number == SHORT {
                    // What a splice says of the end is confirmed by a read.
                    routes.retain(|route| *route != Route::Copy || native == Route::Copy);
                }
                assert_eq!(routes, [native], "{route:?} {number}");
                assert_same(&body, &contents(0, LEN as usize));
                let part = Source::file(disk.open(number), 4001..4001 + 70_000);
                let (outcome, body) = sandwich(&proactor, tcp(), part, route);
                outcome.succeed(&proactor, 70_000);
                assert_same(&body, &contents(4001, 70_000));
            }
        }
    }

    fn c10_refused_at_the_first_byte_and_later(proactor: Proactor) {
        // Later: where a piece ends, in the middle of one, and at the last byte.
        let places = [0, 1 << 20, 1_234_567, LEN - 1];
        let mut cases = Vec::new();
        for errno in REFUSALS {
            cases.extend(places.map(|at| (at, errno)));
        }
        cases.push((0, libc::EIO));
        for route in NATIVE {
            let files = cases.iter().map(|&(at, errno)| Faulty::sound(LEN).refuses(at, errno));
            let Some(disk) = FaultyDisk::mount(files.collect()) else { return };
            if !disk.tells_splices(0) {
                return;
            }
            for (number, &(at, errno)) in cases.iter().enumerate() {
                let (outcome, body) = sandwich(&proactor, tcp(), disk.open(number), route);
                outcome.succeed(&proactor, LEN);
                assert_same(&body, &contents(0, LEN as usize));
                assert!(outcome.routes().contains(&Route::Copy), "{route:?} {at} {errno}");
                assert_eq!(outcome.routes().len() > 1, at > 0, "{route:?} {at} {errno}");
            }
        }
    }

    fn c10_refused_where_nothing_may_be_copied(proactor: Proactor) {
        for route in NATIVE {
            let mut files: Vec<_> = REFUSALS
                .into_iter()
                .map(|errno| Faulty::sound(LEN).direct().fails(0, errno))
                .collect();
            files.push(Faulty::sound(LEN).direct().fails(0, libc::EIO));
            let Some(disk) = FaultyDisk::mount(files.clone()) else { return };
            for number in 0..files.len() {
                let (transport, record, peer) = open(&proactor);
                let reader = read_all(peer);
                let only = by(route).native_only(true);
                let outcome = send(&transport, disk.open(number), only);
                outcome.wait(&proactor);
                assert_eq!((outcome.sent(), outcome.end()), (0, End::Failed));
                assert_eq!(outcome.kind(), Some(io::ErrorKind::Unsupported));
                assert!(outcome.routes().is_empty());
                assert!(!transport.is_closing());
                transport.write(&b"usable"[..]).unwrap();
                transport.close();
                assert_same(&join(&proactor, reader), b"usable");
                run_until(&proactor, "the end", || record.is_lost());
            }
        }
    }

    fn c33_a_disk_that_fails_midway(proactor: Proactor) {
        let places = [1, PAGE, 64 << 10, 70_000, 1 << 20, (1 << 20) + 1, LEN - 1];
        for route in ROUTES {
            let cached = places.iter().map(|at| Faulty::sound(LEN).fails(*at, libc::EIO));
            let direct = places.iter().map(|at| Faulty::sound(LEN).direct().fails(*at, libc::EIO));
            let Some(disk) = FaultyDisk::mount(cached.chain(direct).collect()) else { return };
            for number in 0..2 * places.len() {
                let at = places[number % places.len()];
                // Through the page cache, as all is that is spliced, a page fails as a whole.
                let whole_pages = at / PAGE * PAGE;
                let most = if number < places.len() { whole_pages } else { at };
                for promised in [false, true] {
                    let source = match promised {
                        true => Source::file(disk.open(number), 0..LEN),
                        false => Source::file(disk.open(number), ..),
                    };
                    let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                    let what = format!("{route:?} {number} {at} {}", outcome.text());
                    assert_eq!(outcome.end(), End::Failed, "{what}");
                    assert!((whole_pages..=most).contains(&outcome.sent()), "{what}");
                    assert!(outcome.text().contains("os error 5"), "{what}");
                    assert_same(&body, &contents(0, outcome.sent() as usize));
                }
            }
            assert_eq!(proactor.stats().pipes_leased, 0);
        }
    }

    fn c33_the_position_after_a_failure(proactor: Proactor) {
        for route in ROUTES {
            let file = Faulty::sound(LEN).fails(1 << 20, libc::EIO);
            let Some(disk) = FaultyDisk::mount(vec![file]) else { return };
            let mut file = disk.open(0);
            file.seek(io::SeekFrom::Start(1000)).unwrap();
            let source = Source::at_position(file.try_clone().unwrap(), None);
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            let sent = outcome.sent();
            assert_eq!((sent, outcome.end()), ((1 << 20) - 1000, End::Failed), "{route:?}");
            assert_same(&body, &contents(1000, sent as usize));
            assert_eq!(file.stream_position().unwrap(), 1000 + sent, "{route:?}");
        }
    }

    fn c33_what_was_promised_and_failed_cuts_the_connection(proactor: Proactor) {
        for route in ROUTES {
            let file = Faulty::sound(LEN).fails(1 << 20, libc::EIO);
            let Some(disk) = FaultyDisk::mount(vec![file]) else { return };
            let (transport, record, peer) = open(&proactor);
            let reader = read_until_error(peer);
            let outcome = send(&transport, disk.open(0), by(route));
            transport.write(&b"never"[..]).unwrap();
            let behind = send(&transport, common::file(10), SendOptions::new());
            outcome.wait(&proactor);
            assert_eq!((outcome.sent(), outcome.end()), (1 << 20, End::Failed), "{route:?}");
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!((behind.sent(), behind.end()), (0, End::Cancelled));
            assert!(matches!(record.notes().last(), Some(Note::Lost(Some(_)))));
            // The peer sees that it is not whole.
            let (bytes, error) = join(&proactor, reader);
            assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::ConnectionReset));
            assert_same(&bytes, &contents(0, bytes.len()));
        }
    }

    fn c32_files_that_lie_about_their_size(proactor: Proactor) {
        for route in ROUTES {
            for direct in [false, true] {
                let lie = |size, len| Faulty { size, direct, ..Faulty::sound(len) };
                let files = vec![lie(LEN, 1_234_567), lie(1_234_567, LEN), lie(0, LEN)];
                let Some(disk) = FaultyDisk::mount(files) else { return };
                let (outcome, body) = sandwich(&proactor, tcp(), disk.open(0), route);
                assert_eq!((outcome.sent(), outcome.end()), (1_234_567, End::Truncated));
                assert_eq!(outcome.kind(), Some(io::ErrorKind::UnexpectedEof));
                assert_same(&body, &contents(0, 1_234_567));
                // What it said is what was promised.
                let (outcome, body) = sandwich(&proactor, tcp(), disk.open(1), route);
                outcome.succeed(&proactor, 1_234_567);
                assert_same(&body, &contents(0, 1_234_567));
                // As /proc does. Through the page cache there is nothing behind the size.
                let (outcome, body) = sandwich(&proactor, tcp(), disk.open(2), route);
                outcome.succeed(&proactor, if direct { LEN } else { 0 });
                assert_same(&body, &contents(0, outcome.sent() as usize));
            }
        }
    }
}
