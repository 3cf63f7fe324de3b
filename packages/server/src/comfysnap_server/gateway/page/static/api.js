/** Requests to the server that this page came from, with the key of this tab. */

import { parse } from "./json.js";

/** Everything is below it, also behind a reverse proxy with a path. */
export const BASE = new URL("../../", import.meta.url);

const KEY = "comfysnap.key";

let key = sessionStorage.getItem(KEY) ?? "";

/** Whether requests carry a key. */
export function hasKey() {
  return key !== "";
}

/** Use a key in this tab, and in no other; an empty one forgets it. */
export function setKey(text) {
  key = text;
  if (text === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, text);
}

/** The headers that a request needs to be let in. */
export function authorization() {
  return key === "" ? {} : { Authorization: `Bearer ${key}` };
}

/** What the server refused, as a problem of RFC 9457. */
export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `the server answered ${status}`);
    this.status = status;
    this.problem = problem;
  }

  get fields() {
    return this.problem.fields ?? [];
  }
}

/** The server did not answer. */
export class Unreachable extends Error {
  constructor(cause) {
    super("The server cannot be reached.", { cause });
  }
}

/** A response that is not an error; `path` is relative to the server's address. */
export async function request(path, { headers = {}, ...options } = {}) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      cache: "no-store",
      ...options,
      headers: { ...headers, ...authorization() },
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable(error);
  }
  if (!response.ok) throw new ApiError(response.status, await problemOf(response));
  return response;
}

/** The JSON of a response, with whole numbers that JavaScript cannot hold as digits (json.js). */
export async function requestJson(path, options) {
  const response = await request(path, options);
  return parse(await response.text());
}

async function problemOf(response) {
  try {
    const problem = await response.json();
    return typeof problem === "object" && problem !== null ? problem : {};
  } catch {
    return {};
  }
}

/** A signed address of an output, for elements that cannot send a key. */
export async function linkTo(job, output) {
  const path = `outputs/${job}/${encodeURIComponent(output)}`;
  if (!hasKey()) return new URL(path, BASE).href;
  const body = JSON.stringify({ job_id: job, output, expires_in: 3600 });
  const headers = { "Content-Type": "application/json" };
  const { url } = await requestJson("links", { method: "POST", headers, body });
  return new URL(url.replace(/^\//, ""), BASE).href;
}
