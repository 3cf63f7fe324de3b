/** The form of a workflow. */

import { controlOf } from "./controls.js";
import { h, newId, prose } from "./dom.js";
import { initialState, inputsOf, stateOf } from "./values.js";

export class Form {
  #fields;
  #parts = new Map();
  #folded;
  #alert = h("p", { class: "error alert", role: "alert", hidden: true });

  /** `onChange()` after each change, `onSubmit()` when the form is sent. */
  constructor(fields, { onChange, onSubmit, actions }) {
    this.#fields = fields;
    const first = fields.find((field) => field.multiline && !field.list);
    if (first) first.large = true;
    for (const field of fields) this.#parts.set(field.name, this.#part(field, onChange));
    const folded = fields.filter((field) => field.folded);
    const elements = (some) => some.map(({ name }) => this.#parts.get(name).element);
    this.#folded = h(
      "details",
      { class: "more" },
      h("summary", {}, `More settings (${folded.length})`),
      h("div", { class: "fields" }, elements(folded)),
    );
    this.element = h(
      "form",
      {
        novalidate: true,
        onsubmit: (event) => {
          event.preventDefault();
          onSubmit();
        },
        onkeydown: (event) => {
          if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            event.preventDefault();
            onSubmit();
          }
        },
      },
      h("div", { class: "fields" }, elements(fields.filter((field) => !field.folded))),
      folded.length > 0 ? this.#folded : null,
      h("div", { class: "run" }, this.#alert, h("p", { class: "actions" }, actions)),
    );
    this.reset();
    this.#takeStrayFiles();
  }

  /** What it sends, and what is wrong with it. */
  get inputs() {
    const states = {};
    for (const [name, { control }] of this.#parts) states[name] = control.state;
    return inputsOf(this.#fields, states);
  }

  /** Put the inputs of an earlier job into the form. */
  restore(inputs) {
    for (const field of this.#fields) {
      const value = inputs[field.name];
      const { control } = this.#parts.get(field.name);
      control.state = value === undefined ? initialState(field) : stateOf(field, value);
    }
    this.showProblems([]);
  }

  reset() {
    this.restore({});
  }

  /** Set one field, and show it. */
  set(name, value) {
    const part = this.#parts.get(name);
    if (part === undefined) return;
    part.control.state = stateOf(part.field, value);
    if (part.field.folded) this.#folded.open = true;
  }

  /** Show problems at their fields and go to the first; others stand above the button. */
  showProblems(problems, message = "") {
    for (const part of this.#parts.values()) this.#clear(part);
    const others = [];
    let first;
    for (const { field: place, message: text } of problems) {
      const [, name, rest] = /^([^.[]*)(.*)$/s.exec(place ?? "");
      const part = this.#parts.get(name);
      if (part === undefined) {
        others.push(place ? `${place}: ${text}` : text);
        continue;
      }
      const line = `${part.field.label}${rest} ${text}`;
      part.error.textContent = part.error.textContent ? `${part.error.textContent}; ${line}` : line;
      part.error.hidden = false;
      part.control.input.setAttribute("aria-invalid", "true");
      if (part.field.folded) this.#folded.open = true;
      first ??= part.control.input;
    }
    const alert = others.length > 0 ? others.join("; ") : first ? "" : message;
    this.#alert.textContent = alert;
    this.#alert.hidden = alert === "";
    first?.focus();
  }

  #clear({ control, error }) {
    error.hidden = true;
    error.textContent = "";
    control.input.removeAttribute("aria-invalid");
  }

  #part(field, onChange) {
    const [id, label, about, wrong] = ["field", "label", "about", "error"].map(newId);
    const error = h("p", { class: "error", id: wrong, hidden: true });
    const changed = () => {
      this.#clear(this.#parts.get(field.name));
      onChange();
    };
    const control = controlOf(field, {
      id,
      label,
      describedBy: `${about} ${wrong}`,
      onChange: changed,
    });
    const mark = field.required ? h("span", { class: "required" }, " required") : null;
    const hint = h("p", { class: "hint", id: about }, prose(hintOf(field)));
    const isGroup = field.list && field.type !== "file";
    const isWide = field.random || isGroup;
    const kind = `field ${isWide ? "" : field.type}`;
    const element = isGroup
      ? h(
          "fieldset",
          { class: kind },
          h("legend", { id: label }, field.label, mark),
          hint,
          control.element,
          error,
        )
      : h(
          "div",
          { class: kind },
          h("label", { for: id, id: label }, field.label, mark),
          control.element,
          hint,
          error,
        );
    element.dataset.field = field.name;
    return { field, control, error, element };
  }

  /** Files that are dropped or pasted elsewhere go to the first field that has room for them. */
  #takeStrayFiles() {
    const give = (event, files) => {
      if (!this.element.isConnected || files.length === 0) return;
      const controls = [...this.#parts.values()]
        .filter(({ field }) => field.type === "file")
        .map(({ control }) => control);
      const fitting = controls.filter((control) => control.accepts(files[0]));
      const control =
        fitting.find((one) => one.element.contains(document.activeElement)) ??
        fitting.find((one) => !one.isFull) ??
        fitting[0];
      if (control === undefined) return;
      event.preventDefault();
      control.take(files);
    };
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      give(event, event.dataTransfer.files);
    });
    document.addEventListener("paste", (event) => {
      const text = event.clipboardData.getData("text/plain");
      if (text === "") give(event, event.clipboardData.files);
    });
  }
}

function hintOf(field) {
  const rules = [field.description, rangeOf(field)];
  if (field.random) rules.push("Empty: drawn at random.");
  return rules.filter(Boolean).join(" ");
}

function rangeOf({ type, list, minimum, maximum, step, minItems, maxItems, random, description }) {
  if (list && Number.isFinite(maxItems)) {
    if (minItems === maxItems) return `${maxItems} values.`;
    return minItems > 0 ? `${minItems} to ${maxItems} values.` : `Up to ${maxItems} values.`;
  }
  const isNumber = type === "integer" || type === "number";
  if (!isNumber || random || /\bfrom\b.*\bto\b/i.test(description)) return "";
  const steps = step === undefined ? "" : `, a multiple of ${step}`;
  if (minimum !== undefined && maximum !== undefined) return `${minimum} to ${maximum}${steps}.`;
  if (minimum !== undefined) return `At least ${minimum}${steps}.`;
  return maximum === undefined ? "" : `At most ${maximum}${steps}.`;
}
