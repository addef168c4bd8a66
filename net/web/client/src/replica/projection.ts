/** From events to the state that an app shows. */
import type { Event } from "../types.js";
import type { OutboxEntry, Snapshot } from "./records.js";

/** An event as an app folds it. */
export interface AppliedEvent {
  type: string;
  schema: string | undefined;
  /** Its JSON; `undefined` if the payload is something else. */
  data: unknown;
  dataBase64: string | undefined;
  meta: Record<string, string>;
  /** When it was written, by the clock of whoever wrote it (RFC 3339). */
  time: string | null;
  /** Its `event_id`. */
  id: string | null;
  /** Its version; `null` as long as the store has not confirmed it. */
  version: number | null;
}

/** How an app folds events. */
export interface Fold<State> {
  initial: State;
  /** The state after the event. Gives a new state and leaves the old one as it is: events that are
   * not confirmed are applied to it again and again. It must take any event. */
  apply: (state: State, event: AppliedEvent) => State;
}

/** Confirmed events, folded. */
export class Projection<State> {
  /** Of confirmed events alone. */
  confirmed: State;
  /** Of the last event in it. */
  version = 0;

  constructor(private readonly fold: Fold<State>) {
    this.confirmed = fold.initial;
  }

  /** Starts anew. */
  reset(): void {
    this.confirmed = this.fold.initial;
    this.version = 0;
  }

  /** Goes on from a snapshot, which must be one of this fold's. */
  adopt(snapshot: Snapshot): void {
    this.confirmed = snapshot.state as State;
    this.version = snapshot.version;
  }

  /** Takes confirmed events, in order. */
  take(events: readonly Event[]): void {
    for (const event of events) {
      this.confirmed = this.fold.apply(this.confirmed, confirmedEvent(event));
      this.version = event.version;
    }
  }

  /** With one's own events on top that are not confirmed. */
  with(entries: readonly OutboxEntry[]): State {
    const apply = (state: State, entry: OutboxEntry): State =>
      this.fold.apply(state, ownEvent(entry));
    return entries.reduce(apply, this.confirmed);
  }
}

function confirmedEvent(event: Event): AppliedEvent {
  const { type, schema, data, meta, time, version } = event;
  return {
    type, schema, data, dataBase64: event.data_base64, meta, time, id: event.event_id, version,
  };
}

function ownEvent({ event, id }: OutboxEntry): AppliedEvent {
  const { type, schema, data, meta = {}, time = null } = event;
  return { type, schema, data, dataBase64: event.data_base64, meta, time, id, version: null };
}
