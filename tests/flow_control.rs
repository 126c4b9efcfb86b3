//! What holds a writer back, and a reader.

mod common;

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use rustix::net::{RecvFlags, recv};
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Protocol, SendOptions, Source, Transport, TransportOptions, bytes};

const MIB: usize = 1 << 20;

fn pauses(record: &Record) -> (usize, usize) {
    (record.count(&Note::Pause), record.count(&Note::Resume))
}

on_both_backends! {
    fn c13_the_size_counts_bytes_and_no_files(proactor: Proactor) {
        let (ours, peer) = tight_tcp();
        let (transport, _record) = over(&proactor, ours);
        assert_eq!(transport.write_buffer_size(), 0);
        transport.write(contents(0, MIB)).unwrap();
        assert_eq!(transport.write_buffer_size(), MIB);
        let outcome = send(&transport, file(100_000), SendOptions::new());
        let bytes = send(&transport, Bytes::from_static(b"abc"), SendOptions::new());
        assert_eq!(transport.write_buffer_size(), MIB);
        run_a_while(&proactor);
        let size = transport.write_buffer_size();
        assert!(size > MIB / 2 && size < MIB, "the kernel took some: {size}");
        let reader = read_all(peer);
        outcome.succeed(&proactor, 100_000);
        bytes.succeed(&proactor, 3);
        assert_eq!(transport.write_buffer_size(), 0);
        transport.close();
        let expected = [&contents(0, MIB)[..], &contents(0, 100_000), b"abc"].concat();
        assert_same(&join(&proactor, reader), &expected);
    }

    fn c13a_what_a_file_counts_is_settled(proactor: Proactor) {
        for (weight, paused) in [(None, true), (Some(0), false), (Some(60_000), false), (Some(70_000), true)] {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let mut options = SendOptions::new();
            if let Some(weight) = weight {
                options = options.write_weight(weight);
            }
            let outcome = send(&transport, file(3_000_000), options);
            run_a_while(&proactor);
            assert_eq!(pauses(&record), (usize::from(paused), 0), "{weight:?}");
            let reader = read_all(peer);
            outcome.succeed(&proactor, 3_000_000);
            run_a_while(&proactor);
            assert_eq!(pauses(&record), (usize::from(paused), usize::from(paused)), "{weight:?}");
            transport.close();
            join(&proactor, reader);
        }
    }

    fn c14_pauses_once_and_resumes_once(proactor: Proactor) {
        let (ours, mut peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        assert_eq!(transport.write_buffer_limits(), (16 << 10, 64 << 10));
        for n in 0..20 {
            transport.write(contents(n, MIB / 4)).unwrap();
            run_a_while(&proactor);
        }
        assert_eq!(pauses(&record), (1, 0));
        let mut left = 20 * MIB / 4;
        let mut buf = vec![0; MIB];
        let mut resumed_at = None;
        while left > 0 {
            peer.set_nonblocking(true).unwrap();
            match peer.read(&mut buf[..left.min(MIB)]) {
                Ok(n) => left -= n,
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
            proactor.run_once(Some(std::time::Duration::ZERO)).unwrap();
            if resumed_at.is_none() && pauses(&record).1 > 0 {
                resumed_at = Some(transport.write_buffer_size());
            }
        }
        assert_eq!(pauses(&record), (1, 1));
        assert!(resumed_at.is_some_and(|size| size <= 16 << 10), "{resumed_at:?}");
        // And again.
        transport.write(contents(0, MIB)).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (2, 1));
        transport.abort();
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(pauses(&record), (2, 1));
    }

    fn c14_pauses_though_the_peer_reads_a_little(proactor: Proactor) {
        let (ours, mut peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        peer.set_nonblocking(true).unwrap();
        let mut buf = vec![0; MIB];
        let mut most = 0;
        for _ in 0..2000 {
            if record.has(&Note::Pause) {
                break;
            }
            transport.write(contents(0, MIB / 4)).unwrap();
            most = transport.write_buffer_size();
            // Something goes each turn, so that there always is another operation.
            while let Ok(1..) = peer.read(&mut buf) {}
            proactor.run_once(Some(Duration::ZERO)).unwrap();
        }
        assert_eq!(pauses(&record), (1, 0));
        assert!(most < 64 * MIB, "{most}");
        transport.abort();
        run_until(&proactor, "the end", || record.is_lost());
    }

    fn c14_weights_without_end(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        transport.set_write_buffer_limits(Some(usize::MAX), None).unwrap();
        let heavy = || SendOptions::new().write_weight(usize::MAX);
        let sends = [heavy(), SendOptions::new(), heavy()].map(|o| send(&transport, file(1000), o));
        transport.write(&b"end"[..]).unwrap();
        transport.close();
        for outcome in sends {
            outcome.succeed(&proactor, 1000);
        }
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(join(&proactor, read_all(peer)).len(), 3003);
        assert_eq!(pauses(&record), (0, 0));
    }

    fn c14_limits(proactor: Proactor) {
        let (transport, _record, _peer) = open(&proactor);
        transport.set_write_buffer_limits(Some(1000), None).unwrap();
        assert_eq!(transport.write_buffer_limits(), (250, 1000));
        transport.set_write_buffer_limits(None, Some(100)).unwrap();
        assert_eq!(transport.write_buffer_limits(), (100, 400));
        let error = transport.set_write_buffer_limits(Some(10), Some(11)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert_eq!(transport.write_buffer_limits(), (100, 400));
        transport.set_write_buffer_limits(None, None).unwrap();
        assert_eq!(transport.write_buffer_limits(), (16 << 10, 64 << 10));
    }

    fn c14_a_high_limit_of_zero(proactor: Proactor) {
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        transport.set_write_buffer_limits(Some(0), None).unwrap();
        transport.write(&b"x"[..]).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (0, 0), "the kernel took it at once");
        transport.write(contents(0, MIB)).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (1, 0));
        let reader = read_all(peer);
        run_until(&proactor, "resume", || pauses(&record).1 == 1);
        assert_eq!(transport.write_buffer_size(), 0);
        transport.close();
        join(&proactor, reader);
    }

    fn c15_new_limits_count_at_once(proactor: Proactor) {
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        transport.write(contents(0, MIB)).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (1, 0));
        transport.set_write_buffer_limits(Some(8 * MIB), Some(2 * MIB)).unwrap();
        assert_eq!(pauses(&record), (1, 0), "not from inside the call");
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (1, 1));
        transport.set_write_buffer_limits(Some(1000), None).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (2, 1));
        let reader = read_all(peer);
        run_until(&proactor, "resume", || pauses(&record).1 == 2);
        transport.close();
        join(&proactor, reader);
    }

    fn c15_a_file_under_way_pauses(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let outcome = send(&transport, file(2_000_000), by(route));
            run_until(&proactor, "pause", || pauses(&record).0 == 1);
            run_a_while(&proactor);
            assert_eq!(pauses(&record), (1, 0));
            let reader = read_all(peer);
            outcome.succeed(&proactor, 2_000_000);
            run_until(&proactor, "resume", || pauses(&record) == (1, 1));
            transport.close();
            join(&proactor, reader);
        }
    }

    fn c16_paused_reading_delivers_nothing_and_loses_nothing(proactor: Proactor) {
        let (transport, record, mut peer) = open(&proactor);
        run_a_while(&proactor);
        assert!(transport.is_reading());
        peer.write_all(b"one").unwrap();
        run_until(&proactor, "data", || record.received() == b"one");
        transport.pause_reading();
        transport.pause_reading();
        assert!(!transport.is_reading());
        peer.write_all(b"two").unwrap();
        run_a_while(&proactor);
        peer.write_all(b"three").unwrap();
        run_a_while(&proactor);
        assert_eq!(record.received(), b"one");
        transport.resume_reading();
        transport.resume_reading();
        assert_eq!(record.received(), b"one", "not from inside the call");
        run_until(&proactor, "the rest", || record.received() == b"onetwothree");
        // On and off, with data under way all the time.
        let len = 3_000_000;
        let writer = std::thread::spawn(move || peer.write_all(&contents(0, len)).map(|()| peer));
        let mut n = 0_u32;
        run_until(&proactor, "all", || {
            n += 1;
            if n.is_multiple_of(3) { transport.pause_reading() } else { transport.resume_reading() }
            record.received().len() == len + 11
        });
        assert_same(&record.received()[11..], &contents(0, len));
        let peer = join(&proactor, writer).unwrap();
        // The end of the stream waits as data does.
        transport.pause_reading();
        peer.shutdown(Shutdown::Write).unwrap();
        run_a_while(&proactor);
        assert!(!record.has(&Note::End));
        transport.resume_reading();
        run_until(&proactor, "the end", || record.has(&Note::End));
        run_until(&proactor, "the loss", || record.is_lost());
        transport.pause_reading();
        transport.resume_reading();
        run_a_while(&proactor);
        assert!(record.is_lost());
    }

    fn c16_after_close_reading_stays_ended(proactor: Proactor) {
        for paused in [false, true] {
            let (ours, mut peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            run_a_while(&proactor);
            if paused {
                transport.pause_reading();
            }
            peer.write_all(b"unheard").unwrap();
            let outcome = send(&transport, file(500_000), SendOptions::new());
            transport.close();
            for _ in 0..2 {
                transport.resume_reading();
                transport.pause_reading();
                transport.resume_reading();
            }
            assert!(!transport.is_reading());
            run_a_while(&proactor);
            assert!(!outcome.is_there());
            let reader = read_until_error(peer);
            outcome.succeed(&proactor, 500_000);
            run_until(&proactor, "the end", || record.is_lost());
            join(&proactor, reader);
            transport.pause_reading();
            transport.resume_reading();
            run_a_while(&proactor);
            assert!(record.received().is_empty());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
    }

    fn c16_pausing_from_inside_data_received(proactor: Proactor) {
        struct Sips(Record, Rc<Cell<u32>>);
        impl Protocol for Sips {
            fn data_received(&mut self, transport: &Transport, data: &[u8]) {
                assert!(transport.is_reading());
                self.1.set(self.1.get() + 1);
                self.0.note(Note::Data(data.len()));
                transport.pause_reading();
            }
            fn eof_received(&mut self, _: &Transport) -> bool {
                self.0.note(Note::End);
                false
            }
        }
        let (ours, mut peer) = tcp();
        let record = Record::new();
        let calls = Rc::new(Cell::new(0));
        let protocol = Box::new(Sips(record.clone(), calls.clone()));
        let transport = Transport::new(&proactor, ours, protocol, &TransportOptions::new()).unwrap();
        peer.write_all(&contents(0, 200_000)).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut expected = 0;
        loop {
            run_until(&proactor, "a sip", || calls.get() > expected || record.has(&Note::End));
            run_a_while(&proactor);
            expected += 1;
            if record.has(&Note::End) {
                break;
            }
            assert_eq!(calls.get(), expected);
            transport.resume_reading();
        }
        let total: usize = record.notes().iter().map(|n| match n {
            Note::Data(n) => *n,
            _ => 0,
        }).sum();
        assert_eq!(total, 200_000);
        assert_eq!(record.notes().last(), Some(&Note::End));
    }

    fn c16_not_reading_from_the_start(proactor: Proactor) {
        let (ours, mut peer) = tcp();
        let record = Record::new();
        let options = TransportOptions::new().reading(false).write_limits(10, 5);
        let transport = Transport::new(&proactor, ours, record.protocol(), &options).unwrap();
        assert_eq!(transport.write_buffer_limits(), (5, 10));
        peer.write_all(b"early").unwrap();
        run_a_while(&proactor);
        assert_eq!(record.notes(), [Note::Made]);
        transport.resume_reading();
        run_until(&proactor, "data", || record.received() == b"early");
    }

    fn c16a_what_the_kernel_takes_at_once_never_pauses(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        let reader = read_all(peer);
        let big = vec![Bytes::from(contents(0, 50_000)), Bytes::from(contents(1, 50_000))];
        for n in 0..10 {
            transport.write(contents(n, 150_000)).unwrap();
            run_a_while(&proactor);
            assert_eq!(transport.write_buffer_size(), 0);
            transport.write_vectored(big.clone()).unwrap();
            run_a_while(&proactor);
            let outcome = send(&transport, file(30_000), SendOptions::new().write_weight(100_000));
            run_a_while(&proactor);
            outcome.succeed(&proactor, 30_000);
        }
        assert_eq!(pauses(&record), (0, 0));
        transport.close();
        join(&proactor, reader);
        // Vectored writes obey the limits.
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        transport.write_vectored((0..100).map(|n| Bytes::from(contents(n, 5000)))).unwrap();
        run_a_while(&proactor);
        assert_eq!(pauses(&record), (1, 0));
        let reader = read_all(peer);
        run_until(&proactor, "resume", || pauses(&record) == (1, 1));
        transport.close();
        join(&proactor, reader);
    }

    fn c16_signals_come_in_order_with_the_rest(proactor: Proactor) {
        let (ours, peer) = tight_tcp();
        let (transport, record) = over(&proactor, ours);
        send_noted(&transport, &record, 1, file(1_000_000), SendOptions::new());
        run_a_while(&proactor);
        let reader = read_all(peer);
        run_until(&proactor, "resume", || pauses(&record) == (1, 1));
        transport.close();
        run_until(&proactor, "the end", || record.is_lost());
        let sent = Note::Sent(1, 1_000_000, End::EndOfFile);
        let notes = record.signals();
        assert_eq!(notes.first(), Some(&Note::Made));
        assert_eq!(notes.last(), Some(&Note::Lost(None)));
        assert!(notes.contains(&sent));
        join(&proactor, reader);
    }

    fn c17_a_thousand_stalled_clients(proactor: Proactor) {
        raise_descriptor_limit();
        let len = 2_000_000;
        let source = Fd::from(file(len));
        let large = file(20_000_000);
        let mut stalled = Vec::new();
        for n in 0..1000 {
            let (ours, peer) = tcp();
            spliceport::proactor::net::set_buffer_sizes(&ours, Some(64 << 10), None).unwrap();
            let (transport, record) = over(&proactor, ours);
            transport.write(&b"a header"[..]).unwrap();
            let route = ROUTES[n % ROUTES.len()];
            // Inline and Sendfile block the loop only where the file is cold; it isn't.
            let outcome = send(&transport, Source::file(source.clone(), 100..), by(route));
            stalled.push((transport, record, peer, outcome));
        }
        // Each has its header, and some of the file.
        for (_, _, peer, _) in &stalled {
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            run_until(&proactor, "a beginning", || recv(peer, &mut [0; 9][..], flags).is_ok_and(|(n, _)| n == 9));
        }
        let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
        assert!(threads < 100, "{threads} threads");
        // Another client's transfer goes on.
        let (transport, _record, peer) = open(&proactor);
        let reader = read_all(peer);
        let outcome = send(&transport, large, SendOptions::new());
        transport.close();
        outcome.succeed(&proactor, 20_000_000);
        assert_same(&join(&proactor, reader), &contents(0, 20_000_000));
        let stats = proactor.stats();
        assert!(stats.pipes_leased <= stats.pipes_limit);
        // And some that wake up get all there is.
        for (transport, _, peer, outcome) in stalled.drain(..ROUTES.len()) {
            assert!(!outcome.is_there());
            let reader = read_all(peer);
            outcome.succeed(&proactor, len - 100);
            transport.close();
            let got = join(&proactor, reader);
            assert_same(&got[..8], b"a header");
            assert_same(&got[8..], &contents(100, len as usize - 100));
        }
        for (transport, record, _peer, outcome) in &stalled {
            transport.abort();
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(outcome.end(), End::Cancelled);
            assert!(outcome.sent() > 0 && outcome.sent() < len - 100);
        }
        assert_eq!(proactor.stats().pipes_leased, 0);
    }

    fn c17_stalled_clients_that_have_said_their_last(proactor: Proactor) {
        // Nothing may spin, and no thread may be held, because their sending side is closed.
        let mut stalled = Vec::new();
        for route in ROUTES.repeat(4) {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            record.half_open.set(true);
            peer.shutdown(Shutdown::Write).unwrap();
            transport.write(contents(0, 10)).unwrap();
            let outcome = send(&transport, file(1_000_000), by(route));
            transport.write(contents(0, 1_000_000)).unwrap();
            stalled.push((transport, record, peer, outcome));
        }
        run_a_while(&proactor);
        let before = proactor.stats();
        for _ in 0..10 {
            proactor.run_once(Some(Duration::from_millis(20))).unwrap();
        }
        let after = proactor.stats();
        assert!(after.waits - before.waits < 40, "{before:?} {after:?}");
        assert!(after.submitted - before.submitted < 40, "{before:?} {after:?}");
        assert!(std::fs::read_dir("/proc/self/task").unwrap().count() < 40);
        for (n, (transport, record, peer, outcome)) in stalled.into_iter().enumerate() {
            if n % 2 == 0 {
                let reader = read_all(peer);
                outcome.succeed(&proactor, 1_000_000);
                transport.close();
                assert_eq!(join(&proactor, reader).len(), 2_000_010);
            } else {
                transport.abort();
            }
            run_until(&proactor, "the end", || record.is_lost());
        }
    }

    fn c17_a_client_that_wakes_up(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let outcome = send(&transport, file(700_000), by(route));
            transport.close();
            run_a_while(&proactor);
            assert!(!outcome.is_there());
            let reader = read_all(peer);
            outcome.succeed(&proactor, 700_000);
            assert_same(&join(&proactor, reader), &contents(0, 700_000));
        }
    }
}

fn raise_descriptor_limit() {
    kernel::raise_descriptor_limit(4096);
}
