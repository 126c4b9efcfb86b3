//! Bytes that tell where they come from, and the sources made of them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use spliceport::Source;
use spliceport::proactor::Fd;
use spliceport::proactor::sim::Rng;

use super::program::{From, SendPlan};

const PERIOD: usize = 1_048_573;

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut rng = Rng::new(1);
        (0..PERIOD).map(|_| rng.bits() as u8).collect()
    })
}

/// `len` bytes from `offset` on of the content with this tag.
pub fn content(tag: usize, offset: usize, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    let mut at = (tag.wrapping_mul(104_729) + offset) % PERIOD;
    while bytes.len() < len {
        let n = (len - bytes.len()).min(PERIOD - at);
        bytes.extend_from_slice(&noise()[at..at + n]);
        at = 0;
    }
    bytes
}

/// A source under way, seen from outside.
pub struct Outside {
    /// The file, for its position and for cutting it short.
    pub file: Option<File>,
    /// Where bytes are fed in.
    pub feed: Option<File>,
    /// Bytes that it has.
    pub there: usize,
    /// Reads of it fail at its end.
    pub bad: bool,
}

/// A file in memory.
pub fn file(tag: usize, size: usize) -> File {
    let fd = rustix::fs::memfd_create("simulated", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(&content(tag, 0, size)).unwrap();
    file.rewind().unwrap();
    file
}

/// Reads a content in portions, then ends or fails.
struct Portions {
    tag: usize,
    at: usize,
    end: usize,
    bad: bool,
    rng: Rng,
}

impl Read for Portions {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.end - self.at;
        if left == 0 && self.bad {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let n = self.rng.length(left.min(buf.len()));
        buf[..n].copy_from_slice(&content(self.tag, self.at, n));
        self.at += n;
        Ok(n)
    }
}

/// Makes what a plan sends.
pub fn source(plan: &SendPlan, tag: usize) -> (Source, Outside) {
    let there = plan.size - plan.start;
    let mut outside = Outside {
        file: None,
        feed: None,
        there,
        bad: false,
    };
    let end = plan.len.map_or(u64::MAX, |len| plan.start as u64 + len);
    let source = match plan.from {
        From::File => {
            let file = file(tag, plan.size);
            outside.file = Some(file.try_clone().unwrap());
            match plan.len {
                Some(_) => Source::file(file, plan.start as u64..end),
                None => Source::file(file, plan.start as u64..),
            }
        }
        From::Position | From::BufReader => {
            let mut file = file(tag, plan.size);
            file.seek(SeekFrom::Start(plan.start as u64)).unwrap();
            outside.file = Some(file.try_clone().unwrap());
            if plan.from == From::Position {
                Source::at_position(file, plan.len)
            } else {
                let mut reader = BufReader::with_capacity(1000, file);
                // Something is in its buffer; the position is where it would be without one.
                io::BufRead::fill_buf(&mut reader).unwrap();
                Source::buf_reader(reader, plan.len)
            }
        }
        From::Reader | From::BadReader => {
            outside.bad = plan.from == From::BadReader;
            let reader = Portions {
                tag,
                at: 0,
                end: plan.size,
                bad: outside.bad,
                rng: Rng::new(tag as u64),
            };
            Source::reader(reader, plan.len)
        }
        From::Bytes => {
            let len = plan.len.map_or(there, |len| there.min(len as usize));
            outside.there = len;
            Source::bytes(content(tag, 0, len))
        }
        From::Pipe | From::SlowPipe => {
            let (reader, writer) = io::pipe().unwrap();
            let mut writer = File::from(OwnedFd::from(writer));
            writer.write_all(&content(tag, 0, there)).unwrap();
            if plan.from == From::SlowPipe {
                rustix::io::ioctl_fionbio(&writer, true).unwrap();
                outside.feed = Some(writer);
            }
            stream(Fd::new(OwnedFd::from(reader)), plan.len)
        }
        From::Socket => {
            let (ours, mut peer) = UnixStream::pair().unwrap();
            peer.write_all(&content(tag, 0, there)).unwrap();
            stream(Fd::new(OwnedFd::from(ours)), plan.len)
        }
    };
    (source, outside)
}

fn stream(fd: Fd, len: Option<u64>) -> Source {
    match len {
        Some(len) => Source::file(fd, ..len),
        None => Source::file(fd, ..),
    }
}
