//! Asking whether bytes are cached reads nothing in: that would be the disk's work, begun on the
//! loop's time.

use std::io::Write;
use std::os::fd::AsRawFd;

use proactor::{Fd, FileKind, Residency};

/// Pages of the first `len` bytes that are cached (cachestat(2), Linux 6.5).
fn cached_pages(fd: &impl AsRawFd, len: u64) -> Option<u64> {
    const SYS_CACHESTAT: libc::c_long = 451;
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

#[test]
fn asking_reads_nothing_in() {
    const LEN: u64 = 4 << 20;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("residency-{}", std::process::id()));
    let mut file = std::fs::File::create_new(&path).unwrap();
    file.write_all(&vec![7; LEN as usize]).unwrap();
    file.sync_all().unwrap();
    let [file, again] = [(); 2].map(|()| std::fs::File::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let file = Fd::from(file);
    assert_eq!(file.kind(), FileKind::Regular);
    assert_eq!(file.residency(0, LEN, 0), Residency::Hot);
    // SAFETY: takes and touches no memory.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    // What was hot a moment ago is remembered with the descriptor.
    let file = Fd::from(again);
    match cached_pages(&file, LEN) {
        Some(0) => {}
        Some(_) => return println!("not shown: this file system keeps its files cached"),
        None => return println!("not shown: nobody counts what is cached here"),
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
