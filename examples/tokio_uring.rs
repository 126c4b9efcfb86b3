//! A tokio-uring server that sends a file to whoever connects; all in one thread.
//!
//! `cargo run --features tokio-uring --example tokio_uring -- README.md`, then `nc 127.0.0.1 9000`

use std::rc::Rc;

use spliceport::FileSender;
use spliceport::proactor::Proactor;
use spliceport::tokio_uring::{Driver, send_file};
use tokio_uring::fs::File;
use tokio_uring::net::TcpListener;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap_or("README.md".into());
    let address = args.next().unwrap_or("127.0.0.1:9000".into()).parse()?;

    tokio_uring::start(async {
        let proactor = Rc::new(Proactor::new()?);
        let sender = FileSender::new(&proactor);
        tokio_uring::spawn(Driver::new(proactor)?);
        let file = Rc::new(File::open(path).await?);
        let listener = TcpListener::bind(address)?;
        println!("listening on {}", listener.local_addr()?);
        loop {
            let (stream, peer) = listener.accept().await?;
            let (sender, file) = (sender.clone(), Rc::clone(&file));
            tokio_uring::spawn(async move {
                let send = send_file(&sender, &stream, &file, ..).header("here it comes\n");
                match send.await {
                    Ok(sent) => println!("{peer}: {sent} bytes"),
                    Err(e) => println!("{peer}: {e}"),
                }
            });
        }
    })
}
