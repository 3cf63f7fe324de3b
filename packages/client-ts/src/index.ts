/** Client for ComfyUI workflows served by comfysnap. */

export {
  type CallOptions,
  Client,
  type ClientOptions,
  type InferOptions,
  type Job,
  type JobFilter,
} from "./client.js";
export {
  APIError,
  ComfysnapError,
  ConnectionFailed,
  ContractMismatch,
  DeadlineExceeded,
  DownloadFailed,
  type ErrorDetails,
  IdempotencyMismatch,
  InvalidInput,
  InvalidWebhook,
  JobCancelled,
  JobError,
  JobExpired,
  JobFailed,
  jobIdOf,
  JobTimedOut,
  NotFound,
  OutputExpired,
  RateLimited,
  ServerError,
  TooLarge,
  Unauthorized,
  UnexpectedResponse,
  type WebhookErrorCode,
} from "./errors.js";
export type { PollOptions } from "./polling.js";
export type { RetryOptions } from "./retry.js";
export type { SubmitOptions, WaitOptions } from "./session.js";
export type { Credentials } from "./transport.js";
export {
  verifyWebhook,
  type WebhookEvent,
  type WebhookHeaders,
  type WebhookOptions,
} from "./webhooks.js";
export type {
  AnimationFile,
  AudioFile,
  FieldProblem,
  FileInput,
  HttpUrl,
  ImageFile,
  JobEvent,
  JobRecord,
  JobStatus,
  JsonValue,
  Lora,
  Model3DFile,
  ModelInput,
  NamedLora,
  NamedOutput,
  OutputFile,
  Preview,
  Problem,
  Progress,
  Timings,
  VideoFile,
  WorkflowDetail,
  WorkflowSummary,
} from "./wire.js";
export {
  defineWorkflow,
  type InputRule,
  type OutputRule,
  type UntypedInput,
  type UntypedOutput,
  type Workflow,
  type WorkflowRules,
} from "./workflow.js";
