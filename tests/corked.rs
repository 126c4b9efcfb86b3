//! What leaves together, and that nothing is held back for what does not come.

mod common;

use std::cell::Cell;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, SendOptions, Source, Transport};

/// A peer that reads what there is, from time to time.
struct Peer(TcpStream, u64);

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        stream.set_nonblocking(true).unwrap();
        Peer(stream, 0)
    }

    fn take(&mut self) {
        let mut buf = [0; 64 << 10];
        while let Ok(n @ 1..) = self.0.read(&mut buf) {
            self.1 += n as u64;
        }
    }
}

/// Nothing is held back: what the kernel has taken leaves as fast as the peer reads. A socket that
/// has bytes to send, none of them under way, and a peer that has read all, holds them back.
#[track_caller]
fn assert_not_corked(proactor: &Proactor, transport: &Transport, peer: &mut Peer, what: &str) {
    let Some(socket) = transport.fd() else { return };
    let end = Instant::now() + LIMIT;
    let mut idle = 0;
    loop {
        proactor.run_once(Some(Duration::ZERO)).unwrap();
        peer.take();
        if kernel::bytes_not_sent(&socket) == 0 {
            return;
        }
        if kernel::segments_in_flight(&socket) == 0 {
            // What is corked stays so for 200 ms; a segment on its way, no time to speak of.
            std::thread::sleep(Duration::from_millis(1));
            idle += 1;
        } else {
            idle = 0;
        }
        assert!(idle < 40 && Instant::now() < end, "held back: {what}");
    }
}

struct Hangs(mpsc::Receiver<()>);

impl Read for Hangs {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(0)
    }
}

on_both_backends! {
    fn c12_header_and_small_file_leave_in_one_segment(proactor: Proactor) {
        for len in [1, 1000, 12_000] {
            let (transport, _record, mut peer) = open(&proactor);
            run_a_while(&proactor);
            transport.write(contents(0, 200)).unwrap();
            let outcome = send(&transport, file(len), SendOptions::new());
            outcome.succeed(&proactor, len);
            let before = kernel::data_segments_received(&peer);
            let mut bytes = vec![0; 200 + len as usize];
            peer.read_exact(&mut bytes).unwrap();
            // On loopback a segment has up to 64 KiB.
            assert_eq!(before, 1, "{len}");
        }
    }

    fn c12_sends_that_follow_one_another_share_segments(proactor: Proactor) {
        fn next(transport: &Transport, file: Fd, left: u32, over: Rc<Cell<bool>>) {
            let source = Source::file(file.clone(), ..);
            transport.send_file(source, SendOptions::new(), move |transport, _| match left {
                1 => over.set(true),
                _ => next(transport, file, left - 1, over),
            });
        }
        for len in [1000, 10_000] {
            let (transport, _record, peer) = open(&proactor);
            let mut peer = Peer::new(peer);
            let over = Rc::new(Cell::new(false));
            next(&transport, Fd::from(file(len)), 40, Rc::clone(&over));
            run_until(&proactor, "the last send's end", || over.get());
            assert_not_corked(&proactor, &transport, &mut peer, "the last");
            run_until(&proactor, "the last byte", || {
                peer.take();
                peer.1 == 40 * len
            });
            assert!(kernel::data_segments_received(&peer.0) < 20, "{len}");
        }
    }

    fn c12_nothing_stays_corked_after_a_success_or_an_error(proactor: Proactor) {
        for route in ROUTES {
            for len in [1, 3000, 70_000, 1_100_001] {
                let f = Fd::from(file(len));
                for extra in [0, 100_000] {
                    let (transport, _record, peer) = open(&proactor);
                    let mut peer = Peer::new(peer);
                    transport.write(&b"head"[..]).unwrap();
                    let source = Source::file(f.clone(), 0..len + extra);
                    let outcome = send(&transport, source, by(route).keep_connection(true));
                    run_until(&proactor, "the send's end", || {
                        peer.take();
                        outcome.is_there()
                    });
                    let end = if extra > 0 { End::Truncated } else { End::Complete };
                    assert_eq!((outcome.sent(), outcome.end()), (len, end));
                    let what = format!("{route:?} {len} {extra}");
                    assert_not_corked(&proactor, &transport, &mut peer, &what);
                    run_until(&proactor, "the last byte", || {
                        peer.take();
                        peer.1 == 4 + len
                    });
                }
            }
        }
    }

    fn c12_nothing_stays_corked_after_a_cancel_or_a_deadline(proactor: Proactor) {
        for route in ROUTES {
            for deadline in [false, true] {
                let (ours, peer) = tight_tcp();
                let (transport, _record) = over(&proactor, ours);
                let mut peer = Peer::new(peer);
                let mut options = by(route).keep_connection(true);
                if deadline {
                    options = options.timeout(Duration::from_millis(60));
                }
                let outcome = send(&transport, file(5_000_000), options);
                run_a_while(&proactor);
                if !deadline {
                    outcome.handle.cancel();
                }
                outcome.wait(&proactor);
                // The time may be up before anything is sent.
                assert!(deadline || outcome.sent() > 0);
                assert!(outcome.sent() < 5_000_000);
                let what = format!("{route:?} {deadline}");
                assert_not_corked(&proactor, &transport, &mut peer, &what);
                run_until(&proactor, "the last byte", || {
                    peer.take();
                    peer.1 == outcome.sent()
                });
            }
        }
    }

    fn c12_nothing_stays_corked_for_what_does_not_come(proactor: Proactor) {
        // What is queued behind seems to come at once, and has nothing, or waits.
        for route in ROUTES {
            for behind in 0..8 {
                for len in [1, 3000, 70_000] {
                    let (transport, _record, peer) = open(&proactor);
                    let mut peer = Peer::new(peer);
                    transport.write(&b"head"[..]).unwrap();
                    let options = || by(route).keep_connection(true);
                    let outcome = send(&transport, file(len), options());
                    let mut kept: Vec<Box<dyn std::any::Any>> = Vec::new();
                    match behind {
                        0 => drop(send(&transport, empty_file(), options())),
                        1 => send(&transport, file(100_000), options()).handle.cancel(),
                        2 => drop(send(&transport, Source::file(file(5), 5..9), options())),
                        3 => {
                            let directory = std::fs::File::open("/").unwrap();
                            drop(send(&transport, directory, options()));
                        }
                        4 => {
                            let (reading, writing) = std::io::pipe().unwrap();
                            let source = Source::file(OwnedFd::from(reading), ..);
                            drop(send(&transport, source, options()));
                            kept.push(Box::new(writing));
                        }
                        5 => {
                            let (let_go, hangs) = mpsc::channel();
                            let source = Source::reader(Hangs(hangs), None);
                            drop(send(&transport, source, options()));
                            kept.push(Box::new(let_go));
                        }
                        6 => {
                            // One byte a minute.
                            let slow = SendOptions::new().rate(1);
                            drop(send(&transport, file(1000), slow));
                            drop(send(&transport, file(1000), options()));
                        }
                        _ => {
                            // Nothing comes of the first, and the second waits.
                            let (reading, writing) = std::io::pipe().unwrap();
                            drop(send(&transport, Source::file(file(5), 5..9), options()));
                            let source = Source::file(OwnedFd::from(reading), ..);
                            drop(send(&transport, source, options()));
                            kept.push(Box::new(writing));
                        }
                    }
                    run_until(&proactor, "the send's end", || {
                        peer.take();
                        outcome.is_there()
                    });
                    let what = format!("{route:?} {behind} {len}");
                    assert_not_corked(&proactor, &transport, &mut peer, &what);
                    run_until(&proactor, "the last byte", || {
                        peer.take();
                        peer.1 >= 4 + len
                    });
                    transport.abort();
                }
            }
        }
    }
}
