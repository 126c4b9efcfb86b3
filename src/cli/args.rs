//! The arguments, and what `--help` says of them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::proactor::BackendChoice;
use crate::{Route, RouteChoice};

use super::content::Content;
use super::operation::Operation;

/// Serves and sends files: header, then file, in order, over io_uring where it can be had.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    Serve(Box<Serve>),
    Send(Send),
    Receive(Receive),
    Probe(Probe),
}

/// Serve the files of a directory over HTTP
///
/// Prints `listening on http://ADDRESS (backend NAME)`, or `https://`, once connections are accepted. SIGINT and
/// SIGTERM end it: connections that wait for a request are closed, transfers under way are
/// finished; a second signal ends it at once. SIGHUP reads the configuration file again, and
/// opens the access log anew.
#[derive(clap::Args, Debug)]
pub(super) struct Serve {
    /// The directory
    #[arg(default_value = ".")]
    pub(super) directory: PathBuf,
    /// Where to listen: HOST:PORT (port 0 takes a free one) or unix:PATH
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub(super) listen: String,
    #[command(flatten)]
    pub(super) backend: Backend,
    /// Threads, each with a listener and a loop of its own [default: the number of CPUs]
    #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    #[command(flatten)]
    pub(super) route: RouteArg,
    /// How long a stop waits for transfers under way
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    pub(super) stop_timeout: Duration,
    /// How long a connection may wait between requests
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(super) idle_timeout: Duration,
    /// How long a client may take to send the head of a request
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "15")]
    pub(super) header_timeout: Duration,
    /// How long a client may take nothing of a response, or send nothing of an upload
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    pub(super) send_timeout: Duration,
    /// Let those who know a token put files below the directory (PUT); the token is read from
    /// --upload-token-file, or from the environment variable SPLICEPORT_UPLOAD_TOKEN
    #[arg(long)]
    pub(super) upload: bool,
    /// The most bytes that an uploaded file may have; K, M and G stand for 1024 and its powers
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "1G", requires = "upload")]
    pub(super) upload_limit: u64,
    /// The token; others on this machine can see it in the list of processes
    #[arg(
        long,
        value_name = "TOKEN",
        requires = "upload",
        conflicts_with = "upload_token_file"
    )]
    pub(super) upload_token: Option<String>,
    /// A file whose first line is the token
    #[arg(long, value_name = "FILE", requires = "upload")]
    pub(super) upload_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) content: Content,
    #[command(flatten)]
    pub(super) operation: Operation,
}

/// Send one file to a receiver
///
/// Succeeds only when the receiver has confirmed that the file is in its place.
#[derive(clap::Args, Debug)]
pub(super) struct Send {
    /// The file
    pub(super) file: PathBuf,
    /// Where `spliceport receive` listens: HOST:PORT or unix:PATH
    #[arg(value_name = "ADDR")]
    pub(super) address: String,
    #[command(flatten)]
    pub(super) backend: Backend,
    #[command(flatten)]
    pub(super) route: RouteArg,
    /// At most so many bytes in a second; K, M and G stand for 1024 and its powers
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) rate: Option<u64>,
    /// Give up when it isn't done after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
}

/// Receive one file from one sender
///
/// Prints `listening on ADDRESS (backend NAME)` once a sender can come. The file appears whole,
/// and on the disk, or not at all; one that was there before is replaced.
#[derive(clap::Args, Debug)]
pub(super) struct Receive {
    /// Where to listen: HOST:PORT (port 0 takes a free one) or unix:PATH
    #[arg(value_name = "ADDR")]
    pub(super) address: String,
    /// The file to make
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) backend: Backend,
    /// Give up when it isn't done after this time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    /// Leave it to the system when the file reaches the disk
    #[arg(long)]
    pub(super) no_sync: bool,
}

/// Tell which backend runs here, and why
#[derive(clap::Args, Debug)]
pub(super) struct Probe {
    /// For machines
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) backend: Backend,
}

#[derive(clap::Args, Debug)]
pub(super) struct Backend {
    /// What runs the operations: auto (the ring where io_uring can be had), ring or emulated;
    /// the environment variable SPLICEPORT_BACKEND overrides auto
    #[arg(long, value_name = "BACKEND", default_value = "auto")]
    pub(super) backend: BackendChoice,
}

#[derive(clap::Args, Debug)]
pub(super) struct RouteArg {
    /// How files travel: auto, copy, chain, inline or sendfile
    #[arg(long, value_name = "ROUTE", value_parser = route, default_value = "auto")]
    pub(super) route: RouteChoice,
}

fn route(text: &str) -> Result<RouteChoice, String> {
    Ok(match text {
        "auto" => RouteChoice::Auto,
        "copy" => RouteChoice::Force(Route::Copy),
        "chain" => RouteChoice::Force(Route::Chain),
        "inline" => RouteChoice::Force(Route::Inline),
        "sendfile" => RouteChoice::Force(Route::Sendfile),
        _ => return Err("use auto, copy, chain, inline or sendfile".to_owned()),
    })
}

/// The name that `--route` knows a route by.
pub(super) fn route_name(route: Route) -> &'static str {
    match route {
        Route::Copy => "copy",
        Route::Chain => "chain",
        Route::Inline => "inline",
        Route::Sendfile => "sendfile",
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    // A century and a half is for ever, and still an instant that can be computed.
    match text.parse::<f64>() {
        Ok(n) if (0.0..=5e9).contains(&n) => Ok(Duration::from_secs_f64(n)),
        _ => Err("use a number of seconds, as in 30 or 0.5".to_owned()),
    }
}

pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    let number = digits.parse::<u64>().ok();
    match number.and_then(|n| n.checked_mul(unit)) {
        Some(n) if n > 0 => Ok(n),
        _ => Err("use a number of bytes above 0, as in 500K or 10M".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn reads_units() {
        assert_eq!(bytes("1"), Ok(1));
        assert_eq!(bytes("2k"), Ok(2048));
        assert_eq!(bytes("3M"), Ok(3 << 20));
        assert_eq!(bytes("1G"), Ok(1 << 30));
        for bad in ["", "0", "K", "-1", "1.5M", "1KB", "99999999999999G"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "NaN", "inf", "x", "1e10"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
