// A program on the client that @hey-api/openapi-ts makes; its argument is the address of a server.
import { checkStatus, events, inferAsyncHello, output, upload } from "./generated/client";
import { client } from "./generated/client/client.gen";
import type { HelloJob, OutputFile } from "./generated/client";

declare const process: { argv: string[]; exitCode: number };
client.setConfig({ baseUrl: process.argv[2]! });

async function main(): Promise<void> {
  const { data: accepted } = await inferAsyncHello({ body: { width: 32 }, throwOnError: true });
  const { stream } = await events({ path: { job_id: accepted.id } });
  const seen: string[] = [];
  let done: HelloJob | undefined;
  for await (const event of stream) {
    if (!event) continue; // 204 has no body
    seen.push(event.type);
    if (event.type === "done" && event.job.workflow === "hello") done = event.job;
  }
  const file: OutputFile | undefined = done?.outputs?.images[0];
  if (done === undefined || file === undefined) throw new Error("the stream ended without the job");

  const { data: bytes } = await output({
    path: { job_id: done.id, name: file.name },
    parseAs: "blob",
    throwOnError: true,
  });
  const { data: same } = await checkStatus({ path: { job_id: done.id }, throwOnError: true });
  const { error } = await upload({ path: { sha256: file.sha256 }, body: bytes as Blob });
  console.log(
    JSON.stringify({
      last: seen.at(-1),
      size: (bytes as Blob).size - file.size,
      same: JSON.stringify(same) === JSON.stringify(done),
      uploaded: error === undefined,
    }),
  );
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
