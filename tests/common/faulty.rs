//! A file system whose files have faults, each its own: a disk that fails midway or refuses once,
//! sizes that are wrong, short and slow reads. FUSE, so that the kernel meets them on every route.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request,
};

use super::{contents, not_run};

/// One file, and what is wrong with it. Its bytes are [`contents`].
#[derive(Clone, Debug)]
pub struct Faulty {
    /// The size that stat(2) tells.
    pub size: u64,
    /// The bytes there are.
    pub len: u64,
    /// Each read reaches the file system as it is (`FOPEN_DIRECT_IO`); else the page cache asks,
    /// in pages.
    pub direct: bool,
    /// Reads from this byte on fail so.
    pub fails: Option<(u64, i32)>,
    /// It can be read all the same: what fails is splicing.
    pub readable: bool,
    /// The most bytes that a read gives.
    pub most: usize,
    /// How long a read takes.
    pub delay: Duration,
}

impl Faulty {
    /// A file without fault.
    pub fn sound(len: u64) -> Faulty {
        Faulty {
            size: len,
            len,
            direct: false,
            fails: None,
            readable: false,
            most: usize::MAX,
            delay: Duration::ZERO,
        }
    }

    pub fn direct(mut self) -> Faulty {
        self.direct = true;
        self
    }

    /// Reads from `at` on fail.
    pub fn fails(mut self, at: u64, errno: i32) -> Faulty {
        self.fails = Some((at, errno));
        self
    }

    /// From `at` on it can be read, and not spliced.
    pub fn refuses(mut self, at: u64, errno: i32) -> Faulty {
        self.readable = true;
        self.direct().fails(at, errno)
    }
}

/// The mounted file system. Unmounted when dropped.
pub struct FaultyDisk {
    dir: tempfile::TempDir,
    _session: BackgroundSession,
}

impl FaultyDisk {
    /// Whether what it refuses is refused, asked at a file that refuses its first byte. Older kernels
    /// (5.10) splice such files by reads like all others; says so there.
    pub fn tells_splices(&self, number: usize) -> bool {
        let (ours, _peer) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let refused = rustix::fs::sendfile(ours, self.open(number), None, 1).is_err();
        if !refused {
            not_run("this kernel's splices of a FUSE file can't be told from reads");
        }
        refused
    }

    /// Mounts these files; they are named by their number. `None`, said so, where that can't be.
    pub fn mount(files: Vec<Faulty>) -> Option<FaultyDisk> {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files(Mutex::new(files));
        match fuser::spawn_mount(files, dir.path(), &Config::default()) {
            Ok(session) => Some(FaultyDisk {
                dir,
                _session: session,
            }),
            Err(e) => {
                not_run(format_args!(
                    "a FUSE file system can't be mounted here (it takes root): {e}"
                ));
                None
            }
        }
    }

    pub fn path(&self, number: usize) -> PathBuf {
        self.dir.path().join(number.to_string())
    }

    pub fn open(&self, number: usize) -> std::fs::File {
        std::fs::File::open(self.path(number)).expect("a faulty file")
    }
}

/// Inodes from here on are files.
const FIRST: u64 = 2;

struct Files(Mutex<Vec<Faulty>>);

impl Files {
    fn with<T>(&self, inode: INodeNo, f: impl FnOnce(&mut Faulty) -> T) -> Option<T> {
        let at = inode.0.checked_sub(FIRST)? as usize;
        let mut files = self.0.lock().unwrap_or_else(|e| e.into_inner());
        files.get_mut(at).map(f)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0),
            _ => (FileType::RegularFile, self.with(inode, |file| file.size)?),
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

const KEEP: Duration = Duration::from_secs(3600);

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
        match number.and_then(|n| self.attributes(INodeNo(FIRST + n))) {
            Some(attributes) => reply.entry(&KEEP, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&KEEP, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = match self.with(inode, |file| file.direct) {
            Some(true) => FopenFlags::FOPEN_DIRECT_IO,
            _ => FopenFlags::empty(),
        };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // The page cache, from which files are spliced, reads for no one.
        let splice = owner.is_none();
        let answer = self.with(inode, |file| {
            let end = file.len.min(offset.saturating_add(u64::from(size)));
            let mut len = (end.saturating_sub(offset) as usize).min(file.most);
            if let Some((at, errno)) = file.fails
                && (splice || !file.readable)
                && offset + len as u64 > at
            {
                if splice || offset >= at {
                    return (file.delay, Err(Errno::from_i32(errno)));
                }
                len = (at - offset) as usize;
            }
            (file.delay, Ok(len))
        });
        let Some((delay, result)) = answer else {
            return reply.error(Errno::ENOENT);
        };
        std::thread::sleep(delay);
        match result {
            Ok(len) => reply.data(&contents(offset, len)),
            Err(errno) => reply.error(errno),
        }
    }
}
