//! A line for an exchange, in Apache's formats (mod_log_config) or as an object of JSON.
//!
//! What a client sent can't end a line, nor a quoted string in it: quotes, backslashes, control
//! characters and what is not ASCII are escaped as Apache does (`ap_escape_logitem`), or as JSON
//! has it.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::cli::args::route_name;
use crate::proactor::Address;
use crate::streamer::{Ending, Exchange};

/// How the access log's lines look.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli) enum LogFormat {
    /// Apache's common format
    Common,
    /// As common, and the Referer and User-Agent fields
    Combined,
    /// An object of JSON in each line
    Json,
}

/// Makes lines.
pub(super) struct Formatter {
    format: LogFormat,
    /// A second since 1970, and how Apache writes it.
    stamp: (u64, String),
}

impl Formatter {
    pub(super) fn new(format: LogFormat) -> Formatter {
        Formatter {
            format,
            stamp: (u64::MAX, String::new()),
        }
    }

    /// Appends the line of an exchange.
    pub(super) fn line(&mut self, out: &mut Vec<u8>, exchange: &Exchange<'_>) {
        // What is written to memory does not fail.
        match self.format {
            LogFormat::Common => self.common(out, exchange),
            LogFormat::Combined => {
                self.common(out, exchange);
                for name in ["Referer", "User-Agent"] {
                    out.extend_from_slice(b" \"");
                    let value = exchange.head.field(name);
                    escape(out, value.unwrap_or(b"-"));
                    out.push(b'"');
                }
            }
            LogFormat::Json => {
                let _ = serde_json::to_writer(&mut *out, &Line::of(exchange));
            }
        }
        out.push(b'\n');
    }

    /// `%h %l %u %t "%r" %>s %b`
    fn common(&mut self, out: &mut Vec<u8>, exchange: &Exchange<'_>) {
        let _ = write!(out, "{} - - ", Host(exchange.remote));
        out.extend_from_slice(self.stamp(exchange.begun).as_bytes());
        out.extend_from_slice(b" \"");
        let line = exchange.head.line();
        escape(out, if line.is_empty() { b"-" } else { line });
        let _ = write!(
            out,
            "\" {} {}",
            OrDash(exchange.status.map(u64::from)),
            OrDash(Some(exchange.content_bytes).filter(|n| *n > 0))
        );
    }

    /// `[24/Nov/2026:18:00:00 +0000]`
    fn stamp(&mut self, time: SystemTime) -> &str {
        let second = time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
        if self.stamp.0 != second {
            // "Tue, 24 Nov 2026 18:00:00 GMT"
            let date = httpdate::fmt_http_date(time);
            let mut words = date.split(' ').skip(1);
            let mut word = || words.next().unwrap_or_default();
            let (day, month, year, clock) = (word(), word(), word(), word());
            self.stamp = (second, format!("[{day}/{month}/{year}:{clock} +0000]"));
        }
        &self.stamp.1
    }
}

/// Who asked: an address without its port.
struct Host<'a>(Option<&'a Address>);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("-"),
            Some(address) => match address.as_inet() {
                Some(address) => ip(address.ip()).fmt(f),
                // Clients of a Unix socket have no name.
                None => f.write_str("unix:"),
            },
        }
    }
}

/// An IPv4 client of an IPv6 socket is one of IPv4.
fn ip(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

struct OrDash(Option<u64>);

impl fmt::Display for OrDash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("-"),
        }
    }
}

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| !is_plain(*b)) {
        out.extend_from_slice(&rest[..at]);
        let _ = match rest[at] {
            b @ (b'"' | b'\\') => out.write_all(&[b'\\', b]),
            b'\n' => out.write_all(b"\\n"),
            b'\r' => out.write_all(b"\\r"),
            b'\t' => out.write_all(b"\\t"),
            0x08 => out.write_all(b"\\b"),
            0x0b => out.write_all(b"\\v"),
            b => write!(out, "\\x{b:02x}"),
        };
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// A line in JSON. What is not UTF-8 in what the client sent has U+FFFD in its place.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "display")]
    time: humantime::Rfc3339Timestamp,
    #[serde(serialize_with = "display")]
    remote: Host<'a>,
    port: Option<u16>,
    request: Cow<'a, str>,
    method: Option<Cow<'a, str>>,
    target: Option<Cow<'a, str>>,
    version: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    referer: Option<Cow<'a, str>>,
    user_agent: Option<Cow<'a, str>>,
    status: Option<u16>,
    header_bytes: u64,
    content_bytes: u64,
    received_bytes: u64,
    duration: f64,
    end: &'static str,
    routes: Vec<&'static str>,
}

fn display<S: Serializer>(what: &impl fmt::Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(what)
}

impl<'a> Line<'a> {
    fn of(exchange: &Exchange<'a>) -> Line<'a> {
        let head = exchange.head;
        let words = head.words();
        let word = |at: usize| words.map(|words| String::from_utf8_lossy(words[at]));
        let field = |name| head.field(name).map(String::from_utf8_lossy);
        Line {
            time: humantime::format_rfc3339_millis(exchange.begun),
            remote: Host(exchange.remote),
            port: exchange.remote.and_then(Address::as_inet).map(|a| a.port()),
            request: String::from_utf8_lossy(head.line()),
            method: word(0),
            target: word(1),
            version: word(2),
            host: field("Host"),
            referer: field("Referer"),
            user_agent: field("User-Agent"),
            status: exchange.status,
            header_bytes: exchange.header_bytes,
            content_bytes: exchange.content_bytes,
            received_bytes: exchange.received_bytes,
            // In whole microseconds.
            duration: exchange.duration.as_micros() as f64 / 1e6,
            end: match exchange.ending {
                Ending::Whole => "whole",
                Ending::PeerGone => "peer-gone",
                Ending::TimedOut => "timed-out",
                Ending::Failed => "failed",
                Ending::Stopped => "stopped",
            },
            routes: exchange.routes.iter().map(route_name).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_a_client_sends_stays_in_its_quotes() {
        let mut out = Vec::new();
        escape(
            &mut out,
            b"a\"b\\c\r\nd\te\x08\x0b\x00\x1b[1m\x7f\xc3\xa4~ ",
        );
        let expected = r#"a\"b\\c\r\nd\te\b\v\x00\x1b[1m\x7f\xc3\xa4~ "#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn times_are_apaches() {
        let mut formatter = Formatter::new(LogFormat::Common);
        // The example of Apache's manual, in UTC.
        let time = UNIX_EPOCH + Duration::from_secs(971_211_336);
        assert_eq!(formatter.stamp(time), "[10/Oct/2000:20:55:36 +0000]");
        let next = time + Duration::from_secs(1);
        assert_eq!(formatter.stamp(next), "[10/Oct/2000:20:55:37 +0000]");
    }

    #[test]
    fn addresses_are_without_their_ports() {
        let host = |text: &str| {
            let address = Address::from(text.parse::<std::net::SocketAddr>().unwrap());
            Host(Some(&address)).to_string()
        };
        assert_eq!(host("192.0.2.1:80"), "192.0.2.1");
        assert_eq!(host("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(host("[::ffff:192.0.2.1]:80"), "192.0.2.1");
        assert_eq!(Host(None).to_string(), "-");
    }
}
