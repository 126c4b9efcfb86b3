//! Sending files over HTTP and one by one: what the program does, for other programs.

mod clock;
mod frame;
mod gate;
mod http;
mod observe;
mod open;
mod receiver;
mod sender;
mod server;
mod uploads;
mod worker;

pub use gate::Gate;
pub use http::Site;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use http::properties;
pub use observe::{Ending, Exchange, Head, Observer};
pub use receiver::{Received, ReceiverOptions, Receiving, receive};
pub use sender::{SenderOptions, Sending, Sent, send};
pub use server::{Limits, Server, ServerOptions};
pub use uploads::Uploads;
