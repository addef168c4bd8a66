import assert from "node:assert/strict";
import { test } from "node:test";
import { nextBatch, toSyncWrite } from "../../src/replica/batch.js";
import { step, type Outbox, type OutboxEvent, type Step } from "../../src/replica/outbox.js";
import { unknownAggregate, type OutboxEntry } from "../../src/replica/records.js";
import type { Event, SyncOutcome } from "../../src/index.js";
import { problemOf } from "../support/stub-store.js";

const ME = "me";
const EMPTY: Outbox = { record: unknownAggregate("a/b/c"), entries: [] };
const RECEIPT = { stamp: 1, already_applied: false, writes: [] };
const ACCEPTED: SyncOutcome = { status: "accepted", receipt: RECEIPT };
const INVALID: SyncOutcome = { status: "invalid", problem: problemOf("SchemaViolation", "never") };
const CONFLICTS = { conflicts: [{ key: "a/b/c", expected: 4, actual: 9 }] };
const CONFLICT: SyncOutcome = {
  status: "conflict", problem: problemOf("Conflict", "after_reading", CONFLICTS), missed: [],
  more: false,
};

function after(...events: OutboxEvent[]): Step {
  return events.reduce<Step>((before, event) => step(before.outbox, event), {
    outbox: EMPTY, effects: [],
  });
}

function written(...ids: string[]): OutboxEvent[] {
  return ids.map((id, index) => ({
    kind: "written", place: index + 1, id, event: { type: id, data: id }, expect: "any",
  }));
}

function answered(id: string, outcome: SyncOutcome, revision = 0): OutboxEvent {
  return { kind: "answered", answers: [{ id, revision, outcome }] };
}

function told(version: number, id: string | null, since = 0): OutboxEvent {
  const event = { version, stamp: version, client_id: ME, event_id: id } as Event;
  return { kind: "told", clientId: ME, events: [event], since, cursor: version, caughtUp: true };
}

function deleted(version: number, since: number, cursor: number): OutboxEvent {
  return { kind: "deleted", version, since, cursor };
}

function look({ outbox }: Step): string {
  const entries = outbox.entries.map((one) => `${one.id}${one.sequence}:${one.status}`);
  return [...entries, `last ${outbox.record.sequence}`].join(" ");
}

test("an event is accepted, and leaves when it comes back by the feed", () => {
  const sent = after(...written("a", "b"), answered("a", ACCEPTED));
  assert.equal(look(sent), "a1:accepted b2:pending last 2");
  const back = step(sent.outbox, told(1, "a"));
  assert.equal(look(back), "b2:pending last 2");
  assert.equal(back.effects.length, 1);
});

test("an event that comes back before the answer is not there twice", () => {
  const back = after(...written("a", "b"), told(1, "a"));
  assert.equal(look(back), "b2:pending last 2");
  assert.equal(look(step(back.outbox, answered("a", ACCEPTED))), "b2:pending last 2");
});

test("an event of another client with our id is not ours", () => {
  const other = { ...told(1, "a"), clientId: "other" } as OutboxEvent;
  assert.equal(look(after(...written("a"), other)), "a1:pending last 1");
});

test("what was told before is not confirmed twice", () => {
  const once = after(told(1, null), told(2, null, 1));
  assert.deepEqual(step(once.outbox, told(2, null, 1)).effects, []);
});

test("a version that was told before with a later stamp is of another history", () => {
  const known = after(told(1, null), told(2, null, 1));
  const other = { version: 2, stamp: 9, client_id: null, event_id: null } as Event;
  const event = { kind: "told", clientId: ME, events: [other], since: 2, cursor: 9 } as const;
  const { outbox, effects } = step(known.outbox, { ...event, caughtUp: true });
  assert.deepEqual(effects, [{ kind: "forget" }]);
  assert.equal(outbox, known.outbox);
  const { record } = step(outbox, { kind: "forgotten", isOther: true }).outbox;
  assert.deepEqual([record.history, record.cursor, record.version], [1, 0, 0]);
});

test("a stretch of the feed that leaves a hole is not taken", () => {
  const forgotten = after(told(1, null), { kind: "forgotten", isOther: false }, told(2, null, 1));
  assert.equal(forgotten.outbox.record.cursor, 0);
  assert.equal(forgotten.outbox.record.version, 0);
  assert.deepEqual(forgotten.effects, []);
});

test("with a deletion goes what was accepted before it, and nothing else", () => {
  const at = (version: number): SyncOutcome => {
    const writes = [{ key: "a/b/c", first_version: version, last_version: version, hash: "h" }];
    return { status: "accepted", receipt: { ...RECEIPT, writes } };
  };
  const known = after(told(1, null), ...written("a", "b", "c"), answered("a", at(2)),
    answered("b", at(3)));
  const gone = step(known.outbox, deleted(2, 1, 5));
  assert.equal(look(gone), "b2:accepted c3:pending last 3");
  assert.deepEqual(gone.effects, [{ kind: "erase", version: 2 }]);
  const { version, cursor, history, deletedAt } = gone.outbox.record;
  assert.deepEqual([version, cursor, history, deletedAt], [2, 5, 1, 2]);
  assert.deepEqual(step(gone.outbox, deleted(2, 1, 5)), { outbox: gone.outbox, effects: [] });
  assert.deepEqual(step(known.outbox, deleted(2, 3, 5)).effects, [], "a hole");
});

test("a deletion at a version that was passed long ago is of another history", () => {
  const known = after(told(1, null), told(2, null, 1)).outbox;
  assert.deepEqual(step(known, deleted(1, 2, 9)).effects, [{ kind: "forget" }]);
});

test("what is refused for good is buried, and later ones move down", () => {
  const refused = after(
    ...written("a", "b", "c", "d"),
    answered("a", ACCEPTED), answered("b", INVALID), answered("c", { status: "held" }),
  );
  assert.equal(look(refused), "a1:accepted c2:pending d3:pending last 3");
  const buried = after(...written("a"), answered("a", INVALID)).effects[0];
  assert.ok(buried?.kind === "bury" && buried.letter.problem.error === "SchemaViolation");
  assert.equal(look(step(refused.outbox, written("e")[0] as OutboxEvent)).slice(-17),
    "e4:pending last 4");
});

test("an answer to what an event was before is not taken", () => {
  const moved = after(...written("a", "b"), answered("a", INVALID));
  assert.equal(look(step(moved.outbox, answered("b", INVALID))), "b1:pending last 1");
  assert.equal(look(step(moved.outbox, answered("b", INVALID, 1))), "last 0");
  const resend: OutboxEvent = { kind: "decided", id: "a", decision: { resend: {} } };
  const again = after(...written("a"), answered("a", CONFLICT), resend);
  assert.equal(look(step(again.outbox, answered("a", CONFLICT))), "a1:pending last 1");
});

test("a conflict asks the app, and waits for what it says", () => {
  const asked = after(...written("a", "b"), answered("a", CONFLICT));
  assert.equal(look(asked), "a1:conflict b2:pending last 2");
  assert.ok(asked.effects[0]?.kind === "ask" && asked.effects[0].entry.conflict?.actual === 9);
  assert.deepEqual(nextBatch(asked.outbox.entries, { events: 9, eventsPerKey: 9, bytes: 999 }), []);
  const dropped = step(asked.outbox, { kind: "decided", id: "a", decision: { drop: true } });
  assert.equal(look(dropped), "b1:pending last 1");
});

test("what is sent again keeps its sequence, on the version that was told by default", () => {
  const asked = after(...written("a", "b"), answered("a", CONFLICT)).outbox;
  const decide = (resend: object) =>
    step(asked, { kind: "decided", id: "a", decision: { resend } }).outbox.entries[0];
  const changed = decide({ event: { type: "x", data: "x" } });
  assert.deepEqual([changed?.sequence, changed?.status, changed?.expect, changed?.event.type],
    [1, "pending", 9, "x"]);
  assert.equal(changed?.conflict, undefined);
  assert.equal(decide({ expect: "any" })?.expect, "any");
});

test("a decision that comes too late does nothing", () => {
  const drop: OutboxEvent = { kind: "decided", id: "a", decision: { drop: true } };
  assert.equal(look(after(...written("a"), drop)), "a1:pending last 1");
  assert.equal(look(after(...written("a"), told(1, "a"), drop)), "last 1");
});

test("a store that counts differently is asked what it has, and counting goes on", () => {
  for (const error of ["SequenceGap", "SequenceReused", "SequenceStale"]) {
    const other: SyncOutcome = { status: "invalid", problem: problemOf(error, "after_reading") };
    const { outbox, effects } = after(...written("a", "b", "c"), answered("a", other));
    assert.deepEqual(effects, [{ kind: "reconcile" }]);
    const applied = new Set(["b"]);
    const counted = step(outbox, { kind: "reconciled", sequence: 7, applied });
    assert.equal(look(counted), "b2:accepted a8:pending c9:pending last 9");
  }
});

test("an event that came back without the one before it leaves no gap", () => {
  const back = after(...written("a", "b", "c"), told(1, "b"));
  assert.equal(look(back), "a2:pending c3:pending last 3");
});

test("a batch is bounded in events, events of one aggregate, and bytes", () => {
  const entries = ["a", "a", "b", "a", "c"].map((key, index) => ({
    key, id: String(index), place: index, sequence: 1, revision: 0,
    event: { type: "1234", data: "" },
    expect: "any", status: index === 0 ? "accepted" : "pending",
  })) as OutboxEntry[];
  const bytes = JSON.stringify(entries[0]?.event).length;
  const places = (limits: object) =>
    nextBatch(entries, { events: 9, eventsPerKey: 9, bytes: 999, ...limits }).map((e) => e.place);
  assert.deepEqual(places({}), [1, 2, 3, 4]);
  assert.deepEqual(places({ events: 2 }), [1, 2]);
  assert.deepEqual(places({ eventsPerKey: 1 }), [1, 2, 4]);
  assert.deepEqual(places({ bytes: 2 * bytes }), [1, 2]);
  assert.deepEqual(places({ bytes: 1 }), [1], "a large one goes alone");
});

test("an event is sent with its id, and without what is only for the device", () => {
  const [entry] = after(...written("a")).outbox.entries;
  assert.deepEqual(toSyncWrite(entry as OutboxEntry), {
    key: "a/b/c", sequence: 1, expect: "any", events: [{ type: "a", data: "a", event_id: "a" }],
  });
});
