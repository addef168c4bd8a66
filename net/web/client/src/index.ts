/** Celeriant for browsers and Node. */
export type { BackoffOptions } from "./backoff.js";
export {
  Client, told, type AppendOptions, type ConsistencyOptions, type DeleteOptions, type FeedOptions,
  type HeadOptions, type ListOptions, type ReadOptions, type TokenOptions, type WriteOptions,
} from "./client.js";
export { CeleriantError } from "./error.js";
export type { Change, FollowMessage, FollowOptions, From, WatchOptions } from "./follow.js";
export type { CallOptions, ClientOptions } from "./http.js";
export type {
  Event, Expect, Feed, Head, Key, Names, NewEvent, Notice, Page, Problem, Receipt, Retry,
  SyncOutcome, SyncResult, SyncWrite, Token, WritePart,
} from "./types.js";
export type { LocalAggregate, LocalWriteOptions, OpenOptions } from "./replica/aggregate.js";
export type { Pace } from "./replica/context.js";
export type { Decision } from "./replica/outbox.js";
export type { AppliedEvent, Fold } from "./replica/projection.js";
export type { DeadLetter, Missed, OutboxEntry } from "./replica/records.js";
export { Replica, type ReplicaOptions, type ReplicaStatus } from "./replica/replica.js";
export type { Platform } from "./replica/tabs.js";
