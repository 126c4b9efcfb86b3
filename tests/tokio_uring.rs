//! Files over tokio-uring's sockets, in its runtime and its thread, on both backends of ours.
//! tokio-uring itself needs io_uring: where that is denied there is nothing to test.

mod common;

use std::future::Future;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_uring::fs::File;
use tokio_uring::net::{TcpStream, UnixStream};

use common::{LIMIT, ROUTES, assert_same, contents, file, read_all, tcp};
use spliceport::proactor::{BackendChoice, Fd};
use spliceport::tokio_uring::{Driver, send, send_file};
use spliceport::{End, FileSender, Source};

fn run<F: Future<Output = ()>>(backend: BackendChoice, case: fn(FileSender) -> F) {
    if common::is_denied() {
        return common::not_run("io_uring is denied, and tokio-uring can't do without");
    }
    tokio_uring::start(async {
        let proactor = Rc::new(common::builder(backend).build().unwrap());
        let sender = FileSender::new(&proactor);
        tokio_uring::spawn(Driver::new(Rc::clone(&proactor)).unwrap());
        let all = async {
            case(sender).await;
            // The last completions may come a turn after what they end.
            while (proactor.stats().in_flight, proactor.stats().pipes_leased) != (0, 0) {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(LIMIT, all).await;
        ended.expect("it ends");
    });
}

macro_rules! on_both {
    ($(async fn $name:ident($sender:ident: FileSender) $body:block)*) => {
        mod cases {
            use super::*;
            $(pub(super) async fn $name($sender: FileSender) $body)*
        }
        mod ring {
            $(#[test] fn $name() {
                super::run(super::BackendChoice::Ring, super::cases::$name);
            })*
        }
        mod emulated {
            $(#[test] fn $name() {
                super::run(super::BackendChoice::Emulated, super::cases::$name);
            })*
        }
    };
}

fn connection() -> (TcpStream, std::net::TcpStream) {
    adopt(tcp())
}

fn tight() -> (TcpStream, std::net::TcpStream) {
    adopt(common::tight_tcp())
}

fn adopt((ours, peer): (Fd, std::net::TcpStream)) -> (TcpStream, std::net::TcpStream) {
    let ours = std::net::TcpStream::from(ours.into_owned().unwrap());
    (TcpStream::from_std(ours), peer)
}

fn uring_file(len: u64) -> File {
    File::from_std(file(len))
}

async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    while !thread.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    thread.join().unwrap()
}

fn holders(stream: &impl AsRawFd) -> usize {
    let link = |fd: &str| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok();
    let wanted = link(&stream.as_raw_fd().to_string());
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let all = fds.filter_map(|fd| link(fd.ok()?.file_name().to_str()?));
    all.filter(|link| Some(link) == wanted.as_ref()).count()
}

async fn write(stream: &TcpStream, bytes: Vec<u8>) {
    stream.write_all(bytes).await.0.unwrap();
}

on_both! {
    async fn c6_prefix_file_suffix(sender: FileSender) {
        let data = uring_file(300_016);
        let (prefix, suffix) = (contents(7, 8192), contents(99, 8192));
        let expected = [&prefix[..], &contents(1000, 299_016), &suffix].concat();
        for route in ROUTES {
            let (stream, peer) = connection();
            let peer = read_all(peer);
            write(&stream, prefix.clone()).await;
            let sent = send_file(&sender, &stream, &data, 1000..).route(route).await;
            assert_eq!(sent.unwrap(), 299_016, "{route:?}");
            assert_eq!(holders(&stream), 1);
            write(&stream, suffix.clone()).await;
            drop(stream);
            assert_same(&joined(peer).await, &expected);
        }
        data.close().await.unwrap();
    }

    async fn c6_over_a_unix_socket(sender: FileSender) {
        let (ours, peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let stream = UnixStream::from_std(ours);
        let peer = read_all(peer);
        let data = uring_file(300_016);
        let sent = send_file(&sender, &stream, &data, ..).header("head").await.unwrap();
        assert_eq!(sent, 300_020);
        drop(stream);
        assert_same(&joined(peer).await, &[b"head", &contents(0, 300_016)[..]].concat());
        data.close().await.unwrap();
    }

    async fn c7_c25_sends_keep_their_order(sender: FileSender) {
        let (stream, peer) = tight();
        let peer = read_all(peer);
        let first = send(&sender, &stream, Source::file(file(200_000), ..)).start();
        let second = send(&sender, &stream, Source::bytes("the end")).start();
        assert_eq!(second.await.unwrap(), 7);
        assert_eq!(first.await.unwrap(), 200_000);
        drop(stream);
        assert_same(&joined(peer).await, &[&contents(0, 200_000)[..], b"the end"].concat());
    }

    // Its sockets block, and a read of the ring's may wait at one all the while.
    async fn a_socket_blocks_again_and_can_be_read_meanwhile(sender: FileSender) {
        let (stream, mut peer) = connection();
        let stream = Rc::new(stream);
        let reader = Rc::clone(&stream);
        let answer = tokio_uring::spawn(async move { reader.read(vec![0; 6]).await });
        tokio::task::yield_now().await;
        let data = uring_file(3_000_000);
        let thread = std::thread::spawn(move || {
            let mut got = vec![0; 3_000_000];
            std::io::Read::read_exact(&mut peer, &mut got).unwrap();
            std::io::Write::write_all(&mut peer, b"thanks").unwrap();
            got
        });
        assert_eq!(send_file(&sender, &*stream, &data, ..).await.unwrap(), 3_000_000);
        let (n, buf) = answer.await.unwrap();
        assert_eq!((n.unwrap(), &buf[..]), (6, &b"thanks"[..]));
        assert_same(&joined(thread).await, &contents(0, 3_000_000));
        // O_NONBLOCK belongs to the socket, whichever descriptor is asked.
        let flags = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", stream.as_raw_fd()));
        let flags = flags.unwrap();
        let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        data.close().await.unwrap();
    }

    async fn c12a_both_may_be_dropped_at_once(sender: FileSender) {
        let (stream, peer) = connection();
        let data = uring_file(4_000_000);
        let sending = send_file(&sender, &stream, &data, ..).start();
        drop((stream, data));
        let peer = read_all(peer);
        assert_eq!(sending.await.unwrap(), 4_000_000);
        assert_same(&joined(peer).await, &contents(0, 4_000_000));
    }

    async fn c28_c29_a_cancel_tells_the_count(sender: FileSender) {
        for route in ROUTES {
            let (stream, peer) = tight();
            let data = uring_file(8_000_000);
            let sending = send_file(&sender, &stream, &data, ..).route(route).start();
            tokio::time::sleep(Duration::from_millis(20)).await;
            sending.cancel();
            let error = sending.await.unwrap_err();
            assert_eq!(error.end, End::Cancelled);
            drop(stream);
            let got = joined(read_all(peer)).await;
            assert_eq!(got.len() as u64, error.sent, "{route:?}");
            assert_same(&got, &contents(0, got.len()));
            data.close().await.unwrap();
        }
    }

    async fn c22_c32_errors_have_the_count(sender: FileSender) {
        let (stream, peer) = connection();
        let data = uring_file(5000);
        let error = send_file(&sender, &stream, &data, 0..9000).await.unwrap_err();
        assert_eq!((error.end, error.sent), (End::Truncated, 5000));
        drop(peer);
        let large = uring_file(20_000_000);
        let error = send_file(&sender, &stream, &large, ..).await.unwrap_err();
        assert_eq!(error.end, End::PeerGone);
        assert!(error.sent < 20_000_000);
        assert_eq!(holders(&stream), 1);
        large.close().await.unwrap();
        data.close().await.unwrap();
    }

    // A file that was opened with a descriptor of ours; both kinds of ownership end well.
    async fn a_file_from_a_number(sender: FileSender) {
        let (stream, peer) = connection();
        let peer = read_all(peer);
        let number = file(10_000).into_raw_fd();
        // SAFETY: nobody else owns the number.
        let data = unsafe { File::from_raw_fd(number) };
        assert_eq!(send_file(&sender, &stream, &data, 1..9_000).await.unwrap(), 8_999);
        data.close().await.unwrap();
        drop(stream);
        assert_same(&joined(peer).await, &contents(1, 8_999));
    }
}
