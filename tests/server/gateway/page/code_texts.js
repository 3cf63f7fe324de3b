// The programs of "as code": [{ schema, states, outputs, ... }] from stdin, as { python, ... }.
import { readFileSync } from "node:fs";
import { LANGUAGES } from "./code.js";
import { fieldsOf } from "./fields.js";

const texts = JSON.parse(readFileSync(0, "utf8")).map(({ schema, files, ...call }) => {
  const full = { ...call, fields: fieldsOf(schema), files: new Map(Object.entries(files)) };
  return Object.fromEntries(LANGUAGES.map(({ id, write }) => [id, write(full)]));
});
console.log(JSON.stringify(texts));
