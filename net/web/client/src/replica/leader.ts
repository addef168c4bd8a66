/** What the leading tab does: it sends, follows, and asks the app. */
import type { CeleriantError } from "../error.js";
import type { Key } from "../types.js";
import type { Connection, Context } from "./context.js";
import { Follower } from "./follower.js";
import type { Decision, OutboxEvent } from "./outbox.js";
import type { OutboxEntry } from "./records.js";
import { Syncer } from "./syncer.js";
import { Coalesced } from "./waiting.js";

/** What a leader needs of its replica. */
export type LeaderOptions = Pick<
  Context, "store" | "client" | "clientId" | "pace" | "failed"
> & {
  /** Something is different in the database. */
  changed(key: Key): void;
  /** How it is connected has changed. */
  told(connection: Connection): void;
  /** Asks the app. */
  decide(entry: OutboxEntry): Promise<Decision | undefined>;
};

/** For as long as its signal allows. */
export class Leader implements Context {
  readonly store;
  readonly client;
  readonly clientId;
  readonly pace;
  /** What was last heard of the store. */
  connection: Connection = { connected: false, problem: undefined };
  private readonly syncer: Syncer;
  private readonly follower: Follower;
  private readonly open = new Map<string, readonly Key[]>();
  private readonly choosing = new Coalesced(() => this.choose());

  constructor(
    private readonly options: LeaderOptions,
    private readonly signal: AbortSignal,
  ) {
    ({
      store: this.store, client: this.client, clientId: this.clientId, pace: this.pace,
    } = options);
    this.syncer = new Syncer(this);
    this.follower = new Follower(this, signal);
  }

  /** Leads until the signal. What an earlier leader left undecided is asked again. */
  async run(): Promise<void> {
    const entries = await this.store.entries();
    for (const entry of entries) if (entry.status === "conflict") this.ask(entry);
    this.changed();
    await this.syncer.run(this.signal);
  }

  /** Something is different in the database. */
  changed(): void {
    this.syncer.wake();
    this.choosing.run().catch((error: unknown) => this.failed(error));
  }

  /** What a tab has open. */
  opened(tab: string, keys: readonly Key[]): void {
    if (keys.length > 0) this.open.set(tab, keys);
    else this.open.delete(tab);
    this.changed();
  }

  /** An aggregate is to be told from the start. */
  forgotten(key: Key): void {
    this.follower.restart(key);
  }

  /** The network is back. */
  hurry(): void {
    this.syncer.hurry();
    this.follower.hurry();
  }

  async advance(key: Key, event: OutboxEvent): Promise<{ reconcile: boolean }> {
    const effects = await this.store.advance(key, event);
    for (const effect of effects) {
      if (effect.kind === "ask") this.ask(effect.entry);
      if (effect.kind === "forget") await this.startOver(key);
    }
    this.options.changed(key);
    return { reconcile: effects.some((effect) => effect.kind === "reconcile") };
  }

  heard(error?: CeleriantError): void {
    const was = this.connection;
    const problem = error?.problem;
    this.connection = { connected: error === undefined, problem };
    if (was.connected !== this.connection.connected || was.problem !== problem) {
      this.options.told(this.connection);
    }
  }

  reached(): void {
    const wasConnected = this.connection.connected;
    this.heard();
    if (!wasConnected) this.syncer.hurry();
  }

  failed(error: unknown): void {
    if (!this.signal.aborted) this.options.failed(error);
  }

  /** Follows what any tab has open, and what is on its way until it has come back. */
  private async choose(): Promise<void> {
    const keys = new Set([...this.open.values()].flat());
    for (const entry of await this.store.entries()) keys.add(entry.key);
    if (!this.signal.aborted) this.follower.want(keys);
  }

  private async startOver(key: Key): Promise<void> {
    await this.store.forget(key, true);
    this.follower.restart(key);
  }

  private ask(entry: OutboxEntry): void {
    this.settle(entry).catch((error: unknown) => this.failed(error));
  }

  private async settle(entry: OutboxEntry): Promise<void> {
    const decision = await this.options.decide(entry);
    if (decision === undefined) return;
    await this.advance(entry.key, { kind: "decided", id: entry.id, decision });
  }
}
