// What the compiler accepts and refuses; an expected error that does not occur is an error itself.
import {
  Client,
  type ImageFile,
  type Job,
  type JsonValue,
  verifyWebhook,
  type VideoFile,
} from "@comfysnap/client";
import { everything, lists } from "./everything.js";
import { flux, type FluxInput, type FluxOutput, hello, img2img, sdxl } from "./workflows.js";

export async function typed(client: Client, blob: Blob, name: string): Promise<void> {
  const output: FluxOutput = await client.infer(flux, { prompt: "a fox" });
  const images: readonly ImageFile[] = output.images;
  const job: Job<FluxOutput> = await client.submit(flux, { prompt: "a fox", seed: 2n ** 60n });
  const file: ImageFile = (await client.infer(img2img, { prompt: "a fox", image: blob })).image;
  const text: string = (await client.job("job_1", lists).result()).text;
  const video: VideoFile = (await client.job("job_1", lists).result()).video;
  await client.infer(hello, {});
  await client.infer(flux, { prompt: "a fox", seed: "18446744073709551615" });
  await client.infer(flux, { prompt: "a fox", seed: null }, { signal: AbortSignal.timeout(1) });
  await client.infer(sdxl, { prompt: "a fox", sampler: "euler" });
  await client.infer(img2img, { prompt: "a fox", image: "https://example.org/a.png" });
  await client.infer(img2img, { prompt: "a fox", image: { url: name } });
  await client.infer(img2img, { prompt: "a fox", image: new Uint8Array(3) });
  await client.infer(lists, { images: [blob], checkpoint: "a.safetensors" });
  await client.infer(lists, {
    images: [blob, { sha256: name }],
    checkpoint: { url: name },
    loras: [{ name: "a", strength: 0.5 }, { url: name }],
    styles: [{ name: "ink.safetensors" }],
    sizes: [64, 64],
  });
  const untyped = await client.infer("anything", { prompt: "a fox", any: [1, { thing: true }] });
  const value: JsonValue | object | undefined = untyped["images"];
  const event = await verifyWebhook({}, "", "whsec_", { workflow: flux });
  const delivered: readonly ImageFile[] | undefined = event.output?.images;
  const level: 1 | 2 | 3 = everythingLevel({ level: 2 });
  void [images, job, file, text, video, value, delivered, level];
}

function everythingLevel(inputs: { level: 1 | 2 | 3 }): 1 | 2 | 3 {
  return inputs.level;
}

export async function refused(client: Client, blob: Blob, name: string): Promise<void> {
  // @ts-expect-error: prompt is missing
  await client.infer(flux, {});
  // @ts-expect-error: there is no such input
  await client.infer(flux, { prompt: "a fox", stepz: 4 });
  // @ts-expect-error: not a number
  await client.infer(flux, { prompt: "a fox", steps: "4" });
  // @ts-expect-error: not digits
  await client.infer(flux, { prompt: "a fox", seed: "seven" });
  // @ts-expect-error: an input with a default is left out, not null
  await client.infer(flux, { prompt: "a fox", steps: null });
  // @ts-expect-error: not one of the choices
  await client.infer(sdxl, { prompt: "a fox", sampler: "eular" });
  // @ts-expect-error: a path is not a file
  await client.infer(img2img, { prompt: "a fox", image: name });
  // @ts-expect-error: one file, not a list
  await client.infer(img2img, { prompt: "a fox", image: [blob] });
  // @ts-expect-error: a list, not one file
  await client.infer(lists, { images: blob, checkpoint: "a.safetensors" });
  // @ts-expect-error: not one of the LoRAs
  await client.infer(lists, { images: [blob], checkpoint: "a", styles: [{ name: "other" }] });
  // @ts-expect-error: not one of the numbers
  await client.infer(everything, { text: "", size: 16, signed: 0, image: blob, data: 1, level: 4 });
  // @ts-expect-error: there is no such output
  void (await client.infer(flux, { prompt: "a fox" })).image;
  // @ts-expect-error: a result is not an input
  const input: FluxInput = await client.infer(flux, { prompt: "a fox" });
  // @ts-expect-error: not an option
  await client.infer(flux, { prompt: "a fox" }, { timeot: 5 });
  // @ts-expect-error: outputs do not change
  (await client.job("job_1", lists).result()).text = "";
  void input;
}
