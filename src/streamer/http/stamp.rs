//! What fstat(2) says of a file that changes when the file does.

use rustix::fs::Stat;

/// Two that are equal are of one file, unchanged: but for changes within a tick of the file
/// system's clock (some milliseconds before Linux 6.13) that leave the length as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: i64,
    /// Seconds since 1970, and nanoseconds.
    pub(crate) modified: (i64, u64),
    pub(crate) changed: (i64, u64),
}

impl Stamp {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the types differ between architectures"
    )]
    pub(crate) fn of(stat: &Stat) -> Stamp {
        Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}
