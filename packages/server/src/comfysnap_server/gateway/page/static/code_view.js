/** "As code": the submit of the form as a program, in tabs. */

import { copyButton, h } from "./dom.js";
import { LANGUAGES } from "./code.js";

export class CodeView {
  #call;
  #chosen = 0;
  #tabs;
  #note = h("p", { class: "hint" });
  #text = h("pre", {
    class: "code",
    tabindex: "0",
    role: "tabpanel",
    "aria-labelledby": "code-tab-python",
  });

  constructor() {
    this.#tabs = LANGUAGES.map(({ id, name }, index) =>
      h(
        "button",
        { type: "button", role: "tab", id: `code-tab-${id}`, onclick: () => this.#choose(index) },
        name,
      ),
    );
    const tabs = h("div", { role: "tablist", "aria-label": "Language" }, this.#tabs);
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      this.#choose((this.#chosen + step + LANGUAGES.length) % LANGUAGES.length);
      this.#tabs[this.#chosen].focus();
    });
    const copy = copyButton(() => this.#text.textContent, "the code");
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "code-title" },
      h("h2", { id: "code-title" }, "As code"),
      h("div", { class: "tabs" }, tabs, copy),
      this.#text,
      this.#note,
    );
    this.#choose(0);
  }

  /** Show a call (code.js), and a note about it. */
  show(call, note) {
    this.#call = call;
    this.#note.textContent = note;
    this.#write();
  }

  #choose(index) {
    this.#chosen = index;
    for (const [number, tab] of this.#tabs.entries()) {
      tab.setAttribute("aria-selected", String(number === index));
      tab.tabIndex = number === index ? 0 : -1;
    }
    this.#text.setAttribute("aria-labelledby", this.#tabs[index].id);
    this.#write();
  }

  #write() {
    if (this.#call) this.#text.textContent = LANGUAGES[this.#chosen].write(this.#call);
  }
}
