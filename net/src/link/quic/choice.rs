//! Which connection becomes the session: decided by one side, told to the other.
//!
//! ```text
//! either ── Greeting ──▶ either    who I am; the last session I had with you; whether I still do
//! arbiter ── Chosen n ──▶ other    this one; up, as far as the other is concerned
//!         ◀─ Confirmed n ─         up, as far as the arbiter is concerned
//! ```
//! Pure: no I/O, no clock. All little-endian, each a message of the control lane.

use bytes::{BufMut, Bytes, BytesMut};
use celeriant_schema::BootId;
use celeriant_schema::peer::Hello;

/// Version of these messages.
const VERSION: u8 = 1;
const CHOSEN: u8 = 1;
const CONFIRMED: u8 = 2;
/// Longest of these messages, in bytes.
pub(super) const HANDSHAKE_BYTES_MAX: usize = 1024;

/// A session by its number, which is the arbiter's, and the peer's process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Held {
    pub(super) peer: BootId,
    /// Whose counter the number is of.
    pub(super) arbiter: BootId,
    pub(super) number: u64,
}

impl Held {
    pub(super) fn is_newer_than(&self, other: &Self) -> bool {
        self.arbiter == other.arbiter && self.number > other.number
    }
}

/// The last session that this side has had.
#[derive(Debug, Default)]
pub(super) struct Last {
    held: Option<Held>,
    holding: bool,
    numbers: u64,
}

impl Last {
    /// For the arbiter: the next session's number.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn hold(&mut self, held: Held) {
        (self.held, self.holding) = (Some(held), true);
    }

    pub(super) fn lose(&mut self) {
        self.holding = false;
    }

    pub(super) fn greeting(&self, hello: &Hello) -> Greeting {
        let number = self.held.map_or((BootId::new(0), 0), |held| (held.arbiter, held.number));
        Greeting {
            arbiter: number.0,
            number: number.1,
            holding: self.holding,
            hello: hello.clone(),
        }
    }
}

/// The first message of either side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Greeting {
    /// Arbiter and number of the last session.
    pub(super) arbiter: BootId,
    pub(super) number: u64,
    /// Whether it still stands.
    pub(super) holding: bool,
    pub(super) hello: Hello,
}

/// What the arbiter does with a connection on which both have greeted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Choice {
    /// It becomes the session.
    Choose,
    /// Another is just being told; look again when that has come to something.
    Spare,
    /// The session that stands is better.
    Superfluous,
}

/// `current` stands, `choosing` says that another has been told and has not confirmed.
pub(super) fn judge(
    current: Option<Held>,
    choosing: bool,
    greeting: &Greeting,
    own: BootId,
) -> Choice {
    let Some(current) = current else {
        return if choosing { Choice::Spare } else { Choice::Choose };
    };
    let same_process = current.peer == greeting.hello.boot;
    let has_had_it = greeting.arbiter == own && greeting.number >= current.number;
    if same_process && (!has_had_it || greeting.holding) {
        // It dialed before it knew of the session, or we did.
        return Choice::Superfluous;
    }
    if choosing { Choice::Spare } else { Choice::Choose }
}

impl Greeting {
    pub(super) fn encode(&self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        out.put_slice(&[VERSION, u8::from(self.holding)]);
        out.put_u64_le(self.arbiter.value());
        out.put_u64_le(self.number);
        self.hello.encode(&mut out).ok()?;
        Some(out.freeze())
    }

    /// `None`: it is none.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, hello) = bytes.split_first_chunk::<18>()?;
        let number =
            |at: usize| fixed[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        if fixed[0] != VERSION || fixed[1] > 1 {
            return None;
        }
        let hello = Hello::decode(hello).ok()?;
        let (arbiter, number) = (BootId::new(number(2)?), number(10)?);
        Some(Self { arbiter, number, holding: fixed[1] == 1, hello })
    }
}

pub(super) fn chosen(number: u64) -> Bytes {
    numbered(CHOSEN, number)
}

pub(super) fn confirmed(number: u64) -> Bytes {
    numbered(CONFIRMED, number)
}

pub(super) fn number_of_chosen(message: &[u8]) -> Option<u64> {
    number_of(CHOSEN, message)
}

pub(super) fn number_of_confirmed(message: &[u8]) -> Option<u64> {
    number_of(CONFIRMED, message)
}

fn numbered(kind: u8, number: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(9);
    out.put_u8(kind);
    out.put_u64_le(number);
    out.freeze()
}

fn number_of(kind: u8, message: &[u8]) -> Option<u64> {
    let (first, rest) = message.split_first()?;
    let number = u64::from_le_bytes(rest.try_into().ok()?);
    (*first == kind).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: BootId = BootId::new(7);
    const PEER: BootId = BootId::new(8);

    fn greeting(boot: BootId, number: u64, holding: bool) -> Greeting {
        let hello = Hello { boot, ..Hello::default() };
        Greeting { arbiter: OWN, number, holding, hello }
    }

    #[test]
    fn a_greeting_survives_and_nonsense_is_none() {
        let greeting = greeting(PEER, 3, true);
        let bytes = greeting.encode().expect("short");
        assert_eq!(Greeting::decode(&bytes), Some(greeting));
        for end in 0..bytes.len() {
            assert_eq!(Greeting::decode(&bytes[..end]), None);
        }
        assert_eq!(number_of_chosen(&chosen(5)), Some(5));
        assert_eq!(number_of_chosen(&confirmed(5)), None);
        assert_eq!(number_of_confirmed(&chosen(5)[..8]), None);
    }

    #[test]
    fn a_session_is_replaced_only_by_another_process_or_one_that_lost_it() {
        let current = Some(Held { peer: PEER, arbiter: OWN, number: 4 });
        let judge = |choosing, greeting| judge(current, choosing, &greeting, OWN);
        assert_eq!(judge(false, greeting(PEER, 3, false)), Choice::Superfluous, "a race");
        assert_eq!(judge(false, greeting(PEER, 4, true)), Choice::Superfluous, "our dial, late");
        assert_eq!(judge(false, greeting(PEER, 4, false)), Choice::Choose, "it has lost it");
        assert_eq!(judge(false, greeting(BootId::new(9), 0, false)), Choice::Choose, "restarted");
        assert_eq!(judge(true, greeting(PEER, 4, false)), Choice::Spare);
        let other = Greeting { arbiter: BootId::new(1), ..greeting(PEER, 9, false) };
        assert_eq!(judge(false, other), Choice::Superfluous, "a number of another process");
    }

    #[test]
    fn the_first_is_chosen_and_the_next_waits() {
        let first = greeting(PEER, 0, false);
        assert_eq!(judge(None, false, &first, OWN), Choice::Choose);
        assert_eq!(judge(None, true, &first, OWN), Choice::Spare);
    }
}
