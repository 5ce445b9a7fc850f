//! OCI runtime configuration parsed into validated types.
