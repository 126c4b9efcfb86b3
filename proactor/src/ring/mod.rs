//! stub
use crate::backend::{Backend, Context};
use crate::op::{Op, Token};
use crate::transfer::Transfer;
use crate::{Builder, probe::Feature};
use std::io;
use std::os::fd::BorrowedFd;
pub(crate) struct Ring;
pub(crate) enum OpenError {
    Unavailable(io::Error),
    Exhausted(io::Error),
}
impl Ring {
    pub(crate) fn open(_b: &Builder, _cx: &mut Context) -> Result<(Ring, Vec<Feature>), OpenError> {
        Err(OpenError::Unavailable(io::ErrorKind::Unsupported.into()))
    }
}
impl Backend for Ring {
    fn submit(&mut self, _cx: &mut Context, _token: Token, _op: Op) {
        todo!()
    }
    fn cancel(&mut self, _cx: &mut Context, _token: Token) {
        todo!()
    }
    fn wait(&mut self, _cx: &mut Context, _block: bool) -> io::Result<()> {
        todo!()
    }
    fn filled(&mut self, _cx: &mut Context, _token: Token, _transfer: Box<Transfer>) {
        todo!()
    }
    fn watch(&mut self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        todo!()
    }
    fn fd(&self) -> BorrowedFd<'_> {
        todo!()
    }
    fn abandon(&mut self) -> usize {
        todo!()
    }
}
