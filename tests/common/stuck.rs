//! A file system whose reads and writes do not return until they are let go: a disk at its slowest. FUSE, so
//! that the kernel waits for it as it waits for a real one.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyWrite, Request,
    WriteFlags,
};

/// The size of each file: more than a piece that a worker has in hand, which leaves whole.
pub const SIZE: u64 = 4 << 20;

/// Inodes from here on are files, named by their number.
const FIRST: u64 = 2;

#[derive(Default)]
struct State {
    waiting: Vec<(ReplyData, u32)>,
    writing: Vec<(ReplyWrite, u32)>,
    /// Lines in all that was written, let go or not.
    lines: usize,
    free: bool,
}

/// The mounted file system: every name that is a number is a file. Unmounted when dropped.
pub struct Stuck {
    state: Arc<Mutex<State>>,
    _session: BackgroundSession,
}

struct Files(Arc<Mutex<State>>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|e| e.into_inner())
}

fn release(state: &Mutex<State>) {
    let mut state = lock(state);
    state.free = true;
    for (reply, size) in state.waiting.drain(..) {
        reply.data(&vec![0; size as usize]);
    }
    for (reply, size) in state.writing.drain(..) {
        reply.written(size);
    }
}

impl Stuck {
    /// Mounts it; needs root.
    pub fn mount(at: &Path) -> io::Result<Stuck> {
        let state = Arc::new(Mutex::new(State::default()));
        let files = Files(Arc::clone(&state));
        let session = fuser::spawn_mount(files, at, &Config::default())?;
        Ok(Stuck {
            state,
            _session: session,
        })
    }

    /// Reads that wait.
    #[allow(dead_code, reason = "for tests of reading")]
    pub fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Writes that wait.
    #[allow(dead_code, reason = "for tests")]
    pub fn writing(&self) -> usize {
        lock(&self.state).writing.len()
    }

    /// Lines in what was written.
    #[allow(dead_code, reason = "for tests")]
    pub fn lines(&self) -> usize {
        lock(&self.state).lines
    }

    /// Lets all go, what is to come too.
    pub fn release(&self) {
        release(&self.state);
    }

    /// Lets all go when this time is over: a test whose loop they have stopped fails then,
    /// instead of hanging.
    #[allow(dead_code, reason = "for tests")]
    pub fn release_after(&self, time: Duration) {
        let state = Arc::downgrade(&self.state);
        std::thread::spawn(move || {
            std::thread::sleep(time);
            if let Some(state) = state.upgrade() {
                release(&state);
            }
        });
    }

    /// Holds the reads to come again. What has been read stays in the page cache: ask for other
    /// files then.
    #[allow(dead_code, reason = "for benchmarks")]
    pub fn hold(&self) {
        lock(&self.state).free = false;
    }
}

fn attributes(inode: INodeNo) -> FileAttr {
    let root = inode == INodeNo::ROOT;
    FileAttr {
        ino: inode,
        size: if root { 0 } else { SIZE },
        blocks: SIZE / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if root {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

const KEEP: Duration = Duration::from_secs(3600);

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str().and_then(|name| name.parse::<u64>().ok()) {
            Some(n) => reply.entry(&KEEP, &attributes(INodeNo(FIRST + n)), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&KEEP, &attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = lock(&self.0);
        if state.free {
            reply.data(&vec![0; size as usize]);
        } else {
            state.waiting.push((reply, size));
        }
    }
    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = lock(&self.0);
        state.lines += data.iter().filter(|b| **b == b'\n').count();
        if state.free {
            reply.written(data.len() as u32);
        } else {
            state.writing.push((reply, data.len() as u32));
        }
    }
}
