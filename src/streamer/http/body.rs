//! A request's body, of which nothing is wanted but its end (RFC 9112, sections 6 and 7).

/// What is left of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Body {
    #[default]
    None,
    /// So many bytes.
    Length(u64),
    Chunked(Chunked),
}

/// A body in chunks can't be followed to its end: bad syntax, or too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lost;

/// Where in a chunked body we are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chunked {
    at: At,
    /// What is left of the chunk; while its size is read, that size.
    left: u64,
    /// How many bytes there may be still, all told.
    allowed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    /// In a chunk's size, behind so many digits.
    Size(u8),
    /// Behind its size and blanks, before extensions.
    Blank,
    /// In its extensions, which are ignored.
    Extension,
    /// Between CR and LF of its line.
    SizeEnd,
    Data,
    /// Before CR, and before LF, at the end of its data.
    DataCr,
    DataLf,
    /// At the beginning of a line behind the last chunk.
    Line,
    /// Within a trailer field's name, and what it says; both are ignored.
    TrailerName,
    Trailer,
    TrailerLf,
    /// Before the last LF.
    Last,
}

impl Body {
    /// A chunked body of at most `allowed` bytes, its framing included.
    pub(crate) fn chunked(allowed: u64) -> Body {
        Body::Chunked(Chunked {
            at: At::Size(0),
            left: 0,
            allowed,
        })
    }

    /// Whether all of it was taken off.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Body::None | Body::Length(0))
    }

    /// Takes what belongs to the body off the beginning of `data`; returns how much that is.
    ///
    /// # Errors
    /// Where no end can be found: what follows is no request.
    pub(crate) fn skip(&mut self, data: &[u8]) -> Result<usize, Lost> {
        match self {
            Body::None => Ok(0),
            Body::Length(left) => {
                let n = usize::try_from(*left).map_or(data.len(), |left| left.min(data.len()));
                *left -= n as u64;
                Ok(n)
            }
            Body::Chunked(chunked) => {
                let (n, over) = chunked.skip(data)?;
                if over {
                    *self = Body::None;
                }
                Ok(n)
            }
        }
    }
}

impl Chunked {
    fn skip(&mut self, data: &[u8]) -> Result<(usize, bool), Lost> {
        let mut n = 0;
        while n < data.len() {
            if self.at == At::Data {
                let rest = data.len() - n;
                let piece = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
                self.spend(piece as u64)?;
                self.left -= piece as u64;
                n += piece;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.spend(1)?;
            n += 1;
            if self.step(data[n - 1])? {
                return Ok((n, true));
            }
        }
        Ok((n, false))
    }

    fn spend(&mut self, n: u64) -> Result<(), Lost> {
        self.allowed = self.allowed.checked_sub(n).ok_or(Lost)?;
        Ok(())
    }

    /// One byte of the framing. Whether it was the last.
    fn step(&mut self, byte: u8) -> Result<bool, Lost> {
        self.at = match (self.at, byte) {
            (At::Size(digits @ 0..16), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                self.left = self.left << 4 | u64::from(digit);
                At::Size(digits + 1)
            }
            (At::Size(1..) | At::Extension, b'\r') => At::SizeEnd,
            (At::Size(1..) | At::Blank, b';') => At::Extension,
            (At::Size(1..) | At::Blank, b' ' | b'\t') => At::Blank,
            // No LF alone, here or elsewhere: what one reads as a line's end, another doesn't.
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => At::Extension,
            (At::SizeEnd, b'\n') if self.left == 0 => At::Line,
            (At::SizeEnd, b'\n') => At::Data,
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size(0),
            (At::Line, b'\r') => At::Last,
            (At::Last, b'\n') => return Ok(true),
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Line | At::TrailerName, byte) if is_token(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::Trailer,
            (At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => At::Trailer,
            (At::TrailerLf, b'\n') => At::Line,
            _ => return Err(Lost),
        };
        Ok(false)
    }
}

/// What names are made of (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of `data` is the body; `None` where it does not end.
    fn length(data: &[u8], piece: usize) -> Result<Option<usize>, Lost> {
        let mut body = Body::chunked(1000);
        let mut taken = 0;
        for piece in data.chunks(piece) {
            taken += body.skip(piece)?;
            if body.is_over() {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    #[test]
    fn finds_the_end_of_chunks() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5\r\nhe\r\no\r\n000\r\n\r\n",
            "a;x=\"y\"\r\n0123456789\r\n0 ;z\r\n\r\n",
            "A\r\n0123456789\r\n0\r\nX: y\r\nZ:\r\n\r\n",
        ] {
            let data = format!("{body}GET / HTTP/1.1\r\n");
            for piece in [1, 2, 3, 1000] {
                assert_eq!(length(data.as_bytes(), piece), Ok(Some(body.len())));
            }
            for end in 0..body.len() {
                assert_eq!(length(&body.as_bytes()[..end], 1000), Ok(None));
            }
        }
    }

    #[test]
    fn gives_up_on_what_is_no_chunk() {
        for bad in [
            "\r\n",
            ";\r\n",
            "g\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhellox\r\n",
            "5\rhello",
            "5;\n\r\n",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
            "1 a\r\n",
            "1 \r\n",
            "0\r\nXYZ\r\n",
            "0\r\n X: y\r\n",
            "0\r\nX : y\r\n",
            "0\r\n: y\r\n",
            "0\r\nX: y\r\n folded\r\n",
            "00000000000000001\r\n",
            "3e8\r\n",
        ] {
            let data = format!("{bad}{}", "x".repeat(1001));
            for piece in [1, 3, 2000] {
                assert_eq!(length(data.as_bytes(), piece), Err(Lost), "{bad:?}");
            }
        }
    }

    #[test]
    fn counts_lengths() {
        let mut body = Body::Length(5);
        assert_eq!(body.skip(b"hel"), Ok(3));
        assert!(!body.is_over());
        assert_eq!(body.skip(b"loGET"), Ok(2));
        assert!(body.is_over());
        assert_eq!(body.skip(b"GET"), Ok(0));
    }
}
