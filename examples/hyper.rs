//! An HTTP/1.1 server of hyper's whose handler answers with a file that hyper never sees: the
//! connection is taken back once the response's head has left, the file is sent, and hyper gets the
//! connection again for the next request.
//!
//! What makes it work: a body that promises its length and is never ready. hyper writes the head,
//! asks for the body, and flushes; with that flush the connection is idle, and `into_parts` gives it
//! back, with what was read ahead. It is for HTTP/1 without TLS, in an accept loop of one's own (an
//! axum `Router` can be the service in it; `axum::serve` keeps its connections to itself). HTTP/2
//! frames its data, and TLS encrypts it: both have to see the bytes.
//!
//! `cargo run --features tokio --example hyper -- README.md`, then `curl http://127.0.0.1:9000/`

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use spliceport::proactor::{Fd, Proactor};
use spliceport::{FileSender, Source};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let file = File::open(args.next().unwrap_or("README.md".into()))?;
    let address = args.next().unwrap_or("127.0.0.1:9000".into());

    let len = file.metadata()?.len();
    let file = Fd::new(file);
    let sender = FileSender::spawn(Proactor::builder())?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        let (sender, file) = (sender.clone(), file.clone());
        tokio::spawn(async move {
            match serve(&sender, stream, file, len).await {
                Ok(files) => println!("{peer}: {files} files"),
                Err(e) => println!("{peer}: {e}"),
            }
        });
    }
}

/// Serves a connection; returns how many files it was sent.
async fn serve(
    sender: &FileSender,
    stream: TcpStream,
    file: Fd,
    len: u64,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let (mut stream, mut read_ahead) = (stream, Bytes::new());
    for files in 0.. {
        let moment = Arc::new(Moment::default());
        let io = Io {
            stream,
            read_ahead,
            moment: Arc::clone(&moment),
        };
        let service = service_fn(|request: Request<Incoming>| {
            // A handler that awaits something returns a `Box::pin(async { .. })`.
            let response = respond(&request, len, Arc::clone(&moment));
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let mut connection = http1::Builder::new().serve_connection(io, service);
        let over = std::future::poll_fn(|cx| {
            if let Poll::Ready(over) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(over.map(|()| true));
            }
            match moment.flushed.load(Ordering::Relaxed) {
                true => Poll::Ready(Ok(false)),
                false => Poll::Pending,
            }
        });
        if over.await? {
            return Ok(files);
        }
        let parts = connection.into_parts();
        let rest = [&parts.read_buf[..], &parts.io.read_ahead[..]].concat();
        (stream, read_ahead) = (parts.io.stream, Bytes::from(rest));
        sender
            .send(&stream, Source::file(file.clone(), 0..len))
            .await?;
        if moment.last.load(Ordering::Relaxed) {
            return Ok(files + 1);
        }
    }
    unreachable!("no connection sees so many requests")
}

/// The handler.
fn respond(request: &Request<Incoming>, len: u64, moment: Arc<Moment>) -> Response<Promise> {
    let header = request.headers().get(hyper::header::CONNECTION);
    let close = header.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    let last = close || request.version() < hyper::Version::HTTP_11;
    moment.last.store(last, Ordering::Relaxed);
    let mut response = Response::new(Promise { len, moment });
    if request.method() != Method::GET {
        *response.status_mut() = hyper::StatusCode::METHOD_NOT_ALLOWED;
        response.body_mut().len = 0;
    }
    response
}

/// How far a response is.
#[derive(Default)]
struct Moment {
    /// hyper has asked for the body, so that the head is written.
    asked: AtomicBool,
    /// All that was written has left.
    flushed: AtomicBool,
    /// The connection is to be closed after the response.
    last: AtomicBool,
}

/// A body of so many bytes that somebody else sends.
struct Promise {
    len: u64,
    moment: Arc<Moment>,
}

impl Body for Promise {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.moment.asked.store(true, Ordering::Relaxed);
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.len == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

/// The stream as hyper has it: what was read ahead comes first, and a flush is noticed.
struct Io {
    stream: TcpStream,
    read_ahead: Bytes,
    moment: Arc<Moment>,
}

impl hyper::rt::Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut to: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let n = to.remaining().min(self.read_ahead.len());
            to.put_slice(&self.read_ahead[..n]);
            self.read_ahead.advance(n);
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [0; 8192];
        let most = to.remaining().min(bytes.len());
        let mut buf = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        to.put_slice(buf.filled());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once its own buffer is empty.
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        let asked = self.moment.asked.load(Ordering::Relaxed);
        self.moment.flushed.store(asked, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
