/** Jobs: submit, follow to the end, cancel. */

import { ApiError, request, requestJson, Unreachable } from "./api.js";
import { parse } from "./json.js";
import { SseParser } from "./sse.js";

const FINAL = new Set(["succeeded", "failed", "cancelled", "timed_out", "expired"]);
const ATTEMPTS = 4;
const MAX_EMPTY_STREAMS = 2;
/** Longer than the server is silent on a stream, in milliseconds. */
const SILENCE_MS = 45_000;
const HOLD_S = 25;

export function isFinal(job) {
  return FINAL.has(job.status);
}

/** The last submit, while there is no job of it. */
let unanswered = { body: "", key: "" };

/** Submit a job; all attempts make one job, those of later calls with the same inputs too. */
export async function submit(workflow, contract, inputs) {
  const body = JSON.stringify(inputs);
  if (unanswered.body !== body) unanswered = { body, key: newKey() };
  const headers = {
    "Content-Type": "application/json",
    "Idempotency-Key": unanswered.key,
    "Comfysnap-Contract": contract,
  };
  const path = `infer_async/${workflow}?previews=true`;
  const job = await retried(() => requestJson(path, { method: "POST", headers, body }));
  unanswered = { body: "", key: "" };
  return job;
}

/** Ask a job to stop. */
export async function cancel(id) {
  return retried(() => requestJson(`cancel/${id}`, { method: "POST" }));
}

export async function read(id) {
  return requestJson(`check_status/${id}`);
}

/** One page of the jobs of a workflow, newest first. */
export async function list(workflow, cursor, limit) {
  const query = new URLSearchParams({ workflow, limit });
  if (cursor) query.set("cursor", cursor);
  return requestJson(`jobs?${query}`);
}

/**
 * Follow a job to its end: by its event stream, resumed where it broke off, else by long polls.
 *
 * Calls `onEvent` with `{ type, job | progress | preview | output }` and returns the final job.
 */
export async function follow(id, onEvent, signal) {
  const seen = { id: "", version: undefined };
  for (let empty = 0; empty < MAX_EMPTY_STREAMS; empty += 1) {
    try {
      for await (const event of stream(id, seen, signal)) {
        empty = -1;
        onEvent(event);
        if (event.type === "done") return event.job;
      }
    } catch (error) {
      if (signal.aborted || [401, 403].includes(error.status)) throw error;
    }
    await pause(empty + 1, signal);
  }
  return poll(id, seen.version, onEvent, signal);
}

async function* stream(id, seen, outer) {
  const controller = new AbortController();
  const stop = () => controller.abort();
  outer.addEventListener("abort", stop, { once: true });
  let timer = setTimeout(stop, SILENCE_MS);
  try {
    const headers = { Accept: "text/event-stream" };
    if (seen.id !== "") headers["Last-Event-ID"] = seen.id;
    const response = await request(`events/${id}`, { headers, signal: controller.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new SseParser();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(stop, SILENCE_MS);
      for (const sent of parser.feed(value)) {
        const event = parse(sent.data);
        if (sent.id !== "") seen.id = sent.id;
        if (event.job) seen.version = event.job.version;
        yield event;
      }
    }
  } finally {
    clearTimeout(timer);
    outer.removeEventListener("abort", stop);
    controller.abort();
  }
}

async function poll(id, version, onEvent, signal) {
  let after = version;
  let failures = 0;
  for (;;) {
    const query = after === undefined ? "" : `?wait=${HOLD_S}&after=${after}`;
    try {
      const job = await requestJson(`check_status/${id}${query}`, { signal });
      failures = 0;
      const isNews = after === undefined || job.version > after;
      after = job.version;
      if (isFinal(job)) {
        onEvent({ type: "done", job });
        return job;
      }
      if (isNews) onEvent({ type: "status", job });
    } catch (error) {
      if (signal.aborted || !isTransient(error)) throw error;
      failures += 1;
      await pause(failures, signal);
    }
  }
}

async function retried(call) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call();
    } catch (error) {
      const isWorth = error instanceof Unreachable || [502, 503, 504].includes(error.status);
      if (!isWorth || attempt === ATTEMPTS) throw error;
      await pause(attempt);
    }
  }
}

function isTransient(error) {
  if (!(error instanceof ApiError)) return true; // the connection broke, or was silent
  return error.status === 429 || error.status >= 500;
}

function pause(attempt, signal) {
  const seconds = Math.min(0.25 * 2 ** attempt, 8) * (0.5 + Math.random() / 2);
  return new Promise((resolve, reject) => {
    const end = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(end);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

/** Random, also where there is no `crypto.randomUUID`: on plain http. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
