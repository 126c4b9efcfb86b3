//! stub

pub use bytes;
pub use proactor;

#[cfg(feature = "cli")]
pub mod streamer;
