//! What must be true of a run, whatever the kernel decided.

use std::io;
use std::time::Duration;

use spliceport::proactor::sim::Faults;
use spliceport::{End, Route};

use super::content::content;
use super::log::{Entry, Log, Note, Outcome, Sending};
use super::program::{From, Medium, Program};
use super::receives;
use super::side::Side;

/// All that is wrong with a run.
pub fn check(program: &Program, report: &Side, faults: Faults) -> Vec<String> {
    let mut problems = report.log.problems.borrow().clone();
    let mut checker = Checker {
        medium: program.medium,
        report,
        faults,
        problems: &mut problems,
    };
    checker.notes();
    checker.sends();
    checker.bytes_sent();
    checker.bytes_received();
    let broken = checker.may_break() || report.log.aborted.get();
    problems.extend(receives::check(report, faults, broken));
    problems
}

struct Checker<'a> {
    medium: Medium,
    report: &'a Side,
    faults: Faults,
    problems: &'a mut Vec<String>,
}

/// Whether a send breaks the connection off: the peer was promised more.
fn breaks(send: &Sending, outcome: &Outcome) -> bool {
    let ended = matches!(
        outcome.end,
        End::Truncated | End::Cancelled | End::TimedOut | End::Failed
    );
    ended && outcome.sent > 0 && !send.plan.keep_connection
}

/// Whether one of a connection's sends broke it off.
pub fn any_breaks(log: &Log) -> bool {
    let sends = log.sends.borrow();
    sends
        .iter()
        .any(|s| s.outcome.as_ref().is_some_and(|o| breaks(s, o)))
}

impl Checker<'_> {
    fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    /// The order of what was told.
    fn notes(&mut self) {
        let notes = self.report.log.notes.borrow().clone();
        let of = |wanted: fn(&Note) -> bool| notes.iter().filter(|n| wanted(n)).count();
        let made = of(|n| matches!(n, Note::Made));
        let lost = of(|n| matches!(n, Note::Lost(_)));
        let eof = of(|n| matches!(n, Note::Eof));
        if made != 1 && !self.report.proactor_dropped || made > 1 {
            self.problem(format!("connection_made came {made} times"));
        }
        if made == 1 && notes.first() != Some(&Note::Made) {
            self.problem("connection_made was not first".to_owned());
        }
        if lost != 1 {
            self.problem(format!("connection_lost came {lost} times"));
        }
        if eof > 1 {
            self.problem(format!("eof_received came {eof} times"));
        }
        if let Some(at) = notes.iter().position(|n| matches!(n, Note::Eof))
            && notes[at..].iter().any(|n| matches!(n, Note::Data(_)))
        {
            self.problem("data_received after eof_received".to_owned());
        }
        // Sends end in the order of the queue, but those that never began.
        let sends = self.report.log.sends.borrow();
        let began = notes.iter().filter_map(|note| match note {
            Note::Sent(number) => {
                let send = &sends[*number];
                let outcome = send.outcome.as_ref()?;
                let early = matches!(outcome.end, End::Cancelled | End::TimedOut);
                let refused = send.late || outcome.end == End::Closing;
                let began = !(refused || early && outcome.sent == 0);
                began.then_some(*number)
            }
            _ => None,
        });
        let began: Vec<usize> = began.collect();
        drop(sends);
        if !began.is_sorted() {
            self.problem(format!("sends ended out of order: {began:?}"));
        }
        let broken = self.may_break();
        for note in &notes {
            match note {
                Note::Lost(Some(kind)) if !broken => {
                    self.problem(format!("the connection broke for no reason: {kind:?}"));
                }
                Note::Lost(None) if self.must_break() => {
                    self.problem("a broken promise did not break the connection".to_owned());
                }
                _ => {}
            }
        }
    }

    fn any_breaking(&self) -> bool {
        any_breaks(&self.report.log)
    }

    fn may_break(&self) -> bool {
        self.report.peer_closed
            || self.report.proactor_dropped
            || self.faults.sockets > 0
            || self.any_breaking()
            || self.relay_failed()
    }

    /// A relay was ended before its time, and with it the connection.
    fn relay_failed(&self) -> bool {
        self.report.relayed.is_some_and(|relayed| relayed.failed)
    }

    fn must_break(&self) -> bool {
        self.any_breaking()
            && !self.report.log.aborted.get()
            && !self.relay_failed()
            && !self.report.peer_closed
            && !self.report.proactor_dropped
            && self.faults.sockets == 0
    }

    /// How each send ended.
    fn sends(&mut self) {
        let log = std::rc::Rc::clone(&self.report.log);
        for (number, send) in log.sends.borrow().iter().enumerate() {
            let Some(outcome) = &send.outcome else {
                self.problem(format!("send {number} never ended"));
                continue;
            };
            if let Err(what) = self.outcome(send, outcome) {
                self.problem(format!(
                    "send {number}: {what}: {outcome:?} of {:?}, {} there",
                    send.plan, send.outside.there
                ));
            }
        }
    }

    fn outcome(&self, send: &Sending, outcome: &Outcome) -> Result<(), &'static str> {
        let Outcome { sent, end, .. } = *outcome;
        let plan = &send.plan;
        let there = send.outside.there as u64;
        let wanted = if plan.from == From::Bytes {
            Some(there)
        } else {
            plan.len
        };
        let most = wanted.map_or(there, |len| len.min(there));
        if sent > most {
            return Err("more was sent than there was to send");
        }
        if outcome.routes.is_empty() != (sent == 0) {
            return Err("the routes don't say what happened");
        }
        if plan.native_only
            && !matches!(plan.from, From::Bytes | From::BufReader)
            && outcome.routes.contains(Route::Copy)
        {
            return Err("it was copied");
        }
        if let Some(last) = send.progress.last() {
            if !send.progress.is_sorted() {
                return Err("progress went back");
            }
            if *last != sent {
                return Err("progress ended elsewhere");
            }
        } else if plan.progress && sent > 0 {
            return Err("no progress was told");
        }
        if let (From::Position | From::BufReader, Some(position)) = (plan.from, send.position)
            && end != End::Closing
            && self.positions_are_certain(send)
            && position != plan.start as u64 + sent
            && (sent > 0 || position != plan.start as u64 + (there.min(1000)))
        {
            return Err("the position is elsewhere");
        }
        let broken = self.may_break() || self.report.log.aborted.get();
        let fits = match end {
            End::Complete => wanted == Some(sent),
            End::EndOfFile => {
                wanted.is_none() && !send.outside.bad && (sent == there || send.truncated)
            }
            End::Truncated => {
                (wanted.is_some_and(|len| len > sent) || send.truncated)
                    && !send.outside.bad
                    && (sent == there || send.truncated)
            }
            End::Cancelled => send.cancelled || broken,
            End::TimedOut => plan.timeout.is_some_and(|time| outcome.after >= time),
            End::PeerGone => self.report.peer_closed || self.faults.sockets > 0,
            End::Failed => {
                self.faults.sources > 0
                    || (plan.from == From::Socket && self.faults.sockets > 0)
                    || send.outside.bad && sent == there
                    || (plan.native_only && outcome.error == Some(io::ErrorKind::Unsupported))
            }
            // A relay ends the writing when its direction has ended.
            End::Closing => send.late || self.report.relayed.is_some(),
        };
        if !fits {
            return Err("it can't have ended so");
        }
        if plan.timeout.is_none()
            && let Some(rate) = plan.rate
            && sent > 0
        {
            let least = Duration::from_secs_f64(sent as f64 / rate as f64 * 0.9);
            if outcome.after + Duration::from_millis(45) < least {
                return Err("it was faster than its rate");
            }
        }
        Ok(())
    }

    /// The position is asked for in the send's own callback; another send may have moved... none
    /// shares a file here, so it is certain once the send began.
    fn positions_are_certain(&self, send: &Sending) -> bool {
        send.outcome.is_some()
    }

    /// What leaves if it does in this order, and how much of it was said to have left.
    fn expected(&self, entries: &[Entry]) -> (Vec<u8>, usize) {
        let sends = self.report.log.sends.borrow();
        let mut expected = Vec::new();
        let mut least = 0;
        for entry in entries {
            match *entry {
                Entry::Write(tag, len) => expected.extend(content(tag, 0, len)),
                Entry::Send(number) => {
                    let send = &sends[number];
                    let Some(outcome) = &send.outcome else {
                        continue;
                    };
                    let sent = outcome.sent as usize;
                    expected.extend(content(send.tag, send.plan.start, sent));
                    if sent > 0 {
                        least = expected.len();
                    }
                    if breaks(send, outcome) {
                        break;
                    }
                }
                Entry::Relayed => {
                    let Some(relayed) = self.report.relayed else {
                        break;
                    };
                    expected.extend(content(relayed.tag, relayed.from, relayed.bytes));
                    if relayed.bytes > 0 && relayed.told {
                        least = expected.len();
                    }
                    if !relayed.whole {
                        break;
                    }
                }
            }
        }
        (expected, least)
    }

    /// The orders in which what was queued may leave. A relay begins when the other connection's
    /// stream can be had, and what is written until then goes before.
    fn orders(&self) -> Vec<Vec<Entry>> {
        let entries = self.report.log.entries.borrow();
        let relay = entries.iter().position(|e| matches!(e, Entry::Relayed));
        let mut orders = vec![entries.clone()];
        for behind in relay.map_or(0, |at| at + 1)..relay.map_or(0, |_| entries.len()) {
            let mut order = orders[orders.len() - 1].clone();
            order.swap(behind - 1, behind);
            orders.push(order);
        }
        orders
    }

    /// What the peer got.
    fn bytes_sent(&mut self) {
        let log = std::rc::Rc::clone(&self.report.log);
        let sends = log.sends.borrow();
        let mut orders = self.orders().into_iter().map(|order| self.expected(&order));
        let (expected, least) = match orders.len() {
            0 | 1 => orders.next().unwrap_or_default(),
            _ => {
                let all: Vec<_> = orders.collect();
                let arrived = &self.report.arrived;
                let fits = |e: &&(Vec<u8>, usize)| e.0.starts_with(arrived);
                // Of few bytes several orders are likely to begin with them.
                let all_is_there = |e: &&(Vec<u8>, usize)| fits(e) && e.1 <= arrived.len();
                let found = all.iter().rev().find(all_is_there);
                let found = found.or_else(|| all.iter().rev().find(fits));
                found.unwrap_or(&all[0]).clone()
            }
        };
        // What a reset overtakes on its way, a peer over TCP never sees.
        let unread = log.received.borrow().len() < self.report.peer_sent;
        let overtaken = self.report.tcp && (unread || self.may_break() || log.aborted.get());
        let arrived = &self.report.arrived;
        let same = arrived.iter().zip(&expected).take_while(|(a, b)| a == b);
        let same = same.count();
        let truncated = sends.iter().any(|send| send.truncated);
        // Of a file that is cut short while it is sent the kernel may send zeros.
        if same < arrived.len() && !truncated {
            self.problem(format!(
                "{} bytes arrived, {} expected, {least} promised: they differ at {same}",
                arrived.len(),
                expected.len()
            ));
        }
        if self.report.peer_closed || !self.report.arrived_all || overtaken {
            return;
        }
        if arrived.len() < least {
            self.problem(format!(
                "{} bytes arrived, and {least} were said to be sent",
                arrived.len()
            ));
        }
        let notes = log.notes.borrow();
        let clean = matches!(
            notes.iter().find(|n| matches!(n, Note::Lost(_))),
            Some(Note::Lost(None))
        ) && !log.aborted.get()
            && !self.relay_failed();
        if clean && arrived.len() != expected.len() {
            self.problem(format!(
                "{} bytes arrived of {} before an orderly end",
                arrived.len(),
                expected.len()
            ));
        }
    }

    /// What the user got.
    fn bytes_received(&mut self) {
        let received = self.report.log.received.borrow();
        let expected = content(self.report.tag, 0, self.report.peer_sent);
        if !expected.starts_with(&received) {
            self.problems.push(format!(
                "{} bytes were received, which are not those that were sent",
                received.len()
            ));
        }
        let notes = self.report.log.notes.borrow();
        if notes.contains(&Note::Eof) {
            if !self.report.peer_shut && !self.report.peer_closed && self.medium != Medium::PipeOut
            {
                self.problems
                    .push("an end came that nobody made".to_owned());
            }
            if received.len() != expected.len() {
                self.problems.push(format!(
                    "the end came after {} of {} bytes",
                    received.len(),
                    expected.len()
                ));
            }
        }
    }
}
