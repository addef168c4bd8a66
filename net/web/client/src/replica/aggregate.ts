/** One aggregate, as an app sees it. */
import type { Expect, Key, NewEvent } from "../types.js";
import { Projection, type Fold } from "./projection.js";
import type { OutboxEntry } from "./records.js";
import type { LocalData, Store } from "./store.js";
import { Coalesced } from "./waiting.js";

/** How to open an aggregate. */
export interface OpenOptions {
  /** Keeps the device from holding every event for ever: when so many were confirmed since the
   * last snapshot, the state takes their place. The state must be something that a structured
   * clone can copy. A new `label` (say, when `apply` changes) makes old snapshots worthless: the
   * events are then fetched again. */
  snapshot?: { label: string; every: number };
}

/** How to write. */
export interface LocalWriteOptions {
  /** What must hold at the store; `any` if nothing is said: the last write wins. `seen`: nothing
   * that this tab has not seen yet. */
  expect?: Expect | "seen";
}

/** What an aggregate needs of its replica. */
export interface Owner {
  readonly store: Store;
  /** Something is different in the database. */
  changed(key: Key): void;
  /** Confirmed events are to be told from the start. */
  forgotten(key: Key): void;
  closed(aggregate: { key: Key }): void;
  failed(error: unknown): void;
}

/** An event as it is kept. What is shown now is what will come back: undefined, dates and the like
 * as JSON has them. Its id is the replica's. */
export function asWritten(event: NewEvent): NewEvent {
  const { event_id: _, ...content } = { time: new Date().toISOString(), ...event };
  return JSON.parse(JSON.stringify(content)) as NewEvent;
}

/** An open aggregate: confirmed events folded, with one's own pending ones on top. */
export class LocalAggregate<State> {
  private readonly listeners = new Set<() => void>();
  private readonly projection: Projection<State>;
  private readonly reading = new Coalesced(() => this.read());
  private entries: readonly OutboxEntry[] = [];
  private folded: State;
  private isLoaded = false;
  private snapshotVersion = 0;
  private history: number | undefined;
  private deletedAt = 0;
  private isDeleted = false;

  /** @internal Use `Replica.open`. */
  constructor(
    /** Which one. */
    readonly key: Key,
    fold: Fold<State>,
    private readonly options: OpenOptions,
    private readonly owner: Owner,
  ) {
    this.projection = new Projection(fold);
    this.folded = fold.initial;
  }

  /** What to show. */
  get state(): State {
    return this.folded;
  }

  /** Without one's own pending events. */
  get confirmed(): State {
    return this.projection.confirmed;
  }

  /** Version of the last event that the store confirmed and this tab knows; if it was deleted since,
   * the one at which that was. */
  get version(): number {
    return Math.max(this.projection.version, this.deletedAt);
  }

  /** Whether the store deleted it, and nobody has begun it anew. */
  get deleted(): boolean {
    return this.isDeleted;
  }

  /** One's own events that are not confirmed, in order. */
  get pending(): readonly OutboxEntry[] {
    return this.entries;
  }

  /** Whether this device ever had everything that there was: until then, nothing may mean that it
   * was not fetched yet. */
  get loaded(): boolean {
    return this.isLoaded;
  }

  /** Calls the listener after every change. Gives what ends that. */
  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Writes an event. When this resolves, the event is on the device's disk and in `state`; it is
   * sent as soon as that can be done. Gives the event's id. */
  async write(event: NewEvent, options: LocalWriteOptions = {}): Promise<string> {
    const { expect = "any" } = options;
    const condition = expect === "seen" ? this.version + this.entries.length : expect;
    const entry = await this.owner.store.write(this.key, asWritten(event), condition);
    this.owner.changed(this.key);
    // It is written, whatever becomes of showing it; the replica tells of that.
    await this.refresh().catch(() => undefined);
    return entry.id;
  }

  /** Closes it. Pending events are sent all the same. */
  close(): void {
    this.listeners.clear();
    this.owner.closed(this);
  }

  /** @internal Takes in what is in the database. */
  refresh(): Promise<void> {
    return this.reading.run();
  }

  private async read(): Promise<void> {
    const local = await this.current();
    const { snapshot } = local;
    const isForeign = snapshot !== undefined && snapshot.label !== this.options.snapshot?.label;
    if (snapshot !== undefined && !isForeign) {
      this.projection.adopt(snapshot);
      this.snapshotVersion = snapshot.version;
    }
    if (!isForeign) this.projection.take(local.events);
    this.entries = local.entries;
    this.isLoaded = local.record.loaded;
    this.isDeleted = local.record.deletedAt === local.record.version;
    this.folded = this.projection.with(local.entries);
    this.tell();
    await (isForeign ? this.forget() : this.compact());
  }

  private tell(): void {
    for (const listener of this.listeners) {
      try {
        listener();
      } catch (error) {
        this.owner.failed(error);
      }
    }
  }

  /** What is new in the database; everything, if the store's history turned out to be another. */
  private async current(): Promise<LocalData> {
    const { store } = this.owner;
    const local = await store.read(this.key, this.version);
    const isSame = local.record.history === (this.history ?? local.record.history);
    this.history = local.record.history;
    this.deletedAt = local.record.deletedAt ?? 0;
    if (isSame) return local;
    this.projection.reset();
    this.snapshotVersion = this.deletedAt;
    return store.read(this.key, 0);
  }

  /** The snapshot is other code's, and the events before it are not here any more. */
  private async forget(): Promise<void> {
    await this.owner.store.forget(this.key, false);
    this.owner.forgotten(this.key);
  }

  private async compact(): Promise<void> {
    const { snapshot } = this.options;
    const { version, confirmed: state } = this.projection;
    if (snapshot === undefined || version - this.snapshotVersion < snapshot.every) return;
    this.snapshotVersion = version;
    const { label } = snapshot;
    await this.owner.store.keepSnapshot({ key: this.key, label, version, state }, this.history ?? 0);
  }
}
