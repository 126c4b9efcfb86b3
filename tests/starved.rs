//! What has run out: descriptors, pipes, threads, memory that may be locked. In processes of their
//! own; where limits bind only users without privileges, as one of these.

mod common;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use common::process::in_processes_of_their_own;
use common::*;
use spliceport::proactor::{BackendChoice, BackendKind, Fd, Proactor};
use spliceport::{End, Route, RouteChoice, SendOptions, Source};

const LEN: u64 = 3_000_000;

/// A file of which nothing is in the page cache.
fn cold_file() -> Fd {
    let file = file(LEN);
    file.sync_all().unwrap();
    kernel::forget_cached(&file);
    Fd::from(file)
}

/// Each route carries a file, whichever way it takes in the end.
#[track_caller]
fn all_is_well(proactor: &Proactor, file: &Fd) {
    for route in ROUTES {
        let (outcome, body) = sandwich(proactor, tcp(), file.clone(), route);
        outcome.succeed(proactor, LEN);
        assert_same(&body, &contents(0, LEN as usize));
    }
}

/// More than there ever are at a time.
const DESCRIPTORS: u64 = 4096;

/// The numbers of all descriptors that are pipes'.
fn pipes() -> Vec<i32> {
    (0..2 * DESCRIPTORS as i32)
        .filter(|fd| kernel::pipe_size(fd, None).is_some())
        .collect()
}

/// A pipe that holds bytes, as a source.
fn full_pipe(len: usize) -> Source {
    let (reading, mut writing) = io::pipe().unwrap();
    std::thread::spawn(move || writing.write_all(&contents(0, len)));
    Source::file(OwnedFd::from(reading), ..)
}

/// The process's own memory that is in use, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<u64>().ok())
        .expect("it tells")
        << 10
}

in_processes_of_their_own! {
    fn c17_the_memory_of_a_thousand_stalled_clients(backend: BackendChoice) {
        const CLIENTS: usize = 1000;
        kernel::set_soft_limit(libc::RLIMIT_NOFILE, DESCRIPTORS);
        let proactor = build(builder(backend));
        let source = Fd::from(file(20_000_000));
        // What is made once is there before.
        all_is_well(&proactor, &Fd::from(file(LEN)));
        let before = resident();
        let mut stalled = Vec::new();
        for n in 0..CLIENTS {
            let (ours, peer) = tcp();
            spliceport::proactor::net::set_buffer_sizes(&ours, Some(64 << 10), None).unwrap();
            let (transport, record) = over(&proactor, ours);
            let outcome = send(&transport, Source::file(source.clone(), ..), by(ROUTES[n % ROUTES.len()]));
            stalled.push((transport, record, peer, outcome));
        }
        for (_, _, peer, _) in &stalled {
            peer.set_nonblocking(true).unwrap();
            run_until(&proactor, "a beginning", || peer.peek(&mut [0]).is_ok_and(|n| n > 0));
        }
        run_a_while(&proactor);
        let grown = resident().saturating_sub(before);
        assert!(stalled.iter().all(|(_, _, _, outcome)| !outcome.is_there()));
        // A pooled buffer for those that are copied, and little for the others.
        assert!(grown < CLIENTS as u64 * (64 << 10), "{grown} bytes");
    }

    fn c34_no_descriptors(backend: BackendChoice) {
        let proactor = build(builder(backend));
        let file = Fd::from(file(LEN));
        kernel::set_soft_limit(libc::RLIMIT_NOFILE, 256);
        let connections: Vec<_> = ROUTES.iter().map(|route| (open(&proactor), *route)).collect();
        run_a_while(&proactor);
        let mut filling = Vec::new();
        for ((transport, _record, peer), route) in connections {
            while let Ok(one) = File::open("/dev/null") {
                filling.push(one);
            }
            let reader = read_all(peer);
            let outcome = send(&transport, file.clone(), by(route));
            outcome.succeed(&proactor, LEN);
            match route {
                // A pipe can't be had, and copying takes none.
                RouteChoice::Force(Route::Chain | Route::Inline) => {
                    assert_eq!(outcome.routes(), [Route::Copy]);
                }
                RouteChoice::Force(route) => assert_eq!(outcome.routes(), [route]),
                RouteChoice::Auto => {}
            }
            transport.close();
            assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
        }
        drop(filling);
        for route in ROUTES {
            let (outcome, _) = sandwich(&proactor, tcp(), file.clone(), route);
            outcome.succeed(&proactor, LEN);
            if let RouteChoice::Force(route) = route {
                assert_eq!(outcome.routes(), [route], "it has recovered");
            }
        }
    }

    fn c34_no_pipes_in_the_system(backend: BackendChoice) {
        let file = Fd::from(file(LEN));
        for errno in [libc::ENFILE, libc::ENOMEM] {
            // The refusal is this thread's, for good.
            let file = file.clone();
            let thread = std::thread::spawn(move || {
                let proactor = build(builder(backend));
                kernel::refuse(&[libc::SYS_pipe2], errno);
                all_is_well(&proactor, &file);
                // One that must not be copied does without a pipe, where it can.
                let (transport, _record, peer) = open(&proactor);
                let reader = read_all(peer);
                let native = SendOptions::new().native_only(true);
                let outcome = send(&transport, file, native);
                outcome.succeed(&proactor, LEN);
                assert_eq!(outcome.routes(), [Route::Sendfile]);
                transport.close();
                assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
            });
            thread.join().unwrap();
        }
    }

    fn c34_no_threads(backend: BackendChoice) {
        if !kernel::is_root("a user who may start no thread") {
            return;
        }
        let proactor = build(builder(backend));
        let cold: Vec<_> = ROUTES.iter().map(|_| cold_file()).collect();
        let later: Vec<_> = ROUTES.iter().map(|_| cold_file()).collect();
        kernel::become_nobody();
        let before = kernel::set_soft_limit(libc::RLIMIT_NPROC, 0);
        for (route, file) in ROUTES.into_iter().zip(cold) {
            let (transport, _record, mut peer) = open(&proactor);
            peer.set_nonblocking(true).unwrap();
            let outcome = send(&transport, file, by(route));
            let mut got = Vec::new();
            let mut take = || {
                let _ = io::Read::read_to_end(&mut peer, &mut got);
            };
            // No reader on a thread here.
            run_until(&proactor, "a send's end", || {
                take();
                outcome.is_there()
            });
            // Nothing hangs: it goes another way, or says what is missing.
            match outcome.end() {
                End::EndOfFile => assert_eq!(outcome.sent(), LEN),
                end => {
                    assert_eq!(end, End::Failed);
                    // The kernel may have kept, or read ahead, some of it.
                    assert!(outcome.sent() < LEN);
                    assert!(outcome.text().contains("thread"), "{}", outcome.text());
                    assert_eq!(outcome.kind(), Some(io::ErrorKind::WouldBlock));
                }
            }
            take();
            assert_same(&got, &contents(0, outcome.sent() as usize));
        }
        kernel::set_soft_limit(libc::RLIMIT_NPROC, before);
        for file in later {
            all_is_well(&proactor, &file);
        }
    }

    fn c37_little_memory_may_be_locked(backend: BackendChoice) {
        if !kernel::is_root("a user who may lock no memory") {
            return;
        }
        let file = Fd::from(file(LEN));
        kernel::become_nobody();
        for limit in [1 << 20, 128 << 10, 64 << 10, 16 << 10, 0] {
            kernel::set_soft_limit(libc::RLIMIT_MEMLOCK, limit);
            // Rings count towards it on some kernels, and may not fit.
            let auto = builder(match backend {
                BackendChoice::Ring => BackendChoice::Auto,
                other => other,
            });
            let proactor = auto.build().unwrap();
            if let Some(refused) = &proactor.probe().ring_refused
                && !is_denied()
            {
                assert!(refused.advice.contains("RLIMIT_MEMLOCK"), "{refused:?}");
                assert!(limit < 64 << 10, "{limit} bytes are enough for a small ring");
                let error = builder(BackendChoice::Ring).build().err().unwrap();
                assert!(error.to_string().contains("RLIMIT_MEMLOCK"), "{error}");
            }
            all_is_well(&proactor, &file);
        }
    }

    fn c37_what_is_not_to_be_had_and_what_has_run_out(backend: BackendChoice) {
        if is_denied() {
            return not_run("io_uring is denied already");
        }
        let io_uring = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
        for call in io_uring {
            for (errno, word) in [
                (libc::EPERM, "seccomp"),
                (libc::ENOSYS, "seccomp"),
                (libc::ENOMEM, "RLIMIT_MEMLOCK"),
                (libc::EMFILE, ""),
                (libc::ENFILE, ""),
            ] {
                // The refusal is this thread's, for good.
                let thread = std::thread::spawn(move || {
                    kernel::refuse(&[call], errno);
                    let choice = match backend {
                        BackendChoice::Ring => BackendChoice::Auto,
                        other => other,
                    };
                    let built = Proactor::builder().backend(choice).build();
                    let exhausted = errno == libc::EMFILE || errno == libc::ENFILE;
                    if exhausted && call == libc::SYS_io_uring_setup && choice == BackendChoice::Auto {
                        // An error, and no other backend.
                        assert_eq!(built.err().unwrap().raw_os_error(), Some(errno));
                        return;
                    }
                    let proactor = built.unwrap();
                    assert_eq!(proactor.backend(), BackendKind::Emulated);
                    if choice == BackendChoice::Auto {
                        let refused = proactor.probe().ring_refused.clone().unwrap();
                        let setup = call == libc::SYS_io_uring_setup;
                        assert!(!setup || refused.advice.contains(word), "{refused:?}");
                        assert!(refused.what.contains("io_uring"), "{refused:?}");
                    }
                    let (outcome, body) = sandwich(&proactor, tcp(), file(70_000), RouteChoice::Auto);
                    outcome.succeed(&proactor, 70_000);
                    assert_same(&body, &contents(0, 70_000));
                });
                thread.join().unwrap();
            }
        }
    }

    fn c42_the_users_pipes_are_used_up(backend: BackendChoice) {
        if !kernel::is_root("a user whose pipes are used up") {
            return;
        }
        let file = Fd::from(file(LEN));
        kernel::raise_descriptor_limit(4096);
        kernel::become_nobody();
        // Large ones until no more are had, then small ones until new ones have two pages at most.
        let mut taken = Vec::new();
        let smallest = loop {
            let (reading, writing) = io::pipe().unwrap();
            kernel::pipe_size(&writing, Some(1 << 20));
            let size = kernel::pipe_size(&writing, None).unwrap();
            taken.push((reading, writing));
            if size <= 2 * 4096 {
                break size;
            }
            assert!(taken.len() < 2000, "pipes are without end: {size}");
        };
        assert!(smallest > 0);
        let proactor = build(builder(backend));
        all_is_well(&proactor, &file);
        for route in ROUTES {
            let (outcome, body) = sandwich(&proactor, tcp(), full_pipe(300_000), route);
            outcome.succeed(&proactor, 300_000);
            assert_same(&body, &contents(0, 300_000));
        }
        // Many at once, the peers slow.
        let mut sends = Vec::new();
        for n in 0..20 {
            let (ours, peer) = tight_tcp();
            let (transport, _record) = over(&proactor, ours);
            let outcome = send(&transport, file.clone(), by(ROUTES[n % ROUTES.len()]));
            transport.close();
            sends.push((outcome, peer));
        }
        run_a_while(&proactor);
        let sends: Vec<_> = sends.into_iter().map(|(o, peer)| (o, read_all(peer))).collect();
        for (outcome, reader) in sends {
            outcome.succeed(&proactor, LEN);
            assert_same(&join(&proactor, reader), &contents(0, LEN as usize));
        }
        drop(taken);
        all_is_well(&proactor, &file);
    }

    fn pipes_are_as_large_as_a_user_may_have_them(backend: BackendChoice) {
        if !kernel::is_root("a user whose pipes are bounded") {
            return;
        }
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/fs/{name}")).unwrap();
            text.trim().parse::<usize>().unwrap()
        };
        // To a user without privileges, of one pipe and of all of them.
        let (largest, quota) = (read("pipe-max-size"), read("pipe-user-pages-soft") * 4096);
        if largest > 16 << 20 || quota == 0 || quota > 256 << 20 {
            return not_run("pipes are bounded too little by this kernel's settings");
        }
        let file = Fd::from(file(LEN));
        kernel::raise_descriptor_limit(DESCRIPTORS);
        kernel::become_nobody();
        // Sends inline, and says how large the pipe was, one that is not among these.
        let largest_used = |proactor: &Proactor, others: &[i32]| {
            let route = RouteChoice::Force(Route::Inline);
            let (outcome, body) = sandwich(proactor, tcp(), file.clone(), route);
            outcome.succeed(proactor, LEN);
            assert_eq!(outcome.routes(), [Route::Inline]);
            assert_same(&body, &contents(0, LEN as usize));
            let mut new = pipes();
            new.retain(|fd| !others.contains(fd));
            let sizes = new.iter().filter_map(|fd| kernel::pipe_size(fd, None));
            sizes.max().unwrap() as usize
        };
        let others = pipes();
        let proactor = build(builder(backend).pipe_size(4 * largest));
        assert_eq!(largest_used(&proactor, &others), largest);
        drop(proactor);

        let mut taken = Vec::new();
        loop {
            let (reading, writing) = io::pipe().unwrap();
            let grown = kernel::pipe_size(&writing, Some(largest as i32));
            taken.push((reading, writing));
            if grown.is_none() {
                break;
            }
        }
        let others = pipes();
        let proactor = build(builder(backend).pipe_size(largest));
        assert!(largest_used(&proactor, &others) < largest);
        // The same one grows when there is room.
        drop(taken);
        assert_eq!(largest_used(&proactor, &others), largest);
        assert_eq!(proactor.stats().pipes_idle, 1);
    }
}
