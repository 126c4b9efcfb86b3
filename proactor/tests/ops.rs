//! Each operation: success, error, waiting; and what it owned comes back whatever happens.

mod common;

use std::ffi::CString;
use std::io::{Read, Seek, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::*;
use proactor::net::{self, Address, ListenOptions};
use proactor::{Builder, Callback, Completion, Fd, Interest, Op, Open, Output, Proactor, SendBuf};

on_both_backends! {
    accepts_and_connects,
    a_refused_connection,
    accept_needs_a_listener,
    receives_what_is_there,
    receives_later,
    receives_the_end,
    receives_a_reset,
    receives_past_urgent_data,
    receives_not_from_a_file,
    sends,
    sends_when_there_is_room,
    sends_to_no_one,
    sends_many_buffers,
    sends_into_pipes,
    reads_files,
    reads_what_cannot_be_read,
    reads_pipes,
    reads_blocking_pipes,
    reads_counters,
    writes_files,
    writes_sockets_and_pipes,
    splices_file_to_pipe_to_socket,
    splices_socket_to_pipe_to_file,
    splices_when_both_are_ready,
    splices_not_between_files,
    polls,
    polls_files,
    opens,
    opens_beneath,
    closes,
    shuts_down,
    works,
    does_nothing,
    waits_until,
    handlers_get_their_key,
}

fn tcp_listener() -> (Fd, Address) {
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = net::listen(&any.into(), &ListenOptions::default()).unwrap();
    let address = net::local_address(&listener).unwrap();
    (listener, address)
}

fn recv(socket: &Fd, room: usize) -> Op {
    Op::Recv {
        socket: socket.clone(),
        buf: BytesMut::with_capacity(room),
    }
}

fn send(socket: &Fd, bytes: impl Into<SendBuf>) -> Op {
    Op::Send {
        socket: socket.clone(),
        buf: bytes.into(),
        more: false,
    }
}

fn received(completion: Completion) -> BytesMut {
    assert!(completion.result.is_ok(), "{:?}", completion.result);
    match completion.op {
        Some(Op::Recv { buf, .. } | Op::Read { buf, .. }) => {
            assert_eq!(buf.len() as u64, completion.transferred);
            buf
        }
        other => panic!("{other:?} came back"),
    }
}

fn accepted(completion: Completion) -> Fd {
    assert!(matches!(completion.op, Some(Op::Accept { .. })));
    match completion.result {
        Ok(Output::Accepted(fd)) => fd,
        other => panic!("{other:?}"),
    }
}

fn accepts_and_connects(builder: Builder) {
    let proactor = builder.build().unwrap();
    let dir = scratch();
    let path = dir.path().join("socket");
    let unix = std::os::unix::net::SocketAddr::from_pathname(path).unwrap();
    let unix = net::listen(&unix.into(), &ListenOptions::default()).unwrap();
    let unix_address = net::local_address(&unix).unwrap();
    for (listener, address) in [tcp_listener(), (unix, unix_address)] {
        let accept = start(&proactor, Op::Accept { listener });
        run_idle(&proactor);
        assert_eq!(accept.count(), 0);
        let socket = net::socket_for(&address).unwrap();
        let connect = Op::Connect {
            socket: socket.clone(),
            address,
        };
        let connected = call(&proactor, connect);
        assert!(connected.result.is_ok());
        assert!(matches!(connected.op, Some(Op::Connect { .. })));
        let server = accepted(end(&proactor, &accept));
        // It is non-blocking, and not inherited across exec.
        for (get, flag) in [
            (libc::F_GETFL, libc::O_NONBLOCK),
            (libc::F_GETFD, libc::FD_CLOEXEC),
        ] {
            // SAFETY: fcntl with integers touches no memory.
            let flags = unsafe { libc::fcntl(server.as_raw_fd(), get) };
            assert_ne!(flags & flag, 0);
        }
        call(&proactor, send(&server, Bytes::from_static(b"hello")));
        assert_eq!(received(call(&proactor, recv(&socket, 16))), b"hello"[..]);
    }
}

fn a_refused_connection(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (listener, address) = tcp_listener();
    drop(listener);
    let socket = net::socket_for(&address).unwrap();
    let connect = call(&proactor, Op::Connect { socket, address });
    assert_eq!(errno(&connect), libc::ECONNREFUSED);
    assert!(matches!(connect.op, Some(Op::Connect { .. })));
}

fn accept_needs_a_listener(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, _peer) = connected(Wire::Tcp);
    let accept = Op::Accept { listener: socket };
    assert_eq!(errno(&call(&proactor, accept)), libc::EINVAL);
}

fn receives_what_is_there(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        let (socket, mut peer) = connected(wire);
        peer.write_all(b"0123456789").unwrap();
        // Only the spare capacity is written to.
        let mut buf = BytesMut::with_capacity(6);
        buf.extend_from_slice(b"ab");
        let before = buf.as_ptr();
        let completion = call(
            &proactor,
            Op::Recv {
                socket: socket.clone(),
                buf,
            },
        );
        assert_eq!(completion.transferred, 4);
        let Some(Op::Recv { buf, .. }) = completion.op else {
            panic!()
        };
        assert_eq!(buf, b"ab0123"[..]);
        assert_eq!(buf.as_ptr(), before);
        assert_eq!(received(call(&proactor, recv(&socket, 100))), b"456789"[..]);
    }
}

fn receives_later(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        let (socket, mut peer) = connected(wire);
        for round in 0..20_u8 {
            let pending = start(&proactor, recv(&socket, 100));
            run_idle(&proactor);
            assert_eq!(pending.count(), 0);
            peer.write_all(&[round; 3]).unwrap();
            assert_eq!(received(end(&proactor, &pending)), [round; 3][..]);
        }
    }
}

fn receives_the_end(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        // Bytes and end at once, before and after the receive is there.
        for early in [false, true] {
            let (socket, mut peer) = connected(wire);
            let pending = (!early).then(|| start(&proactor, recv(&socket, 100)));
            run_idle(&proactor);
            peer.write_all(b"last").unwrap();
            peer.shutdown_write();
            let pending = pending.unwrap_or_else(|| start(&proactor, recv(&socket, 100)));
            assert_eq!(received(end(&proactor, &pending)), b"last"[..]);
            for _ in 0..3 {
                let completion = call(&proactor, recv(&socket, 100));
                assert_eq!(received(completion).len(), 0);
            }
        }
    }
}

fn receives_a_reset(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, peer) = connected(Wire::Tcp);
    let pending = start(&proactor, recv(&socket, 100));
    run_idle(&proactor);
    peer.reset();
    let completion = end(&proactor, &pending);
    assert_eq!(errno(&completion), libc::ECONNRESET);
    let Some(Op::Recv { buf, .. }) = completion.op else {
        panic!()
    };
    assert_eq!(buf.capacity(), 100);
}

/// A receive stops at the mark, short of what it had room for; what is behind it must not wait for
/// more to come.
fn receives_past_urgent_data(builder: Builder) {
    let proactor = builder.build().unwrap();
    for multi in [false, true] {
        let (socket, mut peer) = connected(Wire::Tcp);
        // So that the descriptor is known to the port.
        let started = if multi {
            start(
                &proactor,
                Op::RecvMulti {
                    socket: socket.clone(),
                },
            )
        } else {
            start(&proactor, recv(&socket, 100))
        };
        run_idle(&proactor);
        if !multi {
            peer.write_all(b"x").unwrap();
            end(&proactor, &started);
        }
        peer.write_all(b"before").unwrap();
        // SAFETY: the kernel reads one byte.
        let n = unsafe { libc::send(peer.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(n, 1);
        peer.write_all(b"behind").unwrap();
        if multi {
            let mut got = Vec::new();
            run_until(&proactor, || {
                for completion in started.take() {
                    let Ok(Output::Data(data)) = completion.result else {
                        panic!()
                    };
                    got.extend_from_slice(&data);
                }
                got == b"beforebehind"
            });
        } else {
            let mut got = Vec::new();
            while got != b"beforebehind" {
                got.extend_from_slice(&received(call(&proactor, recv(&socket, 100))));
            }
        }
    }
}

fn receives_not_from_a_file(builder: Builder) {
    let proactor = builder.build().unwrap();
    let completion = call(&proactor, recv(&file(b"no socket"), 10));
    assert_eq!(errno(&completion), libc::ENOTSOCK);
    let completion = call(&proactor, send(&file(b""), Bytes::from_static(b"x")));
    assert_eq!(errno(&completion), libc::ENOTSOCK);
    assert!(matches!(completion.op, Some(Op::Send { buf, .. }) if buf.len() == 1));
}

fn sends(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        let (socket, mut peer) = connected(wire);
        let mut buf = BytesMut::with_capacity(1000);
        buf.extend_from_slice(b"owned");
        let completion = call(&proactor, send(&socket, buf));
        assert_eq!(completion.transferred, 5);
        let Some(Op::Send {
            buf: SendBuf::Owned(buf),
            ..
        }) = completion.op
        else {
            panic!()
        };
        assert_eq!(buf, b"owned"[..]);
        assert!(buf.capacity() >= 1000);
        assert_eq!(peer.read_bytes(5), b"owned");
        // Nothing is sent of nothing.
        assert_eq!(call(&proactor, send(&socket, Bytes::new())).transferred, 0);
    }
}

fn sends_when_there_is_room(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Unix, Wire::Tcp] {
        let (socket, mut peer) = narrow(wire);
        let before = fill(&socket);
        let bytes = Bytes::from(pattern(300_000));
        let mut rest = bytes.clone();
        let mut pending = start(&proactor, send(&socket, rest.clone()));
        run_idle(&proactor);
        if wire == Wire::Unix {
            assert_eq!(pending.count(), 0);
        }
        peer.read_bytes(before);
        let peer = peer.collect();
        loop {
            let completion = end(&proactor, &pending);
            assert!(completion.result.is_ok());
            assert!(completion.transferred > 0);
            rest = rest.slice(completion.transferred as usize..);
            if rest.is_empty() {
                break;
            }
            pending = start(&proactor, send(&socket, rest.clone()));
        }
        drop((socket, pending));
        assert_eq!(join(&proactor, peer), bytes);
    }
}

fn sends_to_no_one(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, peer) = connected(Wire::Unix);
    drop(peer);
    let completion = call(&proactor, send(&socket, Bytes::from_static(b"x")));
    assert_eq!(errno(&completion), libc::EPIPE);
    let (read, write) = pipe();
    drop(read);
    let completion = call(&proactor, send(&write, Bytes::from_static(b"x")));
    assert_eq!(errno(&completion), libc::EPIPE);
    let completion = call(
        &proactor,
        Op::SendVectored {
            socket: write,
            bufs: vec![Bytes::from_static(b"x")],
            more: false,
        },
    );
    assert_eq!(errno(&completion), libc::EPIPE);
    assert!(matches!(completion.op, Some(Op::SendVectored { bufs, .. }) if bufs.len() == 1));
}

fn sends_many_buffers(builder: Builder) {
    let proactor = builder.build().unwrap();
    for count in [0, 1, 16, 17, 1024, 1500] {
        let (socket, mut peer) = connected(Wire::Unix);
        let bytes = Bytes::from(pattern(count));
        let bufs: Vec<Bytes> = (0..count).map(|i| bytes.slice(i..i + 1)).collect();
        let completion = call(
            &proactor,
            Op::SendVectored {
                socket,
                bufs,
                more: false,
            },
        );
        let sent = completion.transferred as usize;
        // One call takes 1024 at most.
        assert_eq!(sent, count.min(1024));
        let Some(Op::SendVectored { bufs, socket, .. }) = completion.op else {
            panic!()
        };
        assert_eq!(bufs.len(), count);
        drop(socket);
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, bytes[..sent]);
    }
}

fn sends_into_pipes(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (read, write) = pipe();
    let completion = call(&proactor, send(&write, Bytes::from_static(b"one ")));
    assert_eq!(completion.transferred, 4);
    let bufs = vec![Bytes::from_static(b"two "), Bytes::from_static(b"three")];
    let completion = call(
        &proactor,
        Op::SendVectored {
            socket: write.clone(),
            bufs,
            more: true,
        },
    );
    assert_eq!(completion.transferred, 9);
    let read_op = || Op::Read {
        file: read.clone(),
        buf: BytesMut::with_capacity(1 << 20),
        len: usize::MAX,
        offset: None,
    };
    assert_eq!(received(call(&proactor, read_op())), b"one two three"[..]);
    let filled = fill(&write);
    let pending = start(&proactor, send(&write, Bytes::from_static(b"late")));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    assert_eq!(received(call(&proactor, read_op())).len(), filled);
    assert_eq!(end(&proactor, &pending).transferred, 4);
    assert_eq!(received(call(&proactor, read_op())), b"late"[..]);
}

fn reads_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    let file = file(&bytes);
    let read = |room: usize, len: usize, offset: Option<u64>| {
        let op = Op::Read {
            file: file.clone(),
            buf: BytesMut::with_capacity(room),
            len,
            offset,
        };
        received(call(&proactor, op))
    };
    assert_eq!(read(200_000, usize::MAX, Some(0)), bytes[..]);
    assert_eq!(read(1000, 1000, Some(4097)), bytes[4097..5097]);
    assert_eq!(read(1000, 10, Some(99_995)), bytes[99_995..]);
    assert_eq!(read(10, 1000, Some(5)), bytes[5..15]);
    assert_eq!(read(10, 1000, Some(100_000)).len(), 0);
    assert_eq!(read(10, 1000, Some(1 << 40)).len(), 0);
    assert_eq!(read(10, 0, Some(0)).len(), 0);
    // At the position, which was at the end.
    assert_eq!(read(10, 10, None).len(), 0);
    let mut plain = std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap());
    plain.seek(std::io::SeekFrom::Start(50)).unwrap();
    assert_eq!(read(10, 10, None), bytes[50..60]);
    assert_eq!(read(10, 10, None), bytes[60..70]);
}

fn reads_what_cannot_be_read(builder: Builder) {
    let proactor = builder.build().unwrap();
    let read = |file: Fd, offset| {
        let op = Op::Read {
            file,
            buf: BytesMut::with_capacity(10),
            len: 10,
            offset,
        };
        let completion = call(&proactor, op);
        assert!(matches!(&completion.op, Some(Op::Read { buf, .. }) if buf.capacity() == 10));
        errno(&completion)
    };
    let directory = Fd::from(std::fs::File::open("/").unwrap());
    assert_eq!(read(directory.clone(), Some(0)), libc::EISDIR);
    assert_eq!(read(directory, None), libc::EISDIR);
    let dir = scratch();
    let write_only = Fd::from(std::fs::File::create(dir.path().join("file")).unwrap());
    assert_eq!(read(write_only.clone(), Some(0)), libc::EBADF);
    assert_eq!(read(write_only, None), libc::EBADF);
    let (pipe_read, pipe_write) = pipe();
    assert_eq!(read(pipe_read, Some(0)), libc::ESPIPE);
    assert_eq!(read(pipe_write, None), libc::EBADF);
}

fn read_position(file: &Fd, room: usize) -> Op {
    Op::Read {
        file: file.clone(),
        buf: BytesMut::with_capacity(room),
        len: room,
        offset: None,
    }
}

fn reads_pipes(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (read, write) = pipe();
    for round in 0..20_u8 {
        let pending = start(&proactor, read_position(&read, 100));
        run_idle(&proactor);
        assert_eq!(pending.count(), 0);
        let sent = call(&proactor, send(&write, Bytes::from(vec![round; 7])));
        assert_eq!(sent.transferred, 7);
        assert_eq!(received(end(&proactor, &pending)), [round; 7][..]);
    }
    let pending = start(&proactor, read_position(&read, 100));
    run_idle(&proactor);
    drop(write);
    assert_eq!(received(end(&proactor, &pending)).len(), 0);
    // A socket is read as well.
    let (socket, mut peer) = connected(Wire::Tcp);
    let pending = start(&proactor, read_position(&socket, 3));
    run_idle(&proactor);
    peer.write_all(b"12345").unwrap();
    assert_eq!(received(end(&proactor, &pending)), b"123"[..]);
    assert_eq!(
        received(call(&proactor, read_position(&socket, 3))),
        b"45"[..]
    );
}

/// As inherited ones are. The loop must not be held up.
fn reads_blocking_pipes(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (read, mut write) = std::io::pipe().unwrap();
    let read = Fd::new(OwnedFd::from(read));
    let pending = start(&proactor, read_position(&read, 100));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    write.write_all(b"at last").unwrap();
    assert_eq!(received(end(&proactor, &pending)), b"at last"[..]);
    let (mut read, write) = std::io::pipe().unwrap();
    let write = Fd::new(OwnedFd::from(write));
    let bytes = pattern(150_000);
    let pending = start(
        &proactor,
        Op::Write {
            file: write.clone(),
            buf: Bytes::from(bytes.clone()).into(),
            offset: None,
        },
    );
    call(&proactor, Op::Nop);
    let mut got = vec![0; 150_000];
    let reader = std::thread::spawn(move || {
        read.read_exact(&mut got[..65536]).unwrap();
        got
    });
    let completion = end(&proactor, &pending);
    assert!(completion.result.is_ok());
    assert!(completion.transferred >= 1);
    drop(write);
    drop(completion);
    let _ = reader.join();
}

fn reads_counters(builder: Builder) {
    let proactor = builder.build().unwrap();
    // SAFETY: takes and touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made it; nobody else knows it.
    let counter = Fd::new(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
    let pending = start(&proactor, read_position(&counter, 8));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    let write = Op::Write {
        file: counter.clone(),
        buf: Bytes::copy_from_slice(&7_u64.to_ne_bytes()).into(),
        offset: None,
    };
    assert_eq!(call(&proactor, write).transferred, 8);
    assert_eq!(received(end(&proactor, &pending)), 7_u64.to_ne_bytes()[..]);
}

fn writes_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let mut plain = unnamed();
    let file = Fd::from(plain.try_clone().unwrap());
    let write = |bytes: &'static [u8], offset| {
        let op = Op::Write {
            file: file.clone(),
            buf: Bytes::from_static(bytes).into(),
            offset,
        };
        let completion = call(&proactor, op);
        assert!(matches!(&completion.op, Some(Op::Write { buf, .. }) if **buf == *bytes));
        completion
    };
    assert_eq!(write(b"0123456789", Some(5)).transferred, 10);
    assert_eq!(write(b"abc", None).transferred, 3);
    assert_eq!(write(b"de", None).transferred, 2);
    let mut text = String::new();
    plain.rewind().unwrap();
    plain.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcde0123456789");
    let read_only = Fd::from(std::fs::File::open("/proc/self/status").unwrap());
    let op = Op::Write {
        file: read_only,
        buf: Bytes::from_static(b"x").into(),
        offset: None,
    };
    assert_eq!(errno(&call(&proactor, op)), libc::EBADF);
}

fn writes_sockets_and_pipes(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Unix);
    let write = |file: &Fd, bytes: &'static [u8]| Op::Write {
        file: file.clone(),
        buf: Bytes::from_static(bytes).into(),
        offset: None,
    };
    assert_eq!(call(&proactor, write(&socket, b"to you")).transferred, 6);
    assert_eq!(peer.read_bytes(6), b"to you");
    let filled = fill(&socket);
    let pending = start(&proactor, write(&socket, b"later"));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    peer.read_bytes(filled);
    assert_eq!(end(&proactor, &pending).transferred, 5);
    drop(peer);
    assert_eq!(errno(&call(&proactor, write(&socket, b"x"))), libc::EPIPE);
    let (read, write_end) = pipe();
    drop(read);
    let completion = call(&proactor, write(&write_end, b"x"));
    assert_eq!(errno(&completion), libc::EPIPE);
}

fn splice(from: &Fd, from_offset: Option<u64>, to: &Fd, len: usize) -> Op {
    Op::Splice {
        from: from.clone(),
        from_offset,
        to: to.clone(),
        to_offset: None,
        len,
        more: false,
    }
}

fn splices_file_to_pipe_to_socket(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(500_000);
    let file = file(&bytes);
    let (read, write) = pipe();
    let (socket, peer) = narrow(Wire::Tcp);
    let peer = peer.collect();
    let mut sent = 0;
    while sent < bytes.len() {
        // The fill waits for room, the drain for data and for room.
        let fills = start(&proactor, splice(&file, Some(sent as u64), &write, 100_000));
        let mut filled = end(&proactor, &fills).transferred as usize;
        assert!(filled > 0);
        while filled > 0 {
            let drained = call(&proactor, splice(&read, None, &socket, filled));
            assert!(drained.result.is_ok());
            assert!(matches!(drained.op, Some(Op::Splice { .. })));
            filled -= drained.transferred as usize;
            sent += drained.transferred as usize;
        }
    }
    let at_end = call(&proactor, splice(&file, Some(500_000), &write, 10));
    assert!(at_end.result.is_ok());
    assert_eq!(at_end.transferred, 0);
    // A full pipe.
    fill(&write);
    let pending = start(&proactor, splice(&file, Some(0), &write, 10));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    call(&proactor, read_position(&read, 1 << 20));
    assert_eq!(end(&proactor, &pending).transferred, 10);
    drop(socket);
    assert_eq!(join(&proactor, peer), bytes);
}

fn splices_socket_to_pipe_to_file(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let (read, write) = pipe();
    let mut plain = unnamed();
    let file = Fd::from(plain.try_clone().unwrap());
    let fills = start(&proactor, splice(&socket, None, &write, 1000));
    let drains = start(&proactor, splice(&read, None, &file, 1000));
    run_idle(&proactor);
    assert_eq!((fills.count(), drains.count()), (0, 0));
    peer.write_all(b"some bytes").unwrap();
    assert_eq!(end(&proactor, &fills).transferred, 10);
    assert_eq!(end(&proactor, &drains).transferred, 10);
    peer.shutdown_write();
    let at_end = call(&proactor, splice(&socket, None, &write, 1000));
    assert!(at_end.result.is_ok());
    assert_eq!(at_end.transferred, 0);
    drop((at_end, write));
    let at_end = call(&proactor, splice(&read, None, &file, 1000));
    assert!(at_end.result.is_ok());
    assert_eq!(at_end.transferred, 0);
    let mut text = String::new();
    plain.rewind().unwrap();
    plain.read_to_string(&mut text).unwrap();
    assert_eq!(text, "some bytes");
}

fn splices_when_both_are_ready(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (drain, target) = pipe();
    let (read, write) = pipe();
    let filled = fill(&target);
    let pending = start(&proactor, splice(&read, None, &target, 100));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    call(&proactor, send(&write, Bytes::from_static(b"source ready")));
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    let take = |len| {
        let file = drain.clone();
        let buf = BytesMut::with_capacity(len);
        let completion = call(
            &proactor,
            Op::Read {
                file,
                buf,
                len,
                offset: None,
            },
        );
        assert_eq!(completion.transferred as usize, len);
        match completion.op {
            Some(Op::Read { buf, .. }) => buf,
            other => panic!("not the read: {other:?}"),
        }
    };
    take(filled);
    assert_eq!(end(&proactor, &pending).transferred, 12);
    assert_eq!(&take(12)[..], b"source ready");
}

fn splices_not_between_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let completion = call(&proactor, splice(&file(b"a"), Some(0), &file(b"b"), 1));
    assert_eq!(errno(&completion), libc::EINVAL);
    let (a, _peer) = connected(Wire::Tcp);
    let (b, _peer) = connected(Wire::Tcp);
    let completion = call(&proactor, splice(&a, None, &b, 1));
    assert_eq!(errno(&completion), libc::EINVAL);
}

fn ready(completion: Completion) -> Interest {
    assert!(matches!(completion.op, Some(Op::Poll { .. })));
    match completion.result {
        Ok(Output::Ready(interest)) => interest,
        other => panic!("{other:?}"),
    }
}

fn polls(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in [Wire::Tcp, Wire::Unix] {
        let (socket, mut peer) = connected(wire);
        let poll = |interest| Op::Poll {
            fd: socket.clone(),
            interest,
        };
        let writable = ready(call(&proactor, poll(Interest::WRITABLE)));
        assert!(writable.is_writable());
        // Each round waits for an edge anew, and any number may wait.
        for _ in 0..5 {
            let pending = [0; 3].map(|_| start(&proactor, poll(Interest::READABLE)));
            run_idle(&proactor);
            assert!(pending.iter().all(|p| p.count() == 0));
            peer.write_all(b"x").unwrap();
            for pending in &pending {
                assert!(ready(end(&proactor, pending)).is_readable());
            }
            // What is there already needs no edge.
            assert!(ready(call(&proactor, poll(Interest::READABLE))).is_readable());
            received(call(&proactor, recv(&socket, 100)));
        }
        let pending = start(&proactor, poll(Interest::READABLE));
        run_idle(&proactor);
        drop(peer);
        assert!(ready(end(&proactor, &pending)).is_readable());
    }
    let (socket, mut peer) = connected(Wire::Unix);
    let filled = fill(&socket);
    let pending = start(
        &proactor,
        Op::Poll {
            fd: socket,
            interest: Interest::WRITABLE,
        },
    );
    run_idle(&proactor);
    assert_eq!(pending.count(), 0);
    peer.read_bytes(filled);
    assert!(ready(end(&proactor, &pending)).is_writable());
}

fn polls_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let poll = Op::Poll {
        fd: file(b""),
        interest: Interest::READABLE,
    };
    assert!(ready(call(&proactor, poll)).is_readable());
}

fn open(dir: Option<Fd>, path: impl AsRef<std::ffi::OsStr>, beneath: bool) -> Op {
    Op::Open(Open {
        dir,
        path: CString::new(path.as_ref().as_bytes()).unwrap(),
        flags: libc::O_RDONLY,
        mode: 0,
        beneath,
    })
}

fn opens(builder: Builder) {
    let proactor = builder.build().unwrap();
    let dir = scratch();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    let completion = call(&proactor, open(None, dir.path().join("file"), false));
    let Ok(Output::Opened(file)) = completion.result else {
        panic!()
    };
    assert!(matches!(completion.op, Some(Op::Open(_))));
    // SAFETY: fcntl with integers touches no memory.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
    assert_ne!(flags & libc::FD_CLOEXEC, 0);
    assert_eq!(
        received(call(&proactor, read_position(&file, 10))),
        b"content"[..]
    );
    let completion = call(&proactor, open(None, dir.path().join("other"), false));
    assert_eq!(errno(&completion), libc::ENOENT);
    let new = Op::Open(Open {
        dir: Some(Fd::from(std::fs::File::open(dir.path()).unwrap())),
        path: c"new".to_owned(),
        flags: libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY,
        mode: 0o600,
        beneath: true,
    });
    let completion = call(&proactor, new);
    assert!(completion.result.is_ok());
    let again = completion.op.unwrap();
    assert_eq!(errno(&call(&proactor, again)), libc::EEXIST);
}

fn opens_beneath(builder: Builder) {
    let proactor = builder.build().unwrap();
    let dir = scratch();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("secret"), "").unwrap();
    std::fs::write(dir.path().join("sub/file"), "").unwrap();
    std::os::unix::fs::symlink("../secret", dir.path().join("sub/out")).unwrap();
    std::os::unix::fs::symlink("file", dir.path().join("sub/in")).unwrap();
    let sub = Fd::from(std::fs::File::open(dir.path().join("sub")).unwrap());
    for path in ["../secret", "out", "/etc/passwd"] {
        let completion = call(&proactor, open(Some(sub.clone()), path, true));
        assert_eq!(errno(&completion), libc::EXDEV, "{path}");
    }
    for path in ["file", "in", "./file"] {
        let completion = call(&proactor, open(Some(sub.clone()), path, true));
        assert!(completion.result.is_ok(), "{path}");
    }
    assert!(
        call(&proactor, open(Some(sub), "../secret", false))
            .result
            .is_ok()
    );
}

fn closes(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let clone = socket.clone();
    let completion = call(&proactor, Op::Close { fd: socket });
    assert!(completion.result.is_ok());
    assert!(matches!(completion.op, Some(Op::Nop)));
    // Others have it still.
    call(&proactor, send(&clone, Bytes::from_static(b"x")));
    assert_eq!(peer.read_bytes(1), b"x");
    call(&proactor, Op::Close { fd: clone });
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
}

fn shuts_down(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (socket, mut peer) = connected(Wire::Tcp);
    let pending = start(&proactor, recv(&socket, 10));
    run_idle(&proactor);
    let shutdown = |socket: &Fd, how| Op::Shutdown {
        socket: socket.clone(),
        how,
    };
    assert!(
        call(&proactor, shutdown(&socket, Shutdown::Write))
            .result
            .is_ok()
    );
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    let completion = call(&proactor, send(&socket, Bytes::from_static(b"x")));
    assert_eq!(errno(&completion), libc::EPIPE);
    assert_eq!(pending.count(), 0);
    call(&proactor, shutdown(&socket, Shutdown::Both));
    assert_eq!(received(end(&proactor, &pending)).len(), 0);
    let completion = call(&proactor, shutdown(&file(b""), Shutdown::Both));
    assert_eq!(errno(&completion), libc::ENOTSOCK);
}

fn works(builder: Builder) {
    let proactor = builder.workers(2).build().unwrap();
    let here = std::thread::current().id();
    let started: Vec<Started> = (0..50_usize)
        .map(|i| {
            let work = Op::Work(Box::new(move || {
                assert_ne!(std::thread::current().id(), here);
                Ok(Box::new(i))
            }));
            start(&proactor, work)
        })
        .collect();
    for (i, started) in started.iter().enumerate() {
        match end(&proactor, started).result {
            Ok(Output::Worked(n)) => assert_eq!(*n.downcast::<usize>().unwrap(), i),
            other => panic!("{other:?}"),
        }
    }
    assert!(proactor.stats().workers <= 2);
    let failing = Op::Work(Box::new(|| Err(std::io::Error::other("no"))));
    let completion = call(&proactor, failing);
    assert_eq!(completion.result.unwrap_err().to_string(), "no");
    let panicking = Op::Work(Box::new(|| panic!("on purpose")));
    assert!(call(&proactor, panicking).result.is_err());
    let after = Op::Work(Box::new(|| Ok(Box::new(()))));
    assert!(call(&proactor, after).result.is_ok());
}

fn does_nothing(builder: Builder) {
    let proactor = builder.build().unwrap();
    let completion = call(&proactor, Op::Nop);
    assert!(matches!(completion.result, Ok(Output::Done)));
    assert!(matches!(completion.op, Some(Op::Nop)));
}

fn waits_until(builder: Builder) {
    let proactor = builder.build().unwrap();
    let now = Instant::now();
    let order = Rc::new(std::cell::RefCell::new(Vec::new()));
    // Equal times in the order of submission; those in the past at once.
    for (name, millis) in [(3, 30), (4, 30), (1, 10), (2, 20), (5, 30)] {
        let order = order.clone();
        let at = now + Duration::from_millis(millis);
        let done = Callback::once(move |_, completion| {
            assert!(completion.result.is_ok());
            assert!(Instant::now() >= at);
            order.borrow_mut().push(name);
        });
        proactor.submit(Op::Timeout { at }, done);
    }
    let past = call(
        &proactor,
        Op::Timeout {
            at: now - Duration::from_secs(1),
        },
    );
    assert!(matches!(past.op, Some(Op::Timeout { .. })));
    run_until(&proactor, || order.borrow().len() == 5);
    assert_eq!(*order.borrow(), [1, 2, 3, 4, 5]);
}

fn handlers_get_their_key(builder: Builder) {
    struct Keys(std::cell::RefCell<Vec<u64>>);
    impl proactor::Handler for Keys {
        fn complete(self: Rc<Self>, _: &Proactor, key: u64, completion: Completion) {
            assert!(completion.op.is_some());
            self.0.borrow_mut().push(key);
        }
    }
    let proactor = builder.build().unwrap();
    let keys = Rc::new(Keys(Default::default()));
    for key in 0..10 {
        proactor.submit(Op::Nop, Callback::Handler(keys.clone(), key));
    }
    run_until(&proactor, || keys.0.borrow().len() == 10);
    assert_eq!(*keys.0.borrow(), (0..10).collect::<Vec<_>>());
    assert_eq!(Rc::strong_count(&keys), 1);
}
