//! Nothing stays open. In a process of its own, one test at a time, since descriptors are counted.

mod common;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{Builder, Fd, Interest, Method, Op, SendBuf, SendFile};

on_both_backends! {
    a_drop_closes_everything,
    connections_come_and_go,
    failures_leave_nothing,
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a test alone, and compares the descriptors open before and after.
fn counted(test: impl FnOnce()) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    test();
    // Threads that end now close theirs in a moment.
    let end = Instant::now() + BOUND;
    while open() != before {
        assert!(Instant::now() < end, "{} open, not {before}", open());
        std::thread::yield_now();
    }
}

fn transfer(file: &Fd, socket: &Fd, method: Method) -> Op {
    Op::SendFile(SendFile {
        header: SendBuf::new(),
        file: file.clone(),
        socket: socket.clone(),
        offset: Some(0),
        len: 500_000,
        more: false,
        method,
    })
}

fn a_drop_closes_everything(builder: Builder) {
    counted(|| {
        let proactor = builder.build().unwrap();
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
        let file = file(&pattern(500_000));
        let mut started = Vec::new();
        for method in [Method::Chain, Method::Inline, Method::Sendfile] {
            let (socket, peer) = narrow(Wire::Unix);
            started.push(start(&proactor, transfer(&file, &socket, method)));
            started.push(start(&proactor, Op::RecvMulti { socket }));
            let _keep = peer;
            let (socket, _peer) = connected(Wire::Tcp);
            let poll = Op::Poll {
                fd: socket.clone(),
                interest: Interest::READABLE,
            };
            started.push(start(&proactor, poll));
            let listener = net::listen(&any.into(), &ListenOptions::default()).unwrap();
            started.push(start(&proactor, Op::AcceptMulti { listener }));
            let (read, write) = pipe();
            let op = Op::Read {
                file: read,
                buf: BytesMut::with_capacity(10),
                len: 10,
                offset: None,
            };
            started.push(start(&proactor, op));
            run_idle(&proactor);
            drop(write);
        }
        run_idle(&proactor);
        drop(proactor);
        for started in started {
            assert_eq!(started.ends(), 1);
            drop(started.take());
        }
    });
}

fn connections_come_and_go(builder: Builder) {
    counted(|| {
        let proactor = builder.build().unwrap();
        let file = file(&pattern(500_000));
        for round in 0..300 {
            let (socket, peer) = connected(Wire::Tcp);
            let receiving = start(
                &proactor,
                Op::RecvMulti {
                    socket: socket.clone(),
                },
            );
            if round % 50 == 0 {
                let peer = peer.collect();
                let completion = call(&proactor, transfer(&file, &socket, Method::Chain));
                assert_eq!(completion.transferred, 500_000);
                drop(completion);
                net::shutdown(&socket, std::net::Shutdown::Write).unwrap();
                assert_eq!(join(&proactor, peer).len(), 500_000);
            } else {
                proactor.run_once(Some(Duration::ZERO)).unwrap();
                drop(peer);
            }
            run_until(&proactor, || receiving.is_over());
            drop(receiving.take());
            // Ours is the last one, or the operation's was: gone either way.
            drop(socket);
        }
        let stats = proactor.stats();
        assert_eq!((stats.in_flight, stats.pipes_leased), (0, 0));
    });
}

fn failures_leave_nothing(builder: Builder) {
    counted(|| {
        let proactor = builder.pipes(2).build().unwrap();
        let directory = Fd::from(std::fs::File::open("/").unwrap());
        let file = file(&pattern(500_000));
        for _ in 0..20 {
            for method in [Method::Chain, Method::Inline, Method::Sendfile] {
                let (socket, peer) = narrow(Wire::Unix);
                drop(call(&proactor, transfer(&directory, &socket, method)));
                let sending = start(&proactor, transfer(&file, &socket, method));
                proactor.run_once(Some(Duration::ZERO)).unwrap();
                drop(peer);
                drop(end(&proactor, &sending));
            }
        }
        let stats = proactor.stats();
        assert_eq!((stats.in_flight, stats.pipes_leased), (0, 0));
    });
}
