//! Tests of events and their canonical bytes.
use super::*;
