// Runs in a page: reports to the server that the page came from.
import { Client, jobIdOf, type OutputFile } from "@comfysnap/client";
import { flux, img2img } from "./workflows.js";

async function run(url: string): Promise<object> {
  const client = new Client(url, { timeout: 60, polling: { initial: 0.1 } });
  const { images } = await client.infer(flux, { prompt: "a fox", steps: 1 });
  const picture = await client.download(images[0] as OutputFile);
  const bitmap = await createImageBitmap(picture);
  const large = new Blob([picture, new Uint8Array(300 * 1024)], { type: "image/png" });
  const job = await client.submit(img2img, { prompt: "a fox", image: large, steps: 1 });
  const events: string[] = [];
  for await (const event of job.events()) events.push(event.type);
  const controller = new AbortController();
  const left = client.infer(
    flux,
    { prompt: "a fox", steps: 50 },
    { signal: controller.signal, onProgress: () => controller.abort() },
  );
  const error: unknown = await left.catch((reason: unknown) => reason);
  const aborted = await client.job(jobIdOf(error) ?? "").wait();
  return {
    width: bitmap.width,
    status: job.record?.status,
    last: events.at(-1),
    error: String(error),
    aborted: aborted.status,
  };
}

const url = new URLSearchParams(location.search).get("server") ?? "";
const report = await run(url).catch((error: unknown) => ({ failed: String(error) }));
await fetch("/report", { method: "POST", body: JSON.stringify(report) });
