//! What stands for TLS where it is not built in: no connection has a session.

use std::io;
use std::rc::Rc;

use proactor::{Completion, Op, SendBuf};

use crate::transport::TransportOptions;
use crate::transport::conn::{Conn, Medium, State};

pub(crate) enum Session {}

impl Session {
    pub(in crate::transport) fn of(
        _: &TransportOptions,
        _: Medium,
    ) -> io::Result<Option<Box<Session>>> {
        Ok(None)
    }
}

impl Conn {
    pub(in crate::transport) fn shake_hands(self: &Rc<Self>, _: &mut State) {}

    pub(in crate::transport) fn tls_timed_out(self: &Rc<Self>, _: &mut State, _: &Completion) {}

    pub(in crate::transport) fn tls_reads(_: &State) -> bool {
        false
    }

    pub(in crate::transport) fn sealed_arrived(self: &Rc<Self>, _: &mut State, _: &[u8]) {}

    pub(in crate::transport) fn sealed_ended(self: &Rc<Self>, _: &mut State) {}

    pub(in crate::transport) fn end_failed(self: &Rc<Self>, _: &mut State) {}

    pub(in crate::transport) fn seal(
        self: &Rc<Self>,
        _: &mut State,
        plain: SendBuf,
    ) -> Option<SendBuf> {
        Some(plain)
    }

    pub(in crate::transport) fn send_sealed(self: &Rc<Self>, _: &mut State) -> bool {
        false
    }

    pub(in crate::transport) fn notify_close(self: &Rc<Self>, _: &mut State) -> bool {
        false
    }

    pub(in crate::transport) fn records_taken(
        &self,
        _: &mut State,
        taken: usize,
        _: Option<Op>,
    ) -> usize {
        taken
    }

    pub(in crate::transport) fn end_tls(&self, _: &mut State) {}
}
