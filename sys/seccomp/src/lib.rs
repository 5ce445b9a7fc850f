//! Seccomp profiles compiled to classic BPF.
