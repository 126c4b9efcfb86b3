//! The loop and its ends: drops with everything under way, panics, re-entrance, posts from other
//! threads, timers, and the loop inside another loop.

mod common;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{
    BackendChoice, BackendKind, Builder, Callback, Completion, Fd, Handler, Method, Op, Proactor,
    SendBuf, SendFile,
};

on_both_backends! {
    a_drop_cancels_and_delivers,
    a_drop_from_afar_is_bounded,
    submissions_while_dropping,
    panics_end_at_the_loop,
    no_loop_inside_a_callback,
    callbacks_do_not_nest,
    each_turn_is_finite,
    posts_arrive_in_order,
    posts_end_a_wait,
    posts_to_no_one,
    stops,
    timers_end_waits,
    timers_by_the_thousand,
    waits_are_bounded,
    handles,
    several_on_one_thread,
    threads_that_answer_each_other,
    c41_inside_another_loop,
    c41_inside_another_loop_with_all_kinds,
    c41_inside_another_loop_turn_by_turn,
    c40_sigpipe_is_the_process_own,
}

fn recv(socket: &Fd) -> Op {
    Op::Recv {
        socket: socket.clone(),
        buf: BytesMut::with_capacity(4096),
    }
}

fn send(socket: &Fd, bytes: impl Into<Bytes>) -> Op {
    Op::Send {
        socket: socket.clone(),
        buf: bytes.into().into(),
        more: false,
    }
}

fn transfer(file: &Fd, socket: &Fd, len: u64, method: Method) -> Op {
    Op::SendFile(SendFile {
        header: SendBuf::new(),
        file: file.clone(),
        socket: socket.clone(),
        offset: Some(0),
        len,
        more: false,
        method,
    })
}

fn a_drop_cancels_and_delivers(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = narrow(Wire::Unix);
    let file = file(&pattern(1_000_000));
    let mut started = vec![
        start(&proactor, recv(&socket)),
        start(
            &proactor,
            Op::RecvMulti {
                socket: connected(Wire::Tcp).0,
            },
        ),
        start(
            &proactor,
            transfer(&file, &socket, 1_000_000, Method::Chain),
        ),
        start(
            &proactor,
            Op::Timeout {
                at: Instant::now() + Duration::from_secs(3600),
            },
        ),
    ];
    started.remove(1);
    run_idle(&proactor);
    // Some that the loop has never seen.
    started.push(start(&proactor, recv(&socket)));
    let start_of_drop = Instant::now();
    drop(proactor);
    assert!(start_of_drop.elapsed() < Duration::from_secs(2));
    for started in started {
        let mut got = started.take();
        assert_eq!(got.len(), 1);
        let completion = got.remove(0);
        assert!(completion.is_cancelled());
        assert!(completion.op.is_some());
    }
}

/// A worker that can't be interrupted.
fn a_drop_from_afar_is_bounded(builder: Builder) {
    let proactor = builder.drain(Duration::from_millis(50)).build().unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (up, is_up) = mpsc::channel::<()>();
    let held = Arc::new(());
    let owned = Arc::clone(&held);
    let dropped = Rc::new(());
    let with_callback = Rc::clone(&dropped);
    let work = Op::Work(Box::new(move || {
        let _owned = owned;
        up.send(()).unwrap();
        let _ = wait.recv();
        Ok(Box::new(()))
    }));
    proactor.submit(
        work,
        Callback::once(move |_, _| {
            drop(with_callback);
            unreachable!("the proactor is gone");
        }),
    );
    is_up.recv_timeout(BOUND).unwrap();
    drop(proactor);
    assert_eq!(Rc::strong_count(&dropped), 1, "the callback is dropped");
    assert_eq!(Arc::strong_count(&held), 2);
    go.send(()).unwrap();
    let end = Instant::now() + BOUND;
    while Arc::strong_count(&held) > 1 {
        assert!(Instant::now() < end, "what the worker owned is never freed");
        std::thread::yield_now();
    }
}

fn submissions_while_dropping(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let late = Rc::new(RefCell::new(Vec::new()));
    let push = late.clone();
    let again = socket.clone();
    proactor.submit(
        recv(&socket),
        Callback::once(move |p, completion| {
            assert!(completion.is_cancelled());
            for op in [recv(&again), Op::Nop, Op::Timeout { at: Instant::now() }] {
                let push = push.clone();
                p.submit(
                    op,
                    Callback::once(move |_, c| push.borrow_mut().push(c.is_cancelled())),
                );
            }
        }),
    );
    run_idle(&proactor);
    drop(proactor);
    assert_eq!(*late.borrow(), [true; 3]);
}

fn panics_end_at_the_loop(builder: Builder) {
    struct Panics;
    impl Handler for Panics {
        fn complete(self: Rc<Self>, _: &Proactor, _: u64, _: Completion) {
            panic!("on purpose");
        }
    }
    let proactor = builder.build().unwrap();
    proactor.submit(Op::Nop, Callback::once(|_, _| panic!("on purpose")));
    proactor.submit(Op::Nop, Callback::many(|_, _| panic!("on purpose")));
    proactor.submit(Op::Nop, Callback::Handler(Rc::new(Panics), 0));
    let posted = |_: &Proactor| panic!("on purpose");
    proactor.remote().post(posted).unwrap();
    let after = start(&proactor, Op::Nop);
    assert!(end(&proactor, &after).result.is_ok());
    run_until(&proactor, || proactor.stats().panics == 4);
    assert_eq!(proactor.stats().in_flight, 0);
    assert!(call(&proactor, Op::Nop).result.is_ok());
}

fn no_loop_inside_a_callback(builder: Builder) {
    let proactor = builder.build().unwrap();
    let errors = Rc::new(RefCell::new(Vec::new()));
    let push = errors.clone();
    proactor.submit(
        Op::Nop,
        Callback::once(move |p, _| {
            let mut push = push.borrow_mut();
            push.push(p.run_once(None).unwrap_err().kind());
            push.push(p.run_once(Some(Duration::ZERO)).unwrap_err().kind());
            push.push(p.run().unwrap_err().kind());
        }),
    );
    run_until(&proactor, || errors.borrow().len() == 3);
    assert_eq!(*errors.borrow(), [io::ErrorKind::InvalidInput; 3]);
    assert!(call(&proactor, Op::Nop).result.is_ok());
}

/// Operations that complete at once, one leading to the next: the stack does not grow.
fn callbacks_do_not_nest(builder: Builder) {
    struct Sends {
        depth: Cell<usize>,
        left: Cell<usize>,
        a: Fd,
        b: Fd,
    }
    impl Handler for Sends {
        fn complete(self: Rc<Self>, proactor: &Proactor, key: u64, completion: Completion) {
            assert_eq!(self.depth.replace(1), 0, "a callback inside a callback");
            assert!(completion.result.is_ok());
            if self.left.get() > 0 {
                self.left.set(self.left.get() - 1);
                let op = if key == 0 {
                    send(&self.a, &b"x"[..])
                } else {
                    recv(&self.b)
                };
                proactor.submit(op, Callback::Handler(self.clone(), 1 - key));
            }
            self.depth.set(0);
        }
    }
    let proactor = builder.build().unwrap();
    let (a, b) = proactor::net::pair().unwrap();
    let sends = Rc::new(Sends {
        depth: Cell::new(0),
        left: Cell::new(20_000),
        a,
        b,
    });
    proactor.submit(Op::Nop, Callback::Handler(sends.clone(), 0));
    run_until(&proactor, || {
        sends.left.get() == 0 && proactor.stats().in_flight == 0
    });
}

fn each_turn_is_finite(builder: Builder) {
    let proactor = builder.build().unwrap();
    fn again(proactor: &Proactor) {
        proactor.submit(Op::Nop, Callback::once(|p, _| again(p)));
    }
    again(&proactor);
    for _ in 0..100 {
        let n = proactor.run_once(None).unwrap();
        assert!(n <= 1);
    }
    // Others have their turn beside it.
    let (socket, mut peer) = connected(Wire::Tcp);
    let pending = start(&proactor, recv(&socket));
    peer.write_all(b"x").unwrap();
    assert_eq!(end(&proactor, &pending).transferred, 1);
    let timer = Op::Timeout {
        at: Instant::now() + Duration::from_millis(5),
    };
    assert!(call(&proactor, timer).result.is_ok());
    let posted = Arc::new(AtomicUsize::new(0));
    let count = posted.clone();
    let add = move |_: &Proactor| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    proactor.remote().post(add).unwrap();
    run_until(&proactor, || posted.load(Ordering::Relaxed) == 1);
}

thread_local! {
    static POSTED: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
}

fn posts_arrive_in_order(builder: Builder) {
    let proactor = builder.build().unwrap();
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let remote = proactor.remote();
            std::thread::spawn(move || {
                for i in 0..2000 {
                    remote
                        .post(move |_| POSTED.with_borrow_mut(|p| p.push((t, i))))
                        .unwrap();
                }
            })
        })
        .collect();
    run_until(&proactor, || POSTED.with_borrow(|p| p.len() == 8000));
    for thread in threads {
        thread.join().unwrap();
    }
    let posted = POSTED.take();
    for t in 0..4 {
        let own = posted.iter().filter(|(from, _)| *from == t);
        assert!(own.map(|(_, i)| *i).eq(0..2000));
    }
}

fn posts_end_a_wait(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (ask, asked) = mpsc::channel();
    let remote = proactor.remote();
    let thread = std::thread::spawn(move || {
        while let Ok(n) = asked.recv() {
            remote
                .post(move |_| POSTED.with_borrow_mut(|p| p.push((n, 0))))
                .unwrap();
        }
    });
    for n in 0..500 {
        ask.send(n).unwrap();
        let end = Instant::now() + BOUND;
        // Without a timeout of its own: nothing but the post ends it.
        while POSTED.with_borrow(|p| p.is_empty()) {
            proactor.run_once(None).unwrap();
            assert!(Instant::now() < end);
        }
        assert_eq!(POSTED.take(), [(n, 0)]);
    }
    drop(ask);
    thread.join().unwrap();
}

fn posts_to_no_one(builder: Builder) {
    let proactor = builder.build().unwrap();
    let remote = proactor.remote();
    let owned = Arc::new(());
    let other = owned.clone();
    remote.post(move |_| drop(other)).unwrap();
    drop(proactor);
    assert_eq!(Arc::strong_count(&owned), 1, "run or dropped, not leaked");
    let other = owned.clone();
    assert!(remote.post(move |_| drop(other)).is_err());
    assert_eq!(Arc::strong_count(&owned), 1);
    remote.stop();
}

fn stops(builder: Builder) {
    let proactor = builder.build().unwrap();
    // Before it runs.
    proactor.remote().stop();
    proactor.run().unwrap();
    // From a callback.
    proactor.submit(Op::Nop, Callback::once(|p, _| p.stop()));
    proactor.run().unwrap();
    // From a thread, while it waits.
    for _ in 0..50 {
        let remote = proactor.remote();
        let thread = std::thread::spawn(move || remote.stop());
        proactor.run().unwrap();
        thread.join().unwrap();
    }
}

fn timers_end_waits(builder: Builder) {
    let proactor = builder.build().unwrap();
    let far = start(
        &proactor,
        Op::Timeout {
            at: Instant::now() + Duration::from_secs(3600),
        },
    );
    proactor.run_once(Some(Duration::ZERO)).unwrap();
    // An earlier one, added when a later one has been armed.
    for _ in 0..20 {
        let at = Instant::now() + Duration::from_millis(2);
        let timer = start(&proactor, Op::Timeout { at });
        let end = Instant::now() + BOUND;
        while !timer.is_over() {
            proactor.run_once(None).unwrap();
            assert!(Instant::now() < end);
        }
        assert!(Instant::now() >= at);
        assert!(timer.take()[0].result.is_ok());
    }
    assert_eq!(far.count(), 0);
}

fn timers_by_the_thousand(builder: Builder) {
    let proactor = builder.build().unwrap();
    let now = Instant::now();
    let order = Rc::new(RefCell::new(Vec::new()));
    let tokens: Vec<_> = (0..3000_u64)
        .map(|i| {
            let order = order.clone();
            // Spread in no order.
            let place = i * 7919 % 3000;
            let at = now + Duration::from_micros(10 * place);
            let done = move |_: &Proactor, completion: Completion| {
                if completion.result.is_ok() {
                    order.borrow_mut().push(place);
                }
            };
            (
                place,
                proactor.submit(Op::Timeout { at }, Callback::once(done)),
            )
        })
        .collect();
    for (place, token) in &tokens {
        if place % 3 != 0 {
            proactor.cancel(*token);
        }
    }
    run_until(&proactor, || proactor.stats().in_flight == 0);
    let order = order.borrow();
    assert!(order.is_sorted());
    assert!(order.iter().filter(|place| **place % 3 == 0).count() == 1000);
}

fn waits_are_bounded(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let _pending = start(&proactor, recv(&socket));
    for _ in 0..100 {
        assert_eq!(proactor.run_once(Some(Duration::ZERO)).unwrap(), 0);
    }
    let before = Instant::now();
    let end = before + Duration::from_millis(30);
    while Instant::now() < end {
        proactor.run_once(Some(end - Instant::now())).unwrap();
    }
    assert!(before.elapsed() < BOUND);
    // It sleeps meanwhile.
    let waits = proactor.stats().waits;
    proactor.run_once(Some(Duration::from_millis(50))).unwrap();
    assert!(proactor.stats().waits <= waits + 4);
}

fn handles(builder: Builder) {
    let proactor = builder.build().unwrap();
    let handle = proactor.handle();
    assert_eq!(handle.backend(), Some(proactor.backend()));
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    let inner = handle.clone();
    let first = Callback::once(move |_, _| {
        let set = set.clone();
        let then = Callback::once(move |_, _| set.set(true));
        assert!(inner.submit(Op::Nop, then).is_ok());
    });
    assert!(handle.submit(Op::Nop, first).is_ok());
    run_until(&proactor, || done.get());
    assert!(handle.remote().is_some());
    drop(proactor);
    assert!(handle.backend().is_none());
    assert!(handle.remote().is_none());
    let refused = handle.submit(Op::Nop, Callback::once(|_, _| unreachable!()));
    let Err((op, _callback)) = refused else {
        panic!()
    };
    assert!(matches!(op, Op::Nop));
}

fn several_on_one_thread(builder: Builder) {
    let proactors: Vec<_> = (0..5).map(|_| builder.clone().build().unwrap()).collect();
    let (a, b) = proactor::net::pair().unwrap();
    for _ in 0..5 {
        for (i, one) in proactors.iter().enumerate() {
            let other = &proactors[(i + 1) % 5];
            let pending = start(other, recv(&b));
            call(one, send(&a, &b"over"[..]));
            assert_eq!(end(other, &pending).transferred, 4);
        }
    }
}

fn threads_that_answer_each_other(builder: Builder) {
    const ROUNDS: usize = 300;
    let (a, b) = proactor::net::pair().unwrap();
    let there = builder.clone();
    let thread = std::thread::spawn(move || {
        let proactor = there.build().unwrap();
        for _ in 0..ROUNDS {
            assert_eq!(call(&proactor, recv(&b)).transferred, 4);
            call(&proactor, send(&b, &b"pong"[..]));
        }
    });
    let proactor = builder.build().unwrap();
    for _ in 0..ROUNDS {
        call(&proactor, send(&a, &b"ping"[..]));
        assert_eq!(call(&proactor, recv(&a)).transferred, 4);
    }
    thread.join().unwrap();
}

/// Waits as another loop does: until the descriptor is readable, with nothing else to wake it.
/// A wake-up that is lost makes this fail after [`BOUND`].
#[track_caller]
fn run_inside(proactor: &Proactor, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + BOUND;
    while !so() {
        assert!(Instant::now() < end, "this took too long");
        let mut entry = libc::pollfd {
            fd: proactor.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one entry, on this stack frame.
        let n = unsafe { libc::poll(&raw mut entry, 1, BOUND.as_millis() as i32) };
        assert_eq!(n, 1, "the wake-up was lost");
        proactor.run_once(Some(Duration::ZERO)).unwrap();
    }
}

fn c41_inside_another_loop(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (a, b) = proactor::net::pair().unwrap();
    for _ in 0..100 {
        let receiving = start(&proactor, recv(&b));
        let sending = start(&proactor, send(&a, &b"x"[..]));
        run_inside(&proactor, || receiving.is_over() && sending.is_over());
        let nop = start(&proactor, Op::Nop);
        run_inside(&proactor, || nop.is_over());
        let soon = Op::Timeout {
            at: Instant::now() + Duration::from_micros(300),
        };
        let timer = start(&proactor, soon);
        run_inside(&proactor, || timer.is_over());
        let work = start(&proactor, Op::Work(Box::new(|| Ok(Box::new(())))));
        run_inside(&proactor, || work.is_over());
        // A cancel.
        let receiving = start(&proactor, recv(&b));
        proactor.cancel(receiving.token);
        run_inside(&proactor, || receiving.is_over());
        // A post, and what a callback submits.
        let remote = proactor.remote();
        let thread = std::thread::spawn(move || {
            let post = |p: &Proactor| {
                let then = |_: &Proactor, _| POSTED.with_borrow_mut(|p| p.push((7, 7)));
                p.submit(Op::Nop, Callback::once(then));
            };
            remote.post(post).unwrap();
        });
        run_inside(&proactor, || POSTED.with_borrow(|p| !p.is_empty()));
        POSTED.take();
        thread.join().unwrap();
    }
    // With nothing to do it is quiet.
    let mut entry = libc::pollfd {
        fd: proactor.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut quiet = false;
    for _ in 0..100 {
        proactor.run_once(Some(Duration::ZERO)).unwrap();
        // SAFETY: one entry, on this stack frame.
        quiet = unsafe { libc::poll(&raw mut entry, 1, 5) } == 0;
        if quiet {
            break;
        }
    }
    assert!(quiet);
}

fn c41_inside_another_loop_with_all_kinds(builder: Builder) {
    let proactor = builder.recv_buffers(2, 4096).build().unwrap();
    let bytes = pattern(6_000_000);
    let file = file(&bytes);
    // Transfers larger than a turn, received where buffers are scarce.
    for method in [Method::Chain, Method::Inline, Method::Sendfile] {
        let (a, b) = proactor::net::pair().unwrap();
        let receiving = start(&proactor, Op::RecvMulti { socket: b });
        let sending = start(&proactor, transfer(&file, &a, 6_000_000, method));
        let mut got = 0;
        run_inside(&proactor, || {
            for completion in receiving.take() {
                let at = got;
                got += completion.transferred as usize;
                if let Ok(proactor::Output::Data(data)) = &completion.result {
                    assert!(**data == bytes[at..got]);
                }
            }
            got == bytes.len() && sending.is_over()
        });
        assert_eq!(end(&proactor, &sending).transferred, 6_000_000);
    }
    // Many at a time, into sockets that take all of it.
    let mut peers = Vec::new();
    let sends: Vec<_> = (0..20)
        .map(|_| {
            let (socket, peer) = connected(Wire::Tcp);
            peers.push(peer.collect());
            start(
                &proactor,
                transfer(&file, &socket, 6_000_000, Method::Sendfile),
            )
        })
        .collect();
    run_inside(&proactor, || sends.iter().all(Started::is_over));
    drop(sends);
    for peer in peers {
        assert!(join(&proactor, peer) == bytes);
    }
}

/// More than a turn takes, all there from the start: nothing happens outside that could wake the
/// loop for the rest.
fn c41_inside_another_loop_turn_by_turn(builder: Builder) {
    let proactor = builder.recv_buffers(64, 64).build().unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net::listen(&any.into(), &ListenOptions::default()).unwrap();
    let address = net::local_address(&listener).unwrap().as_inet().unwrap();
    let clients: Vec<_> = (0..200)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let accepts = start(&proactor, Op::AcceptMulti { listener });
    run_inside(&proactor, || accepts.count() == clients.len());
    let (socket, mut peer) = connected(Wire::Unix);
    peer.write_all(&[1; 100_000]).unwrap();
    let receives = start(&proactor, Op::RecvMulti { socket });
    let mut got = 0;
    run_inside(&proactor, || {
        got += receives.take().iter().map(|c| c.transferred).sum::<u64>();
        got == 100_000
    });
}

/// SIGPIPE kills no one, and what the process does with it is as before.
fn c40_sigpipe_is_the_process_own(builder: Builder) {
    let blocked = || {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: with no new mask the call only fills the set, which is then read.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), set.as_mut_ptr());
            libc::sigismember(set.as_ptr(), libc::SIGPIPE) == 1
        }
    };
    let before = blocked();
    let other = emulated().build().unwrap();
    let proactor = builder.build().unwrap();
    drop(other);
    assert!(blocked(), "for the one that is left");
    let file = file(b"content");
    for method in [Method::Chain, Method::Inline, Method::Sendfile] {
        let (read, write) = pipe();
        drop(read);
        let completion = call(&proactor, transfer(&file, &write, 7, method));
        assert_eq!(completion.transferred, 0);
    }
    drop(proactor);
    assert_eq!(blocked(), before);
}

#[test]
fn the_builder_decides() {
    let proactor = emulated().build().unwrap();
    assert_eq!(proactor.backend(), BackendKind::Emulated);
    assert_eq!(proactor.probe().backend, BackendKind::Emulated);
    assert!(!proactor.probe().reason.is_empty());
    assert!(!proactor.probe().kernel.is_empty());
    assert_eq!("ring".parse(), Ok(BackendChoice::Ring));
    assert_eq!("emulated".parse(), Ok(BackendChoice::Emulated));
    assert_eq!("auto".parse(), Ok(BackendChoice::Auto));
    assert!("other".parse::<BackendChoice>().is_err());
}

/// A request and its answer cost one wait: the completion of a send is delivered without another.
#[test]
fn one_wait_a_request() {
    let proactor = emulated().build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    const ROUNDS: u64 = 200;
    let peer = std::thread::spawn(move || {
        for _ in 0..ROUNDS {
            peer.write_all(b"request").unwrap();
            peer.read_bytes(6);
        }
    });
    let mut receiving = start(&proactor, recv(&socket));
    proactor.run_once(Some(Duration::ZERO)).unwrap();
    let before = proactor.stats().waits;
    for round in 0..ROUNDS {
        while !receiving.is_over() {
            proactor.run_once(None).unwrap();
        }
        let sending = start(&proactor, send(&socket, &b"answer"[..]));
        while !sending.is_over() {
            proactor.run_once(None).unwrap();
        }
        receiving = start(&proactor, recv(&socket));
        assert!(proactor.stats().waits - before <= 2 * (round + 1));
    }
    join(&proactor, peer);
    let waits = proactor.stats().waits - before;
    assert!(waits <= ROUNDS + ROUNDS / 4, "{waits} waits");
}
