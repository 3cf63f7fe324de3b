/** `Client` and `Job`: the public API. */

import { jobError } from "./errors.js";
import { type PollOptions, PollPolicy } from "./polling.js";
import { type RetryOptions, RetryPolicy } from "./retry.js";
import { type AnyWorkflow, Session, type SubmitOptions, type WaitOptions } from "./session.js";
import { type Credentials, Transport } from "./transport.js";
import {
  isJobRecord,
  isObject,
  type JobEvent,
  type JobRecord,
  type JobStatus,
  type NamedOutput,
  type OutputFile,
  type WorkflowDetail,
  type WorkflowSummary,
} from "./wire.js";
import type { UntypedInput, UntypedOutput, Workflow } from "./workflow.js";

/** Of the client; all durations are in seconds, as in the API. */
export interface ClientOptions extends Credentials {
  /** Default for calls without their own: seconds for the whole call, including retries and waiting
   * for a job. Infinity means no limit. Default: 600. */
  timeout?: number;
  /** Seconds for establishing one connection. Default: 10. */
  connectTimeout?: number;
  /** Seconds without data before a connection counts as broken, besides the time that the server may
   * hold a request. Default: 60. */
  readTimeout?: number;
  /** Connections that waiting for jobs may take most of. Default: 100; in a browser, which allows a
   * server only six, 6. */
  maxConnections?: number;
  /** When and how often requests are retried. */
  retry?: Partial<RetryOptions>;
  /** How to wait for jobs. */
  polling?: Partial<PollOptions>;
  /** Whether a job is cancelled when the `timeout` of a call passes or its `signal` is aborted.
   * Default: true. */
  cancelOnTimeout?: boolean;
  /** Replaces the global `fetch`. */
  fetch?: typeof fetch;
}

/** Of calls that only ask. */
export interface CallOptions {
  /** Seconds for the whole call, retries included. Default: the client's. */
  timeout?: number;
  /** Aborting it ends the call, which rejects with its reason. */
  signal?: AbortSignal;
}

export interface InferOptions extends SubmitOptions, Pick<WaitOptions, "onProgress"> {}

export interface JobFilter {
  status?: JobStatus;
  workflow?: string;
  labels?: Readonly<Record<string, string>>;
}

/**
 * A client for one comfysnap server.
 *
 *     const client = new Client("http://127.0.0.1:8000");
 *     const { images } = await client.infer(flux, { prompt: "a fox" });
 */
export class Client {
  private readonly session: Session;

  /**
   * @param baseUrl URL of the server, including its path prefix if it has one.
   * @throws TypeError or RangeError: an argument is not valid.
   */
  constructor(baseUrl: string, options: ClientOptions = {}) {
    const { timeout = 600, maxConnections = "document" in globalThis ? 6 : 100 } = options;
    if (!(maxConnections >= 2)) throw new RangeError("maxConnections must be at least 2");
    const transport = new Transport(baseUrl, {
      apiKey: options.apiKey,
      modalKey: options.modalKey,
      modalSecret: options.modalSecret,
      retry: new RetryPolicy(options.retry),
      connectTimeout: options.connectTimeout ?? 10,
      readTimeout: options.readTimeout ?? 60,
      fetch: options.fetch ?? ((...call) => fetch(...call)),
    });
    // Polls must not use up the connections that submits, cancels and files need.
    const slots = Math.max(1, Math.floor((maxConnections * 4) / 5));
    const polling = new PollPolicy(options.polling);
    this.session = new Session(transport, polling, slots, timeout, options.cancelOnTimeout ?? true);
    this.session.deadline(timeout); // throws if it is not valid
  }

  /**
   * Run a workflow and return its outputs: submit, then wait.
   *
   * @throws InvalidInput: the inputs are not valid; see `fields`.
   * @throws JobError: the job failed, was cancelled, timed out or expired.
   * @throws DeadlineExceeded: `timeout` passed; the error carries the job's ID.
   * @throws ComfysnapError: the server is unreachable or rejected the request.
   */
  infer<Input extends object, Output>(
    workflow: Workflow<Input, Output>,
    inputs: NoInfer<Input>,
    options?: InferOptions,
  ): Promise<Output>;
  infer(workflow: string, inputs: UntypedInput, options?: InferOptions): Promise<UntypedOutput>;
  async infer(workflow: AnyWorkflow, inputs: object, options: InferOptions = {}): Promise<unknown> {
    const seconds = options.timeout ?? this.session.timeout;
    const cancels = options.cancelOnTimeout ?? this.session.cancelOnTimeout;
    const deadline = this.session.deadline(seconds);
    const limited = cancels && seconds !== Infinity && options.jobTimeout === undefined;
    const submit = limited ? { ...options, jobTimeout: seconds } : options;
    const known = await this.session.submit(workflow, inputs as UntypedInput, submit, deadline);
    const record = await this.session.wait(known.id, options, deadline, known);
    return this.session.outcome(record, workflow);
  }

  /** Submit a job and return its handle; options and errors are those of `infer`. */
  submit<Input extends object, Output>(
    workflow: Workflow<Input, Output>,
    inputs: NoInfer<Input>,
    options?: SubmitOptions,
  ): Promise<Job<Output>>;
  submit(workflow: string, inputs: UntypedInput, options?: SubmitOptions): Promise<Job<UntypedOutput>>;
  async submit(
    workflow: AnyWorkflow,
    inputs: object,
    options: SubmitOptions = {},
  ): Promise<Job<unknown>> {
    const deadline = this.session.deadline(options.timeout);
    const record = await this.session.submit(workflow, inputs as UntypedInput, options, deadline);
    return new Job<unknown>(this.session, record.id, workflow, record);
  }

  /** Return a handle for an existing job, for example after a restart. Sends no request. */
  job<Output>(id: string, workflow: Workflow<never, Output>): Job<Output>;
  job(id: string): Job<UntypedOutput>;
  job(id: string, workflow?: AnyWorkflow): Job<unknown> {
    return new Job<unknown>(this.session, id, workflow);
  }

  /** Iterate over the jobs of this API key, newest first; pages are fetched as needed. */
  async *jobs(filter: JobFilter = {}, options: CallOptions = {}): AsyncGenerator<JobRecord, void> {
    const params: [string, string][] = Object.entries(filter.labels ?? {}).map(
      ([key, value]) => ["label", `${key}:${value}`],
    );
    if (filter.status !== undefined) params.push(["status", filter.status]);
    if (filter.workflow !== undefined) params.push(["workflow", filter.workflow]);
    for (let cursor: string | null = null; ; ) {
      const all: [string, string][] = cursor === null ? params : [...params, ["cursor", cursor]];
      const page: JobPage = await this.get("jobs", "page of jobs", isJobPage, options, all);
      yield* page.jobs;
      cursor = page.cursor ?? null;
      if (cursor === null) return;
    }
  }

  /** List the workflows of the server. */
  workflows(options: CallOptions = {}): Promise<readonly WorkflowSummary[]> {
    const isList = (value: unknown): value is WorkflowSummary[] =>
      Array.isArray(value) && value.every(isSummary);
    return this.get("workflows", "list of workflows", isList, options);
  }

  /** Return the title, contract and schemas of a workflow. */
  workflow(name: string, options: CallOptions = {}): Promise<WorkflowDetail> {
    const isDetail = (value: unknown): value is WorkflowDetail =>
      isSummary(value) && "input_schema" in value && "output_schema" in value;
    return this.get(`workflows/${encodeURIComponent(name)}`, "workflow", isDetail, options);
  }

  /**
   * Download an output file into memory: resumed when the connection breaks, checked by size and
   * hash.
   *
   * @throws OutputExpired, DownloadFailed
   */
  async download(file: OutputFile, options: CallOptions = {}): Promise<Blob> {
    return this.session.files.download(file, this.session.deadline(options.timeout), options.signal);
  }

  private async get<T>(
    url: string,
    what: string,
    accepts: (value: unknown) => value is T,
    { timeout, signal }: CallOptions,
    params: [string, string][] = [],
  ): Promise<T> {
    const deadline = this.session.deadline(timeout);
    return (await this.session.transport.send({ url, params }, deadline, signal)).parse(what, accepts);
  }
}

/** The handle of a job on the server, returned by `Client.submit` and `Client.job`. */
export class Job<Output> {
  constructor(
    private readonly session: Session,
    /** `client.job(id, workflow)` returns a handle again after a restart. */
    readonly id: string,
    private readonly workflow: AnyWorkflow | undefined,
    /** The last known state of the job; undefined before the first response. */
    public record?: JobRecord,
  ) {}

  /** Return the current state of the job. */
  async status({ timeout, signal }: CallOptions = {}): Promise<JobRecord> {
    return this.update(await this.session.status(this.id, timeout, signal));
  }

  /** Wait for the final record, without throwing if the job did not succeed. */
  wait(options: WaitOptions = {}): Promise<JobRecord> {
    const deadline = this.session.deadline(options.timeout);
    return this.session.wait(this.id, options, deadline, this.record, (record) => this.update(record));
  }

  /**
   * Wait for the job and return its outputs.
   *
   * @throws JobError: the job failed, was cancelled, timed out or expired.
   * @throws DeadlineExceeded: `timeout` passed; the error carries the last known state.
   */
  async result(options: WaitOptions = {}): Promise<Output> {
    return this.session.outcome(await this.wait(options), this.workflow) as Output;
  }

  /** Request cancellation of the job; it may still finish first. */
  async cancel({ timeout, signal }: CallOptions = {}): Promise<JobRecord> {
    return this.update(await this.session.cancel(this.id, timeout, signal));
  }

  /** Return a URL that opens one output, or the events, of the job without a key, for
   * `expiresIn` seconds, 1 to 3600. */
  link(output?: OutputFile | string, expiresIn = 600): Promise<string> {
    const name = typeof output === "object" ? output.name : output;
    return this.session.link(this.id, name, expiresIn);
  }

  /**
   * Iterate over the job's events until `done`, reconnecting as needed. Aborting the signal ends the
   * iteration, not the job.
   */
  async *events({ signal }: Pick<CallOptions, "signal"> = {}): AsyncGenerator<JobEvent, void> {
    for await (const event of this.session.events(this.id, signal)) {
      if (event.type === "status" || event.type === "done") this.update(event.job);
      yield event;
    }
  }

  /**
   * Iterate over the job's outputs, each as soon as it is complete, reconnecting as needed.
   *
   * @throws JobError: the job did not succeed; the outputs that it completed came before.
   */
  async *outputs(options: Pick<CallOptions, "signal"> = {}): AsyncGenerator<NamedOutput, void> {
    for await (const event of this.events(options)) {
      if (event.type === "output") yield event.output;
      if (event.type === "done" && event.job.status !== "succeeded") throw jobError(event.job);
    }
  }

  private update(record: JobRecord): JobRecord {
    if (this.record === undefined || record.version >= this.record.version) this.record = record;
    return this.record;
  }
}

interface JobPage {
  readonly jobs: readonly JobRecord[];
  readonly cursor?: string | null;
}

function isJobPage(value: unknown): value is JobPage {
  return isObject(value) && Array.isArray(value["jobs"]) && value["jobs"].every(isJobRecord);
}

function isSummary(value: unknown): value is WorkflowSummary {
  return isObject(value) && typeof value["name"] === "string" && typeof value["contract"] === "string";
}
