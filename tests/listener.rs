//! How accepting fails, and recovers; what a process's descriptors are to others.

mod common;

use std::cell::RefCell;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::time::{Duration, Instant};

use common::*;
use spliceport::proactor::net::ListenOptions;
use spliceport::proactor::{Address, BackendChoice, Fd, Proactor};
use spliceport::{Listener, Route, RouteChoice, TransportOptions, connect};

/// Descriptors and warnings are the process's: one case at a time.
fn alone(backend: BackendChoice, case: fn(Proactor)) {
    static ALONE: Mutex<()> = Mutex::new(());
    static START: Once = Once::new();
    START.call_once(|| {
        INHERITED.get_or_init(inherited);
        log::set_logger(&Warnings).unwrap();
        log::set_max_level(log::LevelFilter::Warn);
    });
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    with(backend, case);
}

static WARNINGS: AtomicUsize = AtomicUsize::new(0);

struct Warnings;

impl log::Log for Warnings {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() <= log::Level::Warn && record.args().to_string().contains("accepted") {
            WARNINGS.fetch_add(1, Ordering::SeqCst);
        }
    }
    fn flush(&self) {}
}

/// The descriptors that a program gets which is started now.
fn inherited() -> String {
    let shown = std::process::Command::new("sh")
        .args(["-c", "ls /proc/$$/fd"])
        .output()
        .unwrap();
    String::from_utf8(shown.stdout).unwrap()
}

/// Those that it gets before there is anything of ours.
static INHERITED: OnceLock<String> = OnceLock::new();

fn listen(proactor: &Proactor, record: &Record) -> (Listener, SocketAddr) {
    let any = Address::from("127.0.0.1:0".parse::<SocketAddr>().unwrap());
    let record = record.clone();
    let factory = move |_: &Fd| Some(record.protocol());
    let (listen, options) = (ListenOptions::default(), TransportOptions::new());
    let listener = Listener::bind(proactor, &any, &listen, options, factory).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address.parse().unwrap())
}

/// The turns that the loop makes in a while with nothing to do but to try again.
fn turns(proactor: &Proactor, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut turns = 0;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        proactor.run_once(Some(left)).unwrap();
        turns += 1;
    }
    turns
}

fn c34_exhausted_descriptors(proactor: Proactor) {
    let record = Record::new();
    let (listener, address) = listen(&proactor, &record);
    let before = common::kernel::set_soft_limit(libc::RLIMIT_NOFILE, 64);
    for round in 1..3 {
        let warnings = WARNINGS.load(Ordering::SeqCst);
        let mut filling = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            filling.push(file);
        }
        let mut clients = Vec::new();
        for _ in 0..3 {
            // The client gets the one that comes free.
            filling.pop();
            clients.push(TcpStream::connect(address).unwrap());
        }
        let turns = turns(&proactor, Duration::from_millis(450));
        assert!(turns < 40, "{turns}");
        assert_eq!(record.count(&Note::Made), 3 * (round - 1));
        assert_eq!(WARNINGS.load(Ordering::SeqCst), warnings + 1);
        drop(filling);
        run_until(&proactor, "the recovery", || {
            record.count(&Note::Made) == 3 * round
        });
        drop(clients);
        run_a_while(&proactor);
    }
    // What can be spared is given up, and nobody waits.
    let spare: Rc<RefCell<Vec<File>>> = Rc::default();
    let gives = Rc::clone(&spare);
    listener.on_exhausted(move || gives.borrow_mut().pop().is_some());
    while let Ok(file) = File::open("/dev/null") {
        spare.borrow_mut().push(file);
    }
    let (warnings, spared) = (WARNINGS.load(Ordering::SeqCst), spare.borrow().len());
    spare.borrow_mut().pop();
    let client = TcpStream::connect(address).unwrap();
    run_until(&proactor, "one more", || record.count(&Note::Made) == 7);
    assert!(spare.borrow().len() < spared - 1);
    // And a panic is no more than nothing to give.
    listener.on_exhausted(|| panic!("on purpose"));
    spare.borrow_mut().pop();
    while let Ok(file) = File::open("/dev/null") {
        spare.borrow_mut().push(file);
    }
    spare.borrow_mut().pop();
    let other = TcpStream::connect(address).unwrap();
    run_until(&proactor, "the panic", || {
        WARNINGS.load(Ordering::SeqCst) == warnings + 1
    });
    spare.borrow_mut().clear();
    run_until(&proactor, "the recovery", || record.count(&Note::Made) == 8);
    drop((client, other));
    common::kernel::set_soft_limit(libc::RLIMIT_NOFILE, before);
}

fn c34_what_can_not_listen_is_refused(proactor: Proactor) {
    let (connected, _peer) = tcp();
    for fd in [connected, Fd::from(file(1))] {
        let (record, options) = (Record::new(), TransportOptions::new());
        let factory = move |_: &Fd| Some(record.protocol());
        let refused = Listener::from_fd(&proactor, fd, options, factory).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    }
}

fn c34_forbidden(proactor: Proactor) {
    let record = Record::new();
    let (_listener, address) = listen(&proactor, &record);
    let warnings = WARNINGS.load(Ordering::SeqCst);
    // Of this thread alone, for good. A ring does not ask.
    common::kernel::refuse(&[libc::SYS_accept4], libc::EPERM);
    let client = TcpStream::connect(address).unwrap();
    let turns = turns(&proactor, Duration::from_millis(450));
    assert!(turns < 40, "{turns}");
    let warnings = WARNINGS.load(Ordering::SeqCst) - warnings;
    assert_eq!(warnings + record.count(&Note::Made), 1);
    drop(client);
}

fn c40_nothing_is_inherited(proactor: Proactor) {
    let record = Record::new();
    let (_listener, address) = listen(&proactor, &record);
    let clients: Vec<_> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let client = Record::new();
    let to = Address::from(address);
    let options = TransportOptions::new();
    let connecting = connect(&proactor, &to, options, client.protocol(), |_| {});
    run_until(&proactor, "the connections", || {
        record.count(&Note::Made) == 4
    });
    // Pipes are under way as well.
    let (ours, _peer) = tight_tcp();
    let (transport, _record) = over(&proactor, ours);
    let chain = by(RouteChoice::Force(Route::Chain));
    let outcome = send(&transport, file(3_000_000), chain);
    run_a_while(&proactor);
    assert!(!outcome.is_there());
    let during = inherited();
    assert_eq!(Some(&during), INHERITED.get());
    assert!(during.lines().count() >= 3, "{during}");
    drop((clients, connecting));
}

mod ring {
    use super::*;
    #[test]
    fn c40_nothing_is_inherited() {
        alone(BackendChoice::Ring, super::c40_nothing_is_inherited);
    }
    #[test]
    fn c34_exhausted_descriptors() {
        alone(BackendChoice::Ring, super::c34_exhausted_descriptors);
    }
    #[test]
    fn c34_what_can_not_listen_is_refused() {
        alone(
            BackendChoice::Ring,
            super::c34_what_can_not_listen_is_refused,
        );
    }
    #[test]
    fn c34_forbidden() {
        alone(BackendChoice::Ring, super::c34_forbidden);
    }
}

mod emulated {
    use super::*;
    #[test]
    fn c40_nothing_is_inherited() {
        alone(BackendChoice::Emulated, super::c40_nothing_is_inherited);
    }
    #[test]
    fn c34_exhausted_descriptors() {
        alone(BackendChoice::Emulated, super::c34_exhausted_descriptors);
    }
    #[test]
    fn c34_what_can_not_listen_is_refused() {
        alone(
            BackendChoice::Emulated,
            super::c34_what_can_not_listen_is_refused,
        );
    }
    #[test]
    fn c34_forbidden() {
        alone(BackendChoice::Emulated, super::c34_forbidden);
    }
}
