//! What travels between client and server, in bytes.
