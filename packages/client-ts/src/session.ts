/** The calls of the API, shared by a client and its job handles. */

import { ComfysnapError, DeadlineExceeded, jobError, jobIdOf, withJob } from "./errors.js";
import { follow } from "./events.js";
import { Files } from "./files.js";
import { LongPolls, type Polled, type PollPolicy } from "./polling.js";
import { Deadline, NO_RETRY, RetryPolicy } from "./retry.js";
import { randomHex, type Request, type Transport } from "./transport.js";
import {
  isFinal,
  isJobRecord,
  isObject,
  JOB_ID,
  type JobEvent,
  type JobRecord,
  type Progress,
} from "./wire.js";
import {
  bodyOf,
  checkedOutputs,
  checkInputs,
  type UntypedInput,
  type Workflow,
} from "./workflow.js";

export type AnyWorkflow = Workflow<never, unknown> | string;

export interface SubmitOptions {
  /** Seconds for the whole call, retries included; Infinity means no limit. Default: the client's. */
  timeout?: number;
  /** Aborting it ends the call, which rejects with its reason, and cancels the job. */
  signal?: AbortSignal;
  /** Maximum run time on the server, in seconds. */
  jobTimeout?: number;
  /** Stored with the job; `client.jobs` can filter by them. */
  labels?: Readonly<Record<string, string>>;
  /** URL that receives the job once it ended; see `verifyWebhook`. */
  webhook?: string;
  /** Whether the job's events include preview frames. */
  previews?: boolean;
  /** Prevents a second job if this program submits again after a restart. */
  idempotencyKey?: string;
  /** Whether the job is cancelled when `timeout` passes or `signal` is aborted. Default: the
   * client's. */
  cancelOnTimeout?: boolean;
}

export interface WaitOptions {
  /** Seconds to wait; Infinity means no limit. Default: the client's. */
  timeout?: number;
  /** Aborting it ends the wait, which rejects with its reason, and cancels the job unless another
   * call still waits for it. */
  signal?: AbortSignal;
  cancelOnTimeout?: boolean;
  /** Called whenever the progress changes; what it throws ends the wait. */
  onProgress?: (progress: Progress) => void;
}

/** Maximum seconds for cancelling the job of a call that ends early. */
const CLEANUP_S = 5;
const CLEANUP_RETRY = new RetryPolicy({
  attempts: 50, budget: CLEANUP_S, initial: 0.1, maximum: 0.5,
});

export class Session {
  readonly files: Files;
  private readonly polls: LongPolls;
  /** How many calls wait for each job. */
  private readonly waiting = new Map<string, number>();

  constructor(
    readonly transport: Transport,
    private readonly policy: PollPolicy,
    pollSlots: number,
    readonly timeout: number,
    readonly cancelOnTimeout: boolean,
  ) {
    this.files = new Files(transport);
    this.polls = new LongPolls((...call) => this.poll(...call), policy, pollSlots);
  }

  deadline(timeout: number | undefined): Deadline {
    return Deadline.after(timeout ?? this.timeout);
  }

  /** Submit a job, with one idempotency key for all attempts. If the call ends before the response
   * arrives, the submit is repeated to learn the job's ID, and that job is cancelled. */
  async submit(
    workflow: AnyWorkflow,
    inputs: UntypedInput,
    options: SubmitOptions,
    deadline: Deadline,
  ): Promise<JobRecord> {
    const { signal, idempotencyKey = randomHex() } = options;
    const known = typeof workflow === "string" ? undefined : workflow;
    if (known !== undefined) checkInputs(known, inputs);
    const body = await this.files.wire(bodyOf(inputs, known?.inputs), deadline, signal);
    const request: Request = {
      method: "POST",
      url: `infer_async/${encodeURIComponent(known?.name ?? String(workflow))}`,
      params: paramsOf(options),
      headers: {
        "Content-Type": "application/json",
        "Idempotency-Key": idempotencyKey,
        ...(known === undefined ? {} : { "Comfysnap-Contract": known.contract }),
      },
      body: JSON.stringify(body, (_, value: unknown) =>
        typeof value === "bigint" ? value.toString() : value,
      ),
    };
    try {
      return await this.job(request, deadline, signal);
    } catch (error) {
      if (error instanceof ComfysnapError) error.idempotencyKey = idempotencyKey;
      if (request.sent && this.isEarly(error, signal, options.cancelOnTimeout)) {
        const jobId = await this.cleanUp((limit) => this.undo(request, limit));
        if (jobId !== undefined) withJob(error, jobId);
      }
      throw error;
    }
  }

  /** Wait for the final record; the last one to wait that ends early cancels the job. */
  async wait(
    jobId: string,
    options: WaitOptions,
    deadline: Deadline,
    known: JobRecord | undefined,
    onRecord: (record: JobRecord) => void = () => undefined,
  ): Promise<JobRecord> {
    const { signal, onProgress } = options;
    let last = known;
    let shown = "";
    const report = (record: JobRecord): void => {
      last = record;
      onRecord(record);
      const progress = JSON.stringify(record.progress ?? null);
      if (onProgress !== undefined && record.progress !== undefined && progress !== shown) {
        shown = progress;
        onProgress(record.progress);
      }
    };
    this.waiting.set(jobId, (this.waiting.get(jobId) ?? 0) + 1);
    try {
      if (known !== undefined) report(known);
      if (known !== undefined && isFinal(known)) return known;
      const following = { after: known?.version, changes: onProgress !== undefined };
      return await this.polls.wait(jobId, deadline, signal, following, report);
    } catch (error) {
      withJob(error, jobId, last);
      const isLast = this.waiting.get(jobId) === 1;
      if (isLast && this.isEarly(error, signal, options.cancelOnTimeout)) {
        await this.cleanUp((limit) => this.abandon(jobId, limit));
      }
      throw error;
    } finally {
      const others = (this.waiting.get(jobId) ?? 1) - 1;
      if (others > 0) this.waiting.set(jobId, others);
      else this.waiting.delete(jobId);
    }
  }

  /** Return the outputs of a final job, or throw the error of one that did not succeed. */
  outcome(record: JobRecord, workflow: AnyWorkflow | undefined): unknown {
    if (record.status !== "succeeded") throw jobError(record);
    return checkedOutputs(record, typeof workflow === "object" ? workflow.outputs : undefined);
  }

  status(jobId: string, timeout?: number, signal?: AbortSignal): Promise<JobRecord> {
    return this.job({ url: `check_status/${checkedId(jobId)}`, jobId }, this.deadline(timeout), signal);
  }

  cancel(jobId: string, timeout?: number, signal?: AbortSignal): Promise<JobRecord> {
    return this.job(cancelRequest(jobId), this.deadline(timeout), signal);
  }

  /** Return a URL that opens one output, or the events, of a job without a key. */
  async link(jobId: string, output: string | undefined, expiresIn: number, timeout?: number): Promise<string> {
    const request: Request = {
      method: "POST",
      url: "links",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ job_id: jobId, output: output ?? null, expires_in: expiresIn }),
      jobId,
    };
    const reply = await this.transport.send(request, this.deadline(timeout));
    const { url } = reply.parse("link", hasUrl);
    return new URL(url.replace(/^\/+/, ""), this.transport.base).href;
  }

  /** The job's events until `done`. */
  async *events(jobId: string, signal?: AbortSignal): AsyncGenerator<JobEvent, void> {
    const controller = new AbortController();
    const forward = (): void => controller.abort(signal?.reason);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", forward, { once: true });
    try {
      yield* follow(this.transport, this.polls, this.policy, checkedId(jobId), controller.signal);
    } finally {
      signal?.removeEventListener("abort", forward);
    }
  }

  private async job(request: Request, deadline: Deadline, signal?: AbortSignal): Promise<JobRecord> {
    return (await this.transport.send(request, deadline, signal)).parse("job record", isJobRecord);
  }

  /** Send one status request, which the server may hold; the caller handles its failures. */
  private async poll(
    jobId: string,
    hold: number,
    after: number | undefined,
    signal: AbortSignal,
  ): Promise<Polled> {
    const params: [string, string][] = [];
    if (hold > 0) params.push(["wait", hold.toFixed(3)]);
    if (hold > 0 && after !== undefined) params.push(["after", String(after)]);
    const request = { url: `check_status/${checkedId(jobId)}`, params, hold, jobId };
    const reply = await this.transport.send(request, Deadline.NEVER, signal, NO_RETRY);
    return { record: reply.parse("job record", isJobRecord), retryAfter: reply.retryAfter };
  }

  /** Whether a call ended before its job, which is to be cancelled then. */
  private isEarly(error: unknown, signal: AbortSignal | undefined, cancels?: boolean): boolean {
    const isAborted = signal !== undefined && signal.aborted && error === signal.reason;
    return (cancels ?? this.cancelOnTimeout) && (isAborted || error instanceof DeadlineExceeded);
  }

  /** Cancel a job that nobody waits for. */
  private async abandon(jobId: string, limit: Deadline): Promise<string> {
    await this.transport.send(cancelRequest(jobId), limit, undefined, CLEANUP_RETRY);
    return jobId;
  }

  /** Learn the ID of a job whose submit had no response, and cancel the job. */
  private async undo(submit: Request, limit: Deadline): Promise<string> {
    const reply = await this.transport.send(submit, limit, undefined, CLEANUP_RETRY);
    const record = reply.parse("job record", isJobRecord);
    return isFinal(record) ? record.id : this.abandon(record.id, limit);
  }

  /** Finish `work`, whose failure must not hide the error that ended the call. */
  private async cleanUp(work: (limit: Deadline) => Promise<string>): Promise<string | undefined> {
    try {
      return await work(Deadline.after(CLEANUP_S));
    } catch (error) {
      return jobIdOf(error);
    }
  }
}

function cancelRequest(jobId: string): Request {
  return { method: "POST", url: `cancel/${checkedId(jobId)}`, jobId, keepalive: true };
}

function checkedId(jobId: string): string {
  if (!JOB_ID.test(jobId)) throw new TypeError(`'${jobId.slice(0, 200)}' is not a valid job ID`);
  return jobId;
}

/** The query parameters of a submit. */
function paramsOf(options: SubmitOptions): [string, string][] {
  const params: [string, string][] = [];
  if (options.webhook !== undefined) params.push(["webhook", options.webhook]);
  if (options.previews) params.push(["previews", "true"]);
  if (options.jobTimeout !== undefined) params.push(["timeout", options.jobTimeout.toFixed(3)]);
  for (const [key, value] of Object.entries(options.labels ?? {})) {
    params.push(["label", `${key}:${value}`]);
  }
  return params;
}

function hasUrl(value: unknown): value is { url: string } {
  return isObject(value) && typeof value["url"] === "string";
}
