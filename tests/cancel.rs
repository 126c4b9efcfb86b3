//! Cancels, deadlines, faults, and the proactor's end with all of that under way.

mod common;

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::{BackendChoice, BackendKind, Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source};

const LEN: u64 = 5_000_000;

struct Hangs(mpsc::Receiver<()>);
impl Read for Hangs {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Until the test lets go.
        let _ = self.0.recv();
        buf[0] = b'?';
        Ok(1)
    }
}

on_both_backends! {
    fn c28_cancel_before_the_start(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, peer) = open(&proactor);
            let reader = read_all(peer);
            let first = send(&transport, file(1000), by(route));
            let second = send(&transport, file(LEN), by(route));
            let third = send(&transport, file(2000), by(route));
            assert!(!second.handle.is_done());
            second.handle.cancel();
            second.handle.cancel();
            assert!(!second.is_there(), "not from inside the call");
            transport.close();
            first.succeed(&proactor, 1000);
            third.succeed(&proactor, 2000);
            assert_eq!((second.sent(), second.end()), (0, End::Cancelled));
            assert!(second.routes().is_empty());
            assert!(second.handle.is_done());
            second.handle.cancel();
            let expected = [contents(0, 1000), contents(0, 2000)].concat();
            assert_same(&join(&proactor, reader), &expected);
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    fn c28_cancel_of_one_that_waits_behind_a_stalled_one(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let first = send(&transport, file(LEN), by(route));
            let second = send(&transport, file(LEN), by(route));
            transport.write(&b"end"[..]).unwrap();
            run_a_while(&proactor);
            second.handle.cancel();
            // It is told at once, not when the first is through.
            second.wait(&proactor);
            assert_eq!((second.sent(), second.end()), (0, End::Cancelled));
            assert!(!first.is_there());
            transport.close();
            let reader = read_all(peer);
            first.succeed(&proactor, LEN);
            let expected = [&contents(0, LEN as usize)[..], b"end"].concat();
            assert_same(&join(&proactor, reader), &expected);
        }
    }

    fn c28_cancel_midway_cuts_the_connection(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let outcome = send(&transport, file(LEN), by(route));
            transport.write(&b"never"[..]).unwrap();
            let behind = send(&transport, file(10), by(route));
            run_until_begun(&proactor, &peer);
            outcome.handle.cancel();
            outcome.wait(&proactor);
            let sent = outcome.sent();
            assert_eq!(outcome.end(), End::Cancelled);
            assert!(sent > 0 && sent < LEN, "{route:?} {sent}");
            if let RouteChoice::Force(route) = route {
                assert_eq!(outcome.routes(), [route]);
            }
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!((behind.sent(), behind.end()), (0, End::Cancelled));
            assert!(matches!(record.notes().last(), Some(Note::Lost(Some(_)))));
            let (bytes, error) = join(&proactor, read_until_error(peer));
            assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::ConnectionReset));
            assert_same(&bytes, &contents(0, bytes.len()));
        }
    }

    fn c28_nothing_leaves_behind_one_that_was_cut(proactor: Proactor) {
        for route in ROUTES {
            for (deadline, eof) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut time = Duration::from_millis(30);
                let (transport, record, peer, outcome) = loop {
                    let (ours, peer) = tight_tcp();
                    let (transport, record) = over(&proactor, ours);
                    let options = match deadline {
                        true => by(route).timeout(time),
                        false => by(route),
                    };
                    send_noted(&transport, &record, 0, file(10), by(route));
                    let outcome = send(&transport, file(LEN), options);
                    peer.set_nonblocking(true).unwrap();
                    let begun = || peer.peek(&mut [0; 20]).is_ok_and(|n| n > 10);
                    run_until(&proactor, "the first bytes", || begun() || outcome.is_there());
                    peer.set_nonblocking(false).unwrap();
                    if !outcome.is_there() {
                        break (transport, record, peer, outcome);
                    }
                    // Its time was over before it began.
                    time *= 2;
                };
                // The end of the stream is due as soon as nothing is queued.
                if eof {
                    transport.write_eof().unwrap();
                } else {
                    transport.close();
                }
                if !deadline {
                    outcome.handle.cancel();
                }
                outcome.wait(&proactor);
                let end = if deadline { End::TimedOut } else { End::Cancelled };
                assert_eq!(outcome.end(), end);
                run_until(&proactor, "the end", || record.is_lost());
                let notes = record.notes();
                assert!(matches!(notes.last(), Some(Note::Lost(Some(_)))), "{route:?} {notes:?}");
                let (bytes, error) = join(&proactor, read_until_error(peer));
                let kind = error.map(|e| e.kind());
                assert_eq!(kind, Some(io::ErrorKind::ConnectionReset), "{route:?} {eof}");
                assert!(bytes.len() < 10 + LEN as usize);
            }
        }
    }

    fn c28_cancel_midway_with_the_connection_kept(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let outcome = send(&transport, file(LEN), by(route).keep_connection(true));
            transport.write(&b"<behind>"[..]).unwrap();
            let behind = send(&transport, file(70_000), by(route));
            run_until_begun(&proactor, &peer);
            outcome.handle.cancel();
            transport.close();
            let reader = read_all(peer);
            behind.succeed(&proactor, 70_000);
            let sent = outcome.sent();
            assert!(sent > 0 && sent < LEN);
            // The count is what the peer got, to the byte; nothing of a pipe's rest came after it.
            let expected =
                [&contents(0, sent as usize)[..], b"<behind>", &contents(0, 70_000)].concat();
            assert_same(&join(&proactor, reader), &expected);
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    /// Of a source that does not say how long it is only its end tells that it was whole: a cancel
    /// that comes when all of it and what follows have left in one send changes nothing.
    fn c28_cancel_of_one_that_has_left_with_what_follows(proactor: Proactor) {
        for keep in [true, false] {
            let (transport, record, peer) = open(&proactor);
            run_until(&proactor, "the connection", || record.has(&Note::Made));
            let mut source = BufReader::with_capacity(100, file(50));
            source.fill_buf().unwrap();
            // What it has read is all that there is now, and its size says nothing.
            source.get_ref().set_len(0).unwrap();
            transport.write(&b"<before>"[..]).unwrap();
            let options = by(RouteChoice::Auto).keep_connection(keep);
            let outcome = send(&transport, Source::buf_reader(source, None), options);
            transport.write(&b"<behind>"[..]).unwrap();
            // All leave; the completion is not taken in before the cancel.
            proactor.run_once(Some(Duration::ZERO)).unwrap();
            assert!(!outcome.is_there());
            outcome.handle.cancel();
            transport.write(&b"<last>"[..]).unwrap();
            transport.close();
            let expected = [b"<before>", &contents(0, 50)[..], b"<behind><last>"].concat();
            let reader = read_all(peer);
            outcome.wait(&proactor);
            assert_eq!((outcome.sent(), outcome.end()), (50, End::EndOfFile));
            assert_same(&join(&proactor, reader), &expected);
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    fn c12b_what_a_pipe_held_reaches_no_other(proactor: Proactor) {
        let choice = match proactor.backend() {
            BackendKind::Ring => BackendChoice::Ring,
            BackendKind::Emulated => BackendChoice::Emulated,
        };
        drop(proactor);
        // One pipe for all, and each takes it with another's bytes just thrown out of it.
        let proactor = Proactor::builder().backend(choice).pipes(1).build().unwrap();
        let poison = Fd::from(file(LEN));
        for route in ROUTES {
            for fate in 0..3 {
                let (ours, peer) = tight_tcp();
                let (transport, record) = over(&proactor, ours);
                let bad = send(&transport, poison.clone(), by(route));
                run_until_begun(&proactor, &peer);
                match fate {
                    0 => bad.handle.cancel(),
                    1 => transport.abort(),
                    _ => drop(peer),
                }
                run_until(&proactor, "the end", || record.is_lost());
                assert!(!matches!(bad.end(), End::Complete | End::EndOfFile));
                let source = Source::file(file(700_000), 7..);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, 699_993);
                assert_same(&body, &contents(7, 699_993));
            }
        }
        assert_eq!(proactor.stats().pipes_leased, 0);
    }

    fn c12d_the_outcome_says_what_became_of_it(proactor: Proactor) {
        for route in ROUTES {
            for end in [
                End::Complete,
                End::EndOfFile,
                End::Truncated,
                End::Cancelled,
                End::TimedOut,
                End::PeerGone,
                End::Failed,
            ] {
                let len = match end {
                    End::Cancelled | End::TimedOut | End::PeerGone => LEN,
                    _ => 200_000,
                };
                let mut time = Duration::from_millis(60);
                let (transport, peer, outcome) = loop {
                    let (ours, peer) = tight_tcp();
                    let (transport, _record) = over(&proactor, ours);
                    let f = file(len);
                    let source = match end {
                        End::Complete => Source::file(f, 0..len),
                        End::Truncated => Source::file(f, 0..len + 1),
                        End::Failed => Source::from(std::fs::File::open("/").unwrap()),
                        _ => Source::file(f, ..),
                    };
                    let mut options = by(route).keep_connection(true);
                    if end == End::TimedOut {
                        options = options.timeout(time);
                    }
                    let outcome = send(&transport, source, options);
                    match end {
                        End::Failed => {}
                        End::TimedOut => outcome.wait(&proactor),
                        _ => run_until_begun(&proactor, &peer),
                    }
                    if end != End::TimedOut || outcome.sent() > 0 {
                        break (transport, peer, outcome);
                    }
                    // Its time was over before it began.
                    time *= 2;
                };
                let reader = match end {
                    End::PeerGone => {
                        drop(peer);
                        None
                    }
                    End::Cancelled | End::TimedOut => {
                        if end == End::Cancelled {
                            outcome.handle.cancel();
                        }
                        outcome.wait(&proactor);
                        Some(read_all(peer))
                    }
                    _ => Some(read_all(peer)),
                };
                outcome.wait(&proactor);
                assert_eq!(outcome.end(), end, "{route:?}");
                assert_eq!(outcome.kind().is_none(), matches!(end, End::Complete | End::EndOfFile));
                match route {
                    _ if end == End::Failed => assert!(outcome.routes().is_empty()),
                    RouteChoice::Force(route) => assert_eq!(outcome.routes(), [route]),
                    RouteChoice::Auto => assert!(!outcome.routes().is_empty()),
                }
                transport.close();
                if let Some(reader) = reader {
                    // Not what is in a pipe: what the kernel took for the peer.
                    let bytes = join(&proactor, reader);
                    assert_eq!(bytes.len() as u64, outcome.sent(), "{route:?} {end:?}");
                }
            }
        }
    }

    fn c29_cancel_at_any_moment(proactor: Proactor) {
        // After each number of turns, so that each phase is met.
        for route in ROUTES {
            let mut midway = 0;
            for turns in 0..40 {
                let (ours, peer) = tcp();
                let (transport, record) = over(&proactor, ours);
                transport.write(&b"head"[..]).unwrap();
                let source = Source::file(file(3_000_000), ..);
                let outcome = send(&transport, source, by(route).keep_connection(true));
                let reader = read_all(peer);
                for _ in 0..turns {
                    proactor.run_once(Some(Duration::ZERO)).unwrap();
                }
                outcome.handle.cancel();
                transport.close();
                outcome.wait(&proactor);
                run_until(&proactor, "the end", || record.is_lost());
                let sent = outcome.sent() as usize;
                assert!(sent == 3_000_000 || outcome.end() == End::Cancelled);
                midway += usize::from(0 < sent && sent < 3_000_000);
                let expected = [b"head", &contents(0, sent)[..]].concat();
                assert_same(&join(&proactor, reader), &expected);
            }
            // Where the peer was fast each time, one that does not read is met midway for certain.
            if midway == 0 {
                let (ours, peer) = tight_tcp();
                let (transport, record) = over(&proactor, ours);
                let source = Source::file(file(3_000_000), ..);
                let outcome = send(&transport, source, by(route).keep_connection(true));
                run_until_begun(&proactor, &peer);
                outcome.handle.cancel();
                transport.close();
                outcome.wait(&proactor);
                let sent = outcome.sent() as usize;
                assert!(0 < sent && sent < 3_000_000, "{route:?} {sent}");
                let reader = read_all(peer);
                assert_same(&join(&proactor, reader), &contents(0, sent));
                run_until(&proactor, "the end", || record.is_lost());
            }
        }
        assert_eq!(proactor.stats().pipes_leased, 0);
    }

    fn c26_a_reader_whose_end_panics(proactor: Proactor) {
        struct Panics(Vec<u8>, Option<mpsc::Receiver<()>>);
        impl Read for Panics {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                if let Some(hangs) = &self.1 {
                    let _ = hangs.recv();
                }
                let n = self.0.len().min(buf.len());
                buf[..n].copy_from_slice(&self.0[..n]);
                self.0.drain(..n);
                Ok(n)
            }
        }
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("on purpose");
            }
        }
        // Read to its end, refused, not begun, hanging; and the last, forgotten.
        for fate in 0..5 {
            let (ours, peer) = tcp();
            let (transport, record) = over(&proactor, ours);
            let reader = read_until_error(peer);
            let (let_go, hangs) = mpsc::channel();
            let hangs = (fate >= 3).then_some(hangs);
            let mut before = None;
            if fate == 2 {
                let (let_go, hangs) = mpsc::channel::<()>();
                let waits = Source::reader(Hangs(hangs), None);
                send(&transport, waits, SendOptions::new());
                before = Some(let_go);
            }
            let source = Source::reader(Panics(contents(0, 1000), hangs), None);
            let options = SendOptions::new().native_only(fate == 1);
            let outcome = send(&transport, source, options);
            run_a_while(&proactor);
            match fate {
                2 | 3 => outcome.handle.cancel(),
                4 => transport.abort(),
                _ => {}
            }
            run_a_while(&proactor);
            let_go.send(()).ok();
            drop(let_go);
            run_until(&proactor, "the end", || record.is_lost());
            assert!(outcome.is_there(), "{fate}");
            assert_eq!(outcome.sent(), if fate == 0 { 1000 } else { 0 });
            run_a_while(&proactor);
            assert_eq!(proactor.stats().panics, 0, "{fate}");
            join(&proactor, reader);
            drop(before);
        }
    }

    fn c11_the_position_after_a_cancel(proactor: Proactor) {
        for route in ROUTES {
            for keep in [false, true] {
                let mut source = file(LEN);
                source.seek(SeekFrom::Start(1000)).unwrap();
                let (ours, peer) = tight_tcp();
                let (transport, record) = over(&proactor, ours);
                let shared = Source::at_position(source.try_clone().unwrap(), None);
                let outcome = send(&transport, shared, by(route).keep_connection(keep));
                run_until_begun(&proactor, &peer);
                outcome.handle.cancel();
                outcome.wait(&proactor);
                let sent = outcome.sent();
                assert!(sent > 0 && sent < LEN - 1000, "{route:?} {sent}");
                assert_eq!(source.stream_position().unwrap(), 1000 + sent, "{route:?}");
                transport.close();
                let reader = read_until_error(peer);
                run_until(&proactor, "the end", || record.is_lost());
                let (bytes, _) = join(&proactor, reader);
                assert_same(&bytes, &contents(1000, bytes.len()));
                assert!(!keep || bytes.len() as u64 == sent);
            }
        }
    }

    fn c29_cancel_of_a_reader_that_hangs(proactor: Proactor) {
        for abort in [false, true] {
            let (let_go, hangs) = mpsc::channel();
            let (transport, record, peer) = open(&proactor);
            let reader = read_until_error(peer);
            let outcome = send(&transport, Source::reader(Hangs(hangs), None), SendOptions::new());
            transport.write(&b"behind"[..]).unwrap();
            run_a_while(&proactor);
            if abort {
                transport.abort();
            } else {
                outcome.handle.cancel();
                transport.close();
            }
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Cancelled));
            drop(let_go);
            let (bytes, _) = join(&proactor, reader);
            assert_same(&bytes, if abort { b"" } else { b"behind" });
        }
    }

    fn c29_cancel_of_pipes_that_have_nothing(proactor: Proactor) {
        for route in ROUTES {
            let (reading, writing) = std::io::pipe().unwrap();
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let source = Source::file(OwnedFd::from(reading), ..);
            let outcome = send(&transport, source, by(route));
            transport.write(&b"behind"[..]).unwrap();
            run_a_while(&proactor);
            assert!(!outcome.is_there());
            outcome.handle.cancel();
            outcome.wait(&proactor);
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Cancelled));
            transport.close();
            assert_same(&join(&proactor, reader), b"behind");
            drop(writing);
        }
    }

    fn c29_cancel_from_inside_callbacks(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, peer) = open(&proactor);
            let reader = read_until_error(peer);
            let handle = Rc::new(RefCell::new(None::<spliceport::SendHandle>));
            let other = Rc::clone(&handle);
            let options = by(route).progress(move |_, sent| {
                assert!(sent > 0);
                if let Some(handle) = &*other.borrow() {
                    handle.cancel();
                }
            });
            let outcome = send(&transport, file(30_000_000), options);
            *handle.borrow_mut() = Some(outcome.handle.clone());
            outcome.wait(&proactor);
            assert_eq!(outcome.end(), End::Cancelled);
            assert!(outcome.sent() <= 3 << 20, "{}", outcome.sent());
            run_until(&proactor, "the end", || record.is_lost());
            join(&proactor, reader);
        }
    }

    fn c30_deadlines(proactor: Proactor) {
        for route in ROUTES {
            let mut time = Duration::from_millis(80);
            let (record, peer) = loop {
                let (ours, peer) = tight_tcp();
                let (transport, record) = over(&proactor, ours);
                let start = Instant::now();
                let outcome = send(&transport, file(LEN), by(route).timeout(time));
                // One that waits in the queue as well.
                let waiting = send(&transport, file(10), by(route).timeout(time / 2));
                waiting.wait(&proactor);
                let first_is_over = outcome.is_there();
                assert!(!first_is_over || start.elapsed() >= time);
                outcome.wait(&proactor);
                assert!(start.elapsed() >= time);
                // Unless the machine was so slow that the first one's time was over before.
                if !first_is_over || outcome.sent() > 0 {
                    assert_eq!((waiting.sent(), waiting.end()), (0, End::TimedOut));
                    assert_eq!(waiting.kind(), Some(io::ErrorKind::TimedOut));
                }
                assert_eq!(outcome.end(), End::TimedOut);
                assert_eq!(outcome.kind(), Some(io::ErrorKind::TimedOut));
                assert!(outcome.sent() < LEN);
                if outcome.sent() > 0 {
                    break (record, peer);
                }
                // Its time was over before it began.
                time *= 2;
            };
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.notes().last(), Some(&Note::Lost(Some(io::ErrorKind::TimedOut))));
            drop(peer);

            // And one that has time.
            let (transport, _record, peer) = open(&proactor);
            let options = by(route).timeout(Duration::from_secs(1000));
            let outcome = send(&transport, file(LEN), options);
            transport.close();
            let reader = read_all(peer);
            outcome.succeed(&proactor, LEN);
            join(&proactor, reader);
        }
        run_a_while(&proactor);
        assert_eq!(proactor.stats().in_flight, 0, "no deadline is left behind");
    }

    fn c32_files_that_change_during_the_send(proactor: Proactor) {
        for route in ROUTES {
            // Truncated.
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let f = file(LEN);
            let outcome = send(&transport, f.try_clone().unwrap(), by(route).keep_connection(true));
            run_a_while(&proactor);
            f.set_len(LEN / 2).unwrap();
            transport.close();
            let reader = read_all(peer);
            outcome.wait(&proactor);
            assert_eq!(outcome.end(), End::Truncated);
            assert_eq!(outcome.kind(), Some(io::ErrorKind::UnexpectedEof));
            let bytes = join(&proactor, reader);
            assert_eq!(outcome.sent(), bytes.len() as u64, "{route:?}");
            assert_eq!(bytes.len() as u64, LEN / 2, "{route:?} {}", outcome.text());

            // Grown: what was seen at the start.
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let mut f = file(1_000_000);
            let outcome = send(&transport, f.try_clone().unwrap(), by(route));
            run_a_while(&proactor);
            f.seek(SeekFrom::End(0)).unwrap();
            io::Write::write_all(&mut f, &[1; 100_000]).unwrap();
            transport.close();
            let reader = read_all(peer);
            outcome.succeed(&proactor, 1_000_000);
            assert_same(&join(&proactor, reader), &contents(0, 1_000_000));
        }
    }

    fn c32_a_file_that_is_replaced(proactor: Proactor) {
        for route in ROUTES {
            let name = path();
            std::fs::write(&name, contents(0, 1_000_000)).unwrap();
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let outcome = send(&transport, std::fs::File::open(&name).unwrap(), by(route));
            run_a_while(&proactor);
            let other = path();
            std::fs::write(&other, contents(99, 500)).unwrap();
            std::fs::rename(&other, &name).unwrap();
            transport.close();
            let reader = read_all(peer);
            // The old one goes on.
            outcome.succeed(&proactor, 1_000_000);
            assert_same(&join(&proactor, reader), &contents(0, 1_000_000));
            std::fs::remove_file(name).unwrap();
        }
    }

    fn c34_pipes_that_are_few_or_small_or_none(proactor: Proactor) {
        let choice = match proactor.backend() {
            BackendKind::Ring => BackendChoice::Ring,
            BackendKind::Emulated => BackendChoice::Emulated,
        };
        drop(proactor);
        for (count, size) in [(0, 1 << 20), (1, 1 << 20), (2, 4096), (32, 4096)] {
            let builder = Proactor::builder().backend(choice);
            let proactor = builder.pipes(count).pipe_size(size).build().unwrap();
            let f = Fd::from(file(3_000_000));
            let mut sends = Vec::new();
            for n in 0..20 {
                let (ours, peer) = tight_tcp();
                let (transport, _record) = over(&proactor, ours);
                let route = ROUTES[n % ROUTES.len()];
                transport.write(&b"head"[..]).unwrap();
                let source = Source::file(f.clone(), n as u64..);
                let outcome = send(&transport, source, by(route));
                transport.close();
                sends.push((outcome, peer, n));
            }
            // All of them stalled at first.
            run_a_while(&proactor);
            let sends: Vec<_> = sends
                .into_iter()
                .map(|(outcome, peer, n)| (outcome, read_all(peer), n))
                .collect();
            for (outcome, reader, n) in sends {
                outcome.succeed(&proactor, 3_000_000 - n as u64);
                let expected = [b"head", &contents(n as u64, 3_000_000 - n)[..]].concat();
                assert_same(&join(&proactor, reader), &expected);
            }
            // A pipe as a source as well.
            for route in ROUTES {
                let (reading, mut writing) = std::io::pipe().unwrap();
                io::Write::write_all(&mut writing, &contents(0, 50_000)).unwrap();
                drop(writing);
                let (transport, _record, peer) = open(&proactor);
                let outcome = send(&transport, Source::file(OwnedFd::from(reading), ..), by(route));
                transport.close();
                let reader = read_all(peer);
                outcome.succeed(&proactor, 50_000);
                assert_same(&join(&proactor, reader), &contents(0, 50_000));
            }
        }
    }

    fn c35_drop_of_the_proactor(proactor: Proactor) {
        struct Alive(#[allow(dead_code)] Rc<()>);
        let token = Rc::new(());
        let mut kept = Vec::new();
        let ends = Rc::new(RefCell::new(Vec::new()));
        for route in ROUTES {
            for reading in [true, false] {
                let (ours, peer) = tight_tcp();
                let (transport, record) = over(&proactor, ours);
                if !reading {
                    transport.pause_reading();
                }
                transport.write(contents(0, 100)).unwrap();
                for _ in 0..2 {
                    let alive = Alive(Rc::clone(&token));
                    let ends = Rc::clone(&ends);
                    let options = by(route).timeout(Duration::from_secs(50));
                    transport.send_file(file(LEN), options, move |transport, outcome| {
                        let _alive = alive;
                        ends.borrow_mut().push(outcome.end);
                        // What is done now does no harm.
                        let _ = transport.write(&b"x"[..]);
                        transport.close();
                    });
                }
                kept.push((transport, record, peer));
            }
        }
        // Idle ones, paused or not, and one with a reader.
        for n in 0..3 {
            let (transport, record, peer) = open(&proactor);
            if n == 1 {
                transport.pause_reading();
            }
            if n == 2 {
                send(&transport, Source::reader(io::repeat(7), None), SendOptions::new());
            }
            kept.push((transport, record, peer));
        }
        run_a_while(&proactor);
        let start = Instant::now();
        drop(proactor);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(Rc::strong_count(&token), 1);
        assert_eq!(ends.borrow()[..], [End::Cancelled; 4 * ROUTES.len()]);
        for (transport, record, _) in &kept {
            assert!(matches!(record.notes().last(), Some(Note::Lost(Some(_)))), "{:?}", record.notes());
            // Afterwards nothing happens, and nothing breaks.
            let _ = transport.write(&b"x"[..]);
            transport.send_file(file(1), SendOptions::new(), |_, _| {}).cancel();
            transport.resume_reading();
            transport.close();
            transport.abort();
            assert!(transport.is_closing());
        }
    }

    fn c36_progress_is_monotonic_and_ends_with_the_count(proactor: Proactor) {
        for route in ROUTES {
            for len in [0_u64, 1, 1000, 40_000, 10_000_001] {
                let (transport, _record, peer) = open(&proactor);
                let reader = read_all(peer);
                let seen = Rc::new(RefCell::new(Vec::new()));
                let notes = Rc::clone(&seen);
                let options = by(route).progress(move |_, sent| notes.borrow_mut().push(sent));
                let outcome = send(&transport, file(len), options);
                transport.close();
                outcome.succeed(&proactor, len);
                let seen = seen.borrow();
                assert!(seen.windows(2).all(|w| w[0] < w[1]), "{seen:?}");
                assert_eq!(seen.last().copied().unwrap_or(0), len);
                assert!(seen.len() as u64 >= len / (1 << 20));
                assert_eq!(join(&proactor, reader).len() as u64, len);
            }
        }
    }

    fn c39_cold_files(proactor: Proactor) {
        for route in [RouteChoice::Auto, RouteChoice::Force(Route::Copy), RouteChoice::Force(Route::Chain)] {
            for len in [1_u64, 20_000, 300_000, 8_000_000] {
                let f = file(len);
                f.sync_all().unwrap();
                kernel::forget_cached(&f);
                let (transport, _record, peer) = open(&proactor);
                let reader = read_all(peer);
                transport.write(&b"head"[..]).unwrap();
                let outcome = send(&transport, Fd::from(f), by(route));
                transport.write(&b"tail"[..]).unwrap();
                transport.close();
                outcome.succeed(&proactor, len);
                let expected = [b"head", &contents(0, len as usize)[..], b"tail"].concat();
                assert_same(&join(&proactor, reader), &expected);
            }
        }
    }
}
