//! Whether bytes are cached: asking reads nothing in, which would be the disk's work, begun on the
//! loop's time; and what the answer is worth, with cachestat(2) and without.

#[path = "common/not_run.rs"]
mod not_run;

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use not_run::not_run;
use proactor::{Fd, FileKind, Residency};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

const SYS_CACHESTAT: libc::c_long = 451;

/// Pages of the first `len` bytes that are cached (cachestat(2), Linux 6.5).
fn cached_pages(fd: &impl AsRawFd, len: u64) -> Option<u64> {
    let (range, mut stat) = ([0, len], [0_u64; 5]);
    // SAFETY: two and five words, as the call expects, on this stack frame.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            fd.as_raw_fd(),
            range.as_ptr(),
            stat.as_mut_ptr(),
            0,
        )
    };
    (result == 0).then_some(stat[0])
}

/// A file on the disk, of which as much is cached as a test says.
struct OnDisk {
    path: PathBuf,
    file: File,
}

impl OnDisk {
    fn new(name: &str) -> OnDisk {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("residency-{name}-{}", std::process::id()));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(&vec![7; LEN as usize]).unwrap();
        file.sync_all().unwrap();
        let file = File::open(&path).unwrap();
        OnDisk { path, file }
    }

    /// A descriptor that remembers nothing of what was cached.
    fn fd(&self) -> Fd {
        Fd::from(File::open(&self.path).unwrap())
    }

    /// Has these pages cached, and no other. False, and said so, where that can't be.
    fn cache(&self, pages: impl Iterator<Item = u64>) -> bool {
        // Pages on their way to or from the disk stay; it is asked again.
        let evict = |_| {
            for advice in [libc::POSIX_FADV_DONTNEED, libc::POSIX_FADV_RANDOM] {
                // SAFETY: takes and touches no memory.
                unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, advice) };
            }
            thread::sleep(Duration::from_millis(1));
            cached_pages(&self.file, LEN)
        };
        match (0..200)
            .map(evict)
            .find(|left| matches!(left, None | Some(0)))
        {
            Some(Some(0)) => {}
            Some(_) => {
                not_run("what is cached is not counted by this kernel");
                return false;
            }
            None => {
                not_run("files are kept cached by this file system");
                return false;
            }
        }
        let mut count = 0;
        for page in pages {
            self.file.read_exact_at(&mut [0], page * PAGE).unwrap();
            count += 1;
        }
        let cached = cached_pages(&self.file, LEN);
        if cached != Some(count) {
            not_run(format_args!(
                "{count} pages were read, and {cached:?} are kept cached by this file system"
            ));
        }
        cached == Some(count)
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

const LEN: u64 = 4 << 20;
const PAGE: u64 = 4096;
const PAGES: u64 = LEN / PAGE;

/// All pages but those of a range.
fn all_but(hole: Range<u64>) -> impl Iterator<Item = u64> {
    (0..PAGES).filter(move |page| !hole.contains(page))
}

#[test]
fn asking_reads_nothing_in() {
    let on_disk = OnDisk::new("asking");
    if !on_disk.cache(0..PAGES) {
        return;
    }
    let file = on_disk.fd();
    assert_eq!(file.kind(), FileKind::Regular);
    assert_eq!(file.residency(0, LEN, 0), Residency::Hot);
    // What was hot a moment ago is remembered with the descriptor.
    let file = on_disk.fd();
    if !on_disk.cache(0..0) {
        return;
    }
    for (offset, len, ahead) in [
        (0, 1, 0),
        (0, 1 << 20, LEN),
        (LEN - 1, 1, 0),
        (100_000, 200_000, 0),
    ] {
        assert_eq!(file.residency(offset, len, ahead), Residency::Cold);
    }
    assert_eq!(cached_pages(&file, LEN), Some(0));
}

/// Where the pages are counted, one that is missing is seen wherever it is.
#[test]
fn no_missing_page_is_overlooked() {
    let on_disk = OnDisk::new("missing");
    for hole in [0, 1, 37, PAGES / 2 + 5, PAGES - 1] {
        if !on_disk.cache(all_but(hole..hole + 1)) {
            return;
        }
        let ask = |pages: Range<u64>| {
            let len = (pages.end - pages.start) * PAGE;
            on_disk.fd().residency(pages.start * PAGE, len, 0)
        };
        assert_eq!(ask(0..PAGES), Residency::Cold, "{hole}");
        assert_eq!(ask(hole..hole + 1), Residency::Cold, "{hole}");
        // What is asked for counts, and what lies ahead if that is asked too.
        assert_eq!(ask(0..hole), Residency::Hot, "{hole}");
        assert_eq!(ask(hole + 1..PAGES), Residency::Hot, "{hole}");
        let ahead = on_disk.fd().residency(0, hole * PAGE, LEN);
        assert_eq!(ahead, Residency::Cold, "{hole}");
    }
}

/// Has cachestat(2) answer this, for the thread that calls.
fn deny_counting(errno: i32) {
    let filter = SeccompFilter::new(
        [(SYS_CACHESTAT, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    )
    .unwrap();
    apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
}

/// Since Linux 6.14 files that are others' are not counted, before 6.5 none are, and filters of
/// containers may not know the call.
#[test]
fn where_nobody_counts_pages_are_looked_at_in_steps() {
    /// Pages from one look to the next.
    const STEP: u64 = 16;
    for errno in [libc::EPERM, libc::ENOSYS] {
        let on_disk = OnDisk::new("steps");
        // Who may count prepares the file, and who may not asks.
        let (ask, asked) = mpsc::channel::<Range<u64>>();
        let (answer, answers) = mpsc::channel();
        let path = on_disk.path.clone();
        let asker = thread::spawn(move || {
            deny_counting(errno);
            let file = File::open(&path).unwrap();
            assert_eq!(cached_pages(&file, LEN), None);
            for pages in asked {
                let file = Fd::from(File::open(&path).unwrap());
                let len = (pages.end - pages.start) * PAGE;
                let found = file.residency(pages.start * PAGE, len, 0);
                answer.send(found).unwrap();
            }
        });
        let residency = |pages: Range<u64>| {
            ask.send(pages).unwrap();
            answers.recv().unwrap()
        };
        // A hole as long as a step is seen wherever it begins, and so is one at the end.
        let holes = [0, 1, 15, 16, 37, 500, PAGES - STEP].map(|at| at..at + STEP);
        for hole in holes
            .into_iter()
            .chain([0..1, STEP..STEP + 1, PAGES - 1..PAGES])
        {
            if !on_disk.cache(all_but(hole.clone())) {
                break;
            }
            assert_eq!(residency(0..PAGES), Residency::Cold, "{errno}: {hole:?}");
        }
        // From here on it may be read ahead what a look has asked for.
        if on_disk.cache(0..PAGES) {
            assert_eq!(residency(0..PAGES), Residency::Hot);
            assert_eq!(residency(3..4), Residency::Hot);
        }
        if on_disk.cache(0..PAGES / 2) {
            assert_eq!(residency(0..PAGES / 2), Residency::Hot);
            assert_eq!(residency(0..PAGES / 2 + 1), Residency::Cold);
        }
        drop(ask);
        asker.join().unwrap();
    }
}
