//! Tests of the link over QUIC.
