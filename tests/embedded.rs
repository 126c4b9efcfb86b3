//! The proactor inside another loop, which knows its descriptor and nothing else: poll(2), one turn,
//! poll(2) again. A wake-up that is lost ends the test.

mod common;

use std::cell::Cell;
use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use spliceport::proactor::net::ListenOptions;
use spliceport::proactor::{Address, Fd, Proactor};
use spliceport::{End, Listener, Protocol, SendOptions, Source, Transport, TransportOptions};

const LEN: u64 = 3_000_000;

/// Waits as another loop does, and lets the proactor have its turns.
#[track_caller]
fn embed(proactor: &Proactor, what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    let limit = Timespec::try_from(LIMIT).unwrap();
    while !so() {
        let mut entry = [PollFd::from_borrowed_fd(proactor.as_fd(), PollFlags::IN)];
        let ready = poll(&mut entry, Some(&limit)).unwrap();
        assert!(
            ready == 1 && Instant::now() < end,
            "a wake-up was lost: {what}"
        );
        proactor.run_once(Some(Duration::ZERO)).unwrap();
    }
}

/// Answers each byte with a file, by the route that the byte says.
struct Answers {
    file: Fd,
    answered: Rc<Cell<usize>>,
}

impl Protocol for Answers {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        for byte in data {
            transport.write(vec![*byte]).unwrap();
            let route = ROUTES[*byte as usize % ROUTES.len()];
            let source = Source::file(self.file.clone(), u64::from(*byte)..);
            let answered = Rc::clone(&self.answered);
            transport.send_file(source, by(route), move |_, outcome| {
                assert!(outcome.is_success(), "{outcome:?}");
                answered.set(answered.get() + 1);
            });
        }
    }
}

on_both_backends! {
    fn c41_a_server_inside_another_loop(proactor: Proactor) {
        let any = Address::from("127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap());
        let file = Fd::from(file(LEN));
        let answered = Rc::new(Cell::new(0));
        let factory = {
            let (file, answered) = (file.clone(), Rc::clone(&answered));
            move |_: &Fd| {
                let (file, answered) = (file.clone(), Rc::clone(&answered));
                Some(Box::new(Answers { file, answered }) as Box<dyn Protocol>)
            }
        };
        let (listen, options) = (ListenOptions::default(), TransportOptions::new());
        let listener = Listener::bind(&proactor, &any, &listen, options, factory).unwrap();
        let address = listener.local_addr().unwrap().as_inet().unwrap();
        let clients: Vec<_> = (0..6_u8)
            .map(|client| {
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(LIMIT)).unwrap();
                    for request in 0..5 {
                        let byte = 1 + client * 5 + request;
                        stream.write_all(&[byte]).unwrap();
                        let len = (LEN - u64::from(byte)) as usize;
                        let mut answer = vec![0; 1 + len];
                        stream.read_exact(&mut answer).unwrap();
                        assert_eq!(answer[0], byte);
                        assert_same(&answer[1..], &contents(u64::from(byte), len));
                    }
                })
            })
            .collect();
        embed(&proactor, "the answers", || answered.get() == 30);
        for client in clients {
            // They have all that they read; nothing of the loop's is needed.
            client.join().unwrap();
        }
    }

    fn c41_each_kind_of_wake_up(proactor: Proactor) {
        for route in ROUTES {
            // A peer that is slow, a timer, a worker, a pipe, a cancel, a post from afar.
            let (ours, peer) = tight_tcp();
            let (transport, record) = over(&proactor, ours);
            let (reading, writing) = std::io::pipe().unwrap();
            let keep = || by(route).keep_connection(true);
            let sends = [
                send(&transport, common::file(300_000), keep()),
                send(&transport, common::file(4000), keep().rate(100_000)),
                send(&transport, Source::reader(Cursor::new(contents(0, 70_000)), None), keep()),
                send(&transport, Source::file(OwnedFd::from(reading), ..), keep()),
            ];
            let timed = send(&transport, common::file(10), keep().timeout(Duration::from_millis(5)));
            embed(&proactor, "a deadline", || timed.is_there());
            assert_eq!(timed.end(), End::TimedOut);
            let cancelled = send(&transport, common::file(10), SendOptions::new());
            cancelled.handle.cancel();
            embed(&proactor, "a cancel", || cancelled.is_there());
            let reader = read_all(peer);
            let writer = std::thread::spawn(move || (&writing).write_all(&contents(0, 200_000)));
            let remote = proactor.remote();
            thread_local!(static POSTED: Cell<bool> = const { Cell::new(false) });
            let poster = std::thread::spawn(move || remote.post(|_| POSTED.set(true)).is_ok());
            embed(&proactor, "a post", || POSTED.take());
            embed(&proactor, "the sends", || sends.iter().all(Outcome::is_there));
            transport.close();
            embed(&proactor, "the end", || record.is_lost());
            assert!(poster.join().unwrap());
            writer.join().unwrap().unwrap();
            let expected = [contents(0, 300_000), contents(0, 4000), contents(0, 70_000), contents(0, 200_000)];
            assert_same(&reader.join().unwrap(), &expected.concat());
        }
    }
}
