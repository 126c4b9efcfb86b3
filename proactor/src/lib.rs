//! A completion port for Linux: io_uring where it can be had, an emulated port where it cannot.
//!
//! A [`Proactor`] takes [operations](Op), runs them, and calls back when each is complete. It
//! belongs to one thread; a process may have many.
//!
//! ```
//! use proactor::{Callback, Op, Proactor, net};
//!
//! let proactor = Proactor::new()?;
//! let (a, b) = net::pair()?;
//! proactor.submit(
//!     Op::Recv { socket: b, buf: bytes::BytesMut::with_capacity(16) },
//!     Callback::once(|proactor, completion| {
//!         let Some(Op::Recv { buf, .. }) = completion.op else { unreachable!() };
//!         assert_eq!(&buf[..], b"hello");
//!         proactor.stop();
//!     }),
//! );
//! proactor.submit(
//!     Op::Send { socket: a, buf: bytes::Bytes::from_static(b"hello").into(), more: false },
//!     Callback::once(|_, completion| assert_eq!(completion.transferred, 5)),
//! );
//! proactor.run()?;
//! # Ok::<(), std::io::Error>(())
//! ```

#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod backend;
mod block_on;
#[allow(unsafe_code, reason = "buffers that the kernel reads and writes")]
mod buf;
mod builder;
mod clock;
mod emulated;
#[allow(unsafe_code, reason = "epoll(7)")]
mod epoll;
mod exec;
mod fd;
mod forward;
mod job;
#[cfg(all(test, loom))]
mod models;
#[allow(unsafe_code, reason = "socket calls and their addresses")]
pub mod net;
mod op;
mod pipe;
mod pool;
mod port;
mod proactor;
mod probe;
mod remote;
mod ring;
#[cfg(feature = "simulation")]
pub mod sim;
#[cfg(not(feature = "simulation"))]
#[path = "sim/absent.rs"]
mod sim;
mod stats;
mod sync;
#[allow(unsafe_code, reason = "system calls")]
mod sys;
mod timer;
mod transfer;
mod turn;
mod wake;

pub use buf::{RecvBuf, SendBuf};
pub use builder::{BackendChoice, Builder};
pub use clock::now;
pub use fd::{Fd, FileKind, Filesystem, Residency};
pub use forward::{Forward, ForwardEnd};
pub use net::Address;
pub use op::{Completion, Interest, Method, Op, Open, Output, SendFile, SendFileEnd, Token, Work};
pub use proactor::{
    Attachment, BackendKind, Callback, Handle, Handler, ManyCallback, OnceCallback, Proactor,
};
pub use probe::{Feature, Limits, Probe, Refusal};
pub use remote::{Gone, Remote};
pub use stats::Stats;
