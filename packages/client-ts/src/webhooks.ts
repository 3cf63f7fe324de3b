/** Verifies webhooks that a server sends when a job ends. */

import { InvalidWebhook } from "./errors.js";
import { isJobRecord, isObject, type JobRecord } from "./wire.js";
import { checkedOutputs, type UntypedOutput, type Workflow } from "./workflow.js";

/** A verified webhook. */
export interface WebhookEvent<Output = UntypedOutput> {
  /** The same each time the event is delivered, which may be more than once. */
  readonly id: string;
  /** `job.succeeded`, `job.failed`, `job.cancelled`, `job.timed_out` or `job.expired`. */
  readonly type: string;
  /** When the job ended. */
  readonly timestamp: Date;
  /** The final job, without its inputs. */
  readonly job: JobRecord;
  /** The outputs of a job that succeeded; undefined for other jobs, and when they were too large to
   * send: then ask the server, `client.job(event.job.id, workflow).result()`. */
  readonly output: Output | undefined;
}

export interface WebhookOptions<Output> {
  /** The generated descriptor of the workflow. Default: outputs are not checked. */
  workflow?: Workflow<never, Output>;
  /** Seconds that the timestamp may be before or after now; what is older may be a replay.
   * Default: 300. */
  tolerance?: number;
}

/** The headers of a request, as `fetch` or Node.js has them. */
export type WebhookHeaders =
  | Pick<Headers, "get">
  | Readonly<Record<string, string | readonly string[] | undefined>>;

/**
 * Verify the signature of a webhook and return its event.
 *
 * @param body The body exactly as received, never parsed and written again.
 * @param secret The `whsec_` secret, or several while they are replaced; spaces separate them too.
 * @throws InvalidWebhook: not signed with one of the secrets, too old, or not a webhook of this API.
 * @throws UnexpectedResponse: the outputs are not those of the workflow.
 * @throws TypeError: a secret is not valid, or there is none.
 */
export async function verifyWebhook<Output = UntypedOutput>(
  headers: WebhookHeaders,
  body: string | ArrayBuffer | Uint8Array,
  secret: string | readonly string[],
  { workflow, tolerance = 300 }: WebhookOptions<Output> = {},
): Promise<WebhookEvent<Output>> {
  const keys = [secret].flat().flatMap((one) => one.split(/\s+/)).filter(Boolean).map(keyOf);
  if (keys.length === 0) throw new TypeError("verifyWebhook needs at least one secret");
  const content = typeof body === "string" ? new TextEncoder().encode(body) : new Uint8Array(body);
  const id = await verify(headers, content, keys, tolerance);
  const event = parsed(content);
  const isDone = event.job.status === "succeeded" && event.job.outputs != null;
  const output = isDone ? (checkedOutputs(event.job, workflow?.outputs) as Output) : undefined;
  return { id, ...event, output };
}

async function verify(
  headers: WebhookHeaders,
  body: Uint8Array,
  keys: readonly Uint8Array[],
  tolerance: number,
): Promise<string> {
  const [id, stamp, signature] = ["id", "timestamp", "signature"].map((one) => {
    const value = headerOf(headers, `webhook-${one}`);
    if (!value) throw new InvalidWebhook("missing_header", `missing header webhook-${one}`);
    return value;
  }) as [string, string, string];
  if (!/^[0-9]{1,12}$/.test(stamp)) {
    throw new InvalidWebhook("invalid_timestamp", "webhook-timestamp must be seconds since 1970");
  }
  const age = Date.now() / 1000 - Number(stamp);
  if (age > tolerance) {
    throw new InvalidWebhook("too_old", `signed ${age.toFixed()} s ago, at most ${tolerance} s allowed`);
  }
  if (age < -tolerance) {
    throw new InvalidWebhook("too_new", `signed ${(-age).toFixed()} s in the future; check the clocks`);
  }
  const head = new TextEncoder().encode(`${id}.${Number(stamp)}.`);
  const content = new Uint8Array(head.length + body.length);
  content.set(head);
  content.set(body, head.length);
  const given = signature
    .split(/\s+/)
    .filter((one) => one.startsWith("v1,"))
    .map((one) => bytesOf(one.slice(3)));
  let matches = false;
  for (const key of keys) {
    const hmac = { name: "HMAC", hash: "SHA-256" };
    const imported = await crypto.subtle.importKey("raw", key as BufferSource, hmac, false, ["verify"]);
    for (const one of given) {
      const isEqual = await crypto.subtle.verify("HMAC", imported, one as BufferSource, content);
      matches ||= isEqual; // all are compared, so that the time says nothing of which one matched
    }
  }
  if (!matches) throw new InvalidWebhook("invalid_signature", "not signed with this secret");
  return id;
}

function headerOf(headers: WebhookHeaders, name: string): string | null | undefined {
  if (typeof headers.get === "function") return headers.get(name);
  const given = headers as Exclude<WebhookHeaders, Pick<Headers, "get">>;
  const value = Object.entries(given).find(([key]) => key.toLowerCase() === name)?.[1];
  return typeof value === "string" ? value : value?.[0];
}

function keyOf(secret: string): Uint8Array {
  const key = secret.startsWith("whsec_") ? bytesOf(secret.slice("whsec_".length)) : new Uint8Array();
  if (key.length < 24 || key.length > 64) {
    throw new TypeError("a webhook secret must be whsec_ and the base64 of 24 to 64 bytes");
  }
  return key;
}

/** Decode base64; empty if it is not valid. */
function bytesOf(base64: string): Uint8Array {
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64) || base64.length % 4 !== 0) return new Uint8Array();
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function parsed(body: Uint8Array): { type: string; timestamp: Date; job: JobRecord } {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    value = undefined;
  }
  if (isObject(value) && typeof value["type"] === "string" && isJobRecord(value["data"])) {
    const timestamp = new Date(String(value["timestamp"]));
    if (!Number.isNaN(timestamp.getTime())) {
      return { type: value["type"], timestamp, job: value["data"] };
    }
  }
  throw new InvalidWebhook("invalid_body", "the body is not an event of a job");
}
