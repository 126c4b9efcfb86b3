//! The transport's calls as futures: the same bytes, counts, ends and order as by callbacks, and
//! what dropping one does.

mod common;

use std::future::Future;
use std::io::{self, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use common::*;
use spliceport::proactor::Proactor;
use spliceport::{End, SendFuture, SendOptions, Source, Transport};

/// Polls once, for what is there now.
fn now<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A source that gives so many bytes and then fails.
struct Failing(u64);

impl Read for Failing {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let n = buf.len().min(self.0 as usize);
        buf[..n].fill(b'x');
        self.0 -= n as u64;
        Ok(n)
    }
}

/// A transport whose peer does not read, with a large send that is under way, and not at its end.
fn stalled(proactor: &Proactor) -> (Transport, Record, std::net::TcpStream, SendFuture) {
    let (ours, peer) = tight_tcp();
    let (transport, record) = over(proactor, ours);
    let first = transport.send_file_async(file(8_000_000), SendOptions::new());
    run_a_while(proactor);
    assert!(!first.handle().is_done());
    (transport, record, peer, first)
}

on_both_backends! {
    fn c6_prefix_file_suffix(proactor: Proactor) {
        for route in ROUTES {
            let (transport, _, peer) = open(&proactor);
            let peer = read_all(peer);
            let (prefix, suffix) = (contents(7, 8192), contents(99, 8192));
            transport.write(prefix.clone()).unwrap();
            // Not awaited in this order: the calls' order is what counts.
            let file = transport.send_file_async(file(300_016), by(route));
            let end = transport.write_async(suffix.clone());
            let sent = proactor.block_on(async {
                assert_eq!(end.await.unwrap(), 8192);
                file.await.unwrap()
            });
            assert_eq!(sent.unwrap(), 300_016);
            transport.close();
            let expected = [prefix, contents(0, 300_016), suffix].concat();
            assert_same(&join(&proactor, peer), &expected);
        }
    }

    fn c7_c25_sends_are_ready_in_their_order(proactor: Proactor) {
        let (transport, _, peer) = open(&proactor);
        let peer = read_all(peer);
        let data = file(500_000);
        let fd = spliceport::proactor::Fd::new(data);
        let range = |n: u64| n * 1000..n * 1000 + 200_000;
        let mut sends: Vec<SendFuture> = (0..3)
            .map(|n| {
                let source = Source::file(fd.clone(), range(n));
                transport.send_file_async(source, SendOptions::new())
            })
            .collect();
        let last = sends.pop().unwrap();
        proactor.block_on(last).unwrap().unwrap();
        for mut send in sends {
            let Poll::Ready(Ok(200_000)) = now(&mut send) else {
                panic!("those before are ready before");
            };
        }
        transport.close();
        let expected: Vec<u8> = (0..3).flat_map(|n| contents(range(n).start, 200_000)).collect();
        assert_same(&join(&proactor, peer), &expected);
    }

    fn c12a_the_file_may_be_dropped_at_once(proactor: Proactor) {
        let (transport, _, peer) = open(&proactor);
        let peer = read_all(peer);
        let data = file(1_000_000);
        let duplicate = data.try_clone().unwrap();
        let send = transport.send_file_async(duplicate, SendOptions::new());
        drop(data);
        let outcome = proactor.block_on(send.outcome()).unwrap();
        assert!(outcome.is_success() && !outcome.routes.is_empty(), "{outcome:?}");
        transport.close();
        assert_same(&join(&proactor, peer), &contents(0, 1_000_000));
    }

    fn c28_dropped_before_its_turn_it_leaves_nothing(proactor: Proactor) {
        let (transport, record, peer, first) = stalled(&proactor);
        let second = transport.send_file_async(file(50_000), SendOptions::new());
        let third = transport.write_async("the end");
        drop(second);
        drop(transport.write_async("nor this"));
        let peer = read_all(peer);
        assert_eq!(proactor.block_on(third).unwrap().unwrap(), 7);
        assert_eq!(proactor.block_on(first).unwrap().unwrap(), 8_000_000);
        transport.close();
        let expected = [&contents(0, 8_000_000)[..], b"the end"].concat();
        assert_same(&join(&proactor, peer), &expected);
        run_until(&proactor, "the end", || record.is_lost());
        assert_eq!(record.notes().last(), Some(&Note::Lost(None)));
    }

    fn c28_dropped_midway_it_cuts_the_connection(proactor: Proactor) {
        let (transport, record, peer, first) = stalled(&proactor);
        let mut behind = transport.write_async("behind it");
        drop(first);
        run_until(&proactor, "the end", || record.is_lost());
        let Poll::Ready(Err(error)) = now(&mut behind) else { panic!("it is over") };
        assert_eq!((error.end, error.sent), (End::Cancelled, 0));
        let (got, _) = join(&proactor, read_until_error(peer));
        assert_same(&got, &contents(0, got.len()));
        assert_eq!(proactor.stats().pipes_leased, 0);
        run_until(&proactor, "all has ended", || proactor.stats().in_flight == 0);
    }

    fn c28_c29_a_cancel_tells_the_count(proactor: Proactor) {
        for route in ROUTES {
            let (ours, peer) = tight_tcp();
            let (transport, _) = over(&proactor, ours);
            let options = by(route).keep_connection(true);
            let send = transport.send_file_async(file(8_000_000), options);
            run_a_while(&proactor);
            send.cancel();
            let error = proactor.block_on(send).unwrap().unwrap_err();
            assert_eq!(error.end, End::Cancelled);
            assert!(error.sent > 0 && error.sent < 8_000_000, "{error:?}");
            transport.close();
            let got = join(&proactor, read_all(peer));
            assert_eq!(got.len() as u64, error.sent, "{route:?}");
            assert_same(&got, &contents(0, got.len()));
        }
    }

    fn detached_it_goes_on(proactor: Proactor) {
        let (transport, _, peer, first) = stalled(&proactor);
        first.detach();
        transport.close();
        assert_same(&join(&proactor, read_all(peer)), &contents(0, 8_000_000));
    }

    fn c22_the_peer_goes_away(proactor: Proactor) {
        let (_transport, record, peer, first) = stalled(&proactor);
        drop(peer);
        let error = proactor.block_on(first).unwrap().unwrap_err();
        assert_eq!(error.end, End::PeerGone);
        assert!(error.sent > 0 && error.sent < 8_000_000, "{error:?}");
        let kind = io::Error::from(error).kind();
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(gone.contains(&kind), "{kind}");
        run_until(&proactor, "the end", || record.is_lost());
    }

    fn c32_a_truncated_file_is_an_error_with_the_count(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        let peer = read_until_error(peer);
        let send = transport.send_file_async(Source::file(file(5000), 0..9000), SendOptions::new());
        let error = proactor.block_on(send).unwrap().unwrap_err();
        assert_eq!((error.end, error.sent), (End::Truncated, 5000));
        assert_eq!(error.error.kind(), io::ErrorKind::UnexpectedEof);
        run_until(&proactor, "the end", || record.is_lost());
        let (got, _) = join(&proactor, peer);
        assert_same(&got, &contents(0, got.len()));
    }

    fn c33_a_source_that_fails_after_some_bytes(proactor: Proactor) {
        let (transport, _, _peer) = open(&proactor);
        let source = Source::reader(Failing(70_000), None);
        let send = transport.send_file_async(source, SendOptions::new());
        let error = proactor.block_on(send).unwrap().unwrap_err();
        assert_eq!((error.end, error.sent), (End::Failed, 70_000));
        assert_eq!(error.error.raw_os_error(), Some(libc::EIO));
    }

    fn c20_a_closing_transport_sends_nothing(proactor: Proactor) {
        let (transport, _, _peer) = open(&proactor);
        run_a_while(&proactor);
        transport.close();
        let send = transport.send_file_async(file(1000), SendOptions::new());
        let error = proactor.block_on(send).unwrap().unwrap_err();
        assert_eq!((error.end, error.sent), (End::Closing, 0));
    }

    fn c14_drain_waits_above_the_high_limit_until_the_low_one(proactor: Proactor) {
        let (transport, record, mut peer, first) = stalled(&proactor);
        first.detach();
        transport.set_write_buffer_limits(Some(100_000), Some(50_000)).unwrap();
        let mut drain = transport.drain();
        // The file weighs more than the high limit, as long as it has more left.
        assert!(now(&mut drain).is_pending());
        let mut got = vec![0; 8_000_000];
        let reader = std::thread::spawn(move || {
            peer.read_exact(&mut got).unwrap();
            (peer, got)
        });
        proactor.block_on(drain).unwrap().unwrap();
        let (peer, got) = join(&proactor, reader);
        assert_same(&got, &contents(0, 8_000_000));
        // Nothing is queued: ready at once.
        assert!(matches!(now(&mut transport.drain()), Poll::Ready(Ok(()))));
        // One that waits is told of the end.
        transport.write(vec![0; 9_000_000]).unwrap();
        let mut drain = transport.drain();
        assert!(now(&mut drain).is_pending());
        peer.shutdown(Shutdown::Both).unwrap();
        drop(peer);
        let error = proactor.block_on(drain).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        run_until(&proactor, "the end", || record.is_lost());
    }

    fn c35_the_proactor_is_dropped(proactor: Proactor) {
        let (transport, _, peer, mut first) = stalled(&proactor);
        let mut drain = transport.drain();
        assert!(now(&mut drain).is_pending());
        drop(proactor);
        let Poll::Ready(Err(error)) = now(&mut first) else { panic!("it is over") };
        assert_eq!(error.end, End::Cancelled);
        assert!(error.sent > 0, "{error:?}");
        assert!(matches!(now(&mut drain), Poll::Ready(Err(_))));
        let mut late = transport.send_file_async(file(10), SendOptions::new());
        let Poll::Ready(Err(error)) = now(&mut late) else { panic!("it is over") };
        assert_eq!((error.end, error.sent), (End::Closing, 0));
        drop(peer);
    }
}
