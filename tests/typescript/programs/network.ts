// Networks that break, by a `fetch` of our own: network.js; prints what came out of each.
import {
  Client,
  type ClientOptions,
  ComfysnapError,
  type JobEvent,
  type OutputFile,
} from "@comfysnap/client";
import { SseParser } from "../node_modules/@comfysnap/client/dist/events.js";

const CONTENT = "0123456789";
const HASH = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882";
const FILE: OutputFile = {
  name: "a.txt", kind: "file", content_type: "text/plain", size: 10, sha256: HASH,
  url: "/outputs/job_1/a.txt",
};

type Answer = (url: URL, init: RequestInit) => Response | Promise<Response>;

/** A client whose requests get these answers, one after the other, and the requests. */
function scripted(answers: Answer[], options: ClientOptions = {}) {
  const requests: { path: string; headers: Record<string, string> }[] = [];
  const fake = async (url: URL, init: RequestInit): Promise<Response> => {
    requests.push({
      path: `${init.method} ${url.href}`,
      headers: Object.fromEntries(new Headers(init.headers)),
    });
    const answer = answers.shift();
    if (answer === undefined) throw new TypeError("fetch failed");
    return answer(url, init);
  };
  const client = new Client("http://server.test/base", {
    apiKey: "sesame",
    retry: { initial: 0.001, attempts: 4 },
    polling: { initial: 0.001 },
    fetch: fake as typeof fetch,
    ...options,
  });
  return { client, requests };
}

/** A body that breaks off. */
function broken(text: string): ReadableStream<Uint8Array> {
  const chunks = [new TextEncoder().encode(text)];
  return new ReadableStream({
    pull(controller) {
      const chunk = chunks.shift();
      if (chunk === undefined) controller.error(new TypeError("terminated"));
      else controller.enqueue(chunk);
    },
  });
}

async function outcome(work: Promise<unknown>): Promise<unknown> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof ComfysnapError) && !(error instanceof DOMException)) throw error;
    return `${error.name}: ${error.message}`;
  }
}

function problem(status: number, code: string): Response {
  const headers = { "Content-Type": "application/problem+json" };
  return new Response(JSON.stringify({ title: "No", code, status }), { status, headers });
}

function job(status: string, version: number, outputs: object | null = null): object {
  const progress = { fraction: version / 10 };
  return {
    id: "job_1", workflow: "draw", status, version, outputs, progress,
    created_at: "2026-11-26T00:00:00Z",
  };
}

function sse(...events: [string, object][]): Response {
  const text = events.map(([id, event]) => `id: ${id}\ndata: ${JSON.stringify(event)}\n\n`).join("");
  return new Response(text, { headers: { "Content-Type": "text/event-stream" } });
}

async function collected(events: AsyncIterable<JobEvent>): Promise<string[]> {
  const found: string[] = [];
  for await (const event of events) {
    found.push(event.type === "output" ? `output ${event.output.name}` : event.type);
  }
  return found;
}

async function download(answers: Answer[], file = FILE): Promise<unknown> {
  const { client, requests } = scripted(answers);
  const text = await outcome(client.download(file).then((blob) => blob.text()));
  return { text, requests };
}

const first: Answer = () => new Response(broken("012"), { headers: { ETag: '"x"' } });

const programs: Record<string, () => Promise<unknown>> = {
  resumed: () => download([first, () => new Response(CONTENT.slice(3), { status: 206 })]),
  restarted: () => download([first, () => new Response(CONTENT)]),
  corrupt: () => download([() => new Response("9876543210")]),
  longer: () => download([() => new Response(CONTENT + CONTENT)]),
  expired: () => download([() => problem(410, "output_expired")]),
  elsewhere: () =>
    download([() => new Response(CONTENT)], { ...FILE, url: "https://store.test/a?signature=x" }),
  escaping: () => download([() => new Response(CONTENT)], { ...FILE, url: "//evil.test/a" }),

  async events() {
    const done = job("succeeded", 5, { text: "a", more: "b" });
    const { client, requests } = scripted([
      () => sse(["1", { type: "status", job: job("running", 1) }], ["2", { type: "future" }]),
      () =>
        sse(
          ["1", { type: "status", job: job("running", 1) }],
          ["3", { type: "output", output: { name: "text", value: "a" } }],
          ["4", { type: "progress" }],
          ["5", { type: "done", job: done }],
        ),
    ]);
    const handle = client.job("job_1");
    const types = await collected(handle.events());
    return { types, last: requests.map((one) => one.headers["last-event-id"]), version: handle.record?.version };
  },

  async polled() {
    const { client, requests } = scripted([
      () => problem(404, "not_found"),
      () => Response.json(job("running", 2, { text: "a" })),
      () => problem(502, "internal"),
      () => Response.json(job("succeeded", 5, { text: "a", more: "b" })),
    ]);
    const types = await collected(client.job("job_1").events());
    return { types, paths: requests.map((one) => one.path) };
  },

  async silent() {
    const never: Answer = (_, { signal }) =>
      new Promise((_resolve, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason));
      });
    const { client, requests } = scripted([never, never, never, never], {
      readTimeout: 0.02,
      connectTimeout: 0.02,
    });
    return { error: await outcome(client.workflows()), requests: requests.length };
  },

  async stalled() {
    const stall: Answer = (_, { signal }) => {
      const body = new ReadableStream({
        start: (controller) => signal?.addEventListener("abort", () => controller.error(signal.reason)),
      });
      return new Response(body);
    };
    const { client } = scripted([stall], { readTimeout: 0.02, retry: { attempts: 1 } });
    return outcome(client.workflows());
  },

  async aborted() {
    const { client, requests } = scripted([]);
    const error = await outcome(client.infer("draw", {}, { signal: AbortSignal.abort() }));
    return { error, requests: requests.length };
  },

  async slots() {
    let open = 0;
    let most = 0;
    const held: Answer = async () => {
      most = Math.max(most, ++open);
      await new Promise((resolve) => setTimeout(resolve, 5));
      open -= 1;
      return Response.json(job("succeeded", 2));
    };
    const { client } = scripted(Array<Answer>(12).fill(held), { maxConnections: 5 });
    const jobs = Array.from({ length: 12 }, (_, index) => client.job(`job_${index}`).wait());
    await Promise.all(jobs);
    return most;
  },

  async opaque() {
    const opaque = Object.defineProperty(new Response(null), "type", { value: "opaqueredirect" });
    const redirects: (string | undefined)[] = [];
    const { client, requests } = scripted([
      (_, init) => (redirects.push(init.redirect), opaque),
      (_, init) => (redirects.push(init.redirect), Response.json(job("succeeded", 2, {}))),
    ]);
    await client.infer("draw", {});
    const keys = new Set(requests.map((one) => one.headers["idempotency-key"]));
    return { redirects, keys: keys.size };
  },

  async parser() {
    const stream =
      "\ufeff: comment\r\nretry: 1500\r\nid: 7\r\nevent: status\r\ndata: {\r\ndata:}\r\n\r\n" +
      "data: a\u2028b\n\nevent: empty\n\nid: a\0b\nretry: x\nfield\nother: 1\ndata\n\ndata: cut";
    const whole = JSON.stringify(new SseParser().feed(stream));
    for (let size = 1; size < stream.length; size++) {
      const parser = new SseParser();
      const found = [];
      for (let at = 0; at < stream.length; at += size) {
        found.push(...parser.feed(stream.slice(at, at + size)));
      }
      if (JSON.stringify(found) !== whole) throw new Error(`in pieces of ${size}`);
    }
    return JSON.parse(whole);
  },

  async arguments() {
    const made: [string, ClientOptions][] = [
      ["ftp://server", {}], ["server", {}], ["http://me:it@server", {}], ["http://server?a=b", {}],
      ["http://server", { modalKey: "x" }], ["http://server", { apiKey: "ö" }],
      ["http://server", { timeout: -1 }], ["http://server", { maxConnections: 1 }],
    ];
    return made.map(([url, options]) => {
      try {
        return typeof new Client(url, options);
      } catch (error) {
        return (error as Error).name;
      }
    });
  },
};

const results: Record<string, unknown> = {};
for (const [name, program] of Object.entries(programs)) results[name] = await program();
console.log(JSON.stringify(results));
