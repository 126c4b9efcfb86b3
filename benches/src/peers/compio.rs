//! compio: read and write on its ring, one buffer for each connection; and its splice, through a pipe
//! of 1 MiB for each.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use compio::buf::{BufResult, IntoInner, IoBuf};
use compio::driver::ProactorBuilder;
use compio::fs::File;
use compio::fs::pipe;
use compio::io::{AsyncRead, AsyncReadAt, AsyncWriteExt};
use compio::net::TcpStream;

use super::site::{self, Site};
use super::{BLOCK, syscall};

fn run(main: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut ring = ProactorBuilder::new();
    ring.capacity(1024)
        .cqsize(8192)
        .single_issuer(true)
        .coop_taskrun(true)
        .taskrun_flag(true);
    compio::runtime::RuntimeBuilder::new()
        .with_proactor(ring)
        .build()?
        .block_on(main)
}

async fn open(file: &std::fs::File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).await
}

async fn serve<F: Future<Output = io::Result<()>> + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    let listener = compio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        compio::runtime::spawn(each(stream)).detach();
    }
}

/// Sends a file behind what the buffer holds, and gives the buffer back, empty.
async fn send(
    stream: &mut TcpStream,
    file: &File,
    size: u64,
    mut buf: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let mut at = 0;
    while at < size {
        let held = buf.len();
        let len = ((size - at) as usize).min(BLOCK);
        buf.reserve(len);
        let BufResult(read, slice) = file.read_at(buf.slice(held..held + len), at).await;
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => at += n as u64,
        }
        let BufResult(written, back) = stream.write_all(slice.into_inner()).await;
        written?;
        buf = back;
        buf.clear();
    }
    Ok(buf)
}

pub fn stream(listener: TcpListener, file: &'static std::fs::File, size: u64) -> io::Result<()> {
    run(serve(listener, move |mut stream| async move {
        let file = open(file).await?;
        let mut buf = Vec::with_capacity(BLOCK);
        loop {
            buf = send(&mut stream, &file, size, buf).await?;
        }
    }))
}

pub fn stream_splice(
    listener: TcpListener,
    file: &'static std::fs::File,
    size: u64,
) -> io::Result<()> {
    run(serve(listener, move |stream| async move {
        let file = open(file).await?;
        let (read, write) = pipe::anonymous().await?;
        syscall::grow(&write)?;
        loop {
            let mut at = 0;
            while at < size {
                let len = (size - at).min(1 << 20) as usize;
                let mut left = pipe::splice(&file, &write, len)
                    .offset_in(at as i64)
                    .await?;
                at += left as u64;
                while left > 0 {
                    left -= pipe::splice(&read, &stream, left).await?;
                }
            }
        }
    }))
}

pub fn http(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    run(async {
        let site = Rc::new(site.map(open).await?);
        serve(listener, |stream| connection(stream, site.clone())).await
    })
}

async fn connection(mut stream: TcpStream, site: Rc<Site<File>>) -> io::Result<()> {
    let mut input: Vec<u8> = Vec::new();
    let mut received = Vec::with_capacity(4096);
    let mut output = Vec::new();
    loop {
        while let Some((path, length)) = site::request(&input)? {
            let entry = site.get(path)?;
            output.extend_from_slice(entry.head.as_bytes());
            output = send(&mut stream, &entry.file, entry.length, output).await?;
            input.drain(..length);
        }
        let BufResult(read, back) = stream.read(received).await;
        if read? == 0 {
            return Ok(());
        }
        received = back;
        input.extend_from_slice(&received);
        received.clear();
    }
}
