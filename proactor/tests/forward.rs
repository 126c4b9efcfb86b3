//! Forwards: a stream's bytes reach a file or another stream whole and in order, and those that
//! don't come back.

mod common;

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use common::*;
use proactor::{
    Builder, Completion, Fd, Forward, ForwardEnd, Method, Op, Output, Proactor, SendBuf,
};

on_both_backends! {
    into_a_file,
    what_follows_stays_in_the_stream,
    until_the_end,
    the_head_goes_first,
    a_head_waits_for_no_source,
    at_the_position,
    files_that_refuse,
    files_that_can_t_grow,
    to_a_socket,
    some_at_a_time,
    pipes_at_both_ends,
    cancelled_midway,
    cancelled_while_there_is_nothing,
    cancelled_when_all_has_been_moved,
    targets_that_are_gone,
    sources_that_are_reset,
    no_pipes,
    one_pipe_and_many_stalled_peers,
    many_at_once,
    sync,
}

const METHODS: [Method; 2] = [Method::Chain, Method::Inline];
const WIRES: [Wire; 2] = [Wire::Tcp, Wire::Unix];
const LEN: usize = 3_000_000;

fn forward(from: &Fd, to: &Fd, offset: Option<u64>, len: u64) -> Box<Forward> {
    Box::new(Forward {
        head: SendBuf::new(),
        from: from.clone(),
        to: to.clone(),
        offset,
        len,
        some: false,
        method: Method::Chain,
    })
}

/// How it ended, its count, and what came back.
#[track_caller]
fn outcome(completion: Completion) -> (ForwardEnd, u64, SendBuf) {
    let Some(Op::Forward(op)) = completion.op else {
        panic!("{:?} came back", completion.op);
    };
    match completion.result {
        Ok(Output::Forwarded(end)) => (end, completion.transferred, op.head),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn complete(completion: Completion, len: u64) {
    let (end, moved, head) = outcome(completion);
    assert!(matches!(end, ForwardEnd::Complete), "{end:?}");
    assert_eq!((moved, head.len()), (len, 0));
}

#[track_caller]
fn no_pipe_is_leased(proactor: &Proactor) {
    assert_eq!(proactor.stats().pipes_leased, 0);
    assert_eq!(proactor.stats().in_flight, 0);
}

/// Has a peer write on a thread of its own; it gives the peer back.
fn write_on_thread(mut peer: Peer, bytes: Vec<u8>) -> std::thread::JoinHandle<Peer> {
    std::thread::spawn(move || {
        // The other end may go away meanwhile.
        let _ = peer.write_all(&bytes);
        peer
    })
}

fn read_file(file: &Fd) -> Vec<u8> {
    let mut file = std::fs::File::from(file.as_fd().try_clone_to_owned().unwrap());
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn memory() -> Fd {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"t".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: just made, and nobody else's.
    Fd::new(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) })
}

fn into_a_file(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(LEN);
    for len in [0, 1, 4096, 65_537, 1 << 20, LEN] {
        for method in METHODS {
            for wire in WIRES {
                for target in [file(&[]), memory()] {
                    let (socket, peer) = connected(wire);
                    let peer = write_on_thread(peer, bytes[..len].to_vec());
                    let mut op = forward(&socket, &target, Some(5), len as u64);
                    op.method = method;
                    complete(call(&proactor, Op::Forward(op)), len as u64);
                    join(&proactor, peer);
                    let written = read_file(&target);
                    assert!(written.get(5..).unwrap_or(&[]) == &bytes[..len]);
                }
            }
        }
    }
    no_pipe_is_leased(&proactor);
}

fn what_follows_stays_in_the_stream(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(200_000);
    for wire in WIRES {
        let (socket, peer) = narrow(wire);
        let peer = write_on_thread(peer, bytes.clone());
        let target = file(&[]);
        let op = forward(&socket, &target, Some(0), 150_001);
        complete(call(&proactor, Op::Forward(op)), 150_001);
        assert!(read_file(&target) == bytes[..150_001]);
        let rest = file(&[]);
        let op = forward(&socket, &rest, Some(0), 49_999);
        complete(call(&proactor, Op::Forward(op)), 49_999);
        assert!(read_file(&rest) == bytes[150_001..]);
        join(&proactor, peer);
    }
}

fn until_the_end(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(LEN);
    for len in [u64::MAX, LEN as u64 + 1] {
        let (socket, peer) = connected(Wire::Tcp);
        let peer = write_on_thread(peer, bytes.clone());
        let target = file(&[]);
        let op = start(
            &proactor,
            Op::Forward(forward(&socket, &target, Some(0), len)),
        );
        drop(join(&proactor, peer));
        let (end, moved, head) = outcome(end(&proactor, &op));
        assert!(matches!(end, ForwardEnd::EndOfStream), "{end:?}");
        assert_eq!((moved, head.len()), (LEN as u64, 0));
        assert!(read_file(&target) == bytes);
    }
}

fn the_head_goes_first(builder: Builder) {
    let proactor = builder.build().unwrap();
    for method in METHODS {
        let (socket, mut peer) = connected(Wire::Unix);
        peer.write_all(b" world").unwrap();
        let target = file(&[]);
        let mut op = forward(&socket, &target, Some(2), 6);
        op.head = Bytes::from_static(b"hello").into();
        op.method = method;
        complete(call(&proactor, Op::Forward(op)), 11);
        assert_eq!(read_file(&target), b"\0\0hello world");

        let (other, mut reader) = connected(Wire::Tcp);
        peer.write_all(b" world").unwrap();
        let mut op = forward(&socket, &other, None, 6);
        op.head = Bytes::from_static(b"hello").into();
        complete(call(&proactor, Op::Forward(op)), 11);
        assert_eq!(reader.read_bytes(11), b"hello world");
        // And alone.
        let mut op = forward(&socket, &target, Some(0), 0);
        op.head = Bytes::from_static(b"ab").into();
        op.method = method;
        complete(call(&proactor, Op::Forward(op)), 2);
        assert_eq!(read_file(&target), b"abhello world");
    }
}

fn a_head_waits_for_no_source(builder: Builder) {
    let proactor = builder.build().unwrap();
    for method in METHODS {
        let (socket, _peer) = connected(Wire::Tcp);
        // The source is known to have nothing.
        let op = Op::Recv {
            socket: socket.clone(),
            buf: bytes::BytesMut::with_capacity(10),
        };
        let receiving = start(&proactor, op);
        run_idle(&proactor);
        proactor.cancel(receiving.token);
        end(&proactor, &receiving);
        let target = file(&[]);
        let mut op = forward(&socket, &target, Some(0), 0);
        op.head = Bytes::from_static(b"alone").into();
        op.method = method;
        complete(call(&proactor, Op::Forward(op)), 5);
        assert_eq!(read_file(&target), b"alone");
    }
}

fn at_the_position(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(300_000);
    for method in METHODS {
        let (socket, peer) = connected(Wire::Tcp);
        let peer = write_on_thread(peer, bytes.clone());
        let target = file(b"before");
        let mut op = forward(&socket, &target, None, 299_997);
        op.head = Bytes::from_static(b"top").into();
        op.method = method;
        complete(call(&proactor, Op::Forward(op)), 300_000);
        assert_eq!(target.position().unwrap(), 300_006);
        let written = read_file(&target);
        assert_eq!(&written[..9], b"beforetop");
        assert!(written[9..] == bytes[..299_997]);
        join(&proactor, peer);
    }
}

fn files_that_refuse(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    for method in METHODS {
        let dir = scratch();
        let append = std::fs::File::options()
            .append(true)
            .create_new(true)
            .open(dir.path().join("f"))
            .unwrap();
        let (socket, mut peer) = connected(Wire::Unix);
        peer.write_all(&bytes).unwrap();
        let mut op = forward(&socket, &Fd::new(append), None, 100_000);
        op.method = method;
        let (end, moved, head) = outcome(call(&proactor, Op::Forward(op)));
        let ForwardEnd::TargetFailed(e) = end else {
            panic!("{end:?}");
        };
        assert_eq!((e.raw_os_error(), moved), (Some(libc::EINVAL), 0));
        // What was taken from the stream is all there, and nothing else.
        assert!(!head.is_empty());
        let rest = file(&[]);
        let mut op = forward(&socket, &rest, Some(0), (100_000 - head.len()) as u64);
        op.head = head;
        complete(call(&proactor, Op::Forward(op)), 100_000);
        assert!(read_file(&rest) == bytes);
    }
    no_pipe_is_leased(&proactor);
}

fn files_that_can_t_grow(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    for method in METHODS {
        let target = memory();
        let handle = std::fs::File::from(target.as_fd().try_clone_to_owned().unwrap());
        handle.set_len(40_960).unwrap();
        // SAFETY: fcntl with integers touches no memory.
        let sealed = unsafe {
            libc::fcntl(
                std::os::fd::AsRawFd::as_raw_fd(&target),
                libc::F_ADD_SEALS,
                libc::F_SEAL_GROW,
            )
        };
        assert_eq!(sealed, 0);
        let (socket, mut peer) = connected(Wire::Unix);
        peer.write_all(&bytes).unwrap();
        let mut op = forward(&socket, &target, Some(0), 100_000);
        op.method = method;
        let (end, moved, head) = outcome(call(&proactor, Op::Forward(op)));
        let ForwardEnd::TargetFailed(e) = end else {
            panic!("{end:?}");
        };
        assert_eq!(e.raw_os_error(), Some(libc::EPERM));
        // The count is what is in the file, and the next byte is the first that came back.
        let moved = moved as usize;
        assert!(moved <= 40_960);
        assert!(read_file(&target)[..moved] == bytes[..moved]);
        assert!(head[..] == bytes[moved..][..head.len()]);
        drop(socket);
    }
}

fn to_a_socket(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(LEN);
    for wire in WIRES {
        let (from, writer) = connected(wire);
        let (to, reader) = connected(Wire::Tcp);
        let writer = write_on_thread(writer, bytes.clone());
        let reader = reader.collect();
        let op = forward(&from, &to, None, LEN as u64);
        complete(call(&proactor, Op::Forward(op)), LEN as u64);
        drop(to);
        assert!(join(&proactor, reader) == bytes);
        join(&proactor, writer);
    }
    let short = &bytes[..100_000];
    let (from, writer) = narrow(Wire::Tcp);
    let (to, reader) = narrow(Wire::Unix);
    let writer = write_on_thread(writer, short.to_vec());
    let reader = reader.collect();
    let op = start(&proactor, Op::Forward(forward(&from, &to, None, u64::MAX)));
    drop(to);
    drop(join(&proactor, writer));
    let (end, moved, _) = outcome(end(&proactor, &op));
    assert!(matches!(end, ForwardEnd::EndOfStream), "{end:?}");
    assert_eq!(moved, 100_000);
    assert!(join(&proactor, reader) == short);
    no_pipe_is_leased(&proactor);
}

fn some_at_a_time(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (from, mut writer) = connected(Wire::Unix);
    let (to, mut reader) = connected(Wire::Unix);
    let mut op = forward(&from, &to, None, u64::MAX);
    op.some = true;
    let started = start(&proactor, Op::Forward(op));
    run_idle(&proactor);
    assert!(!started.is_over());
    assert_eq!(proactor.stats().pipes_leased, 0);
    writer.write_all(b"one").unwrap();
    let (some, moved, _) = outcome(end(&proactor, &started));
    assert!(matches!(some, ForwardEnd::Some), "{some:?}");
    assert_eq!((moved, &reader.read_bytes(3)[..]), (3, &b"one"[..]));
    // A stream that has ended says so before it says "some".
    writer.write_all(b"two").unwrap();
    drop(writer);
    let mut op = forward(&from, &to, None, u64::MAX);
    op.some = true;
    let (last, moved, _) = outcome(call(&proactor, Op::Forward(op)));
    assert!(matches!(last, ForwardEnd::EndOfStream), "{last:?}");
    assert_eq!((moved, &reader.read_bytes(3)[..]), (3, &b"two"[..]));
}

fn pipes_at_both_ends(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(40_000);
    let (from, source) = pipe();
    let (target, to) = pipe();
    let writer = source.as_fd().try_clone_to_owned().unwrap();
    std::fs::File::from(writer).write_all(&bytes).unwrap();
    drop(source);
    let op = forward(&from, &to, None, u64::MAX);
    let (end, moved, _) = outcome(call(&proactor, Op::Forward(op)));
    assert!(matches!(end, ForwardEnd::EndOfStream), "{end:?}");
    assert_eq!(moved, 40_000);
    drop(to);
    let kept = file(&[]);
    let (end, moved, _) = outcome(call(
        &proactor,
        Op::Forward(forward(&target, &kept, Some(0), u64::MAX)),
    ));
    assert!(matches!(end, ForwardEnd::EndOfStream), "{end:?}");
    assert_eq!(moved, 40_000);
    assert!(read_file(&kept) == bytes);
}

fn cancelled_midway(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(600_000);
    let (from, writer) = connected(Wire::Unix);
    let (to, reader) = narrow(Wire::Unix);
    let writer = write_on_thread(writer, bytes.clone());
    let started = start(&proactor, Op::Forward(forward(&from, &to, None, u64::MAX)));
    // The target is full before all has come, and what comes then stays in the pipe.
    run_until(&proactor, || !is_ready(&to, libc::POLLOUT));
    run_until(&proactor, || {
        writer.is_finished() || is_ready(&from, libc::POLLIN)
    });
    run_idle(&proactor);
    assert!(!started.is_over());
    proactor.cancel(started.token);
    let completion = end(&proactor, &started);
    assert!(completion.is_cancelled(), "{completion:?}");
    let moved = completion.transferred as usize;
    let head = match completion.op {
        Some(Op::Forward(op)) => op.head,
        other => panic!("{other:?} came back"),
    };
    // What the pipe held goes on from memory, behind what the target has.
    assert!(moved > 0 && !head.is_empty());
    no_pipe_is_leased(&proactor);
    let reader = reader.collect();
    let mut rest = forward(&from, &to, None, u64::MAX);
    rest.head = head;
    let started = start(&proactor, Op::Forward(rest));
    drop(join(&proactor, writer));
    let (end, more, _) = outcome(end(&proactor, &started));
    assert!(matches!(end, ForwardEnd::EndOfStream), "{end:?}");
    assert_eq!(moved + more as usize, bytes.len());
    drop(to);
    assert!(join(&proactor, reader) == bytes);
}

fn cancelled_when_all_has_been_moved(builder: Builder) {
    const LEN: usize = 10_000;
    let proactor = builder.build().unwrap();
    let bytes = pattern(LEN);
    let (socket, mut peer) = connected(Wire::Unix);
    peer.write_all(&bytes).unwrap();
    let mut file = unnamed();
    let to = Fd::new(file.try_clone().unwrap());
    let started = start(
        &proactor,
        Op::Forward(forward(&socket, &to, Some(0), LEN as u64)),
    );
    // A worker writes it, while nobody looks; on the ring, from when the kernel is entered.
    proactor.run_once(Some(std::time::Duration::ZERO)).unwrap();
    let end = std::time::Instant::now() + BOUND;
    while file.metadata().unwrap().len() < LEN as u64 {
        assert!(std::time::Instant::now() < end, "it is never written");
        std::thread::yield_now();
    }
    proactor.cancel(started.token);
    complete(common::end(&proactor, &started), LEN as u64);
    let mut written = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut written).unwrap();
    assert_eq!(written, bytes);
    no_pipe_is_leased(&proactor);
}

fn cancelled_while_there_is_nothing(builder: Builder) {
    let proactor = builder.build().unwrap();
    for target in [file(&[]), connected(Wire::Tcp).0] {
        let (socket, _peer) = connected(Wire::Tcp);
        let started = start(
            &proactor,
            Op::Forward(forward(&socket, &target, None, u64::MAX)),
        );
        run_idle(&proactor);
        proactor.cancel(started.token);
        let completion = end(&proactor, &started);
        assert!(completion.is_cancelled());
        assert_eq!(completion.transferred, 0);
    }
    no_pipe_is_leased(&proactor);
}

fn targets_that_are_gone(builder: Builder) {
    let proactor = builder.build().unwrap();
    for wire in WIRES {
        let (from, mut writer) = connected(Wire::Unix);
        let (to, reader) = connected(wire);
        writer.write_all(b"lost?").unwrap();
        let to = match wire {
            Wire::Tcp => {
                reader.reset();
                to
            }
            Wire::Unix => {
                drop(reader);
                to
            }
        };
        let op = forward(&from, &to, None, u64::MAX);
        let (end, moved, head) = outcome(call(&proactor, Op::Forward(op)));
        assert!(matches!(end, ForwardEnd::TargetFailed(_)), "{end:?}");
        assert_eq!((moved, &head[..]), (0, &b"lost?"[..]));
    }
}

fn sources_that_are_reset(builder: Builder) {
    let proactor = builder.build().unwrap();
    let (from, peer) = connected(Wire::Tcp);
    let target = file(&[]);
    let started = start(
        &proactor,
        Op::Forward(forward(&from, &target, Some(0), u64::MAX)),
    );
    run_idle(&proactor);
    peer.reset();
    let (end, moved, head) = outcome(end(&proactor, &started));
    let ForwardEnd::SourceFailed(e) = end else {
        panic!("{end:?}");
    };
    assert_eq!(e.raw_os_error(), Some(libc::ECONNRESET));
    assert_eq!((moved, head.len()), (0, 0));
    // A blocking socket would block the loop.
    let (blocking, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let op = forward(&Fd::new(blocking), &target, Some(0), 1);
    let (end, ..) = outcome(call(&proactor, Op::Forward(op)));
    assert!(matches!(end, ForwardEnd::SourceFailed(_)), "{end:?}");
}

fn no_pipes(builder: Builder) {
    let proactor = builder.pipes(0).build().unwrap();
    let (from, mut writer) = connected(Wire::Unix);
    writer.write_all(b"there").unwrap();
    let target = file(&[]);
    let mut op = forward(&from, &target, Some(0), 5);
    op.head = Bytes::from_static(b"first ").into();
    let (end, moved, head) = outcome(call(&proactor, Op::Forward(op)));
    assert!(matches!(end, ForwardEnd::NoPipe), "{end:?}");
    assert_eq!((moved, head.len()), (6, 0));
    let op = Op::Recv {
        socket: from,
        buf: bytes::BytesMut::with_capacity(10),
    };
    assert_eq!(call(&proactor, op).transferred, 5);
}

/// A stalled target keeps no pipe that another wants, and what was in it is not lost.
fn one_pipe_and_many_stalled_peers(builder: Builder) {
    let proactor = builder.pipes(1).build().unwrap();
    let bytes = pattern(120_000);
    let flows: Vec<_> = (0..5)
        .map(|_| {
            let (from, writer) = connected(Wire::Unix);
            let (to, reader) = narrow(Wire::Unix);
            let writer = write_on_thread(writer, bytes.clone());
            let op = forward(&from, &to, None, 120_000);
            let started = start(&proactor, Op::Forward(op));
            run_idle(&proactor);
            (from, to, started, writer, reader)
        })
        .collect();
    for (from, to, mut started, writer, reader) in flows {
        let reader = reader.collect();
        let mut left = 120_000;
        loop {
            let (end, moved, head) = outcome(end(&proactor, &started));
            left -= moved;
            match end {
                ForwardEnd::Complete => break,
                ForwardEnd::NoPipe => {
                    let mut op = forward(&from, &to, None, left - head.len() as u64);
                    op.head = head;
                    started = start(&proactor, Op::Forward(op));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(left, 0);
        drop((from, to));
        assert!(join(&proactor, reader) == bytes);
        join(&proactor, writer);
    }
    no_pipe_is_leased(&proactor);
}

fn many_at_once(builder: Builder) {
    let proactor = builder.pipes(100).build().unwrap();
    let bytes = pattern(300_000);
    let flows: Vec<_> = (0..64)
        .map(|i| {
            let (socket, peer) = connected(WIRES[i % 2]);
            let peer = write_on_thread(peer, bytes.clone());
            let target = file(&[]);
            let op = forward(&socket, &target, Some(0), 300_000);
            (start(&proactor, Op::Forward(op)), target, peer)
        })
        .collect();
    for (started, target, peer) in flows {
        complete(end(&proactor, &started), 300_000);
        assert!(read_file(&target) == bytes);
        join(&proactor, peer);
    }
    no_pipe_is_leased(&proactor);
}

fn sync(builder: Builder) {
    let proactor = builder.build().unwrap();
    for data_only in [false, true] {
        let file = file(b"precious");
        let completion = call(&proactor, Op::Sync { file, data_only });
        assert!(matches!(completion.result, Ok(Output::Done)));
        let (socket, _peer) = connected(Wire::Unix);
        let completion = call(
            &proactor,
            Op::Sync {
                file: socket,
                data_only,
            },
        );
        assert_eq!(errno(&completion), libc::EINVAL);
    }
}
