//! Opening a file below a directory, so that no name and no link leads out of it.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::proactor::{Callback, Fd, Filesystem, Handle, Op, Open, Output};

use super::worker;

/// A FIFO doesn't make the opening wait, a terminal doesn't become ours.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// How often an opening is tried again that was disturbed by renames on its way.
const TRIES: u32 = 4;

/// Opens `path` below `dir` without keeping the loop waiting, and calls back once.
///
/// With openat2(2), links are followed as long as they stay below `dir`. Where it is refused
/// (before Linux 5.6, or by a seccomp filter), a worker walks the path, and no link is followed.
pub(crate) fn open_beneath(
    proactor: &Handle,
    dir: &Fd,
    path: CString,
    done: impl FnOnce(io::Result<Fd>) + 'static,
) {
    attempt(proactor.clone(), dir.clone(), path, TRIES, done);
}

fn attempt(
    proactor: Handle,
    dir: Fd,
    path: CString,
    tries: u32,
    done: impl FnOnce(io::Result<Fd>) + 'static,
) {
    let open = Open {
        dir: Some(dir.clone()),
        path: path.clone(),
        flags: FLAGS.bits() as i32,
        mode: 0,
        beneath: true,
    };
    let callback = Callback::once(move |proactor, completion| {
        let proactor = proactor.handle();
        match completion.result {
            Ok(Output::Opened(fd)) => done(Ok(fd)),
            Ok(other) => done(Err(unexpected(&other))),
            Err(e) => match errno(&e) {
                Some(Errno::NOSYS | Errno::PERM) => walk_on_worker(&proactor, dir, path, done),
                Some(Errno::AGAIN) if tries > 1 => attempt(proactor, dir, path, tries - 1, done),
                _ => done(Err(e)),
            },
        }
    });
    // Only a proactor that is going away refuses; nobody waits for the file any more.
    drop(proactor.submit(Op::Open(open), callback));
}

fn walk_on_worker(
    proactor: &Handle,
    dir: Fd,
    path: CString,
    done: impl FnOnce(io::Result<Fd>) + 'static,
) {
    let work = move || walk(&dir, path.as_bytes());
    worker::run(proactor, work, |fd| done(fd.map(Fd::new)));
}

fn unexpected(output: &Output) -> io::Error {
    io::Error::other(format!("an opening gave {output:?}"))
}

/// Opens `path` below `dir` name by name, each from the descriptor of the one before, so that no
/// rename on the way changes what is walked. Links are refused (`ELOOP`).
fn walk(dir: &Fd, path: &[u8]) -> io::Result<OwnedFd> {
    let through = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (path, last_flags) = match path.strip_suffix(b"/") {
        Some(path) => (path, FLAGS | OFlags::DIRECTORY | OFlags::NOFOLLOW),
        None => (path, FLAGS | OFlags::NOFOLLOW),
    };
    let (parents, last) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let mut at: Option<OwnedFd> = None;
    for name in parents.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
        at = Some(step(dir, at.as_ref(), name, through)?);
    }
    step(dir, at.as_ref(), last, last_flags)
}

/// Opens the directory at `path` below `root`, or `root` itself where the path is empty, as
/// [`open_beneath`] would. Waits for the disk.
pub(super) fn open_directory(root: &Fd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if path.is_empty() {
        return Ok(fs::openat(root, ".", flags, Mode::empty())?);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = TRIES;
    loop {
        return match fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Ok(dir) => Ok(dir),
            Err(Errno::AGAIN) if tries > 1 => {
                tries -= 1;
                continue;
            }
            Err(Errno::NOSYS | Errno::PERM) => walk(root, &[path, b"/"].concat()),
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
        let file = walk(&dir, b"a/b/file").unwrap();
        File::from(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(walk(&dir, b"a/b").is_ok());
        assert!(walk(&dir, b"a/b/").is_ok());
        assert!(walk(&dir, b".").is_ok());
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
            let refused = walk(&dir, path.as_bytes()).unwrap_err();
            assert_eq!(errno(&refused), Some(error), "{path}");
        }
    }
}
