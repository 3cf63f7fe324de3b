/** Retries and deadlines: decisions, without sending. */

/**
 * When and how often a request is retried, within the call's `timeout`.
 *
 * All requests of the client are safe to retry: reads by nature, submits because all attempts share
 * one idempotency key, uploads because files are addressed by their content.
 */
export class RetryPolicy {
  /** Maximum number of requests for one call, at least 1. */
  readonly attempts: number = 10;
  /** Seconds from the start of the first attempt within which others may start. */
  readonly budget: number = 120;
  /**
   * The same while no connection to the server was ever made: a wrong URL or a server that does not
   * run is an error soon. Counts where it is below `budget`; browsers cannot tell.
   */
  readonly firstContact: number = 15;
  /** Seconds of the first pause. */
  readonly initial: number = 0.5;
  /** Factor by which each pause is longer than the one before. */
  readonly factor: number = 2;
  /** Maximum pause in seconds, unless the server asks for more. */
  readonly maximum: number = 8;
  /** Fraction of a pause, 0 to 1, that is randomly subtracted. */
  readonly jitter: number = 0.25;
  /** Maximum `Retry-After` in seconds; a longer one ends the call. */
  readonly longestRetryAfter: number = 120;

  constructor(options: Partial<RetryOptions> = {}) {
    Object.assign(this, options);
  }

  /** Return the seconds to wait after a failed attempt, counted from 1, or undefined to give up. */
  pause(
    attempt: number, elapsed: number, rand: number, retryAfter?: number, reached = true,
  ): number | undefined {
    if (attempt >= this.attempts) return undefined;
    let pause = Math.min(this.initial * this.factor ** Math.min(attempt - 1, 64), this.maximum);
    if (retryAfter !== undefined) {
      if (retryAfter > this.longestRetryAfter) return undefined;
      pause = retryAfter + Math.min(pause, retryAfter) * this.jitter * rand;
    } else {
      pause *= 1 - this.jitter * rand;
    }
    const budget = reached ? this.budget : Math.min(this.budget, this.firstContact);
    return elapsed + pause <= budget ? pause : undefined;
  }
}

export type RetryOptions = Omit<RetryPolicy, "pause">;

/** A single attempt. */
export const NO_RETRY: RetryPolicy = new RetryPolicy({ attempts: 1 });

/** Whether to retry after a response with this HTTP status. */
export function isTemporary(status: number): boolean {
  return status === 408 || status === 425 || status === 429 || status >= 500;
}

/** The time by which a call must end. */
export class Deadline {
  private constructor(private readonly at: number) {}

  /** No limit. */
  static readonly NEVER: Deadline = new Deadline(Infinity);

  /** The deadline this many seconds from now; Infinity means never. */
  static after(seconds: number): Deadline {
    if (!(seconds >= 0)) {
      throw new RangeError("timeout must be 0 or more seconds, or Infinity for no limit");
    }
    return new Deadline(now() + seconds);
  }

  /** The seconds left, at least 0. */
  remaining(): number {
    return Math.max(0, this.at - now());
  }

  /** Whether a pause of this many seconds ends before the deadline. */
  allows(pause: number): boolean {
    return pause < this.remaining();
  }
}

/** Monotonic time in seconds. */
export function now(): number {
  return performance.now() / 1000;
}

/** The seconds of `Retry-After`, which may be a date relative to `Date`. */
export function retryAfter(headers: Pick<Headers, "get">): number | undefined {
  const value = (headers.get("retry-after") ?? "").trim();
  if (/^[+-]?(\d+\.?\d*|\.\d+)$/.test(value)) return Math.max(0, Number(value));
  const until = httpDate(value);
  if (until === undefined) return undefined;
  const from = httpDate(headers.get("date") ?? "") ?? Date.now();
  return Math.max(0, (until - from) / 1000);
}

function httpDate(value: string): number | undefined {
  const parsed = /^[A-Z][a-z]{2}, \d/.test(value) ? Date.parse(value) : NaN;
  return Number.isNaN(parsed) ? undefined : parsed;
}

const LONGEST_TIMER_S = 2 ** 31 / 1000 - 1;

/** Call `callback` after this many seconds, of which there may be more than a timer takes; returns
 * what stops it. */
export function startTimer(seconds: number, callback: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const start = (left: number): void => {
    const step = Math.min(left, LONGEST_TIMER_S);
    timer = setTimeout(() => (left > step ? start(left - step) : callback()), step * 1000);
  };
  if (seconds !== Infinity) start(seconds);
  return () => clearTimeout(timer);
}

/** Wait this many seconds; rejects with the signal's reason as soon as it is aborted. */
export function sleep(seconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = (): void => {
      cancel();
      reject(signal.reason);
    };
    const cancel = startTimer(seconds, () => {
      signal.removeEventListener("abort", stop);
      resolve();
    });
    signal.addEventListener("abort", stop, { once: true });
  });
}

/**
 * Run `work` with a signal that is aborted when the deadline passes or `outer` is aborted.
 *
 * Rejects with what `exceeded` returns, or with the reason of `outer`.
 */
export async function within<T>(
  deadline: Deadline,
  outer: AbortSignal | undefined,
  exceeded: () => Error,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  outer?.throwIfAborted();
  const controller = new AbortController();
  const forward = (): void => controller.abort(outer?.reason);
  outer?.addEventListener("abort", forward, { once: true });
  const expired = new Error("the deadline passed");
  const cancel = startTimer(deadline.remaining(), () => controller.abort(expired));
  try {
    return await work(controller.signal);
  } catch (error) {
    throw error === expired ? exceeded() : error;
  } finally {
    cancel();
    outer?.removeEventListener("abort", forward);
  }
}
