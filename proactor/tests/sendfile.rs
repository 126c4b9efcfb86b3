//! Transfers: every method brings the same bytes, counts and errors, whatever the source, the
//! size, the peer's pace and its end.

mod common;

use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::{Bytes, BytesMut};
use common::*;
use proactor::{
    Builder, Completion, Fd, Method, Op, Output, Proactor, SendBuf, SendFile, SendFileEnd,
};

on_both_backends! {
    sizes,
    odd_offsets,
    small_buffers,
    a_reader_in_no_hurry,
    the_header_goes_first,
    header_and_file_share_a_segment,
    nothing_stays_corked,
    until_the_end,
    short_files,
    truncated_meanwhile,
    overlapping_at_once,
    one_file_on_many_connections,
    the_handle_may_be_dropped,
    the_position_counts,
    memory_files,
    pipes_as_sources,
    sockets_as_sources,
    pipes_as_targets,
    sources_that_fail,
    peers_that_are_gone,
    peers_that_go,
    half_closed_peers,
    one_pipe_and_many_stalled_peers,
    one_pipe_and_many_who_take_turns,
    no_pipes,
    stalled_peers_hold_no_workers,
}

const METHODS: [Method; 3] = [Method::Chain, Method::Inline, Method::Sendfile];
const WIRES: [Wire; 2] = [Wire::Tcp, Wire::Unix];

/// A transfer of a whole range, without header.
fn transfer(file: &Fd, socket: &Fd, offset: Option<u64>, len: u64, method: Method) -> SendFile {
    SendFile {
        header: SendBuf::new(),
        file: file.clone(),
        socket: socket.clone(),
        offset,
        len,
        more: false,
        method,
    }
}

/// How a transfer ended, and its count.
#[track_caller]
fn outcome(completion: Completion) -> (SendFileEnd, u64) {
    let Some(Op::SendFile(_)) = completion.op else {
        panic!("{:?} came back", completion.op);
    };
    match completion.result {
        Ok(Output::Sent(end)) => (end, completion.transferred),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn complete(completion: Completion, len: u64) {
    let (end, sent) = outcome(completion);
    assert!(matches!(end, SendFileEnd::Complete), "{end:?}");
    assert_eq!(sent, len);
}

#[track_caller]
fn end_of_file(completion: Completion, len: u64) {
    let (end, sent) = outcome(completion);
    assert!(matches!(end, SendFileEnd::EndOfFile), "{end:?}");
    assert_eq!(sent, len);
}

/// Every pipe has been given back.
#[track_caller]
fn no_pipe_is_leased(proactor: &Proactor) {
    assert_eq!(proactor.stats().pipes_leased, 0);
    assert_eq!(proactor.stats().in_flight, 0);
}

fn sizes(builder: Builder) {
    let proactor = builder.build().unwrap();
    const MIB: usize = 1 << 20;
    let bytes = pattern(5 * MIB);
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        MIB - 1,
        MIB,
        MIB + 1,
        5 * MIB,
    ];
    for len in sizes {
        let file = file(&bytes[..len]);
        for method in METHODS {
            for wire in WIRES {
                let (socket, peer) = connected(wire);
                let peer = peer.collect();
                let op = transfer(&file, &socket, Some(0), len as u64, method);
                complete(call(&proactor, Op::SendFile(op)), len as u64);
                drop(socket);
                assert!(join(&proactor, peer) == bytes[..len], "{method:?} {len}");
            }
        }
    }
    no_pipe_is_leased(&proactor);
}

fn odd_offsets(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(2_300_000);
    let file = file(&bytes);
    let ranges = [
        (1, 1),
        (1000, 100),
        (1000, 2000),
        (4095, 2),
        (4095, 4097),
        (4097, 65536),
        (1, 1 << 20),
        (4095, (1 << 20) + 1),
        (777, (2 << 20) + 5),
        (2_299_999, 1),
        (2_300_000, 0),
    ];
    for (offset, len) in ranges {
        for method in METHODS {
            let (socket, peer) = connected(Wire::Tcp);
            let peer = peer.collect();
            let op = transfer(&file, &socket, Some(offset as u64), len as u64, method);
            complete(call(&proactor, Op::SendFile(op)), len as u64);
            drop(socket);
            assert!(
                join(&proactor, peer) == bytes[offset..offset + len],
                "{method:?} {offset} {len}"
            );
        }
    }
}

fn small_buffers(builder: Builder) {
    for pipe_size in [4096, 65536, 1 << 20] {
        let proactor = builder.clone().pipe_size(pipe_size).build().unwrap();
        let bytes = pattern(128 * 1024 + 16);
        let file = file(&bytes);
        for method in METHODS {
            for wire in WIRES {
                let (socket, peer) = narrow(wire);
                let peer = peer.collect();
                let op = transfer(&file, &socket, Some(3), 131_000, method);
                complete(call(&proactor, Op::SendFile(op)), 131_000);
                drop(socket);
                assert!(join(&proactor, peer) == bytes[3..131_003], "{method:?}");
            }
        }
        no_pipe_is_leased(&proactor);
    }
}

fn a_reader_in_no_hurry(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(120_000);
    let file = file(&bytes);
    for method in METHODS {
        let (socket, mut peer) = narrow(Wire::Unix);
        let op = transfer(&file, &socket, Some(0), 120_000, method);
        let sending = start(&proactor, Op::SendFile(op));
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            run_idle(&proactor);
            assert_eq!(sending.ends(), usize::from(sending.is_over()));
            let n = (bytes.len() - got.len()).min(3001);
            // As much as there is: the kernel has no room for more until this is read.
            run_until(&proactor, || peer.is_readable());
            let mut part = vec![0; n];
            let n = peer.read(&mut part).unwrap();
            assert!(n > 0);
            got.extend_from_slice(&part[..n]);
        }
        complete(end(&proactor, &sending), 120_000);
        assert!(got == bytes, "{method:?}");
    }
}

fn the_header_goes_first(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(50_000);
    let file = file(&bytes);
    for method in METHODS {
        for (header_len, len) in [(1, 0), (100, 1), (100, 50_000), (70_000, 50_000)] {
            for wire in WIRES {
                let (socket, peer) = narrow(wire);
                let peer = peer.collect();
                let header = pattern(header_len);
                let mut op = transfer(&file, &socket, Some(0), len, method);
                op.header = BytesMut::from(&header[..]).into();
                let completion = call(&proactor, Op::SendFile(op));
                match &completion.op {
                    Some(Op::SendFile(op)) => assert_eq!(op.header.len(), 0),
                    _ => panic!(),
                }
                // The header does not count.
                complete(completion, len);
                drop(socket);
                let got = join(&proactor, peer);
                assert!(got[..header_len] == header);
                assert!(got[header_len..] == bytes[..len as usize]);
            }
        }
    }
}

/// A field of `struct tcp_info` (linux/tcp.h), at its place in bytes.
fn tcp_info(socket: &Fd, at: usize) -> u32 {
    let mut info = [0_u32; 64];
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the array.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0);
    assert!(len as usize > at, "this kernel does not tell");
    info[at / 4]
}

fn data_segments_sent(socket: &Fd) -> u32 {
    tcp_info(socket, 156)
}

fn bytes_held_back(socket: &Fd) -> u32 {
    tcp_info(socket, 144)
}

fn header_and_file_share_a_segment(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(1000);
    let file = file(&bytes);
    for method in METHODS {
        let (socket, mut peer) = connected(Wire::Tcp);
        let mut op = transfer(&file, &socket, Some(0), 1000, method);
        op.header = Bytes::from_static(b"header").into();
        complete(call(&proactor, Op::SendFile(op)), 1000);
        assert_eq!(bytes_held_back(&socket), 0);
        peer.read_bytes(1006);
        assert_eq!(data_segments_sent(&socket), 1, "{method:?}");
    }
}

fn nothing_stays_corked(builder: Builder) {
    let proactor = builder.build().unwrap();
    let empty = file(b"");
    let short = file(b"short");
    let (pipe_read, _pipe_write) = pipe();
    for method in METHODS {
        // What the header was to be followed by does not come.
        for (file, len) in [
            (&empty, u64::MAX),
            (&empty, 10),
            (&short, 10),
            (&short, u64::MAX),
        ] {
            let (socket, _peer) = connected(Wire::Tcp);
            let mut op = transfer(file, &socket, Some(0), len, method);
            op.header = Bytes::from_static(b"header").into();
            let (end, _) = outcome(call(&proactor, Op::SendFile(op)));
            assert!(matches!(end, SendFileEnd::EndOfFile));
            assert_eq!(bytes_held_back(&socket), 0, "{method:?} {len}");
        }
        // A source that fails, and a cancel.
        let (socket, _peer) = connected(Wire::Tcp);
        let directory = Fd::from(std::fs::File::open("/").unwrap());
        let mut op = transfer(&directory, &socket, Some(0), 10, method);
        op.header = Bytes::from_static(b"header").into();
        let (end, _) = outcome(call(&proactor, Op::SendFile(op)));
        assert!(matches!(end, SendFileEnd::SourceFailed(_)));
        assert_eq!(bytes_held_back(&socket), 0);
        let mut op = transfer(&pipe_read, &socket, None, 10, method);
        op.header = Bytes::from_static(b"header").into();
        let sending = start(&proactor, Op::SendFile(op));
        run_idle(&proactor);
        assert_eq!(sending.count(), 0);
        proactor.cancel(sending.token);
        assert!(common::end(&proactor, &sending).is_cancelled());
        assert_eq!(bytes_held_back(&socket), 0);
        // Asked for, it does.
        let (socket, _peer) = connected(Wire::Tcp);
        let mut op = transfer(&short, &socket, Some(0), 5, method);
        op.more = true;
        complete(call(&proactor, Op::SendFile(op)), 5);
    }
}

fn until_the_end(builder: Builder) {
    let proactor = builder.build().unwrap();
    for len in [0, 1, 4096, 1_500_000] {
        let bytes = pattern(len);
        let file = file(&bytes);
        for method in METHODS {
            for offset in [0, 1, len, len + 1, len + 100_000] {
                let (socket, peer) = connected(Wire::Tcp);
                let peer = peer.collect();
                let op = transfer(&file, &socket, Some(offset as u64), u64::MAX, method);
                let rest = &bytes[offset.min(len)..];
                end_of_file(call(&proactor, Op::SendFile(op)), rest.len() as u64);
                drop(socket);
                assert!(join(&proactor, peer) == rest);
            }
        }
    }
    no_pipe_is_leased(&proactor);
}

fn short_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(70_000);
    let file = file(&bytes);
    for method in METHODS {
        for (offset, len) in [(0, 70_001), (0, 5_000_000), (69_999, 2), (80_000, 10)] {
            let (socket, peer) = narrow(Wire::Tcp);
            let peer = peer.collect();
            let op = transfer(&file, &socket, Some(offset as u64), len, method);
            let rest = &bytes[offset.min(70_000)..];
            end_of_file(call(&proactor, Op::SendFile(op)), rest.len() as u64);
            // The connection is as good as before.
            let op = transfer(&file, &socket, Some(0), 10, method);
            complete(call(&proactor, Op::SendFile(op)), 10);
            drop(socket);
            let got = join(&proactor, peer);
            assert!(got[..rest.len()] == *rest);
            assert!(got[rest.len()..] == bytes[..10]);
        }
    }
}

fn truncated_meanwhile(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(2_000_000);
    for method in METHODS {
        let mut plain = unnamed();
        plain.write_all(&bytes).unwrap();
        let file = Fd::from(plain.try_clone().unwrap());
        let (socket, peer) = narrow(Wire::Unix);
        let op = transfer(&file, &socket, Some(0), 2_000_000, method);
        let sending = start(&proactor, Op::SendFile(op));
        run_idle(&proactor);
        assert_eq!(sending.count(), 0);
        plain.set_len(1_500_000).unwrap();
        let peer = peer.collect();
        let (end, sent) = outcome(end(&proactor, &sending));
        assert!(matches!(end, SendFileEnd::EndOfFile), "{end:?}");
        drop(socket);
        let got = join(&proactor, peer);
        assert_eq!(got.len() as u64, sent);
        assert_eq!(sent, 1_500_000, "{method:?}");
        assert!(got == bytes[..1_500_000]);
    }
}

fn overlapping_at_once(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(300_000);
    let file = file(&bytes);
    for method in METHODS {
        let ranges = [(0, 200_000), (100_000, 200_000), (5, 100_001)];
        let started = ranges.map(|(offset, len)| {
            let (socket, peer) = narrow(Wire::Unix);
            let op = transfer(&file, &socket, Some(offset), len, method);
            (
                start(&proactor, Op::SendFile(op)),
                socket,
                peer.collect(),
                offset as usize,
                len as usize,
            )
        });
        for (sending, socket, peer, offset, len) in started {
            complete(end(&proactor, &sending), len as u64);
            drop(socket);
            assert!(join(&proactor, peer) == bytes[offset..offset + len]);
        }
    }
}

fn one_file_on_many_connections(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(200_000);
    let file = file(&bytes);
    for method in METHODS {
        let mut started: Vec<_> = (0..50)
            .map(|i| {
                let (socket, peer) = if i % 2 == 0 {
                    connected(Wire::Tcp)
                } else {
                    narrow(Wire::Unix)
                };
                let op = transfer(&file, &socket, Some(0), 200_000, method);
                let sending = start(&proactor, Op::SendFile(op));
                (sending, Some(socket), peer.collect())
            })
            .collect();
        run_until(&proactor, || started.iter().all(|(s, ..)| s.is_over()));
        for (sending, socket, _) in &mut started {
            let completion = end(&proactor, sending);
            // The pool has pipes for these, but chains may not have them all at a time.
            let (end, sent) = outcome(completion);
            match end {
                SendFileEnd::Complete => assert_eq!(sent, 200_000),
                SendFileEnd::NoPipe => {
                    let rest = transfer(
                        &file,
                        socket.as_ref().unwrap(),
                        Some(sent),
                        200_000 - sent,
                        Method::Sendfile,
                    );
                    complete(call(&proactor, Op::SendFile(rest)), 200_000 - sent);
                }
                other => panic!("{other:?}"),
            }
            *socket = None;
        }
        for (.., peer) in started {
            assert!(join(&proactor, peer) == bytes, "{method:?}");
        }
    }
    no_pipe_is_leased(&proactor);
}

fn the_handle_may_be_dropped(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    for method in METHODS {
        let (socket, peer) = narrow(Wire::Unix);
        let peer = peer.collect();
        let op = transfer(&file(&bytes), &socket, Some(0), 100_000, method);
        drop(socket);
        let sending = start(&proactor, Op::SendFile(op));
        let completion = end(&proactor, &sending);
        complete(completion, 100_000);
        assert!(join(&proactor, peer) == bytes);
    }
}

fn the_position_counts(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    for method in METHODS {
        let mut plain = unnamed();
        plain.write_all(&bytes).unwrap();
        plain.seek(std::io::SeekFrom::Start(10)).unwrap();
        let file = Fd::from(plain.try_clone().unwrap());
        let (socket, peer) = narrow(Wire::Unix);
        let peer = peer.collect();
        // By offset: not moved.
        let op = transfer(&file, &socket, Some(500), 1000, method);
        complete(call(&proactor, Op::SendFile(op)), 1000);
        assert_eq!(plain.stream_position().unwrap(), 10);
        // By position: just behind the last byte.
        let op = transfer(&file, &socket, None, 50_000, method);
        complete(call(&proactor, Op::SendFile(op)), 50_000);
        assert_eq!(plain.stream_position().unwrap(), 50_010);
        let op = transfer(&file, &socket, None, u64::MAX, method);
        end_of_file(call(&proactor, Op::SendFile(op)), 49_990);
        assert_eq!(plain.stream_position().unwrap(), 100_000);
        drop(socket);
        let got = join(&proactor, peer);
        assert!(got[..1000] == bytes[500..1500]);
        assert!(got[1000..] == bytes[10..]);
    }
}

fn memory_files(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(100_000);
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made it; nobody else knows it.
    let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    let mut plain = std::fs::File::from(fd);
    plain.write_all(&bytes).unwrap();
    let file = Fd::from(plain);
    for method in METHODS {
        let (socket, peer) = narrow(Wire::Tcp);
        let peer = peer.collect();
        let op = transfer(&file, &socket, Some(1), 99_999, method);
        complete(call(&proactor, Op::SendFile(op)), 99_999);
        drop(socket);
        assert!(join(&proactor, peer) == bytes[1..]);
    }
}

fn pipes_as_sources(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(300_000);
    for method in METHODS {
        for wire in WIRES {
            let (read, mut write) = std::io::pipe().unwrap();
            let source = Fd::nonblocking(OwnedFd::from(read)).unwrap();
            let (socket, peer) = narrow(wire);
            let peer = peer.collect();
            let op = transfer(&source, &socket, None, 100_000, method);
            let sending = start(&proactor, Op::SendFile(op));
            run_idle(&proactor);
            assert_eq!(sending.count(), 0);
            assert_eq!(proactor.stats().pipes_leased, 0, "it waits without a pipe");
            let writing = bytes.clone();
            let writer = std::thread::spawn(move || {
                for part in writing.chunks(7001) {
                    write.write_all(part).unwrap();
                }
            });
            complete(end(&proactor, &sending), 100_000);
            let op = transfer(&source, &socket, None, u64::MAX, method);
            end_of_file(call(&proactor, Op::SendFile(op)), 200_000);
            join(&proactor, writer);
            drop(socket);
            assert!(join(&proactor, peer) == bytes, "{method:?}");
        }
    }
    no_pipe_is_leased(&proactor);
}

fn sockets_as_sources(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(300_000);
    for method in METHODS {
        for wire in WIRES {
            let (source, mut writer) = narrow(wire);
            let (socket, peer) = narrow(wire);
            let peer = peer.collect();
            let op = transfer(&source, &socket, None, u64::MAX, method);
            let sending = start(&proactor, Op::SendFile(op));
            run_idle(&proactor);
            assert_eq!(sending.count(), 0);
            let writing = bytes.clone();
            let writer = std::thread::spawn(move || {
                for part in writing.chunks(10_001) {
                    writer.write_all(part).unwrap();
                }
            });
            end_of_file(end(&proactor, &sending), 300_000);
            join(&proactor, writer);
            drop(socket);
            assert!(join(&proactor, peer) == bytes, "{method:?}");
        }
    }
}

fn pipes_as_targets(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(300_000);
    let file = file(&bytes);
    for method in METHODS {
        let (read, write) = std::io::pipe().unwrap();
        let target = Fd::nonblocking(OwnedFd::from(write)).unwrap();
        let mut op = transfer(&file, &target, Some(0), 300_000, method);
        op.header = Bytes::from_static(b"header").into();
        let sending = start(&proactor, Op::SendFile(op));
        run_idle(&proactor);
        assert_eq!(sending.count(), 0);
        let reader = std::thread::spawn(move || {
            let (mut read, mut got) = (read, Vec::new());
            read.read_to_end(&mut got).unwrap();
            got
        });
        complete(end(&proactor, &sending), 300_000);
        drop(target);
        let got = join(&proactor, reader);
        assert_eq!(got[..6], *b"header");
        assert!(got[6..] == bytes, "{method:?}");
        // And one that nobody reads.
        let (read, write) = pipe();
        drop(read);
        let op = transfer(&file, &write, Some(0), 300_000, method);
        let (end, sent) = outcome(call(&proactor, Op::SendFile(op)));
        assert!(
            matches!(&end, SendFileEnd::SocketFailed(e) if e.raw_os_error() == Some(libc::EPIPE)),
            "{method:?} {end:?}"
        );
        assert_eq!(sent, 0);
    }
}

fn sources_that_fail(builder: Builder) {
    let proactor = builder.build().unwrap();
    let dir = scratch();
    let path = dir.path().join("file");
    std::fs::write(&path, "content").unwrap();
    let write_only = std::fs::File::options().write(true).open(&path).unwrap();
    let name_only = {
        use std::os::unix::fs::OpenOptionsExt;
        std::fs::File::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(&path)
            .unwrap()
    };
    let sources = [
        (
            Fd::from(std::fs::File::open("/").unwrap()),
            &[libc::EINVAL, libc::EISDIR][..],
        ),
        (Fd::from(write_only), &[libc::EBADF]),
        (Fd::from(name_only), &[libc::EBADF]),
        (
            Fd::from(std::fs::File::open("/proc/self/maps").unwrap()),
            &[libc::EINVAL],
        ),
    ];
    for (source, errors) in sources {
        for method in METHODS {
            let (socket, mut peer) = connected(Wire::Tcp);
            let op = transfer(&source, &socket, Some(0), 10, method);
            let (end, sent) = outcome(call(&proactor, Op::SendFile(op)));
            let SendFileEnd::SourceFailed(e) = end else {
                panic!("{method:?} {end:?}");
            };
            assert!(errors.contains(&e.raw_os_error().unwrap()), "{e}");
            assert_eq!(sent, 0);
            // The connection is as good as before.
            let op = transfer(&file(b"good"), &socket, Some(0), 4, method);
            complete(call(&proactor, Op::SendFile(op)), 4);
            assert_eq!(peer.read_bytes(4), b"good");
        }
    }
    no_pipe_is_leased(&proactor);
}

#[track_caller]
fn peer_gone(end: &SendFileEnd) {
    let SendFileEnd::SocketFailed(e) = end else {
        panic!("{end:?}");
    };
    let errno = e.raw_os_error();
    assert!(matches!(errno, Some(libc::EPIPE | libc::ECONNRESET)), "{e}");
}

fn peers_that_are_gone(builder: Builder) {
    let proactor = builder.build().unwrap();
    let file = file(&pattern(1000));
    for method in METHODS {
        let (socket, peer) = connected(Wire::Unix);
        drop(peer);
        let op = transfer(&file, &socket, Some(0), 1000, method);
        let (end, sent) = outcome(call(&proactor, Op::SendFile(op)));
        peer_gone(&end);
        assert_eq!(sent, 0);
        // A header that could not be sent comes back.
        let mut op = transfer(&file, &socket, Some(0), 1000, method);
        op.header = Bytes::from_static(b"header").into();
        let completion = call(&proactor, Op::SendFile(op));
        assert!(matches!(&completion.op, Some(Op::SendFile(op)) if *op.header == *b"header"));
        // What is no socket at all.
        let op = transfer(&file, &file, Some(0), 0, method);
        complete(call(&proactor, Op::SendFile(op)), 0);
    }
    no_pipe_is_leased(&proactor);
}

fn peers_that_go(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(3_000_000);
    let file = file(&bytes);
    for method in METHODS {
        for reset in [true, false] {
            let (socket, mut peer) = if reset {
                narrow(Wire::Tcp)
            } else {
                narrow(Wire::Unix)
            };
            let op = transfer(&file, &socket, Some(0), 3_000_000, method);
            let sending = start(&proactor, Op::SendFile(op));
            run_idle(&proactor);
            assert_eq!(sending.count(), 0);
            peer.read_beside(&proactor, 1000);
            run_idle(&proactor);
            if reset {
                peer.reset();
            } else {
                drop(peer);
            }
            let (end, sent) = outcome(end(&proactor, &sending));
            peer_gone(&end);
            assert!((1000..3_000_000).contains(&sent));
        }
    }
    no_pipe_is_leased(&proactor);
}

fn half_closed_peers(builder: Builder) {
    let proactor = builder.build().unwrap();
    let bytes = pattern(200_000);
    let file = file(&bytes);
    for method in METHODS {
        for wire in WIRES {
            let (socket, peer) = narrow(wire);
            let op = transfer(&file, &socket, Some(0), 200_000, method);
            let sending = start(&proactor, Op::SendFile(op));
            run_idle(&proactor);
            peer.shutdown_write();
            run_idle(&proactor);
            let peer = peer.collect();
            complete(end(&proactor, &sending), 200_000);
            drop(socket);
            assert!(join(&proactor, peer) == bytes);
        }
    }
}

fn one_pipe_and_many_stalled_peers(builder: Builder) {
    let proactor = builder.pipes(1).build().unwrap();
    let bytes = pattern(300_000);
    let len = bytes.len() as u64;
    let file = file(&bytes);
    for method in METHODS {
        let mut stalled: Vec<_> = (0..20)
            .map(|_| {
                let (socket, peer) = narrow(Wire::Unix);
                let op = transfer(&file, &socket, Some(0), len, method);
                (start(&proactor, Op::SendFile(op)), socket, peer, 0)
            })
            .collect();
        run_idle(&proactor);
        assert!(proactor.stats().pipes_leased <= 1);
        // A live one beside them. Where the one pipe is at work, it is told so, and tries again.
        let (socket, peer) = connected(Wire::Tcp);
        let peer = peer.collect();
        let mut live = (start(&proactor, Op::Nop), 0);
        end(&proactor, &live.0);
        let op = transfer(&file, &socket, Some(0), len, method);
        live.0 = start(&proactor, Op::SendFile(op));
        let go_on = |sending: &mut Started, socket: &Fd, done: &mut u64| {
            if !sending.is_over() {
                return *done == len;
            }
            let (end, sent) = outcome(common::end(&proactor, sending));
            *done += sent;
            match end {
                SendFileEnd::Complete => assert_eq!(*done, len),
                SendFileEnd::NoPipe => {
                    let op = transfer(&file, socket, Some(*done), len - *done, method);
                    *sending = start(&proactor, Op::SendFile(op));
                }
                other => panic!("{other:?}"),
            }
            *done == len
        };
        run_until(&proactor, || {
            for (sending, socket, _, done) in &mut stalled {
                go_on(sending, socket, done);
            }
            go_on(&mut live.0, &socket, &mut live.1)
        });
        drop((live, socket));
        assert!(join(&proactor, peer) == bytes, "{method:?}");
        let mut stalled: Vec<_> = stalled
            .into_iter()
            .map(|(sending, socket, peer, done)| (sending, Some(socket), peer.collect(), done))
            .collect();
        run_until(&proactor, || {
            stalled.iter_mut().all(|(sending, socket, _, done)| {
                socket
                    .as_ref()
                    .is_none_or(|socket| go_on(sending, socket, done))
            })
        });
        for (_, socket, peer, _) in &mut stalled {
            drop(socket.take());
            let _ = peer;
        }
        for (sending, _, peer, _) in stalled {
            drop(sending);
            assert!(join(&proactor, peer) == bytes, "{method:?}");
        }
    }
    no_pipe_is_leased(&proactor);
    assert!(proactor.stats().pipes_taken > 0);
}

fn one_pipe_and_many_who_take_turns(builder: Builder) {
    const LEN: usize = 1 << 20;
    let proactor = builder.pipes(1).build().unwrap();
    let bytes = pattern(LEN);
    let file = file(&bytes);
    // All together they have room for more than is moved in a turn: one is cut short in the middle of
    // what its pipe holds, and gives it up to the others.
    let sends: Vec<_> = (0..64)
        .map(|_| {
            let (socket, peer) = connected(Wire::Unix);
            let op = transfer(&file, &socket, Some(0), LEN as u64, Method::Inline);
            (start(&proactor, Op::SendFile(op)), socket, peer)
        })
        .collect();
    run_idle(&proactor);
    assert!(proactor.stats().pipes_leased <= 1);
    let sends: Vec<_> = sends
        .into_iter()
        .map(|(sending, socket, peer)| (sending, socket, peer.collect()))
        .collect();
    for (sending, socket, peer) in sends {
        complete(end(&proactor, &sending), LEN as u64);
        drop(socket);
        assert!(join(&proactor, peer) == bytes);
    }
    no_pipe_is_leased(&proactor);
}

fn no_pipes(builder: Builder) {
    let proactor = builder.pipes(0).build().unwrap();
    let bytes = pattern(10_000);
    let file = file(&bytes);
    let (source, _write) = pipe();
    let (socket, mut peer) = connected(Wire::Tcp);
    for method in METHODS {
        for len in [10_000, u64::MAX] {
            let op = transfer(&file, &socket, Some(0), len, method);
            let (end, sent) = outcome(call(&proactor, Op::SendFile(op)));
            match (method, end) {
                (Method::Sendfile, SendFileEnd::Complete | SendFileEnd::EndOfFile) => {
                    assert_eq!(sent, 10_000);
                    assert!(peer.read_bytes(10_000) == bytes);
                }
                (_, SendFileEnd::NoPipe) => assert_eq!(sent, 0),
                other => panic!("{other:?}"),
            }
        }
        let op = transfer(&source, &socket, None, 1, method);
        let (end, sent) = outcome(call(&proactor, Op::SendFile(op)));
        assert!(matches!(end, SendFileEnd::NoPipe), "{end:?}");
        assert_eq!(sent, 0);
        let op = transfer(&file, &socket, Some(0), 0, method);
        complete(call(&proactor, Op::SendFile(op)), 0);
    }
    no_pipe_is_leased(&proactor);
}

fn stalled_peers_hold_no_workers(builder: Builder) {
    let proactor = builder.workers(2).pipes(8).build().unwrap();
    let bytes = pattern(2_000_000);
    let file = file(&bytes);
    let stalled: Vec<_> = (0..40)
        .map(|_| {
            let (socket, peer) = narrow(Wire::Unix);
            let op = transfer(&file, &socket, Some(0), 2_000_000, Method::Chain);
            (start(&proactor, Op::SendFile(op)), peer)
        })
        .collect();
    run_idle(&proactor);
    let work = Op::Work(Box::new(|| Ok(Box::new(()))));
    assert!(call(&proactor, work).result.is_ok());
    let (socket, peer) = connected(Wire::Tcp);
    let peer = peer.collect();
    let mut sent = 0;
    while sent < 2_000_000 {
        let op = transfer(&file, &socket, Some(sent), 2_000_000 - sent, Method::Chain);
        sent += outcome(call(&proactor, Op::SendFile(op))).1;
    }
    drop(socket);
    assert!(join(&proactor, peer) == bytes);
    assert!(proactor.stats().workers <= 2);
    assert!(proactor.stats().pipes_leased <= 8);
    for (sending, _) in &stalled {
        proactor.cancel(sending.token);
    }
    run_until(&proactor, || stalled.iter().all(|(s, _)| s.is_over()));
    for (sending, _) in &stalled {
        let completion = end(&proactor, sending);
        assert!(completion.is_cancelled() || completion.result.is_ok());
    }
    no_pipe_is_leased(&proactor);
}

/// Lines: the emulated port keeps the order of submission at one descriptor.
#[test]
fn one_line_at_a_socket() {
    let proactor = emulated().build().unwrap();
    let bytes = pattern(100_000);
    let file = file(&bytes);
    for method in METHODS {
        let (socket, peer) = narrow(Wire::Unix);
        let mut expected = Vec::new();
        let mut started = Vec::new();
        for round in 0..10_u8 {
            let op = transfer(&file, &socket, Some(u64::from(round)), 50_000, method);
            started.push(start(&proactor, Op::SendFile(op)));
            expected.extend_from_slice(&bytes[round.into()..50_000 + usize::from(round)]);
            // So small that the kernel takes all or none.
            let op = Op::Send {
                socket: socket.clone(),
                buf: Bytes::from(vec![round]).into(),
                more: false,
            };
            started.push(start(&proactor, op));
            expected.push(round);
        }
        let peer = peer.collect();
        for started in &started {
            let completion = end(&proactor, started);
            assert!(completion.result.is_ok());
            if let Some(Op::SendFile(_)) = completion.op {
                complete(completion, 50_000);
            }
        }
        drop(socket);
        assert!(join(&proactor, peer) == expected, "{method:?}");
    }
}
