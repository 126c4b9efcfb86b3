//! How a connection ends: in order, by a time-out, at a stop.

use std::rc::Rc;
use std::time::Duration;

use crate::Transport;
use crate::streamer::observe::Ending;
use crate::streamer::server::Shared;

use super::connection::{Connection, Phase};
use super::exchanges::head_of;
use super::status::Status;

/// How long, in ticks, an ended connection is still read from, so that the client gets the
/// response rather than a reset; and how many bytes.
const LINGER_TICKS: u32 = 5;
pub(super) const LINGER_BYTES: usize = 1 << 20;

impl Connection {
    /// Ends our side behind what is queued, and reads until the client has ended its own.
    pub(super) fn linger(&self, transport: &Transport) {
        let ended = {
            let mut state = self.state.borrow_mut();
            state.phase = Phase::Lingering;
            state.since = self.server.tick();
            state.eof
        };
        if ended || transport.write_eof().is_err() {
            self.close(transport);
        }
    }

    /// Closes, once what is queued has been sent.
    pub(super) fn close(&self, transport: &Transport) {
        self.state.borrow_mut().phase = Phase::Closing;
        transport.close();
    }

    /// Closes, or, while responses are being sent that a request behind them would throw away,
    /// lingers.
    pub(super) fn end(&self, transport: &Transport) {
        let sending = {
            let state = self.state.borrow();
            state.queued > 0 || state.write_paused || transport.write_buffer_size() > 0
        };
        if !sending {
            return self.close(transport);
        }
        self.linger(transport);
        // What comes is to be thrown away, not to be left unread.
        if std::mem::take(&mut self.state.borrow_mut().read_paused) {
            transport.resume_reading();
        }
    }

    /// Ends it as soon as the responses under way are sent.
    pub(crate) fn stop(&self) {
        let Some(transport) = self.transport() else {
            return;
        };
        let phase = self.state.borrow().phase;
        match phase {
            Phase::Open => self.end(&transport),
            // The response comes first; lingering has its own end.
            Phase::Opening | Phase::Receiving | Phase::Lingering | Phase::Closing => {}
        }
    }

    /// Ends it at once.
    pub(crate) fn abort(&self) {
        if let Some(transport) = self.transport() {
            self.cut(Ending::Stopped);
            self.state.borrow_mut().phase = Phase::Closing;
            transport.abort();
        }
    }

    /// Sees whether the client takes what is being sent, be it too little for a send to get on.
    pub(crate) fn look(&self) {
        let mut state = self.state.borrow_mut();
        let ending = matches!(state.phase, Phase::Lingering | Phase::Closing);
        let sending = state.queued > 0 || state.write_paused || ending;
        if !sending || state.since == self.server.tick() {
            return;
        }
        let taken = state.transport.as_ref().and_then(Shared::taken);
        if let Some(taken) = taken
            && taken != std::mem::replace(&mut state.taken, taken)
        {
            state.since = self.server.tick();
        }
    }

    /// Whether the client has kept us waiting for too long.
    pub(crate) fn is_overdue(&self) -> bool {
        let state = self.state.borrow();
        let waited = self.server.tick().wrapping_sub(state.since);
        let limits = self.server.limits();
        let over = |limit: Duration| u64::from(waited) > limit.as_secs();
        match state.phase {
            Phase::Opening => false,
            _ if state.queued > 0 || state.write_paused => over(limits.send_timeout),
            Phase::Open if state.is_idle() => over(limits.idle_timeout),
            Phase::Open => over(limits.header_timeout),
            Phase::Receiving => over(limits.send_timeout),
            Phase::Lingering => waited > LINGER_TICKS,
            Phase::Closing => over(limits.send_timeout),
        }
    }

    /// Ends a connection that is overdue.
    pub(crate) fn time_out(self: &Rc<Self>) {
        let Some(transport) = self.transport() else {
            return;
        };
        let (phase, idle, stalled) = {
            let state = self.state.borrow();
            let stalled = state.queued > 0 || state.write_paused;
            (state.phase, state.input.is_empty(), stalled)
        };
        match phase {
            Phase::Open if idle && !stalled => return self.close(&transport),
            Phase::Open if !stalled => {
                let input = std::mem::take(&mut self.state.borrow_mut().input);
                self.begin_exchange(head_of(&input));
                return self.refuse(&transport, Status::REQUEST_TIMEOUT, "", &input);
            }
            _ => self.cut(Ending::TimedOut),
        }
        self.abort();
    }
}
