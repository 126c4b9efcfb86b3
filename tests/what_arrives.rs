//! What arrives at the peer: the right bytes, in the right order, and the right account of them.

mod common;

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom, Write};

use bytes::Bytes;
use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source, bytes};

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
            let others = [Fd::from(file(300_000)), Fd::from(file(300_000))];
            let mut expected = Vec::new();
            for (number, (from, to)) in ranges.into_iter().enumerate() {
                // The first two of one file, the rest of three.
                let file = [&one, &one, &others[0], &others[1], &one][number];
                let source = Source::file(file.clone(), from..to);
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

    fn c07_one_descriptor_on_fifty_connections(proactor: Proactor) {
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
                outcomes.push(send(&transport, source, by(ROUTES[(n + part) as usize % 5])));
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
            0_u64, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 32_767, 32_768, 32_769, 65_535, 65_536, 65_537,
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

    fn c08_more_than_all_buffers_hold(proactor: Proactor) {
        let len = 50 << 20;
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

    fn c08_ranges_around_two_and_four_gibibytes(proactor: Proactor) {
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

    fn c08_ranges_at_the_last_offset_of_all(proactor: Proactor) {
        // A file can't be longer.
        const END: u64 = i64::MAX as u64;
        let f = kernel::memory_file();
        f.set_len(END).unwrap();
        let f = Fd::from(f);
        for route in ROUTES {
            for (range, sent, end) in [
                (END - 10..END, 10, End::Complete),
                (END - 5000..END - 1, 4999, End::Complete),
                (END - 10..END + 10, 10, End::Truncated),
                (END - 200_000..u64::MAX, 200_000, End::Truncated),
                (END..END, 0, End::Complete),
                (END..END + 1, 0, End::Truncated),
                (END + 1..END + 2, 0, End::Truncated),
                (u64::MAX - 1..u64::MAX, 0, End::Truncated),
            ] {
                let what = format!("{route:?} {range:?}");
                let source = Source::file(f.clone(), range);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                assert_eq!((outcome.sent(), outcome.end()), (sent, end), "{what} {}", outcome.text());
                assert_same(&body, &vec![0; sent as usize]);
            }
            for (from, sent) in [(END - 10, 10), (END, 0), (END + 1, 0), (u64::MAX, 0)] {
                let source = Source::file(f.clone(), from..);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, sent);
                assert_eq!((body.len() as u64, outcome.end()), (sent, End::EndOfFile));
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
            assert_eq!(outcome.routes(), [Route::Copy], "{route:?}");

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

    fn c10_native_only_copies_nothing(proactor: Proactor) {
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

    fn c11_positions_one_after_the_other(proactor: Proactor) {
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

    fn c11_a_buffered_readers_file_ends_behind_what_was_sent(proactor: Proactor) {
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

    fn c06_many_small_writes_and_large_ones(proactor: Proactor) {
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
