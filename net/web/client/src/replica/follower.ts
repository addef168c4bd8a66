/** Follows the feeds of aggregates, for as long as this tab leads. */
import { Backoff } from "../backoff.js";
import { CeleriantError } from "../error.js";
import type { FollowMessage } from "../follow.js";
import type { Event, Key, Notice } from "../types.js";
import type { Context } from "./context.js";
import { Bell, Slots } from "./waiting.js";

/** Confirmed events that are stored in one transaction, at most. */
const EVENTS_MAX = 500;
/** A checkpoint that brings nothing but a later cursor is stored when it is so much later: a minute
 * of the store's clock, which counts eighths of a microsecond. */
const CURSOR_STEP = 60 * 8_000_000;

/** One feed for each aggregate. */
export class Follower {
  private readonly feeds = new Map<Key, Feed>();
  private readonly slots: Slots;

  constructor(
    private readonly context: Context,
    private readonly signal: AbortSignal,
  ) {
    this.slots = new Slots(context.pace.streams);
  }

  /** Follows these and no others. */
  want(keys: ReadonlySet<Key>): void {
    for (const [key, feed] of this.feeds) {
      if (keys.has(key)) continue;
      feed.stop();
      this.feeds.delete(key);
    }
    for (const key of keys) if (!this.feeds.has(key)) this.start(key);
  }

  /** The network is back: connections from before are as good as lost, and pauses are over. */
  hurry(): void {
    for (const feed of this.feeds.values()) feed.hurry();
  }

  /** Follows an aggregate from where its record says, which was changed. */
  restart(key: Key): void {
    this.feeds.get(key)?.stop();
    if (this.feeds.delete(key)) this.start(key);
  }

  private start(key: Key): void {
    const feed = new Feed(this.context, key, this.slots, this.signal);
    this.feeds.set(key, feed);
    feed.run().catch((error: unknown) => this.context.failed(error));
  }
}

class Feed {
  private readonly end = new AbortController();
  private readonly signal: AbortSignal;
  private readonly haste = new Bell();
  private readonly backoff: Backoff;
  private turn = new AbortController();
  private caughtUp = false;
  private cursor = 0;
  private events: Event[] = [];

  constructor(
    private readonly context: Context,
    private readonly key: Key,
    private readonly slots: Slots,
    signal: AbortSignal,
  ) {
    this.signal = AbortSignal.any([this.end.signal, signal]);
    this.backoff = new Backoff(context.pace.backoff);
  }

  stop(): void {
    this.end.abort();
  }

  hurry(): void {
    this.backoff.reset();
    this.haste.ring();
    this.turn.abort();
  }

  async run(): Promise<void> {
    while (await this.slots.take(this.signal)) {
      this.turn = new AbortController();
      const watch = setInterval(() => this.yieldTurn(), this.context.pace.turnMs);
      let pauseMs = 0;
      try {
        await this.takeTurn(AbortSignal.any([this.signal, this.turn.signal]));
      } catch (error) {
        if (!this.signal.aborted && !this.turn.signal.aborted) pauseMs = this.explain(error);
      } finally {
        clearInterval(watch);
        this.slots.give();
      }
      if (pauseMs > 0) await this.haste.wait(this.signal, pauseMs);
    }
  }

  /** Others wait, and this one has been told everything. */
  private yieldTurn(): void {
    if (this.caughtUp && this.slots.contended) this.turn.abort();
  }

  /** A refusal that makes no sense to repeat may still pass: a token is renewed, a right is
   * granted. */
  private explain(error: unknown): number {
    if (error instanceof CeleriantError) this.context.heard(error);
    else this.context.failed(error);
    return this.backoff.next();
  }

  private async takeTurn(signal: AbortSignal): Promise<void> {
    const { client, store, pace } = this.context;
    this.cursor = (await store.record(this.key)).cursor;
    this.events = [];
    this.caughtUp = false;
    const from = this.cursor === 0 ? "start" : this.cursor;
    const options = { from, signal, backoff: pace.backoff } as const;
    for await (const message of client.follow(this.key, options)) await this.take(message);
  }

  private async take(message: FollowMessage): Promise<void> {
    switch (message.kind) {
      case "connected":
        this.backoff.reset();
        return this.context.reached();
      case "disconnected":
        return this.context.heard(message.error);
      case "event":
        this.events.push(message.event);
        if (this.events.length < EVENTS_MAX) return;
        return this.flush(message.stamp, false);
      case "notice":
        return this.notice(message.notice);
      case "checkpoint":
        return this.flush(message.stamp, message.caughtUp);
    }
  }

  /** What a trim takes from the store stays here: the app has made something of it. */
  private async notice({ notice, version, stamp }: Notice): Promise<void> {
    if (notice !== "deleted") return;
    const last = this.events.at(-1);
    if (last !== undefined) await this.flush(last.stamp, false);
    const { cursor: since } = this;
    await this.context.advance(this.key, { kind: "deleted", version, since, cursor: stamp });
    this.cursor = stamp;
  }

  private async flush(cursor: number, caughtUp: boolean): Promise<void> {
    const isFirst = caughtUp && !this.caughtUp;
    this.caughtUp = caughtUp;
    if (this.events.length === 0 && !isFirst && cursor - this.cursor < CURSOR_STEP) return;
    const { clientId } = this.context;
    const { events, cursor: since } = this;
    const told = { kind: "told", clientId, events, since, cursor, caughtUp } as const;
    await this.context.advance(this.key, told);
    this.events = [];
    this.cursor = cursor;
  }
}
