//! Which `Host` a request may name (RFC 9112, section 3.2; RFC 3986, section 3.2).

use std::net::Ipv6Addr;

/// Whether this is a host and perhaps a port, without user information. Empty is valid: it is what
/// a client sends whose target has no host.
pub(crate) fn is_valid(host: &[u8]) -> bool {
    let rest = match host {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            if !is_literal(&rest[..end]) {
                return false;
            }
            &rest[end + 1..]
        }
        _ => {
            let end = host.iter().position(|b| *b == b':');
            let (name, rest) = host.split_at(end.unwrap_or(host.len()));
            if !is_name(name) {
                return false;
            }
            rest
        }
    };
    match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// An address of IPv6, or of some later version.
fn is_literal(literal: &[u8]) -> bool {
    if let [b'v' | b'V', future @ ..] = literal {
        let mut parts = future.splitn(2, |b| *b == b'.');
        let version = parts.next().unwrap_or_default();
        let address = parts.next().unwrap_or_default();
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && !address.is_empty()
            && address.iter().all(|b| *b == b':' || is_plain(*b));
    }
    let text = std::str::from_utf8(literal);
    text.is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

fn is_name(mut name: &[u8]) -> bool {
    loop {
        name = match name {
            [] => return true,
            [b'%', a, b, rest @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if is_plain(*byte) => rest,
            _ => return false,
        };
    }
}

/// What may stand for itself (unreserved, sub-delims).
fn is_plain(byte: u8) -> bool {
    matches!(
        byte,
        b'a'..=b'z' | b'0'..=b'9' | b'A'..=b'Z' | b'.' | b'-' | b'_' | b'~' | b'!' | b'$'
            | b'&'..=b',' | b';' | b'='
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_hosts_and_nothing_else() {
        for good in [
            "",
            "a",
            "example.org",
            "EXAMPLE.org:8000",
            "example.org:",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:8000",
            "xn--bcher-kva.example",
            "a_b",
            "a%C3%bc",
            "[2001:db8::1.2.3.4]:80",
            "[v1f.a:b]",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "a b",
            "a/b",
            "user@a",
            "a:80:80",
            "a:b",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "a\\b",
            "a?b",
            "a#b",
            "a, b",
            "b\u{fc}cher.example",
            "<a>",
            "%zz",
            "a%",
            "a%2",
            "[zz!!]",
            "[1.2.3.4]",
            "[::1%25eth0]",
            "[v.a]",
            "[v1]",
            "[v1.]",
            "[vg.a]",
            "[v1.a%20]",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
