//! Opening a file below a directory, so that no name and no link leads out of it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use crate::proactor::{Callback, Fd, Filesystem, Handle, Op, Open, Output};

use super::worker;

/// How what may be opened is: a terminal doesn't become ours, and a lease that somebody else has
/// on a file doesn't make the opening wait.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Finds what is there, and opens nothing yet: to open a FIFO wakes who waits at its other end, and
/// a device may do anything.
const FIND: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// No name and no link leads out.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// How often an opening is tried again that was disturbed by renames on its way.
const TRIES: u32 = 4;

/// Opens `path` below `dir` without keeping the loop waiting, and calls back once. A regular file is
/// open for reading; all else is not opened but found (`O_PATH`).
///
/// With openat2(2), links are followed as long as they stay below `dir`. Where it is refused
/// (before Linux 5.6, or by a seccomp filter), a worker walks the path, and no link is followed.
pub(crate) fn open_beneath(
    proactor: &Handle,
    dir: &Fd,
    path: CString,
    done: impl FnOnce(io::Result<Fd>) + 'static,
) {
    let opening = Opening {
        proactor: proactor.clone(),
        dir: dir.clone(),
        path,
        done,
    };
    opening.attempt(FIND, TRIES, Opening::found);
}

/// Opens the regular file at `path` below `dir` on the loop, where that waits for nothing: all of the
/// path is in the kernel's caches (`RESOLVE_CACHED`, Linux 5.12), and it stays on the file system of
/// `dir`, which is memory or a disk of this machine. `None` says nothing: [`open_beneath`] tells.
pub(crate) fn open_at_once(dir: &Fd, path: &[u8]) -> Option<Fd> {
    if !is_near(dir) {
        return None;
    }
    let resolve = BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::CACHED;
    let open = |flags| fs::openat2(dir, path, flags, Mode::empty(), resolve).ok();
    let is_regular = kind(open(FIND)?) == Ok(FileType::RegularFile);
    is_regular.then(|| open(FLAGS)).flatten().map(Fd::new)
}

/// A path that is being opened, and who is told.
struct Opening<F> {
    proactor: Handle,
    dir: Fd,
    path: CString,
    done: F,
}

impl<F: FnOnce(io::Result<Fd>) + 'static> Opening<F> {
    /// By openat2(2), with these flags; what comes of it goes to `next`.
    fn attempt(self, flags: OFlags, tries: u32, next: fn(Self, Fd)) {
        let open = Open {
            dir: Some(self.dir.clone()),
            path: self.path.clone(),
            flags: flags.bits() as i32,
            mode: 0,
            beneath: true,
        };
        let proactor = self.proactor.clone();
        let callback = Callback::once(move |_, completion| match completion.result {
            Ok(Output::Opened(fd)) => next(self, fd),
            Ok(other) => (self.done)(Err(unexpected(&other))),
            Err(e) => match errno(&e) {
                Some(Errno::NOSYS | Errno::PERM) => self.walk(),
                Some(Errno::AGAIN) if tries > 1 => self.attempt(flags, tries - 1, next),
                _ => (self.done)(Err(e)),
            },
        });
        // Only a proactor that is going away refuses; nobody waits for the file any more.
        drop(proactor.submit(Op::Open(open), callback));
    }

    /// Opens what was found, if it is a regular file.
    fn found(self, found: Fd) {
        if let Some(kind) = kind_at_once(&self.dir, &found) {
            return self.known(found, Ok(kind));
        }
        let proactor = self.proactor.clone();
        let asked = found.clone();
        worker::run(
            &proactor,
            move || Ok(kind(&asked)?),
            |kind| self.known(found, kind),
        );
    }

    /// By its name once more, which takes no /proc. Whoever puts a FIFO in its place meanwhile has it
    /// opened; it is not sent.
    fn known(self, found: Fd, kind: io::Result<FileType>) {
        match kind {
            Ok(FileType::RegularFile) => {
                self.attempt(FLAGS, TRIES, |opening, fd| (opening.done)(Ok(fd)));
            }
            Ok(_) => (self.done)(Ok(found)),
            Err(e) => (self.done)(Err(e)),
        }
    }

    fn walk(self) {
        let Opening {
            proactor,
            dir,
            path,
            done,
        } = self;
        let work = move || {
            let path = path.as_bytes();
            let found = walk(&dir, path, FIND)?;
            match kind(&found)? {
                FileType::RegularFile => walk(&dir, path, FLAGS),
                _ => Ok(found),
            }
        };
        worker::run(&proactor, work, |fd| done(fd.map(Fd::new)));
    }
}

/// What was found, where neither asking nor opening it keeps anybody waiting: it is in memory, or on
/// the disk of this machine where the directory is. A file system's own open may wait (FUSE's and
/// networks' do), and so may fstat(2), but not this.
fn kind_at_once(dir: &Fd, found: &Fd) -> Option<FileType> {
    if !is_near(dir) {
        return None;
    }
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = fs::statx(found, c"", flags, StatxFlags::TYPE).ok()?;
    let (device, _) = dir.identity().ok()?;
    let near = device == fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    near.then(|| FileType::from_raw_mode(stat.stx_mode.into()))
}

/// Whether what is on the file system of `dir` is in memory, or on a disk of this machine.
fn is_near(dir: &Fd) -> bool {
    matches!(dir.filesystem(), Filesystem::Memory | Filesystem::Local)
}

fn unexpected(output: &Output) -> io::Error {
    io::Error::other(format!("an opening gave {output:?}"))
}

/// Opens `path` below `dir` name by name, each from the descriptor of the one before, so that no
/// rename on the way changes what is walked. Links are refused (`ELOOP`).
fn walk(dir: &Fd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let through = FIND | OFlags::NOFOLLOW | OFlags::DIRECTORY;
    let (path, flags) = match path.strip_suffix(b"/") {
        Some(path) => (path, flags | OFlags::DIRECTORY | OFlags::NOFOLLOW),
        None => (path, flags | OFlags::NOFOLLOW),
    };
    let (parents, last) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let mut at: Option<OwnedFd> = None;
    for name in parents.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        at = Some(step(dir, at.as_ref(), name, through)?);
    }
    let last = step(dir, at.as_ref(), last, flags)?;
    // What opens nothing finds the link itself.
    match flags.contains(OFlags::PATH) && kind(&last)? == FileType::Symlink {
        true => Err(Errno::LOOP.into()),
        false => Ok(last),
    }
}

fn kind(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fs::fstat(fd)?.st_mode))
}

/// Opens the directory at `path` below `root`, or `root` itself where the path is empty, as
/// [`open_beneath`] would. Waits for the disk.
pub(crate) fn open_directory(root: &Fd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if path.is_empty() {
        return Ok(fs::openat(root, ".", flags, Mode::empty())?);
    }
    open_now(root, path, flags)
}

/// Whether there is something at `path` below `root` that [`open_beneath`] would find. Waits for the
/// disk.
pub(crate) fn is_found(root: &Fd, path: &[u8]) -> bool {
    open_now(root, path, FIND).is_ok()
}

fn open_now(root: &Fd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut tries = TRIES;
    loop {
        return match fs::openat2(root, path, flags, Mode::empty(), BENEATH) {
            Ok(fd) => Ok(fd),
            Err(Errno::AGAIN) if tries > 1 => {
                tries -= 1;
                continue;
            }
            Err(Errno::NOSYS | Errno::PERM) => walk(root, path, flags),
            Err(e) => Err(e.into()),
        };
    }
}

fn step(dir: &Fd, at: Option<&OwnedFd>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    if name == b".." {
        return Err(Errno::XDEV.into());
    }
    Ok(match at {
        Some(at) => fs::openat(at, name, flags, Mode::empty()),
        None => fs::openat(dir, name, flags, Mode::empty()),
    }?)
}

/// Undoes what was for the opening alone.
pub(crate) fn opened(fd: &Fd) -> io::Result<()> {
    // Left on, some kernels would let reads of a regular file fail with EAGAIN.
    Ok(fs::fcntl_setfl(fd, OFlags::empty())?)
}

/// Whether fstat(2) on the loop answers at once: the server of a network file system may be away.
pub(crate) fn answers_at_once(fd: &Fd) -> bool {
    may_keep(fd.filesystem())
}

fn may_keep(filesystem: Filesystem) -> bool {
    filesystem != Filesystem::Network
}

fn errno(error: &io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn keeps_nothing_of_the_network() {
        assert!(!may_keep(Filesystem::Network));
        for kept in [Filesystem::Memory, Filesystem::Generated, Filesystem::Other] {
            assert!(may_keep(kept));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "openat(2)")]
    fn walks_below_and_follows_no_link() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(top.path().join("secret"), "secret").unwrap();
        std::fs::write(root.join("a/b/file"), "content").unwrap();
        symlink("b", root.join("a/link")).unwrap();
        symlink("../../secret", root.join("a/out")).unwrap();
        symlink("b/file", root.join("a/inside")).unwrap();
        let dir = Fd::new(File::open(&root).unwrap());

        let mut text = String::new();
        let file = walk(&dir, b"a/b/file", FLAGS).unwrap();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        for flags in [FLAGS, FIND] {
            for path in ["a/b/file", "a/b", "a/b/", "."] {
                assert!(walk(&dir, path.as_bytes(), flags).is_ok(), "{path}");
            }
            for (path, error) in [
                ("a/none", Errno::NOENT),
                ("a/b/file/", Errno::NOTDIR),
                ("a/b/file/x", Errno::NOTDIR),
                ("a/link/file", Errno::NOTDIR),
                ("a/out", Errno::LOOP),
                ("a/inside", Errno::LOOP),
                ("..", Errno::XDEV),
                ("a/../../secret", Errno::XDEV),
            ] {
                let refused = walk(&dir, path.as_bytes(), flags).unwrap_err();
                assert_eq!(errno(&refused), Some(error), "{path}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "statx(2)")]
    fn knows_at_once_what_is_near() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let found = |path| Fd::new(fs::openat(fs::CWD, path, FIND, Mode::empty()).unwrap());
        let root = Fd::new(File::open(dir.path()).unwrap());
        let near = matches!(root.filesystem(), Filesystem::Memory | Filesystem::Local);
        for (path, kind) in [
            (path.as_path(), FileType::RegularFile),
            (dir.path(), FileType::Directory),
        ] {
            let known = kind_at_once(&root, &found(path));
            assert_eq!(known, near.then_some(kind), "{path:?}");
        }
        assert_eq!(
            kind_at_once(&root, &found("/proc/self/stat".as_ref())),
            None
        );
    }
}
