// Verifies requests: webhooks.js CASES; prints for each what its event has, or why it is refused.
import { readFileSync } from "node:fs";
import {
  ComfysnapError,
  defineWorkflow,
  type ImageFile,
  InvalidWebhook,
  verifyWebhook,
} from "@comfysnap/client";

interface Case {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  readonly secret: string | readonly string[];
  readonly tolerance?: number;
  readonly typed?: boolean;
}

const draw = defineWorkflow<object, { readonly image: ImageFile }>({
  name: "draw",
  contract: "",
  inputs: {},
  outputs: { image: "file" },
});

async function verified(one: Case): Promise<unknown> {
  const { headers, body, secret, tolerance = 300 } = one;
  try {
    const bytes = Uint8Array.from(atob(body), (character) => character.charCodeAt(0));
    const event = one.typed
      ? await verifyWebhook(new Headers(headers), bytes, secret, { tolerance, workflow: draw })
      : await verifyWebhook(headers, bytes, secret, { tolerance });
    const { id, type, job, output = null } = event;
    return { id, type, job: job.id, output, timestamp: event.timestamp.getTime() / 1000 };
  } catch (error) {
    if (error instanceof InvalidWebhook) return error.code;
    if (error instanceof ComfysnapError || error instanceof TypeError) return error.name;
    throw error;
  }
}

const cases = JSON.parse(readFileSync(process.argv[2] ?? "", "utf8")) as Case[];
console.log(JSON.stringify(await Promise.all(cases.map(verified))));
