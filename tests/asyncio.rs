//! The known faults of asyncio's `loop.sendfile` are not ours.

mod common;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, SendOptions, Source};

const LEN: u64 = 3_000_000;

on_both_backends! {
    fn c44_close_with_a_file_under_way_ends_it_once(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(LEN), by(route).write_weight(0));
            run_a_while(&proactor);
            transport.close();
            assert_same(&join(&proactor, read_all(peer)), &contents(0, LEN as usize));
            run_until(&proactor, "the end", || record.is_lost());
            let sent = Note::Sent(1, LEN, End::EndOfFile);
            assert_eq!(record.notes(), [Note::Made, sent, Note::Lost(None)]);
        }
    }

    fn c44_abort_with_a_file_under_way_ends_it_at_once_and_once(proactor: Proactor) {
        for route in ROUTES {
            // Nobody reads, and nothing is waited for.
            let (ours, _peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(LEN), by(route).write_weight(0));
            run_a_while(&proactor);
            transport.abort();
            run_until(&proactor, "the end", || record.is_lost());
            let notes = record.notes();
            let [Note::Made, Note::Sent(1, sent, End::Cancelled), Note::Lost(None)] = notes[..] else {
                panic!("{notes:?}");
            };
            assert!(sent > 0 && sent < LEN);
        }
    }

    fn c44_write_eof_with_a_file_under_way_follows_it(proactor: Proactor) {
        for route in ROUTES {
            let (ours, mut peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            send_noted(&transport, &record, 1, file(LEN), by(route).write_weight(0));
            run_a_while(&proactor);
            transport.write_eof().unwrap();
            run_a_while(&proactor);
            assert_eq!(record.notes(), [Note::Made]);
            let reader = read_all(peer.try_clone().unwrap());
            assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
            run_until(&proactor, "the send's end", || record.notes().len() == 2);
            assert_eq!(record.notes()[1], Note::Sent(1, LEN, End::EndOfFile));
            // The other direction stands.
            peer.write_all(b"thanks").unwrap();
            run_until(&proactor, "data", || record.received() == b"thanks");
        }
    }

    fn c44_a_count_of_zero_is_zero_and_an_offset_of_zero_the_start(proactor: Proactor) {
        for route in ROUTES {
            let mut f = file(100_000);
            f.seek(SeekFrom::Start(60_000)).unwrap();
            let nothing = Source::file(f.try_clone().unwrap(), 0..0);
            let (outcome, body) = sandwich(&proactor, tcp(), nothing, route);
            outcome.succeed(&proactor, 0);
            assert!(body.is_empty());
            let nothing = Source::at_position(f.try_clone().unwrap(), Some(0));
            let (outcome, _) = sandwich(&proactor, tcp(), nothing, route);
            outcome.succeed(&proactor, 0);
            let start = Source::file(f.try_clone().unwrap(), 0..1000);
            let (outcome, body) = sandwich(&proactor, tcp(), start, route);
            outcome.succeed(&proactor, 1000);
            assert_same(&body, &contents(0, 1000));
            assert_eq!(f.stream_position().unwrap(), 60_000);
        }
    }

    fn c44_what_has_no_size_or_another_later_is_sent(proactor: Proactor) {
        for route in ROUTES {
            let version = std::fs::read("/proc/version").unwrap();
            let source = File::open("/proc/version").unwrap();
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, version.len() as u64);
            assert_same(&body, &version);

            let (reading, mut writing) = io::pipe().unwrap();
            let writer = std::thread::spawn(move || writing.write_all(&contents(0, 200_000)));
            let source = Source::file(OwnedFd::from(reading), ..);
            let (outcome, body) = sandwich(&proactor, tcp(), source, route);
            outcome.succeed(&proactor, 200_000);
            assert_same(&body, &contents(0, 200_000));
            writer.join().unwrap().unwrap();

            // Growing: what was promised of it comes, though it was not there when asked for.
            let mut growing = file(1_000_000);
            growing.seek(SeekFrom::End(0)).unwrap();
            let (ours, mut peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let source = Source::file(Fd::from(growing.try_clone().unwrap()), 0..1_300_000);
            let outcome = send(&transport, source, SendOptions::new().route(route));
            transport.close();
            run_a_while(&proactor);
            growing.write_all(&contents(1_000_000, 500_000)).unwrap();
            let mut bytes = Vec::new();
            let reader = std::thread::spawn(move || peer.read_to_end(&mut bytes).map(|_| bytes));
            outcome.succeed(&proactor, 1_300_000);
            assert_same(&join(&proactor, reader).unwrap(), &contents(0, 1_300_000));
        }
    }
}
