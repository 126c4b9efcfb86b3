//! Operations with many completions: accepting and receiving until told to stop.

mod common;

use std::cell::RefCell;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use bytes::Bytes;
use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{Builder, Callback, Completion, Fd, Op, Output, Proactor, RecvBuf};

on_both_backends! {
    accepts_all,
    accepts_what_is_there_already,
    others_are_not_starved,
    an_accept_that_fails,
    receives_all_in_order,
    receives_from_many,
    the_end_comes_once,
    a_reset_ends_it,
    no_buffer_is_free,
    a_buffer_from_another_thread,
    starved_receives_take_turns,
    idle_connections_hold_no_buffer,
    buffers_outlive_the_proactor,
    a_callback_that_panics_ends_it,
    a_callback_whose_end_panics,
    once_sees_the_first,
}

fn listener() -> (Fd, SocketAddr) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net::listen(&any.into(), &ListenOptions::default()).unwrap();
    let address = net::local_address(&listener).unwrap().as_inet().unwrap();
    (listener, address)
}

#[track_caller]
fn accepted(completion: Completion) -> Fd {
    assert!(completion.more());
    match completion.result {
        Ok(Output::Accepted(fd)) => fd,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn data(completion: Completion) -> RecvBuf {
    match completion.result {
        Ok(Output::Data(data)) => {
            assert_eq!(data.len() as u64, completion.transferred);
            // The end is the last completion, and the last is the end.
            assert_eq!(data.is_empty(), completion.op.is_some());
            data
        }
        other => panic!("{other:?}"),
    }
}

fn recv_multi(socket: &Fd) -> Op {
    Op::RecvMulti {
        socket: socket.clone(),
    }
}

fn accepts_all(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (listener, address) = listener();
    let accepts = start(&proactor, Op::AcceptMulti { listener });
    let mut connections = Vec::new();
    for round in 1..=5 {
        let clients = std::thread::spawn(move || {
            (0..40)
                .map(|_| TcpStream::connect(address).unwrap())
                .collect::<Vec<_>>()
        });
        run_until(&proactor, || accepts.count() == 40);
        let clients = clients.join().unwrap();
        let mut ours: Vec<_> = accepts.take().into_iter().map(accepted).collect();
        assert_eq!(ours.len(), 40);
        for (socket, client) in ours.iter().zip(&clients) {
            let peer = net::peer_address(socket).unwrap().as_inet();
            // In the order in which they came.
            assert_eq!(peer, Some(client.local_addr().unwrap()));
        }
        connections.append(&mut ours);
        assert_eq!(connections.len(), round * 40);
    }
    assert_eq!(accepts.count(), 0);
}

fn accepts_what_is_there_already(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (listener, address) = listener();
    let _clients: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let accepts = start(&proactor, Op::AcceptMulti { listener });
    run_until(&proactor, || accepts.count() == 100);
}

/// A turn accepts so many; others have theirs meanwhile.
fn others_are_not_starved(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (listener, address) = listener();
    let _clients: Vec<_> = (0..500)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let accepts = start(&proactor, Op::AcceptMulti { listener });
    for _ in 0..30 {
        assert!(call(&proactor, Op::Nop).result.is_ok());
    }
    run_until(&proactor, || accepts.count() == 500);
}

fn an_accept_that_fails(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let completion = call(&proactor, Op::AcceptMulti { listener: socket });
    assert_eq!(errno(&completion), libc::EINVAL);
    assert!(matches!(completion.op, Some(Op::AcceptMulti { .. })));
    let (listener, _) = listener();
    let accepts = start(
        &proactor,
        Op::AcceptMulti {
            listener: listener.clone(),
        },
    );
    run_idle(&proactor);
    // What shutdown(2) does to a listener, which ends the wait.
    net::shutdown(&listener, std::net::Shutdown::Both).unwrap();
    assert_eq!(errno(&end(&proactor, &accepts)), libc::EINVAL);
}

fn receives_all_in_order(builder: Builder) {
    for (count, size) in [(128, 16 << 10), (4, 64), (1, 4096)] {
        let proactor = builder.clone().recv_buffers(count, size).build().unwrap();
        let bytes = pattern(200_000);
        for wire in [Wire::Tcp, Wire::Unix] {
            let (socket, mut peer) = connected(wire);
            let got = Rc::new(RefCell::new((Vec::new(), 0)));
            let push = got.clone();
            proactor.submit(
                recv_multi(&socket),
                Callback::many(move |_, completion| {
                    let data = data(completion);
                    let mut got = push.borrow_mut();
                    got.0.extend_from_slice(&data);
                    got.1 += usize::from(data.is_empty());
                }),
            );
            let sending = bytes.clone();
            let sender = std::thread::spawn(move || {
                for (i, part) in sending.chunks(1237).enumerate() {
                    peer.write_all(part).unwrap();
                    if i % 50 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            run_until(&proactor, || got.borrow().1 == 1);
            join(&proactor, sender);
            run_idle(&proactor);
            assert_eq!(got.borrow().1, 1);
            assert!(got.borrow().0 == bytes);
        }
    }
}

fn receives_from_many(builder: Builder) {
    let proactor = builder.recv_buffers(256, 64).build().unwrap();
    let mut connections: Vec<_> = (0..200_u8)
        .map(|i| {
            let wire = if i % 2 == 0 { Wire::Tcp } else { Wire::Unix };
            let (socket, peer) = connected(wire);
            (start(&proactor, recv_multi(&socket)), peer)
        })
        .collect();
    for round in 0..5_u8 {
        for (i, (_, peer)) in connections.iter_mut().enumerate() {
            peer.write_all(&[round, i as u8]).unwrap();
        }
        run_until(&proactor, || {
            connections.iter().all(|(r, _)| r.count() == 1)
        });
        for (i, (receives, _)) in connections.iter().enumerate() {
            assert_eq!(*data(receives.take().remove(0)), [round, i as u8]);
        }
    }
    let receives: Vec<_> = connections.into_iter().map(|(r, _)| r).collect();
    run_until(&proactor, || receives.iter().all(Started::is_over));
    for receives in &receives {
        assert!(data(receives.take().remove(0)).is_empty());
    }
}

fn the_end_comes_once(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        for early in [true, false] {
            let (socket, mut peer) = connected(wire);
            let receives = (!early).then(|| start(&proactor, recv_multi(&socket)));
            run_idle(&proactor);
            peer.write_all(b"last").unwrap();
            peer.shutdown_write();
            let receives = receives.unwrap_or_else(|| start(&proactor, recv_multi(&socket)));
            run_until(&proactor, || receives.is_over());
            run_idle(&proactor);
            let mut got = receives.take();
            assert_eq!(got.len(), 2);
            assert!(data(got.pop().unwrap()).is_empty());
            assert_eq!(*data(got.pop().unwrap()), *b"last");
            // Again: the end at once.
            let again = call(&proactor, recv_multi(&socket));
            assert!(data(again).is_empty());
        }
    }
}

fn a_reset_ends_it(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, peer) = connected(Wire::Tcp);
    let receives = start(&proactor, recv_multi(&socket));
    run_idle(&proactor);
    peer.reset();
    let completion = end(&proactor, &receives);
    assert_eq!(errno(&completion), libc::ECONNRESET);
    let completion = call(&proactor, recv_multi(&file(b"")));
    assert_eq!(errno(&completion), libc::ENOTSOCK);
    assert!(matches!(completion.op, Some(Op::RecvMulti { .. })));
}

fn no_buffer_is_free(builder: Builder) {
    let proactor = builder.recv_buffers(2, 64).build().unwrap();
    let (socket, mut peer) = connected(Wire::Unix);
    peer.write_all(&[7; 1000]).unwrap();
    let receives = start(&proactor, recv_multi(&socket));
    run_until(&proactor, || receives.count() == 2);
    run_idle(&proactor);
    // The two are in our hands; the rest waits, nothing is lost.
    assert_eq!(receives.count(), 2);
    let mut total = 0;
    while total < 1000 {
        run_until(&proactor, || receives.count() > 0);
        for completion in receives.take() {
            total += data(completion).len();
        }
    }
    assert_eq!(total, 1000);
    // As good as before, and cancelled while starved.
    peer.write_all(&[8; 1000]).unwrap();
    run_until(&proactor, || receives.count() == 2);
    run_idle(&proactor);
    proactor.cancel(receives.token);
    run_until(&proactor, || receives.is_over());
    let mut got = receives.take();
    assert_eq!(got.len(), 3);
    assert!(got.pop().unwrap().is_cancelled());
    let kept: Vec<_> = got.into_iter().map(data).collect();
    assert!(kept.iter().all(|data| **data == [8; 64]));
    run_idle(&proactor);
    assert_eq!(receives.count(), 0);
}

fn a_buffer_from_another_thread(builder: Builder) {
    let proactor = builder.recv_buffers(1, 64).build().unwrap();
    let (socket, mut peer) = connected(Wire::Unix);
    let receives = start(&proactor, recv_multi(&socket));
    for _ in 0..20 {
        peer.write_all(&[7; 100]).unwrap();
        run_until(&proactor, || receives.count() == 1);
        run_idle(&proactor);
        assert_eq!(receives.count(), 1);
        let first = data(receives.take().remove(0));
        assert_eq!(first.len(), 64);
        // Given back by a thread while the loop waits for nothing else: that ends the wait.
        let thread = std::thread::spawn(move || {
            std::thread::yield_now();
            drop(first);
        });
        let end = std::time::Instant::now() + BOUND;
        while receives.count() == 0 {
            assert!(std::time::Instant::now() < end);
            proactor.run_once(Some(BOUND)).unwrap();
        }
        assert!(std::time::Instant::now() < end);
        thread.join().unwrap();
        assert_eq!(data(receives.take().remove(0)).len(), 36);
    }
}

fn starved_receives_take_turns(builder: Builder) {
    let proactor = builder.recv_buffers(1, 64).build().unwrap();
    let mut connections: Vec<_> = (0..8)
        .map(|_| {
            let (socket, mut peer) = connected(Wire::Unix);
            peer.write_all(&[1; 6400]).unwrap();
            (start(&proactor, recv_multi(&socket)), peer, 0)
        })
        .collect();
    // All get something; on the emulated port, before any has got everything.
    run_until(&proactor, || {
        for (receives, _, got) in &mut connections {
            for completion in receives.take() {
                *got += data(completion).len();
            }
        }
        connections.iter().all(|(_, _, got)| *got > 0)
    });
    if proactor.backend() == proactor::BackendKind::Emulated {
        assert!(connections.iter().all(|(_, _, got)| *got < 6400));
    }
    run_until(&proactor, || {
        for (receives, _, got) in &mut connections {
            for completion in receives.take() {
                *got += data(completion).len();
            }
        }
        connections.iter().all(|(_, _, got)| *got == 6400)
    });
}

fn idle_connections_hold_no_buffer(builder: Builder) {
    let proactor = builder.recv_buffers(2, 64).build().unwrap();
    let mut connections: Vec<_> = (0..50)
        .map(|_| {
            let (socket, peer) = connected(Wire::Tcp);
            (start(&proactor, recv_multi(&socket)), peer)
        })
        .collect();
    run_idle(&proactor);
    for (receives, peer) in &mut connections {
        peer.write_all(b"hello").unwrap();
        run_until(&proactor, || receives.count() == 1);
        assert_eq!(*data(receives.take().remove(0)), *b"hello");
    }
}

fn buffers_outlive_the_proactor(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let receives = start(&proactor, recv_multi(&socket));
    peer.write_all(b"kept").unwrap();
    run_until(&proactor, || receives.count() == 1);
    let kept = data(receives.take().remove(0));
    drop(proactor);
    assert!(receives.take().remove(0).is_cancelled());
    assert_eq!(*kept, *b"kept");
    let thread = std::thread::spawn(move || assert_eq!(*kept, *b"kept"));
    thread.join().unwrap();
}

fn a_callback_that_panics_ends_it(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (listener, address) = listener();
    let calls = Rc::new(RefCell::new(0));
    let counted = calls.clone();
    proactor.submit(
        Op::AcceptMulti {
            listener: listener.clone(),
        },
        Callback::many(move |_, _| {
            *counted.borrow_mut() += 1;
            panic!("on purpose");
        }),
    );
    let _first = TcpStream::connect(address).unwrap();
    run_until(&proactor, || *calls.borrow() == 1);
    run_until(&proactor, || proactor.stats().in_flight == 0);
    assert_eq!(*calls.borrow(), 1);
    assert_eq!(proactor.stats().panics, 1);
    assert_eq!(Rc::strong_count(&calls), 1, "the callback is dropped");
    // The next connection is for others.
    let _second = TcpStream::connect(address).unwrap();
    let accept = call(&proactor, Op::Accept { listener });
    assert!(matches!(accept.result, Ok(Output::Accepted(_))));
}

/// What a callback owns is its user's, and the loop goes on whatever its end does.
fn a_callback_whose_end_panics(builder: Builder) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose");
        }
    }
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let (last, whole) = (Bomb, Bomb);
    let callbacks = [
        Callback::many(move |_: &Proactor, _| {
            let _ = &last;
        }),
        Callback::once(move |_: &Proactor, _| {
            let _ = &whole;
        }),
    ];
    for (n, callback) in callbacks.into_iter().enumerate() {
        proactor.submit(Op::Nop, callback);
        run_until(&proactor, || proactor.stats().in_flight == 0);
        run_idle(&proactor);
        assert_eq!(proactor.stats().panics, n as u64 + 1);
    }
    let receives = start(&proactor, recv_multi(&socket));
    peer.write_all(b"fine").unwrap();
    run_until(&proactor, || receives.count() == 1);
}

fn once_sees_the_first(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let seen = Rc::new(RefCell::new(0));
    let see = seen.clone();
    let token = proactor.submit(
        recv_multi(&socket),
        Callback::once(move |_: &Proactor, completion| {
            assert_eq!(*data(completion), *b"one");
            *see.borrow_mut() += 1;
        }),
    );
    peer.write_all(b"one").unwrap();
    run_until(&proactor, || *seen.borrow() == 1);
    peer.write_all(b"two").unwrap();
    run_idle(&proactor);
    proactor.cancel(token);
    run_until(&proactor, || proactor.stats().in_flight == 0);
    assert_eq!(*seen.borrow(), 1);
    // The descriptor is still good.
    let echo = Op::Send {
        socket,
        buf: Bytes::from_static(b"fine").into(),
        more: false,
    };
    assert_eq!(call(&proactor, echo).transferred, 4);
    assert_eq!(peer.read_bytes(4), b"fine");
}
