// Runs policies.json against the client: policies.js TABLE BASE_URL; prints what came out.
import { readFileSync } from "node:fs";
import { APIError, Client, ComfysnapError, JobError } from "@comfysnap/client";
import { apiErrorClass } from "../node_modules/@comfysnap/client/dist/errors.js";
import { PollPolicy } from "../node_modules/@comfysnap/client/dist/polling.js";
import {
  Deadline,
  isTemporary,
  type RetryOptions,
  RetryPolicy,
  retryAfter,
} from "../node_modules/@comfysnap/client/dist/retry.js";

interface Case {
  readonly policy?: Readonly<Record<string, number>>;
  readonly [key: string]: any;
}

const [, , path = "", url = ""] = process.argv;
const table = JSON.parse(readFileSync(path, "utf8")) as Record<string, Case[]>;

function retryPolicy(one: Case): Partial<RetryOptions> {
  const { longest_retry_after: longest, first_contact: first, ...others } = one.policy ?? {};
  return {
    ...others,
    ...(longest === undefined ? {} : { longestRetryAfter: longest }),
    ...(first === undefined ? {} : { firstContact: first }),
  };
}

function allows(one: Case): boolean | string {
  try {
    return Deadline.after(Number(one["timeout"])).allows(one["pause"]);
  } catch (error) {
    return error instanceof RangeError ? "invalid" : String(error);
  }
}

async function call(one: Case, index: number): Promise<Record<string, unknown>> {
  const client = new Client(`${url}/${index}`, {
    retry: { initial: 0.01, maximum: 0.05, ...retryPolicy(one) },
    polling: { initial: 0.01, maximum: 0.05 },
    timeout: one["timeout"] ?? 60,
    cancelOnTimeout: one["cancel"] ?? true,
  });
  try {
    await client.infer("draw", { prompt: "a fox" });
    return { ends: "succeeded" };
  } catch (error) {
    if (!(error instanceof ComfysnapError)) throw error;
    const { name: ends, status, attempts, jobId } = error;
    const code = error instanceof APIError || error instanceof JobError ? error.code : null;
    return {
      ends, code, attempts, status: status ?? null, retry_after: error.retryAfter ?? null,
      job: jobId ?? null, message: error.message,
    };
  }
}

const results = {
  retries: table["retries"]?.map((one) => isTemporary(one["status"])),
  pauses: table["pauses"]?.map(
    (one) =>
      new RetryPolicy(retryPolicy(one)).pause(
        one["attempt"], one["elapsed"], one["rand"], one["retry_after"], one["reached"],
      ) ?? null,
  ),
  retry_after: table["retry_after"]?.map((one) => retryAfter(new Headers(one["headers"])) ?? null),
  polls: table["polls"]?.map((one) =>
    new PollPolicy(one.policy).pause(one["streak"], one["rand"], one["hint"]),
  ),
  holds: table["holds"]?.map((one) => new PollPolicy(one.policy).holdAmong(one["jobs"], one["slots"])),
  deadlines: table["deadlines"]?.map(allows),
  errors: table["errors"]?.map((one) => {
    const ErrorClass = apiErrorClass({ title: "x", code: one["code"] }, one["status"]);
    return new ErrorClass({ title: "x" }).name;
  }),
  calls: await Promise.all((table["calls"] ?? []).map(call)),
};
console.log(JSON.stringify(results));
