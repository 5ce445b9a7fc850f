//! Says whether KVM is worth using on this host.
#![expect(clippy::print_stdout, reason = "a program that reports")]

fn main() {
    let start = std::time::Instant::now();
    let result = atoll_kvm::probe();
    println!("{result:?} after {:?}", start.elapsed());
}
