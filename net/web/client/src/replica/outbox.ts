/**
 * What happens to one aggregate's outbox: all decisions, no I/O.
 *
 * ```text
 *            write                answer: accepted              feed: it came back
 *   (app) ───────────▶ pending ───────────────────▶ accepted ───────────────────▶ (confirmed)
 *                      ▲    │ └────────────── feed, before the answer ──────────▶
 *               resend │    │ answer: conflict                  answer: invalid
 *                      │    ▼                                   pending ─▶ (dead letter)
 *                      conflict ──▶ drop
 * ```
 * Sequences of events that the store has not accepted are dense and end at the record's `sequence`:
 * when one leaves without being accepted, later ones move down. That is safe because the store
 * takes an aggregate's events in order: behind a refused one, none can have been accepted.
 *
 * `step` runs inside one transaction of the database, on what is stored there, so a transition
 * happens wholly or not at all, whichever tab it comes from.
 */
import type { Event, Expect, NewEvent, Problem, SyncOutcome } from "../types.js";
import type { AggregateRecord, DeadLetter, OutboxEntry } from "./records.js";

/** One aggregate as it is stored. Entries are in order of their sequences. */
export interface Outbox {
  readonly record: AggregateRecord;
  readonly entries: readonly OutboxEntry[];
}

/** What the app says to a conflict. */
export type Decision =
  /** The event is given up. */
  | { drop: true }
  /** It is sent again, with other content or on another condition. If no condition is said, the
   * aggregate must be at the version that the conflict told. */
  | { resend: { event?: NewEvent; expect?: Expect } };

/** What the store said to one event as it was sent. */
export interface Answer {
  id: string;
  revision: number;
  outcome: SyncOutcome;
}

/** What happened. */
export type OutboxEvent =
  | { kind: "written"; place: number; id: string; event: NewEvent; expect: Expect }
  | { kind: "answered"; answers: readonly Answer[] }
  | Told
  | Deleted
  | { kind: "decided"; id: string; decision: Decision }
  /** The store was asked which of these events it has, and up to where it counted. */
  | { kind: "reconciled"; sequence: number; applied: ReadonlySet<string> }
  /** What is known of the aggregate is given up, to be told from the start. `isOther`: because the
   * store's history is another one. */
  | { kind: "forgotten"; isOther: boolean };

/** The feed told all events that there are from one stamp to another. */
export interface Told {
  kind: "told";
  clientId: string;
  events: readonly Event[];
  since: number;
  cursor: number;
  /** Nothing more was there. */
  caughtUp: boolean;
}

/** The feed told that the aggregate was deleted, and everything before that. */
export interface Deleted {
  kind: "deleted";
  /** Where it stood: what is appended later goes on from there. */
  version: number;
  since: number;
  cursor: number;
}

/** What must be done. */
export type Effect =
  /** Keep an event that is confirmed. */
  | { kind: "confirm"; event: Event }
  /** Let go of what is confirmed up to a version: it was deleted. */
  | { kind: "erase"; version: number }
  /** Keep an event that was refused for good, for the app to see. */
  | { kind: "bury"; letter: DeadLetter }
  /** Ask the app what becomes of this event. */
  | { kind: "ask"; entry: OutboxEntry }
  /** Ask the store which events it has: its count and ours differ. */
  | { kind: "reconcile" }
  /** Give up what is known of the aggregate: the store's history is another one. */
  | { kind: "forget" };

/** The next state, and what must be done. */
export interface Step {
  readonly outbox: Outbox;
  readonly effects: readonly Effect[];
}

/** The store's count of our sequences is another than ours: its data was restored or deleted, or
 * this device's was copied. */
const COUNTS_DIFFER = new Set(["SequenceGap", "SequenceReused", "SequenceStale"]);

/** Takes what happened, and says what follows. */
export function step(outbox: Outbox, event: OutboxEvent): Step {
  const next = decide(outbox, event);
  assertInvariants(next.outbox);
  return next;
}

function decide(outbox: Outbox, event: OutboxEvent): Step {
  switch (event.kind) {
    case "written": return { outbox: written(outbox, event), effects: [] };
    case "answered": return answered(outbox, event.answers);
    case "told": return told(outbox, event);
    case "deleted": return deleted(outbox, event);
    case "decided": return { outbox: decided(outbox, event.id, event.decision), effects: [] };
    case "reconciled": return { outbox: reconciled(outbox, event), effects: [] };
    case "forgotten": return { outbox: forgotten(outbox, event.isOther), effects: [] };
  }
}

function written(outbox: Outbox, event: OutboxEvent & { kind: "written" }): Outbox {
  const { place, id, expect } = event;
  const sequence = outbox.record.sequence + 1;
  const key = outbox.record.key;
  const entry: OutboxEntry = {
    place, id, key, sequence, revision: 0, event: event.event, expect, status: "pending",
  };
  return {
    record: { ...outbox.record, sequence },
    entries: [...outbox.entries, entry],
  };
}

function answered(outbox: Outbox, answers: readonly Answer[]): Step {
  const effects: Effect[] = [];
  let next = outbox;
  for (const answer of answers) {
    const entry = next.entries.find((one) => one.id === answer.id);
    // Meanwhile it came back by the feed, or another tab's answer came first.
    if (entry?.status !== "pending" || entry.revision !== answer.revision) continue;
    const told = take(next, entry, answer.outcome);
    next = told.outbox;
    effects.push(...told.effects);
  }
  return { outbox: next, effects };
}

function take(outbox: Outbox, entry: OutboxEntry, outcome: SyncOutcome): Step {
  switch (outcome.status) {
    case "accepted":
    case "already_applied": {
      const version = outcome.receipt.writes[0]?.last_version;
      const accepted = { ...entry, status: "accepted" as const };
      if (version !== undefined) accepted.version = version;
      return { outbox: replaced(outbox, accepted), effects: [] };
    }
    case "held":
    case "retry":
      return { outbox, effects: [] };
    case "conflict": {
      const { status, problem, missed, more } = outcome;
      const conflict = { problem, actual: actualOf(problem), missed, more };
      const asked: OutboxEntry = { ...entry, status, conflict };
      return { outbox: replaced(outbox, asked), effects: [{ kind: "ask", entry: asked }] };
    }
    case "invalid": {
      const { problem } = outcome;
      if (COUNTS_DIFFER.has(problem.error)) return recount(outbox);
      const { id, key, event, expect } = entry;
      const letter: DeadLetter = { id, key, event, expect, problem };
      return { outbox: withdrawn(outbox, entry), effects: [{ kind: "bury", letter }] };
    }
  }
}

/** The version that a conflict tells. */
function actualOf(problem: Problem): number {
  const [conflict] = (problem["conflicts"] ?? []) as { actual?: number }[];
  return conflict?.actual ?? 0;
}

function recount(outbox: Outbox): Step {
  return { outbox, effects: [{ kind: "reconcile" }] };
}

function told(outbox: Outbox, event: Told): Step {
  // Meanwhile another tab gave up what was before: this would leave a hole.
  if (event.since > outbox.record.cursor) return { outbox, effects: [] };
  if (event.events.some((one) => isOtherHistory(outbox.record, one))) {
    return { outbox, effects: [{ kind: "forget" }] };
  }
  // After a reconnect the same may be told twice.
  const fresh = event.events.filter((one) => one.version > outbox.record.version);
  const own = event.events.filter((one) => one.client_id === event.clientId);
  const ids = new Set(own.map((one) => one.event_id));
  const { record } = outbox;
  const next: AggregateRecord = {
    ...record,
    version: fresh.at(-1)?.version ?? record.version,
    cursor: Math.max(record.cursor, event.cursor),
    loaded: record.loaded || event.caughtUp,
  };
  const entries = outbox.entries.filter((entry) => !ids.has(entry.id));
  return {
    outbox: { record: next, entries: counted(entries, next.sequence) },
    effects: fresh.map((one) => ({ kind: "confirm", event: one })),
  };
}

/** Its events up to there never show again, so what was accepted and has not come back never will.
 * What was not sent may begin the aggregate anew; the store says if it may not. */
function deleted({ record, entries }: Outbox, event: Deleted): Step {
  const { version, since, cursor } = event;
  // As with events: a hole, or the same again.
  if (since > record.cursor || cursor <= record.cursor) {
    return { outbox: { record, entries }, effects: [] };
  }
  if (version < record.version) {
    return { outbox: { record, entries }, effects: [{ kind: "forget" }] };
  }
  const isGone = (one: OutboxEntry): boolean => !isOpen(one) && (one.version ?? 0) <= version;
  const history = record.history + 1;
  return {
    outbox: {
      record: { ...record, version, cursor, history, deletedAt: version },
      entries: entries.filter((one) => !isGone(one)),
    },
    effects: [{ kind: "erase", version }],
  };
}

/** Versions never start anew. An event that is newer than everything told before, at a version that
 * was told before, is of a store that lost its end. */
function isOtherHistory(record: AggregateRecord, event: Event): boolean {
  return event.stamp > record.cursor && event.version <= record.version;
}

/** Changes nothing, unless an event came back without those before it: then somebody else counts
 * under this client's id, and the store will say so. */
function counted(entries: readonly OutboxEntry[], last: number): OutboxEntry[] {
  let sequence = last - entries.filter(isOpen).length;
  return entries.map((one) => {
    if (!isOpen(one)) return one;
    sequence += 1;
    return one.sequence === sequence ? one : moved(one, sequence);
  });
}

function isOpen(entry: OutboxEntry): boolean {
  return entry.status !== "accepted";
}

function decided(outbox: Outbox, id: string, decision: Decision): Outbox {
  const entry = outbox.entries.find((one) => one.id === id);
  // Another tab decided first, or it was accepted after all.
  if (entry?.status !== "conflict" || entry.conflict === undefined) return outbox;
  if ("drop" in decision) return withdrawn(outbox, entry);
  const { conflict, ...rest } = entry;
  const { event = entry.event, expect = conflict.actual } = decision.resend;
  const revision = entry.revision + 1;
  return replaced(outbox, { ...rest, revision, event, expect, status: "pending" });
}

/** What the store has is accepted; what it has not goes on behind the store's count. */
function reconciled(outbox: Outbox, event: OutboxEvent & { kind: "reconciled" }): Outbox {
  const has = (entry: OutboxEntry): boolean => event.applied.has(entry.id);
  const kept = outbox.entries.filter((entry) => entry.status === "accepted" || has(entry));
  const accepted = kept.map((entry): OutboxEntry => {
    const { conflict: _, ...rest } = entry;
    return { ...rest, status: "accepted" };
  });
  const open = outbox.entries.filter((entry) => !kept.includes(entry));
  const sequence = event.sequence + open.length;
  return {
    record: { ...outbox.record, sequence },
    entries: counted([...accepted, ...open], sequence),
  };
}

function forgotten({ record, entries }: Outbox, isOther: boolean): Outbox {
  const history = record.history + (isOther ? 1 : 0);
  const { deletedAt: _, ...kept } = record;
  return { record: { ...kept, version: 0, cursor: 0, loaded: false, history }, entries };
}

function replaced(outbox: Outbox, entry: OutboxEntry): Outbox {
  const entries = outbox.entries.map((one) => (one.id === entry.id ? entry : one));
  return { record: outbox.record, entries };
}

/** Without the entry: it used no sequence up, so later ones move down. */
function withdrawn({ record, entries }: Outbox, entry: OutboxEntry): Outbox {
  const rest = entries.filter((one) => one.id !== entry.id);
  const dense = rest.map((one) =>
    one.sequence > entry.sequence ? moved(one, one.sequence - 1) : one,
  );
  return { record: { ...record, sequence: record.sequence - 1 }, entries: dense };
}

function moved(entry: OutboxEntry, sequence: number): OutboxEntry {
  return { ...entry, sequence, revision: entry.revision + 1 };
}

function assertInvariants({ record, entries }: Outbox): void {
  const open = entries.filter(isOpen);
  open.forEach((entry, index) => {
    const expected = record.sequence - open.length + 1 + index;
    if (entry.sequence === expected && expected >= 1) return;
    throw new Error(`outbox of ${record.key}: sequence ${entry.sequence}, not ${expected}`);
  });
}
