/** Waiting for jobs by long polls, which share the connections of a client fairly. */

import { ComfysnapError, DeadlineExceeded, UnexpectedResponse } from "./errors.js";
import { type Deadline, now, sleep, within } from "./retry.js";
import { isTransient } from "./transport.js";
import { isFinal, type JobRecord } from "./wire.js";

/** A response that took this many seconds was held by the server. */
const HELD_S = 1;

/** How to wait for jobs: long polls, with pauses only after failures or without long polling. */
export class PollPolicy {
  /** Seconds that the server may hold a status request, 0 to 25. 0 disables long polls. */
  readonly hold: number = 25;
  /** Seconds of the first pause. Polls for progress are at least a tenth of it apart. */
  readonly initial: number = 0.5;
  /** Factor by which each pause is longer than the one before. */
  readonly factor: number = 1.5;
  /** Maximum pause in seconds, unless the server's `Retry-After` asks for more. */
  readonly maximum: number = 5;
  /** Fraction of a pause, 0 to 1, that is randomly added or subtracted. */
  readonly jitter: number = 0.25;

  constructor(options: Partial<PollOptions> = {}) {
    Object.assign(this, options);
  }

  /** Return the seconds to wait after `streak` consecutive polls that failed or were not held;
   * `hint` is the server's `Retry-After`. */
  pause(streak: number, rand: number, hint?: number): number {
    if (hint !== undefined) return Math.max(hint, this.initial / 10);
    const pause = Math.min(this.initial * this.factor ** Math.min(streak - 1, 64), this.maximum);
    return pause * (1 + this.jitter * (2 * rand - 1));
  }

  /** Return the seconds to hold one poll when `jobs` jobs share `slots` connections, so that each
   * job is polled at least every `maximum` seconds. */
  holdAmong(jobs: number, slots: number): number {
    return jobs <= slots ? this.hold : Math.min(this.hold, (this.maximum * slots) / jobs);
  }
}

export type PollOptions = Omit<PollPolicy, "pause" | "holdAmong">;

/** A job and the server's `Retry-After` in seconds. */
export interface Polled {
  readonly record: JobRecord;
  readonly retryAfter: number | undefined;
}

/** Sends one status request: returns the job once it is final or newer than version `after`, or
 * after `hold` seconds. */
export type Poll = (
  jobId: string,
  hold: number,
  after: number | undefined,
  signal: AbortSignal,
) => Promise<Polled>;

export interface Following {
  /** Version that the caller already has. */
  after: number | undefined;
  /** Whether to report every change, which takes a request for each. */
  changes: boolean;
}

/** What a wait has seen, for the error of one that ends early. */
class Seen {
  polls = 0;
  failure: ComfysnapError | undefined;
  record: JobRecord | undefined;
}

/** The poll loops of a client, which share `slots` connections. */
export class LongPolls {
  private jobs = 0;
  private readonly turns: Semaphore;

  constructor(
    private readonly poll: Poll,
    private readonly policy: PollPolicy,
    private readonly slots: number,
  ) {
    this.turns = new Semaphore(slots);
  }

  /** Wait until the job is final; failed polls are retried until the deadline. */
  async wait(
    jobId: string,
    deadline: Deadline,
    outer: AbortSignal | undefined,
    following: Following,
    onRecord: (record: JobRecord) => void,
  ): Promise<JobRecord> {
    const seen = new Seen();
    const exceeded = (): DeadlineExceeded =>
      new DeadlineExceeded("timed out waiting for the job", {
        jobId,
        record: seen.record,
        attempts: seen.polls,
        status: seen.failure?.status ?? (seen.record ? 200 : undefined),
        requestId: seen.failure?.requestId,
        cause: seen.failure,
      });
    return within(deadline, outer, exceeded, async (signal) => {
      for await (const record of this.follow(jobId, following, signal, seen)) {
        onRecord(record);
        if (isFinal(record)) return record;
      }
      throw new Error("unreachable: a job is followed to its final record");
    });
  }

  /** Yield each record of the job that is newer than version `after`, up to the final one. */
  async *follow(
    jobId: string,
    { after, changes }: Following,
    signal: AbortSignal,
    seen: Seen = new Seen(),
  ): AsyncGenerator<JobRecord, void> {
    let version = after;
    let streak = 0;
    this.jobs += 1;
    try {
      for (;;) {
        let hint: number | undefined;
        let productive = false;
        let record: JobRecord | undefined;
        await this.turns.acquire(signal);
        const known = changes ? version : undefined;
        const most = this.policy.holdAmong(this.jobs, this.slots);
        const hold = changes && known === undefined ? 0 : most;
        const started = now();
        try {
          seen.polls += 1;
          ({ record, retryAfter: hint } = await this.poll(jobId, hold, known, signal));
          const held = hold > 0 && now() - started >= Math.min(HELD_S, hold / 2);
          const isNews = version === undefined || record.version > version;
          productive = held || (changes && isNews);
        } catch (error) {
          if (!isPassing(error, seen.record !== undefined)) throw error;
          seen.failure = error;
          hint = error.retryAfter;
        } finally {
          this.turns.release();
        }
        if (record !== undefined) {
          seen.record = record;
          if (isFinal(record) || version === undefined || record.version > version) {
            version = record.version;
            yield record;
          }
          if (isFinal(record)) return;
        }
        streak = productive ? 0 : streak + 1;
        if (hint !== undefined || streak > 0 || this.policy.hold === 0) {
          await sleep(this.policy.pause(Math.max(streak, 1), Math.random(), hint), signal);
        } else if (changes) {
          // Fast progress must not become a storm of polls.
          await sleep(Math.max(0, started + this.policy.initial / 10 - now()), signal);
        }
      }
    } finally {
      this.jobs -= 1;
    }
  }
}

/** Whether to keep polling after this failure. Once the server has returned the job, a foreign
 * response is most likely a passing fault of a proxy. */
function isPassing(error: unknown, known: boolean): error is ComfysnapError {
  return (
    error instanceof ComfysnapError &&
    (isTransient(error) || (known && error instanceof UnexpectedResponse))
  );
}

/** Lets a number of tasks in, the others in the order in which they came. */
export class Semaphore {
  private readonly queue: (() => void)[] = [];

  constructor(private free: number) {}

  async acquire(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.free > 0) {
      this.free -= 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        this.queue.splice(this.queue.indexOf(enter), 1);
        reject(signal.reason);
      };
      const enter = (): void => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      signal.addEventListener("abort", leave, { once: true });
      this.queue.push(enter);
    });
  }

  release(): void {
    const next = this.queue.shift();
    if (next === undefined) this.free += 1;
    else next();
  }
}
