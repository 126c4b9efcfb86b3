//! Files over tokio-uring's sockets. Its runtime is a current-thread one of tokio's, in which a
//! [`Driver`] runs the proactor, beside the runtime's own ring, in the same thread.
//!
//! ```no_run
//! use std::rc::Rc;
//!
//! use spliceport::FileSender;
//! use spliceport::proactor::Proactor;
//! use spliceport::tokio_uring::{Driver, send_file};
//!
//! # fn main() -> std::io::Result<()> {
//! tokio_uring::start(async {
//!     let proactor = Rc::new(Proactor::new()?);
//!     let sender = FileSender::new(&proactor);
//!     tokio_uring::spawn(Driver::new(proactor)?);
//!     let stream = tokio_uring::net::TcpStream::connect("127.0.0.1:9000".parse().unwrap()).await?;
//!     let file = tokio_uring::fs::File::open("README.md").await?;
//!     send_file(&sender, &stream, &file, ..).await?;
//!     file.close().await
//! })
//! # }
//! ```
//!
//! tokio-uring's sockets block, and are made non-blocking while a file is sent. Kernels before 5.12
//! then answer a *read* of the same socket that is asked for during the send with `WouldBlock`.
//!
//! What the [`tokio`](crate::tokio) module says of cancelling and of order holds here as well. A
//! `File` or a stream that is dropped during a send is closed by tokio-uring at once; the send has
//! its own duplicates.

use std::ops::RangeBounds;
use std::os::fd::BorrowedFd;

use ::tokio_uring::fs::File;
use ::tokio_uring::net::{TcpStream, UnixStream};

pub use crate::tokio::Driver;
use crate::{FileSender, SendRequest, Source};

mod sealed {
    pub trait Sealed: std::os::fd::AsRawFd {}
}

/// A stream of tokio-uring's that files can be sent over.
pub trait Stream: sealed::Sealed {}

impl sealed::Sealed for TcpStream {}
impl sealed::Sealed for UnixStream {}
impl sealed::Sealed for File {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// As [`FileSender::send_file`], with tokio-uring's types.
pub fn send_file<'s>(
    sender: &FileSender,
    stream: &'s impl Stream,
    file: &File,
    range: impl RangeBounds<u64>,
) -> SendRequest<'s> {
    let file = borrowed(file).try_clone_to_owned();
    let source = file.map(|file| Source::file(file, range));
    SendRequest::new(sender.clone(), borrowed(stream), source)
}

/// As [`FileSender::send`], with tokio-uring's streams.
pub fn send<'s>(
    sender: &FileSender,
    stream: &'s impl Stream,
    source: impl Into<Source>,
) -> SendRequest<'s> {
    SendRequest::new(sender.clone(), borrowed(stream), Ok(source.into()))
}

/// tokio-uring's types own their descriptors, but lend them as numbers only.
fn borrowed(of: &impl sealed::Sealed) -> BorrowedFd<'_> {
    // SAFETY: the trait is implemented for types alone that own an open descriptor until they are
    // dropped or consumed, and the reference outlives the borrowed descriptor.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(of.as_raw_fd())
    }
}
