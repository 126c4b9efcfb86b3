//! tokio-uring: read and write on its ring, one buffer for each connection. It offers neither splice
//! nor sendfile.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;
use tokio_uring::net::TcpStream;

use super::BLOCK;
use super::site::{self, Site};

fn run(main: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(8192)
        .setup_coop_taskrun()
        .setup_taskrun_flag();
    tokio_uring::builder()
        .entries(1024)
        .uring_builder(&ring)
        .start(main)
}

async fn serve<F: Future<Output = io::Result<()>> + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    let listener = tokio_uring::net::TcpListener::from_std(listener);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio_uring::spawn(each(stream));
    }
}

/// Sends a file behind what the buffer holds, and gives the buffer back, empty.
async fn send(stream: &TcpStream, file: &File, size: u64, mut buf: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut at = 0;
    while at < size {
        let held = buf.len();
        let len = ((size - at) as usize).min(BLOCK);
        buf.reserve(len);
        let (read, slice) = file.read_at(buf.slice(held..held + len), at).await;
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => at += n as u64,
        }
        let (written, back) = stream.write_all(slice.into_inner()).await;
        written?;
        buf = back;
        buf.clear();
    }
    Ok(buf)
}

pub fn stream(listener: TcpListener, file: &'static std::fs::File, size: u64) -> io::Result<()> {
    run(serve(listener, move |stream| async move {
        let file = File::from_std(file.try_clone()?);
        let mut buf = Vec::with_capacity(BLOCK);
        loop {
            buf = send(&stream, &file, size, buf).await?;
        }
    }))
}

pub fn http(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    run(async {
        let open = async |file: &std::fs::File| Ok(File::from_std(file.try_clone()?));
        let site = Rc::new(site.map(open).await?);
        serve(listener, |stream| connection(stream, site.clone())).await
    })
}

async fn connection(stream: TcpStream, site: Rc<Site<File>>) -> io::Result<()> {
    let mut input: Vec<u8> = Vec::new();
    let mut received = Vec::with_capacity(4096);
    let mut output = Vec::new();
    loop {
        while let Some((path, length)) = site::request(&input)? {
            let entry = site.get(path)?;
            output.extend_from_slice(entry.head.as_bytes());
            output = send(&stream, &entry.file, entry.length, output).await?;
            input.drain(..length);
        }
        let (read, back) = stream.read(received).await;
        if read? == 0 {
            return Ok(());
        }
        received = back;
        input.extend_from_slice(&received);
        received.clear();
    }
}
