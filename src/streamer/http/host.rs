//! Which `Host` a request may name (RFC 9112, section 3.2; RFC 3986, section 3.2).

/// Whether this is a host and perhaps a port, without user information. Empty is valid: it is what
/// a client sends whose target has no host.
pub(crate) fn is_valid(host: &[u8]) -> bool {
    let rest = match host {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|b| *b == b']') else {
                return false;
            };
            let literal = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:".contains(b);
            if end == 0 || !rest[..end].iter().all(literal) {
                return false;
            }
            &rest[end + 1..]
        }
        _ => {
            let end = host.iter().position(|b| *b == b':');
            let (name, rest) = host.split_at(end.unwrap_or(host.len()));
            if !name.iter().all(is_name) {
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

fn is_name(byte: &u8) -> bool {
    matches!(
        byte,
        b'a'..=b'z' | b'0'..=b'9' | b'A'..=b'Z' | b'.' | b'-' | b'_' | b'~' | b'%' | b'!' | b'$'
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
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }
}
