//! Synchronous rtnetlink and nf_tables requests, and network namespaces to send them from.
//!
//! ```text
//! [route::Request]  ─┐                       ┌─ acknowledgement or errno per request
//!                    ├─► one send() ► kernel ┤
//! nft::Table        ─┘   (one transaction)   └─ dumps: links, addresses, routes
//! ```
//!
//! Requests are data: they print, compare and are encoded without a socket, so whoever decides can be
//! tested without root. Every call opens, uses and closes a socket in the calling thread's network
//! namespace; [`netns`] runs a call in another one. No threads stay behind, no signal is touched,
//! and nothing is executed.
//!
//! The crate never decides: names, addresses and rules come from `atoll-network`.
#![expect(
    unsafe_code,
    reason = "unshare(2) for a new network namespace is an unsafe call in rustix"
)]

mod error;
mod mac;
pub mod netns;
pub mod nft;
pub mod route;
mod socket;

pub use error::Error;
pub use mac::MacAddr;
