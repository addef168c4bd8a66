/** What the parts of a leading tab share. */
import type { BackoffOptions } from "../backoff.js";
import type { Client } from "../client.js";
import type { CeleriantError } from "../error.js";
import type { Key, Problem } from "../types.js";
import type { OutboxEvent } from "./outbox.js";
import type { Store } from "./store.js";

/** How fast a replica goes about things. */
export interface Pace {
  /** Pauses after failures; 500 ms to 30 s if nothing is said. */
  backoff: BackoffOptions;
  /** Feeds that are followed at a time; 4 if nothing is said. A browser opens no more than 6
   * connections to one server over HTTP/1.1. More open aggregates than that take turns. */
  streams: number;
  /** How long a turn is, in milliseconds; 2,000 if nothing is said. */
  turnMs: number;
}

/** What holds if nothing is said. */
export const PACE: Pace = { backoff: { minMs: 500, maxMs: 30_000 }, streams: 4, turnMs: 2_000 };

/** What was last heard of the store. */
export interface Connection {
  connected: boolean;
  /** Why it is not connected, or why nothing can be sent. */
  problem: Problem | undefined;
}

/** The surroundings of syncer and follower. */
export interface Context {
  readonly store: Store;
  readonly client: Client;
  readonly clientId: string;
  readonly pace: Pace;
  /** Tells an aggregate's outbox what happened, does what follows, and tells everybody. Gives
   * whether the store must be asked what it has. */
  advance(key: Key, event: OutboxEvent): Promise<{ reconcile: boolean }>;
  /** The store answered, or why it did not. */
  heard(error?: CeleriantError): void;
  /** A feed is connected: what waits because there was no connection may go. */
  reached(): void;
  /** Something failed that should not: the app is told. */
  failed(error: unknown): void;
}
