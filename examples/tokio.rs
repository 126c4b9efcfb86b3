//! A tokio server that sends a file to whoever connects. The proactor runs on a thread beside the
//! runtime; each connection is a task, and stays tokio's.
//!
//! `cargo run --features tokio --example tokio -- README.md`, then `nc 127.0.0.1 9000`

use std::fs::File;
use std::time::Duration;

use spliceport::proactor::{Fd, Proactor};
use spliceport::{FileSender, Source};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let file = File::open(args.next().unwrap_or("README.md".into()))?;
    let address = args.next().unwrap_or("127.0.0.1:9000".into());

    // One descriptor for all who are sent the file.
    let file = Fd::new(file);
    let sender = FileSender::spawn(Proactor::builder())?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        let (sender, file) = (sender.clone(), file.clone());
        tokio::spawn(async move {
            match serve(&sender, stream, file).await {
                Ok(sent) => println!("{peer}: {sent} bytes"),
                Err(e) => println!("{peer}: {e}"),
            }
        });
    }
}

async fn serve(sender: &FileSender, mut stream: TcpStream, file: Fd) -> std::io::Result<u64> {
    // What tokio has written leaves before the file, and what it writes then, after it.
    stream.write_all(b"here it comes\n").await?;
    let minute = Duration::from_secs(60);
    let send = sender.send(&stream, Source::file(file, ..)).timeout(minute);
    let sent = send.await?;
    stream.write_all(b"that was it\n").await?;
    Ok(sent)
}
