//! Runs against a map, with pages missing, damaged and few.
