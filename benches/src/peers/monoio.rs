//! monoio: read and write on its ring, one buffer for each connection. Its splice goes from socket to
//! socket and takes no file.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;

use monoio::buf::IoBufMut;
use monoio::fs::File;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;

use super::BLOCK;
use super::site::{self, Site};

fn run(main: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut ring = io_uring_of_monoio::IoUring::builder();
    ring.setup_cqsize(8192)
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_taskrun_flag();
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(1024)
        .uring_builder(ring)
        .build()?
        .block_on(main)
}

async fn serve<F: Future<Output = io::Result<()>> + 'static>(
    listener: TcpListener,
    each: impl Fn(TcpStream) -> F,
) -> io::Result<()> {
    let listener = monoio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        monoio::spawn(each(stream));
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
        let (read, slice) = file.read_at(buf.slice_mut(held..held + len), at).await;
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
    run(serve(listener, move |mut stream| async move {
        let file = File::from_std(file.try_clone()?)?;
        let mut buf = Vec::with_capacity(BLOCK);
        loop {
            buf = send(&mut stream, &file, size, buf).await?;
        }
    }))
}

pub fn http(listener: TcpListener, site: &'static Site) -> io::Result<()> {
    run(async {
        let open = async |file: &std::fs::File| File::from_std(file.try_clone()?);
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
        let (read, back) = stream.read(received).await;
        if read? == 0 {
            return Ok(());
        }
        received = back;
        input.extend_from_slice(&received);
        received.clear();
    }
}
