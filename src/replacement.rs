//! [`Replacement`]: a file that takes its place under its name once it is whole, or never.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proactor::Fd;
use rustix::fs::{self, AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

/// A file that is written without a name, and then put in its place: who opens the name finds the
/// old file or the whole new one, at any moment, and after a crash as well.
///
/// Where the file system has files without names (`O_TMPFILE`, Linux 3.11), nothing is left behind
/// by a crash; elsewhere a file named `.NAME.RANDOM.part` may be. Dropping it removes what was
/// written.
///
/// All calls here but [`file`](Replacement::file) may wait for a disk: make them on a worker
/// ([`Op::Work`](proactor::Op::Work)).
pub struct Replacement {
    dir: OwnedFd,
    name: OsString,
    file: Fd,
    /// Its name until then, where it has one.
    temporary: Option<OsString>,
}

/// What a [`Replacement`] found in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Placed {
    /// Nothing: the name is new.
    Created,
    /// Another file, whose name it has now.
    Replaced,
}

impl Replacement {
    /// A new file for this path, with the permissions of any new file (0666 less the umask).
    ///
    /// # Errors
    /// `InvalidInput` where the path ends in no name; open(2)'s, for the directory and the file.
    pub fn of(path: &Path) -> io::Result<Replacement> {
        let Some(name) = path.file_name() else {
            return Err(no_name());
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::openat(CWD, parent, flags, Mode::empty())?;
        Replacement::within(dir, name)
    }

    /// A new file for a name within a directory that is open. Whatever happens to the directory's
    /// own path, the file gets into no other.
    ///
    /// # Errors
    /// `InvalidInput` where it is no name of one part; open(2)'s.
    pub fn within(dir: OwnedFd, name: &OsStr) -> io::Result<Replacement> {
        let bytes = name.as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.contains(&0) {
            return Err(no_name());
        }
        let (file, temporary) = match unnamed(&dir) {
            Ok(file) => (file, None),
            // What a file system says that has no such files, and a kernel that knows of none.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {
                let (file, temporary) = named(&dir, name)?;
                (file, Some(temporary))
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Replacement {
            dir,
            name: name.to_owned(),
            file: Fd::new(file),
            temporary,
        })
    }

    /// The file, to be written to.
    pub fn file(&self) -> &Fd {
        &self.file
    }

    /// Puts the file in its place, and what is there away. With `sync`, its name is on the disk
    /// when this returns (fsync(2) of the directory); its content is a matter of
    /// [`ReceiveOptions::sync`](crate::ReceiveOptions::sync).
    ///
    /// # Errors
    /// `IsADirectory` where a directory is there; linkat(2)'s, renameat(2)'s and fsync(2)'s. What
    /// was there is there still, but for an error of fsync.
    pub fn replace(mut self, sync: bool) -> io::Result<Placed> {
        let placed = match self.link() {
            Ok(()) => Placed::Created,
            Err(Errno::EXIST) => {
                self.rename()?;
                Placed::Replaced
            }
            Err(e) => return Err(e.into()),
        };
        self.sync(sync)?;
        Ok(placed)
    }

    /// Puts the file in its place, if nothing is there.
    ///
    /// # Errors
    /// `AlreadyExists` where something is; else as [`replace`](Replacement::replace).
    pub fn create(mut self, sync: bool) -> io::Result<()> {
        self.link()?;
        self.sync(sync)
    }

    /// Gives it its name, if that is free.
    fn link(&mut self) -> Result<(), Errno> {
        if self.temporary.is_none() {
            return self.link_as(&self.name);
        }
        self.rename_with(RenameFlags::NOREPLACE)
    }

    /// Links the file that has no name.
    fn link_as(&self, name: &OsStr) -> Result<(), Errno> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        match fs::linkat(CWD, &path, &self.dir, name, AtFlags::SYMLINK_FOLLOW) {
            // Without /proc: for those with CAP_DAC_READ_SEARCH, and, since Linux 6.10, for whoever
            // opened the file.
            Err(Errno::NOENT) => fs::linkat(&self.file, "", &self.dir, name, AtFlags::EMPTY_PATH),
            other => other,
        }
    }

    /// Gives it its name, whatever has it.
    fn rename(&mut self) -> Result<(), Errno> {
        if self.temporary.is_none() {
            let name = temporary_name(&self.name);
            self.link_as(&name)?;
            self.temporary = Some(name);
        }
        self.rename_with(RenameFlags::empty())
    }

    fn rename_with(&mut self, flags: RenameFlags) -> Result<(), Errno> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        match fs::renameat_with(&self.dir, temporary, &self.dir, &self.name, flags) {
            Ok(()) => self.temporary = None,
            // A file system that can't do so: a link is made only where nothing is.
            Err(Errno::INVAL | Errno::NOSYS) if !flags.is_empty() => {
                let none = AtFlags::empty();
                fs::linkat(&self.dir, temporary, &self.dir, &self.name, none)?;
                self.remove();
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn sync(&self, sync: bool) -> io::Result<()> {
        match sync {
            true => Ok(fs::fsync(&self.dir)?),
            false => Ok(()),
        }
    }

    fn remove(&mut self) {
        if let Some(temporary) = self.temporary.take()
            && let Err(e) = fs::unlinkat(&self.dir, &temporary, AtFlags::empty())
        {
            log::warn!("{} can't be removed: {e}", temporary.display());
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        self.remove();
    }
}

impl fmt::Debug for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replacement")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

const MODE: Mode = Mode::from_raw_mode(0o666);

fn unnamed(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    fs::openat(dir, ".", flags, MODE)
}

/// A file with a name that nothing else has.
fn named(dir: &OwnedFd, name: &OsStr) -> Result<(OwnedFd, OsString), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    loop {
        let temporary = temporary_name(name);
        match fs::openat(dir, &temporary, flags, MODE) {
            Ok(file) => return Ok((file, temporary)),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
}

fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    // All of it is to fit into a name.
    if name.len() <= 200 {
        temporary.push(name);
        temporary.push(".");
    }
    // As random as the keys of a hash table.
    let random = RandomState::new().hash_one(0);
    temporary.push(format!("{random:016x}.part"));
    temporary
}

fn no_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "this names no file")
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    }

    /// One that holds some bytes; with a temporary name, as on file systems without `O_TMPFILE`.
    fn written(path: &Path, bytes: &[u8], with_name: bool) -> Replacement {
        let mut new = Replacement::of(path).unwrap();
        if with_name && new.temporary.is_none() {
            let (file, temporary) = named(&new.dir, &new.name).unwrap();
            new.file = Fd::new(file);
            new.temporary = Some(temporary);
        }
        let mut file = std::fs::File::from(
            new.file()
                .clone()
                .into_owned()
                .unwrap_or_else(|fd| std::os::fd::AsFd::as_fd(&fd).try_clone_to_owned().unwrap()),
        );
        file.write_all(bytes).unwrap();
        new
    }

    #[test]
    fn takes_its_place() {
        for with_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let new = written(&path, b"one", with_name);
            assert!(!path.exists());
            assert_eq!(new.replace(true).unwrap(), Placed::Created);
            assert_eq!(std::fs::read(&path).unwrap(), b"one");
            let new = written(&path, b"two", with_name);
            assert_eq!(std::fs::read(&path).unwrap(), b"one");
            assert_eq!(new.replace(false).unwrap(), Placed::Replaced);
            assert_eq!(std::fs::read(&path).unwrap(), b"two");
            assert_eq!(names(dir.path()), ["file"]);
        }
    }

    #[test]
    fn takes_no_other_s_place_unless_told_to() {
        for with_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            written(&path, b"one", with_name).create(true).unwrap();
            let error = written(&path, b"two", with_name).create(true).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(std::fs::read(&path).unwrap(), b"one");
            assert_eq!(names(dir.path()), ["file"]);
        }
    }

    #[test]
    fn leaves_nothing_behind() {
        for with_name in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            drop(written(&dir.path().join("file"), b"lost", with_name));
            assert!(names(dir.path()).is_empty());
            // A directory is not replaced.
            let path = dir.path().join("dir");
            std::fs::create_dir(&path).unwrap();
            let error = written(&path, b"lost", with_name)
                .replace(false)
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
            assert_eq!(names(dir.path()), ["dir"]);
        }
    }

    #[test]
    fn stays_in_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let open = || OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        for name in ["", ".", "..", "a/b", "/a", "a\0b"] {
            let error = Replacement::within(open(), OsStr::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(Replacement::of(Path::new("/")).is_err());
        let long = "x".repeat(255);
        let new = Replacement::within(open(), OsStr::new(&long)).unwrap();
        new.replace(false).unwrap();
        assert!(Replacement::of(&dir.path().join("none/file")).is_err());
    }
}
