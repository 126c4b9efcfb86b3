//! What the kernel says of this process.
//!
//! The files that say it are opened at the start: the sandbox lets none of them be opened later, and
//! another user may not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// This process, to be asked.
pub(super) struct Process {
    stat: File,
    /// The directory of its descriptors, whose position is that of one reader.
    descriptors: Mutex<File>,
    page_size: u64,
    pub(super) started: SystemTime,
}

/// What proc_pid_stat(5) says.
#[derive(PartialEq, Eq, Debug)]
struct Stat {
    /// In ticks since the system's start.
    started: u64,
    resident_pages: u64,
}

impl Process {
    /// # Errors
    /// /proc is not there, or can't be read.
    pub(super) fn open() -> io::Result<Process> {
        let mut directory = OpenOptions::new();
        directory.read(true).custom_flags(libc::O_DIRECTORY);
        let process = Process {
            stat: File::open("/proc/self/stat")?,
            descriptors: Mutex::new(directory.open("/proc/self/fd")?),
            page_size: page_size() as u64,
            started: SystemTime::now(),
        };
        let ticks = process.stat()?.started;
        let started = Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64);
        let now = clock_gettime(ClockId::Boottime);
        let now = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
        let age = now.saturating_sub(started);
        Ok(Process {
            started: process.started - age,
            ..process
        })
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut text = [0; 1024];
        let n = self.stat.read_at(&mut text, 0)?;
        let stat = parse(&String::from_utf8_lossy(&text[..n]));
        stat.ok_or_else(|| io::Error::other("/proc/self/stat can't be understood"))
    }

    pub(super) fn resident_bytes(&self) -> io::Result<u64> {
        Ok(self.stat()?.resident_pages * self.page_size)
    }

    /// The processor time of all threads that there are and were.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
    }

    pub(super) fn open_descriptors(&self) -> io::Result<u64> {
        let directory = self.descriptors.lock().unwrap_or_else(|e| e.into_inner());
        seek(&*directory, SeekFrom::Start(0))?;
        let mut space = Vec::with_capacity(8 << 10);
        let mut entries = RawDir::new(&*directory, space.spare_capacity_mut());
        let mut count = 0;
        while let Some(entry) = entries.next() {
            // Without `.` and `..`.
            count += u64::from(!entry?.file_name().to_bytes().starts_with(b"."));
        }
        Ok(count)
    }

    /// `None` where there is no limit.
    pub(super) fn most_descriptors(&self) -> Option<u64> {
        getrlimit(Resource::Nofile).current
    }
}

fn parse(stat: &str) -> Option<Stat> {
    // The second field, a name in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some(Stat {
        started: fields.nth(22 - 3)?.parse().ok()?,
        resident_pages: fields.nth(24 - 22 - 1)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_past_the_name() {
        let numbers: Vec<_> = (4..=52).map(|n| n.to_string()).collect();
        let text = format!("1 (a) R 7 (b) S {}\n", numbers.join(" "));
        let stat = Stat {
            started: 22,
            resident_pages: 24,
        };
        assert_eq!(parse(&text), Some(stat));
        assert_eq!(parse("1 (a) S 4 5"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "of the kernel")]
    fn asks_the_kernel() {
        let process = Process::open().unwrap();
        assert!(process.resident_bytes().unwrap() > 100_000);
        assert!(process.cpu_seconds() > 0.0);
        assert!(process.started <= SystemTime::now());
        assert!(process.started > SystemTime::now() - Duration::from_secs(3600));
        let before = process.open_descriptors().unwrap();
        assert!(before > 2);
        assert!(process.most_descriptors().is_none_or(|most| most >= before));
    }
}
