//! The sandbox: what serving does not need is given up, for the process and for good.
//!
//! Landlock (Linux 5.13, and 6.7 for the network) leaves of the file system what is below the served
//! directory, to be read, and the configuration; and no way to bind or
//! connect a TCP socket. It holds for what the ring does too, since the ring acts with the
//! credentials of who made it. The [filter](super::syscalls) knows system calls only, and what a
//! ring does is none.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};

use crate::cli::error::Failure;
use crate::cli::operation::Sandbox;
use crate::proactor::Fd;

use super::syscalls;

/// What must stay possible.
pub(super) struct Needs<'a> {
    /// The served directory.
    pub(super) root: &'a Fd,
    /// Files are put below it.
    pub(super) uploads: bool,
    /// Read again later.
    pub(super) config: Option<&'a Path>,
    /// A Unix socket's file, removed in the end.
    pub(super) socket: Option<&'a Path>,
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
    let more: [(Option<&Path>, BitFlags<AccessFs>); 2] = [
        (needs.config, AccessFs::ReadFile.into()),
        (socket.as_deref(), AccessFs::RemoveFile.into()),
    ];
    for (path, access) in more {
        // What can't be opened now is not to be had later either.
        if let Some(path) = path
            && let Ok(fd) = PathFd::new(path)
        {
            rules = rules.add_rule(PathBeneath::new(fd, access))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
