// Drives a server of the example workflows: serve.js SCENARIO URL [...]; prints JSON.
import { openAsBlob } from "node:fs";
import {
  Client,
  ContractMismatch,
  defineWorkflow,
  InvalidInput,
  JobCancelled,
  jobIdOf,
  NotFound,
  type Progress,
} from "@comfysnap/client";
import { flux, type FluxInput, type FluxOutput, hello, img2img } from "./workflows.js";

const [, , scenario = "", url = "", ...rest] = process.argv;
const client = new Client(url, { timeout: 30, polling: { initial: 0.1 } });

async function caught(work: Promise<unknown>): Promise<unknown> {
  try {
    await work;
  } catch (error) {
    return error;
  }
  throw new Error("the call did not fail");
}

async function collected<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

const scenarios: Record<string, () => Promise<unknown>> = {
  async infer() {
    const seen: Progress[] = [];
    const { images } = await client.infer(
      flux,
      { prompt: "a fox", seed: 2n ** 60n + 1n, steps: 2, count: 2 },
      { labels: { made: "by a test" }, onProgress: (progress) => seen.push(progress) },
    );
    const files = await Promise.all(images.map((image) => client.download(image)));
    const [record] = await collected(client.jobs({ labels: { made: "by a test" } }));
    return {
      sizes: files.map((file) => file.size),
      types: files.map((file) => file.type),
      fractions: seen.map((progress) => progress.fraction),
      record,
    };
  },

  async untyped() {
    const outputs = await client.infer("hello", { width: 32 });
    return { outputs, workflows: (await client.workflows()).map((one) => one.name) };
  },

  async job() {
    const job = await client.submit(hello, { count: 2, width: 32, height: 32 });
    const events: string[] = [];
    for await (const event of job.events()) events.push(event.type);
    const outputs = await collected(job.outputs());
    const result = await client.job(job.id, hello).result();
    const status = await job.status();
    const opened = await fetch(await job.link(result.images[0]));
    return { events, outputs, result, status, bytes: (await opened.arrayBuffer()).byteLength };
  },

  async upload() {
    const [small = "", large = ""] = rest;
    const pixels = await openAsBlob(large, { type: "image/png" });
    const inline = await client.infer(img2img, {
      prompt: "a fox", image: new Uint8Array(await (await openAsBlob(small)).arrayBuffer()), steps: 1,
    });
    const first = await client.submit(img2img, { prompt: "a fox", image: pixels, steps: 1 });
    const second = await client.submit(img2img, { prompt: "an owl", image: pixels, steps: 1 });
    await Promise.all([first.result(), second.result()]);
    return { inline: inline.image.kind, records: [first.record, second.record] };
  },

  async abort() {
    const controller = new AbortController();
    const reason = new Error("the user left");
    const error = await caught(
      client.infer(
        flux,
        { prompt: "a fox", steps: 50 },
        { signal: controller.signal, onProgress: () => controller.abort(reason) },
      ),
    );
    const id = jobIdOf(error) ?? "";
    const job = client.job(id);
    const cancelled = await caught(job.result());
    return {
      isReason: error === reason,
      isCancelled: cancelled instanceof JobCancelled,
      status: job.record?.status,
    };
  },

  async others() {
    const job = await client.submit(flux, { prompt: "a fox", steps: 40 });
    const controller = new AbortController();
    const left = caught(job.result({ signal: controller.signal }));
    const stayed = job.result();
    for await (const event of job.events()) if (event.type === "progress") break;
    controller.abort();
    return { error: String(await left), images: (await stayed).images.length };
  },

  async cancel() {
    const job = await client.submit(flux, { prompt: "a fox", steps: 50 });
    const outputs = caught(collected(job.outputs()));
    await job.cancel();
    return { isCancelled: (await outputs) instanceof JobCancelled, final: (await job.wait()).status };
  },

  async timeout() {
    const error = await caught(client.infer(flux, { prompt: "a fox", steps: 50 }, { timeout: 1.5 }));
    const record = await client.job(jobIdOf(error) ?? "").wait();
    return { error: (error as Error).name, status: record.status };
  },

  async errors() {
    const fox: FluxInput = { prompt: "a fox" };
    const local = await caught(client.infer(flux, { ...fox, steps: 51 }));
    const remote = await caught(client.infer("flux", { ...fox, steps: 51, stepz: 1 }));
    const old = defineWorkflow<FluxInput, FluxOutput>({ ...flux, contract: "0123456789abcdef" });
    const outdated = await caught(client.infer(old, fox));
    const unknown = await caught(client.job("job_unknown0000000000").status());
    return {
      local: local instanceof InvalidInput ? [local.attempts, local.fields] : local,
      remote: remote instanceof InvalidInput ? [remote.attempts, remote.fields] : remote,
      outdated: outdated instanceof ContractMismatch,
      unknown: unknown instanceof NotFound ? unknown.code : unknown,
    };
  },
};

console.log(JSON.stringify(await scenarios[scenario]?.()));
