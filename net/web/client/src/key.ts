import type { Key } from "./types.js";

/** The parts of a key, percent-encoded as a path. Throws on what cannot be a key: a name that is
 * empty, `.` or `..` would be another address. */
export function pathOf(key: Key): string {
  const parts = key.split("/");
  if (parts.length !== 3) throw new RangeError(`a key is org/type/id, not ${key}`);
  return parts.map(nameInPath).join("/");
}

/** One name, percent-encoded. */
export function nameInPath(name: string): string {
  if (name === "" || name === "." || name === "..") {
    throw new RangeError(`${JSON.stringify(name)} is no name`);
  }
  return encodeURIComponent(name);
}
