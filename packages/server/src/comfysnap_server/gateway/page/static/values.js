/**
 * From what a form holds to what is sent, and back. Pure: no page, no network.
 *
 * A form holds a state for each field: a text, a boolean, or for
 * - choices, the index as text;
 * - files, null, `{ sha256, name }` or `{ url }`;
 * - models, `{ text, sha256 }`; LoRAs, `{ text, sha256, strength, clip }`;
 * - lists, an array of states.
 */

const SHA256 = /^[0-9a-f]{64}$/;
const IS_URL = /^https?:\/\//;
const MAX_URL = 4096;

/** The state of a field that nobody touched. */
export function initialState(field) {
  if (field.default !== undefined && field.default !== null) return stateOf(field, field.default);
  if (field.list && field.type === "file") return [];
  if (field.list) return Array.from({ length: field.minItems }, () => emptyState(field));
  return emptyState(field);
}

/** The state of a field, or of an item of a list, without a value. */
export function emptyState(field) {
  switch (field.type) {
    case "file":
      return null;
    case "model":
      return { text: "", sha256: "" };
    case "lora":
      return { text: "", sha256: "", strength: "1", clip: "" };
    default:
      return "";
  }
}

/** The state that sends a value, such as an input of an earlier job. */
export function stateOf(field, value) {
  if (value === null && field.type === "json" && field.required && !field.list) return "null";
  if (value === undefined || value === null) return field.list ? [] : emptyState(field);
  if (!field.list) return itemState(field, value);
  return Array.isArray(value) ? value.map((item) => itemState(field, item)) : [];
}

function itemState(field, value) {
  switch (field.type) {
    case "boolean":
      return value === true;
    case "choice": {
      const index = field.choices.findIndex((choice) => choice === value);
      return index < 0 ? "" : String(index);
    }
    case "file":
      return value.url === undefined ? { sha256: value.sha256 } : { url: value.url };
    case "model":
      if (typeof value === "string") return { text: value, sha256: "" };
      return { text: value.url ?? "", sha256: value.sha256 ?? "" };
    case "lora":
      return {
        text: value.name ?? value.url ?? "",
        sha256: value.sha256 ?? "",
        strength: String(value.strength ?? 1),
        clip: value.clip_strength == null ? "" : String(value.clip_strength),
      };
    case "json":
      return JSON.stringify(value, null, 2);
    default:
      return String(value);
  }
}

/**
 * The inputs that a form sends, and what is wrong with it.
 *
 * Values that equal their default are left out, and so are empty fields that need no value: then
 * the default counts, the seed is drawn, or the graph keeps its own value.
 */
export function inputsOf(fields, states) {
  const inputs = {};
  const problems = [];
  for (const field of fields) {
    const { value, problem } = valueOf(field, states[field.name]);
    if (problem !== undefined) problems.push({ field: field.name, message: problem });
    else if (value !== undefined) inputs[field.name] = value;
  }
  return { inputs, problems };
}

/** What one field sends: a value, undefined for nothing, or what is wrong with it. */
export function valueOf(field, state) {
  const found = field.list ? listValue(field, state) : itemValue(field, state);
  if (found.problem !== undefined) return found;
  if (found.value === undefined) return field.required ? { problem: "needs a value" } : {};
  if (found.value === null && !field.required) return {}; // the same
  if (field.type === "string" && !field.list && found.value === "") {
    if (field.required) return { problem: "needs a value" };
    if (field.default === undefined) return {};
  }
  return !field.required && isSame(found.value, field.default) ? {} : found;
}

/** Whether two JSON values are the same. */
export function isSame(one, other) {
  return JSON.stringify(one) === JSON.stringify(other);
}

function listValue(field, states) {
  const mayBeEmpty = field.default !== undefined && field.minItems === 0;
  if (states.length === 0 && !field.required && !mayBeEmpty) return {};
  const value = [];
  for (const [index, state] of states.entries()) {
    const item = itemValue(field, state);
    if (item.problem === undefined && item.value === undefined) item.problem = "needs a value";
    if (item.problem !== undefined) return { problem: `${index + 1}: ${item.problem}` };
    value.push(item.value);
  }
  if (value.length < field.minItems) return { problem: `needs at least ${count(field.minItems)}` };
  if (value.length > field.maxItems)
    return { problem: `may have at most ${count(field.maxItems)}` };
  return { value };
}

function count(items) {
  return `${items} value${items === 1 ? "" : "s"}`;
}

function itemValue(field, state) {
  switch (field.type) {
    case "boolean":
      return typeof state === "boolean" ? { value: state } : {};
    case "choice":
      return state === "" ? {} : { value: field.choices[Number(state)] };
    case "integer":
    case "number":
      return numberValue(field, state.trim());
    case "file":
      return fileValue(state);
    case "model":
      return modelValue(field, state);
    case "lora":
      return loraValue(field, state);
    case "json":
      return jsonValue(state);
    default:
      return textValue(field, state);
  }
}

function textValue(field, text) {
  const length = [...text].length;
  if (length > field.maxLength) {
    return { problem: `may have at most ${field.maxLength} characters, not ${length}` };
  }
  return { value: text };
}

function numberValue(field, text) {
  if (text === "") return {};
  const isWhole = /^-?\d{1,40}$/.test(text);
  if (field.type === "integer" && !isWhole) return { problem: "must be a whole number" };
  const number = Number(text);
  if (!Number.isFinite(number)) return { problem: "must be a number" };
  const exact = field.digits ? BigInt(text) : asSent(number);
  if (field.minimum !== undefined && exact < bound(field.minimum)) {
    return { problem: `must be at least ${field.minimum}` };
  }
  if (field.maximum !== undefined && exact > bound(field.maximum)) {
    return { problem: `must be at most ${field.maximum}` };
  }
  if (field.digits && !Number.isSafeInteger(number)) {
    const digits = String(exact);
    const fits = field.pattern === undefined || new RegExp(field.pattern).test(digits);
    return fits ? { value: digits } : { problem: `must be at most ${field.maximum}` };
  }
  if (field.type === "integer" && !Number.isSafeInteger(number)) {
    return { problem: "is too large to be sent exactly" };
  }
  if (field.step !== undefined && !isMultiple(number, field.step)) {
    return { problem: `must be a multiple of ${field.step}` };
  }
  return { value: number === 0 ? 0 : number };
}

/** A number as the server reads it, which is not the nearest one beyond 2^53. */
function asSent(number) {
  const text = String(number);
  return /^-?\d+$/.test(text) ? BigInt(text) : number;
}

/** A bound is digits where a number cannot hold it. */
function bound(limit) {
  return typeof limit === "string" ? BigInt(limit) : limit;
}

function isMultiple(number, step) {
  const times = number / step;
  return Number.isInteger(step)
    ? Number.isInteger(times)
    : Math.abs(times - Math.round(times)) < 1e-9;
}

function fileValue(state) {
  if (state === null) return {};
  if (state.url === undefined) return { value: { sha256: state.sha256 } };
  return urlProblem(state.url) ?? { value: { url: state.url } };
}

function modelValue(field, { text, sha256 }) {
  const given = text.trim();
  if (given === "") return {};
  return IS_URL.test(given) ? remoteValue(given, sha256) : textValue(field, given);
}

function loraValue(field, { text, sha256, strength, clip }) {
  const name = field.choices === undefined ? text.trim() : text;
  if (name === "")
    return { problem: field.urls ? "needs a file name or a URL" : "needs a file name" };
  const isUrl = field.urls && IS_URL.test(name);
  const found = isUrl ? remoteValue(name, sha256) : textValue(field, name);
  if (found.problem !== undefined) return found;
  const value = isUrl ? { ...found.value } : { name };
  for (const [key, text] of [
    ["strength", strength],
    ["clip_strength", clip],
  ]) {
    const number = numberValue({ ...field, type: "number" }, text.trim());
    if (number.problem !== undefined)
      return { problem: `${key.replace("_", " ")} ${number.problem}` };
    const isDefault = key === "strength" && number.value === 1;
    if (number.value !== undefined && !isDefault) value[key] = number.value;
  }
  return { value };
}

function remoteValue(url, sha256) {
  const wrong = urlProblem(url);
  if (wrong !== undefined) return wrong;
  const digest = sha256.trim().toLowerCase();
  if (digest === "") return { value: { url } };
  if (!SHA256.test(digest)) return { problem: "the SHA-256 must have 64 hex digits" };
  return { value: { url, sha256: digest } };
}

function urlProblem(url) {
  if (!IS_URL.test(url)) return { problem: "must start with http:// or https://" };
  return url.length > MAX_URL ? { problem: `may have at most ${MAX_URL} characters` } : undefined;
}

function jsonValue(text) {
  if (text.trim() === "") return {};
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { problem: "must be valid JSON" };
  }
}
