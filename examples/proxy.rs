//! A TCP proxy: passes what it gets on one address on to another, and back.
//!
//! ```sh
//! cargo run --release --example proxy -- 127.0.0.1:8080 93.184.215.14:80
//! ```

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use spliceport::proactor::net::ListenOptions;
use spliceport::proactor::{Address, Fd, Proactor};
use spliceport::{Listener, Protocol, RelayOptions, Transport, TransportOptions, connect, relay};

/// Neither side is read from before both are joined, so that nothing gets here.
struct Side;

impl Protocol for Side {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A client, for whom the connection to the server is made.
struct Client {
    server: Address,
}

impl Protocol for Client {
    fn connection_made(&mut self, client: &Transport) {
        let proactor = client.proactor();
        let client = client.clone();
        let joined = move |server: std::io::Result<Transport>| match server {
            Ok(server) => {
                let options = RelayOptions::new().idle(Duration::from_secs(600));
                relay(&client, &server, options, |outcome| {
                    eprintln!("{outcome:?}")
                });
            }
            Err(error) => {
                eprintln!("the server can't be reached: {error}");
                client.abort();
            }
        };
        let options = TransportOptions::new().reading(false);
        connect(proactor, &self.server, options, Box::new(Side), joined);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(server)) = (args.next(), args.next()) else {
        return Err("usage: proxy ADDRESS:PORT SERVER:PORT".into());
    };
    let server = Address::from(server.parse::<SocketAddr>()?);
    let proactor = Proactor::new()?;
    let listener = Listener::bind(
        &proactor,
        &Address::from(listen.parse::<SocketAddr>()?),
        &ListenOptions::default(),
        TransportOptions::new().reading(false),
        move |_: &Fd| {
            let server = server.clone();
            Some(Box::new(Client { server }))
        },
    )?;
    println!("listening on {}", listener.local_addr()?);
    proactor.run()?;
    Ok(())
}
