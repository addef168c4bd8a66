/** Requests and answers: addresses, headers, time limits, errors. */
import { CeleriantError, errorOf, localError } from "./error.js";

/** How to reach a store. */
export interface ClientOptions {
  /** Where its HTTP gateway is, like `https://db.example:7442`. */
  url: string;
  /** Called for every request; what it gives is sent along, like `Authorization`. */
  headers?: () => HeadersInit | Promise<HeadersInit>;
  /** A token, or what gives one: called for every request, so that it can give another one before
   * the old one is over. Sent as `Authorization: Bearer`. */
  token?: string | (() => string | Promise<string>);
  /** Longest time for one call, in milliseconds; 30,000 if nothing is said. A `follow` has no end,
   * only its connecting has. */
  timeoutMs?: number;
  /** Instead of the global one. */
  fetch?: typeof fetch;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call; the call then throws the signal's reason. */
  signal?: AbortSignal;
}

/** Parameters of a query string; what is `undefined` is left out. */
export type Query = Record<string, string | number | boolean | readonly string[] | undefined>;

/** One request. */
export interface Call extends CallOptions {
  method: "GET" | "POST" | "DELETE";
  path: string;
  query?: Query;
  headers?: Record<string, string>;
  body?: unknown;
}

const TIMEOUT_MS = 30_000;

/** Sends requests to one store. */
export class Transport {
  private readonly base: string;
  private readonly timeoutMs: number;
  private readonly fetch: typeof fetch;

  constructor(private readonly options: ClientOptions) {
    this.base = options.url.replace(/\/+$/, "");
    this.timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    // A browser's fetch insists on being called on its window.
    this.fetch = options.fetch ?? ((...request) => globalThis.fetch(...request));
  }

  /** The answer's JSON. */
  async json<T>(call: Call): Promise<T> {
    return this.within(call.signal, async (signal) => {
      const response = await this.send(call, signal);
      return (await response.json()) as T;
    });
  }

  /** An answer whose body is read bit by bit; only its head has to come in time. */
  async stream(call: Call): Promise<Response> {
    return this.within(call.signal, (signal) => this.send(call, signal));
  }

  /** The address of something, for whoever cannot send headers: the token is in it. Good for what
   * says that it takes one, and for nobody's log. */
  async address(path: string, query: Query): Promise<string> {
    return this.base + path + queryText({ ...query, token: await this.token() });
  }

  /** Another token may be good where this one is over. */
  get canRenew(): boolean {
    return typeof this.options.token === "function";
  }

  private async token(): Promise<string | undefined> {
    const { token } = this.options;
    return typeof token === "function" ? token() : token;
  }

  private async send(call: Call, signal: AbortSignal | undefined): Promise<Response> {
    const headers = new Headers(await this.options.headers?.());
    const token = await this.token();
    if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
    for (const [name, value] of Object.entries(call.headers ?? {})) headers.set(name, value);
    const init: RequestInit = { method: call.method, headers, cache: "no-store" };
    if (signal !== undefined) init.signal = signal;
    if (call.body !== undefined) {
      headers.set("content-type", "application/json");
      init.body = JSON.stringify(call.body);
    }
    const response = await this.fetch(this.base + call.path + queryText(call.query), init);
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** Runs it under the time limit, and turns whatever it throws into one kind of error. */
  private async within<T>(
    outer: AbortSignal | undefined,
    run: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    outer?.throwIfAborted();
    const limit = new AbortController();
    const timer = setTimeout(() => limit.abort(), this.timeoutMs);
    const signal = outer === undefined ? limit.signal : AbortSignal.any([outer, limit.signal]);
    try {
      return await Promise.race([run(signal), rejection(signal)]);
    } catch (error) {
      if (error instanceof CeleriantError) throw error;
      if (outer?.aborted) throw outer.reason;
      const why = limit.signal.aborted ? `no answer in ${this.timeoutMs} ms` : error;
      throw localError(limit.signal.aborted ? "DeadlineExceeded" : "Unreachable", "same", why);
    } finally {
      clearTimeout(timer);
    }
  }
}

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

function queryText(query: Query | undefined): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value === undefined) continue;
    if (typeof value === "boolean") pairs.set(name, value ? "1" : "0");
    else pairs.set(name, typeof value === "object" ? value.join(",") : String(value));
  }
  const text = pairs.toString();
  return text === "" ? "" : `?${text}`;
}
