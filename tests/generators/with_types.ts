// A program on openapi-typescript's types; it runs against a server whose address is its argument.
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/types";

declare const process: { argv: string[]; exitCode: number };
type Schemas = components["schemas"];

const api = createClient<paths>({ baseUrl: process.argv[2]! });

// What has a default may be left out; a file is one of three objects.
export const edit: Schemas["img2img_Input"] = {
  image: { url: "https://example.com/fox.png" },
  prompt: "a fox",
};
export const drawn: Schemas["flux_Input"] = { prompt: "a fox", seed: "18446744073709551615" };
// @ts-expect-error: a file is not a string
export const path: Schemas["img2img_Input"] = { image: "fox.png", prompt: "a fox" };
// @ts-expect-error: the workflow has no such input
export const unknown: Schemas["hello_Input"] = { colour: 1 };

export function describe(job: Schemas["Job"]): string {
  switch (job.workflow) {
    case "img2img":
      return job.outputs?.image.url ?? job.status;
    case "video":
      return job.outputs?.video.content_type ?? job.status;
    case "flux":
    case "hello":
    case "sdxl":
      return job.outputs?.images.map((file) => file.name).join() ?? job.status;
    default:
      return job satisfies never;
  }
}

export function isFinal(status: Schemas["JobStatus"]): boolean {
  switch (status) {
    case "queued":
    case "running":
      return false;
    case "succeeded":
    case "failed":
    case "cancelled":
    case "timed_out":
    case "expired":
      return true;
    default:
      return status satisfies never;
  }
}

export function nodeOf(event: Schemas["JobEvent"]): string | null {
  switch (event.type) {
    case "status":
    case "done":
      return event.job.progress.node;
    case "progress":
      return event.progress.node;
    case "preview":
      return event.preview.node;
    case "output":
      return event.output.name;
    default:
      return event satisfies never;
  }
}

async function main(): Promise<void> {
  const { data: job, error } = await api.POST("/infer_sync/hello", { body: { width: 32, count: 2 } });
  if (error) throw new Error(`${error.code}: ${error.detail}`);
  if (job.status !== "succeeded" || job.outputs === null) throw new Error(job.status);
  const sizes: number[] = [];
  for (const file of job.outputs.images) {
    const { data } = await api.GET("/outputs/{job_id}/{name}", {
      params: { path: { job_id: job.id, name: file.name } },
      parseAs: "arrayBuffer",
    });
    sizes.push((data?.byteLength ?? 0) - file.size);
  }
  const refused = await api.POST("/infer_sync/hello", { body: { width: 1 } });
  console.log(
    JSON.stringify({
      outputs: describe(job),
      differences: sizes,
      height: job.inputs.height,
      started: job.timings.run !== null && isFinal(job.status),
      refused: refused.error?.fields[0]?.field,
    }),
  );
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
