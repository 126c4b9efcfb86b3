//! What goes with one file over one connection, so that a broken transfer can't seem whole.
//!
//! ```text
//! sender:    SPLICEPORT/1 <length in decimal>\n
//!            <length> bytes
//! receiver:  OK <length>\n            when the file is in its place
//!            ERROR <what happened>\n  when it can't be
//! ```
//!
//! The sender keeps its side open until it has the answer.

use bytes::Bytes;

const MAGIC: &str = "SPLICEPORT/1 ";

/// The longest first line: the magic word, twenty digits, the line's end.
const MAX_HEADER: usize = MAGIC.len() + 21;

/// The longest answer.
const MAX_ANSWER: usize = 512;

/// The sender's first line.
pub(crate) fn header(length: u64) -> Bytes {
    format!("{MAGIC}{length}\n").into()
}

/// Reads the sender's first line: the promised length, and how many bytes the line has. `None`
/// while it isn't complete.
///
/// # Errors
/// When it is something else.
pub(crate) fn parse_header(input: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
    const OTHER: &str = "what connected is no spliceport sender";
    let magic = input.len().min(MAGIC.len());
    if input[..magic] != MAGIC.as_bytes()[..magic] {
        return Err(OTHER);
    }
    let Some(end) = input.iter().take(MAX_HEADER).position(|b| *b == b'\n') else {
        return if input.len() < MAX_HEADER {
            Ok(None)
        } else {
            Err(OTHER)
        };
    };
    let digits = std::str::from_utf8(&input[MAGIC.len()..end]).map_err(|_| OTHER)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(OTHER);
    }
    let length = digits.parse().map_err(|_| OTHER)?;
    Ok(Some((length, end + 1)))
}

/// The receiver's answer when all is well.
pub(crate) fn confirmation(length: u64) -> Bytes {
    format!("OK {length}\n").into()
}

/// The receiver's answer when it isn't.
pub(crate) fn refusal(what: &str) -> Bytes {
    let line = what.replace(|c: char| c.is_control(), " ");
    let room = MAX_ANSWER - "ERROR \n".len();
    let end = (0..=room.min(line.len())).rev();
    let end = end.into_iter().find(|at| line.is_char_boundary(*at));
    format!("ERROR {}\n", &line[..end.unwrap_or(0)]).into()
}

/// The receiver's answer, as the sender reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Confirmed(u64),
    Refused(String),
    /// Something else than a receiver answered.
    Unknown,
}

/// Reads the receiver's answer. `None` while it isn't complete.
pub(crate) fn parse_answer(input: &[u8]) -> Option<Answer> {
    let Some(end) = input.iter().position(|b| *b == b'\n') else {
        return (input.len() >= MAX_ANSWER).then_some(Answer::Unknown);
    };
    let line = String::from_utf8_lossy(&input[..end]);
    let answer = if let Some(length) = line.strip_prefix("OK ") {
        length.parse().ok().map(Answer::Confirmed)
    } else {
        line.strip_prefix("ERROR ")
            .map(|what| Answer::Refused(what.to_owned()))
    };
    Some(answer.unwrap_or(Answer::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for length in [0, 1, u64::MAX] {
            let line = header(length);
            assert_eq!(parse_header(&line), Ok(Some((length, line.len()))));
            let mut more = line.to_vec();
            more.extend_from_slice(b"12\n");
            assert_eq!(parse_header(&more), Ok(Some((length, line.len()))));
            for end in 0..line.len() {
                assert_eq!(parse_header(&line[..end]), Ok(None), "{end}");
            }
            let line = confirmation(length);
            assert_eq!(parse_answer(&line), Some(Answer::Confirmed(length)));
            assert_eq!(parse_answer(&line[..line.len() - 1]), None);
        }
        let line = refusal("no space\nleft");
        assert_eq!(
            parse_answer(&line),
            Some(Answer::Refused("no space left".into()))
        );
        let line = refusal(&"ä".repeat(1000));
        assert!(line.len() <= MAX_ANSWER);
        assert!(matches!(parse_answer(&line), Some(Answer::Refused(_))));
    }

    #[test]
    fn knows_strangers() {
        for input in [
            "GET / HTTP/1.1\r\n",
            "\n",
            "SPLICEPORT/2 5\n",
            "SPLICEPORT/1 \n",
            "SPLICEPORT/1 +5\n",
            "SPLICEPORT/1 5 \n",
            "SPLICEPORT/1 18446744073709551616\n",
            "SPLICEPORT/1 000000000000000000000000005\n",
        ] {
            assert!(parse_header(input.as_bytes()).is_err(), "{input:?}");
        }
        for input in ["HTTP/1.1 400 Bad Request\n", "OK\n", "OK x\n", "\n"] {
            assert_eq!(parse_answer(input.as_bytes()), Some(Answer::Unknown));
        }
        assert_eq!(parse_answer(&[b'x'; 1000]), Some(Answer::Unknown));
    }
}
