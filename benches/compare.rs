//! The program of all benchmarks: see the library, and README.md beside this file.

fn main() -> std::process::ExitCode {
    spliceport_benches::main()
}
