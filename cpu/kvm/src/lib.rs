//! The hardware-assisted backend over `/dev/kvm`.
