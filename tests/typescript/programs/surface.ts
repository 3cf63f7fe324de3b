// One call as tests/contract/surfaces.py makes it: surface.js URL CALL; prints the outcome as JSON.
import { APIError, Client, type OutputFile } from "@comfysnap/client";

interface Call {
  key: string;
  workflow: string;
  inputs: Record<string, string | number>;
  idempotencyKey?: string;
}

const [, , url = "", text = ""] = process.argv;
const { key, workflow, inputs, idempotencyKey } = JSON.parse(text) as Call;
const client = new Client(url, { apiKey: key, timeout: 60, retry: { attempts: 1 } });
try {
  const options = idempotencyKey === undefined ? {} : { idempotencyKey };
  const outputs = await client.infer(workflow, inputs, options);
  const images = outputs["images"] as OutputFile[];
  console.log(JSON.stringify({ images: images.map((image) => image.sha256) }));
} catch (error) {
  if (!(error instanceof APIError)) throw error;
  const { code, fields } = error;
  console.log(JSON.stringify({ refused: { code, field: fields[0]?.field ?? null } }));
}
