//! How much a turn of the loop moves by direct calls, and whose turn the next is.

mod common;

use std::io::{PipeReader, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use common::*;
use proactor::{Builder, Fd, Method, Op, Proactor, SendBuf, SendFile};

on_both_backends! {
    a_turn_moves_so_much_in_all,
    those_who_got_nothing_go_first,
    who_wants_little_is_let_go,
    what_comes_from_the_disk_costs_eightfold,
}

const MIB: usize = 1 << 20;
/// What all transfers together move in a turn.
const TURN: usize = 4 * MIB;

/// A target that takes a MiB and then no more, and the end that it is taken from.
struct Target {
    fd: Fd,
    reader: PipeReader,
    /// Taken out so far.
    taken: usize,
}

impl Target {
    /// `None`, said so, where the user's pipes may not be as large.
    fn new() -> Option<Target> {
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: takes and touches no memory.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, MIB) };
        if size != MIB as i32 {
            not_run("a pipe of a MiB can't be had here");
            return None;
        }
        let fd = Fd::nonblocking(OwnedFd::from(writer)).unwrap();
        Some(Target {
            fd,
            reader,
            taken: 0,
        })
    }

    fn waiting(&self) -> usize {
        let mut n = 0_i32;
        // SAFETY: the kernel writes the integer on this stack frame.
        let result = unsafe { libc::ioctl(self.reader.as_raw_fd(), libc::FIONREAD, &raw mut n) };
        assert_eq!(result, 0);
        n as usize
    }

    /// What has come so far.
    fn moved(&self) -> usize {
        self.taken + self.waiting()
    }

    fn empty(&mut self) {
        let mut bytes = vec![0; self.waiting()];
        self.reader.read_exact(&mut bytes).unwrap();
        self.taken += bytes.len();
    }
}

fn send(file: &Fd, target: &Target, len: usize) -> Op {
    send_by(Method::Inline, file, target, len)
}

fn send_by(method: Method, file: &Fd, target: &Target, len: usize) -> Op {
    Op::SendFile(SendFile {
        header: SendBuf::new(),
        file: file.clone(),
        socket: target.fd.clone(),
        offset: Some(0),
        len: len as u64,
        more: false,
        method,
    })
}

fn total(targets: &[Target]) -> usize {
    targets.iter().map(Target::moved).sum()
}

fn turn(proactor: &Proactor) {
    proactor.run_once(Some(Duration::ZERO)).unwrap();
}

fn a_turn_moves_so_much_in_all(builder: Builder) {
    let proactor = builder.build().unwrap();
    let file = file(&pattern(MIB));
    let Some(targets) = (0..12).map(|_| Target::new()).collect::<Option<Vec<_>>>() else {
        return;
    };
    let sends: Vec<_> = targets
        .iter()
        .map(|target| start(&proactor, send(&file, target, MIB)))
        .collect();
    // What is submitted is begun at once, within the same bound.
    let mut before = total(&targets);
    assert!(before <= TURN, "{before}");
    while before < 12 * MIB {
        turn(&proactor);
        let now = total(&targets);
        assert!(now - before <= TURN, "{}", now - before);
        // No turn is wasted either.
        assert!(now > before);
        before = now;
    }
    run_until(&proactor, || sends.iter().all(Started::is_over));
    for sent in sends {
        assert_eq!(sent.take().remove(0).transferred, MIB as u64);
    }
    assert_eq!(proactor.stats().pipes_leased, 0);
}

fn those_who_got_nothing_go_first(builder: Builder) {
    const LEN: usize = 6 * MIB;
    let proactor = builder.build().unwrap();
    let file = file(&pattern(LEN));
    // Twice as many as a turn has something for.
    let Some(mut targets) = (0..8).map(|_| Target::new()).collect::<Option<Vec<_>>>() else {
        return;
    };
    let sends: Vec<_> = targets
        .iter()
        .map(|target| start(&proactor, send(&file, target, LEN)))
        .collect();
    for _ in 0..1000 {
        if sends.iter().all(Started::is_over) {
            break;
        }
        turn(&proactor);
        let moved: Vec<_> = targets.iter().map(Target::moved).collect();
        let (least, most) = (moved.iter().min().unwrap(), moved.iter().max().unwrap());
        assert!(most - least <= MIB, "{moved:?}");
        targets.iter_mut().for_each(Target::empty);
    }
    for sent in sends {
        assert_eq!(end(&proactor, &sent).transferred, LEN as u64);
    }
}

fn who_wants_little_is_let_go(builder: Builder) {
    const LITTLE: usize = 64 << 10;
    let proactor = builder.build().unwrap();
    let file = file(&pattern(MIB));
    let Some(targets) = (0..6).map(|_| Target::new()).collect::<Option<Vec<_>>>() else {
        return;
    };
    let sends: Vec<_> = targets[..4]
        .iter()
        .map(|target| start(&proactor, send(&file, target, MIB)))
        .collect();
    assert_eq!(total(&targets), TURN, "the turn is used up");
    let little = start(&proactor, send(&file, &targets[4], LITTLE));
    assert_eq!(targets[4].moved(), LITTLE);
    let much = start(&proactor, send(&file, &targets[5], LITTLE + 1));
    assert_eq!(targets[5].moved(), 0);
    run_until(&proactor, || {
        sends.iter().chain([&little, &much]).all(Started::is_over)
    });
    assert_eq!(targets[5].moved(), LITTLE + 1);
}

/// The ring's kernel drains what its workers have filled; the loop of the port does so itself.
fn what_comes_from_the_disk_costs_eightfold(builder: Builder) {
    let proactor = builder.build().unwrap();
    let file = file(&pattern(MIB));
    let Some(targets) = (0..6).map(|_| Target::new()).collect::<Option<Vec<_>>>() else {
        return;
    };
    let sends: Vec<_> = targets
        .iter()
        .map(|target| start(&proactor, send_by(Method::Chain, &file, target, MIB)))
        .collect();
    let mut before = total(&targets);
    let mut most = 0;
    for _ in 0..100_000 {
        if sends.iter().all(Started::is_over) {
            break;
        }
        // The workers have filled all their pipes meanwhile, or some.
        std::thread::sleep(Duration::from_millis(1));
        turn(&proactor);
        let now = total(&targets);
        most = most.max(now - before);
        before = now;
    }
    for sent in sends {
        assert_eq!(end(&proactor, &sent).transferred, MIB as u64);
    }
    if proactor.backend() == proactor::BackendKind::Emulated {
        assert!(most <= TURN / 8, "{most}");
    }
    assert_eq!(proactor.stats().pipes_leased, 0);
}
