//! The machine alone: what it counts, and what it asks for.

use super::*;
use crate::forward::Forward;
use crate::op::SendFile;
use crate::pipe::PipeLimits;
use std::io::{Read, Write};

const LEN: u64 = 300_000;

fn pool(count: usize) -> PipePool {
    PipePool::new(PipeLimits {
        count,
        size: 64 << 10,
    })
}

fn file() -> Fd {
    let mut file = std::fs::File::from(sys::memfd().unwrap());
    file.write_all(&vec![7; LEN as usize]).unwrap();
    Fd::new(file)
}

fn transfer(method: Method, len: u64) -> (Transfer, std::os::unix::net::UnixStream) {
    let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let op = SendFile {
        header: SendBuf::new(),
        file: file(),
        socket: Fd::nonblocking(ours).unwrap(),
        offset: Some(0),
        len,
        more: false,
        method,
    };
    (Transfer::new(op).ok().unwrap(), peer)
}

fn error(errno: i32) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(errno))
}

#[test]
fn a_turn_is_bounded() {
    let mut pool = pool(1);
    for method in [Method::Inline, Method::Sendfile] {
        let (mut transfer, _peer) = transfer(method, LEN);
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Yield));
        let sent = transfer.moved();
        assert!((1..LEN).contains(&sent) || method == Method::Sendfile);
        // Between turns it holds no empty pipe.
        assert_eq!(pool.leased(), 0);
    }
}

#[test]
fn what_is_in_the_pipe_is_not_sent() {
    let mut pool = pool(1);
    let (mut transfer, _peer) = transfer(Method::Chain, LEN);
    assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
    assert_eq!(transfer.fill_offset(), Some(0));
    assert_eq!(transfer.fill_len(), 64 << 10);
    transfer.filled(Ok(10_000));
    assert_eq!((transfer.piped(), transfer.moved()), (10_000, 0));
    transfer.drained(Ok(4_000));
    assert_eq!((transfer.piped(), transfer.moved()), (6_000, 4_000));
    assert!(transfer.has_rest());
    assert_eq!(transfer.fill_offset(), Some(10_000));
    // Thrown away, it is read again.
    assert!(transfer.give_up_pipe(&mut pool));
    assert_eq!((transfer.piped(), transfer.moved()), (0, 4_000));
    assert_eq!(transfer.fill_offset(), Some(4_000));
    // The pipe was not empty: it is closed, not kept for another.
    assert_eq!((pool.leased(), pool.idle()), (0, 0));
    assert!(!transfer.give_up_pipe(&mut pool));
}

#[test]
fn a_wait_is_reported_once() {
    let mut pool = pool(1);
    let (mut transfer, _peer) = transfer(Method::Chain, LEN);
    assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
    transfer.filled(Ok(10));
    transfer.drained(error(libc::EAGAIN));
    assert!(matches!(transfer.advance(&mut pool, 1), Next::Writable));
    // The pipe, with what is in it, is kept meanwhile.
    assert_eq!(transfer.piped(), 10);
    transfer.drained(Ok(10));
    assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
}

#[test]
fn interruptions_are_no_errors() {
    let mut pool = pool(1);
    let (mut transfer, _peer) = transfer(Method::Chain, LEN);
    for errno in [libc::EINTR, 512, 513, 514, 516, libc::ECANCELED] {
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
        transfer.filled(error(errno));
        assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
        transfer.filled(Ok(1));
        transfer.drained(error(errno));
        assert!(transfer.has_rest());
        transfer.drained(Ok(1));
    }
    assert_eq!(transfer.moved(), 6);
}

#[test]
fn errors_are_told_apart() {
    let mut pool = pool(4);
    let (mut transfer, _peer) = transfer(Method::Chain, LEN);
    transfer.advance(&mut pool, 1);
    transfer.filled(error(libc::EIO));
    let next = transfer.advance(&mut pool, 1);
    assert!(matches!(next, Next::Done(End::SourceFailed(_))));
    for (errno, source) in [(libc::EPIPE, false), (libc::EIO, true)] {
        let (mut transfer, _peer) = self::transfer(Method::Chain, LEN);
        transfer.advance(&mut pool, 1);
        transfer.filled(Ok(10));
        transfer.drained(Ok(3));
        transfer.drained(error(errno));
        assert!(!transfer.has_rest());
        match transfer.advance(&mut pool, 1) {
            Next::Done(End::SourceFailed(_)) => assert!(source),
            Next::Done(End::TargetFailed(_)) => assert!(!source),
            other => panic!("{other:?}"),
        }
        assert_eq!(transfer.finish(&mut pool).1, 3);
    }
    assert_eq!(pool.leased(), 0);
}

#[test]
fn pages_cut_off_are_read_again() {
    let mut pool = pool(1);
    let (mut transfer, _peer) = transfer(Method::Chain, LEN);
    transfer.advance(&mut pool, 1);
    transfer.filled(Ok(10));
    transfer.drained(error(libc::ENODATA));
    assert!(!transfer.has_rest());
    assert!(matches!(transfer.advance(&mut pool, 1), Next::Fill));
    assert_eq!(transfer.fill_offset(), Some(0));
    transfer.filled(Ok(0));
    let next = transfer.advance(&mut pool, 1);
    assert!(matches!(next, Next::Done(End::SourceEnded)));
}

#[test]
fn the_last_drain_is_not_corked() {
    let mut pool = pool(1);
    let (mut transfer, _peer) = transfer(Method::Chain, 100);
    transfer.advance(&mut pool, 1);
    // All that is wanted is in the fill: nothing follows.
    assert!(!transfer.more_behind(100));
    assert!(transfer.more_behind(99));
    transfer.filled(Ok(60));
    assert!(transfer.more_behind(0));
    transfer.drained(Ok(60));
    transfer.filled(Ok(40));
    assert!(!transfer.more_behind(0));
    // Until the end of the file: no one knows, so nothing is held back.
    let (transfer, _peer) = self::transfer(Method::Chain, u64::MAX);
    assert!(!transfer.more_behind(0));
}

#[test]
fn no_pipe_for_nothing() {
    let mut pool = pool(0);
    let (mut transfer, _peer) = transfer(Method::Inline, 0);
    let next = transfer.advance(&mut pool, 1);
    assert!(matches!(next, Next::Done(End::Complete)));
    let (mut transfer, _peer) = self::transfer(Method::Inline, 1);
    assert!(matches!(transfer.advance(&mut pool, 1), Next::NeedPipe));
}

#[test]
fn one_goes_through() {
    let mut pool = pool(1);
    for method in [Method::Inline, Method::Sendfile, Method::Chain] {
        let (mut transfer, mut peer) = transfer(method, u64::MAX);
        peer.set_nonblocking(true).unwrap();
        let mut got = 0;
        let mut buf = vec![0; 1 << 20];
        let end = loop {
            match transfer.advance(&mut pool, 100_000) {
                Next::Fill => transfer.fill(),
                Next::Writable | Next::Yield => got += peer.read(&mut buf).unwrap_or(0),
                Next::Done(end) => break end,
                other => panic!("{other:?}"),
            }
        };
        assert!(matches!(end, End::SourceEnded));
        let (op, sent) = transfer.finish(&mut pool);
        drop(op);
        peer.set_nonblocking(false).unwrap();
        got += peer.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!((sent, got as u64), (LEN, LEN));
    }
    assert_eq!(pool.leased(), 0);
}

#[test]
fn nothing_goes_on_behind_a_gap() {
    let mut pool = pool(1);
    let (from, mut feed) = std::os::unix::net::UnixStream::pair().unwrap();
    let (to, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let op = Forward {
        head: SendBuf::new(),
        from: Fd::nonblocking(from).unwrap(),
        to: Fd::nonblocking(to).unwrap(),
        offset: None,
        len: 100,
        some: false,
        method: Method::Inline,
    };
    let mut transfer = Transfer::new(Box::new(op)).ok().unwrap();
    feed.write_all(&[7; 10]).unwrap();
    transfer.set_pipe(pool.lease(Lessee::Direct).unwrap());
    transfer.fill();
    assert_eq!(transfer.piped(), 10);
    // What was in the pipe is not there any more.
    let pipe = transfer.pipe().unwrap();
    let mut lost = BytesMut::with_capacity(10);
    sys::read_spare(pipe.reader(), &mut lost, 10, -1, 0).unwrap();
    assert!(transfer.give_up_pipe(&mut pool));
    feed.write_all(&[8; 10]).unwrap();
    let next = transfer.advance(&mut pool, 1000);
    assert!(matches!(next, Next::Done(End::SourceFailed(_))), "{next:?}");
    assert_eq!(transfer.finish(&mut pool).1, 0);
    assert_eq!(pool.leased(), 0);
}
