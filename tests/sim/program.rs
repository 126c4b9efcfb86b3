//! Random programs: what a user of a transport and its peer do, as plain values that follow from a
//! seed.

use std::time::Duration;

use spliceport::proactor::sim::Rng;
use spliceport::{Route, RouteChoice};

use super::receives::ReceivePlan;

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Action {
    Write(usize),
    WriteVectored(Vec<usize>),
    /// All of these, before the loop has a turn.
    Together(Vec<Action>),
    Send(SendPlan),
    Receive(ReceivePlan),
    /// Of one of the sends so far.
    Cancel(usize),
    /// Of the last send so far.
    CancelLast,
    /// Of one of the receives so far.
    CancelReceive(usize),
    PauseReading,
    ResumeReading,
    /// High, low.
    Limits(Option<usize>, Option<usize>),
    WriteEof,
    Close,
    Abort,
    /// Drops all handles but what the connection itself holds.
    LetGo,
    PeerWrites(usize),
    PeerReads(usize),
    /// The peer ends its sending.
    PeerShuts,
    PeerCloses,
    /// With a reset, where its connection knows one.
    PeerResets,
    /// One of the files sent so far becomes this long, in thousandths of its length.
    Truncate(usize, u64),
    /// More comes through one of the pipes that are sent.
    Feed(usize),
    /// The loop runs, so many turns.
    Turns(u32),
    Sleep(Duration),
    /// The loop runs until nothing happens any more; then all must be in order.
    Settle,
    DropProactor,
}

/// What is sent from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    /// Of an open file, by offset.
    File,
    /// From where it stands.
    Position,
    BufReader,
    Reader,
    /// One whose read fails in the middle.
    BadReader,
    Bytes,
    /// Filled before, and closed.
    Pipe,
    /// Fed while it is sent.
    SlowPipe,
    Socket,
}

/// One send of a file.
#[derive(Clone, Debug)]
pub struct SendPlan {
    pub from: From,
    /// The file's length.
    pub size: usize,
    /// Where the send starts in it.
    pub start: usize,
    pub len: Option<u64>,
    pub route: RouteChoice,
    pub native_only: bool,
    pub keep_connection: bool,
    pub timeout: Option<Duration>,
    pub rate: Option<u64>,
    pub progress: bool,
    pub weight: Option<usize>,
    /// Done in its callback.
    pub then: Vec<Action>,
}

/// How a peer reads by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appetite {
    Eager,
    Slow,
    /// Only what it is told to, and at the end.
    None,
}

/// What a connection runs over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    Socket,
    /// The writing end of a pipe.
    PipeOut,
    /// The reading end of one.
    PipeIn,
}

/// How rough a program is, and what is in it.
#[derive(Clone, Copy)]
struct Manner {
    /// What ends all may happen.
    violent: bool,
    /// Files are received.
    receives: bool,
}

/// What is run: connection, user, peer.
#[derive(Clone, Debug)]
pub struct Program {
    pub medium: Medium,
    /// The size of the socket's send buffer.
    pub send_buffer: Option<u32>,
    pub appetite: Appetite,
    /// The write side is kept after the peer's end.
    pub half_open: bool,
    /// The protocol pauses its reading whenever something arrives.
    pub pauses: bool,
    /// The protocol reads from the start.
    pub reading: bool,
    pub limits: Option<(usize, usize)>,
    pub pipes: usize,
    pub pipe_size: usize,
    pub entries: u32,
    pub recv_buffers: (u16, usize),
    pub actions: Vec<Action>,
}

impl Program {
    /// The program of a seed.
    pub fn from_seed(seed: u64) -> Program {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0x0dd_ba11);
        let rng = &mut rng;
        let medium = match rng.below(100) {
            0..10 => Medium::PipeOut,
            10..15 => Medium::PipeIn,
            _ => Medium::Socket,
        };
        // Some things end all: how likely they are is chosen once, so that most runs are long.
        let manner = Manner {
            violent: rng.chance(350),
            receives: medium != Medium::PipeOut && rng.chance(400),
        };
        let mut actions = Vec::new();
        for _ in 0..rng.between(2, 24) {
            actions.push(action(rng, manner, true));
            // A cancel of what has just left, or is about to.
            if matches!(actions.last(), Some(Action::Together(_))) && rng.chance(400) {
                actions.push(Action::CancelLast);
            }
        }
        Program::connection(rng, medium, actions)
    }

    /// A connection over a socket, of which nothing more is said.
    pub fn socket(rng: &mut Rng) -> Program {
        Program::connection(rng, Medium::Socket, Vec::new())
    }

    fn connection(rng: &mut Rng, medium: Medium, actions: Vec<Action>) -> Program {
        Program {
            medium,
            send_buffer: rng.chance(600).then(|| rng.between(2048, 100_000) as u32),
            appetite: *rng.pick(&[
                Appetite::Eager,
                Appetite::Eager,
                Appetite::Slow,
                Appetite::None,
            ]),
            half_open: rng.chance(600),
            pauses: rng.chance(300),
            reading: rng.chance(850),
            limits: rng.chance(300).then(|| {
                let high = rng.length(200_000);
                (high, rng.index(high + 1))
            }),
            pipes: *rng.pick(&[0, 1, 2, 4, 32]),
            pipe_size: *rng.pick(&[4096, 16 << 10, 64 << 10, 1 << 20]),
            entries: *rng.pick(&[8, 64, 512]),
            recv_buffers: *rng.pick(&[(1, 64), (2, 4096), (128, 16 << 10)]),
            actions,
        }
    }
}

impl Action {
    /// A random one.
    pub fn random(rng: &mut Rng, violent: bool, receives: bool) -> Action {
        action(rng, Manner { violent, receives }, true)
    }
}

impl Program {
    /// The program of a seed with what is determinate alone: however the kernel decides, and
    /// whatever it is, the same bytes arrive, and each send ends in the same way.
    pub fn determinate(seed: u64) -> Program {
        let mut program = Program::from_seed(seed);
        program.medium = Medium::Socket;
        program.appetite = Appetite::Eager;
        program.actions.retain_mut(is_determinate);
        program
    }
}

impl Program {
    /// The program of a seed with all that can be done in real time.
    pub fn real(seed: u64) -> Program {
        let mut program = Program::from_seed(seed);
        program.medium = Medium::Socket;
        program.actions.iter_mut().for_each(hurry);
        program
    }
}

/// What is to be copied and may not be fails, unless nothing is left to be copied. Of a file that is
/// known where sizes are believed, as they are of most file systems: each simulated kernel pretends
/// another.
fn consistent(plan: &mut SendPlan) {
    plan.native_only &= plan.route != RouteChoice::Force(Route::Copy);
}

/// Nothing is paced, and sends and receives have the same numbers in each run: callbacks, which come
/// when they come, begin none.
fn hurry(action: &mut Action) {
    let then = match action {
        Action::Send(plan) => {
            consistent(plan);
            plan.rate = None;
            &mut plan.then
        }
        Action::Receive(plan) => {
            plan.rate = None;
            &mut plan.then
        }
        Action::Together(actions) => return actions.iter_mut().for_each(hurry),
        _ => return,
    };
    then.retain(|action| !matches!(action, Action::Send(_) | Action::Receive(_) | Action::LetGo));
}

fn is_determinate(action: &mut Action) -> bool {
    if let Action::Together(actions) = action {
        actions.retain_mut(is_determinate);
        return true;
    }
    if let Action::Send(plan) = action {
        consistent(plan);
        plan.timeout = None;
        plan.rate = None;
        // What a callback queues comes behind whatever is queued by then.
        plan.then.clear();
        // Of a source that is fed nobody knows when.
        return plan.from != From::SlowPipe;
    }
    matches!(
        action,
        Action::Write(_) | Action::WriteVectored(_) | Action::Turns(_) | Action::WriteEof
    )
}

fn action(rng: &mut Rng, manner: Manner, outermost: bool) -> Action {
    let Manner { violent, receives } = manner;
    if receives && rng.chance(300) {
        return match rng.below(10) {
            0..5 => {
                let then = callback(rng, manner, outermost);
                Action::Receive(ReceivePlan::random(rng, violent, then))
            }
            5..6 => Action::CancelReceive(rng.index(8)),
            _ if outermost => Action::PeerWrites(size(rng)),
            _ => Action::ResumeReading,
        };
    }
    loop {
        return match rng.below(100) {
            0..14 => Action::Write(size(rng)),
            14..18 => Action::WriteVectored((0..rng.below(5)).map(|_| size(rng) / 4).collect()),
            18..44 => Action::Send(send(rng, manner, outermost)),
            44..47 => Action::Cancel(rng.index(8)),
            47..49 => Action::CancelLast,
            49..52 => Action::PauseReading,
            52..56 => Action::ResumeReading,
            56..59 => {
                let high = rng.chance(600).then(|| rng.length(100_000));
                let low = rng
                    .chance(300)
                    .then(|| rng.index(high.unwrap_or(64 << 10) + 1));
                Action::Limits(high, low)
            }
            59..60 if violent => Action::Abort,
            60..61 => Action::Close,
            61..62 => Action::WriteEof,
            62..63 => Action::LetGo,
            // What only the peer, or time, does is not done in callbacks.
            _ if !outermost => continue,
            63..68 => Action::PeerWrites(size(rng)),
            68..73 => Action::PeerReads(size(rng)),
            73..74 => Action::PeerShuts,
            74..75 if violent => Action::PeerCloses,
            75..76 if violent => Action::PeerResets,
            76..78 if violent => Action::Truncate(rng.index(8), rng.below(1100)),
            78..81 => Action::Feed(size(rng)),
            81..84 => Action::Together(
                (0..rng.between(2, 5))
                    .map(|_| match rng.below(4) {
                        0..2 => Action::Write(rng.length(4000)),
                        2 => Action::Send(send(rng, manner, false)),
                        _ => Action::Send(whole(rng, manner)),
                    })
                    .collect(),
            ),
            84..93 => Action::Turns(rng.between(1, 12) as u32),
            93..95 => Action::Sleep(Duration::from_micros(1 << rng.below(28))),
            95..99 => Action::Settle,
            99..100 if violent && rng.chance(300) => Action::DropProactor,
            _ => continue,
        };
    }
}

/// A number of bytes: mostly few, seldom very many.
pub(super) fn size(rng: &mut Rng) -> usize {
    match rng.below(100) {
        0..4 => 0,
        4..70 => rng.length(8 << 10),
        70..99 => rng.length(200 << 10),
        _ => rng.length(3 << 20),
    }
}

/// What is done in a callback.
fn callback(rng: &mut Rng, manner: Manner, outermost: bool) -> Vec<Action> {
    match outermost && rng.chance(250) {
        true => (0..rng.between(1, 2))
            .map(|_| action(rng, manner, false))
            .collect(),
        false => Vec::new(),
    }
}

/// A small file that is sent to its end, wherever that is.
fn whole(rng: &mut Rng, manner: Manner) -> SendPlan {
    SendPlan {
        from: From::File,
        size: rng.length(8 << 10),
        start: 0,
        len: None,
        route: RouteChoice::Auto,
        native_only: false,
        timeout: None,
        rate: None,
        ..send(rng, manner, false)
    }
}

fn send(rng: &mut Rng, manner: Manner, outermost: bool) -> SendPlan {
    let violent = manner.violent;
    let from = *rng.pick(&[
        From::File,
        From::File,
        From::File,
        From::File,
        From::Position,
        From::BufReader,
        From::Reader,
        From::BadReader,
        From::Bytes,
        From::Pipe,
        From::SlowPipe,
        From::SlowPipe,
        From::Socket,
    ]);
    let seekable = matches!(from, From::File | From::Position | From::BufReader);
    let mut size = if seekable && rng.chance(500) {
        rng.length(300 << 10)
    } else {
        size(rng)
    };
    if !seekable {
        // Pipes and sockets are filled before.
        size = size.min(30_000);
    }
    let start = if seekable && rng.chance(400) {
        rng.index(size + 1)
    } else {
        0
    };
    let there = size - start;
    let len = match rng.below(10) {
        0..5 => Some(there as u64),
        5..7 => Some(rng.below(there as u64 + 1)),
        7 if violent => Some(there as u64 + rng.between(1, 5000)),
        _ => None,
    };
    let slow = rng.chance(80);
    SendPlan {
        from,
        size,
        start,
        len,
        route: *rng.pick(&[
            RouteChoice::Auto,
            RouteChoice::Auto,
            RouteChoice::Force(Route::Copy),
            RouteChoice::Force(Route::Chain),
            RouteChoice::Force(Route::Chain),
            RouteChoice::Force(Route::Inline),
            RouteChoice::Force(Route::Sendfile),
        ]),
        native_only: rng.chance(80),
        keep_connection: rng.chance(500),
        timeout: (violent && rng.chance(150)).then(|| Duration::from_micros(1 << rng.below(25))),
        rate: slow.then(|| rng.between(1, 200) * 1000),
        progress: rng.chance(300),
        weight: rng.chance(300).then(|| rng.length(100_000)),
        then: callback(rng, manner, outermost),
    }
}
