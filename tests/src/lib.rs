//! Holds nothing: the integration tests are one binary, `it/main.rs`.
