/** Which events are sent next. */
import type { SyncWrite } from "../types.js";
import type { OutboxEntry } from "./records.js";

/** Bounds of one request. */
export interface BatchLimits {
  events: number;
  /** The store recognises a client's last 16 sequences of an aggregate. More in one request, and
   * one whose answer was lost could not be repeated. */
  eventsPerKey: number;
  /** Of their JSON, about; a single event may be larger. */
  bytes: number;
}

/** Well below what the store takes: 1,024 writes and some megabytes. */
export const BATCH_LIMITS: BatchLimits = { events: 256, eventsPerKey: 16, bytes: 1 << 20 };

/** Picks entries in the order in which they were written; what is behind a conflict waits. */
export function nextBatch(entries: readonly OutboxEntry[], limits: BatchLimits): OutboxEntry[] {
  const counts = new Map<string, number>();
  const batch: OutboxEntry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    if (entry.status === "accepted") continue;
    const count = counts.get(entry.key) ?? 0;
    if (entry.status === "conflict") counts.set(entry.key, Number.POSITIVE_INFINITY);
    if (entry.status === "conflict" || count >= limits.eventsPerKey) continue;
    bytes += JSON.stringify(entry.event).length;
    if (batch.length === limits.events || (batch.length > 0 && bytes > limits.bytes)) break;
    counts.set(entry.key, count + 1);
    batch.push(entry);
  }
  return batch;
}

/** An entry as it is sent. */
export function toSyncWrite({ event, key, sequence, expect, id }: OutboxEntry): SyncWrite {
  return { key, sequence, expect, events: [{ ...event, event_id: id }] };
}
