//! stub
use crate::backend::{Backend, Context};
use crate::op::{Op, Token};
use crate::transfer::Transfer;
use std::io;
use std::os::fd::BorrowedFd;
pub(crate) struct Emulated;
impl Emulated {
    pub(crate) fn open() -> io::Result<Emulated> {
        Ok(Emulated)
    }
}
impl Backend for Emulated {
    fn submit(&mut self, _cx: &mut Context, _token: Token, _op: Op) {
        todo!()
    }
    fn cancel(&mut self, _cx: &mut Context, _token: Token) {
        todo!()
    }
    fn wait(&mut self, _cx: &mut Context, _block: bool) -> io::Result<()> {
        todo!()
    }
    fn flush(&mut self, _cx: &mut Context) -> io::Result<bool> {
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
