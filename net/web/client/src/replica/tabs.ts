/** Tabs of one replica: one of them leads, all hear of what changes. */
import type { Key } from "../types.js";
import type { Connection } from "./context.js";

/** What tabs tell each other. */
export type TabMessage =
  /** Something of this aggregate is different in the database. */
  | { kind: "changed"; key: Key }
  /** Its confirmed events are to be told from the start. */
  | { kind: "forgotten"; key: Key }
  /** What a tab has open. */
  | { kind: "open"; tab: string; keys: Key[] }
  /** A tab leads from now on and wants to know what the others have open. */
  | { kind: "who" }
  /** A tab is new and wants to know how things are. */
  | { kind: "hello" }
  /** How the leading tab is connected. */
  | { kind: "connection"; connection: Connection };

/** What a replica needs of its surroundings, besides IndexedDB. */
export interface Platform {
  locks: Pick<LockManager, "request">;
  channel(name: string): BroadcastChannel;
  /** Calls the listener when there is a network again. Gives what ends that. */
  onOnline(listener: () => void): () => void;
}

/** A browser's. Fails where there are no Web Locks: outside of a secure context. */
export function browserPlatform(): Platform {
  if (globalThis.navigator?.locks === undefined) {
    throw new Error("a replica needs Web Locks: a secure context (https or localhost)");
  }
  return {
    locks: navigator.locks,
    channel: (name) => new BroadcastChannel(name),
    onOnline: (listener) => {
      globalThis.addEventListener("online", listener);
      return () => globalThis.removeEventListener("online", listener);
    },
  };
}

/** This tab among the others. */
export class Tabs {
  /** Tells this tab from others. */
  readonly tab = crypto.randomUUID();
  private readonly channel: BroadcastChannel;
  private readonly gone = new AbortController();

  constructor(
    private readonly name: string,
    private readonly platform: Platform,
    listener: (message: TabMessage) => void,
  ) {
    this.channel = platform.channel(name);
    this.channel.onmessage = (event: MessageEvent<TabMessage>) => listener(event.data);
  }

  /** Tells the other tabs. */
  post(message: TabMessage): void {
    if (!this.gone.signal.aborted) this.channel.postMessage(message);
  }

  /** Runs it as soon as no other tab leads, for as long as this one is there. The lock is the
   * browser's, so a tab that crashes lets go of it, too. */
  async lead(run: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const { signal } = this.gone;
    try {
      await this.platform.locks.request(this.name, { signal }, () => run(signal));
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  /** Leaves. */
  close(): void {
    this.gone.abort(new DOMException("the replica was closed", "AbortError"));
    this.channel.close();
  }
}
