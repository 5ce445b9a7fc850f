//! Container networks: plans for bridges, addresses and rules, and the code that applies them.
