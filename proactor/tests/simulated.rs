//! Operations on a simulated kernel: what real ones show seldom, or not at all.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use proactor::sim::{Conditions, Simulation};
use proactor::{
    BackendChoice, Callback, Completion, Fd, Method, Op, Proactor, SendBuf, SendFile, net,
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
