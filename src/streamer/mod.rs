//! Sending files over HTTP and one by one: what the program does, for other programs.

mod cache;
mod choice;
mod connection;
mod date;
mod head;
mod open;
mod path;
mod range;
mod request;
mod server;
mod status;

pub use server::{Server, ServerOptions};
