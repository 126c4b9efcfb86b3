//! Sending files over HTTP and one by one: what the program does, for other programs.

mod cache;
mod choice;
mod connection;
mod date;
mod frame;
mod head;
mod moment;
mod open;
mod path;
mod pending;
mod range;
mod receiver;
mod request;
mod sender;
mod server;
mod status;

pub use receiver::{Received, ReceiverOptions, Receiving, receive};
pub use sender::{SenderOptions, Sending, Sent, send};
pub use server::{Server, ServerOptions};
