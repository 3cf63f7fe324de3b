/** Input files: small ones inline, others uploaded once, addressed by their hash. Output files. */

import { ComfysnapError, DeadlineExceeded, DownloadFailed, NotFound } from "./errors.js";
import { Semaphore } from "./polling.js";
import { Deadline, within } from "./retry.js";
import { Attempts, isHeaderValue, type Request, toHex, type Transport } from "./transport.js";
import { isObject, type OutputFile } from "./wire.js";

/** Maximum bytes of one inline file, before base64. */
const MAX_INLINE = 256 * 1024;
/** Maximum bytes of all inline files of one submit; others are uploaded. */
const MAX_INLINE_TOTAL = 1024 * 1024;
const MAX_CONCURRENT_UPLOADS = 4;

/** Moves the files of one server. */
export class Files {
  private readonly turns = new Semaphore(MAX_CONCURRENT_UPLOADS);

  constructor(private readonly transport: Transport) {}

  /** Return the inputs as JSON values, after uploading the files that the server lacks. */
  async wire(
    inputs: Readonly<Record<string, unknown>>,
    deadline: Deadline,
    outer: AbortSignal | undefined,
  ): Promise<Record<string, unknown>> {
    const controller = new AbortController();
    const forward = (): void => controller.abort(outer?.reason);
    outer?.throwIfAborted();
    outer?.addEventListener("abort", forward, { once: true });
    let room = MAX_INLINE_TOTAL;
    const one = (value: unknown): unknown => {
      if (value instanceof URL) return { url: value.href };
      const blob = blobOf(value);
      if (blob === undefined) return value;
      if (blob.size > Math.min(room, MAX_INLINE)) {
        return this.upload(blob, deadline, controller.signal);
      }
      room -= blob.size;
      return inline(blob);
    };
    try {
      const ready = Object.entries(inputs)
        .filter(([, value]) => value !== undefined && value !== null)
        .map(async ([name, value]) => [
          name,
          Array.isArray(value) ? await Promise.all(value.map(one)) : await one(value),
        ]);
      return Object.fromEntries(await Promise.all(ready)) as Record<string, unknown>;
    } finally {
      outer?.removeEventListener("abort", forward);
      controller.abort(); // the other uploads, if one failed
    }
  }

  private async upload(
    blob: Blob,
    deadline: Deadline,
    signal: AbortSignal,
  ): Promise<{ sha256: string }> {
    await this.turns.acquire(signal);
    try {
      const sha256 = await sha256Of(await blob.arrayBuffer());
      const url = `files/${sha256}`;
      try {
        await this.transport.send({ method: "HEAD", url }, deadline, signal);
      } catch (error) {
        if (!(error instanceof NotFound)) throw error;
        const headers = { "Content-Type": blob.type || OCTET_STREAM };
        await this.transport.send({ method: "PUT", url, headers, body: blob }, deadline, signal);
      }
      return { sha256 };
    } finally {
      this.turns.release();
    }
  }

  /** Return the content of an output file, resumed after a lost connection and verified. */
  async download(
    file: OutputFile,
    deadline: Deadline,
    outer: AbortSignal | undefined,
  ): Promise<Blob> {
    const part: Part = { chunks: [], size: 0, etag: "" };
    let attempts = this.attempts(file, part, deadline);
    const exceeded = (): DeadlineExceeded => attempts.timedOut();
    await within(deadline, outer, exceeded, async (signal) => {
      for (;;) {
        const before = part.size;
        try {
          await this.attempt(file, part, signal);
          return;
        } catch (error) {
          if (!(error instanceof ComfysnapError)) throw error;
          if (part.size >= file.size) return;
          if (part.size > before) attempts = this.attempts(file, part, deadline);
          await attempts.pause(error, signal);
        }
      }
    });
    const blob = new Blob(part.chunks, { type: file.content_type });
    const sha256 = await sha256Of(await blob.arrayBuffer());
    if (part.size !== file.size || sha256 !== file.sha256) {
      throw new DownloadFailed(
        `${file.name}: ${part.size} of ${file.size} bytes with SHA-256 ${sha256}, ` +
          `expected ${file.sha256}`,
      );
    }
    return blob;
  }

  private attempts(file: OutputFile, part: Part, deadline: Deadline): Attempts {
    return new Attempts(this.transport.retry, requestFor(file, part), deadline);
  }

  /** Read the rest of the file, in a single attempt. */
  private async attempt(file: OutputFile, part: Part, signal: AbortSignal): Promise<void> {
    const incoming = await this.transport.open(requestFor(file, part), signal);
    try {
      part.etag = incoming.raw.headers.get("etag") ?? "";
      let skip = incoming.raw.status === 206 ? 0 : part.size;
      for await (const data of incoming.chunks()) {
        const chunk = data.slice(skip);
        skip = Math.max(0, skip - data.length);
        part.chunks.push(chunk);
        part.size += chunk.length;
        if (part.size > file.size) return;
      }
    } finally {
      incoming.close();
    }
  }
}

/** What was received of a file so far. */
interface Part {
  readonly chunks: BlobPart[];
  size: number;
  etag: string;
}

function requestFor(file: OutputFile, part: Part): Request {
  const headers: Record<string, string> = {};
  if (part.size > 0) {
    headers["Range"] = `bytes=${part.size}-`;
    if (part.etag !== "" && isHeaderValue(part.etag)) headers["If-Range"] = part.etag;
  }
  return { url: file.url, headers };
}

const OCTET_STREAM = "application/octet-stream";

function blobOf(value: unknown): Blob | undefined {
  if (value instanceof Blob) return value;
  const isBytes = value instanceof ArrayBuffer || ArrayBuffer.isView(value);
  return isBytes ? new Blob([value as BlobPart]) : undefined;
}

/** Whether a value is an input file in any of its forms. */
export function isFile(value: unknown): boolean {
  if (typeof value === "string") return isHttpUrl(value);
  if (value instanceof URL || blobOf(value) !== undefined) return true;
  if (!isObject(value)) return false;
  const keys = Object.keys(value).sort().join();
  if (keys === "sha256") return isSha256(value["sha256"]);
  if (keys === "url") return isHttpUrl(value["url"]);
  const type = value["content_type"] ?? "";
  return (
    (keys === "data" || keys === "content_type,data") &&
    typeof value["data"] === "string" &&
    typeof type === "string" &&
    type.length <= 256
  );
}

export function isHttpUrl(value: unknown): boolean {
  return typeof value === "string" && /^https?:\/\//.test(value) && value.length <= 4096;
}

export function isSha256(value: unknown): boolean {
  return typeof value === "string" && /^[0-9a-f]{64}$/.test(value);
}

async function inline(blob: Blob): Promise<{ data: string; content_type: string }> {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return { data: btoa(text), content_type: blob.type || OCTET_STREAM };
}

async function sha256Of(content: ArrayBuffer): Promise<string> {
  return toHex(new Uint8Array(await crypto.subtle.digest("SHA-256", content)));
}
