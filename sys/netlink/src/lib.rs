//! Synchronous rtnetlink and nf_tables netlink requests.
