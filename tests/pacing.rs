//! Pacing: never ahead of the rate, whatever the machine is busy with; and not behind it either,
//! where time is simulated, so that nothing but the sender's own timers decides.

mod common;

use std::cell::Cell;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::sim::{Conditions, Simulation};
use spliceport::proactor::{BackendChoice, Fd, Proactor, net};

/// What may have left after so long at most: the rate's worth, and a burst of a tenth of a second's
/// at the very most.
fn most(rate: u64, after: Duration) -> f64 {
    rate as f64 * (after.as_secs_f64() + 0.1) + 1.0
}

on_both_backends! {
    fn c36_pacing(proactor: Proactor) {
        // Side by side, a second's worth each, behind something that is not paced.
        const HEAD: &[u8] = b"head";
        let rate = 400_000_u64;
        let mut sends = Vec::new();
        for route in ROUTES {
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            transport.write(HEAD).unwrap();
            let done = Rc::new(Cell::new(false));
            let end = Rc::clone(&done);
            let start = Instant::now();
            transport.send_file(file(rate), by(route).rate(rate), move |transport, outcome| {
                assert!(outcome.is_success(), "{outcome:?}");
                end.set(true);
                transport.close();
            });
            sends.push((transport, start, done, reader));
        }
        run_until(&proactor, "paced sends", || {
            for (transport, start, ..) in &sends {
                // Looked at before the clock is: a machine that is slow only allows for more.
                let sent = transport.bytes_sent().saturating_sub(HEAD.len() as u64);
                let after = start.elapsed();
                assert!(sent as f64 <= most(rate, after), "{sent} after {after:?}");
            }
            sends.iter().all(|(_, _, done, _)| done.get())
        });
        for (.., reader) in sends {
            let expected = [HEAD, &contents(0, rate as usize)].concat();
            assert_same(&join(&proactor, reader), &expected);
        }
    }
}

#[test]
fn c36_pacing_by_the_clock() {
    const SECONDS: u64 = 3;
    for backend in [BackendChoice::Ring, BackendChoice::Emulated] {
        for route in ROUTES {
            for rate in [10, 1000, 500_000, 20_000_000_u64] {
                let what = format!("{backend:?} {route:?} {rate}");
                let simulation = Simulation::new(1, Conditions::fair());
                let proactor = Proactor::builder().backend(backend).build().unwrap();
                let (ours, peer) = net::pair().unwrap();
                let (transport, _record) = over(&proactor, ours);
                let sent = paced(&simulation, &proactor, &transport, peer, rate, route);
                // Each second brings a second's worth.
                let at = |time: u64| {
                    let time = Duration::from_secs(time);
                    let until = sent.iter().take_while(|(at, _)| *at <= time);
                    until.last().map_or(0, |(_, bytes)| *bytes)
                };
                for second in 0..SECONDS {
                    let brought = at(second + 1) - at(second);
                    assert!(
                        brought >= rate * 9 / 10,
                        "{what}: {brought} in second {second}"
                    );
                    assert!(
                        brought <= rate * 11 / 10,
                        "{what}: {brought} in second {second}"
                    );
                }
            }
        }
    }

    /// Sends more than that time's worth; gives when how much had left.
    fn paced(
        simulation: &Simulation,
        proactor: &Proactor,
        transport: &spliceport::Transport,
        peer: Fd,
        rate: u64,
        route: spliceport::RouteChoice,
    ) -> Vec<(Duration, u64)> {
        let file = file(rate * (SECONDS + 1));
        let mut peer = UnixStream::from(peer.into_owned().ok().unwrap());
        let mut bytes = vec![0; 1 << 20];
        let outcome = send(transport, file, by(route).rate(rate));
        let start = simulation.elapsed();
        let mut sent = Vec::new();
        while simulation.elapsed() - start <= Duration::from_secs(SECONDS) {
            proactor.run_once(None).unwrap();
            while peer.read(&mut bytes).is_ok_and(|n| n > 0) {}
            sent.push((simulation.elapsed() - start, transport.bytes_sent()));
            assert!(!outcome.is_there());
        }
        sent
    }
}
