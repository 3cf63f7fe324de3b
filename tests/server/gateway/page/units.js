// Runs one function of a module of the page: { module, name, arguments } from stdin.
import { readFileSync } from "node:fs";

const call = JSON.parse(readFileSync(0, "utf8"));
const found = await import(`./${call.module}.js`);
console.log(JSON.stringify((await found[call.name](...call.arguments)) ?? null));
