/** The events of a job: server-sent events, or long polls where those are not available. */

import { APIError, ComfysnapError, UnexpectedResponse } from "./errors.js";
import type { LongPolls, PollPolicy } from "./polling.js";
import { sleep } from "./retry.js";
import { isHeaderValue, isTransient, type Transport } from "./transport.js";
import {
  isFinal,
  isJobRecord,
  isObject,
  type JobEvent,
  type JobRecord,
  type JsonValue,
  type Progress,
} from "./wire.js";

/** Maximum pause in seconds that a stream can ask for before a reconnect. */
const MAX_RETRY_S = 60;
/** Number of consecutive streams without an event before falling back to polls. */
const MAX_EMPTY_STREAMS = 2;
/** Seconds without data, besides the read timeout, before a stream counts as broken. */
const KEEP_ALIVE_S = 45;
const MAX_EVENT_CHARACTERS = 32 * 1024 * 1024;

interface ServerSentEvent {
  readonly data: string;
  /** The last one of the stream so far. */
  readonly id: string;
  /** Milliseconds. */
  readonly retry: number | undefined;
}

/** An incremental parser, as defined by the HTML standard. */
export class SseParser {
  private rest = "";
  private data: string[] = [];
  private size = 0;
  private id = "";
  private retry: number | undefined;
  private endedWithCr = false;
  private started = false;

  /** Return the events completed by `text`. */
  feed(text: string): ServerSentEvent[] {
    if (text === "") return [];
    const given = this.endedWithCr && text.startsWith("\n") ? text.slice(1) : text;
    this.endedWithCr = text.endsWith("\r");
    const lines = given.split(/\r\n|\n|\r/);
    lines[0] = this.rest + (lines[0] ?? "");
    this.rest = lines.pop() ?? "";
    const found: ServerSentEvent[] = [];
    for (const line of lines) {
      const field = this.started ? line : line.replace(/^\ufeff/, "");
      this.started = true;
      if (field !== "") {
        this.take(field);
      } else if (this.data.length > 0) {
        found.push({ data: this.data.join("\n"), id: this.id, retry: this.retry });
        this.data = [];
        this.size = 0;
      }
    }
    if (this.size + this.rest.length > MAX_EVENT_CHARACTERS) {
      throw new UnexpectedResponse("the event is too large");
    }
    return found;
  }

  private take(line: string): void {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") {
      this.data.push(value);
      this.size += line.length;
    } else if (name === "id" && !value.includes("\0")) {
      this.id = value;
    } else if (name === "retry" && /^\d{1,9}$/.test(value)) {
      this.retry = Number(value);
    }
  }
}

/** Yield the events of a job until `done`, across reconnects. */
export async function* follow(
  transport: Transport,
  polls: LongPolls,
  policy: PollPolicy,
  jobId: string,
  signal: AbortSignal,
): AsyncGenerator<JobEvent, void> {
  const state = new State();
  while (state.emptyStreams < MAX_EMPTY_STREAMS) {
    try {
      for await (const sent of stream(transport, jobId, state, signal)) {
        yield* state.newsIn(sent);
        if (sent.type === "done") return;
      }
    } catch (error) {
      if (!(error instanceof ComfysnapError)) throw error;
      if (isUnsupported(error)) break;
      if (!isTransient(error)) throw error;
    }
    state.emptyStreams += 1;
    await sleep(state.pause ?? policy.pause(state.emptyStreams, Math.random()), signal);
  }
  const following = { after: state.version, changes: true };
  for await (const record of polls.follow(jobId, following, signal)) yield* state.eventsOf(record);
}

/** What the caller has been given so far. */
class State {
  lastId = "";
  version: number | undefined;
  emptyStreams = 0;
  pause: number | undefined;
  private status: string | undefined;
  private progress = "";
  private readonly outputs = new Map<string, string>();

  /** The event if it is new to the caller, after outputs that only its job has. */
  newsIn(event: JobEvent): JobEvent[] {
    if (event.type === "output") {
      return this.isNewOutput(event.output.name, event.output.value) ? [event] : [];
    }
    if (event.type === "progress") return this.isNewProgress(event.progress) ? [event] : [];
    if (event.type !== "status" && event.type !== "done") return [event];
    const { job } = event;
    const isNewer = this.version === undefined || job.version > this.version;
    if (!isNewer && event.type !== "done") return [];
    this.version = job.version;
    this.status = job.status;
    return [...this.outputsOf(job), event];
  }

  /** The events for the news in a polled record. */
  eventsOf(record: JobRecord): JobEvent[] {
    const events = this.outputsOf(record);
    this.version = record.version;
    if (isFinal(record)) return [...events, { type: "done", job: record }];
    if (record.status !== this.status) events.push({ type: "status", job: record });
    this.status = record.status;
    const progress = record.progress;
    const isIdle = this.progress === "" && Object.values(progress ?? {}).every((one) => !one);
    if (progress !== undefined && !isIdle && this.isNewProgress(progress)) {
      events.push({ type: "progress", progress });
    }
    return events;
  }

  private outputsOf(record: JobRecord): JobEvent[] {
    return Object.entries(record.outputs ?? {})
      .filter(([name, value]) => this.isNewOutput(name, value))
      .map(([name, value]) => ({ type: "output", output: { name, value } }));
  }

  private isNewOutput(name: string, value: JsonValue): boolean {
    const text = JSON.stringify(value);
    if (this.outputs.get(name) === text) return false;
    this.outputs.set(name, text);
    return true;
  }

  private isNewProgress(progress: Progress): boolean {
    const text = JSON.stringify(progress);
    if (this.progress === text) return false;
    this.progress = text;
    return true;
  }
}

/** Yield the events of one connection. */
async function* stream(
  transport: Transport,
  jobId: string,
  state: State,
  signal: AbortSignal,
): AsyncGenerator<JobEvent, void> {
  const headers: Record<string, string> = { Accept: "text/event-stream" };
  if (state.lastId !== "") headers["Last-Event-ID"] = state.lastId;
  const request = { url: `events/${jobId}`, headers, hold: KEEP_ALIVE_S, jobId };
  const incoming = await transport.open(request, signal);
  try {
    if (!incoming.raw.headers.get("content-type")?.startsWith("text/event-stream")) {
      throw incoming.unexpected("not an event stream");
    }
    const parser = new SseParser();
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    for await (const chunk of incoming.chunks()) {
      for (const sent of parser.feed(decoder.decode(chunk, { stream: true }))) {
        state.lastId = isHeaderValue(sent.id) ? sent.id : "";
        state.pause = sent.retry === undefined ? undefined : Math.min(sent.retry / 1000, MAX_RETRY_S);
        const event = eventOf(sent.data);
        if (event !== undefined) {
          state.emptyStreams = 0;
          yield event;
        }
      }
    }
  } finally {
    incoming.close();
  }
}

/** The event, or undefined if it is not valid for this version of the client. */
function eventOf(data: string): JobEvent | undefined {
  let event: unknown;
  try {
    event = JSON.parse(data);
  } catch {
    return undefined;
  }
  if (!isObject(event) || typeof event["type"] !== "string") return undefined;
  const part = event[PART[event["type"]] ?? "type"];
  const valid = PART[event["type"]] === "job" ? isJobRecord(part) : part !== undefined;
  return valid && (PART[event["type"]] === undefined || isObject(part))
    ? (event as unknown as JobEvent)
    : undefined;
}

/** What an event of each type carries. */
const PART: Readonly<Record<string, string>> = {
  status: "job",
  done: "job",
  progress: "progress",
  preview: "preview",
  output: "output",
};

/** Whether the server, or a proxy in front of it, does not support event streams. */
function isUnsupported(error: ComfysnapError): boolean {
  if (error instanceof APIError) {
    const missing = error.code === "not_found" || error.code === "method_not_allowed";
    return missing || [405, 406, 501].includes(error.status ?? 0);
  }
  return error instanceof UnexpectedResponse;
}
