//! Signals: what interrupts system calls, and what kills. In processes of their own.

mod common;

use std::io::{self, Cursor, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::process::in_processes_of_their_own;
use common::*;
use spliceport::proactor::{BackendChoice, Fd};
use spliceport::{End, RouteChoice, SendOptions, Source};

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Signals to this thread, at a high rate, until it is dropped. Their handler restarts no call.
struct Storm {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    fn begin() -> Storm {
        kernel::count_signal(libc::SIGUSR1, &SEEN);
        let over = Arc::new(AtomicBool::new(false));
        let target = kernel::this_thread();
        let until = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                kernel::signal_thread(target, libc::SIGUSR1);
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        Storm {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A peer that writes 200 000 bytes and then reads to the end.
fn talk(peer: std::net::TcpStream) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        (&peer).write_all(&contents(0, 200_000)).unwrap();
        read_all(peer).join().unwrap()
    })
}

in_processes_of_their_own! {
    fn c31_a_storm_of_signals(backend: BackendChoice) {
        let proactor = build(builder(backend));
        let storm = Storm::begin();
        // However fast this machine is.
        let enough = || SEEN.load(Ordering::Relaxed) > 500;
        let rounds = std::iter::from_fn(|| (!enough()).then_some(ROUTES));
        for route in ROUTES.into_iter().chain(rounds.flatten()) {
            let cold = file(1_000_000);
            cold.sync_all().unwrap();
            kernel::forget_cached(&cold);
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            record.half_open.set(true);
            let reader = talk(peer);
            let (reading, mut writing) = io::pipe().unwrap();
            let writer = std::thread::spawn(move || writing.write_all(&contents(0, 300_000)));
            let sends = [
                send(&transport, Source::file(Fd::from(cold), ..), by(route)),
                send(&transport, Source::file(OwnedFd::from(reading), ..), by(route)),
                send(&transport, Source::file(file(100_000), 1..), by(route)),
                send(&transport, Source::reader(Cursor::new(contents(0, 50_000)), None), by(route)),
            ];
            transport.write(contents(0, 200_000)).unwrap();
            run_until(&proactor, "what the peer wrote", || record.received().len() == 200_000);
            transport.close();
            for (outcome, len) in sends.iter().zip([1_000_000, 300_000, 99_999, 50_000]) {
                outcome.succeed(&proactor, len);
            }
            join(&proactor, writer).unwrap();
            let expected = [
                contents(0, 1_000_000),
                contents(0, 300_000),
                contents(1, 99_999),
                contents(0, 50_000),
                contents(0, 200_000),
            ];
            assert_same(&join(&proactor, reader), &expected.concat());
            run_until(&proactor, "the end", || record.is_lost());
            assert_eq!(record.signals().last(), Some(&Note::Lost(None)));
        }
        drop(storm);
    }

    fn c31a_the_kernels_own_words_stay_inside(backend: BackendChoice) {
        let proactor = build(builder(backend));
        let storm = Storm::begin();
        for route in ROUTES {
            for turns in 0..12 {
                for fate in 0..4 {
                    let (ours, peer) = tight_tcp();
                    let (transport, record) = over(&proactor, ours);
                    let mut options = by(route).keep_connection(fate == 0);
                    if fate == 1 {
                        options = options.timeout(Duration::from_millis(turns));
                    }
                    let outcome = send(&transport, file(2_000_000), options);
                    for _ in 0..turns {
                        proactor.run_once(Some(Duration::from_micros(200))).unwrap();
                    }
                    let mut peer = Some(peer);
                    match fate {
                        0 => outcome.handle.cancel(),
                        1 => {}
                        2 => drop(peer.take()),
                        _ => transport.abort(),
                    }
                    outcome.wait(&proactor);
                    assert!(!matches!(outcome.end(), End::Failed | End::Truncated | End::Closing));
                    // What an error of the system's may be: the peer's going, and nothing else.
                    let errno = outcome.errno();
                    assert!(
                        matches!(errno, None | Some(libc::EPIPE | libc::ECONNRESET)),
                        "{route:?} {turns} {fate}: {errno:?}",
                    );
                    transport.abort();
                    run_until(&proactor, "the end", || record.is_lost());
                    if let Some(Note::Lost(Some(kind))) = record.signals().last() {
                        assert_ne!(*kind, io::ErrorKind::Interrupted);
                        assert_ne!(*kind, io::ErrorKind::WouldBlock);
                    }
                }
            }
        }
        drop(storm);
    }

    fn c40_sigpipe_kills_no_one(backend: BackendChoice) {
        // Rust's runtime ignores it; programs that embed us may not.
        kernel::default_signal(libc::SIGPIPE);
        let proactor = build(builder(backend));
        for route in ROUTES {
            for midway in [false, true] {
                let (tcp, tcp_peer) = tight_tcp();
                let (unix, unix_peer) = UnixStream::pair().unwrap();
                let (reading, writing) = io::pipe().unwrap();
                let mut peers: Vec<Box<dyn std::any::Any>> =
                    vec![Box::new(tcp_peer), Box::new(unix_peer), Box::new(reading)];
                if !midway {
                    peers.clear();
                }
                let ours = [tcp, Fd::from(OwnedFd::from(unix)), Fd::from(OwnedFd::from(writing))];
                let connections = ours.map(|fd| {
                    let (transport, record) = over(&proactor, fd);
                    let outcome = send(&transport, file(5_000_000), by(route));
                    transport.write(contents(0, 100_000)).unwrap();
                    (transport, record, outcome)
                });
                run_a_while(&proactor);
                peers.clear();
                for (transport, record, outcome) in connections {
                    run_until(&proactor, "the end", || record.is_lost());
                    assert_eq!(outcome.end(), End::PeerGone);
                    transport.write(&b"x"[..]).ok();
                }
            }
        }
        // And what is only written.
        let (transport, record, peer) = open(&proactor);
        drop(peer);
        for _ in 0..20 {
            let _ = transport.write(contents(0, 100_000));
            run_a_while(&proactor);
        }
        assert!(record.is_lost());
        let (outcome, _) = sandwich(&proactor, tcp(), file(10), RouteChoice::Auto);
        outcome.succeed(&proactor, 10);
        drop(send(&transport, file(1), SendOptions::new()));
    }
}
