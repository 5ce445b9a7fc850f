//! The shim by itself, for trying it without the shipped program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    atoll_shim::main()
}
