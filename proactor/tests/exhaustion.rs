//! Descriptors run out. In a process of its own, since the limit is the process's.

mod common;

use std::net::TcpStream;

use common::*;
use proactor::net::{self, ListenOptions};
use proactor::{Builder, Fd, Method, Op, Output, SendBuf, SendFile, SendFileEnd};

/// Keeps the number of descriptors that can be had small.
fn set_limit(limit: u64) {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the struct, then reads it.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits), 0);
        limits.rlim_cur = limit;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits), 0);
    }
}

/// Takes all the descriptors that there are. They are there again when this is dropped.
fn exhaust() -> Vec<std::fs::File> {
    let mut all = Vec::new();
    loop {
        match std::fs::File::open("/") {
            Ok(one) => all.push(one),
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EMFILE));
                return all;
            }
        }
    }
}

#[test]
fn descriptors_run_out() {
    set_limit(200);
    for builder in [emulated(), ring()] {
        // Two descriptors each, a quarter of all.
        assert_eq!(builder.clone().build().unwrap().stats().pipes_limit, 25);
        accepts_end_and_may_be_tried_again(builder.clone());
        transfers_go_without_pipe(builder.clone());
        no_proactor_is_had(&builder);
    }
}

fn accepts_end_and_may_be_tried_again(builder: Builder) {
    let proactor = builder.build().unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net::listen(&any.into(), &ListenOptions::default()).unwrap();
    let address = net::local_address(&listener).unwrap().as_inet().unwrap();
    let accepts = start(
        &proactor,
        Op::AcceptMulti {
            listener: listener.clone(),
        },
    );
    run_idle(&proactor);
    let _client = TcpStream::connect(address).unwrap();
    run_until(&proactor, || accepts.count() == 1);
    let _first = accepts.take();
    // The client's own descriptor is there; one for the accepted side is not to be had.
    let address = address.into();
    let socket = net::socket_for(&address).unwrap();
    let all = exhaust();
    let connect = start(&proactor, Op::Connect { socket, address });
    let completion = end(&proactor, &accepts);
    assert_eq!(errno(&completion), libc::EMFILE);
    let completion = call(&proactor, completion.op.unwrap());
    assert_eq!(errno(&completion), libc::EMFILE);
    let accept = Op::Accept { listener };
    assert_eq!(errno(&call(&proactor, accept)), libc::EMFILE);
    assert!(end(&proactor, &connect).result.is_ok());
    drop(all);
    // The connection has waited.
    let again = start(&proactor, completion.op.unwrap());
    run_until(&proactor, || again.count() == 1);
    assert!(matches!(again.take()[0].result, Ok(Output::Accepted(_))));
}

fn transfers_go_without_pipe(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    let file = file(&bytes);
    let (socket, peer) = connected(Wire::Tcp);
    let peer = peer.collect();
    let transfer = |method, socket: &Fd| {
        Op::SendFile(SendFile {
            header: SendBuf::new(),
            file: file.clone(),
            socket: socket.clone(),
            offset: Some(0),
            len: 100_000,
            more: false,
            method,
        })
    };
    let all = exhaust();
    for method in [Method::Chain, Method::Inline] {
        let completion = call(&proactor, transfer(method, &socket));
        assert!(matches!(
            completion.result,
            Ok(Output::Sent(SendFileEnd::NoPipe))
        ));
        assert_eq!(completion.transferred, 0);
    }
    let sent = call(&proactor, transfer(Method::Sendfile, &socket)).transferred;
    assert_eq!(sent, 100_000);
    drop(all);
    for method in [Method::Chain, Method::Inline] {
        let sent = call(&proactor, transfer(method, &socket)).transferred;
        assert_eq!(sent, 100_000);
    }
    drop(socket);
    assert_eq!(peer.join().unwrap().len(), 300_000);
}

/// An error, not another backend.
fn no_proactor_is_had(builder: &Builder) {
    let all = exhaust();
    let refused = builder.clone().build().err();
    let auto = Builder::new().build().err();
    drop(all);
    for error in [refused, auto] {
        assert_eq!(error.unwrap().raw_os_error(), Some(libc::EMFILE));
    }
    builder.clone().build().unwrap();
}
