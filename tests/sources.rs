//! What can be a source of a send, and what cannot.

mod common;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use common::*;
use spliceport::proactor::{BackendChoice, Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source};

const NATIVE_ONLY: usize = 300_000;

/// A stream that brings so many bytes from a thread, and ends.
fn fed(mut writing: impl Write + Send + 'static) {
    std::thread::spawn(move || {
        for part in contents(0, NATIVE_ONLY).chunks(70_000) {
            // Its reader may be gone by then.
            if writing.write_all(part).is_err() {
                return;
            }
            std::thread::yield_now();
        }
    });
}

fn fed_pipe() -> Source {
    let (reading, writing) = std::io::pipe().unwrap();
    fed(writing);
    Source::file(OwnedFd::from(reading), ..)
}

fn native_only() -> SendOptions {
    SendOptions::new().native_only(true)
}

on_both_backends! {
    fn c09_pipes_and_sockets_as_sources(proactor: Proactor) {
        for route in ROUTES {
            for len in [0, 10, 300_000] {
                let (reading, mut writing) = std::io::pipe().unwrap();
                let writer = std::thread::spawn(move || {
                    for part in contents(0, len).chunks(70_000) {
                        writing.write_all(part).unwrap();
                        std::thread::yield_now();
                    }
                });
                let source = Source::file(OwnedFd::from(reading), ..);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, len as u64);
                assert_eq!(outcome.end(), End::EndOfFile);
                assert_same(&body, &contents(0, len));
                writer.join().unwrap();

                let (reading, mut writing) = UnixStream::pair().unwrap();
                let writer = std::thread::spawn(move || {
                    writing.write_all(&contents(0, len)).unwrap();
                });
                let source = Source::file(OwnedFd::from(reading), ..);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, len as u64);
                assert_same(&body, &contents(0, len));
                writer.join().unwrap();

                let (reading, mut writing) = tcp();
                let writer = std::thread::spawn(move || {
                    writing.write_all(&contents(0, len)).unwrap();
                });
                let (outcome, body) = sandwich(&proactor, tcp(), reading, route);
                outcome.succeed(&proactor, len as u64);
                assert_same(&body, &contents(0, len));
                writer.join().unwrap();
            }
        }
    }

    fn c10_streams_that_may_not_be_copied(proactor: Proactor) {
        let (unix, writing) = UnixStream::pair().unwrap();
        fed(writing);
        let (tcp, writing) = common::tcp();
        fed(writing);
        let sources = [fed_pipe(), Source::file(OwnedFd::from(unix), ..), Source::from(tcp)];
        for source in sources {
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            transport.write(&b"before"[..]).unwrap();
            let outcome = send(&transport, source, native_only());
            transport.write(&b"behind"[..]).unwrap();
            transport.close();
            outcome.succeed(&proactor, NATIVE_ONLY as u64);
            assert_eq!(outcome.end(), End::EndOfFile);
            assert_eq!(outcome.routes(), [Route::Inline]);
            let expected = [&b"before"[..], &contents(0, NATIVE_ONLY), b"behind"].concat();
            assert_same(&join(&proactor, reader), &expected);
        }
        // What the kernel does not splice is not sent.
        for (choice, device) in [
            (RouteChoice::Auto, "/dev/zero"),
            (RouteChoice::Force(Route::Copy), "/dev/zero"),
        ] {
            let device = File::open(device).expect("every system has it");
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let outcome = send(&transport, Source::file(device, ..10), native_only().route(choice));
            outcome.wait(&proactor);
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Failed));
            assert_eq!(outcome.kind(), Some(std::io::ErrorKind::Unsupported));
            transport.write(&b"usable"[..]).unwrap();
            transport.close();
            assert_same(&join(&proactor, reader), b"usable");
        }
        // Nor is a stream, where copying alone was asked for.
        let (transport, _record, _peer) = open(&proactor);
        let (reading, _writing) = std::io::pipe().unwrap();
        let source = Source::file(OwnedFd::from(reading), ..);
        let outcome = send(&transport, source, native_only().route(RouteChoice::Force(Route::Copy)));
        outcome.wait(&proactor);
        assert_eq!((outcome.sent(), outcome.kind()), (0, Some(std::io::ErrorKind::Unsupported)));
    }

    fn c09_a_part_of_a_pipe(proactor: Proactor) {
        for route in ROUTES {
            let (reading, mut writing) = std::io::pipe().unwrap();
            writing.write_all(&contents(0, 3000)).unwrap();
            let source = Source::file(OwnedFd::from(reading), ..2000);
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 2000);
            assert_eq!(outcome.end(), End::Complete);
            assert_same(&body, &contents(0, 2000));

            let (reading, mut writing) = std::io::pipe().unwrap();
            writing.write_all(&contents(0, 3000)).unwrap();
            drop(writing);
            let source = Source::file(OwnedFd::from(reading), ..4000);
            let (outcome, _) = sandwich(&proactor, tcp(), source, route);
            assert_eq!((outcome.sent(), outcome.end()), (3000, End::Truncated));

            let (reading, _writing) = std::io::pipe().unwrap();
            let source = Source::file(OwnedFd::from(reading), 5..10);
            let (outcome, _) = sandwich(&proactor, tcp(), source, route);
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Failed));
        }
    }

    fn c09_files_of_proc_and_sys(proactor: Proactor) {
        for path in [
            "/proc/self/maps", "/proc/version", "/proc/self/status",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        ] {
            let Ok(expected) = std::fs::read(path) else {
                not_run(format_args!("{path} is not provided by this kernel"));
                continue;
            };
            for route in ROUTES {
                let source = File::open(path).unwrap();
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, body.len() as u64);
                assert_eq!(outcome.end(), End::EndOfFile);
                if path.contains("version") || path.contains("sys/") {
                    assert_same(&body, &expected);
                } else {
                    assert!(body.len() > 100);
                }
            }
        }
    }

    fn c09_readers(proactor: Proactor) {
        for len in [0, 1, 65_536, 1_000_000] {
            let source = Source::reader(Cursor::new(contents(0, len)), None);
            let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
            outcome.succeed(&proactor, len as u64);
            assert_eq!(outcome.end(), End::EndOfFile);
            assert_same(&body, &contents(0, len));

            let half = len as u64 / 2;
            let source = Source::reader(Cursor::new(contents(0, len)), Some(half));
            let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
            outcome.succeed(&proactor, half);
            assert_same(&body, &contents(0, half as usize));

            let source = Source::reader(Cursor::new(contents(0, len)), Some(len as u64 + 1));
            let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
            assert_eq!((outcome.sent(), outcome.end()), (len as u64, End::Truncated));
            assert_same(&body, &contents(0, len));

            let source = Source::bytes(contents(0, len));
            let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
            outcome.succeed(&proactor, len as u64);
            assert_same(&body, &contents(0, len));
        }
    }

    fn c09_readers_that_fail_or_dawdle(proactor: Proactor) {
        let source = Source::reader(Awkward::new(100_000, Some(70_001)), None);
        let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
        assert_eq!((outcome.sent(), outcome.end()), (70_001, End::Failed));
        assert_eq!(outcome.text(), "awkward");
        assert_same(&body, &contents(0, 70_001));

        let source = Source::reader(Awkward::new(100_000, None), None);
        let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
        outcome.succeed(&proactor, 100_000);
        assert_same(&body, &contents(0, 100_000));

        let source = Source::reader(Panicking, None);
        let (outcome, body) = sandwich(&proactor, tcp(), source, RouteChoice::Auto);
        assert_eq!((outcome.sent(), outcome.end()), (0, End::Failed));
        assert!(body.is_empty());
    }

    fn c09_a_half_read_buffered_reader(proactor: Proactor) {
        let len = 200_000_usize;
        for route in ROUTES {
            for read in [0, 10, 8192, 8193] {
                let mut reader = BufReader::with_capacity(8192, file(len as u64));
                let mut some = vec![0; read];
                reader.read_exact(&mut some).unwrap();
                let (outcome, body) = sandwich(&proactor, tcp(), reader, route);
                outcome.succeed(&proactor, (len - read) as u64);
                assert_same(&body, &contents(read as u64, len - read));
            }
        }
    }

    fn c09_what_cannot_be_sent(proactor: Proactor) {
        let path = path();
        std::fs::write(&path, contents(0, 100)).unwrap();
        for route in ROUTES {
            let sources = [
                ("a directory", File::open("/").unwrap()),
                ("write only", File::options().write(true).open(&path).unwrap()),
                (
                    "a path only",
                    File::options().read(true).custom_flags(libc::O_PATH).open(&path).unwrap(),
                ),
                ("an eventfd", kernel::eventfd()),
            ];
            for (what, source) in sources {
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                assert_eq!((outcome.sent(), outcome.end()), (0, End::Failed), "{what}");
                assert!(outcome.text().len() > 10, "{what}: {}", outcome.text());
                assert!(body.is_empty());
            }
        }
        std::fs::remove_file(path).unwrap();
    }

    fn c09_memory_files_and_devices(proactor: Proactor) {
        for route in ROUTES {
            let mut memory = kernel::memory_file();
            memory.write_all(&contents(0, 500_000)).unwrap();
            let (outcome, body) = sandwich(&proactor, tcp(), Source::file(memory, 1..), route);
            outcome.succeed(&proactor, 499_999);
            assert_same(&body, &contents(1, 499_999));

            let zeros = File::open("/dev/zero").unwrap();
            let source = Source::file(zeros, ..200_000);
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 200_000);
            assert_same(&body, &[0; 200_000]);

            let null = File::open("/dev/null").unwrap();
            let (outcome, body) = sandwich(&proactor, tcp(), null, route);
            outcome.succeed(&proactor, 0);
            assert!(body.is_empty());
        }
    }

    fn c09_files_opened_for_direct_access(proactor: Proactor) {
        for len in [1, 1000, 40_000, 1_000_001] {
            let path = path();
            std::fs::write(&path, contents(0, len)).unwrap();
            let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
            let Ok(direct) = opened else {
                return not_run("direct access is not known by this file system");
            };
            let direct = Fd::from(direct);
            for route in ROUTES {
                for from in [0, 1, len / 2] {
                    let source = Source::file(direct.clone(), from as u64..);
                    let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                    outcome.wait(&proactor);
                    assert!(outcome.kind().is_none(), "{len} {route:?} {from} {}", outcome.text());
                    outcome.succeed(&proactor, (len - from) as u64);
                    assert_same(&body, &contents(from as u64, len - from));
                }
            }
            std::fs::remove_file(path).unwrap();
        }
    }

    fn c09_fifos(proactor: Proactor) {
        for route in ROUTES {
            let path = path();
            kernel::make_fifo(&path);
            let there = path.clone();
            let writer = std::thread::spawn(move || {
                let mut fifo = File::options().write(true).open(there).unwrap();
                fifo.write_all(&contents(0, 200_000)).unwrap();
            });
            let fifo = File::open(&path).unwrap();
            let (outcome, body) = sandwich(&proactor, tcp(), fifo, route);
            outcome.succeed(&proactor, 200_000);
            assert_same(&body, &contents(0, 200_000));
            writer.join().unwrap();
            std::fs::remove_file(path).unwrap();
        }
    }

    fn c09_over_unix_sockets_and_pipes(proactor: Proactor) {
        let f = Fd::from(file(400_000));
        for route in ROUTES {
            for source in [Source::file(f.clone(), 3..), Source::file(f.clone(), 3..5000)] {
                let (ours, peer) = UnixStream::pair().unwrap();
                let ours = Fd::new(OwnedFd::from(ours));
                let (outcome, body) = sandwich(&proactor, (ours, peer), source, route);
                assert!(outcome.kind().is_none());
                assert_same(&body, &contents(3, outcome.sent() as usize));
            }
            for source in [Source::file(f.clone(), 3..), Source::file(f.clone(), 3..5000)] {
                let (reading, writing) = std::io::pipe().unwrap();
                let ours = Fd::new(OwnedFd::from(writing));
                let (outcome, body) = sandwich(&proactor, (ours, reading), source, route);
                assert!(outcome.kind().is_none(), "{} by {route:?}", outcome.text());
                assert_same(&body, &contents(3, outcome.sent() as usize));
            }
        }
    }
}

/// A reader that is interrupted, gives odd portions, and may fail.
struct Awkward {
    at: usize,
    len: usize,
    fail: Option<usize>,
    calls: usize,
}

impl Awkward {
    fn new(len: usize, fail: Option<usize>) -> Awkward {
        Awkward {
            at: 0,
            len,
            fail,
            calls: 0,
        }
    }
}

impl Read for Awkward {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(3) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        if self.fail == Some(self.at) {
            return Err(std::io::Error::other("awkward"));
        }
        let end = self.fail.unwrap_or(self.len).min(self.len);
        let n = (end - self.at)
            .min(buf.len())
            .min(997 * (self.calls % 7 + 1));
        buf[..n].copy_from_slice(&contents(self.at as u64, n));
        self.at += n;
        Ok(n)
    }
}

struct Panicking;

impl Read for Panicking {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        panic!("a reader that panics, as it is meant to");
    }
}

#[test]
fn c10_streams_that_may_not_be_copied_wait_for_a_pipe() {
    for backend in [BackendChoice::Ring, BackendChoice::Emulated] {
        let proactor = build(builder(backend).pipes(1));
        // Its peer takes nothing, and what is in the pipe can't be had again.
        let (ours, stalled_peer) = tight_tcp();
        let (first_transport, _record) = over(&proactor, ours);
        let first = send(&first_transport, fed_pipe(), native_only());
        first_transport.close();
        run_until(&proactor, "the pipe is taken", || {
            proactor.stats().pipes_leased == 1
        });
        run_a_while(&proactor);
        let (transport, _record, peer) = open(&proactor);
        let reader = read_all(peer);
        let second = send(&transport, fed_pipe(), native_only());
        transport.close();
        run_a_while(&proactor);
        assert!(!first.is_there() && !second.is_there());
        // One that may be copied does not wait.
        let (copied, body) = sandwich(&proactor, tcp(), fed_pipe(), RouteChoice::Auto);
        copied.succeed(&proactor, NATIVE_ONLY as u64);
        assert_eq!(copied.routes(), [Route::Copy]);
        assert_same(&body, &contents(0, NATIVE_ONLY));
        assert!(!first.is_there() && !second.is_there());
        let stalled_reader = read_all(stalled_peer);
        for (outcome, reader) in [(first, stalled_reader), (second, reader)] {
            outcome.succeed(&proactor, NATIVE_ONLY as u64);
            assert_eq!(outcome.routes(), [Route::Inline]);
            assert_same(&join(&proactor, reader), &contents(0, NATIVE_ONLY));
        }
        // Where there are to be none at all, waiting would be in vain.
        let proactor = build(builder(backend).pipes(0));
        let (transport, _record, peer) = open(&proactor);
        let reader = read_all(peer);
        let refused = send(&transport, fed_pipe(), native_only());
        refused.wait(&proactor);
        assert_eq!((refused.sent(), refused.end()), (0, End::Failed));
        assert_eq!(refused.kind(), Some(std::io::ErrorKind::Unsupported));
        transport.write(&b"usable"[..]).unwrap();
        transport.close();
        assert_same(&join(&proactor, reader), b"usable");
    }
}
