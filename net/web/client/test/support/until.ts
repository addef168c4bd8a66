const PATIENCE_MS = 20_000;

/** Waits until it holds; fails loudly when it does not. */
export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Waits until it gives the same as what is expected. */
export async function untilEqual<T>(expected: T, actual: () => T | Promise<T>): Promise<void> {
  const wanted = JSON.stringify(expected);
  let last = "";
  await until(`equal to ${wanted}`, async () => {
    last = JSON.stringify(await actual());
    return last === wanted;
  }).catch((error: Error) => {
    throw new Error(`${error.message}; at last ${last}`);
  });
}
