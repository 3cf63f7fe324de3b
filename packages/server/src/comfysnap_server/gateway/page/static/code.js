/**
 * A submit as a program: Python, TypeScript, curl. Pure: no page, no network.
 *
 * `call` is `{ url, name, fields, inputs, outputs, files, keys }`: the server's address without a
 * slash at its end, the workflow, the fields of its form, what is sent, the outputs by name with
 * `{ kind, many }`, the names of local files by hash, and whether the server wants a key.
 */

const FILE_KINDS = new Set(["image", "mask", "animation", "video", "audio", "3d", "file"]);
/** Inputs and outputs of workflows with these names would be called as types of the client. */
const TAKEN = {
  python: new Set(["File", "Model", "Workflow"]),
  typescript: new Set(["File", "Model"]),
};
/** What a constant of TypeScript cannot be called. */
const RESERVED = new Set(
  (
    "arguments async await break case catch class const continue debugger default defineWorkflow " +
    "delete do else enum eval export extends false finally for function if implements import in " +
    "instanceof interface let new null package private protected public return static super " +
    "switch this throw true try typeof undefined var void while with yield"
  ).split(" "),
);
const LOCALS = new Set([
  "client",
  "content",
  "file",
  "openAsBlob",
  "out",
  "process",
  "save",
  "writeFile",
]);

export const LANGUAGES = [
  { id: "python", name: "Python", write: python },
  { id: "typescript", name: "TypeScript", write: typescript },
  { id: "curl", name: "curl", write: curl },
];

export function python(call) {
  const used = new Set();
  const model = pythonModel(call.name);
  const given = [...entriesOf(call)].map(([field, value]) => {
    return `${field.name}=${pythonField(field, value, call.files, used)}`;
  });
  const one = `${model}(${given.join(", ")})`;
  const inputs =
    one.length <= 60
      ? one
      : `\n            ${model}(\n${indented(given, 16)}            )\n        `;
  const key = call.keys ? ', api_key=os.environ["COMFYSNAP_API_KEY"]' : "";
  const wire = used.has("FileBySha256") ? ["from comfysnap_schema.wire import FileBySha256"] : [];
  const models = ["Lora", "ModelUrl"].filter((name) => used.has(name));
  const standard = ["import asyncio", ...(call.keys ? ["import os"] : [])];
  if (used.has("Path")) standard.push("from pathlib import Path");
  return [
    `# comfysnap generate --url ${call.url} --out comfysnap_models`,
    ...standard,
    "",
    "from comfysnap_client import Client",
    `from comfysnap_models import ${model}`,
    ...(models.length > 0 ? [`from comfysnap_schema.models import ${models.join(", ")}`] : []),
    ...wire,
    "",
    "",
    "async def main() -> None:",
    `    async with Client(${quoted(call.url)}${key}) as client:`,
    `        out = await client.infer_sync(${inputs})`,
    ...Object.entries(call.outputs).flatMap(([name, output]) => pythonOutput(name, output)),
    "",
    "",
    "asyncio.run(main())",
    "",
  ].join("\n");
}

function pythonOutput(name, { kind, many }) {
  if (!FILE_KINDS.has(kind)) return [`        print(out.${name})`];
  if (!many) return [`        print(await out.${name}.save(out.${name}.name))`];
  return [`        for file in out.${name}:`, "            print(await file.save(file.name))"];
}

function pythonModel(name) {
  const prefix = camel(name);
  return `${prefix}${TAKEN.python.has(prefix) ? "Workflow" : ""}Input`;
}

function pythonField(field, value, files, used) {
  if (!field.list) return pythonItem(field, value, files, used);
  return `[${value.map((item) => pythonItem(field, item, files, used)).join(", ")}]`;
}

function pythonItem(field, value, files, used) {
  if (field.type === "file" && value.sha256 !== undefined) {
    const name = files.get(value.sha256);
    used.add(name === undefined ? "FileBySha256" : "Path");
    return name === undefined
      ? `FileBySha256(sha256=${quoted(value.sha256)})`
      : `Path(${quoted(name)})`;
  }
  if (field.type === "file") return quoted(value.url);
  if (field.type === "model" && typeof value === "object")
    return pythonCall("ModelUrl", value, used);
  if (field.type === "lora") return pythonCall("Lora", value, used);
  return field.digits ? String(value) : pythonLiteral(value);
}

function pythonCall(name, values, used) {
  used.add(name);
  const given = Object.entries(values).map(([key, value]) => `${key}=${pythonLiteral(value)}`);
  return `${name}(${given.join(", ")})`;
}

function pythonLiteral(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") {
    const items = Object.entries(value).map(
      ([key, item]) => `${quoted(key)}: ${pythonLiteral(item)}`,
    );
    return `{${items.join(", ")}}`;
  }
  return typeof value === "string" ? quoted(value) : String(value);
}

export function typescript(call) {
  const constant = typescriptConstant(call.name);
  const isClash = LOCALS.has(constant);
  const workflow = isClash ? "workflow" : constant;
  const state = { blobs: false };
  const given = [...entriesOf(call)].map(([field, value]) => {
    return `${field.name}: ${typescriptField(field, value, call.files, state)}`;
  });
  const one = `{ ${given.join(", ")} }`;
  const inputs = given.length === 0 ? "{}" : one.length <= 60 ? one : `{\n${indented(given, 2)}}`;
  const outputs = Object.entries(call.outputs);
  const writes = outputs.some(([, { kind }]) => FILE_KINDS.has(kind));
  const key = call.keys ? ', { apiKey: process.env["COMFYSNAP_API_KEY"] }' : "";
  return [
    `// comfysnap generate --url ${call.url} --typescript workflows.ts`,
    ...(state.blobs ? ['import { openAsBlob } from "node:fs";'] : []),
    ...(writes ? ['import { writeFile } from "node:fs/promises";'] : []),
    `import { Client${writes ? ", type OutputFile" : ""} } from "@comfysnap/client";`,
    `import { ${constant}${isClash ? " as workflow" : ""} } from "./workflows.js";`,
    "",
    `const client = new Client(${quoted(call.url)}${key});`,
    `const out = await client.infer(${workflow}, ${inputs});`,
    ...outputs.flatMap(([name, output]) => typescriptOutput(name, output)),
    ...(writes
      ? [
          "",
          "async function save(file: OutputFile): Promise<void> {",
          "  const content = await client.download(file);",
          "  await writeFile(file.name, new Uint8Array(await content.arrayBuffer()));",
          "}",
        ]
      : []),
    "",
  ].join("\n");
}

function typescriptOutput(name, { kind, many }) {
  if (!FILE_KINDS.has(kind)) return [`console.log(out.${name});`];
  return [many ? `for (const file of out.${name}) await save(file);` : `await save(out.${name});`];
}

function typescriptConstant(name) {
  const [first, ...others] = name.split("_");
  const constant = first + others.map(capitalized).join("");
  return RESERVED.has(constant) ? `${constant}Workflow` : constant;
}

function typescriptField(field, value, files, state) {
  if (!field.list) return typescriptItem(field, value, files, state);
  return `[${value.map((item) => typescriptItem(field, item, files, state)).join(", ")}]`;
}

function typescriptItem(field, value, files, state) {
  if (field.type === "file" && files.has(value.sha256)) {
    state.blobs = true;
    return `await openAsBlob(${quoted(files.get(value.sha256))})`;
  }
  if (field.type === "file" && value.url !== undefined) return `new URL(${quoted(value.url)})`;
  if (field.digits && typeof value === "string") return `${value}n`;
  return typescriptLiteral(value);
}

function typescriptLiteral(value) {
  if (Array.isArray(value)) return `[${value.map(typescriptLiteral).join(", ")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const items = Object.entries(value).map(([key, item]) => {
    const isName = /^[A-Za-z_$][\w$]*$/.test(key) && key !== "__proto__";
    return `${isName ? key : `[${quoted(key)}]`}: ${typescriptLiteral(item)}`;
  });
  return items.length === 0 ? "{}" : `{ ${items.join(", ")} }`;
}

export function curl(call) {
  const key = call.keys ? ' \\\n  -H "Authorization: Bearer $COMFYSNAP_API_KEY"' : "";
  const uploads = [...filesOf(call)].map(
    ([sha256, name]) =>
      `curl -sS -T ${shell(name)} ${shell(`${call.url}/files/${sha256}`)}${key}\n`,
  );
  return (
    `${uploads.join("")}curl -sS ${shell(`${call.url}/infer_sync/${call.name}`)}${key} \\\n` +
    `  -H 'Content-Type: application/json' \\\n` +
    `  -d ${shell(JSON.stringify(call.inputs))}\n`
  );
}

/** The local files that the inputs name, by hash. */
function* filesOf(call) {
  const seen = new Set();
  for (const [field, value] of entriesOf(call)) {
    if (field.type !== "file") continue;
    for (const { sha256 } of field.list ? value : [value]) {
      if (call.files.has(sha256) && !seen.has(sha256)) {
        seen.add(sha256);
        yield [sha256, call.files.get(sha256)];
      }
    }
  }
}

function* entriesOf({ fields, inputs }) {
  for (const field of fields) {
    if (Object.hasOwn(inputs, field.name)) yield [field, inputs[field.name]];
  }
}

function camel(name) {
  return name.split("_").map(capitalized).join("");
}

function capitalized(word) {
  return word.charAt(0).toUpperCase() + word.slice(1);
}

function indented(items, spaces) {
  return items.map((item) => `${" ".repeat(spaces)}${item},\n`).join("");
}

/** A string literal of Python and of TypeScript. */
function quoted(text) {
  return JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, escaped);
}

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
