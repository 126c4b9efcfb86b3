//! What arrives at the peer: the right bytes, in the right order, and the right account of them.

mod common;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source, bytes};

/// Sends one source by a route between two writes, and gives what it was sent as.
fn sandwich(
    proactor: &Proactor,
    (ours, peer): (Fd, impl Read + Send + 'static),
    source: impl Into<Source>,
    route: RouteChoice,
) -> (Outcome, Vec<u8>) {
    let (transport, record) = over(proactor, ours);
    let reader = read_all(peer);
    transport.write(&b"<header>"[..]).unwrap();
    let outcome = send(&transport, source, by(route).keep_connection(true));
    transport.write(&b"<trailer>"[..]).unwrap();
    transport.close();
    outcome.wait(proactor);
    let bytes = join(proactor, reader);
    run_until(proactor, "the connection's end", || record.is_lost());
    assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
    let body = bytes
        .strip_prefix(b"<header>")
        .and_then(|rest| rest.strip_suffix(b"<trailer>"))
        .unwrap_or_else(|| panic!("torn header or trailer: {:?}", bytes.len()));
    (outcome, body.to_vec())
}

on_both_backends! {
    fn c01_whole_file_small_buffers(proactor: Proactor) {
        let len = 128 * 1024 + 16;
        for route in ROUTES {
            let (ours, peer) = small_tcp();
            let (transport, record) = over(&proactor, ours);
            let reader = read_all(peer);
            let outcome = send(&transport, file(len), by(route));
            outcome.succeed(&proactor, len);
            assert_eq!(outcome.end(), End::EndOfFile);
            transport.close();
            assert_same(&join(&proactor, reader), &contents(0, len as usize));
            run_until(&proactor, "the end", || record.is_lost());
        }
    }

    fn c02_exactly_the_range(proactor: Proactor) {
        let f = Fd::from(file(100_000));
        for route in ROUTES {
            for (offset, count) in [(1000, 100), (1000, 2000), (1, 99_999), (70_001, 29_999)] {
                let source = Source::file(f.clone(), offset..offset + count);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, count);
                assert_eq!(outcome.end(), End::Complete);
                assert_same(&body, &contents(offset, count as usize));
            }
        }
    }

    fn c03_nothing_to_send_is_a_success(proactor: Proactor) {
        let f = Fd::from(file(5000));
        for route in ROUTES {
            for (source, end) in [
                (Source::from(empty_file()), End::EndOfFile),
                (Source::file(f.clone(), 17..17), End::Complete),
                (Source::file(f.clone(), 5000..), End::EndOfFile),
                (Source::bytes(Bytes::new()), End::Complete),
            ] {
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, 0);
                assert_eq!(outcome.end(), end);
                assert!(outcome.routes().is_empty());
                assert!(body.is_empty());
            }
        }
    }

    fn c04_an_offset_beyond_the_end(proactor: Proactor) {
        let f = Fd::from(file(5000));
        for route in ROUTES {
            for offset in [5001, 1 << 20, 1 << 40, u64::MAX] {
                let source = Source::file(f.clone(), offset..);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, 0);
                assert!(body.is_empty());
            }
            for offset in [5001, 1 << 20, 1 << 40] {
                let source = Source::file(f.clone(), offset..offset + 10);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                assert_eq!((outcome.sent(), outcome.end()), (0, End::Truncated));
                assert_eq!(outcome.kind(), Some(std::io::ErrorKind::UnexpectedEof));
                assert!(body.is_empty());
            }
        }
    }

    fn c05_a_count_beyond_the_end(proactor: Proactor) {
        for len in [100_u64, 40_000, 3_000_000] {
            let f = Fd::from(file(len));
            for route in ROUTES {
                for extra in [1, 5000, 10_000_000] {
                    let source = Source::file(f.clone(), 0..len + extra);
                    let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                    assert_eq!((outcome.sent(), outcome.end()), (len, End::Truncated));
                    assert_eq!(outcome.kind(), Some(std::io::ErrorKind::UnexpectedEof));
                    assert_same(&body, &contents(0, len as usize));
                }
            }
        }
    }

    fn c06_between_writes_in_order(proactor: Proactor) {
        let before = contents(77, 8192);
        let after = contents(99, 8192);
        for route in ROUTES {
            for len in [0, 1, 10_000, 1_000_000] {
                let (transport, _record, peer) = open(&proactor);
                let reader = read_all(peer);
                transport.write(before.clone()).unwrap();
                let outcome = send(&transport, file(len), by(route));
                transport.write(after.clone()).unwrap();
                transport.close();
                outcome.succeed(&proactor, len);
                let expected = [&before[..], &contents(0, len as usize), &after].concat();
                assert_same(&join(&proactor, reader), &expected);
            }
        }
    }

    fn c07_several_sends_queued_at_once(proactor: Proactor) {
        let one = Fd::from(file(300_000));
        for route in ROUTES {
            let (transport, record, peer) = open(&proactor);
            let reader = read_all(peer);
            let ranges = [(0, 200_000), (100_000, 300_000), (5, 20), (0, 10_000), (1, 300_000)];
            let mut expected = Vec::new();
            for (number, (from, to)) in ranges.into_iter().enumerate() {
                let source = Source::file(one.clone(), from..to);
                send_noted(&transport, &record, number as u32, source, by(route));
                expected.extend(contents(from, (to - from) as usize));
            }
            transport.close();
            assert_same(&join(&proactor, reader), &expected);
            run_until(&proactor, "the end", || record.is_lost());
            let sent: Vec<_> = record
                .notes()
                .into_iter()
                .filter(|note| matches!(note, Note::Sent(..)))
                .collect();
            let promised: Vec<_> = ranges
                .into_iter()
                .enumerate()
                .map(|(n, (from, to))| Note::Sent(n as u32, to - from, End::Complete))
                .collect();
            assert_eq!(sent, promised);
        }
    }

    fn c07a_one_descriptor_on_fifty_connections(proactor: Proactor) {
        let len = 2_000_000;
        let one = Fd::from(file(len));
        let mut readers = Vec::new();
        let mut outcomes = Vec::new();
        for n in 0..50 {
            let (transport, _record, peer) = open(&proactor);
            readers.push(read_all(peer));
            // Interleaved, four on each: 200 sends.
            for part in 0..4 {
                let from = part * 400_000 + n;
                transport.write(format!("{n}/{part}")).unwrap();
                let source = Source::file(one.clone(), from..from + 400_000);
                outcomes.push(send(&transport, source, SendOptions::new()));
            }
            transport.close();
        }
        for outcome in outcomes {
            outcome.succeed(&proactor, 400_000);
        }
        for (n, reader) in readers.into_iter().enumerate() {
            let mut expected = Vec::new();
            for part in 0..4 {
                expected.extend(format!("{n}/{part}").into_bytes());
                expected.extend(contents((part * 400_000 + n) as u64, 400_000));
            }
            assert_same(&join(&proactor, reader), &expected);
        }
    }

    fn c08_sizes_around_pages_and_pipes(proactor: Proactor) {
        for len in [
            0_u64, 1, 4095, 4096, 4097, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537,
            (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 1,
        ] {
            let f = Fd::from(file(len));
            for route in ROUTES {
                let (outcome, body) = sandwich(&proactor, tcp(), f.clone(), route);
                outcome.succeed(&proactor, len);
                assert_same(&body, &contents(0, len as usize));
                if let RouteChoice::Force(route) = route
                    && len > 0
                {
                    assert_eq!(outcome.routes(), [route]);
                }
                // From an odd place, to an odd place.
                let from = len.min(4093);
                let to = (from + len / 2 + 1).min(len);
                let source = Source::file(f.clone(), from..to);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, to - from);
                assert_same(&body, &contents(from, (to - from) as usize));
            }
        }
    }

    fn c08a_three_hundred_mebibytes(proactor: Proactor) {
        let len = 300 << 20;
        let f = Fd::from(file(len));
        for route in ROUTES {
            let (transport, _record, peer) = open(&proactor);
            let reader = std::thread::spawn(move || check_stream(peer, len));
            transport.write(&b"<header>"[..]).unwrap();
            let outcome = send(&transport, f.clone(), by(route));
            transport.write(&b"<trailer>"[..]).unwrap();
            transport.close();
            outcome.succeed(&proactor, len);
            join(&proactor, reader);
        }
    }

    fn c08b_beyond_two_and_four_gibibytes(proactor: Proactor) {
        for base in [2_u64 << 30, 4 << 30] {
            let mut sparse = empty_file();
            sparse.seek(SeekFrom::Start(base - 5000)).unwrap();
            sparse.write_all(&contents(base - 5000, 110_000)).unwrap();
            let f = Fd::from(sparse);
            for route in ROUTES {
                for from in [base - 1, base, base + 1, base - 4097] {
                    for len in [4096, 50_000] {
                        let source = Source::file(f.clone(), from..from + len);
                        let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                        outcome.succeed(&proactor, len);
                        assert_same(&body, &contents(from, len as usize));
                    }
                }
            }
        }
    }

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

    fn c09a_a_part_of_a_pipe(proactor: Proactor) {
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

    fn c09b_files_of_proc_and_sys(proactor: Proactor) {
        for path in [
            "/proc/self/maps", "/proc/version", "/proc/self/status",
            "/sys/kernel/mm/transparent_hugepage/enabled",
        ] {
            let Ok(expected) = std::fs::read(path) else { continue };
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

    fn c09c_readers(proactor: Proactor) {
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

    fn c09d_readers_that_fail_or_dawdle(proactor: Proactor) {
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

    fn c09e_a_half_read_buffered_reader(proactor: Proactor) {
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

    fn c09f_what_cannot_be_sent(proactor: Proactor) {
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

    fn c09g_memory_files_and_devices(proactor: Proactor) {
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

    fn c09i_files_opened_for_direct_access(proactor: Proactor) {
        for len in [1, 1000, 40_000, 1_000_001] {
            let path = path();
            std::fs::write(&path, contents(0, len)).unwrap();
            let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
            // Some file systems know no direct access.
            let Ok(direct) = opened else { continue };
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

    fn c09j_fifos(proactor: Proactor) {
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

    fn c09h_over_unix_sockets_and_pipes(proactor: Proactor) {
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

    fn c10_refused_natively_falls_to_copying(proactor: Proactor) {
        // What splice(2) refuses with EINVAL, at the first byte.
        let expected = std::fs::read("/proc/self/maps").unwrap().len();
        for route in [Route::Chain, Route::Inline, Route::Sendfile] {
            let choice = RouteChoice::Force(route);
            let maps = File::open("/proc/self/maps").unwrap();
            let (outcome, body) = sandwich(&proactor, tcp(), maps, choice);
            assert_eq!(outcome.end(), End::EndOfFile);
            assert!(body.len() >= expected / 2);

            // And not, where copying is not allowed; then the connection is usable.
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let maps = File::open("/proc/self/maps").unwrap();
            let outcome = send(&transport, maps, by(choice).native_only(true));
            outcome.wait(&proactor);
            if outcome.end() == End::Failed {
                assert_eq!(outcome.kind(), Some(std::io::ErrorKind::Unsupported));
                assert_eq!(outcome.sent(), 0);
                transport.write(&b"usable"[..]).unwrap();
                transport.close();
                assert_same(&join(&proactor, reader), b"usable");
            }
        }
    }

    fn c10a_native_only_copies_nothing(proactor: Proactor) {
        for len in [1, 1000, 100_000] {
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let outcome = send(&transport, file(len), SendOptions::new().native_only(true));
            outcome.succeed(&proactor, len);
            assert!(!outcome.routes().contains(&Route::Copy));
            let reader_source = Source::reader(Cursor::new(b"abc"), None);
            let refused = send(&transport, reader_source, SendOptions::new().native_only(true));
            refused.wait(&proactor);
            assert_eq!((refused.sent(), refused.end()), (0, End::Failed));
            assert_eq!(refused.kind(), Some(std::io::ErrorKind::Unsupported));
            transport.close();
            assert_same(&join(&proactor, reader), &contents(0, len as usize));
        }
    }

    fn c11_the_files_own_position(proactor: Proactor) {
        for route in ROUTES {
            let mut f = file(100_000);
            f.seek(SeekFrom::Start(12_345)).unwrap();
            let shared = f.try_clone().unwrap();
            // By offset: neither used nor moved.
            let source = Source::file(f.try_clone().unwrap(), 10..60_000);
            let (outcome, _) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 59_990);
            assert_eq!((&shared).stream_position().unwrap(), 12_345);
            // By position: used, and moved behind what was sent.
            let source = Source::at_position(f.try_clone().unwrap(), Some(50_000));
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 50_000);
            assert_same(&body, &contents(12_345, 50_000));
            assert_eq!((&shared).stream_position().unwrap(), 62_345);
            let source = Source::at_position(f.try_clone().unwrap(), None);
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 100_000 - 62_345);
            assert_eq!(outcome.end(), End::EndOfFile);
            assert_same(&body, &contents(62_345, 100_000 - 62_345));
            assert_eq!((&shared).stream_position().unwrap(), 100_000);
            // After an error as well.
            (&shared).seek(SeekFrom::Start(90_000)).unwrap();
            let source = Source::at_position(f.try_clone().unwrap(), Some(20_000));
            let (outcome, _) = sandwich(&proactor, tcp(), source, route);
            assert_eq!((outcome.sent(), outcome.end()), (10_000, End::Truncated));
            assert_eq!((&shared).stream_position().unwrap(), 100_000);
        }
    }

    fn c11a_positions_one_after_the_other(proactor: Proactor) {
        for route in ROUTES {
            let f = Fd::from(file(100_000));
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let mut outcomes = Vec::new();
            for len in [1000, 40_000, 1, 2000] {
                let source = Source::at_position(f.clone(), Some(len));
                outcomes.push((send(&transport, source, by(route)), len));
            }
            transport.close();
            for (outcome, len) in outcomes {
                outcome.succeed(&proactor, len);
            }
            assert_same(&join(&proactor, reader), &contents(0, 43_001));
            assert_eq!(f.position().unwrap(), 43_001);
        }
    }

    fn c11b_a_buffered_readers_file_ends_behind_what_was_sent(proactor: Proactor) {
        for route in ROUTES {
            for len in [100, 20_000] {
                let f = file(100_000);
                let mut other = f.try_clone().unwrap();
                let mut reader = BufReader::with_capacity(8192, f);
                reader.read_exact(&mut [0; 10]).unwrap();
                let source = Source::buf_reader(reader, Some(len));
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, len);
                assert_same(&body, &contents(10, len as usize));
                assert_eq!(other.stream_position().unwrap(), 10 + len);
            }
        }
    }

    fn c12a_the_callers_descriptor_is_not_needed(proactor: Proactor) {
        for route in ROUTES {
            let (transport, _record, peer) = open(&proactor);
            let f = file(500_000);
            let outcome = {
                // The only descriptor there is goes into the source.
                send(&transport, f, by(route))
            };
            let reader = read_all(peer);
            transport.close();
            outcome.succeed(&proactor, 500_000);
            assert_same(&join(&proactor, reader), &contents(0, 500_000));
        }
    }

    fn c12c_empty_ones_between_others(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, peer) = open(&proactor);
            let reader = read_all(peer);
            transport.write(Bytes::new()).unwrap();
            transport.write_vectored([Bytes::new(), Bytes::from_static(b"a"), Bytes::new()]).unwrap();
            send_noted(&transport, &record, 0, file(1000), by(route));
            send_noted(&transport, &record, 1, empty_file(), by(route));
            send_noted(&transport, &record, 2, file(50_000), by(route));
            send_noted(&transport, &record, 3, empty_file(), by(route));
            transport.write(&b"z"[..]).unwrap();
            transport.close();
            let expected = [&b"a"[..], &contents(0, 1000), &contents(0, 50_000), b"z"].concat();
            assert_same(&join(&proactor, reader), &expected);
            run_until(&proactor, "the end", || record.is_lost());
            let sent: Vec<_> = record.notes().into_iter().filter_map(|note| match note {
                Note::Sent(n, count, _) => Some((n, count)),
                _ => None,
            }).collect();
            assert_eq!(sent, [(0, 1000), (1, 0), (2, 50_000), (3, 0)]);
        }
    }

    fn c12d_many_small_writes_and_large_ones(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        let reader = read_all(peer);
        let mut expected = Vec::new();
        for n in 0..3000_u64 {
            let part = contents(n, (n % 97) as usize);
            expected.extend_from_slice(&part);
            transport.write(part).unwrap();
        }
        for n in 0..40_u64 {
            let part = contents(n, 50_000 + n as usize);
            expected.extend_from_slice(&part);
            transport.write(part).unwrap();
        }
        let vector: Vec<_> = (0..200).map(|n| Bytes::from(contents(n, 5000))).collect();
        for part in &vector {
            expected.extend_from_slice(part);
        }
        transport.write_vectored(vector).unwrap();
        assert_eq!(transport.write_buffer_size(), expected.len());
        transport.close();
        assert_same(&join(&proactor, reader), &expected);
        assert_eq!(transport.write_buffer_size(), 0);
        run_until(&proactor, "the end", || record.is_lost());
    }
}

/// Reads header, so many bytes of contents, and trailer, comparing as they come.
fn check_stream(mut peer: impl Read, len: u64) {
    let mut head = [0; 8];
    peer.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"<header>");
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let want = (len - at).min(buf.len() as u64) as usize;
        let n = peer.read(&mut buf[..want]).unwrap();
        assert!(n > 0, "ended at {at}");
        assert_same(&buf[..n], &contents(at, n));
        at += n as u64;
    }
    let mut tail = Vec::new();
    peer.read_to_end(&mut tail).unwrap();
    assert_eq!(tail, b"<trailer>");
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
