/** Devices for tests: databases, tabs and locks in one process. */
import "fake-indexeddb/auto";
import {
  Client, Replica, type Fold, type Platform, type ReplicaOptions,
} from "../../src/index.js";
import type { StubStore } from "./stub-store.js";

let count = 0;

/** A name that no other test uses. */
export function freshName(): string {
  count += 1;
  return `device-${count}`;
}

/** Web Locks of one browser: exclusive locks only, granted in turn. */
export class Locks {
  private readonly tails = new Map<string, Promise<unknown>>();

  readonly request = (async (
    name: string,
    { signal }: { signal: AbortSignal },
    run: () => Promise<unknown>,
  ) => {
    const before = this.tails.get(name) ?? Promise.resolve();
    const mine = before.then(() => (signal.aborted ? undefined : run()));
    this.tails.set(name, mine.catch(() => undefined));
    return mine;
  }) as unknown as LockManager["request"];
}

/** One browser: its tabs share locks and data. */
export class Browser {
  readonly name = freshName();
  readonly locks = new Locks();
  private readonly onlines = new Set<() => void>();
  private readonly tabs: Replica[] = [];

  constructor(private readonly store: StubStore) {}

  private readonly platform: Platform = {
    locks: this.locks,
    channel: (name) => new BroadcastChannel(name),
    onOnline: (listener) => {
      this.onlines.add(listener);
      return () => this.onlines.delete(listener);
    },
  };

  /** A new tab. */
  async tab(options: Partial<ReplicaOptions> = {}): Promise<Replica> {
    const client = new Client({ url: "http://store", fetch: this.store.fetch });
    const pace = { backoff: { minMs: 5, maxMs: 20 }, turnMs: 20, ...options.pace };
    const { name, platform } = this;
    const replica = await Replica.open({ client, name, platform, ...options, pace });
    this.tabs.push(replica);
    return replica;
  }

  /** The network is back. */
  online(): void {
    for (const listener of this.onlines) listener();
  }

  close(): void {
    for (const tab of this.tabs) tab.close();
  }
}

/** Folds to the texts of events; `?` marks what is not confirmed. */
export const TEXTS: Fold<string[]> = {
  initial: [],
  apply: (state, event) => [
    ...state,
    (event.data as { text: string }).text + (event.version === null ? "?" : ""),
  ],
};
