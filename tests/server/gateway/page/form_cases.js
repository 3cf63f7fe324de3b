// What forms send: for each field left alone, changed in every way that its control offers, and
// cleared. Reads { name: input schema } and prints a list of cases.
import { readFileSync } from "node:fs";
import { fieldsOf } from "./fields.js";
import { emptyState, initialState, inputsOf, stateOf, valueOf } from "./values.js";

const SHA256 = "0123456789abcdef".repeat(4);
const URL = "https://example.org/a.safetensors";

function changed(field) {
  if (field.list) {
    const items = changedItems({ ...field, list: false });
    const enough = Math.max(field.minItems, 1);
    const fill = (count) =>
      Array.from({ length: count }, (_, index) => items[index % items.length]);
    return [fill(enough), fill(Math.min(field.maxItems, 40))];
  }
  const states = changedItems(field);
  if (field.slider) {
    const { minimum, maximum, step } = field.slider;
    const middle = minimum + Math.round((maximum - minimum) / step / 2) * step;
    states.push(
      ...[minimum, middle, maximum].map((position) => String(Number(position.toPrecision(12)))),
    );
  }
  return states;
}

function changedItems(field) {
  switch (field.type) {
    case "boolean":
      return [true, false];
    case "choice":
      return field.choices.map((_, index) => String(index));
    case "integer":
    case "number":
      return numbers(field);
    case "file":
      return [{ sha256: SHA256 }, { url: URL }];
    case "model":
      return [
        { text: "x.safetensors", sha256: "" },
        { text: URL, sha256: "" },
        { text: URL, sha256: SHA256 },
      ];
    case "lora":
      return [
        { text: field.choices?.[0] ?? "x.safetensors", sha256: "", strength: "1", clip: "" },
        {
          text: field.choices?.[0] ?? "x",
          sha256: "",
          strength: String(field.maximum),
          clip: String(field.minimum),
        },
        ...(field.urls ? [{ text: URL, sha256: SHA256, strength: "1", clip: "" }] : []),
      ];
    case "json":
      return ["null", '{"a": [1, true]}', "[]", '"text"'];
    default:
      return ["x", "ä😀"].map((text) => [...text].slice(0, field.maxLength).join(""));
  }
}

function numbers({ type, digits, minimum: lowest, maximum: highest, step = 1 }) {
  if (digits) return [String(lowest), String(highest)];
  const minimum = typeof lowest === "string" ? Number.MIN_SAFE_INTEGER : lowest;
  const maximum = typeof highest === "string" ? Number.MAX_SAFE_INTEGER : highest;
  const aligned = [
    Math.ceil((minimum ?? 0) / step) * step,
    Math.floor((maximum ?? 1) / step) * step,
  ];
  const inside = ((minimum ?? 0) + (maximum ?? 1)) / 2;
  return (type === "integer" ? aligned : [minimum ?? 0, maximum ?? 1, inside]).map(String);
}

const found = [];
for (const [name, schema] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
  const fields = fieldsOf(schema);
  const start = Object.fromEntries(fields.map((field) => [field.name, initialState(field)]));
  const filled = { ...start };
  for (const field of fields) if (field.required) filled[field.name] = changed(field)[0];
  const report = (field, how, states) => {
    found.push({ workflow: name, field, how, ...inputsOf(fields, states) });
  };
  report(null, "untouched", start);
  for (const field of fields) {
    report(field.name, "left alone", { ...filled, [field.name]: start[field.name] });
    report(field.name, "cleared", { ...filled, [field.name]: field.list ? [] : emptyState(field) });
    for (const state of changed(field)) {
      report(field.name, "changed", { ...filled, [field.name]: state });
      const { value } = valueOf(field, state);
      const again = value === undefined ? undefined : valueOf(field, stateOf(field, value)).value;
      if (JSON.stringify(value) !== JSON.stringify(again)) {
        found.push({
          workflow: name,
          field: field.name,
          how: "restored",
          inputs: {},
          problems: [{ field: field.name, value, again }],
        });
      }
    }
  }
}
console.log(JSON.stringify(found));
