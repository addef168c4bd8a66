//! What a test can make go wrong on the wire, between the HTTP server and the protocol.
//!
//! Only who starts the bucket holds the handle: no request, setting or variable reaches it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::{Method, Uri};

/// One thing to go wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Carried out and answered after this time.
    Slow(Duration),
    /// Answered 503, not carried out.
    Unavailable,
    /// Answered 409, not carried out.
    Conflict,
    /// Carried out; when that succeeds, answered 412.
    RefusedAfterSuccess,
    /// Answered 500, not carried out.
    Error,
    /// Carried out, answered 500.
    ErrorAfterSuccess,
    /// The connection is closed; carried out after this time.
    AppliedLater(Duration),
    /// Carried out; the connection is closed instead of an answer.
    LostReply,
    /// The connection is closed, not carried out.
    LostRequest,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Slow(_) => "slow",
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::RefusedAfterSuccess => "refused-after-success",
            Self::Error => "error",
            Self::ErrorAfterSuccess => "error-after-success",
            Self::AppliedLater(_) => "applied-later",
            Self::LostReply => "lost-reply",
            Self::LostRequest => "lost-request",
        }
    }
}

/// Which requests a fault befalls.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// Only requests of this method.
    pub method: Option<Method>,
    /// Only requests whose path contains this.
    pub path_part: String,
    /// How many of them.
    pub times: u64,
}

impl Rule {
    /// `fault` for the next `times` puts.
    pub fn for_puts(fault: Fault, times: u64) -> Self {
        Self { fault, method: Some(Method::PUT), path_part: String::new(), times }
    }

    /// `fault` for the next `times` requests of any kind.
    pub fn for_all(fault: Fault, times: u64) -> Self {
        Self { fault, method: None, path_part: String::new(), times }
    }

    fn befalls(&self, method: &Method, uri: &Uri) -> bool {
        self.times > 0
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && uri.path().contains(&self.path_part)
    }
}

/// The hooks of one bucket. All clones are the same; none of the rules is the default.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    reached: BTreeMap<&'static str, u64>,
}

impl Faults {
    /// From now on, after the rules that are there.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// How often each fault befell a request.
    pub fn reached(&self) -> BTreeMap<&'static str, u64> {
        self.lock().reached.clone()
    }

    /// What befalls this request.
    pub(super) fn take(&self, method: &Method, uri: &Uri) -> Option<Fault> {
        let mut state = self.lock();
        let at = state.rules.iter().position(|rule| rule.befalls(method, uri))?;
        let rule = &mut state.rules[at];
        rule.times -= 1;
        let fault = rule.fault;
        if rule.times == 0 {
            state.rules.remove(at);
        }
        *state.reached.entry(fault.name()).or_default() += 1;
        Some(fault)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
