//! Models of what threads do to one another, run by loom in every order that differs in at most
//! `LOOM_MAX_PREEMPTIONS` preemptions: `tests/soundness/run loom`.
//!
//! A wake-up that is lost is a deadlock here, and loom reports it; so it does what is never freed.

use std::collections::VecDeque;
use std::io;

use crate::buf::BufGroup;
use crate::op::{Op, Token};
use crate::pool::Workers;
use crate::port::{Done, Packet, Port};
use crate::remote::Remote;
use crate::sync::{Arc, thread};

fn packet(index: u32) -> Packet {
    Packet::Done(Done {
        token: token(index),
        op: Op::Nop,
        transferred: 0,
        result: Err(io::ErrorKind::Other.into()),
    })
}

fn token(index: u32) -> Token {
    Token {
        index,
        generation: 0,
    }
}

/// The loop's turn: waits, and takes what there is.
fn turn(port: &Port, into: &mut Vec<u32>) {
    port.wake.wait();
    take(port, into);
}

fn take(port: &Port, into: &mut Vec<u32>) {
    let mut packets = VecDeque::new();
    port.take(&mut packets);
    into.extend(indices(packets));
}

fn indices(packets: VecDeque<Packet>) -> impl Iterator<Item = u32> {
    packets.into_iter().filter_map(|packet| match packet {
        Packet::Done(done) => Some(done.token.index),
        _ => None,
    })
}

/// A closure that does nothing but hold something, for a worker.
fn holds(what: &Arc<()>) -> Op {
    let what = Arc::clone(what);
    Op::Work(Box::new(move || {
        drop(what);
        Ok(Box::new(()) as Box<_>)
    }))
}

#[test]
fn every_packet_wakes_the_loop_and_comes_once() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let posters = [[1, 2], [3, 4]].map(|packets| {
            let port = Arc::clone(&port);
            thread::spawn(move || packets.map(|index| assert!(port.post(packet(index)))))
        });
        let mut taken = Vec::new();
        loop {
            // A turn that ends for another reason may meet a thread midway through its post.
            take(&port, &mut taken);
            if taken.len() == 4 {
                break;
            }
            turn(&port, &mut taken);
        }
        for poster in posters {
            poster.join().unwrap();
        }
        for pair in [[1, 2], [3, 4]] {
            let at = pair.map(|index| taken.iter().position(|t| *t == index).unwrap());
            assert!(at[0] < at[1], "a thread's packets keep their order");
        }
        // One that came late to the eventfd is forgotten with the next turn: the loop can sleep.
        take(&port, &mut taken);
        assert_eq!(taken.len(), 4);
        assert!(!port.wake.is_set());
    });
}

#[test]
fn a_stop_ends_the_loop_whatever_is_posted_beside_it() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let stopper = {
            let remote = Remote::new(Arc::clone(&port));
            thread::spawn(move || remote.stop())
        };
        let poster = {
            let port = Arc::clone(&port);
            thread::spawn(move || assert!(port.post(packet(1))))
        };
        let mut taken = Vec::new();
        // As `Proactor::run`.
        while !port.take_stop() {
            turn(&port, &mut taken);
        }
        stopper.join().unwrap();
        poster.join().unwrap();
        assert!(!port.take_stop(), "a stop counts once");
        taken.extend(indices(port.close()));
        assert_eq!(taken, [1]);
    });
}

#[test]
fn what_is_posted_while_the_loop_goes_is_taken_returned_or_refused() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let owned = Arc::new(());
        let posters = [1, 2].map(|_| {
            let (remote, owned) = (Remote::new(Arc::clone(&port)), Arc::clone(&owned));
            thread::spawn(move || remote.post(move |_| drop(owned)).is_ok())
        });
        let mut packets = VecDeque::new();
        port.take(&mut packets);
        let had = packets.len() + port.close().len();
        let accepted = posters.map(|poster| poster.join().unwrap());
        assert_eq!(had, accepted.into_iter().filter(|a| *a).count());
        drop(packets);
        assert_eq!(Arc::strong_count(&owned), 1, "each is dropped once");
    });
}

#[test]
fn a_buffer_given_back_wakes_the_receive_that_lacked_it() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let group = BufGroup::new(1, 8, Arc::clone(&port));
        let data = BufGroup::lease(&group).unwrap();
        let holder = thread::spawn(move || drop(data));
        // As a backend that finds no buffer, waits, and begins the receive again.
        let id = loop {
            if let Some(id) = group.take() {
                break id;
            }
            group.set_starved();
            turn(&port, &mut Vec::new());
        };
        group.give(id);
        holder.join().unwrap();
    });
}

#[test]
fn workers_run_each_job_once() {
    for limit in [1, 2] {
        loom::model(move || {
            let port = Port::new().unwrap();
            let workers = Workers::new(Arc::clone(&port), limit);
            for index in 0..3 {
                workers.run(token(index), Op::Nop);
            }
            let mut done = Vec::new();
            while done.len() < 3 {
                turn(&port, &mut done);
            }
            done.sort_unstable();
            assert_eq!(done, [0, 1, 2]);
            assert!(workers.threads() <= limit);
            workers.close();
            assert_eq!(workers.threads(), 0);
        });
    }
}

#[test]
fn a_job_does_not_wait_for_another_while_a_thread_can_be_had() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 2);
        // The first ends only when the second has run.
        let (go, wait) = loom::sync::mpsc::channel();
        let first = move || {
            wait.recv().unwrap();
            Ok(Box::new(()) as Box<_>)
        };
        let second = move || {
            go.send(()).unwrap();
            Ok(Box::new(()) as Box<_>)
        };
        let mut done = Vec::new();
        workers.run(token(0), Op::Nop);
        turn(&port, &mut done);
        // There may be an idle thread now.
        workers.run(token(1), Op::Work(Box::new(first)));
        workers.run(token(2), Op::Work(Box::new(second)));
        while done.len() < 3 {
            turn(&port, &mut done);
        }
        workers.close();
    });
}

#[test]
fn workers_that_are_closed_run_or_drop_each_job_and_end() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 2);
        let owned = Arc::new(());
        for index in 0..3 {
            workers.run(token(index), holds(&owned));
        }
        // As the drop of a proactor: packets are refused first, then the threads end.
        let had = port.close();
        workers.close();
        assert_eq!(workers.threads(), 0);
        assert!(had.len() <= 3);
        assert_eq!(Arc::strong_count(&owned), 1);
    });
}

#[test]
fn a_job_that_meets_a_thread_about_to_end_is_run() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 1);
        workers.run(token(0), Op::Nop);
        let mut done = Vec::new();
        turn(&port, &mut done);
        // The thread has waited long enough, just now.
        workers.expire();
        workers.run(token(1), Op::Nop);
        while done.len() < 2 {
            turn(&port, &mut done);
        }
        assert_eq!(done, [0, 1]);
        workers.close();
        assert_eq!(workers.threads(), 0);
    });
}

#[test]
fn a_job_is_taken_out_or_run() {
    loom::model(|| {
        let port = Port::new().unwrap();
        let workers = Workers::new(Arc::clone(&port), 1);
        workers.run(token(0), Op::Nop);
        workers.run(token(1), Op::Nop);
        let removed = workers.remove(token(1)).is_some();
        let mut done = Vec::new();
        while done.len() < 2 - usize::from(removed) {
            turn(&port, &mut done);
        }
        workers.close();
        take(&port, &mut done);
        assert_eq!(done.contains(&1), !removed);
        assert_eq!(done[0], 0);
    });
}
