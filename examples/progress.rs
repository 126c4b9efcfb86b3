//! Sends a file to the first who connects, tells how far it is, and gives up after so many bytes.
//!
//! `cargo run --example progress -- FILE 127.0.0.1:9000 3000000`

use std::cell::OnceCell;
use std::fs::File;
use std::net::TcpListener;
use std::rc::Rc;

use spliceport::proactor::{Fd, Proactor};
use spliceport::{End, SendHandle, SendOptions, Transport, TransportOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("which file is to be sent?")?;
    let address = args.next().unwrap_or("127.0.0.1:9000".into());
    let enough = args.next().map_or(Ok(u64::MAX), |n| n.parse())?;

    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);
    let (socket, _) = listener.accept()?;
    let file = File::open(path)?;
    let len = file.metadata()?.len();

    let proactor = Proactor::new()?;
    let options = TransportOptions::new();
    let transport = Transport::new(&proactor, Fd::new(socket), Box::new(()), &options)?;
    // What a callback needs of the send is there only once the send is.
    let handle = Rc::new(OnceCell::<SendHandle>::new());
    let cancel = Rc::clone(&handle);
    let progress = move |_: &Transport, sent| {
        println!("{sent} of {len}");
        if sent >= enough
            && let Some(handle) = cancel.get()
        {
            handle.cancel();
        }
    };
    let send = transport.send_file_async(file, SendOptions::new().progress(progress));
    handle.get_or_init(|| send.handle());
    match proactor.block_on(send)? {
        Ok(sent) => println!("all {sent} bytes sent"),
        // The peer was promised more: the connection is cut.
        Err(e) if e.end == End::Cancelled => println!("cancelled after {} bytes", e.sent),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}
