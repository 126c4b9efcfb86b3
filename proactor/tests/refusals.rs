//! What can't be done, or not now: it ends with an error, the same on both backends, and never
//! with a loop that spins, waits for ever, or can't be run again.

mod common;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{
    Address, Builder, Fd, Interest, Method, Op, Output, SendBuf, SendFile, SendFileEnd,
};

on_both_backends! {
    a_full_backlog_is_an_error,
    a_blocking_socket_is_refused,
    two_wait_for_room_at_a_half_closed_socket,
    a_drop_without_a_bound_ends,
}

fn a_full_backlog_is_an_error(builder: Builder) {
    let proactor = builder.build().unwrap();
    let name = format!(
        "spliceport-backlog-{}-{}",
        std::process::id(),
        proactor.backend()
    );
    let address = Address::from(SocketAddr::from_abstract_name(name).unwrap());
    let options = ListenOptions {
        backlog: 0,
        ..ListenOptions::default()
    };
    let _listener = net::listen(&address, &options).unwrap();
    let mut connected = Vec::new();
    let refused = (0..8).find_map(|_| {
        let socket = net::socket_for(&address).unwrap();
        let op = Op::Connect {
            socket: socket.clone(),
            address: address.clone(),
        };
        let completion = call(&proactor, op);
        connected.push(socket);
        completion.result.err()
    });
    let refused = refused.expect("a backlog of none is full after a few");
    assert_eq!(refused.raw_os_error(), Some(libc::EAGAIN));
}

fn a_blocking_socket_is_refused(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    for method in [Method::Chain, Method::Inline, Method::Sendfile] {
        let op = Op::SendFile(SendFile {
            header: SendBuf::new(),
            file: file(&pattern(100)),
            socket: Fd::new(socket.try_clone().unwrap()),
            offset: Some(0),
            len: 100,
            more: false,
            method,
        });
        let completion = call(&proactor, op);
        assert_eq!(completion.transferred, 0);
        match completion.result {
            Ok(Output::Sent(SendFileEnd::SocketFailed(e))) => {
                assert_eq!(e.kind(), std::io::ErrorKind::InvalidInput);
            }
            other => panic!("{method:?}: {other:?}"),
        }
    }
}

fn two_wait_for_room_at_a_half_closed_socket(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (a, b) = net::pair().unwrap();
    net::shutdown(&b, std::net::Shutdown::Write).unwrap();
    // Fill it.
    let chunk = vec![7; 64 << 10];
    let waiting = loop {
        let send = Op::Send {
            socket: a.clone(),
            buf: BytesMut::from(&chunk[..]).into(),
            more: false,
        };
        let started = start(&proactor, send);
        run_idle(&proactor);
        if !started.is_over() {
            break started;
        }
    };
    let poll = start(
        &proactor,
        Op::Poll {
            fd: a.clone(),
            interest: Interest::WRITABLE,
        },
    );
    let before = proactor.stats().waits;
    run_idle(&proactor);
    assert!(!waiting.is_over() && !poll.is_over());
    // A loop that spins enters the kernel again and again within one turn's time.
    assert!(proactor.stats().waits - before < 200);
    // Whoever reads makes room for both.
    let mut read = 0;
    while !waiting.is_over() || !poll.is_over() {
        let buf = BytesMut::with_capacity(256 << 10);
        let completion = call(
            &proactor,
            Op::Recv {
                socket: b.clone(),
                buf,
            },
        );
        read += completion.transferred;
        run_idle(&proactor);
    }
    assert!(read > 0);
    assert!(
        matches!(end(&proactor, &poll).result, Ok(Output::Ready(found)) if found.is_writable())
    );
    waiting.take();
}

fn a_drop_without_a_bound_ends(builder: Builder) {
    let proactor = builder.drain(Duration::MAX).build().unwrap();
    let (a, _b) = net::pair().unwrap();
    let received = start(&proactor, Op::RecvMulti { socket: a });
    run_idle(&proactor);
    drop(proactor);
    assert!(received.is_over());
}
