//! What a PC has on its board.

#![forbid(unsafe_code)]
