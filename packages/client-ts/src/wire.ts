/** What travels, as the API defines it: jobs, files, problems and events. */

export type JsonValue =
  | string
  | number
  | boolean
  | null
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue };

/** State of a job; all but the first two are final and never change. */
export type JobStatus =
  | "queued"
  | "running"
  | "succeeded"
  | "failed"
  | "cancelled"
  | "timed_out"
  | "expired";

/** One problem with an API field or a node. */
export interface FieldProblem {
  readonly field?: string | null;
  readonly message: string;
  readonly node?: string | null;
}

/** A problem+json body, and the `error` of a job that did not succeed. */
export interface Problem {
  readonly title: string;
  readonly type?: string;
  readonly status?: number | null;
  readonly detail?: string | null;
  readonly code?: string;
  readonly fields?: readonly FieldProblem[];
  /** The budget that is used up, when one is: `requests_per_minute`, for example. */
  readonly budget?: string | null;
  readonly limit?: number | null;
  readonly scope?: string | null;
  readonly request_id?: string | null;
}

/** Progress of a job; `fraction` never decreases within one attempt. */
export interface Progress {
  /** From 0 to 1. */
  readonly fraction: number;
  readonly node?: string | null;
  readonly node_class?: string | null;
  readonly node_title?: string | null;
  readonly step?: number | null;
  readonly steps?: number | null;
  /** Jobs ahead of this one. */
  readonly queue_position?: number | null;
  /** What is done before the graph runs: `downloading_models`, for example. */
  readonly phase?: string | null;
  readonly bytes_done?: number | null;
  readonly bytes_total?: number | null;
}

/** Durations of the stages of a job, in seconds. */
export interface Timings {
  readonly queue?: number | null;
  readonly start?: number | null;
  readonly start_kind?: "cold" | "warm" | "restored" | null;
  readonly load?: number | null;
  readonly attach?: number | null;
  readonly run?: number | null;
  /** What the graph ran on: `NVIDIA L40S`, `cpu`. */
  readonly device?: string | null;
  readonly nodes?: Readonly<Record<string, number>>;
}

/** A job as every route returns it. */
export interface JobRecord {
  readonly id: string;
  readonly workflow: string;
  readonly status: JobStatus;
  /** Grows with each change. */
  readonly version: number;
  readonly created_at: string;
  /** How many times a worker took the job: 0 if it never ran. */
  readonly attempt?: number;
  readonly cancel_requested_at?: string | null;
  readonly progress?: Progress;
  /** By output name: a file, a list of files, a text or JSON. Those that are complete. */
  readonly outputs?: Readonly<Record<string, JsonValue>> | null;
  readonly error?: Problem | null;
  /** As run: with defaults and drawn seeds, files by reference. */
  readonly inputs?: Readonly<Record<string, JsonValue>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly graph_hash?: string | null;
  readonly started_at?: string | null;
  readonly finished_at?: string | null;
  readonly timings?: Timings;
}

/** A preview frame of a running node. */
export interface Preview {
  readonly content_type: string;
  /** Base64. */
  readonly data: string;
  readonly node?: string | null;
}

/** An output that is complete: its node has run, and its files can be downloaded. */
export interface NamedOutput {
  readonly name: string;
  readonly value: JsonValue;
}

/** One event of a job; a type that is newer than this client is passed on as it is. */
export type JobEvent =
  | { readonly type: "status"; readonly job: JobRecord }
  | { readonly type: "progress"; readonly progress: Progress }
  | { readonly type: "preview"; readonly preview: Preview }
  | { readonly type: "output"; readonly output: NamedOutput }
  | { readonly type: "done"; readonly job: JobRecord };

/** A file that a job produced; `client.download` returns its content. */
export interface OutputFile {
  /** Unique within the job. */
  readonly name: string;
  readonly kind: string;
  readonly content_type: string;
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
  /** Relative to the server's base address, or absolute when signed. */
  readonly url: string;
}

/** A still image or a mask. */
export interface ImageFile extends OutputFile {}
/** An animated image (WebP, GIF, APNG). */
export interface AnimationFile extends OutputFile {}
/** A video. */
export interface VideoFile extends OutputFile {}
/** A sound file. */
export interface AudioFile extends OutputFile {}
/** A 3D model. */
export interface Model3DFile extends OutputFile {}

export type HttpUrl = `http://${string}` | `https://${string}`;

/**
 * An input file: its bytes (`fs.openAsBlob(path)` in Node.js), a URL that the server downloads, or
 * the hash of a file uploaded earlier.
 */
export type FileInput =
  | Blob
  | ArrayBuffer
  | ArrayBufferView
  | HttpUrl
  | URL
  | { readonly url: string }
  | { readonly sha256: string }
  | { readonly data: string; readonly content_type?: string };

/** A model: a file name that ComfyUI knows, or the URL of a safetensors file. */
export type ModelInput = string | { readonly url: string; readonly sha256?: string | null };

interface LoraStrength {
  /** Default: 1. */
  readonly strength?: number;
  /** For the text encoder. Default: `strength`. */
  readonly clip_strength?: number | null;
}

/** A LoRA by its file name, and how strongly it changes the model. */
export interface NamedLora<Name extends string = string> extends LoraStrength {
  readonly name: Name;
}

/** A LoRA by its file name, or by the URL of a safetensors file. */
export type Lora<Name extends string = string> =
  | NamedLora<Name>
  | (LoraStrength & { readonly url: string; readonly sha256?: string | null });

/** An entry of `GET /workflows`. */
export interface WorkflowSummary {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  /** The contract hash. */
  readonly contract: string;
  readonly default: boolean;
}

/** `GET /workflows/{name}`. */
export interface WorkflowDetail extends WorkflowSummary {
  readonly input_schema: Readonly<Record<string, JsonValue>>;
  readonly output_schema: Readonly<Record<string, JsonValue>>;
  readonly compatible_contracts: readonly string[];
}

/** Whether the job reached a state that never changes. */
export function isFinal(record: JobRecord): boolean {
  return FINAL.has(record.status);
}

const FINAL: ReadonlySet<string> = new Set([
  "succeeded", "failed", "cancelled", "timed_out", "expired",
]);

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isJobRecord(value: unknown): value is JobRecord {
  return (
    isObject(value) &&
    typeof value["id"] === "string" &&
    JOB_ID.test(value["id"]) &&
    typeof value["workflow"] === "string" &&
    typeof value["status"] === "string" &&
    Number.isSafeInteger(value["version"])
  );
}

export const JOB_ID = /^[0-9A-Za-z_-]{1,128}$/;

export function isOutputFile(value: unknown): value is OutputFile {
  return (
    isObject(value) &&
    ["name", "kind", "content_type", "sha256", "url"].every((key) => typeof value[key] === "string") &&
    Number.isSafeInteger(value["size"])
  );
}
