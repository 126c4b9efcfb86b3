//! How connections end, and in which order what is told then.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use common::*;
use spliceport::proactor::net::ListenOptions;
use spliceport::proactor::{Address, Fd, Proactor};
use spliceport::{
    End, Listener, Protocol, SendOptions, Source, Transport, TransportOptions, connect,
};

const BROKEN: [io::ErrorKind; 2] = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];

#[track_caller]
fn lost_with_an_error(record: &Record) {
    let notes = record.signals();
    let Some(Note::Lost(Some(kind))) = notes.last() else {
        panic!("{notes:?}");
    };
    assert!(BROKEN.contains(kind), "{notes:?}");
    let losses = notes.iter().filter(|n| matches!(n, Note::Lost(_)));
    assert_eq!(losses.count(), 1);
}

thread_local! {
    /// Warnings of writes to lost connections, by this thread's proactor.
    static WARNINGS: Cell<usize> = const { Cell::new(0) };
}

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        let said = record.args().to_string();
        if record.level() == log::Level::Warn && said.contains("lost connection") {
            WARNINGS.set(WARNINGS.get() + 1);
        }
    }
    fn flush(&self) {}
}

fn warnings() -> usize {
    // The first of the program's tests sets it.
    if log::set_logger(&Warnings).is_ok() {
        log::set_max_level(log::LevelFilter::Warn);
    }
    WARNINGS.get()
}

on_both_backends! {
    fn c18_close_flushes_and_stops_reading(proactor: Proactor) {
        for route in ROUTES {
            let (ours, mut peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            run_a_while(&proactor);
            transport.write(contents(0, 300_000)).unwrap();
            send_noted(&transport, &record, 1, file(500_000), by(route));
            transport.write(&b"end"[..]).unwrap();
            peer.write_all(b"unheard").unwrap();
            transport.close();
            transport.close();
            assert!(transport.is_closing());
            assert!(!transport.is_reading());
            run_a_while(&proactor);
            assert!(!record.is_lost());
            let reader = read_until_error(peer);
            run_until(&proactor, "the end", || record.is_lost());
            let (bytes, _) = join(&proactor, reader);
            let expected = [&contents(0, 300_000)[..], &contents(0, 500_000), b"end"].concat();
            // Unread bytes make the kernel reset behind what was sent.
            assert_same(&bytes[..bytes.len().min(expected.len())], &expected[..bytes.len()]);
            let notes: Vec<_> = record
                .notes()
                .into_iter()
                .filter(|n| !matches!(n, Note::Pause | Note::Resume))
                .collect();
            let sent = Note::Sent(1, 500_000, End::EndOfFile);
            assert_eq!(notes, [Note::Made, sent, Note::Lost(None)]);
            assert!(transport.fd().is_none());
            run_a_while(&proactor);
            assert_eq!(record.count(&Note::Lost(None)), 1);
        }
    }

    fn c18_all_that_was_queued_arrives_and_then_the_end(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            transport.write(contents(0, 300_000)).unwrap();
            let first = send(&transport, file(500_000), by(route));
            transport.write_vectored([contents(1, 10).into(), contents(2, 90_000).into()]).unwrap();
            let second = send(&transport, file(70_000), by(route));
            transport.close();
            run_a_while(&proactor);
            assert!(!record.is_lost() && !second.is_there());
            // In order: no reset.
            let reader = read_all(peer);
            run_until(&proactor, "the end", || record.is_lost());
            let expected = [
                contents(0, 300_000),
                contents(0, 500_000),
                contents(1, 10),
                contents(2, 90_000),
                contents(0, 70_000),
            ];
            assert_same(&join(&proactor, reader), &expected.concat());
            first.succeed(&proactor, 500_000);
            second.succeed(&proactor, 70_000);
            assert_eq!(record.count(&Note::Lost(None)), 1);
        }
    }

    fn c19_abort_drops_all(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(5_000_000), by(route));
            transport.write(contents(0, 100)).unwrap();
            send_noted(&transport, &record, 2, file(100), by(route));
            run_a_while(&proactor);
            transport.abort();
            assert!(transport.is_closing());
            assert!(!record.is_lost(), "not from inside the call");
            transport.abort();
            transport.close();
            run_until(&proactor, "the end", || record.is_lost());
            let (bytes, error) = join(&proactor, read_until_error(peer));
            assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::ConnectionReset));
            let notes = record.signals();
            let [Note::Made, Note::Pause, first, second, Note::Lost(None)] = &notes[..] else {
                panic!("{notes:?}");
            };
            let Note::Sent(1, sent, End::Cancelled) = first else { panic!("{first:?}") };
            assert!(*sent > 0 && *sent < 5_000_000);
            assert!(bytes.len() as u64 <= *sent);
            assert_eq!(*second, Note::Sent(2, 0, End::Cancelled));
        }
    }

    fn c19_abort_after_close_and_before_anything(proactor: Proactor) {
        let (ours, _peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        transport.write(contents(0, 1_000_000)).unwrap();
        transport.close();
        run_a_while(&proactor);
        assert!(!record.is_lost());
        transport.abort();
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.signals(), [Note::Made, Note::Pause, Note::Lost(None)]);

        let (transport, record, _peer) = open(&proactor);
        transport.abort();
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.signals(), [Note::Made, Note::Lost(None)]);
    }

    fn c20_writes_and_sends_after_close(proactor: Proactor) {
        let (transport, record, _peer) = open(&proactor);
        transport.close();
        let error = transport.write(&b"late"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let outcome = send(&transport, file(10), SendOptions::new());
        run_until(&proactor, "the end", || record.is_lost() && outcome.is_there());
        assert_eq!((outcome.sent(), outcome.end()), (0, End::Closing));
        assert!(outcome.kind().is_some());
        assert!(transport.write(&b"late"[..]).is_err());
        let outcome = send(&transport, file(10), SendOptions::new());
        outcome.wait(&proactor);
        assert_eq!((outcome.sent(), outcome.end()), (0, End::Closing));
        assert!(outcome.handle.is_done());
        assert_eq!(record.signals(), [Note::Made, Note::Lost(None)]);
    }

    fn c21_write_eof(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, mut peer) = open(&proactor);
            assert!(transport.can_write_eof());
            transport.write(&b"head"[..]).unwrap();
            let outcome = send(&transport, file(200_000), by(route));
            transport.write_eof().unwrap();
            transport.write_eof().unwrap();
            assert_eq!(transport.write(&b"x"[..]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            let late = send(&transport, file(1), by(route));
            let reader = read_all(peer.try_clone().unwrap());
            outcome.succeed(&proactor, 200_000);
            let bytes = join(&proactor, reader);
            assert_same(&bytes, &[b"head", &contents(0, 200_000)[..]].concat());
            late.wait(&proactor);
            assert_eq!(late.end(), End::Closing);
            // Reading goes on.
            assert!(!transport.is_closing());
            peer.write_all(b"still heard").unwrap();
            run_until(&proactor, "data", || record.received() == b"still heard");
            drop(peer);
            run_until(&proactor, "the end", || record.is_lost());
            let notes: Vec<_> = record
                .signals()
                .into_iter()
                .filter(|n| !matches!(n, Note::Pause | Note::Resume))
                .collect();
            assert_eq!(notes, [Note::Made, Note::End, Note::Lost(None)]);
        }
    }

    fn c21_eof_received_keeps_or_closes(proactor: Proactor) {
        let (transport, record, mut peer) = open(&proactor);
        record.half_open.set(true);
        peer.write_all(b"question").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&proactor, "the end of the stream", || record.has(&Note::End));
        assert_eq!(record.received(), b"question");
        run_a_while(&proactor);
        assert!(!record.is_lost());
        transport.write(&b"answer"[..]).unwrap();
        transport.close();
        let mut answer = Vec::new();
        run_until(&proactor, "the end", || record.is_lost());
        peer.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");

        let (_transport, record, peer) = open(&proactor);
        peer.shutdown(Shutdown::Write).unwrap();
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.signals(), [Note::Made, Note::End, Note::Lost(None)]);
    }

    fn c22_the_peer_resets_in_the_middle(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(5_000_000), by(route));
            send_noted(&transport, &record, 2, file(10), by(route));
            run_a_while(&proactor);
            // Unread bytes make it a reset.
            drop(peer);
            run_until(&proactor, "the end", || record.is_lost());
            lost_with_an_error(&record);
            let sent: Vec<_> = record.notes().into_iter().filter_map(|note| match note {
                Note::Sent(n, sent, end) => Some((n, sent, end)),
                _ => None,
            }).collect();
            let [(1, first, End::PeerGone), (2, 0, End::PeerGone)] = sent[..] else {
                panic!("{sent:?}");
            };
            assert!(first > 0 && first < 5_000_000);
        }
    }

    fn c22_the_peer_closes_in_the_middle(proactor: Proactor) {
        for route in ROUTES {
            let (ours, mut peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            record.half_open.set(true);
            let outcome = send(&transport, file(5_000_000), by(route));
            // All that is there is read, so that its end is an orderly one.
            let mut read = 0;
            let mut buf = vec![0; 1 << 20];
            peer.set_nonblocking(true).unwrap();
            run_until(&proactor, "some of it", || {
                read += peer.read(&mut buf).unwrap_or(0);
                read > 100_000
            });
            while let Ok(n @ 1..) = peer.read(&mut buf) {
                read += n;
            }
            drop(peer);
            outcome.wait(&proactor);
            assert_eq!(outcome.end(), End::PeerGone);
            assert!(outcome.kind().is_some_and(|kind| BROKEN.contains(&kind)), "{}", outcome.text());
            assert!(outcome.sent() >= read as u64 && outcome.sent() < 5_000_000);
            run_until(&proactor, "the end", || record.is_lost());
            lost_with_an_error(&record);
        }
    }

    fn c22a_after_the_loss(proactor: Proactor) {
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        let under_way = send(&transport, file(5_000_000), SendOptions::new());
        run_a_while(&proactor);
        drop(peer);
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(under_way.end(), End::PeerGone);
        // Writes are dropped, with a warning from the fifth on, and sends end.
        for n in 1..=8 {
            let before = warnings();
            transport.write(&b"to nobody"[..]).unwrap();
            assert_eq!(warnings() - before, usize::from(n >= 5), "{n}");
        }
        assert_eq!(transport.write_buffer_size(), 0);
        for route in ROUTES {
            let outcome = send(&transport, file(10), by(route));
            outcome.wait(&proactor);
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Closing));
        }
        for _ in 0..2 {
            transport.close();
            transport.abort();
            transport.write_eof().unwrap();
            transport.pause_reading();
            transport.resume_reading();
        }
        run_a_while(&proactor);
        assert!(transport.is_closing());
        lost_with_an_error(&record);
    }

    fn c22a_abort_after_close_ends_at_once(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let outcome = send(&transport, file(5_000_000), by(route));
            for _ in 0..2 {
                transport.close();
            }
            run_a_while(&proactor);
            assert!(!record.is_lost(), "nobody reads");
            for _ in 0..2 {
                transport.abort();
                transport.close();
            }
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(outcome.end(), End::Cancelled);
            assert_eq!(record.count(&Note::Lost(None)), 1);
            let (_, error) = join(&proactor, read_until_error(peer));
            assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::ConnectionReset));
        }
    }

    fn c22_the_peer_closes_having_received_all(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, mut peer) = open(&proactor);
            let outcome = send(&transport, file(300_000), by(route));
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; 300_000];
                peer.read_exact(&mut bytes).unwrap();
                bytes
            });
            outcome.succeed(&proactor, 300_000);
            assert_same(&join(&proactor, reader), &contents(0, 300_000));
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    fn c22_a_peer_that_is_gone_before_it_starts(proactor: Proactor) {
        for route in ROUTES {
            for len in [1_000_000, 30_000_000] {
                let (ours, peer) = tcp();
                drop(peer);
                let record = Record::new();
                let options = TransportOptions::new().reading(false);
                let transport =
                    Transport::new(&proactor, ours, record.protocol(), &options).unwrap();
                let outcome = send(&transport, file(len), by(route));
                transport.write(&b"x"[..]).unwrap();
                let second = send(&transport, file(len), by(route));
                run_until(&proactor, "the end", || record.is_lost());
                lost_with_an_error(&record);
                assert!(matches!(outcome.end(), End::PeerGone | End::EndOfFile));
                assert_eq!((second.sent(), second.end()), (0, End::PeerGone));
            }
        }
    }

    fn c22_over_pipes_and_unix_sockets(proactor: Proactor) {
        for route in ROUTES {
            let (reading, writing) = std::io::pipe().unwrap();
            let (transport, record) = over(&proactor, Fd::new(OwnedFd::from(writing)));
            let outcome = send(&transport, file(5_000_000), by(route));
            run_a_while(&proactor);
            drop(reading);
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(Some(io::ErrorKind::BrokenPipe))));
            assert_eq!(outcome.end(), End::PeerGone);
            assert!(outcome.sent() < 5_000_000);
            drop(transport);

            let (ours, peer) = UnixStream::pair().unwrap();
            let (_transport, record) = over(&proactor, Fd::new(OwnedFd::from(ours)));
            let outcome = send(&_transport, file(5_000_000), by(route));
            run_a_while(&proactor);
            drop(peer);
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(outcome.end(), End::PeerGone, "{}", outcome.text());
            lost_with_an_error(&record);
        }
        // An idle writing end hears of it too.
        let (reading, writing) = std::io::pipe().unwrap();
        let (transport, record) = over(&proactor, Fd::new(OwnedFd::from(writing)));
        assert!(!transport.can_write_eof());
        assert!(transport.write_eof().is_err());
        run_a_while(&proactor);
        drop(reading);
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.signals().last(), Some(&Note::Lost(Some(io::ErrorKind::BrokenPipe))));
        // A reading end reads, and is not written to.
        let (reading, mut writing) = std::io::pipe().unwrap();
        let (transport, record) = over(&proactor, Fd::new(OwnedFd::from(reading)));
        assert_eq!(transport.write(&b"x"[..]).unwrap_err().kind(), io::ErrorKind::Unsupported);
        writing.write_all(b"through a pipe").unwrap();
        run_until(&proactor, "data", || record.received() == b"through a pipe");
        transport.pause_reading();
        writing.write_all(b", twice").unwrap();
        run_a_while(&proactor);
        transport.resume_reading();
        drop(writing);
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.received(), b"through a pipe, twice");
        assert_eq!(record.signals(), [Note::Made, Note::End, Note::Lost(None)]);
    }

    fn c23_the_peer_half_closes_during_a_send(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(700_000), by(route));
            run_a_while(&proactor);
            peer.shutdown(Shutdown::Write).unwrap();
            run_until(&proactor, "the peer's end", || record.has(&Note::End));
            let bytes = join(&proactor, read_all(peer));
            assert_same(&bytes, &contents(0, 700_000));
            run_until(&proactor, "the end", || record.is_lost());
            assert!(record.has(&Note::Sent(1, 700_000, End::EndOfFile)));
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    fn c24_the_connection_outlives_the_users_handles(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        let cell = Rc::new(Cell::new(0));
        let sent = Rc::clone(&cell);
        transport.send_file(file(1_000_000), SendOptions::new(), move |transport, outcome| {
            sent.set(outcome.sent);
            transport.close();
        });
        drop(transport);
        let reader = read_all(peer);
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(cell.get(), 1_000_000);
        assert_same(&join(&proactor, reader), &contents(0, 1_000_000));
    }

    fn c24_a_protocol_that_holds_its_transport_is_freed(proactor: Proactor) {
        struct Holder(RefCell<Option<Transport>>, #[allow(dead_code)] Rc<()>);
        impl Protocol for Holder {
            fn connection_made(&mut self, transport: &Transport) {
                *self.0.borrow_mut() = Some(transport.clone());
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
        }
        let token = Rc::new(());
        let (ours, peer) = tcp();
        let protocol = Box::new(Holder(RefCell::default(), Rc::clone(&token)));
        Transport::new(&proactor, ours, protocol, &TransportOptions::new()).unwrap();
        run_a_while(&proactor);
        assert_eq!(Rc::strong_count(&token), 2);
        drop(peer);
        run_until(&proactor, "the end", || Rc::strong_count(&token) == 1);
    }

    fn c25_sends_complete_in_order_and_callbacks_do_not_nest(proactor: Proactor) {
        // What a callback does is announced after it.
        struct Chatty(Record, u32);
        impl Protocol for Chatty {
            fn connection_made(&mut self, transport: &Transport) {
                self.0.inside(|| {
                    self.0.note(Note::Made);
                    for n in 0..3 {
                        send_noted(transport, &self.0, n, file(u64::from(n) * 20_000), SendOptions::new());
                    }
                    transport.write(&b"-"[..]).unwrap();
                });
            }
            fn data_received(&mut self, transport: &Transport, data: &[u8]) {
                self.0.inside(|| {
                    self.0.note(Note::Data(data.len()));
                    self.1 += 1;
                    let record = self.0.clone();
                    // A failing one, at once.
                    send_noted(transport, &record, 10 + self.1, Source::file(file(1), 5..9), SendOptions::new());
                    transport.close();
                    transport.write(&b"x"[..]).unwrap_err();
                    transport.abort();
                    transport.resume_reading();
                });
            }
            fn connection_lost(&mut self, error: Option<io::Error>) {
                self.0.inside(|| self.0.note(Note::Lost(error.map(|e| e.kind()))));
            }
        }
        let (ours, mut peer) = tcp();
        let record = Record::new();
        let protocol = Box::new(Chatty(record.clone(), 0));
        let _transport = Transport::new(&proactor, ours, protocol, &TransportOptions::new()).unwrap();
        let mut bytes = vec![0; 60_001];
        run_a_while(&proactor);
        peer.read_exact(&mut bytes).unwrap();
        peer.write_all(b"!").unwrap();
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(
            record.signals(),
            [
                Note::Made,
                Note::Sent(0, 0, End::EndOfFile),
                Note::Sent(1, 20_000, End::EndOfFile),
                Note::Sent(2, 40_000, End::EndOfFile),
                Note::Sent(11, 0, End::Cancelled),
                Note::Lost(None),
            ]
        );
    }

    fn c25_another_protocol_takes_over(proactor: Proactor) {
        struct First(Record);
        impl Protocol for First {
            fn data_received(&mut self, transport: &Transport, _: &[u8]) {
                transport.set_protocol(self.0.protocol());
            }
            fn connection_lost(&mut self, _: Option<io::Error>) {
                panic!("it is not this one any more");
            }
        }
        let (ours, mut peer) = tcp();
        let record = Record::new();
        let protocol = Box::new(First(record.clone()));
        let transport = Transport::new(&proactor, ours, protocol, &TransportOptions::new()).unwrap();
        peer.write_all(b"upgrade").unwrap();
        run_a_while(&proactor);
        peer.write_all(b"more").unwrap();
        run_until(&proactor, "data", || record.received() == b"more");
        transport.close();
        run_until(&proactor, "the end", || record.is_lost());
        transport.set_protocol(record.protocol());
        run_a_while(&proactor);
        assert_eq!(record.signals(), [Note::Lost(None)]);
    }

    fn c26_a_panic_takes_its_connection_and_no_other(proactor: Proactor) {
        struct Panics(Record, &'static str);
        impl Panics {
            fn maybe(&self, place: &str) {
                if self.1 == place {
                    panic!("in {place}, as it is meant to");
                }
            }
        }
        impl Protocol for Panics {
            fn connection_made(&mut self, transport: &Transport) {
                self.0.note(Note::Made);
                self.maybe("made");
                if self.1 == "pause" || self.1 == "resume" {
                    transport.set_write_buffer_limits(Some(0), None).unwrap();
                    transport.write(contents(0, 9_000_000)).unwrap();
                }
                if self.1 == "sent" {
                    transport.send_file(file(10), SendOptions::new(), |_, _| {
                        panic!("in sent, as it is meant to");
                    });
                }
                if self.1 == "progress" {
                    let options = SendOptions::new().progress(|_, _| {
                        panic!("in progress, as it is meant to");
                    });
                    transport.send_file(file(10), options, |_, _| {});
                }
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {
                self.maybe("data");
            }
            fn eof_received(&mut self, _: &Transport) -> bool {
                self.maybe("eof");
                false
            }
            fn pause_writing(&mut self, _: &Transport) {
                self.0.note(Note::Pause);
                self.maybe("pause");
            }
            fn resume_writing(&mut self, _: &Transport) {
                self.maybe("resume");
            }
            fn connection_lost(&mut self, error: Option<io::Error>) {
                self.0.note(Note::Lost(error.map(|e| e.kind())));
                self.maybe("lost");
            }
        }
        let (other, other_record, mut other_peer) = open(&proactor);
        for place in ["made", "data", "eof", "pause", "resume", "sent", "progress", "lost"] {
            let (ours, mut peer) = tcp();
            let record = Record::new();
            let protocol = Box::new(Panics(record.clone(), place));
            let transport =
                Transport::new(&proactor, ours, protocol, &TransportOptions::new()).unwrap();
            let _ = peer.write_all(b"x");
            if place != "resume" {
                let _ = peer.shutdown(Shutdown::Write);
            }
            let reads = peer.try_clone().unwrap();
            let reader = (place == "resume").then(|| {
                run_until(&proactor, "a pause", || record.has(&Note::Pause));
                read_until_error(reads)
            });
            run_until(&proactor, place, || record.is_lost());
            reader.map(|reader| join(&proactor, reader));
            run_a_while(&proactor);
            let expected = if place == "lost" { None } else { Some(io::ErrorKind::Other) };
            let mut told = record.signals();
            told.retain(|note| *note != Note::Pause);
            assert_eq!(told, [Note::Made, Note::Lost(expected)], "{place}");
            assert!(transport.fd().is_none());
        }
        other.write(&b"alive"[..]).unwrap();
        run_a_while(&proactor);
        let mut bytes = [0; 5];
        other_peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"alive");
        assert_eq!(other_record.signals(), [Note::Made]);
    }

    fn c25_a_send_after_the_loss_is_told_of_its_end(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        drop(peer);
        run_until(&proactor, "the end", || record.is_lost());
        send_noted(&transport, &record, 1, file(10), SendOptions::new());
        assert_eq!(record.notes().len(), 3, "not from inside the call");
        run_a_while(&proactor);
        let sent = Note::Sent(1, 0, End::Closing);
        assert_eq!(record.notes(), [Note::Made, Note::End, Note::Lost(None), sent]);
    }

    fn c26_a_panic_when_connected(proactor: Proactor) {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let server = Record::new();
        let made = server.clone();
        let factory = move |_: &Fd| Some(made.protocol());
        let (listen, options) = (ListenOptions::default(), TransportOptions::new());
        let listener = Listener::bind(&proactor, &any, &listen, options, factory).unwrap();
        let address = listener.local_addr().unwrap();
        let client = Record::new();
        connect(&proactor, &address, TransportOptions::new(), client.protocol(), |_| {
            panic!("on purpose");
        });
        run_until(&proactor, "both ends' end", || client.is_lost() && server.is_lost());
        let lost = Note::Lost(Some(io::ErrorKind::Other));
        assert_eq!(client.signals(), [Note::Made, lost]);
    }

    fn c26_a_panic_in_a_factory(proactor: Proactor) {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let record = Record::new();
        let made = record.clone();
        let mut first = true;
        let factory = move |_: &Fd| {
            if std::mem::take(&mut first) {
                panic!("on purpose");
            }
            Some(made.protocol())
        };
        let (listen, options) = (ListenOptions::default(), TransportOptions::new());
        let listener = Listener::bind(&proactor, &any, &listen, options, factory).unwrap();
        let address = listener.local_addr().unwrap().as_inet().unwrap();
        // The first is refused, and the next is welcome.
        let refused = std::net::TcpStream::connect(address).unwrap();
        let (bytes, _) = join(&proactor, read_until_error(refused));
        assert!(bytes.is_empty());
        let mut welcome = std::net::TcpStream::connect(address).unwrap();
        welcome.write_all(b"hello").unwrap();
        run_until(&proactor, "data", || record.received() == b"hello");
        assert_eq!(proactor.stats().panics, 0, "none came to the loop");
    }

    fn c27_made_first_and_no_data_after_the_end(proactor: Proactor) {
        let (ours, mut peer) = tcp();
        peer.write_all(b"early").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let (transport, record) = over(&proactor, ours);
        assert!(record.notes().is_empty(), "not from inside the call");
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(
            record.notes(),
            [Note::Made, Note::Data(5), Note::End, Note::Lost(None)]
        );
        assert!(transport.peer_addr().is_err());
    }

    fn c27_listening_and_connecting(proactor: Proactor) {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let server = Record::new();
        let refuse = Rc::new(Cell::new(false));
        let listener = {
            let (server, refuse) = (server.clone(), refuse.clone());
            Listener::bind(&proactor, &any, &ListenOptions::default(), TransportOptions::new(), move |_| {
                (!refuse.get()).then(|| server.protocol())
            })
            .unwrap()
        };
        let address = listener.local_addr().unwrap();
        let client = Record::new();
        let place = Rc::new(RefCell::new(None));
        {
            let place = Rc::clone(&place);
            let record = client.clone();
            connect(&proactor, &address, TransportOptions::new(), client.protocol(), move |result| {
                assert!(record.notes().is_empty(), "before connection_made");
                *place.borrow_mut() = Some(result);
            });
        }
        assert!(place.borrow().is_none());
        run_until(&proactor, "both ends", || server.has(&Note::Made) && client.has(&Note::Made));
        let transport = place.borrow_mut().take().unwrap().unwrap();
        assert_eq!(transport.peer_addr().unwrap().to_string(), address.to_string());
        transport.write(&b"hello"[..]).unwrap();
        run_until(&proactor, "data", || server.received() == b"hello");
        transport.close();
        run_until(&proactor, "both ends' end", || server.is_lost() && client.is_lost());
        // Refused by the factory: the peer sees its end.
        refuse.set(true);
        let refused = Record::new();
        connect(&proactor, &address, TransportOptions::new(), refused.protocol(), |result| {
            result.unwrap();
        });
        run_until(&proactor, "the refusal", || refused.is_lost());
        // Closed: nobody listens. The kernel's word for that comes as the error.
        listener.close();
        listener.close();
        assert!(listener.local_addr().is_err());
        run_a_while(&proactor);
        let error = Rc::new(RefCell::new(None));
        {
            let error = Rc::clone(&error);
            let nobody = Record::new().protocol();
            connect(&proactor, &address, TransportOptions::new(), nobody, move |result| {
                *error.borrow_mut() = Some(result.unwrap_err().kind());
            });
        }
        run_until(&proactor, "the refusal", || error.borrow().is_some());
        assert_eq!(*error.borrow(), Some(io::ErrorKind::ConnectionRefused));
    }
}
