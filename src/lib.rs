//! A transport that sends files: headers, then the file, in order, over io_uring or an emulated
//! completion port.
//!
//! A [`Protocol`] is told of what happens on a connection; a [`Transport`] is what it writes to.
//! What is written and what is sent of files leaves in the order of the calls.

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
mod route;
mod send;
mod sender;
mod sink;
mod source;
#[cfg(feature = "cli")]
pub mod streamer;
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
pub use future::{Drain, SendFuture};
pub use listener::Listener;
pub use protocol::Protocol;
pub use receive::{FileSync, ReceiveError, ReceiveHandle, ReceiveOptions, ReceiveOutcome};
pub use relay::{Flow, RelayHandle, RelayOptions, RelayOutcome, relay};
pub use route::{Route, RouteChoice, Routes};
pub use send::{End, SendError, SendHandle, SendOptions, SendOutcome};
pub use sender::{FileSender, SendRequest, Sending};
pub use sink::Sink;
pub use source::Source;
pub use transport::{Transport, TransportOptions};

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
