//! The sandbox: what serving does not need is given up, for the process and for good.
//!
//! Landlock (Linux 5.13, and 6.7 for the network) leaves of the file system what is below the served
//! directory, to be read, the configuration, error pages and where certificates come from; and no way
//! to bind or connect a TCP socket. Where there is an access log, files can be made and written in
//! its directory, so that it can be opened anew. Landlock holds for what the ring does too, since the
//! ring acts with the credentials of who made it. The [filter](super::syscalls) knows system calls
//! only, and what a ring does is none.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use crate::cli::error::Failure;
use crate::cli::operation::Sandbox;
use crate::proactor::Fd;

use super::{directory_of, syscalls};

/// What must stay possible.
pub(super) struct Needs<'a> {
    /// The served directory.
    pub(super) root: &'a Fd,
    /// Files are put below it.
    pub(super) uploads: bool,
    /// Read again later.
    pub(super) config: Option<&'a Path>,
    /// The same.
    pub(super) error_pages: &'a [&'a Path],
    /// Directories of what is read again later.
    pub(super) certificates: Vec<PathBuf>,
    /// A Unix socket's file, removed in the end.
    pub(super) socket: Option<&'a Path>,
    /// Where the access log is opened again: a directory to make it in (`true`), or what it is.
    pub(super) log: Option<(&'a Path, bool)>,
    /// The same, of the metrics' socket.
    pub(super) metrics: Option<&'a Path>,
}

/// Enters the sandbox. To be called before there are other threads: Landlock holds for the calling
/// one, and for those that it starts.
///
/// # Errors
/// With [`Sandbox::Required`], what the kernel lacks.
pub(super) fn enter(mode: Sandbox, needs: &Needs<'_>) -> Result<(), Failure> {
    if mode == Sandbox::Off {
        return Ok(());
    }
    let lacks = |what: &str, e: &dyn std::fmt::Display| {
        let text = format!("{what} can't be had: {e}");
        if mode == Sandbox::Required {
            return Err(Failure::new(format!(
                "{text}; --sandbox required needs Linux 6.7 with Landlock and seccomp, and \
                 --sandbox best-effort goes without"
            )));
        }
        log::warn!("the sandbox is not whole: {text}");
        Ok(())
    };
    match restrict(mode, needs) {
        Ok(RulesetStatus::FullyEnforced) => {}
        Ok(_) => lacks(
            "all of Landlock",
            &"the kernel is too old, or it is disabled",
        )?,
        Err(e) => lacks("Landlock", &e)?,
    }
    if let Err(e) = syscalls::restrict() {
        lacks("a filter of system calls", &e)?;
    }
    Ok(())
}

fn restrict(mode: Sandbox, needs: &Needs<'_>) -> Result<RulesetStatus, RulesetError> {
    let level = match mode {
        Sandbox::Required => CompatLevel::HardRequirement,
        _ => CompatLevel::BestEffort,
    };
    let abi = ABI::V4;
    let mut below = AccessFs::ReadFile | AccessFs::ReadDir;
    if needs.uploads {
        below |= AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile;
        below |= AccessFs::Truncate | AccessFs::Refer;
    }
    let mut rules = Ruleset::default()
        .set_compatibility(level)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .create()?
        .add_rule(PathBeneath::new(needs.root, below))?;
    let socket = needs.socket.map(directory_of);
    let log = needs.log.map(|(path, makes)| match makes {
        true => (path, AccessFs::WriteFile | AccessFs::MakeReg),
        false => (path, AccessFs::WriteFile.into()),
    });
    let read = needs.config.iter().chain(needs.error_pages).copied();
    let read = read.chain(needs.certificates.iter().map(PathBuf::as_path));
    let read = read.map(|path| (path, BitFlags::from(AccessFs::ReadFile)));
    let metrics = needs.metrics.map(directory_of);
    let remove = socket.iter().chain(&metrics);
    let remove = remove.map(|path| (&**path, BitFlags::from(AccessFs::RemoveFile)));
    for (path, access) in read.chain(remove).chain(log) {
        // What can't be opened now is not to be had later either.
        if let Ok(fd) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

#[cfg(all(test, not(miri)))]
#[path = "../../../proactor/tests/common/not_run.rs"]
mod not_run;

// Miri has no Landlock.
#[cfg(all(test, not(miri)))]
mod tests {
    use std::cell::RefCell;
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::io;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::ffi::OsStrExt;
    use std::rc::Rc;

    use super::not_run::not_run;
    use super::*;
    use crate::proactor::{BackendChoice, Callback, Op, Open, Output, Proactor};

    /// Does it in a thread of its own, which is in the sandbox alone.
    fn inside(needs: &Needs<'_>, work: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                match restrict(Sandbox::Required, needs) {
                    Ok(status) => assert_eq!(status, RulesetStatus::FullyEnforced),
                    Err(e) => return not_run(format_args!("Landlock can't be had: {e}")),
                }
                work();
            });
            inside.join().expect("it holds");
        });
    }

    fn assert_denied<T>(result: io::Result<T>, what: &str) {
        let error = result.err().map(|e| e.kind());
        assert_eq!(error, Some(io::ErrorKind::PermissionDenied), "{what}");
    }

    /// Has a proactor open a path, by whatever its backend opens with.
    fn open_by(proactor: &Proactor, path: &Path) -> io::Result<Fd> {
        let open = Open {
            dir: None,
            path: CString::new(path.as_os_str().as_bytes()).unwrap(),
            flags: libc::O_RDONLY,
            mode: 0,
            beneath: false,
        };
        let opened = Rc::new(RefCell::new(None));
        let result = Rc::clone(&opened);
        let callback = Callback::once(move |_, completion| {
            *result.borrow_mut() = Some(completion.result.map(|output| match output {
                Output::Opened(fd) => fd,
                other => panic!("an opening gave {other:?}"),
            }));
        });
        proactor.submit(Op::Open(open), callback);
        loop {
            if let Some(opened) = opened.borrow_mut().take() {
                return opened;
            }
            proactor.run_once(None).unwrap();
        }
    }

    #[test]
    fn nothing_outside_of_the_directory_can_be_opened() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("root")).unwrap();
        fs::create_dir(path("certificates")).unwrap();
        for name in ["root/file", "secret", "config", "certificates/key"] {
            fs::write(path(name), name).unwrap();
        }
        let peer = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = path("config");
        let root = Fd::new(File::open(path("root")).unwrap());
        for uploads in [false, true] {
            let needs = Needs {
                root: &root,
                uploads,
                config: Some(&config),
                error_pages: &[],
                certificates: vec![path("certificates")],
                socket: None,
                metrics: None,
                log: None,
            };
            inside(&needs, || {
                assert!(File::open(path("root/file")).is_ok());
                assert!(fs::read(&config).is_ok());
                assert!(fs::read(path("certificates/key")).is_ok());
                assert_denied(fs::write(path("certificates/key"), "other"), "the key");
                for outside in ["secret", "root/../secret"] {
                    assert_denied(File::open(path(outside)), outside);
                }
                assert_denied(File::open("/etc/passwd"), "/etc/passwd");
                assert_denied(fs::read_dir(top.path()), "the directory above");
                assert_denied(fs::write(&config, "other"), "the configuration");
                assert_denied(fs::write(path("new"), "new"), "a new file outside");
                let new = path("root/new");
                match uploads {
                    false => assert_denied(fs::write(&new, "new"), "a new file"),
                    true => fs::write(&new, "new").unwrap(),
                }
                assert_denied(TcpListener::bind("127.0.0.1:0"), "to listen");
                assert_denied(TcpStream::connect(peer.local_addr().unwrap()), "to connect");
                // What opens for the server: the ring's kernel workers, and threads of ours.
                for backend in [BackendChoice::Auto, BackendChoice::Emulated] {
                    let proactor = Proactor::builder().backend(backend).build().unwrap();
                    assert!(open_by(&proactor, &path("root/file")).is_ok());
                    assert_denied(open_by(&proactor, &path("secret")), "by a proactor");
                    assert_denied(
                        open_by(&proactor, Path::new("/etc/passwd")),
                        "by a proactor",
                    );
                }
            });
        }
        assert_eq!(fs::read(&config).unwrap(), b"config");
    }
}
