/** IndexedDB with promises, and the tables of a replica. */

/** Names of the tables. */
export const TABLES = {
  device: "device",
  aggregates: "aggregates",
  outbox: "outbox",
  events: "events",
  letters: "letters",
  snapshots: "snapshots",
} as const;

/** Index of the outbox by aggregate. */
export const BY_KEY = "by_key";

const VERSION = 1;

/** The name under which a replica's database is found. */
export function databaseName(name: string): string {
  return `celeriant:${name}`;
}

/** Opens a replica's database, and makes it if it is not there. */
export function openDatabase(name: string): Promise<IDBDatabase> {
  const request = indexedDB.open(databaseName(name), VERSION);
  request.onupgradeneeded = () => {
    const database = request.result;
    database.createObjectStore(TABLES.device);
    database.createObjectStore(TABLES.aggregates, { keyPath: "key" });
    const outbox = database.createObjectStore(TABLES.outbox, { keyPath: "place" });
    outbox.createIndex(BY_KEY, "key");
    database.createObjectStore(TABLES.events, { keyPath: ["key", "version"] });
    database.createObjectStore(TABLES.letters, { keyPath: "id" });
    database.createObjectStore(TABLES.snapshots, { keyPath: "key" });
  };
  return result(request);
}

/** Takes a replica's database away. Waits until no tab has it open. */
export async function deleteDatabase(name: string): Promise<void> {
  await result(indexedDB.deleteDatabase(databaseName(name)));
}

/** What a request gives. */
export function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Runs it in one transaction: all of it is stored, or nothing. It may await nothing but requests
 * of this transaction. What is written is on the disk when this resolves. */
export async function transact<T>(
  database: IDBDatabase,
  tables: readonly string[],
  mode: "readonly" | "readwrite",
  run: (table: (name: string) => IDBObjectStore) => Promise<T>,
): Promise<T> {
  const transaction = database.transaction([...tables], mode, { durability: "strict" });
  const done = new Promise<void>((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error ?? new Error("aborted"));
  });
  // Whoever awaits `run` first hears of its error, which aborts.
  done.catch(() => undefined);
  try {
    const value = await run((name) => transaction.objectStore(name));
    await done;
    return value;
  } catch (error) {
    try {
      transaction.abort();
    } catch {
      // It is over already: that is what failed.
    }
    throw error;
  }
}

/** Everything of one aggregate in the table of events, above a version. */
export function eventsAbove(key: string, version: number): IDBKeyRange {
  return IDBKeyRange.bound([key, version], [key, Number.POSITIVE_INFINITY], true);
}

/** Everything of one aggregate in the table of events, up to a version. */
export function eventsUpTo(key: string, version: number): IDBKeyRange {
  return IDBKeyRange.bound([key, 0], [key, version]);
}
