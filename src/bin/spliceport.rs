//! The program `spliceport`.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    spliceport::cli::main()
}
