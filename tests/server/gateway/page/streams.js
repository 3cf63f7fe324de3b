// The events of a stream, cut into pieces at every place.
import { readFileSync } from "node:fs";
import { SseParser } from "./sse.js";

const text = JSON.parse(readFileSync(0, "utf8"));
const found = [];
for (let at = 0; at <= text.length; at += 1) {
  const parser = new SseParser();
  found.push([...parser.feed(text.slice(0, at)), ...parser.feed(text.slice(at))]);
}
console.log(JSON.stringify(found));
