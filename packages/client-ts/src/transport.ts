/** Sends requests: the only module that calls `fetch` and sees its errors. */

import {
  APIError,
  apiErrorClass,
  ComfysnapError,
  ConnectionFailed,
  DeadlineExceeded,
  type ErrorDetails,
  UnexpectedResponse,
} from "./errors.js";
import {
  type Deadline,
  isTemporary,
  now,
  type RetryPolicy,
  retryAfter,
  sleep,
  startTimer,
  within,
} from "./retry.js";
import { isObject, type Problem } from "./wire.js";

/** One call, which may take several attempts. */
export interface Request {
  readonly method?: "GET" | "HEAD" | "POST" | "PUT";
  /** Relative to the base URL, or absolute. */
  readonly url: string;
  readonly params?: readonly (readonly [string, string])[];
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Blob;
  /** Seconds that the server may hold the response. */
  readonly hold?: number;
  readonly jobId?: string;
  /** Whether a browser sends it even while its page closes. */
  readonly keepalive?: boolean;
  /** Whether the server may have received any part of it. */
  sent?: boolean;
}

export interface Credentials {
  /** Sent as `Authorization: Bearer`, to this server only. */
  apiKey?: string | undefined;
  /** ID of a Modal proxy token; requires `modalSecret`. */
  modalKey?: string | undefined;
  /** Secret of that token. */
  modalSecret?: string | undefined;
}

interface Connection extends Credentials {
  retry: RetryPolicy;
  /** Seconds until the response starts, before the time that the server may hold it. */
  connectTimeout: number;
  /** Seconds without data before a connection counts as broken. */
  readTimeout: number;
  fetch: typeof fetch;
}

const MAX_REDIRECTS = 20;
const MAX_JSON_BYTES = 32 * 1024 * 1024;
const MAX_ERROR_BYTES = 1024 * 1024;

/** A successful response, with its body read. */
export class Reply {
  constructor(
    private readonly request: Request,
    private readonly body: string,
    private readonly details: ErrorDetails,
    /** The server's `Retry-After` in seconds. */
    readonly retryAfter: number | undefined,
  ) {}

  /** Parse the body as JSON that `accepts` accepts. */
  parse<T>(what: string, accepts: (value: unknown) => value is T): T {
    let value: unknown;
    try {
      value = JSON.parse(this.body);
    } catch {
      value = undefined;
    }
    if (!accepts(value)) {
      throw new UnexpectedResponse(`${nameOf(this.request)} returned an invalid ${what}`, this.details);
    }
    return value;
  }
}

/** A response whose body is not read yet; `close` must be called. */
export class Incoming {
  constructor(
    readonly raw: Response,
    readonly details: ErrorDetails,
    private readonly onData: () => void,
    private readonly translate: (error: unknown) => unknown,
    /** Drops the connection, unless the body was read. */
    readonly close: () => void,
  ) {}

  unexpected(message: string): UnexpectedResponse {
    return new UnexpectedResponse(message, { ...this.details, status: this.raw.status });
  }

  async *chunks(): AsyncGenerator<Uint8Array, void> {
    const reader = this.raw.body?.getReader();
    try {
      for (;;) {
        const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
        if (done || value === undefined) return;
        this.onData();
        yield value;
      }
    } catch (error) {
      throw this.translate(error);
    }
  }

  async text(limit: number): Promise<string> {
    const decoder = new TextDecoder();
    let text = "";
    let size = 0;
    for await (const chunk of this.chunks()) {
      size += chunk.length;
      if (size > limit) throw this.unexpected(`the response is larger than ${limit} bytes`);
      text += decoder.decode(chunk, { stream: true });
    }
    return text + decoder.decode();
  }
}

/** The attempts of one call: counts them, and pauses in between. */
export class Attempts {
  count = 1;
  private failure: ComfysnapError | undefined;
  private readonly started = now();

  constructor(
    private readonly policy: RetryPolicy,
    private readonly request: Request,
    private readonly deadline: Deadline,
    private readonly reached: () => boolean = () => true,
  ) {}

  /** Wait before the next attempt; throws the failure if another one is pointless. */
  async pause(failure: unknown, signal: AbortSignal): Promise<void> {
    if (!(failure instanceof ComfysnapError)) throw failure;
    failure.attempts = this.count;
    this.failure = failure;
    const elapsed = now() - this.started;
    const reached = this.reached() || !NOT_CONNECTED.has(codeOf(failure.cause));
    const pause = this.policy.pause(
      this.count, elapsed, Math.random(), failure.retryAfter, reached,
    );
    if (pause === undefined || !isTransient(failure)) throw failure;
    if (!this.deadline.allows(pause)) throw this.timedOut();
    this.count += 1;
    await sleep(pause, signal);
  }

  timedOut(): DeadlineExceeded {
    return new DeadlineExceeded(`${nameOf(this.request)} timed out`, {
      jobId: this.request.jobId,
      attempts: this.count,
      status: this.failure?.status,
      requestId: this.failure?.requestId,
      cause: this.failure,
    });
  }
}

/** Sends requests to one server, with retries, deadlines, 303 redirects and its own errors. */
export class Transport {
  readonly base: URL;
  readonly retry: RetryPolicy;
  private readonly credentials: Readonly<Record<string, string>>;
  private reached = false;

  constructor(
    baseUrl: string,
    private readonly connection: Connection,
  ) {
    this.base = checkedUrl(baseUrl);
    this.retry = connection.retry;
    this.credentials = headersOf(connection);
  }

  /** Send a request, with retries, and read the response. */
  async send(
    request: Request,
    deadline: Deadline,
    outer?: AbortSignal,
    retry: RetryPolicy = this.retry,
  ): Promise<Reply> {
    const attempts = new Attempts(retry, request, deadline, () => this.reached);
    return within(deadline, outer, () => attempts.timedOut(), async (signal) => {
      for (;;) {
        try {
          const incoming = await this.open(request, signal);
          try {
            const body = await incoming.text(MAX_JSON_BYTES);
            const { status, headers } = incoming.raw;
            const details = { ...incoming.details, attempts: attempts.count, status };
            return new Reply(request, body, details, retryAfter(headers));
          } finally {
            incoming.close();
          }
        } catch (error) {
          await attempts.pause(error, signal);
        }
      }
    });
  }

  /** Send a request in a single attempt, following redirects; the caller reads the body. */
  async open(request: Request, outer: AbortSignal): Promise<Incoming> {
    outer.throwIfAborted();
    const { connectTimeout, readTimeout } = this.connection;
    const requestId = randomHex();
    const details: ErrorDetails = { requestId, jobId: request.jobId, attempts: 1 };
    const controller = new AbortController();
    const forward = (): void => controller.abort(outer.reason);
    outer.addEventListener("abort", forward, { once: true });
    const silent = new Error("timed out waiting for data from the server");
    const hold = readTimeout + (request.hold ?? 0);
    let cancel = startTimer(connectTimeout + hold, () => controller.abort(silent));
    const onData = (): void => {
      cancel();
      cancel = startTimer(hold, () => controller.abort(silent));
    };
    const close = (): void => {
      cancel();
      outer.removeEventListener("abort", forward);
      controller.abort();
    };
    const translate = (error: unknown): unknown => {
      if (outer.aborted) return outer.reason;
      if (error instanceof ComfysnapError) return error;
      const cause = controller.signal.aborted ? silent : error;
      return new ConnectionFailed(networkSentence(cause), { ...details, cause });
    };
    try {
      const raw = await this.follow(request, requestId, controller.signal);
      onData();
      const incoming = new Incoming(raw, details, onData, translate, close);
      if (!raw.ok) throw await errorOf(incoming, request);
      return incoming;
    } catch (error) {
      const translated = translate(error);
      close();
      throw translated;
    }
  }

  private async follow(given: Request, requestId: string, signal: AbortSignal): Promise<Response> {
    let { url, isOwn } = this.resolve(given);
    let request = given;
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const init: RequestInit = {
        method: request.method ?? "GET",
        headers: {
          "X-Request-Id": requestId,
          ...request.headers,
          ...(isOwn ? this.credentials : {}),
        },
        redirect: "manual",
        cache: "no-store",
        signal,
        ...(request.body === undefined ? {} : { body: request.body }),
        ...(request.keepalive ? { keepalive: true } : {}),
      };
      let response = await this.fetched(given, url, init);
      if (response.type === "opaqueredirect") {
        // A browser does not say where to: it repeats the request, which is safe, and follows.
        response = await this.fetched(given, url, { ...init, redirect: "follow" });
      }
      if (response.status !== 303) return response;
      await response.body?.cancel();
      const target = locationOf(response, url);
      if (target?.origin !== url.origin) {
        throw new UnexpectedResponse(`refusing to follow a redirect away from ${url.host}`, {
          requestId, jobId: given.jobId, attempts: 1, status: 303,
        });
      }
      url = target;
      request = { url: target.href };
    }
    throw new UnexpectedResponse(`more than ${MAX_REDIRECTS} redirects`, {
      requestId, jobId: given.jobId, attempts: 1, status: 303,
    });
  }

  private async fetched(request: Request, url: URL, init: RequestInit): Promise<Response> {
    const before = request.sent ?? false;
    request.sent = true;
    try {
      const response = await this.connection.fetch(url, init);
      this.reached = true;
      return response;
    } catch (error) {
      if (NOT_CONNECTED.has(codeOf(error))) request.sent = before;
      throw error;
    }
  }

  private resolve(request: Request): { url: URL; isOwn: boolean } {
    const url = new URL(request.url.replace(/^\/+/, ""), this.base);
    for (const [name, value] of request.params ?? []) url.searchParams.append(name, value);
    return { url, isOwn: url.origin === this.base.origin };
  }
}

/** Method and path; a query may contain a signature. */
function nameOf(request: Request): string {
  const path = request.url.split("?", 1)[0] ?? "";
  return `${request.method ?? "GET"} ${path.includes("://") ? path : `/${path}`}`;
}

/** The exception for an error response. */
async function errorOf(incoming: Incoming, request: Request): Promise<ComfysnapError> {
  const { status, statusText, headers } = incoming.raw;
  let problem: Problem | undefined;
  if (headers.get("content-type")?.startsWith("application/problem+json")) {
    problem = problemOf(await incoming.text(MAX_ERROR_BYTES).catch(() => ""));
  }
  if (problem === undefined) {
    if (!isTemporary(status) && request.method !== "HEAD") {
      const target = status < 400 ? locationOf(incoming.raw, new URL(incoming.raw.url)) : undefined;
      return incoming.unexpected(
        target === undefined
          ? `unexpected response with status ${status}, not a problem+json document`
          : `the server redirects (${status}) to ${target.origin}${target.pathname}; use that URL instead`,
      );
    }
    const title = `the server returned ${status} ${statusText}`.trim();
    problem = { title, status, code: `http_${status}` };
  }
  const ErrorClass = apiErrorClass(problem, status);
  return new ErrorClass(problem, {
    ...incoming.details,
    requestId: headers.get("x-request-id") ?? incoming.details.requestId,
    retryAfter: retryAfter(headers),
    status,
  });
}

function problemOf(text: string): Problem | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isObject(value) && typeof value["title"] === "string"
      ? (value as unknown as Problem)
      : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the same request may succeed later. */
export function isTransient(error: ComfysnapError): boolean {
  if (error instanceof APIError) return error.status !== undefined && isTemporary(error.status);
  return error instanceof ConnectionFailed && !PERMANENT.test(codeOf(error.cause));
}

const PERMANENT = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|ERR_TLS|ERR_INVALID_URL/;
const NOT_CONNECTED: ReadonlySet<string> = new Set([
  "ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

/** The code that Node.js gives to a network error; empty in browsers. */
function codeOf(error: unknown): string {
  const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
  return isObject(cause) && typeof cause["code"] === "string" ? cause["code"] : "";
}

function networkSentence(error: unknown): string {
  if (!(error instanceof Error)) return "the connection failed";
  const cause = error.cause instanceof Error ? error.cause.message : "";
  const kind = NOT_CONNECTED.has(codeOf(error)) ? "cannot connect" : "the connection failed";
  return error instanceof TypeError ? `${kind}: ${cause || error.message}` : error.message;
}

function locationOf(response: Response, from: URL): URL | undefined {
  const location = response.headers.get("location");
  try {
    return location === null ? undefined : new URL(location, from);
  } catch {
    return undefined;
  }
}

function checkedUrl(baseUrl: string): URL {
  let url: URL;
  try {
    url = new URL(baseUrl);
  } catch {
    throw new TypeError("baseUrl must start with http:// or https://, for example http://127.0.0.1:8000");
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw new TypeError("baseUrl must start with http:// or https://, for example http://127.0.0.1:8000");
  }
  if (url.username || url.password || url.search || url.hash) {
    throw new TypeError("baseUrl must not contain credentials, a query or a fragment; use apiKey");
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

function headersOf({ apiKey, modalKey, modalSecret }: Credentials): Record<string, string> {
  if ((modalKey === undefined) !== (modalSecret === undefined)) {
    throw new TypeError("modalKey and modalSecret must be set together");
  }
  const headers: Record<string, string> = {};
  if (apiKey !== undefined) headers["Authorization"] = `Bearer ${apiKey}`;
  if (modalKey !== undefined) headers["Modal-Key"] = modalKey;
  if (modalSecret !== undefined) headers["Modal-Secret"] = modalSecret;
  for (const value of Object.values(headers)) {
    if (!isHeaderValue(value)) {
      throw new TypeError("a key must contain only printable ASCII characters");
    }
  }
  return headers;
}

/** Whether a header can be sent with this value. */
export function isHeaderValue(text: string): boolean {
  return /^[\x20-\x7e]*$/.test(text) && text === text.trim();
}

/** 128 random bits; `crypto.randomUUID` needs a secure context in browsers. */
export function randomHex(): string {
  return toHex(crypto.getRandomValues(new Uint8Array(16)));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
