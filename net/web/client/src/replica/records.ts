/** What a replica keeps on its device. */
import type { Event, Expect, Key, NewEvent, Problem } from "../types.js";

/** What is known of one aggregate. */
export interface AggregateRecord {
  key: Key;
  /** Highest sequence in use: by an event in the outbox, or by one that was accepted. */
  sequence: number;
  /** The feed was told up to this stamp; 0: nothing yet. */
  cursor: number;
  /** Highest version that is here. */
  version: number;
  /** Whether everything there was has ever been here. */
  loaded: boolean;
  /** How often what is here turned out to be no part of the aggregate's history: it was deleted, or
   * the store was restored from a backup, or lost its data. */
  history: number;
  /** Its version when it was deleted last, from which it goes on; nothing: that is not known to
   * have happened. */
  deletedAt?: number;
}

/** An event on its way to the store. */
export interface OutboxEntry {
  /** Order in which events were written on this device, over all aggregates. */
  place: number;
  /** Its `event_id`: by it an event is known to be one's own, whatever its sequence became. */
  id: string;
  key: Key;
  sequence: number;
  /** How often its sequence, content or condition changed: an answer to what it was before is no
   * answer to what it is. */
  revision: number;
  event: NewEvent;
  expect: Expect;
  /** `accepted`: the store has it, but it has not come back by the feed yet. */
  status: "pending" | "conflict" | "accepted";
  /** With `conflict`: what the store said. */
  conflict?: Missed;
  /** With `accepted`: its version, if the store said so. */
  version?: number;
}

/** Why an event is in conflict. */
export interface Missed {
  problem: Problem;
  /** The aggregate's version at the store. */
  actual: number;
  /** Its events since the expected version, at most 100. */
  missed: Event[];
  /** There are more than that. */
  more: boolean;
}

/** An event that the store refused for good. */
export interface DeadLetter {
  id: string;
  key: Key;
  event: NewEvent;
  expect: Expect;
  /** Why; a `SchemaViolation` has the path of the field. */
  problem: Problem;
}

/** A state that stands for all events up to its version. */
export interface Snapshot {
  key: Key;
  /** Which code made it: another label, and it is not used. */
  label: string;
  version: number;
  state: unknown;
}

/** This device. */
export interface Device {
  /** Its own, for as long as its data is there. */
  clientId: string;
  /** The last one given. */
  place: number;
}

/** An aggregate of which nothing is known. */
export function unknownAggregate(key: Key): AggregateRecord {
  return { key, sequence: 0, cursor: 0, version: 0, loaded: false, history: 0 };
}
