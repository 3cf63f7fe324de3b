/** One job as it runs and when it has ended. */

import { durationText, h, sizeText } from "./dom.js";
import { labelOf } from "./fields.js";
import { isFinal } from "./jobs.js";
import { isSame } from "./values.js";
import { outputView } from "./result.js";

const STATUS = {
  queued: "Queued",
  running: "Running",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  timed_out: "Timed out",
  expired: "Expired before it started",
};

/** The name of a status for people. */
export function statusText(status) {
  return STATUS[status] ?? status;
}

export class JobView {
  #title;
  #outputSchemas;
  #onKeep;
  #job;
  #said = "";
  #shown = new Map();
  #status = h("h2", { id: "job-status" }, "Result");
  #about = h("p", { class: "hint" });
  #bar = h("progress", { max: "1", "aria-label": "Progress" });
  #preview = h("img", { alt: "Preview of the running job", class: "preview" });
  #outputs = h("div", { class: "outputs" });
  #error = h("div", { class: "error alert" });
  #seeds = h("p", { class: "seeds" });
  #live = h("p", { class: "visually-hidden", role: "status" });
  #empty = h("p", { class: "empty" }, "Results appear here.");
  #cancel;

  /** `onCancel()`, and `onKeep(name, value)` to put a drawn seed into the form. */
  constructor(title, outputSchemas, { onCancel, onKeep }) {
    this.#title = title;
    this.#outputSchemas = outputSchemas;
    this.#onKeep = onKeep;
    this.#cancel = h("button", { type: "button", class: "danger", onclick: onCancel }, "Cancel");
    this.element = h(
      "section",
      { class: "card job", "aria-labelledby": "job-status" },
      h(
        "div",
        { class: "job-head" },
        h("div", { class: "grow" }, this.#status, this.#about),
        this.#cancel,
      ),
      this.#bar,
      this.#error,
      this.#preview,
      this.#outputs,
      this.#seeds,
      this.#empty,
      this.#live,
    );
    this.#update("empty");
  }

  /** Show another job, or what is done before there is one. */
  start(text) {
    this.#job = undefined;
    this.#shown.clear();
    this.#outputs.replaceChildren();
    this.#preview.removeAttribute("src");
    this.#error.replaceChildren();
    this.#seeds.replaceChildren();
    this.#about.textContent = "";
    this.#bar.removeAttribute("value");
    this.#status.textContent = text;
    this.#say(text);
    this.#update("starting");
  }

  /** Back to the empty view, as after a refusal. */
  clear() {
    this.start("Result");
    this.#live.textContent = "";
    this.#update("empty");
  }

  /** The share of the files that is uploaded. */
  uploading(name, share) {
    this.#about.textContent = `Uploading ${name}`;
    this.#bar.value = share;
  }

  /** Show the state of a job, `drawn` with the names of the fields whose values the server drew. */
  show(job, drawn = []) {
    this.#job = job;
    this.#status.textContent = statusText(job.status);
    this.element.dataset.status = job.status;
    for (const [name, value] of Object.entries(job.outputs ?? {})) this.output(name, value);
    if (isFinal(job)) {
      this.#about.textContent = endText(job);
      this.#showError(job.error);
      this.#showSeeds(job, drawn);
      this.#say(job.status === "succeeded" ? "Done. The result is shown." : errorText(job));
    } else {
      this.progress(job.progress, job.status);
    }
    if (job.cancel_requested_at && !isFinal(job)) this.#about.textContent = "Stopping";
    this.#update(isFinal(job) ? "ended" : "busy");
  }

  progress(progress, status = this.#job?.status ?? "running") {
    const percent = Math.floor(progress.fraction * 100);
    this.#about.textContent = progressText(progress, status);
    if (progress.fraction > 0) this.#bar.value = progress.fraction;
    else this.#bar.removeAttribute("value");
    const quarter = Math.floor(percent / 25) * 25;
    const text = status === "running" && quarter > 0 ? `${quarter} %` : "";
    this.#say(
      `${statusText(status)} ${text || progressText({ ...progress, step: null }, status)}`.trim(),
    );
    document.title = `${percent > 0 ? `${percent} %` : statusText(status)} · ${this.#title}`;
  }

  preview({ content_type: type, data }) {
    if (!/^image\/[a-z]+$/.test(type) || this.#outputs.childElementCount > 0) return;
    this.#preview.src = `data:${type};base64,${data}`;
    this.#update("busy");
  }

  output(name, value) {
    if (isSame(this.#shown.get(name)?.value, value)) return;
    const description = this.#outputSchemas[name]?.description;
    const element = outputView(this.#job.id, name, value, description);
    this.#shown.set(name, { value, element });
    const order = Object.keys(this.#outputSchemas);
    const sorted = [...this.#shown].sort(
      ([one], [other]) => order.indexOf(one) - order.indexOf(other),
    );
    this.#outputs.replaceChildren(...sorted.map(([, shown]) => shown.element));
  }

  /** The connection is lost; the job goes on. */
  lost(message) {
    this.#about.textContent = message;
  }

  #showError(error) {
    this.#error.replaceChildren();
    if (!error) return;
    this.#error.append(h("p", {}, error.detail || error.title));
    for (const { field, message } of error.fields ?? []) {
      this.#error.append(h("p", {}, field ? `${labelOf(field)}: ${message}` : message));
    }
  }

  #showSeeds(job, drawn) {
    this.#seeds.replaceChildren(
      ...drawn
        .filter((name) => job.inputs[name] !== undefined && job.inputs[name] !== null)
        .map((name) => {
          const value = String(job.inputs[name]);
          const keep = () => this.#onKeep(name, job.inputs[name]);
          return h(
            "span",
            { class: "seed" },
            `${labelOf(name)} ${value}`,
            h("button", { type: "button", class: "quiet", onclick: keep }, "Use again"),
          );
        }),
    );
  }

  #say(text) {
    if (text === this.#said) return;
    this.#said = text;
    this.#live.textContent = text;
  }

  #update(phase) {
    const isBusy = phase === "busy" || phase === "starting";
    this.#bar.hidden = !isBusy;
    this.#cancel.hidden = phase !== "busy" || Boolean(this.#job?.cancel_requested_at);
    this.#empty.hidden = phase !== "empty";
    this.#error.hidden = this.#error.childElementCount === 0;
    this.#seeds.hidden = this.#seeds.childElementCount === 0;
    this.#preview.hidden =
      phase === "ended" ||
      !this.#preview.hasAttribute("src") ||
      this.#outputs.childElementCount > 0;
    if (!isBusy) document.title = this.#title;
    if (phase !== "busy" && phase !== "ended") delete this.element.dataset.status;
  }
}

function progressText(progress, status) {
  if (status === "queued") {
    const ahead = progress.queue_position;
    if (ahead === null || ahead === undefined) return "Waiting for a worker";
    return ahead === 0 ? "Next in the queue" : `${ahead} job${ahead === 1 ? "" : "s"} ahead`;
  }
  const parts = [];
  if (progress.phase) parts.push(progress.phase.replaceAll("_", " "));
  if (progress.bytes_done !== null && progress.bytes_total) {
    parts.push(`${sizeText(progress.bytes_done)} of ${sizeText(progress.bytes_total)}`);
  }
  const node = progress.node_title || progress.node_class;
  if (node) parts.push(node);
  if (progress.step !== null && progress.steps)
    parts.push(`step ${progress.step} of ${progress.steps}`);
  if (progress.fraction > 0) parts.push(`${Math.floor(progress.fraction * 100)} %`);
  return parts.join(" · ");
}

function endText(job) {
  const { run, device } = job.timings ?? {};
  if (!run) return "";
  return `Took ${durationText(run)}${device ? ` on ${device}` : ""}`;
}

function errorText(job) {
  return [statusText(job.status), job.error?.detail].filter(Boolean).join(". ");
}
