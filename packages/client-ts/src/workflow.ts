/** What a generated module says about a workflow, and the checks of inputs and outputs. */

import { InvalidInput, UnexpectedResponse } from "./errors.js";
import { isFile, isHttpUrl, isSha256 } from "./files.js";
import {
  type FieldProblem,
  isObject,
  isOutputFile,
  type JobRecord,
  type JsonValue,
  type OutputFile,
} from "./wire.js";

/** The rules of one input; of a list, those of its items. */
export interface InputRule {
  readonly type:
    | "string"
    | "integer"
    | "number"
    | "boolean"
    | "file"
    | "model"
    | "json"
    | "lora"
    | "choice";
  readonly required?: true;
  /** Whether null means the same as leaving it out. */
  readonly nullable?: true;
  /** Set if it is a list: the minimum and the maximum number of items. */
  readonly items?: readonly [number, number];
  /** Of an integer: whether it travels as digits, so that bigints are exact. */
  readonly digits?: true;
  /** Digits if a number cannot hold it. */
  readonly minimum?: number | string;
  readonly maximum?: number | string;
  readonly multipleOf?: number;
  /** Characters. */
  readonly maxLength?: number;
  /** Of a LoRA: the names. */
  readonly choices?: readonly (string | number | boolean)[];
  /** Of a LoRA: whether it may be a URL. */
  readonly urls?: true;
}

export type OutputRule = "file" | "text" | "json" | "files" | "texts" | "jsons";

/** A workflow as its generated module describes it. */
export interface WorkflowRules {
  readonly name: string;
  /** The contract hash. */
  readonly contract: string;
  readonly inputs: Readonly<Record<string, InputRule>>;
  readonly outputs: Readonly<Record<string, OutputRule>>;
}

declare const types: unique symbol;

/** A workflow with the types of its inputs and outputs; `comfysnap generate --typescript` writes
 * it. */
export interface Workflow<Input, Output> extends WorkflowRules {
  /** Return what is wrong with inputs, whatever their type; empty if they are valid. */
  check(inputs: unknown): FieldProblem[];
  readonly [types]?: (input: Input) => Output;
}

/** Inputs of a workflow without a generated module. */
export type UntypedInput = Readonly<Record<string, unknown>>;
/** Outputs of a workflow without a generated module. */
export type UntypedOutput = Readonly<Record<string, JsonValue | OutputFile | readonly OutputFile[]>>;

/** Make the descriptor of a workflow. */
export function defineWorkflow<Input, Output>(rules: WorkflowRules): Workflow<Input, Output> {
  return { ...rules, check: (inputs) => problemsOf(rules.inputs, inputs) };
}

/** Throw `InvalidInput` unless the inputs are valid for the workflow. */
export function checkInputs(workflow: Workflow<never, unknown>, inputs: unknown): void {
  const fields = workflow.check(inputs);
  if (fields.length === 0) return;
  const title = `the inputs are not valid for ${workflow.name}`;
  throw new InvalidInput({ title, code: "invalid_input", fields });
}

/** Return the outputs of a job that succeeded; throws `UnexpectedResponse` if they are not those of
 * the workflow. */
export function checkedOutputs(
  record: JobRecord,
  rules: Readonly<Record<string, OutputRule>> | undefined,
): unknown {
  const outputs = record.outputs ?? {};
  const wrong = Object.entries(rules ?? {}).find(
    ([name, rule]) => !Object.hasOwn(outputs, name) || !fits(outputs[name], rule),
  );
  if (wrong === undefined) return outputs;
  throw new UnexpectedResponse(
    `the output ${wrong[0]} is not valid for ${record.workflow}; ` +
      "run `comfysnap generate` to update the generated module",
    { record },
  );
}

function fits(value: unknown, rule: OutputRule): boolean {
  switch (rule) {
    case "file":
      return isOutputFile(value);
    case "text":
      return typeof value === "string";
    case "json":
      return true;
    case "files":
      return Array.isArray(value) && value.every(isOutputFile);
    case "texts":
      return Array.isArray(value) && value.every((one) => typeof one === "string");
    case "jsons":
      return Array.isArray(value);
  }
}

function problemsOf(rules: Readonly<Record<string, InputRule>>, inputs: unknown): FieldProblem[] {
  if (!isObject(inputs)) return [{ message: "the inputs must be an object" }];
  const unknown = Object.keys(inputs)
    .filter((name) => !Object.hasOwn(rules, name))
    .map((name) => ({
      field: name,
      message: `unknown input '${name}'; available: ${Object.keys(rules).join(", ") || "none"}`,
    }));
  const wrong = Object.entries(rules).flatMap(([name, rule]) => {
    const message = problemOf(rule, Object.hasOwn(inputs, name) ? inputs[name] : undefined);
    return message === undefined ? [] : [{ field: name, message }];
  });
  return [...unknown, ...wrong];
}

function problemOf(rule: InputRule, value: unknown): string | undefined {
  if (value === undefined) return rule.required ? "is required" : undefined;
  if (value === null && rule.nullable) return undefined;
  if (rule.items === undefined) return itemProblem(rule, value);
  if (!Array.isArray(value)) return "must be a list";
  const [least, most] = rule.items;
  if (value.length < least || value.length > most) {
    return `must have ${least} to ${most} items, not ${value.length}`;
  }
  for (const [index, item] of value.entries()) {
    const message = itemProblem(rule, item);
    if (message !== undefined) return `[${index}] ${message}`;
  }
  return undefined;
}

function itemProblem(rule: InputRule, value: unknown): string | undefined {
  switch (rule.type) {
    case "string":
      return stringProblem(rule, value);
    case "integer":
    case "number":
      return numberProblem(rule, value);
    case "boolean":
      return typeof value === "boolean" ? undefined : "must be true or false";
    case "choice":
      return rule.choices?.some((choice) => choice === value)
        ? undefined
        : `must be one of ${rule.choices?.join(", ")}`;
    case "file":
      return isFile(value) ? undefined : "must be a Blob, bytes, an http(s):// URL or a file object";
    case "model":
      return isModel(value) ? undefined : 'must be a file name or {"url": ..., "sha256": ...}';
    case "lora":
      return loraProblem(rule, value);
    case "json":
      return isJson(value) ? undefined : "must be a JSON value";
  }
}

function stringProblem({ maxLength }: InputRule, value: unknown): string | undefined {
  if (typeof value !== "string") return "must be a string";
  const isLong = maxLength !== undefined && value.length > maxLength && [...value].length > maxLength;
  return isLong ? `must be at most ${maxLength} characters long` : undefined;
}

const DIGITS = /^(?:0|-?[1-9][0-9]{0,39})$/;

function numberProblem(rule: InputRule, given: unknown): string | undefined {
  let value = given;
  if (rule.digits && typeof value === "string" && DIGITS.test(value)) value = BigInt(value);
  if (rule.type === "integer" && typeof value === "number" && !Number.isSafeInteger(value)) {
    return rule.digits && Number.isInteger(value)
      ? "is too large to be exact; use a bigint"
      : "must be an integer";
  }
  if (typeof value !== "number" && !(rule.digits && typeof value === "bigint")) {
    return rule.type === "integer" ? "must be an integer" : "must be a number";
  }
  if (!Number.isFinite(Number(value))) return "must be a finite number";
  return boundProblem(rule, value as number | bigint);
}

function boundProblem(rule: InputRule, value: number | bigint): string | undefined {
  if (rule.minimum !== undefined && value < exact(rule.minimum)) {
    return `must be at least ${rule.minimum}`;
  }
  if (rule.maximum !== undefined && value > exact(rule.maximum)) {
    return `must be at most ${rule.maximum}`;
  }
  const step = rule.multipleOf;
  const isOff = step !== undefined && (typeof value === "bigint" || value % step !== 0);
  return isOff ? `must be a multiple of ${step}` : undefined;
}

function exact(bound: number | string): number | bigint {
  return typeof bound === "string" ? BigInt(bound) : bound;
}

function isModel(value: unknown): boolean {
  if (typeof value === "string") return value !== "" && !isLongUrl(value);
  return isObject(value) && hasOnly(value, ["url", "sha256"]) && isFileOfUrl(value);
}

function isLongUrl(value: string): boolean {
  return /^https?:\/\//.test(value) && !isHttpUrl(value);
}

function isFileOfUrl(value: Record<string, unknown>): boolean {
  return isHttpUrl(value["url"]) && (value["sha256"] == null || isSha256(value["sha256"]));
}

function loraProblem(rule: InputRule, value: unknown): string | undefined {
  const keys = ["name", "strength", "clip_strength", ...(rule.urls ? ["url", "sha256"] : [])];
  if (!isObject(value) || !hasOnly(value, keys)) {
    return `must be an object with ${keys.join(", ")}`;
  }
  const { name, url, sha256 } = value;
  if ((name === undefined) === (url === undefined)) {
    return rule.urls ? "must have either name or url" : "must have a name";
  }
  if (name !== undefined) {
    const allowed = rule.choices?.some((choice) => choice === name);
    if (allowed === false) return `name must be one of ${rule.choices?.join(", ")}`;
    if (typeof name !== "string" || name === "" || [...name].length > 1024) {
      return "name must be a file name";
    }
    if (sha256 != null) return "sha256 is only allowed with url";
  } else if (!isFileOfUrl(value)) {
    return "url must start with http:// or https://, and sha256 be 64 hex digits";
  }
  for (const key of ["strength", "clip_strength"] as const) {
    const strength = value[key];
    if (strength === undefined || (strength === null && key === "clip_strength")) continue;
    const message = numberProblem({ ...rule, type: "number" }, strength);
    if (message !== undefined) return `${key} ${message}`;
  }
  return undefined;
}

function hasOnly(value: Record<string, unknown>, keys: readonly string[]): boolean {
  return Object.keys(value).every((key) => keys.includes(key));
}

function isJson(value: unknown): boolean {
  if (value === null || typeof value === "string" || typeof value === "boolean") return true;
  if (typeof value === "number") return Number.isFinite(value);
  if (Array.isArray(value)) return value.every(isJson);
  return isObject(value) && Object.values(value).every((one) => one === undefined || isJson(one));
}

/** The body of a submit, as far as it does not need the server: inputs that are set, in the order of
 * the workflow, so that equal inputs make equal bodies. */
export function bodyOf(
  inputs: UntypedInput,
  rules: Readonly<Record<string, InputRule>> | undefined,
): Record<string, unknown> {
  const body: Record<string, unknown> = {};
  for (const name of Object.keys(rules ?? inputs)) {
    const value = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
    const type = rules?.[name]?.type;
    const isUrl = type === "file" || type === "model";
    const one = (item: unknown): unknown => (isUrl && isHttpUrl(item) ? { url: item } : item);
    body[name] = Array.isArray(value) ? value.map(one) : one(value);
  }
  return body;
}
