//! Sending files over HTTP and one by one: what the program does, for other programs.

mod clock;
mod frame;
mod gate;
mod http;
mod observe;
mod open;
mod pages;
mod receiver;
mod sender;
mod server;
mod server_stats;
mod uploads;
mod worker;

pub use gate::Gate;
pub use http::Site;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use http::properties;
pub use observe::{Ending, Exchange, Head, Observer};
pub use pages::{Page, Pages};
pub use receiver::{Received, ReceiverOptions, Receiving, receive};
pub use sender::{SenderOptions, Sending, Sent, send};
pub use server::{Limits, Server, ServerOptions};
pub use server_stats::{OpenFileStats, ServerStats, UploadStats};
pub use uploads::Uploads;
