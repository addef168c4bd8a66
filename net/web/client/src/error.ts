import type { Problem, Retry } from "./types.js";

/** What went wrong, in the terms of the store. Every call that fails throws this, or what its
 * `signal` was aborted with. */
export class CeleriantError extends Error {
  override readonly name = "CeleriantError";
  /** All fields that the store gave, with those of its kind (`conflicts`, `path`, …). */
  readonly problem: Problem;
  /** When the store said how long to wait, in milliseconds. */
  readonly retryAfterMs: number | undefined;

  constructor(problem: Problem, retryAfterMs?: number, options?: ErrorOptions) {
    super(problem.message, options);
    this.problem = problem;
    this.retryAfterMs = retryAfterMs;
  }

  /** Name of the error, like `Conflict`. */
  get error(): string {
    return this.problem.error;
  }

  /** Its stable number; 0 for what only a client can meet. */
  get code(): number {
    return this.problem.code;
  }

  /** Status of HTTP; 0 if there was no answer. */
  get status(): number {
    return this.problem.status;
  }

  /** Whether doing it again can help. */
  get retry(): Retry {
    return this.problem.retry;
  }

  /** Whether it is certain that nothing was done. */
  get definite(): boolean {
    return this.problem.definite;
  }
}

/** An error that only a client can meet: no answer, or none that this client understands. */
export function localError(
  error: string,
  retry: Retry,
  cause: unknown,
  status = 0,
): CeleriantError {
  const message = cause instanceof Error ? cause.message : String(cause);
  const problem: Problem = {
    error, code: 0, retry, definite: false, message, title: error, status,
  };
  return new CeleriantError(problem, undefined, { cause });
}

/** Reads an answer that says no. What is no problem+json comes from something in between. */
export async function errorOf(response: Response): Promise<CeleriantError> {
  const text = await response.text();
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  const type = response.headers.get("content-type") ?? "";
  const problem = type.startsWith("application/problem+json") ? parse(text) : undefined;
  if (problem !== undefined) return new CeleriantError(problem, retryAfterMs);
  const passing = response.status >= 500 || response.status === 429 || response.status === 408;
  const said = `status ${response.status} ${text.slice(0, 200)}`;
  return localError("UnexpectedAnswer", passing ? "same" : "never", said, response.status);
}

function parse(text: string): Problem | undefined {
  try {
    const value: unknown = JSON.parse(text);
    const isProblem = typeof value === "object" && value !== null && "error" in value;
    return isProblem ? (value as Problem) : undefined;
  } catch {
    return undefined;
  }
}
