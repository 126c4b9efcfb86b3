//! Whatever happens to connections and sends, nothing of them is left: descriptors, pipes,
//! operations, protocols.

mod common;

use std::rc::Rc;
use std::sync::Mutex;

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{Protocol, SendOptions, Source, Transport, TransportOptions};

/// Descriptors are the process's: one at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

struct Holder {
    transport: Option<Transport>,
    _token: Rc<()>,
}

impl Protocol for Holder {
    fn connection_made(&mut self, transport: &Transport) {
        self.transport = Some(transport.clone());
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

on_both_backends! {
    fn c24_nothing_is_left(proactor: Proactor) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let token = Rc::new(());
        let source = Fd::from(file(3_000_000));
        let mut before = None;
        for round in 0..12 {
            for route in ROUTES {
                for fate in 0..7 {
                    let (ours, peer) = tight_tcp();
                    let protocol = Box::new(Holder { transport: None, _token: Rc::clone(&token) });
                    let options = TransportOptions::new().reading(fate % 2 == 0);
                    let transport = Transport::new(&proactor, ours, protocol, &options).unwrap();
                    transport.write(contents(0, 100)).unwrap();
                    let held = Rc::clone(&token);
                    let source = Source::file(source.clone(), 1..);
                    let options = by(route)
                        .keep_connection(fate == 6)
                        .timeout(std::time::Duration::from_secs(100));
                    let handle = transport.send_file(source, options, move |_, _| drop(held));
                    let held = Rc::clone(&token);
                    transport.send_file(file(10), SendOptions::new(), move |_, _| drop(held));
                    transport.write(contents(0, 100)).unwrap();
                    for _ in 0..round {
                        proactor.run_once(Some(std::time::Duration::ZERO)).unwrap();
                    }
                    match fate {
                        0 | 1 => drop(peer),
                        2 => transport.abort(),
                        3 => handle.cancel(),
                        4 => {
                            transport.close();
                            transport.abort();
                        }
                        _ => {
                            // It is read, and ends well; or well enough.
                            let reader = read_until_error(peer);
                            if fate == 6 {
                                handle.cancel();
                            }
                            transport.close();
                            join(&proactor, reader);
                        }
                    }
                    if fate == 1 || fate == 3 {
                        // Nobody reads, so nobody is told where nothing is being sent.
                        for _ in 0..4 {
                            let turn = Some(std::time::Duration::from_millis(2));
                            proactor.run_once(turn).unwrap();
                        }
                        transport.abort();
                    }
                    drop(transport);
                    run_until(&proactor, "all is freed", || Rc::strong_count(&token) == 1);
                }
            }
            run_until(&proactor, "all has ended", || proactor.stats().in_flight == 0);
            assert_eq!(proactor.stats().pipes_leased, 0);
            let now = descriptors();
            // Pipes that wait in the pool, and the like, are there after the first rounds.
            match before {
                None if round < 4 => {}
                None => before = Some(now),
                Some(before) => assert!(now <= before + 4, "{before} descriptors, then {now}"),
            }
        }
        drop(proactor);
        let _ = source;
    }

    fn c35_nothing_is_left_of_a_proactor(proactor: Proactor) {
        let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
        let token = Rc::new(());
        let mut peers = Vec::new();
        for n in 0..20 {
            let (ours, peer) = tight_tcp();
            let protocol = Box::new(Holder { transport: None, _token: Rc::clone(&token) });
            let options = TransportOptions::new().reading(n % 2 == 0);
            let transport = Transport::new(&proactor, ours, protocol, &options).unwrap();
            if n % 3 > 0 {
                let held = Rc::clone(&token);
                let route = ROUTES[n % ROUTES.len()];
                transport.send_file(file(2_000_000), by(route), move |_, _| drop(held));
            }
            peers.push(peer);
        }
        run_a_while(&proactor);
        let before = descriptors();
        drop(proactor);
        assert_eq!(Rc::strong_count(&token), 1);
        assert!(descriptors() <= before - 20, "{} of {before} descriptors", descriptors());
        // The peers see the end.
        for peer in peers {
            let _ = read_until_error(peer).join().unwrap();
        }
    }
}
