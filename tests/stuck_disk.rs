//! A disk that does not answer, for real: a FUSE file system whose reads wait until they are let
//! go. It delays those who read from it, and nobody else.

mod common;
#[path = "common/stuck.rs"]
mod stuck;

use std::cell::RefCell;
use std::fs::File;
use std::rc::Rc;
use std::time::Instant;

use common::*;
use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source};
use stuck::{SIZE, Stuck};

/// More than there are workers or pipes.
const READERS: usize = 48;

/// A stuck file system and its files; `None`, said so, where it can't be mounted.
fn mount() -> Option<(Stuck, tempfile::TempDir)> {
    let dir = tempfile::tempdir().expect("a directory");
    match Stuck::mount(dir.path()) {
        Ok(stuck) => {
            // Far beyond what a slow machine takes to get to the cancels.
            stuck.release_after(4 * LIMIT);
            Some((stuck, dir))
        }
        Err(e) => {
            not_run(format_args!(
                "a FUSE file system can't be mounted here (it takes root): {e}"
            ));
            None
        }
    }
}

on_both_backends! {
    fn c39_reads_that_do_not_return_delay_no_one_else(proactor: Proactor) {
        let Some((stuck, dir)) = mount() else { return };
        let mut waiting = Vec::new();
        for n in 0..READERS {
            let (transport, _record, peer) = open(&proactor);
            let source = File::open(dir.path().join(n.to_string())).expect("a stuck file");
            let outcome = send(&transport, source, SendOptions::new());
            transport.close();
            waiting.push((outcome, read_all(peer)));
        }
        run_until(&proactor, "reads that wait", || stuck.waiting() > 0);
        run_a_while(&proactor);
        // Small and large, hot: each is sent while the others wait.
        for len in [1_000, 100_000, 5_000_000] {
            let (transport, _record, peer) = open(&proactor);
            let reader = read_all(peer);
            let hot = file(len);
            let mut warm = Vec::new();
            std::io::Read::read_to_end(&mut hot.try_clone().expect("a clone"), &mut warm)
                .expect("the file is read");
            let outcome = send(&transport, Source::file(Fd::from(hot), 0..len), SendOptions::new());
            transport.close();
            outcome.succeed(&proactor, len);
            assert_same(&join(&proactor, reader), &contents(0, len as usize));
        }
        assert!(waiting.iter().all(|(outcome, _)| !outcome.is_there()));
        stuck.release();
        for (outcome, reader) in waiting {
            outcome.succeed(&proactor, SIZE);
            assert_eq!(join(&proactor, reader).len() as u64, SIZE);
        }
    }

    fn c29_cancels_and_aborts_of_reads_that_do_not_return(proactor: Proactor) {
        let Some((stuck, dir)) = mount() else { return };
        // The others would be read by the loop itself.
        let routes = [RouteChoice::Auto, RouteChoice::Force(Route::Copy), RouteChoice::Force(Route::Chain)];
        let mut all = Vec::new();
        for n in 0..READERS {
            let (transport, record, peer) = open(&proactor);
            let source = File::open(dir.path().join(n.to_string())).expect("a stuck file");
            let options = by(routes[n % routes.len()]).keep_connection(true);
            let outcome = send(&transport, source, options);
            all.push((transport, record, outcome, read_until_error(peer)));
        }
        run_until(&proactor, "reads that wait", || stuck.waiting() > 0);
        run_a_while(&proactor);
        for (n, (transport, _, outcome, _)) in all.iter().enumerate() {
            match n % 2 {
                0 => outcome.handle.cancel(),
                _ => transport.abort(),
            }
        }
        // A read into memory is left to its worker: nobody waits for it.
        let copies = || all.iter().skip(1).step_by(routes.len());
        run_until(&proactor, "the ends of copies", || copies().all(|(_, _, outcome, _)| outcome.is_there()));
        for (n, (_, record, outcome, _)) in copies().enumerate() {
            assert_eq!((outcome.sent(), outcome.end()), (0, End::Cancelled), "{n}");
            // The first was aborted, and every other one.
            match n % 2 {
                0 => run_until(&proactor, "the end", || record.is_lost()),
                _ => assert!(!record.is_lost(), "{n}"),
            }
        }
        // The loop turns, and others send.
        let (transport, _record, peer) = open(&proactor);
        let reader = read_all(peer);
        let hot = send(&transport, file(100_000), SendOptions::new());
        transport.close();
        hot.succeed(&proactor, 100_000);
        assert_same(&join(&proactor, reader), &contents(0, 100_000));
        // A splice has a pipe in hand, which can't be taken from it: these wait for the disk.
        assert!(stuck.waiting() > 0);
        let late = all.iter().filter(|(_, _, outcome, _)| !outcome.is_there()).count();
        assert!(late > 0);
        stuck.release();
        for (n, (transport, record, outcome, reader)) in all.into_iter().enumerate() {
            outcome.wait(&proactor);
            assert_eq!(outcome.end(), End::Cancelled, "{n}");
            transport.close();
            run_until(&proactor, "the end", || record.is_lost());
            let (got, error) = join(&proactor, reader);
            match n % 2 {
                // Kept, so that all that was counted arrives, and not a byte more.
                0 => assert_eq!((got.len() as u64, error.is_none()), (outcome.sent(), true), "{n}"),
                // The reset may cost the peer some.
                _ => assert!(got.len() as u64 <= outcome.sent(), "{n}"),
            }
        }
    }

    fn c35_drop_while_the_disk_does_not_return(proactor: Proactor) {
        let Some((stuck, dir)) = mount() else { return };
        let told = Rc::new(RefCell::new(vec![0; READERS]));
        let mut all = Vec::new();
        // The others would be read by the loop itself.
        let routes = [RouteChoice::Auto, RouteChoice::Force(Route::Copy), RouteChoice::Force(Route::Chain)];
        for n in 0..READERS {
            let (transport, record, peer) = open(&proactor);
            let source = File::open(dir.path().join(n.to_string())).expect("a stuck file");
            let told = Rc::clone(&told);
            let options = by(routes[n % routes.len()]).timeout(3 * LIMIT);
            transport.send_file(source, options, move |transport, outcome| {
                told.borrow_mut()[n] += 1;
                assert_eq!((outcome.sent, outcome.end), (0, End::Cancelled), "{n}");
                // What is done now does no harm.
                let _ = transport.write(&b"x"[..]);
            });
            // Behind it, and never begun.
            let behind = send_noted(&transport, &record, 1, file(10), SendOptions::new());
            all.push((transport, record, behind, read_until_error(peer)));
        }
        run_until(&proactor, "reads that wait", || stuck.waiting() > 0);
        run_a_while(&proactor);
        // Some had been cancelled already.
        for (.., behind, _) in all.iter().step_by(5) {
            behind.cancel();
        }
        let waiting = stuck.waiting();
        let start = Instant::now();
        drop(proactor);
        let took = start.elapsed();
        // The disk has not answered, and the drain is 2 s.
        assert!(stuck.waiting() >= waiting && waiting > 0);
        assert!(took < LIMIT / 2, "{took:?}");
        assert!(told.borrow().iter().all(|calls| *calls == 1), "{:?}", told.borrow());
        assert_eq!(Rc::strong_count(&told), 1, "the callbacks are dropped");
        for (n, (transport, record, _, reader)) in all.into_iter().enumerate() {
            assert_eq!(record.count(&Note::Sent(1, 0, End::Cancelled)), 1, "{n}");
            assert!(record.is_lost(), "{n}: {:?}", record.notes());
            transport.close();
            transport.abort();
            // Nobody waits for the disk at the other end either.
            let (got, _) = reader.join().expect("the peer did not panic");
            assert!(got.is_empty(), "{n}");
        }
        assert!(stuck.waiting() >= waiting);
        // What comes now comes to nobody.
        stuck.release();
    }
}
