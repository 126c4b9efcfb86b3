//! Addresses on the command line.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddr;

use crate::proactor::Address;

use super::error::Failure;

/// The addresses that `text` stands for: `HOST:PORT`, with a host's name, an IPv4 address or an
/// IPv6 address in brackets; `unix:PATH`; `unix:@NAME` for an abstract socket. At least one.
pub(super) fn resolve(text: &str) -> Result<Vec<Address>, Failure> {
    if let Some(path) = text.strip_prefix("unix:") {
        let address = match path.strip_prefix('@') {
            Some(name) => UnixAddr::from_abstract_name(name),
            None if path.is_empty() => Err(io::Error::from(io::ErrorKind::InvalidInput)),
            None => UnixAddr::from_pathname(path),
        };
        let refuse = |_| {
            Failure::usage(format!(
                "{text:?} is no address of a Unix socket: its path has 1 to 107 bytes, as in \
                 unix:/run/spliceport"
            ))
        };
        return Ok(vec![address.map_err(refuse)?.into()]);
    }
    let form = "use HOST:PORT, as in 127.0.0.1:8000 or [::1]:8000, or unix:PATH";
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Failure::usage(format!(
            "{text:?} is no address, for want of a port: {form}"
        )));
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if host.is_empty() || port.parse::<u16>().is_err() || (bare.is_none() && host.contains(':')) {
        return Err(Failure::usage(format!("{text:?} is no address: {form}")));
    }
    let found: Vec<Address> = text
        .to_socket_addrs()
        .map_err(|e| Failure::new(format!("the host {host:?} can't be found: {e}")))?
        .map(Address::from)
        .collect();
    if found.is_empty() {
        return Err(Failure::new(format!("the host {host:?} has no address")));
    }
    Ok(found)
}

/// The address with another port, where it has one.
pub(super) fn port(address: &Address) -> Option<u16> {
    address.as_inet().map(|a: SocketAddr| a.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        for (text, shown) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:0", "[::1]:0"),
            ("unix:/run/a b", "unix:/run/a b"),
            ("unix:relative", "unix:relative"),
            ("unix:@name", "unix:@name"),
        ] {
            let found = resolve(text).unwrap();
            assert_eq!(found[0].to_string(), shown);
        }
        assert_eq!(port(&resolve("127.0.0.1:80").unwrap()[0]), Some(80));
        assert_eq!(port(&resolve("unix:/a").unwrap()[0]), None);
        let long = format!("unix:/{}", "a".repeat(200));
        for text in [
            "",
            "80",
            ":80",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:x",
            "127.0.0.1:65536",
            "::1:80",
            "unix:",
            &long,
        ] {
            let failure = resolve(text).unwrap_err();
            assert_eq!(failure.code(), 2, "{text}: {failure}");
        }
    }
}
