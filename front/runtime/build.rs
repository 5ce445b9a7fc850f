//! How the static program is linked.

/// Gives the static program a fixed address and an entry point of its own.
///
/// Each container starts it twice (`sys/kernel/src/self_exe.rs`), so what a start costs counts: relocating 5,300 pointers on
/// 60 pages is more than reading the configuration, and libc's preparations are not needed before the second time
/// (`sys/kernel/src/entry.rs`).
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        for argument in ["-no-pie", "-static", "-Wl,--entry=atoll_start"] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}
