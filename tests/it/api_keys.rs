//! API keys against real nodes: made, shown, bound to a client id, ended.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{Called, program};
use crate::support::site::Site;
use crate::support::{Node, call, wait};
