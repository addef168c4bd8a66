/** How long to wait before the next attempt. */
export interface BackoffOptions {
  /** After the first failure, in milliseconds. */
  minMs: number;
  /** Never longer than this, in milliseconds. */
  maxMs: number;
}

/** Doubling pauses with jitter: half of each is chance, so that many clients that lost the same
 * server do not come back together. */
export class Backoff {
  private failures = 0;

  constructor(
    private readonly options: BackoffOptions,
    private readonly random: () => number = Math.random,
  ) {}

  /** The next pause, in milliseconds. */
  next(): number {
    const { minMs, maxMs } = this.options;
    const full = Math.min(maxMs, minMs * 2 ** Math.min(this.failures, 30));
    this.failures += 1;
    return full / 2 + this.random() * (full / 2);
  }

  /** It worked: the next pause is a short one again. */
  reset(): void {
    this.failures = 0;
  }
}

/** Waits. Ends early, without an error, when the signal is aborted. */
export function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
