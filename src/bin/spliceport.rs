//! The program `spliceport`.

fn main() -> std::process::ExitCode {
    spliceport::cli::main()
}
