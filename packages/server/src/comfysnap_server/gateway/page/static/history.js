/** The jobs of this key, newest first. */

import { h } from "./dom.js";
import { isFinal, list } from "./jobs.js";
import { statusText } from "./job_view.js";
import { firstPicture, pictureOf } from "./result.js";

const PAGE = 12;
const REFRESH_MS = 5000;

export class History {
  #workflow;
  #fields;
  #onOpen;
  #entries = new Map();
  #cursor;
  #timer;
  #current;
  #list = h("ol", { class: "history" });
  #more;
  #note = h("p", { class: "empty" }, "No jobs yet.");

  /** `onOpen(job)` when one is chosen. */
  constructor(workflow, fields, onOpen) {
    this.#workflow = workflow;
    this.#fields = fields;
    this.#onOpen = onOpen;
    this.#more = h(
      "button",
      { type: "button", hidden: true, onclick: () => this.#load(this.#cursor) },
      "Earlier jobs",
    );
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "history-title" },
      h("h2", { id: "history-title" }, "History"),
      this.#note,
      this.#list,
      this.#more,
    );
  }

  /** Read the newest jobs; those that are shown already stay. */
  async refresh() {
    await this.#load();
  }

  /** Show a job that changed, and which one is open. */
  update(job) {
    const known = this.#entries.get(job.id);
    if (known?.job.version > job.version) return; // a page that was read before
    if (known?.job.version === job.version && known.isCurrent === (job.id === this.#current))
      return;
    const entry = { job, isCurrent: job.id === this.#current, element: this.#entry(job) };
    const isFocused = known?.element.contains(document.activeElement);
    if (known) known.element.replaceWith(entry.element);
    this.#entries.set(job.id, entry);
    if (isFocused) entry.element.querySelector("button").focus();
    if (!known) {
      const newest = [...this.#entries.values()]
        .map((one) => one.job.id)
        .sort()
        .reverse();
      const next = this.#entries.get(newest[newest.indexOf(job.id) + 1]);
      this.#list.insertBefore(entry.element, next?.element ?? null);
    }
    this.#note.hidden = true;
    this.#watch();
  }

  /** Mark the job that is open. */
  set current(id) {
    this.#current = id;
    for (const { job } of [...this.#entries.values()]) this.update(job);
  }

  async #load(cursor) {
    let page;
    try {
      page = await list(this.#workflow, cursor, PAGE);
    } catch {
      this.#watch();
      return; // the next refresh may go well
    }
    const isFirst = this.#entries.size === 0;
    for (const job of page.jobs) this.update(job);
    if (cursor !== undefined || isFirst) {
      this.#cursor = page.cursor ?? undefined;
      this.#more.hidden = this.#cursor === undefined;
    }
    this.#watch();
  }

  /** Look again while jobs run that nobody follows. */
  #watch() {
    clearTimeout(this.#timer);
    const isBusy = [...this.#entries.values()].some(
      ({ job }) => !isFinal(job) && job.id !== this.#current,
    );
    if (isBusy)
      this.#timer = setTimeout(() => (document.hidden ? this.#watch() : this.#load()), REFRESH_MS);
  }

  #entry(job) {
    const picture = firstPicture(job);
    const kind = Object.values(job.outputs ?? {}).flat()[0]?.kind ?? "";
    const created = new Date(job.created_at);
    const isCurrent = job.id === this.#current;
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: "entry",
          "data-status": job.status,
          "aria-current": isCurrent && "true",
          onclick: () => this.#onOpen(job),
        },
        h(
          "span",
          { class: "thumb" },
          picture ? pictureOf(job.id, picture, "") : h("span", {}, kind || "–"),
        ),
        h(
          "span",
          { class: "entry-text" },
          h("span", { class: "entry-title" }, this.#title(job)),
          h(
            "span",
            { class: "hint" },
            `${statusText(job.status)} · `,
            h("time", { datetime: job.created_at }, timeText(created)),
          ),
        ),
      ),
    );
  }

  #title(job) {
    const texts = this.#fields
      .filter((field) => field.type === "string" && !field.list)
      .sort((one, other) => Number(other.multiline) - Number(one.multiline))
      .map((field) => job.inputs?.[field.name]);
    return (
      texts.find((text) => typeof text === "string" && text.trim() !== "")?.slice(0, 200) ?? job.id
    );
  }
}

function timeText(date) {
  const isToday = date.toDateString() === new Date().toDateString();
  const time = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], isToday ? time : { day: "numeric", month: "short", ...time });
}
