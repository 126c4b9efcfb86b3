//! Operations on a simulated kernel: what real ones show seldom, or not at all.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use proactor::sim::{Conditions, Simulation};
use proactor::{
    BackendChoice, Callback, Completion, Fd, Method, Op, Output, Proactor, SendBuf, SendFile, net,
};

/// On both backends, in a fair world.
fn on_both(test: impl Fn(&Simulation, Proactor)) {
    for backend in [BackendChoice::Ring, BackendChoice::Emulated] {
        let simulation = Simulation::new(1, Conditions::fair());
        let proactor = Proactor::builder().backend(backend).build().unwrap();
        test(&simulation, proactor);
    }
}

/// Where a completion will be.
type Slot = Rc<RefCell<Option<Completion>>>;

fn submit(proactor: &Proactor, op: Op) -> Slot {
    let slot = Slot::default();
    let into = Rc::clone(&slot);
    proactor.submit(
        op,
        Callback::once(move |_, completion| *into.borrow_mut() = Some(completion)),
    );
    slot
}

fn turns(proactor: &Proactor) {
    for _ in 0..50 {
        proactor.run_once(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn nothing_is_corked_while_a_source_is_waited_for() {
    for method in [Method::Chain, Method::Inline] {
        on_both(|simulation, proactor| {
            let (ours, _peer) = net::pair().unwrap();
            let (source, mut feed) = std::io::pipe().unwrap();
            feed.write_all(b"12345").unwrap();
            let op = SendFile {
                header: SendBuf::from(bytes::Bytes::from_static(b"header")),
                file: Fd::nonblocking(OwnedFd::from(source)).unwrap(),
                socket: ours.clone(),
                offset: None,
                len: 10,
                more: true,
                method,
            };
            let end = submit(&proactor, Op::SendFile(op));
            turns(&proactor);
            assert!(end.borrow().is_none());
            assert!(!simulation.is_corked(&ours));
            feed.write_all(b"67890").unwrap();
            turns(&proactor);
            assert_eq!(end.borrow().as_ref().unwrap().transferred, 10);
            // What was said to follow does so at once.
            assert!(simulation.is_corked(&ours));
        });
    }
}

#[test]
fn an_hour_passes_at_once() {
    on_both(|simulation, proactor| {
        let hour = Duration::from_secs(3600);
        let at = proactor::now() + hour;
        let end = submit(&proactor, Op::Timeout { at });
        turns(&proactor);
        assert!(end.borrow().is_none());
        while end.borrow().is_none() {
            proactor.run_once(None).unwrap();
        }
        assert_eq!(simulation.elapsed(), hour);
    });
}

/// What transfers move by direct calls in one turn of the loop is bounded, all together, so that
/// others are heard in between; and all get on.
#[test]
fn a_turn_moves_a_bounded_amount() {
    const MANY: usize = 64;
    const BOUND: usize = 4 << 20;
    let file = zeros(8 << 20);
    for method in [Method::Inline, Method::Sendfile] {
        on_both(|_, proactor| {
            let mut peers = Vec::new();
            for _ in 0..MANY {
                let (ours, peer) = net::pair().unwrap();
                net::set_buffer_sizes(&ours, Some(1 << 20), None).unwrap();
                let op = SendFile {
                    header: SendBuf::new(),
                    file: file.clone(),
                    socket: ours,
                    offset: Some(0),
                    len: 8 << 20,
                    more: false,
                    method,
                };
                let _ = submit(&proactor, Op::SendFile(op));
                peers.push((std::fs::File::from(peer.into_owned().unwrap()), 0));
            }
            let mut buf = vec![0; 1 << 20];
            let mut most = 0;
            for turn in 0..40 {
                // What is submitted is begun at once, within the same bound: no turn's yet.
                if turn > 0 {
                    proactor.run_once(Some(Duration::ZERO)).unwrap();
                }
                let mut moved = 0;
                for (peer, total) in &mut peers {
                    while let Ok(n @ 1..) = peer.read(&mut buf) {
                        moved += n;
                        *total += n;
                    }
                }
                most = most.max(moved);
            }
            // One may have been let go beyond it.
            assert!(most <= BOUND + (1 << 20), "{method:?}: {most} in a turn");
            assert!(most > 0);
            let least = peers.iter().map(|(_, total)| *total).min();
            assert!(least > Some(0), "{method:?}: one of them got nothing");
        });
    }
}

fn zeros(len: u64) -> Fd {
    let name = format!(
        "{}/zeros-{}",
        env!("CARGO_TARGET_TMPDIR"),
        std::process::id()
    );
    let mut options = std::fs::File::options();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&name)
        .unwrap();
    std::fs::remove_file(name).unwrap();
    file.set_len(len).unwrap();
    Fd::new(OwnedFd::from(file))
}

#[test]
fn a_receive_that_fails_costs_no_buffer() {
    for backend in [BackendChoice::Ring, BackendChoice::Emulated] {
        let mut rough = Conditions::fair();
        rough.interrupted = 400;
        let _simulation = Simulation::new(2, rough);
        let builder = Proactor::builder().backend(backend);
        let proactor = builder.recv_buffers(2, 64).build().unwrap();
        let (ours, peer) = net::pair().unwrap();
        let got = Rc::new(RefCell::new(0));
        let count = Rc::clone(&got);
        proactor.submit(
            Op::RecvMulti { socket: ours },
            Callback::many(move |_, completion| match &completion.result {
                Ok(Output::Data(data)) => *count.borrow_mut() += data.len(),
                _ => assert!(completion.is_cancelled(), "{completion:?}"),
            }),
        );
        // Many times as many as there are buffers.
        let peer = peer.into_owned().ok().unwrap();
        let mut peer = std::os::unix::net::UnixStream::from(peer);
        peer.write_all(&[7; 64 * 200]).unwrap();
        for _ in 0..20_000 {
            proactor.run_once(Some(Duration::ZERO)).unwrap();
        }
        assert_eq!(*got.borrow(), 64 * 200, "{backend:?}");
    }
}
