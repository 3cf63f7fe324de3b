/** The fields of a form, from the input schema of a contract. Pure: no page, no network. */

const MAX_SLIDER_STEPS = 4096;
const UNFOLDED = 4;

/**
 * What a form needs to know of each input, in the order of the map.
 *
 * A field is folded away if it is neither required nor a file, a list or a text of several lines,
 * and four such fields stand before it; a single one is not folded.
 */
export function fieldsOf(schema) {
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) =>
    field(name, property, required.has(name)),
  );
  const plain = fields.filter((one) => !one.required && !isProminent(one));
  const folded = plain.slice(UNFOLDED);
  if (folded.length > 1) for (const one of folded) one.folded = true;
  return fields;
}

/** Words that are written in their own way. */
const WORDS = new Map(
  ["CFG", "CLIP", "FPS", "ID", "JSON", "LoRA", "LoRAs", "SVG", "URL", "VAE"].map((word) => [
    word.toLowerCase(),
    word,
  ]),
);

/** A name as a label: `Negative prompt` of `negative_prompt`. */
export function labelOf(name) {
  const words = name
    .split("_")
    .filter(Boolean)
    .map((word) => WORDS.get(word) ?? word)
    .join(" ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function isProminent({ type, list, multiline }) {
  return list || type === "file" || type === "lora" || multiline;
}

function field(name, schema, required) {
  const isList = typesOf(schema).includes("array");
  const value = isList ? (schema.items ?? {}) : schema;
  const found = {
    name,
    label: schema.title || labelOf(name),
    description: schema.description ?? "",
    required,
    folded: false,
    list: isList,
    minItems: schema.minItems ?? 0,
    maxItems: schema.maxItems ?? Infinity,
    default: schema.default,
    multiline: schema["x-multiline"] === true,
    random: schema["x-random"] === true,
    ...valueOf(value),
  };
  found.slider = isList ? undefined : sliderOf(found);
  return found;
}

function typesOf(schema) {
  return [schema.type ?? []].flat();
}

function valueOf(schema) {
  const types = typesOf(schema);
  const text = {
    minLength: schema.minLength ?? 0,
    maxLength: schema.maxLength ?? Infinity,
    pattern: schema.pattern,
  };
  if ("x-kind" in schema) return { type: "file", kind: schema["x-kind"] };
  if (schema["x-type"] === "lora") return loraOf(schema);
  if ("x-model" in schema) return { type: "model", folder: schema["x-model"], ...text };
  if (schema.enum) return { type: "choice", choices: schema.enum.filter((one) => one !== null) };
  if (types.includes("boolean")) return { type: "boolean" };
  if (types.includes("integer")) {
    return {
      type: "integer",
      digits: types.includes("string"),
      pattern: text.pattern,
      ...bounds(schema),
    };
  }
  if (types.includes("number")) return { type: "number", ...bounds(schema) };
  if (types.includes("string")) return { type: "string", ...text };
  return { type: "json" };
}

function loraOf(schema) {
  const { name, strength, url } = schema.properties;
  return {
    type: "lora",
    choices: name.enum,
    urls: url !== undefined,
    maxLength: name.maxLength ?? Infinity,
    ...bounds(strength),
  };
}

/** Bounds may be digits, where a number of JavaScript cannot hold them. */
function bounds({ minimum, maximum, multipleOf }) {
  return { minimum, maximum, step: multipleOf };
}

/** The positions of a slider; undefined for a number that has too many of them, or no end. */
function sliderOf({ type, digits, minimum, maximum, step }) {
  if ((type !== "integer" && type !== "number") || digits) return undefined;
  if (typeof minimum !== "number" || typeof maximum !== "number") return undefined;
  const range = maximum - minimum;
  const by = step ?? (type === "integer" ? 1 : fineStep(range));
  if (!(range > 0) || range / by > MAX_SLIDER_STEPS) return undefined;
  // a slider counts from its minimum, a multiple from 0
  const from = step === undefined ? minimum : rounded(Math.ceil(minimum / step) * step);
  const to = step === undefined ? maximum : rounded(Math.floor(maximum / step) * step);
  return from < to ? { minimum: from, maximum: to, step: by } : undefined;
}

function fineStep(range) {
  if (range <= 2) return 0.01;
  if (range <= 40) return 0.1;
  return range <= 400 ? 1 : rounded(range / 400);
}

/** Without the dust of binary fractions. */
export function rounded(number) {
  return Number(number.toPrecision(12));
}
