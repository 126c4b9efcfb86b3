//! What a directory holds, as far as it would be served.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use crate::Fd;
use crate::streamer::open::open_directory;

use super::{Item, Listing, MAX_ITEMS, Request};

pub(super) fn read(root: &Fd, directory: &Fd, request: &Request) -> io::Result<Listing> {
    let mut items = vec![];
    // What was found is not open, and rustix's own opening would be as little.
    for entry in Dir::new(open_directory(directory, b"")?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || (!request.hidden && name.starts_with(b".")) {
            continue;
        }
        let Some(stat) = look(root, directory, &request.path, name) else {
            continue;
        };
        let directory = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::Directory => true,
            _ => continue,
        };
        if items.len() == MAX_ITEMS {
            return Ok(Listing { items, cut: true });
        }
        items.push(Item {
            name: name.to_vec(),
            directory,
            size: match directory {
                true => 0,
                false => u64::try_from(stat.st_size).unwrap_or(0),
            },
            modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        });
    }
    Ok(Listing { items, cut: false })
}

/// What stands under a name; `None` where it is gone meanwhile, or a link that would not be
/// followed.
fn look(root: &Fd, directory: &Fd, path: &[u8], name: &[u8]) -> Option<Stat> {
    let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return Some(stat);
    }
    let target: OwnedFd = fs::openat2(
        root,
        [path, name].concat(),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
    .ok()?;
    fs::fstat(target).ok()
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::super::{Form, Key, Sorting};
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn lists_what_would_be_served() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        let path = root.join("d");
        std::fs::create_dir_all(path.join("sub")).unwrap();
        std::fs::write(path.join("file"), "hello").unwrap();
        std::fs::write(path.join(".hidden"), "").unwrap();
        std::fs::write(top.path().join("secret"), "secret").unwrap();
        symlink("file", path.join("inside")).unwrap();
        symlink("..", path.join("up")).unwrap();
        symlink("../../secret", path.join("outside")).unwrap();
        symlink("nowhere", path.join("dangling")).unwrap();
        let mode = Mode::from_raw_mode(0o644);
        fs::mknodat(fs::CWD, path.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        let open = |path| Fd::new(File::open(path).unwrap());
        let names = |hidden| {
            let request = Request {
                path: b"d/".to_vec(),
                hidden,
                form: Form::Html,
                sorting: Sorting {
                    key: Key::Name,
                    descending: false,
                },
            };
            let listing = read(&open(&root), &open(&path), &request).unwrap();
            assert!(!listing.cut);
            let items = listing.items.into_iter();
            let mut names: Vec<_> = items
                .map(|item| (String::from_utf8(item.name).unwrap(), item.directory))
                .collect();
            names.sort();
            names
        };
        let expected = [
            ("file", false),
            ("inside", false),
            ("sub", true),
            ("up", true),
        ];
        let expected = expected.map(|(name, directory)| (name.to_owned(), directory));
        assert_eq!(names(false), expected);
        assert_eq!(names(true)[0].0, ".hidden");
    }
}
