//! Integration tests as one binary: rules of the code base, and real processes, sockets and files.

// Tests look at the real world: clocks, threads and processes are what they are about.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod adoption;
mod api_keys;
mod attack;
mod audit;
mod bucket;
mod command_line;
mod compact;
mod configuration;
mod demo;
mod export;
mod fuzz;
mod http;
mod inspect;
mod kill;
mod pair;
mod process;
mod projection;
mod quotas;
mod schemas;
mod secrets;
mod support;
mod tidy;
mod tls;
mod tokens;
mod verify;
