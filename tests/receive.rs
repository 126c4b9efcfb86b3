//! Files received: what is in the file, what comes to the protocol, and what the outcome says, on
//! each route.

mod common;

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::{Fd, Proactor, net};
use spliceport::{
    End, FileSync, Protocol, ReceiveHandle, ReceiveOptions, ReceiveOutcome, Route, RouteChoice,
    SendOptions, Sink, Transport, TransportOptions,
};

const LEN: u64 = 3_000_000;

/// The ways in, and the transport's own choice.
const WAYS: [RouteChoice; 4] = [
    RouteChoice::Auto,
    RouteChoice::Force(Route::Copy),
    RouteChoice::Force(Route::Chain),
    RouteChoice::Force(Route::Inline),
];

struct Receive {
    cell: Rc<RefCell<Option<ReceiveOutcome>>>,
    handle: ReceiveHandle,
}

/// Receives, noting the outcome, in the record as well; it comes once, and not inside this call.
fn receive(
    transport: &Transport,
    record: &Record,
    sink: impl Into<Sink>,
    options: ReceiveOptions,
) -> Receive {
    let cell = Rc::new(RefCell::new(None));
    let handle = {
        let (cell, record) = (Rc::clone(&cell), record.clone());
        transport.receive_file(sink, options, move |_, outcome| {
            record.inside(|| record.note(Note::Sent(0, outcome.received, outcome.end)));
            assert!(cell.borrow_mut().replace(outcome).is_none(), "called twice");
        })
    };
    assert!(cell.borrow().is_none(), "called from inside the call");
    Receive { cell, handle }
}

impl Receive {
    fn is_there(&self) -> bool {
        self.cell.borrow().is_some()
    }

    #[track_caller]
    fn wait(&self, proactor: &Proactor) -> ReceiveOutcome {
        run_until(proactor, "a receive's end", || self.is_there());
        assert!(self.handle.is_done());
        self.cell.borrow_mut().take().unwrap()
    }

    #[track_caller]
    fn succeed(&self, proactor: &Proactor, received: u64) -> (End, Vec<Route>) {
        let outcome = self.wait(proactor);
        assert!(outcome.is_success(), "{outcome:?}");
        assert!(outcome.error.is_none(), "{outcome:?}");
        assert_eq!(outcome.received, received);
        (outcome.end, outcome.routes.iter().collect())
    }
}

fn way(route: RouteChoice) -> ReceiveOptions {
    ReceiveOptions::new().route(route)
}

/// Has a peer write on a thread of its own; it gives the peer back.
fn write_on_thread(mut peer: TcpStream, bytes: Vec<u8>) -> JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        // The other end may go away meanwhile.
        let _ = peer.write_all(&bytes);
        peer
    })
}

fn bytes_of(mut file: &File) -> Vec<u8> {
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A file, and a second handle to it.
fn target() -> (File, File) {
    let file = empty_file();
    let other = file.try_clone().unwrap();
    (file, other)
}

/// Receives a file behind a line with its length, as protocols do.
struct Lines {
    record: Record,
    files: Rc<RefCell<Vec<File>>>,
    way: RouteChoice,
}

impl Protocol for Lines {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let end = data.iter().position(|b| *b == b'\n').expect("a whole line");
        let len: u64 = std::str::from_utf8(&data[..end]).unwrap().parse().unwrap();
        let (file, ours) = target();
        self.files.borrow_mut().push(ours);
        let options = way(self.way).prefix(data[end + 1..].to_vec());
        let record = self.record.clone();
        transport.receive_file(Sink::file(file, ..len), options, move |_, outcome| {
            record.note(Note::Sent(0, outcome.received, outcome.end));
        });
    }

    fn connection_lost(&mut self, error: Option<io::Error>) {
        self.record.note(Note::Lost(error.map(|e| e.kind())));
    }
}

on_both_backends! {
    fn a_file_and_what_follows_it(proactor: Proactor) {
        for route in WAYS {
            for len in [0, 1, 4096, 65_537, LEN] {
                let (transport, record, peer) = open(&proactor);
                record.half_open.set(true);
                let (file, ours) = target();
                let incoming = receive(&transport, &record, Sink::file(file, 7..7 + len), way(route));
                let mut bytes = contents(7, len as usize);
                bytes.extend_from_slice(b"and more");
                let peer = write_on_thread(peer, bytes);
                let (end, routes) = incoming.succeed(&proactor, len);
                assert_eq!(end, End::Complete);
                run_until(&proactor, "what follows", || record.received() == b"and more");
                assert_same(bytes_of(&ours).get(7..).unwrap_or(&[]), &contents(7, len as usize));
                match route {
                    RouteChoice::Force(route) if len > 0 => assert_eq!(routes, [route]),
                    _ => assert_eq!(routes.is_empty(), len == 0),
                }
                drop(join(&proactor, peer));
                run_until(&proactor, "the end", || record.has(&Note::End));
                assert_eq!(record.signals()[1], Note::Sent(0, len, End::Complete));
            }
        }
    }

    fn until_the_end_of_the_stream(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, file, way(route));
            let peer = write_on_thread(peer, contents(0, LEN as usize));
            drop(join(&proactor, peer));
            assert_eq!(incoming.succeed(&proactor, LEN).0, End::EndOfFile);
            assert_same(&bytes_of(&ours), &contents(0, LEN as usize));
            run_until(&proactor, "the end", || record.is_lost());
            let last = [Note::Sent(0, LEN, End::EndOfFile), Note::End, Note::Lost(None)];
            assert_eq!(record.signals()[1..], last);
            // Behind the end there is nothing to receive.
            let closed = receive(&transport, &record, empty_file(), way(route));
            assert_eq!(closed.wait(&proactor).end, End::Closing);
        }
    }

    fn a_stream_that_ends_early(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            record.half_open.set(true);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
            peer.write_all(&contents(0, 100_000)).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            let outcome = incoming.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (100_000, End::Truncated));
            let error = outcome.into_result().unwrap_err();
            assert_eq!(io::Error::from(error).kind(), io::ErrorKind::UnexpectedEof);
            assert_same(&bytes_of(&ours), &contents(0, 100_000));
            run_until(&proactor, "the end", || record.has(&Note::End));
            // One that begins there ends there.
            let (file, _) = target();
            let empty = receive(&transport, &record, file, way(route));
            assert_eq!(empty.succeed(&proactor, 0).0, End::EndOfFile);
            assert_eq!(record.count(&Note::End), 1);
            // The other direction is as it was.
            transport.write(&b"thanks"[..]).unwrap();
            transport.close();
            assert_eq!(join(&proactor, read_all(peer)), b"thanks");
        }
    }

    fn behind_a_header_in_the_same_bytes(proactor: Proactor) {
        for route in WAYS {
            let (ours, peer) = tcp();
            let (record, files) = (Record::new(), Rc::default());
            let protocol = Lines { record: record.clone(), files: Rc::clone(&files), way: route };
            let options = TransportOptions::new();
            let _transport = Transport::new(&proactor, ours, Box::new(protocol), &options).unwrap();
            // Whole ones in one segment, one that is cut into many, an empty one.
            let lens = [5_usize, 0, 300_000, 1, 2_000_000];
            let mut bytes = Vec::new();
            for len in lens {
                bytes.extend_from_slice(format!("{len}\n").as_bytes());
                bytes.extend_from_slice(&contents(len as u64, len));
            }
            // A line must come whole, so what is in front of one waits for it.
            let peer = write_on_thread(peer, bytes);
            run_until(&proactor, "the files", || record.notes().len() == lens.len());
            drop(join(&proactor, peer));
            run_until(&proactor, "the end", || record.is_lost());
            for (len, file) in lens.into_iter().zip(files.borrow().iter()) {
                assert_same(&bytes_of(file), &contents(len as u64, len));
            }
        }
    }

    fn bytes_given_back_go_first_and_what_is_too_much_comes_again(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            peer.write_all(b"-wire").unwrap();
            run_until(&proactor, "the bytes", || record.received() == b"-wire");
            peer.write_all(b"-later").unwrap();
            let (file, ours) = target();
            let options = way(route).prefix(&b"prefix-wire"[..]);
            let incoming = receive(&transport, &record, Sink::file(file, ..9), options);
            incoming.succeed(&proactor, 9);
            assert_eq!(bytes_of(&ours), b"prefix-wi");
            run_until(&proactor, "the rest", || record.received() == b"-wirere-later");
            let (file, ours) = target();
            let options = way(route).prefix(&b"ab"[..]);
            let incoming = receive(&transport, &record, Sink::file(file, ..5), options);
            peer.write_all(b"cde").unwrap();
            incoming.succeed(&proactor, 5);
            assert_eq!(bytes_of(&ours), b"abcde");
        }
    }

    fn several_follow_one_another(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let files: Vec<_> = (0..4).map(|_| target()).collect();
            let mut ours = Vec::new();
            let incoming: Vec<_> = files
                .into_iter()
                .map(|(file, other)| {
                    ours.push(other);
                    receive(&transport, &record, Sink::file(file, ..400_000), way(route))
                })
                .collect();
            // One that waits ends at once, and takes nothing.
            incoming[2].handle.cancel();
            let cancelled = incoming[2].wait(&proactor);
            assert_eq!((cancelled.received, cancelled.end), (0, End::Cancelled));
            let peer = write_on_thread(peer, contents(0, 1_300_000));
            for (i, at) in [(0, 0), (1, 400_000), (3, 800_000)] {
                incoming[i].succeed(&proactor, 400_000);
                assert_same(&bytes_of(&ours[i]), &contents(at, 400_000));
            }
            run_until(&proactor, "the rest", || record.received().len() == 100_000);
            assert_same(&record.received(), &contents(1_200_000, 100_000));
            drop(join(&proactor, peer));
        }
    }

    fn at_the_position_and_at_the_end(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let (mut file, mut ours) = target();
            file.write_all(b"before").unwrap();
            let sink = Sink::at_position(file, Some(500_000));
            let incoming = receive(&transport, &record, sink, way(route));
            let path = path();
            std::fs::write(&path, b"begun").unwrap();
            let append = File::options().append(true).open(&path).unwrap();
            let appending = receive(&transport, &record, Sink::file(append, ..500_000), way(route));
            let peer = write_on_thread(peer, contents(0, 1_000_000));
            incoming.succeed(&proactor, 500_000);
            assert_eq!(ours.stream_position().unwrap(), 500_006);
            assert_same(&bytes_of(&ours)[6..], &contents(0, 500_000));
            // Into a file that is appended to the kernel does not splice.
            let (_, routes) = appending.succeed(&proactor, 500_000);
            assert_eq!(routes, [Route::Copy]);
            let appended = std::fs::read(&path).unwrap();
            assert_eq!(&appended[..5], b"begun");
            assert_same(&appended[5..], &contents(500_000, 500_000));
            std::fs::remove_file(path).unwrap();
            drop(join(&proactor, peer));
        }
    }

    fn a_cancel_loses_nothing(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
            let peer = write_on_thread(peer, contents(0, 1_000_000));
            for _ in 0..3 {
                proactor.run_once(Some(Duration::from_millis(5))).unwrap();
            }
            incoming.handle.cancel();
            incoming.handle.cancel();
            let outcome = incoming.wait(&proactor);
            assert_eq!(outcome.end, End::Cancelled);
            let received = outcome.received as usize;
            run_until(&proactor, "the rest", || received + record.received().len() == 1_000_000);
            assert_same(&bytes_of(&ours), &contents(0, received));
            assert_same(&record.received(), &contents(received as u64, 1_000_000 - received));
            assert!(!transport.is_closing());
            drop(join(&proactor, peer));
        }
    }

    fn one_that_waits_for_its_peer_can_be_cancelled_and_times_out(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..100), way(route));
            peer.write_all(b"half").unwrap();
            run_a_while(&proactor);
            incoming.handle.cancel();
            let outcome = incoming.wait(&proactor);
            assert_eq!(outcome.end, End::Cancelled);
            let all = [bytes_of(&ours), record.received()].concat();
            assert!(b"half".starts_with(&all[..]) || record.received().is_empty());
            run_until(&proactor, "all", || {
                [bytes_of(&ours), record.received()].concat() == b"half"
            });
            assert_eq!(outcome.received, bytes_of(&ours).len() as u64);

            let options = way(route).timeout(Duration::from_millis(20));
            let late = receive(&transport, &record, Sink::file(empty_file(), ..100), options);
            let outcome = late.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::TimedOut));
            assert_eq!(outcome.error.unwrap().kind(), io::ErrorKind::TimedOut);
            // The connection goes on.
            peer.write_all(b"!").unwrap();
            run_until(&proactor, "what follows", || record.received().ends_with(b"!"));
        }
    }

    fn pausing_holds_back_what_is_for_the_protocol_alone(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            run_until(&proactor, "the beginning", || record.has(&Note::Made));
            transport.pause_reading();
            peer.write_all(&contents(0, 200_000)).unwrap();
            run_a_while(&proactor);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..150_000), way(route));
            incoming.succeed(&proactor, 150_000);
            assert_same(&bytes_of(&ours), &contents(0, 150_000));
            run_a_while(&proactor);
            assert!(record.received().is_empty());
            transport.resume_reading();
            run_until(&proactor, "the rest", || record.received().len() == 50_000);
            assert_same(&record.received(), &contents(150_000, 50_000));
            // Paused and resumed meanwhile, it is the receive's all the same.
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..20), way(route));
            transport.pause_reading();
            peer.write_all(b"0123456789").unwrap();
            run_a_while(&proactor);
            transport.resume_reading();
            run_a_while(&proactor);
            peer.write_all(b"01234567890").unwrap();
            incoming.succeed(&proactor, 20);
            assert_eq!(bytes_of(&ours), b"01234567890123456789");
            run_until(&proactor, "the rest", || record.received().len() == 50_001);
        }
    }

    fn one_that_waits_for_its_turn_is_cancelled_at_once(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            let (file, ours) = target();
            let first = receive(&transport, &record, Sink::file(file, ..20), way(route));
            let second = receive(&transport, &record, Sink::file(empty_file(), ..7), way(route));
            let late = way(route).timeout(Duration::from_millis(1));
            let third = receive(&transport, &record, Sink::file(empty_file(), ..7), late);
            run_a_while(&proactor);
            // The first waits for its peer meanwhile, who may take for ever.
            second.handle.cancel();
            let outcome = second.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::Cancelled));
            let outcome = third.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::TimedOut));
            assert!(!first.is_there());
            peer.write_all(b"01234567890123456789").unwrap();
            first.succeed(&proactor, 20);
            assert_eq!(bytes_of(&ours), b"01234567890123456789");
        }
    }

    fn what_a_close_drops_is_no_end_of_stream(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            transport.pause_reading();
            peer.write_all(&contents(0, 5_000)).unwrap();
            peer.shutdown(Shutdown::Write).unwrap();
            run_a_while(&proactor);
            let first = receive(&transport, &record, Sink::file(empty_file(), ..10), way(route));
            first.succeed(&proactor, 10);
            let rest = receive(&transport, &record, empty_file(), way(route));
            transport.close();
            let outcome = rest.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::Cancelled));
        }
    }

    fn close_and_abort_end_it(proactor: Proactor) {
        for route in WAYS {
            for abort in [false, true] {
                let (transport, record, mut peer) = open(&proactor);
                let (file, ours) = target();
                let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
                let behind = receive(&transport, &record, Sink::file(empty_file(), ..1), way(route));
                peer.write_all(&contents(0, 50_000)).unwrap();
                run_a_while(&proactor);
                if abort {
                    transport.abort();
                } else {
                    transport.close();
                }
                let outcome = incoming.wait(&proactor);
                assert_eq!(outcome.end, End::Cancelled);
                assert_same(&bytes_of(&ours), &contents(0, outcome.received as usize));
                let behind = behind.wait(&proactor);
                assert_eq!((behind.received, behind.end), (0, End::Cancelled));
                run_until(&proactor, "the end", || record.is_lost());
                assert!(record.received().is_empty());
            }
        }
    }

    fn a_peer_that_resets(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
            peer.write_all(&contents(0, 50_000)).unwrap();
            run_until(&proactor, "its beginning", || ours.metadata().unwrap().len() > 0);
            net::set_reset_on_close(&Fd::new(OwnedFd::from(peer))).unwrap();
            let outcome = incoming.wait(&proactor);
            assert_eq!(outcome.end, End::PeerGone);
            assert_eq!(outcome.error.unwrap().kind(), io::ErrorKind::ConnectionReset);
            assert_same(&bytes_of(&ours), &contents(0, outcome.received as usize));
            run_until(&proactor, "the end", || record.is_lost());
            let lost = Note::Lost(Some(io::ErrorKind::ConnectionReset));
            assert_eq!(record.signals().last(), Some(&lost));
        }
    }

    fn a_full_disk(proactor: Proactor) {
        let Some(disk) = SmallDisk::mount(96 << 10) else {
            return not_run("a file system can't be mounted here");
        };
        for route in WAYS {
            let (transport, record, mut peer) = open(&proactor);
            record.half_open.set(true);
            let path = disk.0.join("file");
            let file = File::create(&path).unwrap();
            let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
            peer.write_all(&contents(0, 300_000)).unwrap();
            let outcome = incoming.wait(&proactor);
            assert_eq!(outcome.end, End::Failed);
            let error = outcome.error.unwrap();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
            assert!(outcome.received <= 96 << 10);
            let there = std::fs::read(&path).unwrap();
            assert_same(&there[..outcome.received as usize], &contents(0, outcome.received as usize));
            // Nothing of what came is lost.
            let left = 300_000 - outcome.received as usize;
            run_until(&proactor, "the rest", || record.received().len() == left);
            assert_same(&record.received(), &contents(outcome.received, left));
            std::fs::remove_file(&path).unwrap();
        }
    }

    fn destinations_that_fail(proactor: Proactor) {
        let (read_only, _) = target();
        let path = path();
        std::fs::write(&path, b"").unwrap();
        drop(read_only);
        let cases: [(Sink, io::ErrorKind); 5] = [
            (Sink::file(File::open(&path).unwrap(), ..10), io::ErrorKind::PermissionDenied),
            (Sink::file(File::open("/").unwrap(), ..10), io::ErrorKind::IsADirectory),
            (
                Sink::file(File::options().write(true).open("/dev/full").unwrap(), ..10),
                io::ErrorKind::StorageFull,
            ),
            (
                Sink::file(File::options().write(true).open("/dev/null").unwrap(), 1..10),
                io::ErrorKind::InvalidInput,
            ),
            (
                Sink::file(empty_file(), u64::MAX - 20..u64::MAX - 10),
                io::ErrorKind::Other,
            ),
        ];
        let (transport, record, mut peer) = open(&proactor);
        let mut expected = Vec::new();
        for (sink, kind) in cases {
            let incoming = receive(&transport, &record, sink, ReceiveOptions::new());
            peer.write_all(b"0123456789").unwrap();
            expected.extend_from_slice(b"0123456789");
            let outcome = incoming.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::Failed));
            let error = outcome.error.unwrap();
            assert!(error.kind() == kind || kind == io::ErrorKind::Other, "{error:?}");
            run_until(&proactor, "the bytes", || record.received() == expected);
        }
        std::fs::remove_file(path).unwrap();
    }

    fn pipes_and_sockets_as_destinations(proactor: Proactor) {
        for route in [WAYS[0], WAYS[1]] {
            let (transport, record, peer) = open(&proactor);
            let (reader, writer) = io::pipe().unwrap();
            let sink = Sink::file(Fd::new(OwnedFd::from(writer)), ..LEN);
            let incoming = receive(&transport, &record, sink, way(route));
            let (socket, other) = tight_tcp();
            let sink = Sink::at_position(socket.clone(), None);
            let rest = receive(&transport, &record, sink, way(route));
            drop(socket);
            let peer = write_on_thread(peer, contents(0, LEN as usize + 300_000));
            let (reader, other) = (read_all(reader), read_all(other));
            incoming.succeed(&proactor, LEN);
            assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
            drop(join(&proactor, peer));
            assert_eq!(rest.succeed(&proactor, 300_000).0, End::EndOfFile);
            assert_same(&join(&proactor, other), &contents(LEN, 300_000));
        }
        // One that nobody reads any more.
        for route in [WAYS[0], WAYS[1]] {
            let (transport, record, mut peer) = open(&proactor);
            let (reader, writer) = io::pipe().unwrap();
            drop(reader);
            let sink = Sink::file(Fd::new(OwnedFd::from(writer)), ..LEN);
            let incoming = receive(&transport, &record, sink, way(route));
            peer.write_all(b"hello").unwrap();
            let outcome = incoming.wait(&proactor);
            assert_eq!((outcome.received, outcome.end), (0, End::Failed));
            assert_eq!(outcome.error.unwrap().kind(), io::ErrorKind::BrokenPipe);
            run_until(&proactor, "the bytes", || record.received() == b"hello");
        }
    }

    fn from_unix_sockets_and_pipes(proactor: Proactor) {
        for route in WAYS {
            let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
            let (reader, writer) = io::pipe().unwrap();
            let ends: [(OwnedFd, Box<dyn Write + Send>); 2] =
                [(ours.into(), Box::new(peer)), (reader.into(), Box::new(writer))];
            for (end, mut peer) in ends {
                let (transport, record) = over(&proactor, Fd::new(end));
                let (file, ours) = target();
                let incoming = receive(&transport, &record, Sink::file(file, ..LEN), way(route));
                let peer = std::thread::spawn(move || {
                    peer.write_all(&contents(0, LEN as usize + 5)).unwrap();
                });
                incoming.succeed(&proactor, LEN);
                assert_same(&bytes_of(&ours), &contents(0, LEN as usize));
                join(&proactor, peer);
                run_until(&proactor, "the rest", || record.received() == contents(LEN, 5));
                transport.abort();
            }
        }
    }

    fn small_buffers(proactor: Proactor) {
        for route in WAYS {
            let (ours, peer) = small_tcp();
            let (transport, record) = over(&proactor, ours);
            let (file, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..40_000), way(route));
            let peer = write_on_thread(peer, contents(0, 40_001));
            incoming.succeed(&proactor, 40_000);
            assert_same(&bytes_of(&ours), &contents(0, 40_000));
            run_until(&proactor, "the rest", || record.received().len() == 1);
            drop(join(&proactor, peer));
        }
    }

    fn both_directions_at_once(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            record.half_open.set(true);
            let (target, ours) = target();
            let incoming = receive(&transport, &record, Sink::file(target, ..LEN), way(route));
            let outgoing = send(&transport, file(LEN), SendOptions::new());
            let reader = read_all(peer.try_clone().unwrap());
            let writer = write_on_thread(peer, contents(0, LEN as usize));
            incoming.succeed(&proactor, LEN);
            outgoing.succeed(&proactor, LEN);
            assert_same(&bytes_of(&ours), &contents(0, LEN as usize));
            transport.close();
            assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
            drop(join(&proactor, writer));
        }
    }

    fn progress_is_told(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let told = Rc::new(RefCell::new(Vec::new()));
            let note = Rc::clone(&told);
            let options = way(route).progress(move |_, n| note.borrow_mut().push(n));
            let (file, _ours) = target();
            let incoming = receive(&transport, &record, Sink::file(file, ..LEN), options);
            let peer = write_on_thread(peer, contents(0, LEN as usize));
            incoming.succeed(&proactor, LEN);
            let told = told.borrow();
            assert!(told.is_sorted_by(|a, b| a < b), "{told:?}");
            assert!(told.windows(2).all(|w| w[1] - w[0] <= 1 << 20), "{told:?}");
            assert_eq!(told.last(), Some(&LEN));
            drop(join(&proactor, peer));
        }
    }

    fn no_faster_than_asked(proactor: Proactor) {
        for route in WAYS {
            let (transport, record, peer) = open(&proactor);
            let (file, ours) = target();
            let options = way(route).rate(1_000_000);
            let incoming = receive(&transport, &record, Sink::file(file, ..300_000), options);
            let peer = write_on_thread(peer, contents(0, 300_000));
            let start = Instant::now();
            incoming.succeed(&proactor, 300_000);
            assert!(start.elapsed() >= Duration::from_millis(200));
            assert_same(&bytes_of(&ours), &contents(0, 300_000));
            drop(join(&proactor, peer));
        }
    }

    fn on_the_disk_before_it_is_told(proactor: Proactor) {
        for route in WAYS {
            for sync in [FileSync::Data, FileSync::All] {
                let (transport, record, mut peer) = open(&proactor);
                let (file, ours) = target();
                let sink = Sink::file(file, ..100_000);
                let incoming = receive(&transport, &record, sink, way(route).sync(sync));
                peer.write_all(&contents(0, 100_000)).unwrap();
                incoming.succeed(&proactor, 100_000);
                assert_same(&bytes_of(&ours), &contents(0, 100_000));
                // What can't be synced has failed, with all bytes through.
                let (reader, writer) = io::pipe().unwrap();
                let sink = Sink::file(Fd::new(OwnedFd::from(writer)), ..5);
                let incoming = receive(&transport, &record, sink, way(route).sync(sync));
                peer.write_all(b"hello").unwrap();
                let outcome = incoming.wait(&proactor);
                assert_eq!((outcome.received, outcome.end), (5, End::Failed));
                drop(reader);
            }
        }
    }

    fn many_at_once(proactor: Proactor) {
        let flows: Vec<_> = (0..64)
            .map(|i| {
                let (transport, record, peer) = open(&proactor);
                let (file, ours) = target();
                let sink = Sink::file(file, ..400_000);
                let incoming = receive(&transport, &record, sink, way(WAYS[i % 4]));
                let peer = write_on_thread(peer, contents(i as u64, 400_000));
                (transport, incoming, ours, peer)
            })
            .collect();
        for (i, (_transport, incoming, ours, peer)) in flows.into_iter().enumerate() {
            incoming.succeed(&proactor, 400_000);
            assert_same(&bytes_of(&ours), &contents(i as u64, 400_000));
            drop(join(&proactor, peer));
        }
        assert_eq!(proactor.stats().pipes_leased, 0);
    }

    fn the_proactor_may_go(proactor: Proactor) {
        let (transport, record, mut peer) = open(&proactor);
        let (file, _ours) = target();
        let incoming = receive(&transport, &record, Sink::file(file, ..LEN), ReceiveOptions::new());
        peer.write_all(b"hello").unwrap();
        run_a_while(&proactor);
        drop(proactor);
        assert_eq!(incoming.cell.borrow_mut().take().unwrap().end, End::Cancelled);
        assert!(record.is_lost());
        let never = receive(&transport, &record, empty_file(), ReceiveOptions::new());
        assert!(!never.is_there());
    }
}

/// A file system of a few pages.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(size: usize) -> Option<SmallDisk> {
        let path = path();
        std::fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            std::fs::remove_dir(&path).unwrap();
            return None;
        }
        Some(SmallDisk(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        let _ = std::fs::remove_dir(&self.0);
    }
}
