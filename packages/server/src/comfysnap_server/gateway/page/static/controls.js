/** The controls of a form: each has an `element`, an `input` to focus, a `state` (values.js). */

import { h, newId } from "./dom.js";
import { FileControl } from "./files.js";
import { rounded } from "./fields.js";
import { emptyState } from "./values.js";

/** The control of a field; `label` is the id of the element that names it. */
export function controlOf(field, options) {
  if (field.type === "file") return new FileControl(field, options);
  return field.list ? new ListControl(field, options) : itemControl(field, options);
}

function itemControl(field, options) {
  switch (field.type) {
    case "boolean":
      return field.default === undefined
        ? new OptionalSwitch(field, options)
        : new Switch(field, options);
    case "choice":
      return new Choice(field, options);
    case "integer":
    case "number":
      return field.slider ? new Slider(field, options) : new Text(field, options);
    case "model":
      return new RemoteText(field, options);
    case "lora":
      return new LoraControl(field, options);
    default:
      return new Text(field, options);
  }
}

/** What an input has that a label or a description belongs to. */
function named({ id, label, describedBy }) {
  return {
    id,
    "aria-labelledby": id === undefined ? label : undefined,
    "aria-describedby": describedBy,
  };
}

class Text {
  constructor(field, options) {
    const isNumber = field.type === "integer" || field.type === "number";
    const isArea = field.multiline || field.type === "json";
    const mode = field.type === "integer" ? "numeric" : isNumber ? "decimal" : undefined;
    const properties = {
      ...named(options),
      "aria-required": field.required && "true",
      placeholder: placeholderOf(field),
      spellcheck: field.multiline ? undefined : "false",
      autocomplete: "off",
      oninput: options.onChange,
    };
    this.input = isArea
      ? h("textarea", {
          ...properties,
          class: `${field.large ? "large" : ""} ${field.type === "json" ? "code" : ""}`,
        })
      : h("input", {
          ...properties,
          type: "text",
          inputmode: mode,
          class: isNumber ? "number" : "",
        });
    this.element = this.input;
  }

  get state() {
    return this.input.value;
  }

  set state(text) {
    this.input.value = text;
  }
}

function placeholderOf(field) {
  if (field.random) return "random";
  if (field.required || field.list || field.type === "lora") return undefined;
  if (field.default === undefined || field.default === null) return "as in the workflow";
  return field.type === "string" || field.type === "json" ? undefined : String(field.default);
}

/** A number with a slider beside it; the number counts, and may be finer or empty. */
class Slider {
  #range;
  #text;
  #rest;

  constructor(field, options) {
    const { minimum, maximum, step } = field.slider;
    this.#text = new Text(field, {
      ...options,
      onChange: () => (this.#follow(), options.onChange()),
    });
    this.input = this.#text.input;
    this.#rest = typeof field.default === "number" ? field.default : minimum;
    this.#range = h("input", {
      type: "range",
      min: minimum,
      max: maximum,
      step,
      "aria-labelledby": options.label,
      oninput: () => {
        this.input.value = String(rounded(Number(this.#range.value)));
        this.#fill();
        options.onChange();
      },
    });
    this.element = h("div", { class: "slider" }, this.#range, this.input);
    this.#follow();
  }

  get state() {
    return this.#text.state;
  }

  set state(text) {
    this.#text.state = text;
    this.#follow();
  }

  #follow() {
    const given = this.input.value.trim();
    this.#range.value = given === "" || Number.isNaN(Number(given)) ? this.#rest : given;
    this.#fill();
  }

  #fill() {
    const { min, max, value } = this.#range;
    this.#range.style.setProperty("--filled", `${((value - min) / (max - min)) * 100}%`);
  }
}

class Switch {
  constructor(field, options) {
    this.input = h("input", {
      ...named(options),
      type: "checkbox",
      role: "switch",
      onchange: options.onChange,
    });
    this.element = this.input;
  }

  get state() {
    return this.input.checked;
  }

  set state(state) {
    this.input.checked = state === true;
  }
}

class Choice {
  constructor(field, options) {
    const optional = field.required ? "Choose one" : "as in the workflow";
    const isEmptyOffered = field.default === undefined || field.list;
    this.input = h(
      "select",
      { ...named(options), onchange: options.onChange },
      isEmptyOffered ? h("option", { value: "" }, optional) : null,
      field.choices.map((choice, index) => h("option", { value: String(index) }, String(choice))),
    );
    this.element = this.input;
  }

  get state() {
    return this.input.value;
  }

  set state(index) {
    this.input.value = index;
  }
}

/** A boolean that may also be left to the workflow. */
class OptionalSwitch {
  #choice;

  constructor(field, options) {
    this.#choice = new Choice({ ...field, choices: ["yes", "no"] }, options);
    this.input = this.#choice.input;
    this.element = this.#choice.element;
  }

  get state() {
    return { "": "", 0: true, 1: false }[this.#choice.state];
  }

  set state(state) {
    this.#choice.state = state === "" ? "" : state ? "0" : "1";
  }
}

/** A model by file name or URL, with the expected hash of what is at the URL. */
class RemoteText {
  #hash;

  constructor(field, options) {
    this.input = h("input", {
      ...named(options),
      type: "text",
      spellcheck: "false",
      autocomplete: "off",
      placeholder: field.type === "model" ? "file name or https://" : "file name",
      oninput: () => (this.#show(), options.onChange()),
    });
    this.#hash = h("input", {
      type: "text",
      class: "code",
      spellcheck: "false",
      autocomplete: "off",
      placeholder: "SHA-256 of the file, if you know it",
      "aria-label": "SHA-256 of the file",
      oninput: options.onChange,
    });
    this.element = h("div", { class: "stack" }, this.input, this.#hash);
    this.#show();
  }

  get state() {
    const isUrl = !this.#hash.hidden;
    return { text: this.input.value, sha256: isUrl ? this.#hash.value : "" };
  }

  set state({ text, sha256 }) {
    this.input.value = text;
    this.#hash.value = sha256;
    this.#show();
  }

  #show() {
    this.#hash.hidden = !/^https?:\/\//.test(this.input.value.trim());
  }
}

class LoraControl {
  #field;
  #name;
  #strength;
  #clip;

  constructor(field, options) {
    this.#field = field;
    const number = (label) => {
      const input = h("input", {
        type: "text",
        inputmode: "decimal",
        class: "number",
        "aria-label": label,
        placeholder: label === "Strength" ? "1" : "same as strength",
        oninput: options.onChange,
      });
      return [input, h("label", { class: "inline" }, h("span", { class: "hint" }, label), input)];
    };
    this.#name = field.choices
      ? new Choice({ ...field, required: true, default: undefined }, options)
      : new RemoteText({ ...field, type: field.urls ? "model" : "lora" }, options);
    const [strength, strengthLabel] = number("Strength");
    const [clip, clipLabel] = number("CLIP strength");
    this.#strength = strength;
    this.#clip = clip;
    this.input = this.#name.input;
    this.element = h(
      "div",
      { class: "stack" },
      this.#name.element,
      h("div", { class: "pair" }, strengthLabel, clipLabel),
    );
  }

  get state() {
    const strength = this.#strength.value.trim() || "1";
    const named = this.#name.state;
    const name = this.#field.choices
      ? { text: this.#field.choices[Number(named)] ?? "", sha256: "" }
      : named;
    return { ...name, ...(named === "" ? { text: "" } : {}), strength, clip: this.#clip.value };
  }

  set state({ text, sha256, strength, clip }) {
    const choice = this.#field.choices?.indexOf(text);
    if (choice !== undefined) this.#name.state = choice < 0 ? "" : String(choice);
    else this.#name.state = { text, sha256 };
    this.#strength.value = strength;
    this.#clip.value = clip;
  }
}

/** A list with a row for each value. */
class ListControl {
  #field;
  #options;
  #rows = [];
  #list = h("ol", { class: "rows" });

  constructor(field, options) {
    this.#field = field;
    this.#options = options;
    this.input = h(
      "button",
      {
        type: "button",
        class: "quiet",
        "aria-describedby": options.describedBy,
        onclick: () => this.#add(),
      },
      "Add",
    );
    this.element = h("div", { class: "stack" }, this.#list, this.input);
  }

  get state() {
    return this.#rows.map(({ control }) => control.state);
  }

  set state(states) {
    this.#rows = [];
    for (const state of states) this.#append(state);
    this.#show();
  }

  #append(state) {
    const number = newId("item");
    const control = itemControl(
      { ...this.#field, list: false, required: true, default: undefined },
      { label: `${this.#options.label} ${number}`, onChange: this.#options.onChange },
    );
    const row = { control };
    const remove = h("button", { type: "button", class: "quiet" }, "Remove");
    remove.addEventListener("click", () => this.#remove(row));
    row.remove = remove;
    row.number = h("span", { class: "hint", id: number });
    row.element = h("li", {}, row.number, h("div", { class: "grow" }, control.element), remove);
    control.state = state;
    this.#rows.push(row);
  }

  #add() {
    this.#append(emptyState(this.#field));
    this.#show();
    this.#options.onChange();
    this.#rows.at(-1).control.input.focus();
  }

  #remove(row) {
    this.#rows = this.#rows.filter((one) => one !== row);
    this.#show();
    this.#options.onChange();
    this.input.focus();
  }

  #show() {
    for (const [index, { number, remove }] of this.#rows.entries()) {
      number.textContent = `${index + 1}`;
      remove.setAttribute("aria-label", `Remove ${this.#field.label} ${index + 1}`);
    }
    this.#list.replaceChildren(...this.#rows.map(({ element }) => element));
    this.#list.hidden = this.#rows.length === 0;
    this.input.disabled = this.#rows.length >= this.#field.maxItems;
  }
}
