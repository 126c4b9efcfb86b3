//! Sources on file systems of their own, mounted for the test, and on a block device.

mod common;

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Source};

const LEN: u64 = 1_300_001;

/// Runs a program; what it said, or `None`, said so, where it can't do its work here.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            not_run(format_args!(
                "{program} {args:?} (it takes root): {}",
                said.trim()
            ));
            None
        }
        Err(e) => {
            not_run(format_args!("{program}: {e}"));
            None
        }
    }
}

/// A mounted file system. Unmounted, and gone, when dropped.
struct Mounted {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts what these arguments of mount(8) say, at a directory beside `beside`'s.
    fn new(dir: tempfile::TempDir, args: &[&str]) -> Option<Mounted> {
        let at = dir.path().join("at");
        std::fs::create_dir(&at).unwrap();
        let mut all = args.to_vec();
        all.push(at.to_str().unwrap());
        run("mount", &all)?;
        Some(Mounted { at, _dir: dir })
    }

    fn tmpfs() -> Option<Mounted> {
        let dir = tempfile::tempdir().unwrap();
        Mounted::new(dir, &["-t", "tmpfs", "none"])
    }

    /// In the build's directory: an overlay cannot lie on one.
    fn overlay() -> Option<Mounted> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (lower, upper, work) = (path("lower"), path("upper"), path("work"));
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        Mounted::new(dir, &["-t", "overlay", "overlay", "-o", &layers])
    }

    /// On an image of its own.
    fn image(kind: &str) -> Option<Mounted> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let image = image.to_str().unwrap().to_owned();
        run(&format!("mkfs.{kind}"), &["-q", &image])?;
        Mounted::new(dir, &["-t", kind, "-o", "loop", &image])
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

/// A loop device with [`contents`]. Detached when dropped.
struct LoopDevice {
    path: String,
    _image: tempfile::NamedTempFile,
}

impl LoopDevice {
    fn attach(len: u64) -> Option<LoopDevice> {
        let mut image = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        image.write_all(&contents(0, len as usize)).unwrap();
        let path = run("losetup", &["-f", "--show", image.path().to_str().unwrap()])?;
        Some(LoopDevice {
            path,
            _image: image,
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.path]);
    }
}

/// Sends a whole file and parts of it, by every route; cold first, where it has a disk.
fn goes_every_route(proactor: &Proactor, path: &Path) {
    let mut file = File::create(path).unwrap();
    file.write_all(&contents(0, LEN as usize)).unwrap();
    file.sync_all().unwrap();
    drop(file);
    for direct in [0, libc::O_DIRECT] {
        let opened = File::options().read(true).custom_flags(direct).open(path);
        let Ok(file) = opened else {
            not_run("direct access is not known by this file system");
            continue;
        };
        for route in ROUTES {
            kernel::forget_cached(&file);
            let file = Fd::from(file.try_clone().unwrap());
            for (from, to) in [(0, LEN), (1, LEN), (4097, 700_001), (LEN - 5, LEN)] {
                let source = Source::file(file.clone(), from..to);
                let (outcome, body) = sandwich(proactor, tcp(), source, route);
                outcome.wait(proactor);
                assert!(
                    outcome.kind().is_none(),
                    "{path:?} {route:?}: {}",
                    outcome.text()
                );
                outcome.succeed(proactor, to - from);
                assert_same(&body, &contents(from, (to - from) as usize));
            }
            let (outcome, _) = sandwich(proactor, tcp(), Source::file(file, 0..LEN + 1), route);
            assert_eq!((outcome.sent(), outcome.end()), (LEN, End::Truncated));
        }
    }
}

on_both_backends! {
    fn c09_files_of_ext4(proactor: Proactor) {
        if let Some(mounted) = Mounted::image("ext4") {
            goes_every_route(&proactor, &mounted.at.join("file"));
        }
    }

    fn c09_files_of_tmpfs(proactor: Proactor) {
        if let Some(mounted) = Mounted::tmpfs() {
            goes_every_route(&proactor, &mounted.at.join("file"));
        }
    }

    fn c09_files_of_overlayfs(proactor: Proactor) {
        if let Some(mounted) = Mounted::overlay() {
            goes_every_route(&proactor, &mounted.at.join("file"));
        }
    }

    fn c09_sparse_files(proactor: Proactor) {
        // A hole at the beginning, in the middle, and at the end.
        let mut sparse = empty_file();
        sparse.seek(SeekFrom::Start(500_000)).unwrap();
        sparse.write_all(&contents(0, 10_000)).unwrap();
        sparse.set_len(LEN).unwrap();
        let mut expected = vec![0; LEN as usize];
        expected[500_000..510_000].copy_from_slice(&contents(0, 10_000));
        let sparse = Fd::from(sparse);
        for route in ROUTES {
            let (outcome, body) = sandwich(&proactor, tcp(), sparse.clone(), route);
            outcome.succeed(&proactor, LEN);
            assert_same(&body, &expected);
        }
    }

    fn c09_block_devices(proactor: Proactor) {
        let len = 1 << 20;
        let Some(device) = LoopDevice::attach(len) else { return };
        for direct in [0, libc::O_DIRECT] {
            let opened = File::options().read(true).custom_flags(direct).open(&device.path);
            let opened = Fd::from(opened.unwrap());
            for route in ROUTES {
                let (outcome, body) = sandwich(&proactor, tcp(), opened.clone(), route);
                outcome.succeed(&proactor, len);
                assert_eq!(outcome.end(), End::EndOfFile);
                assert_same(&body, &contents(0, len as usize));
                let source = Source::file(opened.clone(), 4001..70_000);
                let (outcome, body) = sandwich(&proactor, tcp(), source, route);
                outcome.succeed(&proactor, 65_999);
                assert_same(&body, &contents(4001, 65_999));
                let source = Source::file(opened.clone(), 10..len + 1);
                let (outcome, _) = sandwich(&proactor, tcp(), source, route);
                assert_eq!((outcome.sent(), outcome.end()), (len - 10, End::Truncated));
            }
        }
    }
}
