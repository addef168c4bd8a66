//! I3: after a promise no ack or append of a lower epoch by that place.

use celeriant_actors::election::register::Process;
use celeriant_schema::peer::Message;
use celeriant_schema::{BootId, Epoch};

use super::Violations;
use super::i01_one_leader::Register;

const RULE: &str = "I3";

/// What one node has promised.
#[derive(Debug, Default)]
pub struct Promises {
    process: Process,
    /// Durable.
    promised: Epoch,
    /// The highest that the peer was told of, or that an earlier process had promised.
    told: Epoch,
}

impl Promises {
    /// A process begins.
    pub fn begins(&mut self, process: Process) {
        if process.store != self.process.store {
            *self = Self::default();
        }
        (self.process, self.told) = (process, self.promised);
    }

    /// Somebody has restored what the store was when it had promised that.
    pub fn goes_back_to(&mut self, epoch: Epoch) {
        (self.promised, self.told) = (epoch, epoch);
    }

    /// Its process is gone.
    pub fn ends(&mut self) {
        self.process.boot = BootId::default();
    }

    /// The process that runs; without one, its boot is nobody's.
    pub fn process(&self) -> Process {
        self.process
    }

    /// A promise is durable.
    pub fn promised(&mut self, epoch: Epoch, violations: &Violations) {
        violations.check(RULE, epoch >= self.promised, || {
            format!("{:?} takes its promise of {} back: {epoch}", self.process, self.promised)
        });
        self.promised = epoch;
    }

    /// The process says something to its peer.
    pub fn said(&mut self, message: &Message, register: &Register, violations: &Violations) {
        let (process, told) = (self.process, self.told);
        match message {
            Message::Promised { epoch, .. } => {
                violations.check(RULE, *epoch <= self.promised, || {
                    format!("{process:?} says it promised {epoch}, durable is {}", self.promised)
                });
                self.told = told.max(*epoch);
            }
            Message::Ack { epoch, .. } => violations.check(RULE, *epoch >= told, || {
                format!("{process:?} acknowledges in epoch {epoch} and has promised {told}")
            }),
            Message::Append { epoch, .. } => {
                violations.check(RULE, *epoch >= told, || {
                    format!("{process:?} appends in epoch {epoch} and has promised {told}")
                });
                let leader = register.leader(*epoch);
                violations.check("I1", leader == Some(process), || {
                    format!("{process:?} appends in epoch {epoch}, which is {leader:?}'s")
                });
            }
            _ => {}
        }
    }
}
