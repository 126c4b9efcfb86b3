//! A transport that sends files: headers, then the file, in order, over io_uring or an emulated
//! completion port.
//!
//! Sending a file over a connection is a loop of reads and writes, until it has to be fast, keep
//! its order with what is written around it, not block on a cold disk or a stalled peer, and say
//! exactly how much was sent when it fails. That is what a [`Transport`] does:
//!
//! ```
//! use std::fs::File;
//! # use std::io::Read;
//! use std::net::{TcpListener, TcpStream};
//!
//! use spliceport::proactor::{Fd, Proactor};
//! use spliceport::{SendOptions, Transport, TransportOptions};
//!
//! # fn main() -> std::io::Result<()> {
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! # let mut peer = TcpStream::connect(listener.local_addr()?)?;
//! let (socket, _) = listener.accept()?;
//!
//! let proactor = Proactor::new()?; // io_uring, or its emulation where that is refused
//! let options = TransportOptions::new();
//! let transport = Transport::new(&proactor, Fd::new(socket), Box::new(()), &options)?;
//! transport.write("here it comes\n")?;
//! let send = transport.send_file_async(File::open("Cargo.toml")?, SendOptions::new());
//! let sent = proactor.block_on(send)??;
//! println!("{sent} bytes");
//! # drop(transport);
//! # drop(proactor);
//! # let mut got = Vec::new();
//! # peer.read_to_end(&mut got)?;
//! # assert_eq!(got.len() as u64, 14 + sent);
//! # Ok(())
//! # }
//! ```
//!
//! - **A server** is a [`Listener`], which makes a [`Protocol`] for each connection, and
//!   [`Proactor::run`](proactor::Proactor::run); callbacks take the futures' place:
//!   [`Transport::send_file`].
//! - **In tokio**, over its own streams: [`FileSender`], on a thread beside the runtime; inside it
//!   with the feature `tokio` (module `tokio`), and in tokio-uring with the feature `tokio-uring`.
//! - **Over TLS**: `TransportOptions::tls`, with the feature `tls`.
//! - **The other way**: [`Transport::receive_file`], and [`relay`] between two connections.
//! - **What happens** is counted: [`TransportStats`]; the feature `tracing` has a span for each send.
//!
//! What is written and what is sent of files leaves in the order of the calls. A [`Source`] is a
//! range of a file, a descriptor's position, a reader, or bytes. How the bytes travel is decided
//! piece by piece ([`Route`]), and is the same to the caller. The guides in `docs/` of the repository
//! are on backends (and containers), routes, flow control and embedding.

// One call needs it, to borrow the descriptors of tokio-uring's types.
#![cfg_attr(not(feature = "tokio-uring"), forbid(unsafe_code))]
#![cfg_attr(feature = "tokio-uring", deny(unsafe_code))]
#![cfg(target_os = "linux")]

#[cfg(feature = "cli")]
pub mod cli;
mod connector;
mod future;
mod listener;
mod oneshot;
mod pacing;
mod protocol;
mod receive;
mod relay;
mod replacement;
mod route;
mod send;
mod sender;
mod sink;
mod source;
mod span;
mod stats;
#[cfg(feature = "cli")]
pub mod streamer;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(feature = "tokio-uring")]
pub mod tokio_uring;
mod transport;

pub use bytes;
pub use proactor;
#[doc(no_inline)]
pub use proactor::Fd;

pub use connector::{ConnectHandle, connect};
pub use future::{Drain, ReceiveFuture, SendFuture};
pub use listener::Listener;
pub use protocol::Protocol;
pub use receive::{FileSync, ReceiveError, ReceiveHandle, ReceiveOptions, ReceiveOutcome};
pub use relay::{Flow, RelayHandle, RelayOptions, RelayOutcome, relay};
pub use replacement::{Placed, Replacement};
pub use route::{Route, RouteChoice, Routes};
pub use send::{End, SendError, SendHandle, SendOptions, SendOutcome};
pub use sender::{FileSender, SendRequest, Sending};
pub use sink::Sink;
pub use source::Source;
pub use stats::{ByRoute, Ends, TransportStats};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsInfo, rustls};
pub use transport::{Transport, TransportOptions};

/// The README's example compiles, and those of the guides.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/embedding.md")]
struct Readme;
