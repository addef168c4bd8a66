/** Sends what is in the outbox, for as long as this tab leads. */
import { Backoff } from "../backoff.js";
import { CeleriantError, localError } from "../error.js";
import type { Key, Problem, SyncOutcome, SyncResult } from "../types.js";
import { BATCH_LIMITS, nextBatch, toSyncWrite } from "./batch.js";
import type { Context } from "./context.js";
import type { Answer } from "./outbox.js";
import type { OutboxEntry } from "./records.js";
import { Bell } from "./waiting.js";

/** Outcomes behind which there is less to send. */
const PROGRESS = new Set(["accepted", "already_applied", "invalid"]);

/** One at a time. */
export class Syncer {
  private readonly work = new Bell();
  private readonly haste = new Bell();
  private readonly backoff: Backoff;
  private limits = BATCH_LIMITS;

  constructor(private readonly context: Context) {
    this.backoff = new Backoff(context.pace.backoff);
  }

  /** There may be something to send. Does not cut a pause short. */
  wake(): void {
    this.work.ring();
  }

  /** The network is back: no more waiting. */
  hurry(): void {
    this.backoff.reset();
    this.haste.ring();
    this.work.ring();
  }

  /** Goes on until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      // A ring from before this attempt is no reason not to pause behind it.
      this.haste.silence();
      const pauseMs = await this.round(signal).catch((error: unknown) => {
        this.context.failed(error);
        return this.backoff.next();
      });
      if (pauseMs > 0) await this.haste.wait(signal, pauseMs);
    }
  }

  /** Sends once, or waits for something to send. Gives how long to pause then. */
  private async round(signal: AbortSignal): Promise<number> {
    const batch = nextBatch(await this.context.store.entries(), this.limits);
    if (batch.length > 0) return this.attempt(batch, signal);
    await this.work.wait(signal);
    return 0;
  }

  private async attempt(batch: readonly OutboxEntry[], signal: AbortSignal): Promise<number> {
    try {
      const results = await this.send(batch, signal);
      const stuck = results.find((result) => result.status === "retry");
      this.context.heard(stuck && new CeleriantError(stuck.problem));
      await this.deliver(batch, results, signal);
      if (!results.some((result) => PROGRESS.has(result.status))) return this.backoff.next();
      this.backoff.reset();
      this.limits = BATCH_LIMITS;
      return 0;
    } catch (error) {
      if (signal.aborted) return 0;
      if (!(error instanceof CeleriantError)) throw error;
      if (await this.isolate(batch, error)) return 0;
      this.context.heard(error);
      return Math.max(this.backoff.next(), error.retryAfterMs ?? 0);
    }
  }

  private async send(batch: readonly OutboxEntry[], signal: AbortSignal): Promise<SyncResult[]> {
    const { client, clientId } = this.context;
    const results = await client.sync(clientId, batch.map(toSyncWrite), { signal });
    const isOurs = (entry: OutboxEntry, index: number): boolean =>
      results[index]?.key === entry.key && results[index]?.sequence === entry.sequence;
    if (results.length === batch.length && batch.every(isOurs)) return results;
    throw localError("UnexpectedAnswer", "same", "results are not those of the events sent");
  }

  /** One transaction for each aggregate. */
  private async deliver(
    batch: readonly OutboxEntry[],
    outcomes: readonly SyncOutcome[],
    signal: AbortSignal,
  ): Promise<void> {
    const answers = new Map<Key, Answer[]>();
    batch.forEach(({ key, id, revision }, index) => {
      const outcome = outcomes[index] as SyncOutcome;
      answers.set(key, [...(answers.get(key) ?? []), { id, revision, outcome }]);
    });
    for (const [key, answered] of answers) {
      const event = { kind: "answered", answers: answered } as const;
      const { reconcile } = await this.context.advance(key, event);
      if (reconcile) await this.reconcile(key, signal);
    }
  }

  /** A request that was refused as a whole because of one event must not hold up the others: that
   * event is refused for good. Gives whether it was that. */
  private async isolate(batch: readonly OutboxEntry[], error: CeleriantError): Promise<boolean> {
    if (error.error === "TooLarge" && batch.length > 1) {
      this.limits = { ...this.limits, events: Math.ceil(batch.length / 2) };
      return true;
    }
    const index = error.error === "TooLarge" ? 0 : eventNamedBy(error.problem);
    const entry = index === undefined ? undefined : batch[index];
    if (entry === undefined) return false;
    const { key, id, revision } = entry;
    const outcome = { status: "invalid", problem: error.problem } as const;
    await this.context.advance(key, { kind: "answered", answers: [{ id, revision, outcome }] });
    return true;
  }

  /** Asks how far the store counted, and then which events it has: what lands in between is seen,
   * and the count is asked for again the next time. */
  private async reconcile(key: Key, signal: AbortSignal): Promise<void> {
    const { client, clientId } = this.context;
    const sequence = await this.lastSequence(key, signal);
    const applied = new Set<string>();
    if (sequence > 0) {
      const events = client.events(key, { clientId, signal });
      await absent(async () => {
        for await (const { event_id: id } of events) if (id !== null) applied.add(id);
      });
    }
    await this.context.advance(key, { kind: "reconciled", sequence, applied });
  }

  private async lastSequence(key: Key, signal: AbortSignal): Promise<number> {
    const { client, clientId } = this.context;
    const head = await absent(() => client.head(key, { clientId, signal }));
    return head?.last_sequence ?? 0;
  }
}

/** What was asked for, or nothing: the aggregate is not there, or not any more. */
async function absent<T>(ask: () => Promise<T>): Promise<T | undefined> {
  try {
    return await ask();
  } catch (error) {
    const isError = error instanceof CeleriantError;
    if (isError && ["NotFound", "Deleted"].includes(error.error)) return undefined;
    throw error;
  }
}

/** `writes[3].events[0].data` names the fourth. */
function eventNamedBy(problem: Problem): number | undefined {
  if (problem.retry !== "never" || typeof problem["field"] !== "string") return undefined;
  const found = /^writes\[(\d+)\]/.exec(problem["field"])?.[1];
  return found === undefined ? undefined : Number(found);
}
