//! What must hold for any bytes whatever, as plain functions: tests call them with a corpus, a
//! fuzzer with what it finds.
//!
//! Each takes arbitrary bytes, panics when a rule is broken and otherwise says nothing. The rules:
//! nothing that is found in a bucket makes a node panic; what is accepted encodes to an object that
//! says the same.

use bytes::Bytes;
use celeriant_schema::{ClusterId, Epoch};

use crate::bucket_log::seal;
use crate::bucket_log::slot::{self, Content, Name, Slot};
use crate::election::register::{Config, Seal};

/// The register: the object as a whole, and what is in it under a seal that is right.
pub fn register(data: &[u8]) {
    let seal = Seal::new(None);
    let _ = Config::decode(data, &seal);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sealed = format!("{{\"hash\":\"{}\",\"config\":{text}}}", seal.hash(data));
    if let Ok(config) = Config::decode(sealed.as_bytes(), &seal) {
        let again = Config::decode(&config.encode(&seal), &seal);
        assert_eq!(again, Ok(config), "a register has two meanings");
    }
}

/// An object of the bucket's log: as a whole, and under a name and a seal that are right.
pub fn slot(data: &[u8]) {
    let seal = seal::Seal::new(None);
    let name = Name { cluster: ClusterId::default(), epoch: Epoch::new(1), slot: 1 };
    let _ = Slot::decode(&name, &Bytes::copy_from_slice(data), &seal);
    let Ok(found) = Slot::decode(&name, &slot::forged(&name, data, &seal), &seal) else { return };
    if let Content::Fence = found.content {
        let again = Slot::decode(&name, &slot::fence(&name, found.nonce, &seal), &seal);
        assert_eq!(again, Ok(found), "a fence has two meanings");
    }
}
