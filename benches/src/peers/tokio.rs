//! tokio, one thread: sendfile(2) on readiness, `io::copy`, our sender in its loop, a small HTTP
//! server, a proxy, and files received.

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use spliceport::proactor::{Fd, Proactor};
use spliceport::tokio::Driver;
use spliceport::{FileSender, Source};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::TcpStream;

use super::site::{self, Site};
use super::{BLOCK, Targets, syscall};

/// Bodies up to here leave with their head, in one write.
const SMALL: u64 = 32 << 10;

fn serve<F: Future<Output = io::Result<()>> + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    run(accept(listener, each))
}

fn run(work: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

async fn accept<F: Future<Output = io::Result<()>> + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(each(stream));
    }
}

async fn send_file(stream: &TcpStream, file: &File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let len = (size - at).min(2 << 20);
        let send = || syscall::sendfile(stream, file, &mut at, len);
        stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

pub fn stream_sendfile(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    serve(listener, move |stream| async move {
        syscall::cork(&stream)?;
        let mut since_yield = 0;
        loop {
            send_file(&stream, file, size).await?;
            since_yield += size;
            if since_yield >= 1 << 20 {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
        }
    })
}

pub fn stream_copy(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    serve(listener, move |mut stream| async move {
        // A file of its own, since a tokio file has a position.
        let own = File::open(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(file)
        ))?;
        let own = tokio::fs::File::from_std(own);
        let mut own = BufReader::with_capacity(BLOCK, own.take(size));
        loop {
            tokio::io::copy_buf(&mut own, &mut stream).await?;
            // All that was read is sent: the buffer is empty.
            let again = own.get_mut();
            again.set_limit(size);
            again.get_mut().rewind().await?;
        }
    })
}

/// Ours, driven by a task of the same thread.
pub fn stream_spliceport(listener: TcpListener, file: &'static File, size: u64) -> io::Result<()> {
    let file = Fd::from(file.try_clone()?);
    run(async move {
        let proactor = Rc::new(Proactor::new()?);
        let sender = FileSender::new(&proactor);
        tokio::task::spawn_local(Driver::new(proactor)?);
        accept(listener, move |stream| {
            let (sender, file) = (sender.clone(), file.clone());
            async move {
                loop {
                    sender
                        .send(&stream, Source::file(file.clone(), 0..size))
                        .await?;
                }
            }
        })
        .await
    })
}

/// With the buffers that it has by itself: 8 KiB for each direction.
pub fn relay(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    serve(listener, move |mut near| async move {
        let mut far = TcpStream::connect(upstream).await?;
        far.set_nodelay(true)?;
        tokio::io::copy_bidirectional(&mut near, &mut far).await?;
        Ok(())
    })
}

pub fn relay_large(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    serve(listener, move |mut near| async move {
        let mut far = TcpStream::connect(upstream).await?;
        far.set_nodelay(true)?;
        tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BLOCK, BLOCK).await?;
        Ok(())
    })
}

pub fn upload(listener: TcpListener, targets: &'static Targets, size: u64) -> io::Result<()> {
    serve(listener, move |stream| async move {
        let mut file = tokio::fs::File::from_std(targets.next()?);
        let mut stream = BufReader::with_capacity(BLOCK, stream);
        loop {
            file.rewind().await?;
            let copied = tokio::io::copy_buf(&mut (&mut stream).take(size), &mut file).await?;
            file.flush().await?;
            if copied < size {
                return Ok(());
            }
        }
    })
}

pub fn http(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    serve(listener, move |stream| connection(stream, site))
}

async fn connection(mut stream: TcpStream, site: &Site) -> io::Result<()> {
    let mut input = Vec::with_capacity(4096);
    let mut output = Vec::new();
    loop {
        while let Some((path, length)) = site::request(&input)? {
            let entry = site.get(path)?;
            if entry.length <= SMALL {
                let head = entry.head.len();
                output.resize(head + entry.length as usize, 0);
                output[..head].copy_from_slice(entry.head.as_bytes());
                entry.file.read_exact_at(&mut output[head..], 0)?;
                stream.write_all(&output).await?;
            } else {
                let head = entry.head.as_bytes();
                let mut at = 0;
                while at < head.len() {
                    let send = || syscall::send(&stream, &head[at..], libc::MSG_MORE);
                    at += stream.async_io(Interest::WRITABLE, send).await?;
                }
                send_file(&stream, &entry.file, entry.length).await?;
            }
            input.drain(..length);
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
