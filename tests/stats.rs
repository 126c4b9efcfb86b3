//! What is counted, and (with the feature `tracing`) the span of each send.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;

use common::*;
use spliceport::proactor::Proactor;
use spliceport::{
    Protocol, ReceiveOptions, Route, RouteChoice, Sink, Source, Transport, TransportOptions,
    TransportStats,
};

on_both_backends! {
    fn bytes_are_counted_by_route_and_sends_by_end(proactor: Proactor) {
        let before = TransportStats::of(&proactor);
        assert_eq!(before, TransportStats::default());
        let (transport, _, peer) = open(&proactor);
        let peer = read_all(peer);
        transport.write(vec![0; 1000]).unwrap();
        let routes = [Route::Copy, Route::Chain, Route::Inline, Route::Sendfile];
        for (n, route) in routes.into_iter().enumerate() {
            let options = by(RouteChoice::Force(route));
            send(&transport, file(100_000 + n as u64), options).succeed(&proactor, 100_000 + n as u64);
        }
        let cut = Source::file(file(5000), 0..9000);
        let options = by(RouteChoice::Force(Route::Copy)).keep_connection(true);
        send(&transport, cut, options).wait(&proactor);
        let stats = TransportStats::of(&proactor);
        assert_eq!(stats.connections, 1);
        assert_eq!((stats.sends, stats.written), (5, 1000));
        let sent = stats.sent;
        assert_eq!((sent.copy, sent.chain), (105_000, 100_001));
        assert_eq!((sent.inline, sent.sendfile), (100_002, 100_003));
        assert_eq!(sent.total(), 405_006);
        assert_eq!((stats.ends.succeeded, stats.ends.truncated), (4, 1));
        // What can't be spliced is copied, and that is counted.
        let maps = std::fs::File::open("/proc/self/maps").unwrap();
        send(&transport, maps, by(RouteChoice::Force(Route::Chain))).wait(&proactor);
        assert_eq!(TransportStats::of(&proactor).refused, 1);
        transport.close();
        join(&proactor, peer);
        run_until(&proactor, "the end", || TransportStats::of(&proactor).connections == 0);
    }

    fn a_protocol_is_told_of_the_bytes_that_left(proactor: Proactor) {
        // What was told, and whether the connection was lost by then.
        #[derive(Clone, Default)]
        struct Told(Rc<RefCell<Vec<(u64, bool)>>>);
        impl Protocol for Told {
            fn connection_made(&mut self, transport: &Transport) {
                transport.tell_bytes_sent(true);
            }
            fn data_received(&mut self, _: &Transport, _: &[u8]) {}
            fn bytes_sent(&mut self, transport: &Transport, total: u64) {
                assert!(transport.bytes_sent() >= total);
                self.0.borrow_mut().push((total, false));
            }
            fn connection_lost(&mut self, _: Option<std::io::Error>) {
                self.0.borrow_mut().push((0, true));
            }
        }
        for route in ROUTES {
            let told = Told::default();
            let (ours, peer) = tight_tcp();
            let (protocol, options) = (Box::new(told.clone()), TransportOptions::new());
            let transport = Transport::new(&proactor, ours, protocol, &options).unwrap();
            let peer = read_all(peer);
            transport.write(vec![0; 1000]).unwrap();
            let sent = send(&transport, file(300_000), by(route));
            // All of it has left, and this is known, when the last of the callbacks comes.
            let bytes = Source::bytes(vec![1; 5000]);
            send(&transport, bytes, by(route)).succeed(&proactor, 5000);
            assert_eq!(sent.sent(), 300_000);
            assert_eq!(transport.bytes_sent(), 306_000);
            transport.close();
            join(&proactor, peer);
            let lost = || told.0.borrow().last() == Some(&(0, true));
            run_until(&proactor, "the end", lost);
            let told = told.0.borrow();
            assert!(told.windows(2).all(|two| two[0].0 < two[1].0 || two[1].1), "{told:?}");
            assert_eq!(told[told.len() - 2], (306_000, false));
        }
    }

    fn the_bytes_of_a_broken_connection_are_known(proactor: Proactor) {
        let (transport, record, peer) = open(&proactor);
        let sent = send(&transport, file(50 << 20), by(RouteChoice::Auto));
        let reading = std::thread::spawn(move || {
            let mut peer = peer;
            peer.read_exact(&mut vec![0; 8 << 20]).unwrap();
            peer
        });
        let peer = join(&proactor, reading);
        transport.abort();
        sent.wait(&proactor);
        run_until(&proactor, "the end", || record.is_lost());
        assert!((8 << 20..50 << 20).contains(&sent.sent()), "{}", sent.sent());
        assert_eq!(transport.bytes_sent(), sent.sent());
        drop(peer);
    }

    fn received_bytes_are_counted_too(proactor: Proactor) {
        let (transport, _, mut peer) = open(&proactor);
        peer.write_all(&contents(0, 30_000)).unwrap();
        let sink = Sink::file(empty_file(), 0..30_000);
        let receive = transport.receive_file_async(sink, ReceiveOptions::new());
        assert_eq!(proactor.block_on(receive).unwrap().unwrap(), 30_000);
        let stats = TransportStats::of(&proactor);
        assert_eq!((stats.receives, stats.received.total()), (1, 30_000));
        assert_eq!((stats.sends, stats.ends.succeeded), (0, 1));
    }

    fn c28_a_receive_that_is_dropped_leaves_the_rest_to_the_protocol(proactor: Proactor) {
        let (transport, record, mut peer) = open(&proactor);
        let sink = Sink::file(empty_file(), 0..30_000);
        let receive = transport.receive_file_async(sink, ReceiveOptions::new());
        run_a_while(&proactor);
        drop(receive);
        peer.write_all(b"for the protocol").unwrap();
        run_until(&proactor, "what follows", || record.received() == b"for the protocol");
        assert_eq!(TransportStats::of(&proactor).ends.cancelled, 1);
        // With a count.
        let sink = Sink::file(empty_file(), 0..30_000);
        let receive = transport.receive_file_async(sink, ReceiveOptions::new());
        peer.write_all(&contents(0, 10_000)).unwrap();
        drop(peer);
        let error = proactor.block_on(receive).unwrap().unwrap_err();
        assert_eq!(error.received, 10_000);
    }
}

#[cfg(feature = "tracing")]
mod spans {
    use super::*;
    use std::fmt::Debug;
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Keeps what it is told of spans, a line for each value and each end.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Visit for Lines {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            self.0.lock().unwrap().push(format!("{field}={value:?}"));
        }
    }

    impl Subscriber for Lines {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("spliceport")
        }

        fn new_span(&self, span: &Attributes<'_>) -> Id {
            let name = span.metadata().name();
            self.0.lock().unwrap().push(name.to_owned());
            span.record(&mut self.clone());
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, values: &Record<'_>) {
            values.record(&mut self.clone());
        }

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}

        fn try_close(&self, _: Id) -> bool {
            self.0.lock().unwrap().push("closed".to_owned());
            true
        }
    }

    #[test]
    fn a_span_for_each_send_says_how_it_ended() {
        let lines = Lines::default();
        tracing::subscriber::with_default(lines.clone(), || {
            let proactor = Proactor::new().unwrap();
            let (transport, _, _peer) = open(&proactor);
            let options = by(RouteChoice::Force(Route::Inline));
            send(&transport, file(1000), options).succeed(&proactor, 1000);
            let cut = Source::file(file(5), 0..9);
            let options = by(RouteChoice::Force(Route::Copy));
            send(&transport, cut, options).wait(&proactor);
        });
        let expected = "send_file id=0 bytes=1000 end=EndOfFile routes={Inline} closed \
             send_file id=1 bytes=5 end=Truncated routes={Copy} \
             error=the source ended before the promised length closed";
        assert_eq!(lines.0.lock().unwrap().join(" "), expected);
    }
}
