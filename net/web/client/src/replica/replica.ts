import type { Client } from "../client.js";
import type { Key, NewEvent, Problem } from "../types.js";
import { LocalAggregate, asWritten, type OpenOptions } from "./aggregate.js";
import { PACE, type Connection, type Pace } from "./context.js";
import { databaseName, deleteDatabase, openDatabase } from "./database.js";
import { Leader } from "./leader.js";
import type { Decision } from "./outbox.js";
import type { Fold } from "./projection.js";
import type { DeadLetter, OutboxEntry } from "./records.js";
import { Store } from "./store.js";
import { Tabs, browserPlatform, type Platform, type TabMessage } from "./tabs.js";
import { Coalesced } from "./waiting.js";

/** What a replica is told. */
export interface ReplicaOptions {
  /** Where the store is, and who asks. */
  client: Client;
  /** Name of the data on this device. One for each user who signs in. */
  name: string;
  /** Called in the leading tab for an event whose condition failed. Without an answer (or without
   * this) the event waits, and later ones of its aggregate with it, until `resolve` is called. */
  onConflict?: (entry: OutboxEntry) => Decision | undefined | Promise<Decision | undefined>;
  /** Called for what should not happen: the disk is full, `apply` or `onConflict` throws. Written
   * to the console if nothing is said. */
  onError?: (error: unknown) => void;
  /** How fast it goes about things. */
  pace?: Partial<Pace>;
  /** Instead of the browser's. */
  platform?: Platform;
}

/** How things are. */
export interface ReplicaStatus {
  /** Whether the leading tab has heard of the store, the last time that it tried. */
  connected: boolean;
  /** Why not, or why nothing can be sent. */
  problem: Problem | undefined;
  /** Events that the store has not accepted. */
  unsent: number;
  /** Those of them that wait for `resolve` or the app's `onConflict`. */
  conflicts: number;
  /** Events that were refused for good; see `letters`. */
  refused: number;
  /** Whether this tab is the one that talks to the store. */
  leading: boolean;
}

/** A device's copy of some aggregates, which can be read and written without a network, and is
 * brought together with the store whenever there is one. See docs/replica.md. */
export class Replica {
  private readonly aggregates = new Set<LocalAggregate<unknown>>();
  private readonly listeners = new Set<() => void>();
  private readonly counting = new Coalesced(() => this.count());
  private readonly tabs: Tabs;
  private readonly stopListening: () => void;
  private leader: Leader | undefined;
  private isClosed = false;
  private current: ReplicaStatus = {
    connected: false, problem: undefined, unsent: 0, conflicts: 0, refused: 0, leading: false,
  };

  private constructor(
    private readonly options: ReplicaOptions,
    private readonly store: Store,
    /** This device's own id: its events carry it. */
    readonly clientId: string,
    platform: Platform,
  ) {
    this.tabs = new Tabs(databaseName(options.name), platform, (told) => this.hear(told));
    this.stopListening = platform.onOnline(() => this.leader?.hurry());
  }

  /** Opens the data on this device. Needs no network. */
  static async open(options: ReplicaOptions): Promise<Replica> {
    const platform = options.platform ?? browserPlatform();
    const store = new Store(await openDatabase(options.name));
    const { clientId } = await store.device();
    const replica = new Replica(options, store, clientId, platform);
    await replica.counting.run();
    replica.tabs.post({ kind: "hello" });
    replica.tabs.lead((signal) => replica.lead(signal)).catch((error) => replica.failed(error));
    return replica;
  }

  /** Takes the data off this device, with what was not sent. Every tab must have closed it. */
  static async destroy(name: string): Promise<void> {
    await deleteDatabase(name);
  }

  /** Opens an aggregate: shows what is here, and follows it as long as it is open. */
  async open<State>(
    key: Key,
    fold: Fold<State>,
    options: OpenOptions = {},
  ): Promise<LocalAggregate<State>> {
    const aggregate = new LocalAggregate(key, fold, options, {
      store: this.store,
      changed: (changed) => this.changed(changed),
      forgotten: (forgotten) => this.forgotten(forgotten),
      closed: (closed) => this.forget(closed as LocalAggregate<unknown>),
      failed: (error) => this.failed(error),
    });
    this.aggregates.add(aggregate as LocalAggregate<unknown>);
    await aggregate.refresh();
    this.tellOpen();
    return aggregate;
  }

  /** How things are. */
  get status(): ReplicaStatus {
    return this.current;
  }

  /** Calls the listener whenever the status changes. Gives what ends that. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Events that wait for a decision, each with what it missed. */
  async conflicts(): Promise<OutboxEntry[]> {
    return (await this.store.entries()).filter((entry) => entry.status === "conflict");
  }

  /** Says what becomes of an event in conflict. Does nothing if that was said before. */
  async resolve(entry: OutboxEntry, decision: Decision): Promise<void> {
    await this.store.advance(entry.key, { kind: "decided", id: entry.id, decision });
    this.changed(entry.key);
  }

  /** Events that the store refused for good, each with the reason. */
  letters(): Promise<DeadLetter[]> {
    return this.store.letters();
  }

  /** Takes an event that was refused for good off the list. With `event`, that is written instead,
   * behind everything else. */
  async dismiss(letter: DeadLetter, event?: NewEvent): Promise<void> {
    // In this order: a crash in between leaves a letter too many, not an event too few.
    if (event !== undefined) {
      await this.store.write(letter.key, asWritten(event), letter.expect);
    }
    await this.store.dismiss(letter.id);
    this.changed(letter.key);
  }

  /** Lets go of everything. What was not sent stays on the device. */
  close(): void {
    this.isClosed = true;
    this.tabs.post({ kind: "open", tab: this.tabs.tab, keys: [] });
    this.stopListening();
    this.tabs.close();
    this.aggregates.clear();
    this.listeners.clear();
    this.store.close();
  }

  private async lead(signal: AbortSignal): Promise<void> {
    const { client, onConflict, pace } = this.options;
    const leader = new Leader(
      {
        store: this.store,
        client,
        clientId: this.clientId,
        pace: { ...PACE, ...pace },
        changed: (key) => this.changed(key),
        told: (connection) => this.tellConnection(connection),
        failed: (error) => this.failed(error),
        decide: async (entry) => onConflict?.(entry),
      },
      signal,
    );
    this.leader = leader;
    this.update({ leading: true });
    this.tabs.post({ kind: "who" });
    this.tellOpen();
    await leader.run();
  }

  private hear(message: TabMessage): void {
    switch (message.kind) {
      case "changed": return this.takeIn(message.key);
      case "forgotten": return this.leader?.forgotten(message.key);
      case "open": return this.leader?.opened(message.tab, message.keys);
      case "who": return this.tellOpen();
      case "connection": return this.update(message.connection);
      case "hello":
        if (this.leader !== undefined) this.tellConnection(this.leader.connection);
    }
  }

  /** Something is different in the database: this tab and the others take it in. */
  private changed(key: Key): void {
    this.tabs.post({ kind: "changed", key });
    this.takeIn(key);
  }

  private forgotten(key: Key): void {
    this.tabs.post({ kind: "forgotten", key });
    this.leader?.forgotten(key);
  }

  private takeIn(key: Key): void {
    if (this.isClosed) return;
    for (const aggregate of this.aggregates) {
      if (aggregate.key === key) this.guard(aggregate.refresh());
    }
    this.guard(this.counting.run());
    this.leader?.changed();
  }

  private forget(aggregate: LocalAggregate<unknown>): void {
    this.aggregates.delete(aggregate);
    this.tellOpen();
  }

  private tellOpen(): void {
    const keys = [...new Set([...this.aggregates].map((aggregate) => aggregate.key))];
    this.tabs.post({ kind: "open", tab: this.tabs.tab, keys });
    this.leader?.opened(this.tabs.tab, keys);
  }

  private tellConnection(connection: Connection): void {
    this.tabs.post({ kind: "connection", connection });
    this.update(connection);
  }

  private async count(): Promise<void> {
    const entries = await this.store.entries();
    const unsent = entries.filter((entry) => entry.status !== "accepted").length;
    const conflicts = entries.filter((entry) => entry.status === "conflict").length;
    const refused = (await this.store.letters()).length;
    this.update({ unsent, conflicts, refused });
  }

  private update(change: Partial<ReplicaStatus>): void {
    const before = this.current;
    this.current = { ...before, ...change };
    const names = Object.keys(change) as (keyof ReplicaStatus)[];
    if (names.every((name) => before[name] === change[name])) return;
    for (const listener of this.listeners) listener();
  }

  private guard(work: Promise<void>): void {
    work.catch((error: unknown) => this.failed(error));
  }

  private failed(error: unknown): void {
    // What was under way when everything was let go fails, and may.
    if (this.isClosed) return;
    (this.options.onError ?? console.error)(error);
  }
}
