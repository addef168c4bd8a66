/** A replica's data on its device. Every method is one transaction. */
import type { Event, Expect, Key, NewEvent } from "../types.js";
import { BY_KEY, TABLES, eventsAbove, eventsUpTo, result, transact } from "./database.js";
import { step, type Effect, type Outbox, type OutboxEvent } from "./outbox.js";
import {
  unknownAggregate, type AggregateRecord, type DeadLetter, type Device, type OutboxEntry,
  type Snapshot,
} from "./records.js";

type Table = (name: string) => IDBObjectStore;

/** What is here of an aggregate, as of one moment. */
export interface LocalData {
  record: AggregateRecord;
  /** If there is one that is newer than what was asked for. */
  snapshot: Snapshot | undefined;
  /** Confirmed, behind the snapshot or behind what was asked for. */
  events: Event[];
  entries: readonly OutboxEntry[];
}

const DEVICE_KEY = 0;
const WRITING = [
  TABLES.device, TABLES.aggregates, TABLES.outbox, TABLES.events, TABLES.letters,
  TABLES.snapshots,
] as const;

/** The tables of one replica. */
export class Store {
  constructor(private readonly database: IDBDatabase) {
    // Another tab takes the database away: let it.
    database.onversionchange = () => database.close();
  }

  /** Who this device is. The first time, that is made up. */
  device(): Promise<Device> {
    return transact(this.database, [TABLES.device], "readwrite", async (table) => {
      const known = (await result(table(TABLES.device).get(DEVICE_KEY))) as Device | undefined;
      if (known !== undefined) return known;
      const device: Device = { clientId: crypto.randomUUID(), place: 0 };
      await result(table(TABLES.device).put(device, DEVICE_KEY));
      return device;
    });
  }

  /** Puts an event into the outbox. It is on the disk when this resolves. */
  write(key: Key, event: NewEvent, expect: Expect): Promise<OutboxEntry> {
    return transact(this.database, WRITING, "readwrite", async (table) => {
      const device = (await result(table(TABLES.device).get(DEVICE_KEY))) as Device;
      const place = device.place + 1;
      await result(table(TABLES.device).put({ ...device, place }, DEVICE_KEY));
      const id = crypto.randomUUID();
      const written: OutboxEvent = { kind: "written", place, id, event, expect };
      const { outbox } = await advance(table, key, written);
      return outbox.entries.at(-1) as OutboxEntry;
    });
  }

  /** Tells an aggregate's outbox what happened, and keeps what follows. */
  advance(key: Key, event: OutboxEvent): Promise<readonly Effect[]> {
    return transact(this.database, WRITING, "readwrite", async (table) => {
      return (await advance(table, key, event)).effects;
    });
  }

  /** What is here of an aggregate, above a version. */
  read(key: Key, version: number): Promise<LocalData> {
    const tables = [TABLES.aggregates, TABLES.outbox, TABLES.events, TABLES.snapshots];
    return transact(this.database, tables, "readonly", async (table) => {
      const { record, entries } = await load(table, key);
      const kept = (await result(table(TABLES.snapshots).get(key))) as Snapshot | undefined;
      const snapshot = kept !== undefined && kept.version > version ? kept : undefined;
      const range = eventsAbove(key, snapshot?.version ?? version);
      const events = (await result(table(TABLES.events).getAll(range))) as Event[];
      return { record, snapshot, events, entries };
    });
  }

  /** What is known of an aggregate, without its events. */
  record(key: Key): Promise<AggregateRecord> {
    return transact(this.database, [TABLES.aggregates], "readonly", async (table) => {
      return ((await result(table(TABLES.aggregates).get(key))) ??
        unknownAggregate(key)) as AggregateRecord;
    });
  }

  /** The whole outbox, in the order in which it was written. */
  entries(): Promise<OutboxEntry[]> {
    return transact(this.database, [TABLES.outbox], "readonly", async (table) => {
      return (await result(table(TABLES.outbox).getAll())) as OutboxEntry[];
    });
  }

  /** Events that were refused for good. */
  letters(): Promise<DeadLetter[]> {
    return transact(this.database, [TABLES.letters], "readonly", async (table) => {
      return (await result(table(TABLES.letters).getAll())) as DeadLetter[];
    });
  }

  /** Forgets an event that was refused for good. */
  async dismiss(id: string): Promise<void> {
    await transact(this.database, [TABLES.letters], "readwrite", async (table) => {
      await result(table(TABLES.letters).delete(id));
    });
  }

  /** Keeps a state in place of the events up to its version, unless it is outdated, or of another
   * history than the aggregate has by now. */
  async keepSnapshot(snapshot: Snapshot, history: number): Promise<void> {
    const { key, version } = snapshot;
    const tables = [TABLES.aggregates, TABLES.events, TABLES.snapshots];
    await transact(this.database, tables, "readwrite", async (table) => {
      const kept = (await result(table(TABLES.snapshots).get(key))) as Snapshot | undefined;
      const record = (await result(table(TABLES.aggregates).get(key))) as AggregateRecord;
      if (record.history !== history) return;
      if (record.version < version || (kept?.version ?? 0) >= version) return;
      table(TABLES.snapshots).put(snapshot);
      table(TABLES.events).delete(eventsUpTo(key, version));
    });
  }

  /** Gives up what is confirmed of an aggregate, to be told from the start. `isOther`: because the
   * store's history is another one. */
  async forget(key: Key, isOther: boolean): Promise<void> {
    await transact(this.database, WRITING, "readwrite", async (table) => {
      table(TABLES.snapshots).delete(key);
      table(TABLES.events).delete(eventsAbove(key, 0));
      await advance(table, key, { kind: "forgotten", isOther });
    });
  }

  /** Lets go of the database. */
  close(): void {
    this.database.close();
  }
}

async function load(table: Table, key: Key): Promise<Outbox> {
  const known = (await result(table(TABLES.aggregates).get(key))) as AggregateRecord | undefined;
  const entries = await result(table(TABLES.outbox).index(BY_KEY).getAll(key));
  return { record: known ?? unknownAggregate(key), entries: entries as OutboxEntry[] };
}

async function advance(table: Table, key: Key, event: OutboxEvent) {
  const before = await load(table, key);
  const next = step(before, event);
  if (next.outbox.record !== before.record) table(TABLES.aggregates).put(next.outbox.record);
  putEntries(table, before.entries, next.outbox.entries);
  for (const effect of next.effects) {
    if (effect.kind === "confirm") table(TABLES.events).put(effect.event);
    if (effect.kind === "bury") table(TABLES.letters).put(effect.letter);
    if (effect.kind === "erase") {
      // A snapshot is never ahead of what is known.
      table(TABLES.snapshots).delete(key);
      table(TABLES.events).delete(eventsUpTo(key, effect.version));
    }
  }
  return next;
}

/** What did not change is the same object. */
function putEntries(
  table: Table,
  before: readonly OutboxEntry[],
  after: readonly OutboxEntry[],
): void {
  const old = new Set(before);
  const places = new Set(after.map((entry) => entry.place));
  for (const entry of after) if (!old.has(entry)) table(TABLES.outbox).put(entry);
  for (const { place } of before) if (!places.has(place)) table(TABLES.outbox).delete(place);
}
