//! The arguments of `serve` about how it runs, rather than what it serves.

use std::path::PathBuf;

use clap::ValueEnum;

use super::args::bytes;
use super::serve::LogFormat;

#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Operation")]
pub(super) struct Operation {
    /// Read settings from this TOML file; SIGHUP reads it again. Flags come first, then variables
    /// (SPLICEPORT_IDLE_TIMEOUT for --idle-timeout), then the file, then defaults
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the settings, as a configuration file that says where each comes from, and end
    #[arg(long)]
    pub(super) print_config: bool,
    /// Serve over TLS (https) as who this PEM file's certificate says; its issuers' may follow it.
    /// SIGHUP reads it and the key again
    #[arg(long, value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's private key, a PEM file
    #[arg(long, value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// How many connections there may be, in all threads; more are told 503 with Retry-After
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_connections: Option<u32>,
    /// At most so many bytes of content in a second for each connection (heads, and what is made and
    /// no longer than a KiB, besides); K, M and G stand for 1024 and its
    /// powers
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub(super) rate: Option<u64>,
    /// Who may connect to the Unix sockets of --listen and --metrics: their files' mode, in octal, as
    /// in 660
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub(super) socket_mode: Option<u32>,
    /// Write a line for each request to this file, or to standard output (-). SIGHUP opens it anew,
    /// for logrotate; lines that a stuck disk does not take are dropped
    #[arg(long, value_name = "FILE")]
    pub(super) access_log: Option<PathBuf>,
    /// How these lines look
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "combined")]
    pub(super) log_format: LogFormat,
    /// Whom the files of these Unix sockets belong to
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(super) socket_owner: Option<String>,
    /// Serve as this user, once all is opened that needs more
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Tell Prometheus how it goes, at http://ADDR/metrics; ADDR is as for --listen, and another one
    #[arg(long, value_name = "ADDR")]
    pub(super) metrics: Option<String>,
    /// Give up what serving does not need: files outside of the directory, other connections
    /// (Landlock), other system calls (seccomp)
    #[arg(long, value_name = "MODE", value_enum, default_value = "off")]
    pub(super) sandbox: Sandbox,
}

/// Whether to have a sandbox.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sandbox {
    /// None
    Off,
    /// As much of it as the kernel offers
    BestEffort,
    /// All of it, or no start
    Required,
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("use a mode in octal, as in 660".to_owned()),
    }
}
