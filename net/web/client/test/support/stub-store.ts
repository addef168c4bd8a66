/** A store in memory that answers what a replica asks, by the contract of `POST /v1/sync`. */
import type {
  Event, Expect, NewEvent, Notice, Problem, Receipt, SyncResult, SyncWrite,
} from "../../src/index.js";

/** A write of a device, which has one event. */
export type SyncEvent = NewEvent & { key: string; sequence: number; expect?: Expect };

interface Aggregate {
  events: Event[];
  /** Its version when it was deleted last. */
  base: number;
  notices: Notice[];
  /** Deleted for ever. */
  isFinal: boolean;
  /** Per client: write hash and version by sequence. */
  sequences: Map<string, Map<number, { content: string; version: number }>>;
}

export class StubStore {
  /** Nobody reaches it. */
  down = false;
  /** It does what it is asked, and its answer is lost. */
  losesAnswers = false;
  /** Requests to /v1/sync, as they came. */
  readonly requests: { client_id: string; events: SyncEvent[] }[] = [];
  /** Feeds that are open now. */
  readonly feeds = new Set<() => void>();
  /** Selectors of feeds, in the order in which they were opened, with where from. */
  readonly opened: string[] = [];
  /** Refuses an event, if it gives why. */
  refuse: (event: SyncEvent) => Problem | undefined = () => undefined;
  /** Answers a whole request with this, if it gives something. */
  answer: (events: readonly SyncEvent[]) => Response | undefined = () => undefined;
  /** Waits for this before it answers /v1/sync, after it has applied. */
  gate: Promise<void> = Promise.resolve();
  private readonly aggregates = new Map<string, Aggregate>();
  private stamp = 1_000;

  /** How often anybody asked for anything. */
  attempts = 0;

  readonly fetch: typeof fetch = async (input, init = {}) => {
    this.attempts += 1;
    if (this.down) throw new TypeError("fetch failed");
    const url = new URL(String(input));
    if (url.pathname === "/v1/sync") return this.sync(init);
    if (url.pathname === "/v1/watch") return this.watch(url, init);
    const key = url.pathname.split("/").slice(3, 6).map(decodeURIComponent).join("/");
    const client = url.searchParams.get("client_id") ?? "";
    if (url.pathname.endsWith("/head")) return this.head(key, client);
    const events = this.events(key).filter((event) => event.client_id === client);
    return json(200, { key, version: 0, stamp: this.stamp, next: null, events });
  };

  events(key: string): Event[] {
    return this.aggregate(key).events;
  }

  /** What the events of a list say. */
  texts(key: string): string[] {
    return this.events(key).map((event) => (event.data as { text: string }).text);
  }

  /** Somebody else appends. */
  append(key: string, type: string, data: unknown): void {
    this.store({ key, type, data, sequence: 1, event_id: crypto.randomUUID() }, null);
    this.tellAll();
  }

  /** Somebody deletes it. */
  delete(key: string, recreate = true): void {
    const aggregate = this.aggregate(key);
    aggregate.base += aggregate.events.length;
    aggregate.events = [];
    aggregate.isFinal = !recreate;
    this.stamp += 1;
    aggregate.notices.push({
      notice: "deleted", key, version: aggregate.base, recreate, client_id: null, sequence: null,
      server_time: null, stamp: this.stamp,
    });
    this.tellAll();
  }

  /** Cuts every feed. */
  cut(): void {
    for (const end of [...this.feeds]) end();
  }

  /** Forgets the last events, as after a restore from a backup. */
  rollBack(key: string, clientId: string, count: number): void {
    const aggregate = this.aggregate(key);
    const sequences = aggregate.sequences.get(clientId);
    for (const event of aggregate.events.splice(-count)) sequences?.delete(event.sequence ?? 0);
  }

  /** Without telling feeds; `tellAll` does. */
  private async sync(init: RequestInit): Promise<Response> {
    const body = JSON.parse(String(init.body)) as { client_id: string; writes: SyncWrite[] };
    const events = body.writes.map(({ events: [event], ...write }) => ({ ...event, ...write }));
    const request = { client_id: body.client_id, events: events as SyncEvent[] };
    this.requests.push(request);
    const whole = this.answer(request.events);
    if (whole !== undefined) return whole;
    const held = new Set<string>();
    const results = request.events.map((event) => {
      const result = held.has(event.key)
        ? { key: event.key, sequence: event.sequence, status: "held" as const }
        : this.applyOne(event, request.client_id);
      if (!["accepted", "already_applied"].includes(result.status)) held.add(event.key);
      return result;
    });
    this.tellAll();
    await this.gate;
    init.signal?.throwIfAborted();
    if (this.losesAnswers) throw new TypeError("connection lost");
    return json(200, { results });
  }

  private applyOne(event: SyncEvent, client: string): SyncResult {
    const { key, sequence } = event;
    const aggregate = this.aggregate(key);
    const used = aggregate.sequences.get(client) ?? new Map();
    aggregate.sequences.set(client, used);
    const known = used.get(sequence);
    if (known?.content === contentOf(event)) {
      const receipt = receiptOf(key, known.version, 1, true);
      return { key, sequence, status: "already_applied", receipt };
    }
    const problem = this.refuse(event)
      ?? (aggregate.isFinal ? problemOf("Deleted", "never") : undefined)
      ?? sequenceProblem(sequence, used.size, known !== undefined);
    if (problem !== undefined) return { key, sequence, status: "invalid", problem };
    const version = aggregate.base + aggregate.events.length;
    if (!holds(event.expect ?? "any", version)) {
      const from = typeof event.expect === "number" ? event.expect : 0;
      const missed = aggregate.events.slice(from - aggregate.base);
      const conflicts = [{ key, expected: event.expect, actual: version }];
      const conflict = problemOf("Conflict", "after_reading", { conflicts });
      return { key, sequence, status: "conflict", problem: conflict, missed, more: false };
    }
    const stored = this.store(event, client);
    used.set(sequence, { content: contentOf(event), version: stored.version });
    const receipt = receiptOf(key, stored.version, stored.stamp, false);
    return { key, sequence, status: "accepted", receipt };
  }

  private store(event: SyncEvent, client: string | null): Event {
    const { events, base } = this.aggregate(event.key);
    this.stamp += 1;
    const stored: Event = {
      key: event.key, version: base + events.length + 1, type: event.type, schema: "1.0",
      content_type: "json", data: event.data, client_id: client, sequence: event.sequence,
      event_id: event.event_id ?? null, meta: {}, time: event.time ?? null, server_time: null,
      stamp: this.stamp, hash: "h",
    };
    events.push(stored);
    return stored;
  }

  private head(key: string, client: string): Response {
    const { events, sequences } = this.aggregate(key);
    if (events.length === 0) return json(404, problemOf("NotFound", "never"));
    return json(200, { key, last_sequence: sequences.get(client)?.size ?? null });
  }

  private listeners = new Set<() => void>();

  private tellAll(): void {
    for (const listener of this.listeners) listener();
  }

  private watch(url: URL, init: RequestInit): Response {
    const key = url.searchParams.get("selector") ?? "";
    const last = new Headers(init.headers).get("last-event-id") ?? url.searchParams.get("from");
    this.opened.push(`${key} ${last}`);
    let told = last === "start" ? 0 : Number(last);
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        const tell = (): void => {
          const all = [...this.events(key), ...this.aggregate(key).notices];
          const fresh = all.filter((one) => one.stamp > told).sort((a, b) => a.stamp - b.stamp);
          told = this.stamp;
          const lines = fresh.map((one) => {
            const name = "notice" in one ? one.notice : "append";
            return `id: ${one.stamp}\nevent: ${name}\ndata: ${JSON.stringify(one)}\n\n`;
          });
          const checkpoint = JSON.stringify({ checkpoint: told, caught_up: true });
          lines.push(`id: ${told}\nevent: checkpoint\ndata: ${checkpoint}\n\n`);
          controller.enqueue(encoder.encode(lines.join("")));
        };
        const end = (): void => {
          this.listeners.delete(tell);
          if (this.feeds.delete(end)) controller.error(new TypeError("cut off"));
        };
        this.listeners.add(tell);
        this.feeds.add(end);
        init.signal?.addEventListener("abort", end);
        tell();
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }

  private aggregate(key: string): Aggregate {
    const unknown = { events: [], base: 0, notices: [], isFinal: false, sequences: new Map() };
    const known = this.aggregates.get(key) ?? unknown;
    this.aggregates.set(key, known);
    return known;
  }
}

function receiptOf(key: string, version: number, stamp: number, isOld: boolean): Receipt {
  const writes = [{ key, first_version: version, last_version: version, hash: "h" }];
  return { stamp, already_applied: isOld, writes };
}

/** What the store hashes to recognise a write: not its condition, not its time. */
function contentOf(event: SyncEvent): string {
  return JSON.stringify([event.key, event.type, event.data, event.event_id]);
}

function holds(expect: Expect, version: number): boolean {
  if (expect === "any") return true;
  if (expect === "none") return version === 0;
  return expect === "exists" ? version > 0 : version === expect;
}

function sequenceProblem(
  sequence: number,
  count: number,
  isUsed: boolean,
): Problem | undefined {
  if (isUsed) return problemOf("SequenceReused", "after_reading");
  return sequence === count + 1 ? undefined : problemOf("SequenceGap", "after_reading");
}

export function problemOf(error: string, retry: Problem["retry"], more = {}): Problem {
  const definite = retry !== "same";
  return { error, code: 1, retry, definite, message: error, title: error, status: 409, ...more };
}

export function json(status: number, body: unknown): Response {
  const type = status === 200 ? "application/json" : "application/problem+json";
  return new Response(JSON.stringify(body), { status, headers: { "content-type": type } });
}
