//! A transport over TLS: the same calls, order, counts and callbacks as a plain one.

mod common;
#[path = "common/stuck.rs"]
mod stuck;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use common::tls::*;
use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{
    End, ReceiveOptions, RelayOptions, Route, RouteChoice, SendOptions, Sink, Source, Tls,
    Transport, TransportOptions, TransportStats, relay,
};

/// A connection over TLS whose client reads to the end, and what it gets.
fn reading(
    proactor: &Proactor,
    pair: (Fd, TcpStream),
) -> (Transport, Record, thread::JoinHandle<Vec<u8>>) {
    let (ours, stream) = pair;
    let (transport, record) = secured(proactor, ours, Tls::server(server_config()));
    let reader = read_all(peer(stream, client_config(&[&TLS13])));
    (transport, record, reader)
}

/// The client has a connection on which it has got nothing but the handshake, and reads no more.
fn stalled(proactor: &Proactor) -> (Transport, Record, Peer) {
    let (ours, stream) = tight_tcp();
    let (transport, record) = secured(proactor, ours, Tls::server(server_config()));
    let shaken = thread::spawn(move || {
        let mut peer = peer(stream, client_config(&[&TLS13]));
        while peer.conn.is_handshaking() {
            peer.conn.complete_io(&mut peer.sock).unwrap();
        }
        peer
    });
    let peer = join(proactor, shaken);
    run_until(proactor, "the handshake", || record.has(&Note::Made));
    (transport, record, peer)
}

fn run_until_lost(proactor: &Proactor, record: &Record) -> Option<io::ErrorKind> {
    run_until(proactor, "the connection's end", || record.is_lost());
    match record.notes().last() {
        Some(Note::Lost(kind)) => *kind,
        other => panic!("{other:?} came last"),
    }
}

on_both_backends! {

    fn everything_leaves_in_order(proactor: Proactor) {
        for version in [&TLS12, &TLS13] {
            let (ours, stream) = tcp();
            let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
            let reader = read_all(peer(stream, client_config(&[version])));
            transport.write(&b"<a>"[..]).unwrap();
            let small = send(&transport, Source::file(file(5000), 7..4000), SendOptions::new());
            transport.write(contents(11, 200_000)).unwrap();
            let large = send(&transport, file(3_000_000), SendOptions::new());
            let none = send(&transport, Source::file(file(10), 10..10), SendOptions::new());
            transport.write(&b"<z>"[..]).unwrap();
            let reads = Box::new(io::Cursor::new(contents(3, 100_000)));
            let reader_sent = send(&transport, Source::reader(reads, None), SendOptions::new());
            let bytes = send(&transport, spliceport::bytes::Bytes::from(contents(5, 150_000)), SendOptions::new());
            assert!(transport.tls_info().is_none());
            transport.close();
            small.succeed(&proactor, 3993);
            large.succeed(&proactor, 3_000_000);
            none.succeed(&proactor, 0);
            reader_sent.succeed(&proactor, 100_000);
            bytes.succeed(&proactor, 150_000);
            assert_eq!(large.routes(), [Route::Copy]);
            let mut expected = b"<a>".to_vec();
            expected.extend(contents(7, 3993));
            expected.extend(contents(11, 200_000));
            expected.extend(contents(0, 3_000_000));
            expected.extend(b"<z>");
            expected.extend(contents(3, 100_000));
            expected.extend(contents(5, 150_000));
            assert_same(&join(&proactor, reader), &expected);
            assert_eq!(run_until_lost(&proactor, &record), None);
            let notes = record.signals();
            let made = notes.iter().filter(|note| **note == Note::Made).count();
            assert_eq!((notes.first(), made), (Some(&Note::Made), 1));
        }
    }

    fn every_route_is_the_copying_one(proactor: Proactor) {
        for route in ROUTES {
            let (transport, record, reader) = reading(&proactor, tcp());
            let outcome = send(&transport, file(200_000), by(route));
            transport.close();
            outcome.succeed(&proactor, 200_000);
            assert_eq!(outcome.routes(), [Route::Copy], "{route:?}");
            assert_same(&join(&proactor, reader), &contents(0, 200_000));
            assert_eq!(run_until_lost(&proactor, &record), None);
        }
        let (transport, record, reader) = reading(&proactor, tcp());
        let native = SendOptions::new().native_only(true);
        let outcome = send(&transport, file(200_000), native);
        transport.close();
        outcome.wait(&proactor);
        assert_eq!((outcome.end(), outcome.sent()), (End::Failed, 0));
        assert_eq!(outcome.kind(), Some(io::ErrorKind::Unsupported));
        assert!(join(&proactor, reader).is_empty());
        assert_eq!(run_until_lost(&proactor, &record), None);
    }

    fn small_buffers_cut_records_and_nothing_is_lost(proactor: Proactor) {
        let (transport, record, reader) = reading(&proactor, tight_tcp());
        let first = send(&transport, file(300_000), SendOptions::new());
        transport.write(&b"between"[..]).unwrap();
        let second = send(&transport, Source::file(file(90_000), 1..), SendOptions::new());
        transport.close();
        first.succeed(&proactor, 300_000);
        second.succeed(&proactor, 89_999);
        let mut expected = contents(0, 300_000);
        expected.extend(b"between");
        expected.extend(contents(1, 89_999));
        assert_same(&join(&proactor, reader), &expected);
        assert_eq!(run_until_lost(&proactor, &record), None);
    }

    fn what_arrives_is_delivered_and_half_closes_work(proactor: Proactor) {
        for version in [&TLS12, &TLS13] {
            let (ours, stream) = tcp();
            let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
            record.half_open.set(true);
            let client = thread::spawn(move || {
                let mut peer = peer(stream, client_config(&[version]));
                peer.write_all(&contents(0, 500_000)).unwrap();
                finish(peer)
            });
            run_until(&proactor, "the client's end", || record.has(&Note::End));
            assert_same(&record.received(), &contents(0, 500_000));
            let info = transport.tls_info().unwrap();
            assert_eq!(info.server_name.as_deref(), Some(NAME));
            assert!(!info.resumed);
            // Our side goes on.
            let outcome = send(&transport, file(400_000), SendOptions::new());
            transport.write_eof().unwrap();
            assert!(transport.write(&b"late"[..]).is_err());
            outcome.succeed(&proactor, 400_000);
            assert_same(&join(&proactor, client), &contents(0, 400_000));
            transport.close();
            assert_eq!(run_until_lost(&proactor, &record), None);
        }
    }

    fn a_transport_can_be_the_client(proactor: Proactor) {
        let (ours, stream) = tcp();
        let tls = Tls::client(client_config(&[&TLS13]), name());
        let (transport, record) = secured(&proactor, ours, tls);
        let server = thread::spawn(move || {
            let mut peer = server_peer(stream);
            let mut bytes = vec![0; 100_000];
            peer.read_exact(&mut bytes).unwrap();
            peer.write_all(b"thanks").unwrap();
            peer.conn.send_close_notify();
            peer.flush().unwrap();
            bytes
        });
        send(&transport, file(100_000), SendOptions::new()).succeed(&proactor, 100_000);
        assert_same(&join(&proactor, server), &contents(0, 100_000));
        assert_eq!(run_until_lost(&proactor, &record), None);
        assert_eq!(record.received(), b"thanks");
    }

    fn two_transports_talk(proactor: Proactor) {
        let (ours, stream) = tcp();
        let theirs = Fd::new(std::os::fd::OwnedFd::from(stream));
        let (server, served) = secured(&proactor, ours, Tls::server(server_config()));
        let tls = Tls::client(client_config(&[&TLS12, &TLS13]), name());
        let (client, asked) = secured(&proactor, theirs, tls);
        send(&client, file(2_000_000), SendOptions::new());
        client.close();
        assert_eq!(run_until_lost(&proactor, &served), None);
        assert_eq!(run_until_lost(&proactor, &asked), None);
        assert_same(&served.received(), &contents(0, 2_000_000));
        drop(server);
    }

    fn a_paused_reader_gets_all_later(proactor: Proactor) {
        let (ours, stream) = tcp();
        let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        let client = thread::spawn(move || {
            let mut peer = peer(stream, client_config(&[&TLS13]));
            peer.write_all(&contents(0, 3_000_000)).unwrap();
            finish(peer)
        });
        run_until(&proactor, "some bytes", || !record.received().is_empty());
        transport.pause_reading();
        run_a_while(&proactor);
        let before = record.received().len();
        run_a_while(&proactor);
        assert_eq!(record.received().len(), before);
        transport.resume_reading();
        assert_eq!(run_until_lost(&proactor, &record), None);
        assert_same(&record.received(), &contents(0, 3_000_000));
        join(&proactor, client);
    }

    fn a_file_is_received(proactor: Proactor) {
        let (ours, stream) = tcp();
        let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        let client = thread::spawn(move || {
            let mut peer = peer(stream, client_config(&[&TLS13]));
            peer.write_all(&contents(0, 2_000_000)).unwrap();
            peer.write_all(b"behind").unwrap();
            finish(peer)
        });
        let target = empty_file();
        let outcome = Rc::new(RefCell::new(None));
        let cell = Rc::clone(&outcome);
        let sink = Sink::file(target.try_clone().unwrap(), 0..2_000_000);
        transport.receive_file(sink, ReceiveOptions::new(), move |_, outcome| {
            assert!(cell.borrow_mut().replace(outcome).is_none());
        });
        assert_eq!(run_until_lost(&proactor, &record), None);
        let outcome = outcome.borrow_mut().take().unwrap();
        assert!(outcome.is_success(), "{outcome:?}");
        assert_eq!(outcome.received, 2_000_000);
        assert_eq!(outcome.routes.iter().collect::<Vec<_>>(), [Route::Copy]);
        assert_eq!(record.received(), b"behind");
        let mut bytes = Vec::new();
        { target }.read_to_end(&mut bytes).unwrap();
        assert_same(&bytes, &contents(0, 2_000_000));
        join(&proactor, client);
    }

    fn an_end_without_a_close_notify_is_none(proactor: Proactor) {
        let (ours, stream) = tcp();
        let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        let client = thread::spawn(move || {
            let mut peer = peer(stream, client_config(&[&TLS13]));
            peer.write_all(&contents(0, 50_000)).unwrap();
            peer.sock.shutdown(Shutdown::Write).unwrap();
            peer
        });
        let outcome = Rc::new(RefCell::new(None));
        let cell = Rc::clone(&outcome);
        let sink = Sink::file(empty_file(), 0..);
        transport.receive_file(sink, ReceiveOptions::new(), move |_, outcome| {
            assert!(cell.borrow_mut().replace(outcome).is_none());
        });
        let kind = run_until_lost(&proactor, &record);
        assert_eq!(kind, Some(io::ErrorKind::UnexpectedEof));
        assert!(!record.has(&Note::End));
        let outcome = outcome.borrow_mut().take().unwrap();
        assert_eq!(outcome.end, End::PeerGone);
        assert_eq!(outcome.error.unwrap().kind(), io::ErrorKind::UnexpectedEof);
        join(&proactor, client);
    }

    fn what_is_no_tls_is_refused(proactor: Proactor) {
        let hello = |record: &[u8]| record.to_vec();
        for garbage in [
            hello(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            vec![0; 100_000],
            vec![0xff; 100_000],
            hello(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
            contents(0, 300_000),
        ] {
            let (ours, mut stream) = tcp();
            let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
            let unsent = send(&transport, file(1000), SendOptions::new());
            let client = thread::spawn(move || {
                // It may be reset before it has written or read all.
                let _ = stream.write_all(&garbage);
                let _ = stream.shutdown(Shutdown::Write);
                let mut told = Vec::new();
                let _ = stream.read_to_end(&mut told);
                told
            });
            let kind = run_until_lost(&proactor, &record);
            assert!(kind.is_some());
            assert_eq!(record.notes().len(), 1, "{:?}", record.notes());
            unsent.wait(&proactor);
            assert_eq!((unsent.end(), unsent.sent()), (End::PeerGone, 0));
            join(&proactor, client);
        }
    }

    fn a_handshake_that_is_given_up_or_slow_ends(proactor: Proactor) {
        let (ours, stream) = tcp();
        let (_transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        drop(stream);
        let kind = run_until_lost(&proactor, &record);
        assert_eq!(kind, Some(io::ErrorKind::UnexpectedEof));

        let (ours, stream) = tcp();
        let tls = Tls::server(server_config()).handshake_timeout(Duration::from_millis(50));
        let (transport, record) = secured(&proactor, ours, tls);
        transport.write(&b"never"[..]).unwrap();
        let kind = run_until_lost(&proactor, &record);
        assert_eq!(kind, Some(io::ErrorKind::TimedOut));
        assert_eq!(record.notes().len(), 1);
        drop(stream);

        let (ours, stream) = tcp();
        let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        transport.close();
        assert_eq!(run_until_lost(&proactor, &record), None);
        drop(stream);

        let (ours, stream) = tcp();
        let (transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        transport.abort();
        assert_eq!(run_until_lost(&proactor, &record), None);
        drop(stream);
    }

    fn a_refused_certificate_is_told(proactor: Proactor) {
        let (ours, stream) = tcp();
        let (_transport, record) = secured(&proactor, ours, Tls::server(server_config()));
        let client = thread::spawn(move || {
            let config = client_config(&[&TLS13]);
            let name = "elsewhere".try_into().unwrap();
            let tls = spliceport::rustls::ClientConnection::new(config, name).unwrap();
            let mut peer = spliceport::rustls::StreamOwned::new(tls, stream);
            peer.read(&mut [0]).unwrap_err()
        });
        assert!(run_until_lost(&proactor, &record).is_some());
        assert!(!record.has(&Note::Made));
        assert_eq!(join(&proactor, client).kind(), io::ErrorKind::InvalidData);
    }

    fn a_broken_record_ends_the_connection(proactor: Proactor) {
        let (transport, record, mut peer) = stalled(&proactor);
        peer.sock.write_all(&[0x17, 3, 3, 0, 40]).unwrap();
        peer.sock.write_all(&[9; 40]).unwrap();
        let kind = run_until_lost(&proactor, &record);
        assert_eq!(kind, Some(io::ErrorKind::InvalidData));
        // It was told why.
        let told = peer.read(&mut [0]).unwrap_err().to_string();
        assert!(told.contains("BadRecordMac"), "{told}");
        drop(transport);
    }

    fn a_slow_reader_pauses_writing(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let mut written = 0;
        while !record.has(&Note::Pause) {
            transport.write(contents(written, 100_000)).unwrap();
            written += 100_000;
            run_until(&proactor, "a turn", {
                let mut turns = 0;
                move || {
                    turns += 1;
                    turns > 8
                }
            });
            assert!(written < 100_000_000, "it is never told to pause");
        }
        assert!(transport.write_buffer_size() > 0);
        assert!(transport.write_buffer_size() as u64 <= written);
        transport.close();
        let client = read_all(peer);
        assert_same(&join(&proactor, client), &contents(0, written as usize));
        assert_eq!(run_until_lost(&proactor, &record), None);
    }

    fn a_peer_that_vanishes_ends_its_send_once(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let outcome = send(&transport, file(50_000_000), SendOptions::new());
        let behind = send(&transport, file(10), SendOptions::new());
        run_a_while(&proactor);
        drop(peer);
        outcome.wait(&proactor);
        behind.wait(&proactor);
        assert_eq!((outcome.end(), behind.end()), (End::PeerGone, End::PeerGone));
        assert!(outcome.sent() < 50_000_000);
        assert!(run_until_lost(&proactor, &record).is_some());
    }

    fn an_abort_ends_all_at_once(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let outcome = send(&transport, file(50_000_000), SendOptions::new());
        run_a_while(&proactor);
        transport.abort();
        outcome.wait(&proactor);
        assert_eq!(outcome.end(), End::Cancelled);
        assert_eq!(run_until_lost(&proactor, &record), None);
        let (got, error) = join(&proactor, read_until_error(peer));
        assert!(error.is_some(), "the peer can tell that it was cut");
        assert_same(&got, &contents(0, got.len()));
    }

    fn a_count_is_whole_records(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let outcome = send(&transport, file(50_000_000), SendOptions::new());
        run_until(&proactor, "the first record's end", || {
            TransportStats::of(&proactor).sent.copy > 0
        });
        outcome.handle.cancel();
        outcome.wait(&proactor);
        assert_eq!(outcome.end(), End::Cancelled);
        assert!(run_until_lost(&proactor, &record).is_some());
        assert_eq!(outcome.sent() % (16 << 10), 0);
        assert!(outcome.sent() > 0);
        drop(peer);
    }

    fn a_cancelled_send_that_keeps_the_connection_leaves_what_is_encrypted(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let keeps = SendOptions::new().keep_connection(true);
        let outcome = send(&transport, file(50_000_000), keeps);
        run_a_while(&proactor);
        outcome.handle.cancel();
        run_a_while(&proactor);
        transport.write(&b"behind"[..]).unwrap();
        transport.close();
        let client = read_all(peer);
        outcome.wait(&proactor);
        assert_eq!(outcome.end(), End::Cancelled);
        let got = join(&proactor, client);
        assert_eq!(run_until_lost(&proactor, &record), None);
        let sent = outcome.sent() as usize;
        assert_eq!(got.len(), sent + 6);
        assert_same(&got[..sent], &contents(0, sent));
        assert_eq!(&got[sent..], b"behind");
    }

    fn a_send_that_waits_is_taken_out(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let first = send(&transport, file(2_000_000), SendOptions::new());
        let second = send(&transport, file(1_000_000), SendOptions::new());
        transport.write(&b"behind"[..]).unwrap();
        run_a_while(&proactor);
        second.handle.cancel();
        second.wait(&proactor);
        assert_eq!((second.end(), second.sent()), (End::Cancelled, 0));
        transport.close();
        let client = read_all(peer);
        first.succeed(&proactor, 2_000_000);
        let mut expected = contents(0, 2_000_000);
        expected.extend(b"behind");
        assert_same(&join(&proactor, client), &expected);
        assert_eq!(run_until_lost(&proactor, &record), None);
    }

    fn a_truncated_file_cuts_the_connection(proactor: Proactor) {
        let (transport, record, peer) = stalled(&proactor);
        let source = file(10_000_000);
        let outcome = send(
            &transport,
            Source::file(source.try_clone().unwrap(), 0..10_000_000),
            SendOptions::new(),
        );
        run_a_while(&proactor);
        source.set_len(5_000_000).unwrap();
        let client = read_until_error(peer);
        outcome.wait(&proactor);
        assert_eq!((outcome.end(), outcome.sent()), (End::Truncated, 5_000_000));
        let (got, error) = join(&proactor, client);
        assert!(error.is_some(), "no close_notify says that this was all");
        assert_same(&got, &contents(0, got.len()));
        assert!(run_until_lost(&proactor, &record).is_some());
    }

    fn reads_that_do_not_return_delay_no_one_else(proactor: Proactor) {
        let dir = tempfile::tempdir().unwrap();
        let stuck = match stuck::Stuck::mount(dir.path()) {
            Ok(stuck) => stuck,
            Err(e) => return not_run(format_args!("no FUSE file system can be mounted: {e}")),
        };
        stuck.release_after(LIMIT);
        let mut waiting = Vec::new();
        for n in 0..12 {
            let (transport, _record, reader) = reading(&proactor, tcp());
            let source = File::open(dir.path().join(n.to_string())).unwrap();
            let outcome = send(&transport, source, SendOptions::new());
            transport.close();
            waiting.push((outcome, reader));
        }
        run_until(&proactor, "reads that wait", || stuck.waiting() > 0);
        let (transport, _record, reader) = reading(&proactor, tcp());
        let hot = send(&transport, file(3_000_000), SendOptions::new());
        transport.close();
        hot.succeed(&proactor, 3_000_000);
        assert_same(&join(&proactor, reader), &contents(0, 3_000_000));
        assert!(waiting.iter().all(|(outcome, _)| !outcome.is_there()));
        stuck.release();
        for (outcome, reader) in waiting {
            outcome.succeed(&proactor, stuck::SIZE);
            assert_eq!(join(&proactor, reader).len() as u64, stuck::SIZE);
        }
    }

    fn progress_rates_and_deadlines_work(proactor: Proactor) {
        let (transport, _record, reader) = reading(&proactor, tcp());
        let told = Rc::new(RefCell::new(Vec::new()));
        let keep = Rc::clone(&told);
        let options = SendOptions::new()
            .rate(40_000_000)
            .progress(move |_, n| keep.borrow_mut().push(n));
        let outcome = send(&transport, file(4_000_000), options);
        transport.close();
        outcome.succeed(&proactor, 4_000_000);
        let told = told.borrow();
        assert!(told.is_sorted() && told.len() >= 4, "{told:?}");
        assert_eq!(told.last(), Some(&4_000_000));
        assert_same(&join(&proactor, reader), &contents(0, 4_000_000));

        let (transport, record, _peer) = stalled(&proactor);
        let soon = SendOptions::new().timeout(Duration::from_millis(50));
        let outcome = send(&transport, file(50_000_000), soon);
        outcome.wait(&proactor);
        assert_eq!(outcome.end(), End::TimedOut);
        assert!(run_until_lost(&proactor, &record).is_some());
    }

    fn sessions_are_resumed(proactor: Proactor) {
        for version in [&TLS12, &TLS13] {
            let (config, asks) = (server_config(), client_config(&[version]));
            for round in 0..2 {
                let (ours, stream) = tcp();
                let (transport, record) =
                    secured(&proactor, ours, Tls::server(config.clone()));
                let asks = asks.clone();
                let client = thread::spawn(move || {
                    let mut peer = peer(stream, asks);
                    // With it come the tickets.
                    peer.read_exact(&mut [0; 5]).unwrap();
                    finish(peer)
                });
                transport.write(&b"hello"[..]).unwrap();
                run_until(&proactor, "the handshake", || record.has(&Note::Made));
                let info = transport.tls_info().unwrap();
                assert_eq!(info.version, version.version);
                assert_eq!(info.resumed, round > 0, "{version:?}");
                assert_eq!(run_until_lost(&proactor, &record), None);
                join(&proactor, client);
            }
        }
    }

    fn what_tls_can_not_be_had_for_is_refused(proactor: Proactor) {
        let tls = || TransportOptions::new().tls(Tls::server(server_config()));
        let (ours, _peer) = tcp();
        let lent = tls().lent(true);
        let refused = Transport::new(&proactor, ours, Box::new(()), &lent).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        let (_reader, writer) = io::pipe().unwrap();
        let pipe = Fd::new(std::os::fd::OwnedFd::from(writer));
        let refused = Transport::new(&proactor, pipe, Box::new(()), &tls()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);

        let (ours, _peer) = tcp();
        let (secure, _) = secured(&proactor, ours, Tls::server(server_config()));
        let (plain, _, _other) = open(&proactor);
        let ended = Rc::new(RefCell::new(None));
        let cell = Rc::clone(&ended);
        relay(&plain, &secure, RelayOptions::new(), move |outcome| {
            *cell.borrow_mut() = Some(outcome);
        });
        run_until(&proactor, "the relay's end", || ended.borrow().is_some());
        let outcome = ended.borrow_mut().take().unwrap();
        assert_eq!(outcome.back.end, End::Failed);
        let error = outcome.back.error.unwrap();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }

    fn nothing_is_left_when_the_proactor_goes(proactor: Proactor) {
        let (ours, _shaking) = tcp();
        let (_first, shaking) = secured(&proactor, ours, Tls::server(server_config()));
        let (second, sending, _peer) = stalled(&proactor);
        let outcome = send(&second, file(50_000_000), by(RouteChoice::Auto));
        run_a_while(&proactor);
        drop(proactor);
        assert!(shaking.is_lost() && sending.is_lost());
        assert_eq!(outcome.end(), End::Cancelled);
    }
}
