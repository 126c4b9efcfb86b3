//! Users by name: whom a socket belongs to, and giving up what the process may do as root.

use std::ffi::CString;

use nix::unistd::{self, Gid, Group, Uid, User};

use crate::cli::error::Failure;

/// A user, and the group to go with.
pub(super) struct Account {
    user: User,
    group: Gid,
    /// The group was named: the user's others are left out.
    named_group: bool,
}

/// Finds `USER[:GROUP]`, by names or numbers of accounts that there are.
///
/// # Errors
/// Says which of `option`'s names is unknown.
pub(super) fn find(option: &str, text: &str) -> Result<Account, Failure> {
    let (name, group_name) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let failed = |e: nix::Error| Failure::io(format!("{option} {text}"), &e.into());
    let user = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    let unknown = |what: &str, name: &str, list: &str| {
        Failure::new(format!(
            "{option} {text}: there is no {what} {name:?}: name one that `getent {list}` lists"
        ))
    };
    let user = user.map_err(failed)?;
    let user = user.ok_or_else(|| unknown("user", name, "passwd"))?;
    let group = match group_name {
        None => user.gid,
        Some(name) => {
            let group = match name.parse() {
                Ok(number) => Group::from_gid(Gid::from_raw(number)),
                Err(_) => Group::from_name(name),
            };
            let group = group.map_err(failed)?;
            group.ok_or_else(|| unknown("group", name, "group"))?.gid
        }
    };
    Ok(Account {
        user,
        group,
        named_group: group_name.is_some(),
    })
}

impl Account {
    pub(super) fn uid(&self) -> Uid {
        self.user.uid
    }

    pub(super) fn gid(&self) -> Gid {
        self.group
    }

    /// Refuses the account that is none to go down to.
    pub(super) fn check_unprivileged(&self) -> Result<(), Failure> {
        if self.user.uid.is_root() {
            return Err(Failure::usage(
                "--user: root is the user to get away from: name another",
            ));
        }
        Ok(())
    }

    /// Becomes this user, for good: all of the process's threads, with the groups of the account.
    ///
    /// # Errors
    /// The process may not; or it could still go back.
    pub(super) fn become_it(&self) -> Result<(), Failure> {
        let name = &self.user.name;
        if !unistd::geteuid().is_root() {
            if unistd::geteuid() == self.user.uid && unistd::getuid() == self.user.uid {
                return Ok(());
            }
            return Err(Failure::new(format!(
                "--user {name}: only root can become another user: start it as root, or as {name} \
                 without --user"
            )));
        }
        let failed = |e: nix::Error| Failure::io(format!("cannot become {name}"), &e.into());
        if self.named_group {
            unistd::setgroups(&[self.group]).map_err(failed)?;
        } else {
            let name = CString::new(name.as_str()).map_err(|_| failed(nix::Error::EINVAL))?;
            unistd::initgroups(&name, self.group).map_err(failed)?;
        }
        unistd::setresgid(self.group, self.group, self.group).map_err(failed)?;
        let uid = self.user.uid;
        unistd::setresuid(uid, uid, uid).map_err(failed)?;
        let can_go_back = unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0));
        if can_go_back.is_ok() || unistd::geteuid().is_root() {
            return Err(Failure::new(format!(
                "cannot become {name} for good: the process could go back to root"
            )));
        }
        Ok(())
    }
}
