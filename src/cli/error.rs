//! What the program says when something goes wrong.

use std::fmt;
use std::io;

use rustix::io::Errno;

/// A failure, in a sentence for a person.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    /// The call was wrong: exit code 2.
    usage: bool,
}

impl Failure {
    /// Something went wrong.
    pub(super) fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            usage: false,
        }
    }

    /// The program was called wrongly.
    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            usage: true,
        }
    }

    /// `what` failed with `error`; with advice where there is some.
    pub(super) fn io(what: impl fmt::Display, error: &io::Error) -> Failure {
        Failure::new(match advice(error) {
            Some(advice) => format!("{what}: {error}; {advice}"),
            None => format!("{what}: {error}"),
        })
    }

    pub(super) fn code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What to do about an error that the operating system gave for an address or a path.
fn advice(error: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(error)? {
        Errno::ADDRINUSE => {
            "another program listens there: stop it, or choose another address (port 0 takes a \
             free one)"
        }
        Errno::ADDRNOTAVAIL => {
            "this machine has no such address: 127.0.0.1 is for itself, 0.0.0.0 for all"
        }
        Errno::CONNREFUSED => "nothing listens there: start the receiver first",
        Errno::NETUNREACH | Errno::HOSTUNREACH => "no route leads there: check the address",
        Errno::NOSPC | Errno::DQUOT => "make room, or choose another place",
        Errno::ACCESS | Errno::PERM => {
            "this user may not: look at the modes and owners on the way there, or start it as \
             another user"
        }
        Errno::NOENT => "check the path: something on the way there is missing",
        Errno::ROFS => "the file system is read-only: choose another place",
        Errno::MFILE => "too many open files in this process: raise the limit (ulimit -n)",
        Errno::NFILE => "too many open files in the system: raise fs.file-max",
        _ => return None,
    })
}
