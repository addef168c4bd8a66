import {
  follow, watchQuery, type Change, type FollowMessage, type FollowOptions, type WatchOptions,
} from "./follow.js";
import { Transport, type CallOptions, type ClientOptions } from "./http.js";
import { nameInPath, pathOf } from "./key.js";
import type {
  Event, Expect, Feed, Head, Key, Names, NewEvent, Page, Receipt, SyncResult, SyncWrite, Token,
  WritePart,
} from "./types.js";

/** How to change an aggregate. */
export interface AppendOptions extends CallOptions {
  /** What must hold; `any` if nothing is said. */
  expect?: Expect;
  /** Together with `sequence`: the same again is answered with the original receipt. */
  clientId?: string;
  /** Dense from 1 for client and aggregate. */
  sequence?: number;
  /** Instead of both, for whoever cannot count: a name for this request. */
  idempotencyKey?: string;
}

/** How to delete. */
export interface DeleteOptions extends AppendOptions {
  /** It takes no events ever again. */
  neverRecreate?: boolean;
  /** What is remembered of its writers' sequences goes, too: they begin at 1 again. */
  forgetSequences?: boolean;
}

/** How to write to many aggregates. */
export interface WriteOptions extends CallOptions {
  /** Whose sequences the parts carry. */
  clientId?: string;
}

/** Whose answer will do. */
export interface ConsistencyOptions extends CallOptions {
  /** Wait until everything up to this stamp is there. */
  minStamp?: number;
  /** A follower may answer, with what it knows to be committed. */
  any?: boolean;
}

/** Which events of an aggregate to read. */
export interface ReadOptions extends ConsistencyOptions {
  /** Lowest version. */
  from?: number;
  /** Highest version. */
  to?: number;
  /** Newest first. */
  backwards?: boolean;
  /** Stop behind the batch that reaches so many. */
  limit?: number;
  /** Only events of these types. */
  types?: readonly string[];
  /** Only events of this client. */
  clientId?: string;
}

/** What to tell of an aggregate's state. */
export interface HeadOptions extends ConsistencyOptions {
  /** Whose last sequence to tell. */
  clientId?: string;
}

/** Which names to list. */
export interface ListOptions extends CallOptions {
  /** Only names that start with this. */
  prefix?: string;
  /** Only names after this one. */
  after?: string;
  /** At most so many; 1,000 at most. */
  limit?: number;
}

/** Which part of a feed to read. */
export interface FeedOptions extends CallOptions {
  /** Only events behind this stamp. */
  after?: number;
  /** At most so many events. */
  limit?: number;
  /** Only events of these types. */
  types?: readonly string[];
  /** Events without their payloads. */
  headersOnly?: boolean;
}

/** What a token shall allow. */
export interface TokenOptions extends CallOptions {
  /** `org/type/id`, `org/type`, `org`, or `*`: what it is about. */
  selectors: readonly string[];
  /** What its holder may do there. */
  rights: readonly ("read" | "append" | "watch")[];
  /** The client id that its holder writes under, always. */
  clientId?: string;
  /** How long it lasts; 15 minutes if nothing is said, a day at most. */
  seconds?: number;
}

/** A store over HTTP. Every call is one request; none is repeated by itself, except that `follow`
 * connects again. What a failed call may do next is in the error's `retry`. */
export class Client {
  private readonly transport: Transport;

  constructor(options: ClientOptions) {
    this.transport = new Transport(options);
  }

  /** Appends events to one aggregate. */
  append(key: Key, events: readonly NewEvent[], options: AppendOptions = {}): Promise<Receipt> {
    const path = `/v1/aggregates/${pathOf(key)}/events`;
    const body = { events, expect: options.expect };
    return this.transport.json({ ...once(options), method: "POST", path, body });
  }

  /** Deletes an aggregate: its events never show again. Its version stays, so that what is appended
   * later goes on from there. */
  deleteAggregate(key: Key, options: DeleteOptions = {}): Promise<Receipt> {
    const { expect, neverRecreate, forgetSequences } = options;
    const { headers, ...call } = once(options);
    const query = { never_recreate: neverRecreate, forget_sequences: forgetSequences };
    const path = `/v1/aggregates/${pathOf(key)}`;
    const guarded = { ...headers, ...precondition(expect) };
    return this.transport.json({ ...call, method: "DELETE", path, query, headers: guarded });
  }

  /** Takes away an aggregate's events below a version. */
  trim(key: Key, keepFrom: number, options: AppendOptions = {}): Promise<Receipt> {
    const path = `/v1/aggregates/${pathOf(key)}/trim`;
    const body = { keep_from: keepFrom, expect: options.expect };
    return this.transport.json({ ...once(options), method: "POST", path, body });
  }

  /** Writes to many aggregates, all or none. */
  write(writes: readonly WritePart[], options: WriteOptions = {}): Promise<Receipt> {
    const { clientId, ...call } = options;
    const body = { client_id: clientId, writes };
    return this.transport.json({ ...call, method: "POST", path: "/v1/write", body });
  }

  /** A page of an aggregate's events. */
  read(key: Key, options: ReadOptions = {}): Promise<Page> {
    const { clientId, minStamp, signal, ...rest } = options;
    const query = { ...rest, client_id: clientId, min_stamp: minStamp };
    const path = `/v1/aggregates/${pathOf(key)}/events`;
    return this.transport.json({ ...withSignal(signal), method: "GET", path, query });
  }

  /** An aggregate's events, page after page. `limit` is the size of a page. */
  async *events(key: Key, options: ReadOptions = {}): AsyncGenerator<Event, void> {
    let where: ReadOptions = options;
    for (;;) {
      const page = await this.read(key, where);
      yield* page.events;
      if (page.next === null) return;
      where = options.backwards ? { ...where, to: page.next } : { ...where, from: page.next };
      // Whoever answers next must not be behind whoever answered before.
      if (options.any) where.minStamp = Math.max(page.stamp, options.minStamp ?? 0);
    }
  }

  /** An aggregate's state, without its events. */
  head(key: Key, options: HeadOptions = {}): Promise<Head> {
    const { clientId, minStamp, any, signal } = options;
    const query = { client_id: clientId, min_stamp: minStamp, any };
    const path = `/v1/aggregates/${pathOf(key)}/head`;
    return this.transport.json({ ...withSignal(signal), method: "GET", path, query });
  }

  /** Names of orgs. */
  orgs(options: ListOptions = {}): Promise<Names> {
    return this.names("orgs", "/v1/orgs", options);
  }

  /** Names of an org's types. */
  types(org: string, options: ListOptions = {}): Promise<Names> {
    return this.names("types", `/v1/orgs/${nameInPath(org)}/types`, options);
  }

  /** Ids of a type's aggregates. */
  aggregates(org: string, type: string, options: ListOptions = {}): Promise<Names> {
    const path = `/v1/orgs/${nameInPath(org)}/types/${nameInPath(type)}/aggregates`;
    return this.names("aggregates", path, options);
  }

  /** A page of a feed, up to now. `selector`: `org/type/id`, `org/type`, `org`, or `*`. See
   * `told`. */
  feed(selector: string, options: FeedOptions = {}): Promise<Feed> {
    const { signal, headersOnly, ...rest } = options;
    const query = { selector, ...rest, headers_only: headersOnly };
    return this.transport.json({ ...withSignal(signal), method: "GET", path: "/v1/feed", query });
  }

  /** A feed as it happens. Connects again by itself, behind the last stamp that it told; ends only
   * by its signal (and throws its reason), or when the store says that it makes no sense. */
  follow(selector: string, options: FollowOptions = {}): AsyncGenerator<FollowMessage, never> {
    return follow(this.transport, selector, options);
  }

  /** Where an `EventSource` finds the same: with the token in it, for as long as that is good. What
   * it gives are `append`, `deleted`, `trimmed`, `checkpoint` and `problem` events. */
  watchAddress(selector: string, options: WatchOptions = {}): Promise<string> {
    return this.transport.address("/v1/watch", watchQuery(selector, options));
  }

  /** Makes a token: for a backend, whose `headers` show an API key. */
  makeToken(options: TokenOptions): Promise<Token> {
    const { signal, clientId, ...rest } = options;
    const body = { ...rest, client_id: clientId };
    return this.transport.json({ ...withSignal(signal), method: "POST", path: "/v1/tokens", body });
  }

  /** Sends what a device wrote while it was away, each a write of its own. Safe to repeat. This is
   * what `Replica` is made of. */
  async sync(
    clientId: string,
    writes: readonly SyncWrite[],
    options: CallOptions = {},
  ): Promise<SyncResult[]> {
    const body = { client_id: clientId, writes };
    const call = { ...options, method: "POST", path: "/v1/sync", body } as const;
    return (await this.transport.json<{ results: SyncResult[] }>(call)).results;
  }

  private async names(what: string, path: string, options: ListOptions): Promise<Names> {
    const { signal, ...query } = options;
    const call = { ...withSignal(signal), method: "GET", path, query } as const;
    const answer = await this.transport.json<Record<string, unknown>>(call);
    return { names: answer[what] as string[], next: answer["next"] as string | null };
  }
}

/** What a feed's page tells, in the order in which it happened, as `follow` tells it. */
export function told({ events, notices }: Feed): Change[] {
  const changes: Change[] = [
    ...events.map((event): Change => ({ kind: "event", stamp: event.stamp, event })),
    ...notices.map((notice): Change => ({ kind: "notice", stamp: notice.stamp, notice })),
  ];
  return changes.sort((one, other) => one.stamp - other.stamp);
}

/** By what a change is recognised when it comes again. */
function once({ clientId, sequence, idempotencyKey, signal }: AppendOptions) {
  const headers: Record<string, string> = {};
  if (clientId !== undefined) headers["celeriant-client-id"] = clientId;
  if (sequence !== undefined) headers["celeriant-sequence"] = String(sequence);
  if (idempotencyKey !== undefined) headers["idempotency-key"] = idempotencyKey;
  return { ...withSignal(signal), headers };
}

/** A condition as HTTP has it, where there is no body to say it. */
function precondition(expect: Expect = "any"): Record<string, string> {
  switch (expect) {
    case "any": return {};
    case "none": return { "if-none-match": "*" };
    case "exists": return { "if-match": "*" };
    default: return { "if-match": `"${expect}"` };
  }
}

function withSignal(signal: AbortSignal | undefined): CallOptions {
  return signal === undefined ? {} : { signal };
}
