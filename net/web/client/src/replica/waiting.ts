/** Things to wait for. */

/** Wakes whoever waits. A ring that nobody waits for is kept for the next one. */
export class Bell {
  private rung = false;
  private waiter: (() => void) | undefined;

  /** Wakes. */
  ring(): void {
    this.rung = true;
    this.waiter?.();
  }

  /** Forgets a ring that nobody waited for. */
  silence(): void {
    this.rung = false;
  }

  /** Waits for a ring, for the time to be over, or for the signal; never fails. */
  async wait(signal: AbortSignal, ms?: number): Promise<void> {
    if (!this.rung && !signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          signal.removeEventListener("abort", done);
          resolve();
        };
        const timer = ms === undefined ? undefined : setTimeout(done, ms);
        this.waiter = done;
        signal.addEventListener("abort", done, { once: true });
      });
    }
    this.waiter = undefined;
    this.rung = false;
  }
}

/** So many may go on at a time; the others wait in turn. */
export class Slots {
  private readonly queue: (() => void)[] = [];

  constructor(private free: number) {}

  /** Whether somebody waits for a slot. */
  get contended(): boolean {
    return this.queue.length > 0;
  }

  /** Waits for a slot. Gives whether it has one: not if the signal came first. */
  async take(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    if (this.free > 0) {
      this.free -= 1;
      return true;
    }
    return new Promise((resolve) => {
      const granted = (): void => {
        signal.removeEventListener("abort", left);
        resolve(true);
      };
      const left = (): void => {
        this.queue.splice(this.queue.indexOf(granted), 1);
        resolve(false);
      };
      this.queue.push(granted);
      signal.addEventListener("abort", left, { once: true });
    });
  }

  /** Gives a slot back. */
  give(): void {
    const next = this.queue.shift();
    if (next === undefined) this.free += 1;
    else next();
  }
}

/** Runs something again whenever it is asked for; asked for meanwhile, it runs once more. */
export class Coalesced {
  private running: Promise<void> | undefined;
  private again = false;

  constructor(private readonly job: () => Promise<void>) {}

  /** Resolves when it has run, wholly after this call. */
  run(): Promise<void> {
    if (this.running !== undefined) {
      this.again = true;
      return this.running;
    }
    this.running = this.loop();
    return this.running;
  }

  private async loop(): Promise<void> {
    try {
      do {
        this.again = false;
        await this.job();
      } while (this.again);
    } finally {
      // In the same breath as the last look at `again`: whoever asks from now on starts anew.
      this.running = undefined;
    }
  }
}
