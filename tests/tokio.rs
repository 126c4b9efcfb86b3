//! Files over tokio's sockets: on both backends, with the proactor on a thread beside a multi-thread
//! runtime, and inside a current-thread one.

mod common;

use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use common::{LIMIT, ROUTES, Record, assert_same, contents, file, read_all, read_until_error, tcp};
use spliceport::proactor::{BackendChoice, Fd, Proactor, net};
use spliceport::tokio::{Driver, send_file_after};
use spliceport::{
    End, FileSender, Route, RouteChoice, SendError, SendOptions, Sending, Source, Transport,
    TransportOptions,
};

/// In a current-thread runtime, beside the test's own task.
fn current<F: Future<Output = ()>>(backend: BackendChoice, case: fn(FileSender) -> F) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let proactor = Rc::new(common::builder(backend).build().unwrap());
        let sender = FileSender::new(&proactor);
        tokio::task::spawn_local(Driver::new(Rc::clone(&proactor)).unwrap());
        within(case(sender)).await;
        // The last completions may come a turn after what they end.
        within(async {
            while (proactor.stats().in_flight, proactor.stats().pipes_leased) != (0, 0) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
}

/// On a thread of its own, beside a multi-thread runtime.
fn multi<F: Future<Output = ()> + Send + 'static>(
    backend: BackendChoice,
    case: fn(FileSender) -> F,
) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let sender = FileSender::spawn(common::builder(backend)).unwrap();
    let task = runtime.spawn(within(case(sender)));
    runtime.block_on(task).unwrap();
}

async fn within<F: Future<Output = ()>>(case: F) {
    let ended = tokio::time::timeout(LIMIT, case).await;
    ended.expect("it ends");
}

macro_rules! everywhere {
    ($($(#[$attribute:meta])* async fn $name:ident($sender:ident: FileSender) $body:block)*) => {
        mod cases {
            use super::*;
            $(pub(super) async fn $name($sender: FileSender) $body)*
        }
        everywhere! { @ current_ring current Ring $($name)* }
        everywhere! { @ current_emulated current Emulated $($name)* }
        everywhere! { @ multi_ring multi Ring $($name)* }
        everywhere! { @ multi_emulated multi Emulated $($name)* }
    };
    (@ $module:ident $run:ident $backend:ident $($name:ident)*) => {
        mod $module {
            $(#[test] fn $name() {
                super::$run(super::BackendChoice::$backend, super::cases::$name);
            })*
        }
    };
}

/// tokio's end of a connection, and the peer's.
fn connection() -> (TcpStream, std::net::TcpStream) {
    let (ours, peer) = tcp();
    (adopt(ours), peer)
}

/// As [`connection`], with buffers that are full soon.
fn tight() -> (TcpStream, std::net::TcpStream) {
    let (ours, peer) = common::tight_tcp();
    (adopt(ours), peer)
}

fn adopt(fd: Fd) -> TcpStream {
    let stream = std::net::TcpStream::from(fd.into_owned().unwrap());
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

fn unix() -> (UnixStream, std::os::unix::net::UnixStream) {
    let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (UnixStream::from_std(ours).unwrap(), peer)
}

/// Waits for a peer's thread without holding the runtime's up.
async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(|| thread.join().unwrap())
        .await
        .unwrap()
}

/// A send that is under way and not at its end, since the peer doesn't read.
async fn stalled(sender: &FileSender, stream: &impl AsFd, peer: &std::net::TcpStream) -> Sending {
    let sending = sender.send_file(stream, &file(8_000_000), ..).start();
    let peer = peer.try_clone().unwrap();
    let begun = std::thread::spawn(move || peer.peek(&mut [0]).unwrap());
    assert_eq!(joined(begun).await, 1);
    // What the socket takes it has soon.
    tokio::time::sleep(Duration::from_millis(20)).await;
    sending
}

/// How many descriptors of this process name the same socket.
fn holders(stream: &impl AsRawFd) -> usize {
    let link = |fd: &str| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let wanted = link(&stream.as_raw_fd().to_string()).unwrap();
    held(&wanted)
}

fn held(wanted: &std::path::Path) -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter(|link| link == wanted)
        .count()
}

/// A file that is memory: cached, whatever the file system of the others.
fn memory(offset: u64, len: usize) -> std::fs::File {
    let mut file = common::kernel::memory_file();
    file.write_all(&contents(offset, len)).unwrap();
    file
}

everywhere! {
    async fn c6_prefix_file_suffix(sender: FileSender) {
        let data = file(300_016);
        let (prefix, suffix) = (contents(7, 8192), contents(99, 8192));
        let expected = [&prefix[..], &contents(1000, 299_016), &suffix].concat();
        for route in ROUTES {
            let (mut stream, peer) = connection();
            let peer = read_all(peer);
            stream.write_all(&prefix).await.unwrap();
            let sent = sender.send_file(&stream, &data, 1000..).route(route).await;
            assert_eq!(sent.unwrap(), 299_016, "{route:?}");
            stream.write_all(&suffix).await.unwrap();
            drop(stream);
            assert_same(&joined(peer).await, &expected);
        }
        let (mut stream, peer) = unix();
        let peer = read_all(peer);
        stream.write_all(&prefix).await.unwrap();
        let file = tokio::fs::File::from_std(data);
        assert_eq!(sender.send_file(&stream, &file, 1000..).await.unwrap(), 299_016);
        stream.write_all(&suffix).await.unwrap();
        drop(stream);
        assert_same(&joined(peer).await, &expected);
    }

    async fn c6_what_a_buffered_stream_holds_goes_first(sender: FileSender) {
        let (stream, peer) = connection();
        let peer = read_all(peer);
        let data = file(100_000);
        let mut stream = BufWriter::new(stream);
        stream.write_all(b"head").await.unwrap();
        assert_eq!(stream.buffer(), b"head");
        assert_eq!(send_file_after(&sender, &mut stream, &data, ..).await.unwrap(), 100_000);
        stream.write_all(b"tail").await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
        let expected = [b"head", &contents(0, 100_000)[..], b"tail"].concat();
        assert_same(&joined(peer).await, &expected);
    }

    async fn c12_a_header_leaves_with_its_file(sender: FileSender) {
        for len in [0, 10, 5_000, 100_000, 3_000_000] {
            let (stream, peer) = connection();
            let peer = read_all(peer);
            let data = file(len);
            let sent = sender.send_file(&stream, &data, ..).header("the head").await.unwrap();
            assert_eq!(sent, 8 + len);
            drop(stream);
            let expected = [b"the head", &contents(0, len as usize)[..]].concat();
            assert_same(&joined(peer).await, &expected);
        }
    }

    async fn c7_sends_over_one_socket_keep_their_order(sender: FileSender) {
        let (stream, peer) = tight();
        let peer = read_all(peer);
        let data = Fd::new(file(600_000));
        let start = |n: u64| {
            let range = n * 1000..n * 1000 + 200_000;
            sender.send(&stream, Source::file(data.clone(), range)).start()
        };
        let sends: Vec<Sending> = (0..4).map(start).collect();
        for sending in sends.into_iter().rev() {
            assert_eq!(sending.await.unwrap(), 200_000);
        }
        drop(stream);
        let expected: Vec<u8> = (0..4).flat_map(|n| contents(n * 1000, 200_000)).collect();
        assert_same(&joined(peer).await, &expected);
    }

    async fn c7_small_ones_keep_their_order_among_large_ones(sender: FileSender) {
        let (stream, peer) = tight();
        let data = Fd::new(memory(0, 400_000));
        let lengths = [700, 90_000, 0, 300_000, 1, 60_000, 20_000, 200_000, 4096, 70_000];
        let start = |(at, len): (usize, &u64)| {
            let at = at as u64 * 1000;
            let request = sender.send(&stream, Source::file(data.clone(), at..at + len));
            request.header(format!("<{len}>")).start()
        };
        let sends: Vec<Sending> = lengths.iter().enumerate().map(start).collect();
        let peer = read_all(peer);
        let mut expected = Vec::new();
        for (at, (sending, len)) in sends.into_iter().zip(lengths).enumerate() {
            let header = format!("<{len}>");
            assert_eq!(sending.await.unwrap(), len + header.len() as u64);
            expected.extend_from_slice(header.as_bytes());
            expected.extend_from_slice(&contents(at as u64 * 1000, len as usize));
        }
        drop(stream);
        assert_same(&joined(peer).await, &expected);
    }

    async fn c7_threads_dont_mix_their_sends(sender: FileSender) {
        const LEN: usize = 50_000;
        let (stream, peer) = tight();
        let peer = read_all(peer);
        let stream = std::sync::Arc::new(stream);
        let start = |n: usize| {
            let (sender, stream) = (sender.clone(), std::sync::Arc::clone(&stream));
            let data = Fd::new(memory(n as u64 * 1_000_000, LEN));
            std::thread::spawn(move || {
                let start = |_| sender.send(&stream, Source::file(data.clone(), ..)).start();
                (0..20).map(start).collect::<Vec<Sending>>()
            })
        };
        let threads: Vec<_> = (0..3).map(start).collect();
        for thread in threads {
            for sending in joined(thread).await {
                assert_eq!(sending.await.unwrap(), LEN as u64);
            }
        }
        drop(stream);
        let got = joined(peer).await;
        assert_eq!(got.len(), 60 * LEN);
        let whole: Vec<Vec<u8>> = (0..3).map(|n| contents(n * 1_000_000, LEN)).collect();
        for piece in got.chunks(LEN) {
            assert!(whole.iter().any(|w| w == piece), "sends were mixed");
        }
    }

    async fn what_is_small_and_cached_leaves_at_once(sender: FileSender) {
        let (stream, mut peer) = connection();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        let data = memory(0, 10_000);
        for range in [0..10_000_u64, 5000..10_000] {
            let len = (range.end - range.start) as usize;
            let sending = sender.send_file(&stream, &data, range.clone()).header("head").start();
            // No other task has run meanwhile, nor the loop in this runtime.
            let mut got = vec![0; 4 + len];
            peer.read_exact(&mut got).unwrap();
            assert_same(&got, &[b"head", &contents(range.start, len)[..]].concat());
            let outcome = sending.outcome().await;
            assert_eq!((outcome.sent, outcome.end), (4 + len as u64, End::Complete));
            assert!(outcome.routes.contains(Route::Sendfile));
        }
        let outcome = sender.send_file(&stream, &data, ..).start().outcome().await;
        assert_eq!((outcome.sent, outcome.end), (10_000, End::EndOfFile));
        assert_eq!(holders(&stream), 1);
    }

    async fn c28_what_has_begun_and_is_cancelled_takes_those_behind_it_along(sender: FileSender) {
        let (stream, peer) = tight();
        // More than there is room for, and little enough to begin at once.
        let cut = sender.send_file(&stream, &memory(0, 128_000), ..).start();
        let behind = sender.send(&stream, Source::bytes("behind it")).start();
        cut.cancel();
        let error = cut.await.unwrap_err();
        assert_eq!(error.end, End::Cancelled);
        assert!(error.sent > 0 && error.sent < 128_000, "{error}");
        let behind = behind.await.unwrap_err();
        assert_eq!((behind.end, behind.sent), (End::Cancelled, 0));
        drop(stream);
        let got = joined(read_all(peer)).await;
        assert_same(&got, &contents(0, error.sent as usize));
    }

    async fn what_is_small_goes_over_pipes_too(sender: FileSender) {
        let (mut peer, ours) = std::io::pipe().unwrap();
        let ours = Fd::nonblocking(ours).unwrap();
        let bytes = sender.send(&ours, Source::bytes("some bytes")).await;
        assert_eq!(bytes.unwrap(), 10);
        let sent = sender.send_file(&ours, &memory(0, 2000), ..).header("head").await;
        assert_eq!(sent.unwrap(), 2004);
        let mut got = vec![0; 2014];
        peer.read_exact(&mut got).unwrap();
        assert_same(&got, &[b"some byteshead", &contents(0, 2000)[..]].concat());
        // No stream, though sendfile(2) would write to it.
        let file = Fd::nonblocking(memory(0, 0)).unwrap();
        let error = sender.send_file(&file, &memory(0, 2000), ..).await.unwrap_err();
        assert_eq!((error.end, error.sent, file.size().unwrap()), (End::Failed, 0, 0));
    }

    async fn what_is_small_leaves_no_socket_corked(sender: FileSender) {
        let (stream, _peer) = connection();
        let ours = Fd::new(stream.as_fd().try_clone_to_owned().unwrap());
        assert!(net::hold_back(&ours));
        sender.send_file(&stream, &memory(0, 2000), ..).await.unwrap();
        assert!(!common::kernel::is_corked(&stream));
    }

    async fn sends_that_are_over_at_once_let_others_run(sender: FileSender) {
        let (stream, mut peer) = unix();
        let data = Fd::new(memory(0, 50_000));
        let mut waited = 0;
        for _ in 0..22 {
            let mut sending = sender.send(&stream, Source::file(data.clone(), ..)).start();
            peer.read_exact(&mut [0; 50_000]).unwrap();
            let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut sending).poll(cx)));
            match first.await {
                Poll::Ready(sent) => assert_eq!(sent.unwrap(), 50_000),
                Poll::Pending => {
                    waited += 1;
                    assert_eq!(sending.await.unwrap(), 50_000);
                }
            }
        }
        assert_eq!(waited, 1, "once in a MiB");
    }

    async fn c12a_both_may_be_dropped_at_once(sender: FileSender) {
        let (stream, peer) = connection();
        let data = file(4_000_000);
        let sending = sender.send_file(&stream, &data, ..).start();
        drop((stream, data));
        let peer = read_all(peer);
        assert_eq!(sending.await.unwrap(), 4_000_000);
        assert_same(&joined(peer).await, &contents(0, 4_000_000));
    }

    async fn c28_dropped_before_its_turn_it_leaves_nothing(sender: FileSender) {
        let (stream, peer) = tight();
        let first = stalled(&sender, &stream, &peer).await;
        let second = sender.send_file(&stream, &file(50_000), ..).header("never").start();
        let third = sender.send(&stream, Source::bytes("the end")).start();
        drop(second);
        let peer = read_all(peer);
        assert_eq!(first.await.unwrap(), 8_000_000);
        assert_eq!(third.await.unwrap(), 7);
        drop(stream);
        let expected = [&contents(0, 8_000_000)[..], b"the end"].concat();
        assert_same(&joined(peer).await, &expected);
    }

    async fn c28_dropped_midway_the_connection_is_its_owners_to_end(sender: FileSender) {
        let (mut stream, peer) = tight();
        let first = stalled(&sender, &stream, &peer).await;
        let behind = sender.send(&stream, Source::bytes("behind it")).start();
        drop(first);
        let error = behind.await.unwrap_err();
        assert_eq!((error.end, error.sent), (End::Cancelled, 0));
        assert_eq!(holders(&stream), 1);
        stream.shutdown().await.unwrap();
        // No reset: the peer gets all that had left, and the end.
        let got = joined(read_all(peer)).await;
        assert!(!got.is_empty() && got.len() < 8_000_000, "{}", got.len());
        assert_same(&got, &contents(0, got.len()));
    }

    async fn c28_c29_a_cancel_tells_the_count(sender: FileSender) {
        for route in ROUTES {
            let (stream, peer) = tight();
            let data = file(8_000_000);
            let sending = sender.send_file(&stream, &data, ..).route(route).start();
            tokio::time::sleep(Duration::from_millis(20)).await;
            sending.cancel();
            let error = sending.await.unwrap_err();
            assert_eq!(error.end, End::Cancelled);
            drop(stream);
            let got = joined(read_all(peer)).await;
            assert_eq!(got.len() as u64, error.sent, "{route:?}");
            assert_same(&got, &contents(0, got.len()));
        }
    }

    async fn c30_the_time_is_up(sender: FileSender) {
        let data = file(8_000_000);
        let mut time = Duration::from_millis(30);
        let error = loop {
            let (stream, _peer) = tight();
            let request = sender.send_file(&stream, &data, ..).timeout(time);
            let error = request.await.unwrap_err();
            assert_eq!(error.end, End::TimedOut);
            if error.sent > 0 {
                break error;
            }
            // It was over before anything had begun.
            time *= 2;
        };
        assert!(error.sent < 8_000_000, "{error}");
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }

    async fn c22_the_peer_goes_away(sender: FileSender) {
        let (stream, peer) = tight();
        let sending = stalled(&sender, &stream, &peer).await;
        drop(peer);
        let error = sending.await.unwrap_err();
        assert_eq!(error.end, End::PeerGone);
        assert!(error.sent > 0 && error.sent < 8_000_000, "{error}");
    }

    async fn c20_the_write_side_is_shut_already(sender: FileSender) {
        let (mut stream, _peer) = connection();
        stream.shutdown().await.unwrap();
        let error = sender.send_file(&stream, &file(1000), ..).await.unwrap_err();
        assert_eq!((error.end, error.sent), (End::PeerGone, 0));
        assert_eq!(error.error.kind(), io::ErrorKind::BrokenPipe);
    }

    async fn c32_c33_sources_that_fail(sender: FileSender) {
        let (stream, peer) = connection();
        let peer = read_all(peer);
        let data = file(5000);
        let error = sender.send_file(&stream, &data, 0..9000).await.unwrap_err();
        assert_eq!((error.end, error.sent), (End::Truncated, 5000));
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
        let source = Source::reader(Read::chain(&b"some bytes"[..], Failing), None);
        let error = sender.send(&stream, source).await.unwrap_err();
        assert_eq!((error.end, error.sent), (End::Failed, 10));
        assert_eq!(error.error.raw_os_error(), Some(libc::EIO));
        // Nothing can be sent of these, and the connection is as it was.
        let write_only = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let directory = std::fs::File::open("/").unwrap();
        for bad in [&write_only, &directory] {
            let error = sender.send_file(&stream, bad, ..).await.unwrap_err();
            assert_eq!((error.end, error.sent), (End::Failed, 0), "{error}");
        }
        let no_socket = file(1);
        let error = sender.send_file(&no_socket, &data, ..).await.unwrap_err();
        assert_eq!((error.end, error.error.kind()), (End::Failed, io::ErrorKind::InvalidInput));
        drop(stream);
        let expected = [&contents(0, 5000)[..], b"some bytes"].concat();
        assert_same(&joined(peer).await, &expected);
    }

    async fn a_socket_is_given_back_as_it_was(sender: FileSender) {
        for nodelay in [false, true] {
            let (mut stream, mut peer) = connection();
            stream.set_nodelay(nodelay).unwrap();
            let ours = Fd::new(stream.as_fd().try_clone_to_owned().unwrap());
            net::set_notsent_lowat(&ours, 123_456).unwrap();
            let data = file(3_000_000);
            for _ in 0..3 {
                let reader = std::thread::spawn(move || {
                    let mut got = vec![0; 3_000_000];
                    peer.read_exact(&mut got).unwrap();
                    peer.write_all(b"thanks").unwrap();
                    (peer, got)
                });
                sender.send_file(&stream, &data, ..).await.unwrap();
                assert_eq!(stream.nodelay().unwrap(), nodelay);
                assert_eq!(net::notsent_lowat(&ours).unwrap(), 123_456);
                assert!(ours.is_nonblocking());
                // Ours, and the duplicate of this test.
                assert_eq!(holders(&stream), 2);
                let mut answer = [0; 6];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"thanks");
                let got;
                (peer, got) = joined(reader).await;
                assert_same(&got, &contents(0, 3_000_000));
            }
        }
    }

    async fn c7_many_connections_at_once(sender: FileSender) {
        let data = Fd::new(file(1_000_000));
        let mut sends = Vec::new();
        for n in 0..64_u64 {
            let (stream, peer) = connection();
            let peer = read_all(peer);
            let source = Source::file(data.clone(), n..n + 900_000);
            let sending = sender.send(&stream, source).start();
            sends.push((n, stream, peer, sending));
        }
        for (n, stream, peer, sending) in sends {
            assert_eq!(sending.await.unwrap(), 900_000);
            drop(stream);
            assert_same(&joined(peer).await, &contents(n, 900_000));
        }
    }

    async fn c41_a_blocked_worker_loses_no_wake_up(sender: FileSender) {
        let (stream, peer) = connection();
        let peer = read_all(peer);
        let data = file(100_000);
        for n in 0..50 {
            let sending = sender.send_file(&stream, &data, ..).start();
            // Whatever the loop is told meanwhile, this thread doesn't hear it.
            std::thread::sleep(Duration::from_micros(n * 40));
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_micros(n * 40));
            assert_eq!(sending.await.unwrap(), 100_000);
        }
        drop(stream);
        assert_eq!(joined(peer).await.len(), 5_000_000);
    }
}

/// The proactor goes away before it has heard of the rest of a send: what has left is told.
mod the_proactor_ends {
    use super::*;

    fn case(backend: BackendChoice) {
        let proactor = common::builder(backend).build().unwrap();
        let sender = FileSender::new(&proactor);
        let (ours, peer) = common::tight_tcp();
        ours.set_nonblocking().unwrap();
        let sending = sender.send_file(&ours, &memory(0, 128_000), ..).start();
        drop(proactor);
        let runtime = Builder::new_current_thread().build().unwrap();
        let outcome = runtime.block_on(sending.outcome());
        assert!(outcome.error.is_some());
        drop(ours);
        let got = read_all(peer).join().unwrap();
        assert!(!got.is_empty());
        assert_eq!(
            (outcome.end, outcome.sent),
            (End::Closing, got.len() as u64)
        );
    }

    #[test]
    fn ring() {
        case(BackendChoice::Ring);
    }

    #[test]
    fn emulated() {
        case(BackendChoice::Emulated);
    }
}

/// A runtime of each kind ends while a send is under way: it ends, and nothing of it stays.
mod the_runtime_ends {
    use super::*;

    fn wait_until_nobody_holds(link: &std::path::Path) {
        let end = std::time::Instant::now() + LIMIT;
        while held(link) > 0 {
            assert!(std::time::Instant::now() < end, "a descriptor is left");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn link(stream: &TcpStream) -> std::path::PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap()
    }

    fn current(backend: BackendChoice) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let local = LocalSet::new();
        let (link, sending, peer) = local.block_on(&runtime, async {
            let (stream, peer) = tight();
            let proactor = Rc::new(common::builder(backend).build().unwrap());
            let sender = FileSender::new(&proactor);
            tokio::task::spawn_local(Driver::new(proactor).unwrap());
            let sending = stalled(&sender, &stream, &peer).await;
            (link(&stream), sending, peer)
        });
        drop(local);
        drop(runtime);
        assert_eq!(held(&link), 0);
        let SendError { sent, end, .. } = ready(sending).unwrap_err();
        assert_eq!(end, End::Cancelled);
        let got = read_all(peer).join().unwrap();
        assert_eq!(got.len() as u64, sent);
    }

    fn multi(backend: BackendChoice) {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let sender = FileSender::spawn(common::builder(backend)).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let (stream, peer) = tight();
            let sending = stalled(&sender, &stream, &peer).await;
            tell.send((link(&stream), peer)).unwrap();
            sending.await.unwrap();
            unreachable!("the peer does not read");
        });
        let (link, peer) = told.recv().unwrap();
        drop(runtime);
        wait_until_nobody_holds(&link);
        let (got, _) = read_until_error(peer).join().unwrap();
        assert_same(&got, &contents(0, got.len()));
    }

    fn ready(mut sending: Sending) -> Result<u64, SendError> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(&mut sending).poll(&mut cx) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it is over"),
        }
    }

    #[test]
    fn c35_current_ring() {
        current(BackendChoice::Ring);
    }

    #[test]
    fn c35_current_emulated() {
        current(BackendChoice::Emulated);
    }

    #[test]
    fn c35_multi_ring() {
        multi(BackendChoice::Ring);
    }

    #[test]
    fn c35_multi_emulated() {
        multi(BackendChoice::Emulated);
    }
}

/// Local tasks use a transport's own futures while the driver runs: what they ask for from outside
/// the loop is heard.
fn transports_in_local_tasks(backend: BackendChoice) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let proactor = Rc::new(common::builder(backend).build().unwrap());
        tokio::task::spawn_local(Driver::new(Rc::clone(&proactor)).unwrap());
        let (ours, peer) = tcp();
        let peer = read_all(peer);
        let options = TransportOptions::new();
        let record = Record::new();
        let transport = Transport::new(&proactor, ours, record.protocol(), &options).unwrap();
        let data = Fd::new(file(30_000));
        for n in 0..500 {
            let source = Source::file(data.clone(), 0..1000 + n % 20_000);
            let options = SendOptions::new().route(RouteChoice::Auto);
            let sent = transport.send_file_async(source, options).await.unwrap();
            assert_eq!(sent, 1000 + n % 20_000);
            transport.write("x").unwrap();
            transport.drain().await.unwrap();
        }
        transport.close();
        assert_eq!(joined(peer).await.len(), 500 * 1001 + 499 * 500 / 2);
    });
}

#[test]
fn c41_transports_in_local_tasks_ring() {
    transports_in_local_tasks(BackendChoice::Ring);
}

#[test]
fn c41_transports_in_local_tasks_emulated() {
    transports_in_local_tasks(BackendChoice::Emulated);
}

#[test]
fn a_driver_needs_a_runtime() {
    let proactor = Rc::new(Proactor::new().unwrap());
    let error = Driver::new(proactor).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}
