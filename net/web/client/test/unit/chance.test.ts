/** The state machine against a store, with everything in any order: nothing lost, nothing twice. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { nextBatch, toSyncWrite } from "../../src/replica/batch.js";
import { step, type Effect, type Outbox, type OutboxEvent } from "../../src/replica/outbox.js";
import { unknownAggregate } from "../../src/replica/records.js";
import type { SyncResult, SyncWrite } from "../../src/index.js";
import { StubStore, problemOf } from "../support/stub-store.js";

const KEY = "a/b/c";
const CLIENT = "me";

/** Small and good enough to choose steps (mulberry32). */
function chance(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

class World {
  readonly store = new StubStore();
  readonly written: string[] = [];
  readonly gone = new Set<string>();
  readonly confirmed: (string | null)[] = [];
  outbox: Outbox = { record: unknownAggregate(KEY), entries: [] };
  /** Answers on their way, in no order. */
  private answers: OutboxEvent[] = [];
  private place = 0;

  constructor(private readonly random: () => number) {
    this.store.refuse = (event) =>
      (event.data as { bad: boolean }).bad ? problemOf("SchemaViolation", "never") : undefined;
  }

  take(event: OutboxEvent): void {
    const { outbox, effects } = step(this.outbox, event);
    this.outbox = outbox;
    for (const effect of effects) this.do(effect);
  }

  write(): void {
    this.place += 1;
    const id = `e${this.place}`;
    this.written.push(id);
    const expect = this.random() < 0.3 ? this.outbox.record.version : "any";
    const event = { type: "T", data: { bad: this.random() < 0.1 } };
    this.take({ kind: "written", place: this.place, id, event, expect });
  }

  async send(): Promise<void> {
    const limits = { events: 5, eventsPerKey: 5, bytes: 1e6 };
    const batch = nextBatch(this.outbox.entries, limits);
    if (batch.length === 0) return;
    const results = await this.ask(batch.map(toSyncWrite));
    const answers = batch.map(({ id, revision }, index) => {
      const outcome = results[index];
      assert.ok(outcome !== undefined);
      return { id, revision, outcome };
    });
    this.answers.push({ kind: "answered", answers });
  }

  /** One answer arrives, or is lost. */
  hear(isLost: boolean): void {
    const index = Math.floor(this.random() * this.answers.length);
    const [answer] = this.answers.splice(index, 1);
    if (answer !== undefined && !isLost) this.take(answer);
  }

  tell(): void {
    const since = this.outbox.record.cursor;
    const fresh = this.store.events(KEY).filter((event) => event.stamp > since);
    const events = fresh.slice(0, 1 + Math.floor(this.random() * 4));
    const cursor = events.at(-1)?.stamp ?? since;
    this.take({ kind: "told", clientId: CLIENT, events, since, cursor, caughtUp: false });
  }

  decide(): void {
    const entry = this.outbox.entries.find((one) => one.status === "conflict");
    if (entry === undefined) return;
    const drops = this.random() < 0.5;
    const decision = drops ? { drop: true as const } : { resend: { expect: "any" as const } };
    if (drops) this.gone.add(entry.id);
    this.take({ kind: "decided", id: entry.id, decision });
  }

  private async ask(writes: SyncWrite[]): Promise<SyncResult[]> {
    const body = JSON.stringify({ client_id: CLIENT, writes });
    const response = await this.store.fetch("http://store/v1/sync", { method: "POST", body });
    return ((await response.json()) as { results: SyncResult[] }).results;
  }

  private do(effect: Effect): void {
    if (effect.kind === "confirm") this.confirmed.push(effect.event.event_id);
    if (effect.kind === "bury") this.gone.add(effect.letter.id);
    assert.notEqual(effect.kind, "reconcile", "nobody else counts here");
  }
}

test("in any order of writes, answers, losses, feeds and decisions", async () => {
  for (let seed = 0; seed < 100; seed += 1) {
    const random = chance(seed);
    const world = new World(random);
    for (let turn = 0; turn < 60; turn += 1) {
      const choice = random();
      if (choice < 0.25) world.write();
      else if (choice < 0.45) await world.send();
      else if (choice < 0.65) world.hear(random() < 0.3);
      else if (choice < 0.75) world.store.append(KEY, "Other", {});
      else if (choice < 0.9) world.tell();
      else world.decide();
    }
    while (world.outbox.entries.length > 0) {
      await world.send();
      world.hear(false);
      world.decide();
      world.tell();
    }
    while (world.outbox.record.version < world.store.events(KEY).length) world.tell();
    const own = world.store.events(KEY).filter((event) => event.client_id === CLIENT);
    const kept = world.written.filter((id) => !world.gone.has(id));
    assert.deepEqual(own.map((event) => event.event_id), kept, `seed ${seed}: at the store`);
    const all = world.store.events(KEY).map((event) => event.event_id);
    assert.deepEqual(world.confirmed, all, `seed ${seed}: on the device`);
  }
});
