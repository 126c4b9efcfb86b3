//! What stands in the place of the simulation in a build without it: the same questions, to each of
//! which the answer is the real kernel's.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::fd::{Filesystem, Residency};

#[inline(always)]
pub(crate) fn before_read(_fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    Ok(len)
}

#[inline(always)]
pub(crate) fn before_write(_fd: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    Ok(len)
}

#[inline(always)]
pub(crate) fn before_splice(
    _from: BorrowedFd<'_>,
    _to: BorrowedFd<'_>,
    len: usize,
) -> io::Result<usize> {
    Ok(len)
}

#[inline(always)]
pub(crate) fn before_sync() -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn after_sync(_file: BorrowedFd<'_>) {}

#[inline(always)]
pub(crate) fn before_sendfile(
    _socket: BorrowedFd<'_>,
    _file: BorrowedFd<'_>,
    len: usize,
) -> io::Result<usize> {
    Ok(len)
}

#[inline(always)]
pub(crate) fn before_accept(_listener: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn before_connect() -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn after_connect(_socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn after_write(_fd: BorrowedFd<'_>, _written: &io::Result<usize>, _more: bool) {}

#[inline(always)]
pub(crate) fn hold_back(_socket: BorrowedFd<'_>) -> bool {
    false
}

#[inline(always)]
pub(crate) fn uncork(_socket: BorrowedFd<'_>) {}

#[inline(always)]
pub(crate) fn is_tcp() -> Option<bool> {
    None
}

#[inline(always)]
pub(crate) fn readiness(_fd: BorrowedFd<'_>, events: i16) -> i16 {
    events
}

#[inline(always)]
pub(crate) fn before_pipe() -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn after_pipe(_reader: BorrowedFd<'_>) {}

#[inline(always)]
pub(crate) fn before_pipe_size() -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn residency() -> Option<Residency> {
    None
}

#[inline(always)]
pub(crate) fn before_nowait() -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub(crate) fn filesystem() -> Option<Filesystem> {
    None
}

#[inline(always)]
pub(crate) fn set_alarm(_after: Duration) -> bool {
    false
}

#[inline(always)]
pub(crate) fn count_jobs(_change: isize) {}

#[inline(always)]
pub(crate) fn is_active() -> bool {
    false
}
