/**
 * The errors of the client.
 *
 *     ComfysnapError
 *     ├── ConnectionFailed        no response after all attempts: refused, broken or timed out
 *     ├── UnexpectedResponse      not a response of this API: a proxy's error page, a redirect
 *     ├── DeadlineExceeded        the call's `timeout` passed
 *     ├── DownloadFailed          an output file has the wrong length or hash
 *     ├── InvalidWebhook          a webhook is not signed with the secret, or too old; see `code`
 *     ├── APIError                the server rejected the request; see `code`
 *     │   ├── InvalidInput        the inputs are not valid; see `fields`
 *     │   ├── Unauthorized        the key is missing, wrong or lacks access
 *     │   ├── NotFound            unknown workflow, job, output or file
 *     │   ├── ContractMismatch    the workflow changed: run `comfysnap generate` again
 *     │   ├── IdempotencyMismatch the key was used for another submit
 *     │   ├── OutputExpired       the job still exists, its files have expired
 *     │   ├── TooLarge            the body or a file exceeds the server's limit
 *     │   ├── RateLimited         too many requests or jobs, after all attempts
 *     │   └── ServerError         5xx, after all attempts
 *     └── JobError                the job did not succeed; `record` is the final job
 *         ├── JobFailed
 *         ├── JobCancelled
 *         ├── JobTimedOut
 *         └── JobExpired
 *
 * An aborted call rejects with the `reason` of its signal, as `fetch` does; `jobIdOf` finds its job.
 */

import type { FieldProblem, JobRecord, Problem } from "./wire.js";

export interface ErrorDetails {
  jobId?: string | undefined;
  record?: JobRecord | undefined;
  requestId?: string | undefined;
  attempts?: number | undefined;
  status?: number | undefined;
  retryAfter?: number | undefined;
  cause?: unknown;
}

/** Base class of the client's errors. */
export class ComfysnapError extends Error {
  /** ID of the job, if known; `client.job(id)` returns its handle. */
  jobId: string | undefined;
  /** The last known state of the job. */
  record: JobRecord | undefined;
  /** `X-Request-Id` of the last request, as in the server's log. */
  requestId: string | undefined;
  /** Number of requests sent for the failed call. */
  attempts: number;
  /** HTTP status of the last response. */
  status: number | undefined;
  /** Seconds that the server asked to wait. */
  retryAfter: number | undefined;
  /** Key of the failed submit; submitting with it again cannot create a second job. */
  idempotencyKey: string | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.record = details.record;
    this.jobId = details.jobId ?? details.record?.id;
    this.requestId = details.requestId;
    this.attempts = details.attempts ?? 0;
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }
}

/** No response after all attempts; the network error is the `cause`. */
export class ConnectionFailed extends ComfysnapError {}

/** The response is not one of this API: check the URL, and any proxy in front of the server. */
export class UnexpectedResponse extends ComfysnapError {}

/** The `timeout` of the call passed; the `cause` is the last failure, if any. The job was cancelled
 * unless `cancelOnTimeout` is false. */
export class DeadlineExceeded extends ComfysnapError {}

/** The length or SHA-256 of a downloaded file does not match the job's record. */
export class DownloadFailed extends ComfysnapError {}

export type WebhookErrorCode =
  | "missing_header"
  | "invalid_timestamp"
  | "too_old"
  | "too_new"
  | "invalid_signature"
  | "invalid_body";

/** The request is not a webhook that this server sent just now. */
export class InvalidWebhook extends ComfysnapError {
  constructor(
    readonly code: WebhookErrorCode,
    message: string,
  ) {
    super(message);
  }
}

/** The server rejected the request; branch on `code`, never on the message. */
export class APIError extends ComfysnapError {
  /** The error code, for example `invalid_input`; a server may send newer ones. */
  readonly code: string;
  /** The problems of single input fields. */
  readonly fields: readonly FieldProblem[];

  constructor(
    /** The complete problem+json body. */
    readonly problem: Problem,
    details: ErrorDetails = {},
  ) {
    super(sentence(problem), details);
    this.code = problem.code ?? "internal";
    this.fields = problem.fields ?? [];
    this.requestId ??= problem.request_id ?? undefined;
  }
}

/** The inputs are not valid for the workflow, or the server cannot download one of them. */
export class InvalidInput extends APIError {}
/** The key is missing, wrong or lacks access. */
export class Unauthorized extends APIError {}
/** Unknown workflow, job, output or file, or one of another API key. */
export class NotFound extends APIError {}
/** The workflow has changed since the module was generated. */
export class ContractMismatch extends APIError {}
/** The idempotency key was already used with different inputs or options. */
export class IdempotencyMismatch extends APIError {}
/** The file has expired; the job's record still exists. */
export class OutputExpired extends APIError {}
/** The body or a file exceeds the server's limit. */
export class TooLarge extends APIError {}
/** Too many requests or jobs; see `retryAfter`, and `problem.budget` for which limit. */
export class RateLimited extends APIError {}
/** The server failed (5xx). */
export class ServerError extends APIError {}

/** The job did not succeed. */
export class JobError extends ComfysnapError {
  /** The final state of the job. */
  override record: JobRecord;
  /** The reason, as reported by the server. */
  readonly problem: Problem;
  /** The code of the reason, for example `node_failed`. */
  readonly code: string;
  readonly fields: readonly FieldProblem[];

  constructor(record: JobRecord) {
    const problem = record.error ?? { title: `The job is ${record.status}` };
    super(sentence(problem), { record });
    this.record = record;
    this.problem = problem;
    this.code = problem.code ?? "internal";
    this.fields = problem.fields ?? [];
  }
}

/** The job failed; `code` is the reason (`node_failed`, `out_of_memory`, ...). */
export class JobFailed extends JobError {}
/** The job was cancelled. */
export class JobCancelled extends JobError {}
/** The job exceeded its timeout on the server. */
export class JobTimedOut extends JobError {}
/** The job waited in the queue for too long. */
export class JobExpired extends JobError {}

type APIErrorClass = new (problem: Problem, details?: ErrorDetails) => APIError;

const BY_CODE: Readonly<Record<string, APIErrorClass>> = {
  invalid_input: InvalidInput,
  input_unavailable: InvalidInput,
  unauthorized: Unauthorized,
  missing_scope: Unauthorized,
  unknown_workflow: NotFound,
  unknown_job: NotFound,
  unknown_output: NotFound,
  unknown_file: NotFound,
  not_found: NotFound,
  contract_mismatch: ContractMismatch,
  idempotency_mismatch: IdempotencyMismatch,
  output_expired: OutputExpired,
  body_too_large: TooLarge,
  file_too_large: TooLarge,
  rate_limited: RateLimited,
  quota_exceeded: RateLimited,
  queue_full: RateLimited,
};

/** Codes without a class of their own; any other is newer than this client. */
const PLAIN_CODES: ReadonlySet<string> = new Set([
  "invalid_json", "invalid_request", "unsupported_media_type", "method_not_allowed",
  "model_refused", "forbidden", "hash_mismatch", "range_not_satisfiable", "unavailable",
  "internal", "graph_invalid", "node_failed", "out_of_memory", "worker_lost", "engine_failed",
  "model_unavailable", "output_missing", "output_not_stored", "job_cancelled", "job_timed_out",
  "job_expired",
]);

const BY_STATUS: Readonly<Record<number, APIErrorClass>> = {
  401: Unauthorized,
  403: Unauthorized,
  404: NotFound,
  410: OutputExpired,
  413: TooLarge,
  429: RateLimited,
};

/** The error class for a problem, by its code, or by HTTP status if the code is unknown. */
export function apiErrorClass(problem: Problem, status: number): APIErrorClass {
  const code = problem.code ?? "internal";
  const known = Object.hasOwn(BY_CODE, code) ? BY_CODE[code] : undefined;
  if (known !== undefined) return known;
  if (status >= 500) return ServerError;
  return PLAIN_CODES.has(code) ? APIError : (BY_STATUS[status] ?? APIError);
}

/** The error for a final job that did not succeed. */
export function jobError(record: JobRecord): JobError {
  switch (record.status) {
    case "cancelled":
      return new JobCancelled(record);
    case "timed_out":
      return new JobTimedOut(record);
    case "expired":
      return new JobExpired(record);
    default:
      return new JobFailed(record);
  }
}

const jobs = new WeakMap<object, string>();

/** Attach the job to what a call rejects with. */
export function withJob<E>(error: E, jobId: string, record?: JobRecord): E {
  if (error instanceof ComfysnapError) {
    error.jobId ??= jobId;
    error.record ??= record;
  } else if (typeof error === "object" && error !== null) {
    jobs.set(error, jobId);
  }
  return error;
}

/**
 * The ID of the job that an error belongs to, also that of an aborted call, whose error is the
 * `reason` of its signal.
 *
 * A reason that several calls share belongs to the job that ended last.
 */
export function jobIdOf(error: unknown): string | undefined {
  if (error instanceof ComfysnapError) return error.jobId;
  return typeof error === "object" && error !== null ? jobs.get(error) : undefined;
}

/** One line: the problem, then the fields not yet mentioned in it. */
function sentence(problem: Problem): string {
  const text = problem.detail || problem.title;
  const fields = (problem.fields ?? [])
    .filter((one) => !text.includes(one.message))
    .map((one) => (one.field ? `${one.field}: ${one.message}` : one.message));
  return fields.length > 0 ? `${text}: ${fields.join("; ")}` : text;
}
