//! Sends a file, behind a line with its name, to the first who connects.
//!
//! `cargo run --example hello -- README.md`, then `nc 127.0.0.1 9000`

use std::fs::File;
use std::net::TcpListener;

use spliceport::proactor::{Fd, Proactor};
use spliceport::{SendOptions, Transport, TransportOptions};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or("README.md".into());
    let address = args.next().unwrap_or("127.0.0.1:9000".into());

    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let (socket, peer) = listener.accept()?;

    let proactor = Proactor::new()?;
    let options = TransportOptions::new();
    let transport = Transport::new(&proactor, Fd::new(socket), Box::new(()), &options)?;
    transport.write(format!("{path}\n"))?;
    let send = transport.send_file_async(File::open(&path)?, SendOptions::new());
    let sent = proactor.block_on(send)??;
    println!("{peer}: {sent} bytes ({})", proactor.backend());
    Ok(())
}
