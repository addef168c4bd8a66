/**
 * The shapes that go over the wire, under the names that callers use. They rest on `openapi.ts`,
 * which is generated from what a server says about itself.
 */
import type { components } from "./openapi.js";

type Schemas = components["schemas"];

/** `org/type/id`. */
export type Key = string;

/** An event as it is read: what was written, and its place in the aggregate and in the feed. */
export type Event = Schemas["Event"];

/** An event to be written. `data` is any JSON; other payloads go into `data_base64`. */
export type NewEvent = Schemas["NewEvent"];

/** What must hold for a write to be done; a number is the exact version. */
export type Expect = number | "any" | "none" | "exists";

/** What a write that was done is answered with. */
export type Receipt = Schemas["Receipt"];

/** One aggregate's part of a write over many. With `delete` or `trim` it takes away; without those
 * and without events it only guards. */
export type WritePart = Schemas["Write"]["writes"][number];

/** A page of one aggregate's events; `next` is where the next one starts, `null` at the end. */
export type Page = Schemas["Page"];

/** An aggregate's state, without its events. */
export type Head = Schemas["Head"];

/** A page of a feed, up to `checkpoint`; `told` puts its two lists into one order. */
export type Feed = Schemas["Feed"];

/** What a feed tells besides events: an aggregate was `deleted` (its events up to `version` never
 * show again) or `trimmed` (those before `first_available`). */
export type Notice = Schemas["Notice"];

/** The fields of every refusal (RFC 9457), besides those of its kind, like `conflicts`. */
export type Problem = Schemas["Problem"];

/** A token, and what it allows. */
export type Token = Schemas["Token"];

/** Whether doing it again can help, and what has to be done before. */
export type Retry = Problem["retry"];

/** A page of names; `next` is what to give as `after`, `null` at the end. */
export interface Names {
  names: string[];
  next: string | null;
}

/** One write of a device: it does or does not happen by itself. */
export type SyncWrite = WritePart & { sequence: number; events: NewEvent[] };

/** What became of one write of a device. `held`: not tried, because of an earlier one. Of a
 * `conflict`, `missed` are the aggregate's events since the expected version, about 100 at most, and
 * `more` is whether there are more than that. */
export type SyncResult = Schemas["SyncResult"];

/** The part of a {@link SyncResult} that differs. */
export type SyncOutcome = WithoutPlace<SyncResult>;

/** Of each kind by itself. */
type WithoutPlace<Result> = Result extends unknown ? Omit<Result, "key" | "sequence"> : never;
