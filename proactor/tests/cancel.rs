//! Cancels: each operation while it waits; exactly one completion, with the count of what was
//! done; nothing after the end.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{
    BackendKind, Builder, Callback, Completion, Fd, Interest, Method, Op, Output, Proactor,
    SendBuf, SendFile,
};

on_both_backends! {
    each_operation_while_it_waits,
    the_descriptor_is_as_good_as_before,
    before_the_loop_has_seen_it,
    what_is_over_already,
    twice,
    from_a_callback,
    one_of_many_in_line,
    the_first_in_line_makes_way,
    multishot_operations,
    transfers_that_wait_for_their_peer,
    transfers_that_wait_for_their_source,
    transfers_at_every_moment,
    work_before_its_turn,
    work_under_way,
    tokens_are_not_used_again,
    a_storm,
}

fn recv(socket: &Fd) -> Op {
    Op::Recv {
        socket: socket.clone(),
        buf: BytesMut::with_capacity(100),
    }
}

fn transfer(file: &Fd, socket: &Fd, len: u64, method: Method) -> SendFile {
    SendFile {
        header: SendBuf::new(),
        file: file.clone(),
        socket: socket.clone(),
        offset: Some(0),
        len,
        more: false,
        method,
    }
}

/// Cancels, and takes the one completion.
#[track_caller]
fn cancel(proactor: &Proactor, started: &Started) -> Completion {
    proactor.cancel(started.token);
    let completion = end(proactor, started);
    run_idle(proactor);
    assert_eq!(started.count(), 0, "another completion");
    completion
}

fn listener() -> Fd {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    net::listen(&any.into(), &ListenOptions::default()).unwrap()
}

/// Operations that wait until cancelled, and what keeps them waiting.
fn waiting() -> (Vec<Op>, Box<dyn std::any::Any>) {
    let (idle, idle_peer) = connected(Wire::Tcp);
    let (full, full_peer) = connected(Wire::Unix);
    fill(&full);
    let (empty_read, empty_write) = pipe();
    let (full_read, full_write) = pipe();
    fill(&full_write);
    let some = || Bytes::from_static(b"some bytes");
    let ops = vec![
        Op::Accept {
            listener: listener(),
        },
        recv(&idle),
        Op::Send {
            socket: full.clone(),
            buf: some().into(),
            more: false,
        },
        Op::SendVectored {
            socket: full.clone(),
            bufs: vec![some(), some()],
            more: false,
        },
        Op::Send {
            socket: full_write.clone(),
            buf: some().into(),
            more: false,
        },
        Op::Read {
            file: empty_read.clone(),
            buf: BytesMut::with_capacity(10),
            len: 10,
            offset: None,
        },
        Op::Write {
            file: full_write.clone(),
            buf: some().into(),
            offset: None,
        },
        Op::Splice {
            from: empty_read.clone(),
            from_offset: None,
            to: idle.clone(),
            to_offset: None,
            len: 100,
            more: false,
        },
        Op::Splice {
            from: file(b"content"),
            from_offset: Some(0),
            to: full_write.clone(),
            to_offset: None,
            len: 7,
            more: false,
        },
        Op::Poll {
            fd: idle.clone(),
            interest: Interest::READABLE,
        },
        Op::Poll {
            fd: full.clone(),
            interest: Interest::WRITABLE,
        },
        Op::Timeout {
            at: Instant::now() + Duration::from_secs(3600),
        },
        // To a pipe: before Linux 6.5 a full Unix socket takes what is spliced all the same.
        Op::SendFile(transfer(&file(b"content"), &full_write, 7, Method::Chain)),
        Op::SendFile(transfer(&file(b"content"), &full_write, 7, Method::Inline)),
        Op::SendFile(transfer(
            &file(b"content"),
            &full_write,
            7,
            Method::Sendfile,
        )),
    ];
    let keep = (idle_peer, full_peer, empty_write, full_read);
    (ops, Box::new(keep))
}

#[track_caller]
fn assert_cancelled(completion: &Completion, name: &str) {
    assert!(completion.is_cancelled(), "{name}: {:?}", completion.result);
    assert_eq!(completion.transferred, 0, "{name}");
    assert_eq!(completion.op.as_ref().unwrap().name(), name);
}

fn each_operation_while_it_waits(builder: Builder) {
    let proactor = builder.build().unwrap();
    // One after the other.
    let (ops, _keep) = waiting();
    for op in ops {
        let name = op.name();
        let started = start(&proactor, op);
        run_idle(&proactor);
        assert_eq!(started.count(), 0, "{name}");
        let completion = cancel(&proactor, &started);
        assert_cancelled(&completion, name);
        // What it owned is back.
        match completion.op.unwrap() {
            Op::Recv { buf, .. } => assert_eq!(buf.capacity(), 100),
            Op::Read { buf, .. } => assert_eq!(buf.capacity(), 10),
            Op::Send { buf, .. } | Op::Write { buf, .. } => assert_eq!(*buf, *b"some bytes"),
            Op::SendVectored { bufs, .. } => assert_eq!(bufs.len(), 2),
            _ => {}
        }
    }
    // And all at once.
    let (ops, _keep) = waiting();
    let names: Vec<_> = ops.iter().map(Op::name).collect();
    let started: Vec<_> = ops.into_iter().map(|op| start(&proactor, op)).collect();
    run_idle(&proactor);
    for started in &started {
        assert_eq!(started.count(), 0);
        proactor.cancel(started.token);
    }
    for (started, name) in started.iter().zip(names) {
        assert_cancelled(&end(&proactor, started), name);
    }
    assert_eq!(proactor.stats().in_flight, 0);
}

fn the_descriptor_is_as_good_as_before(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        let (socket, mut peer) = connected(wire);
        for round in 0..10_u8 {
            let started = start(&proactor, recv(&socket));
            run_idle(&proactor);
            assert_cancelled(&cancel(&proactor, &started), "recv");
            peer.write_all(&[round]).unwrap();
            // Nothing was taken by the one that was cancelled.
            let completion = call(&proactor, recv(&socket));
            assert!(matches!(completion.op, Some(Op::Recv { buf, .. }) if *buf == [round]));
        }
        let listener = listener();
        let address = net::local_address(&listener).unwrap();
        for _ in 0..5 {
            let accept = || Op::Accept {
                listener: listener.clone(),
            };
            let started = start(&proactor, accept());
            run_idle(&proactor);
            assert_cancelled(&cancel(&proactor, &started), "accept");
            let _peer = std::net::TcpStream::connect(address.as_inet().unwrap()).unwrap();
            let completion = call(&proactor, accept());
            assert!(matches!(completion.result, Ok(Output::Accepted(_))));
        }
    }
}

fn before_the_loop_has_seen_it(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (ops, _keep) = waiting();
    for op in ops {
        let name = op.name();
        let started = start(&proactor, op);
        proactor.cancel(started.token);
        assert_eq!(started.count(), 0, "called back from inside cancel");
        assert_cancelled(&end(&proactor, &started), name);
    }
}

fn what_is_over_already(builder: Builder) {
    let proactor = builder.build().unwrap();
    let started = start(&proactor, Op::Nop);
    let completion = end(&proactor, &started);
    assert!(completion.result.is_ok());
    proactor.cancel(started.token);
    run_idle(&proactor);
    assert_eq!(started.count(), 0);
    // Over, but not yet delivered: it stays what it is, or is cancelled; once in any case.
    let (socket, mut peer) = connected(Wire::Unix);
    peer.write_all(b"here").unwrap();
    let started = start(&proactor, recv(&socket));
    proactor.cancel(started.token);
    let completion = end(&proactor, &started);
    if completion.is_cancelled() {
        let completion = call(&proactor, recv(&socket));
        assert_eq!(completion.transferred, 4);
    } else {
        assert_eq!(completion.transferred, 4);
    }
    run_idle(&proactor);
    assert_eq!(started.count(), 0);
}

fn twice(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (ops, _keep) = waiting();
    for op in ops {
        let name = op.name();
        let started = start(&proactor, op);
        run_idle(&proactor);
        proactor.cancel(started.token);
        proactor.cancel(started.token);
        assert_cancelled(&cancel(&proactor, &started), name);
        proactor.cancel(started.token);
        run_idle(&proactor);
        assert_eq!(started.count(), 0);
    }
}

fn from_a_callback(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let started = start(&proactor, recv(&socket));
    let token = started.token;
    // One that cancels another, one that cancels itself.
    proactor.submit(Op::Nop, Callback::once(move |p, _| p.cancel(token)));
    assert_cancelled(&end(&proactor, &started), "recv");
    let own = Rc::new(Cell::new(None));
    let ran = Rc::new(Cell::new(0));
    let (own2, ran2) = (own.clone(), ran.clone());
    let token = proactor.submit(
        Op::Nop,
        Callback::once(move |p, _| {
            p.cancel(Option::unwrap(own2.get()));
            ran2.set(ran2.get() + 1);
        }),
    );
    own.set(Some(token));
    run_until(&proactor, || ran.get() > 0);
    run_idle(&proactor);
    assert_eq!(ran.get(), 1);
}

fn one_of_many_in_line(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let polls: Vec<_> = (0..50)
        .map(|_| {
            let poll = Op::Poll {
                fd: socket.clone(),
                interest: Interest::READABLE,
            };
            start(&proactor, poll)
        })
        .collect();
    let receives: Vec<_> = (0..50).map(|_| start(&proactor, recv(&socket))).collect();
    run_idle(&proactor);
    for i in (0..50).step_by(2) {
        assert_cancelled(&cancel(&proactor, &polls[i]), "poll");
        assert_cancelled(&cancel(&proactor, &receives[i]), "recv");
    }
    // The others go on.
    for _ in 0..25 {
        peer.write_all(b"x").unwrap();
        let before = receives.iter().filter(|r| r.is_over()).count();
        run_until(&proactor, || {
            receives.iter().filter(|r| r.is_over()).count() > before
        });
    }
    run_until(&proactor, || {
        (1..50)
            .step_by(2)
            .all(|i| polls[i].is_over() && receives[i].is_over())
    });
    for i in (1..50).step_by(2) {
        assert!(end(&proactor, &polls[i]).result.is_ok());
        assert_eq!(end(&proactor, &receives[i]).transferred, 1);
    }
}

fn the_first_in_line_makes_way(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Unix);
    // A large send with a rest that waits, and a small one behind it.
    let filled = fill(&socket);
    let first = start(
        &proactor,
        Op::Send {
            socket: socket.clone(),
            buf: Bytes::from(pattern(1_000_000)).into(),
            more: false,
        },
    );
    let second = start(
        &proactor,
        Op::Send {
            socket: socket.clone(),
            buf: Bytes::from_static(b"second").into(),
            more: false,
        },
    );
    run_idle(&proactor);
    assert_cancelled(&cancel(&proactor, &first), "send");
    assert_eq!(second.count(), 0);
    peer.read_bytes(filled);
    assert_eq!(end(&proactor, &second).transferred, 6);
    assert_eq!(peer.read_bytes(6), b"second");
}

fn multishot_operations(builder: Builder) {
    let proactor = builder.build().unwrap();
    let listener = listener();
    let address = net::local_address(&listener).unwrap();
    let accepts = start(
        &proactor,
        Op::AcceptMulti {
            listener: listener.clone(),
        },
    );
    let mut peer = std::net::TcpStream::connect(address.as_inet().unwrap()).unwrap();
    run_until(&proactor, || accepts.count() == 1);
    let Ok(Output::Accepted(socket)) = accepts.take().remove(0).result else {
        panic!()
    };
    let receives = start(
        &proactor,
        Op::RecvMulti {
            socket: socket.clone(),
        },
    );
    peer.write_all(b"one").unwrap();
    run_until(&proactor, || receives.count() == 1);
    assert!(matches!(&receives.take()[0].result, Ok(Output::Data(d)) if **d == *b"one"));
    assert_cancelled(&cancel(&proactor, &receives), "recv (multishot)");
    assert_cancelled(&cancel(&proactor, &accepts), "accept (multishot)");
    // Nothing is re-armed: what comes now is for others.
    peer.write_all(b"two").unwrap();
    let _second = std::net::TcpStream::connect(address.as_inet().unwrap()).unwrap();
    run_idle(&proactor);
    assert_eq!(receives.count(), 0);
    assert_eq!(accepts.count(), 0);
    assert_eq!(call(&proactor, recv(&socket)).transferred, 3);
    let accept = call(&proactor, Op::Accept { listener });
    assert!(matches!(accept.result, Ok(Output::Accepted(_))));
}

const METHODS: [Method; 3] = [Method::Chain, Method::Inline, Method::Sendfile];

fn transfers_that_wait_for_their_peer(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(1_000_000);
    let file = file(&bytes);
    for method in METHODS {
        for wire in [Wire::Unix, Wire::Tcp] {
            let (socket, peer) = narrow(wire);
            let op = Op::SendFile(transfer(&file, &socket, 1_000_000, method));
            let sending = start(&proactor, op);
            run_idle(&proactor);
            assert_eq!(sending.count(), 0);
            let completion = cancel(&proactor, &sending);
            assert!(completion.is_cancelled());
            assert!((1..1_000_000).contains(&completion.transferred));
            let sent = completion.transferred as usize;
            assert!(matches!(completion.op, Some(Op::SendFile(_))));
            drop((completion, socket));
            // The count is exact.
            assert!(
                join(&proactor, peer.collect()) == bytes[..sent],
                "{method:?}"
            );
        }
    }
    assert_eq!(proactor.stats().pipes_leased, 0);
    // What they left in pipes reaches no one else.
    let (socket, peer) = connected(Wire::Tcp);
    let peer = peer.collect();
    for method in METHODS {
        let op = Op::SendFile(transfer(&file, &socket, 1_000_000, method));
        assert_eq!(call(&proactor, op).transferred, 1_000_000);
    }
    drop(socket);
    let got = join(&proactor, peer);
    assert!(got.chunks(1_000_000).all(|part| part == bytes));
}

fn transfers_that_wait_for_their_source(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (source, write) = pipe();
    for method in METHODS {
        let (socket, mut peer) = connected(Wire::Tcp);
        let mut op = transfer(&source, &socket, 100, method);
        op.offset = None;
        let sending = start(&proactor, Op::SendFile(op));
        run_idle(&proactor);
        let some = Op::Send {
            socket: write.clone(),
            buf: Bytes::from_static(b"some").into(),
            more: false,
        };
        call(&proactor, some);
        assert_eq!(peer.read_beside(&proactor, 4), b"some");
        run_idle(&proactor);
        assert_eq!(sending.count(), 0);
        let completion = cancel(&proactor, &sending);
        assert!(completion.is_cancelled());
        assert_eq!(completion.transferred, 4);
    }
    assert_eq!(proactor.stats().pipes_leased, 0);
}

/// After so many turns of the loop, whatever state that is.
fn transfers_at_every_moment(builder: Builder) {
    let proactor = builder.workers(2).build().unwrap();
    let bytes = pattern(3_000_000);
    let file = file(&bytes);
    for method in METHODS {
        for turns in 0..40 {
            let (socket, peer) = connected(Wire::Unix);
            let peer = peer.collect();
            let op = Op::SendFile(transfer(&file, &socket, 3_000_000, method));
            let sending = start(&proactor, op);
            for _ in 0..turns {
                proactor.run_once(Some(Duration::ZERO)).unwrap();
            }
            proactor.cancel(sending.token);
            let completion = end(&proactor, &sending);
            let sent = completion.transferred as usize;
            if !completion.is_cancelled() {
                assert!(completion.result.is_ok());
                assert_eq!(sent, 3_000_000);
            }
            drop((completion, socket));
            assert!(join(&proactor, peer) == bytes[..sent], "{method:?} {turns}");
        }
    }
    assert_eq!(proactor.stats().pipes_leased, 0);
}

fn work_before_its_turn(builder: Builder) {
    let proactor = builder.workers(1).build().unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let first = start(
        &proactor,
        Op::Work(Box::new(move || {
            let _ = wait.recv();
            Ok(Box::new(1))
        })),
    );
    let second = start(&proactor, Op::Work(Box::new(|| panic!("it was cancelled"))));
    run_idle(&proactor);
    let completion = cancel(&proactor, &second);
    assert!(completion.is_cancelled());
    assert!(matches!(completion.op, Some(Op::Work(_))));
    go.send(()).unwrap();
    assert!(end(&proactor, &first).result.is_ok());
}

fn work_under_way(builder: Builder) {
    let proactor = builder.workers(1).build().unwrap();
    let (started, is_started) = mpsc::channel::<()>();
    let (go, wait) = mpsc::channel::<()>();
    let work = start(
        &proactor,
        Op::Work(Box::new(move || {
            started.send(()).unwrap();
            let _ = wait.recv();
            Ok(Box::new(7))
        })),
    );
    is_started.recv_timeout(BOUND).unwrap();
    proactor.cancel(work.token);
    run_idle(&proactor);
    assert_eq!(work.count(), 0, "it can't be interrupted");
    go.send(()).unwrap();
    match end(&proactor, &work).result {
        Ok(Output::Worked(n)) => assert_eq!(*n.downcast::<i32>().unwrap(), 7),
        other => panic!("{other:?}"),
    }
}

fn tokens_are_not_used_again(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..100 {
        let nop = start(&proactor, Op::Nop);
        assert!(seen.insert(nop.token));
        end(&proactor, &nop);
        let waiting = start(&proactor, recv(&socket));
        // The old name touches nothing.
        proactor.cancel(nop.token);
        assert_eq!(waiting.count(), 0);
        assert!(seen.insert(waiting.token));
        assert_cancelled(&cancel_quickly(&proactor, &waiting), "recv");
    }
}

#[track_caller]
fn cancel_quickly(proactor: &Proactor, started: &Started) -> Completion {
    proactor.cancel(started.token);
    end(proactor, started)
}

/// More operations at once, and cancels of them, than any queue has room for.
fn a_storm(builder: Builder) {
    let proactor = builder.entries(8).build().unwrap();
    let is_ring = proactor.backend() == BackendKind::Ring;
    // All that can be done at once, and what is received: each byte once.
    let (socket, mut peer) = connected(Wire::Tcp);
    let bytes = Rc::new(RefCell::new(0));
    let count = 2000;
    peer.write_all(&vec![7; count]).unwrap();
    for _ in 0..count {
        let bytes = bytes.clone();
        let op = Op::Recv {
            socket: socket.clone(),
            buf: BytesMut::with_capacity(1),
        };
        let done = move |_: &Proactor, completion: Completion| {
            assert_eq!(completion.transferred, 1);
            *bytes.borrow_mut() += 1;
        };
        proactor.submit(op, Callback::once(done));
    }
    run_until(&proactor, || *bytes.borrow() == count);
    assert_eq!(proactor.stats().in_flight, 0);
    assert_eq!(
        proactor.stats().overflows > 0,
        is_ring,
        "{:?}",
        proactor.stats()
    );
    let over = Rc::new(RefCell::new(0));
    let tokens: Vec<_> = (0..count)
        .map(|_| {
            let over = over.clone();
            let done = move |_: &Proactor, completion: Completion| {
                assert!(completion.is_cancelled(), "{:?}", completion.result);
                *over.borrow_mut() += 1;
            };
            proactor.submit(recv(&socket), Callback::once(done))
        })
        .collect();
    for token in tokens {
        proactor.cancel(token);
    }
    run_until(&proactor, || *over.borrow() == count);
    run_idle(&proactor);
    assert_eq!(*over.borrow(), count);
    assert_eq!(proactor.stats().in_flight, 0);
    peer.write_all(b"still there").unwrap();
    assert_eq!(call(&proactor, recv(&socket)).transferred, 11);
}

/// Those behind a transfer that waits for its source have all they need.
#[test]
fn the_line_goes_on_at_once() {
    let proactor = emulated().build().unwrap();
    let (source, _write) = pipe();
    for method in METHODS {
        let (socket, mut peer) = connected(Wire::Unix);
        let mut op = transfer(&source, &socket, 100, method);
        op.offset = None;
        let sending = start(&proactor, Op::SendFile(op));
        let behind = start(
            &proactor,
            Op::Send {
                socket,
                buf: Bytes::from_static(b"behind").into(),
                more: false,
            },
        );
        run_idle(&proactor);
        assert_eq!(behind.count(), 0);
        assert!(cancel_quickly(&proactor, &sending).is_cancelled());
        assert_eq!(end(&proactor, &behind).transferred, 6);
        assert_eq!(peer.read_bytes(6), b"behind");
    }
}

/// A blocking read on a worker waits for readiness first, so that a cancel ends it.
#[test]
fn a_blocking_pipe_is_let_go() {
    let proactor = emulated().build().unwrap();
    let (read, mut write) = std::io::pipe().unwrap();
    let mut plain = read.try_clone().unwrap();
    let read = Fd::new(OwnedFd::from(read));
    let op = Op::Read {
        file: read,
        buf: BytesMut::with_capacity(10),
        len: 10,
        offset: None,
    };
    let started = start(&proactor, op);
    run_idle(&proactor);
    assert_cancelled(&cancel(&proactor, &started), "read");
    write.write_all(b"mine").unwrap();
    let mut four = [0; 4];
    plain.read_exact(&mut four).unwrap();
    assert_eq!(four, *b"mine");
}
