/** The page of one workflow. */

import { admitted } from "./access.js";
import { ApiError, BASE, hasKey, requestJson } from "./api.js";
import { CodeView } from "./code_view.js";
import { h, prose } from "./dom.js";
import { fieldsOf } from "./fields.js";
import { localNames, upload } from "./files.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { JobView } from "./job_view.js";
import { cancel, follow, isFinal, read, submit } from "./jobs.js";
import { isSame } from "./values.js";

const main = document.getElementById("main");
/** How often the place in the queue is read. */
const POSITION_MS = 3000;

const name = decodeURIComponent(location.pathname.slice(location.pathname.lastIndexOf("/") + 1));

class WorkflowPage {
  #workflow;
  #fields;
  #outputs;
  #form;
  #view;
  #history;
  #code = new CodeView();
  #run = h("button", { class: "primary", title: "Ctrl+Enter" }, "Run");
  #following = new AbortController();
  /** What was sent for the job that is shown, and the job. */
  #sent;
  #job;

  constructor(workflow) {
    this.#workflow = workflow;
    this.#fields = fieldsOf(workflow.input_schema);
    this.#outputs = workflow.output_schema.properties ?? {};
    const reset = h("button", { type: "button", class: "quiet" }, "Reset");
    this.#form = new Form(this.#fields, {
      onChange: () => this.#showCode(),
      onSubmit: () => this.#submit(),
      actions: [this.#run, reset],
    });
    reset.addEventListener("click", () => {
      this.#form.reset();
      this.#showCode();
    });
    this.#view = new JobView(workflow.title || workflow.name, this.#outputs, {
      onCancel: () => this.#cancel(),
      onKeep: (field, value) => {
        this.#form.set(field, value);
        this.#showCode();
      },
    });
    this.#history = new History(workflow.name, this.#fields, (job) => this.#open(job));
  }

  async show() {
    main.replaceChildren(
      h(
        "div",
        { class: "title" },
        h("h1", {}, this.#workflow.title || this.#workflow.name),
        this.#workflow.description ? h("p", {}, prose(this.#workflow.description)) : null,
      ),
      h(
        "div",
        { class: "columns" },
        h("section", { class: "card form", "aria-label": "Inputs" }, this.#form.element),
        h(
          "div",
          { class: "results" },
          this.#view.element,
          this.#history.element,
          this.#code.element,
        ),
      ),
    );
    this.#showCode();
    await this.#history.refresh();
    addEventListener("hashchange", () => this.#openLinked());
    await this.#openLinked();
  }

  /** Open the job that the address names. */
  async #openLinked() {
    const id = location.hash.slice(1);
    if (!/^job_\w+$/.test(id) || id === this.#job?.id) return;
    try {
      await this.#open(await read(id));
    } catch {
      history.replaceState(null, "", location.pathname); // of another key, or gone
    }
  }

  async #submit() {
    const { inputs, problems } = this.#form.inputs;
    this.#form.showProblems(problems);
    if (problems.length > 0 || this.#run.disabled) return;
    this.#following.abort();
    this.#run.disabled = true;
    this.#view.start("Sending");
    // beside the form there is no need to
    if (matchMedia("(max-width: 56rem)").matches) this.#view.element.scrollIntoView();
    try {
      await upload(this.#fields, inputs, (file, share) => this.#view.uploading(file.name, share));
      const job = await submit(this.#workflow.name, this.#workflow.contract, inputs);
      this.#sent = inputs;
      this.#show(job);
      this.#follow(job);
    } catch (error) {
      this.#view.clear();
      this.#form.showProblems(error instanceof ApiError ? error.fields : [], messageOf(error));
    } finally {
      this.#run.disabled = false;
    }
  }

  /** Put a job of the history into the form, and show or follow it. */
  async #open(job) {
    this.#following.abort();
    this.#job = undefined;
    this.#form.restore(job.inputs ?? {});
    this.#sent = this.#form.inputs.inputs;
    this.#view.start("Loading");
    this.#show(job);
    this.#view.element.scrollIntoView({ block: "nearest" });
    if (!isFinal(job)) this.#follow(job);
  }

  #show(job) {
    // a job has several messengers: the answer to a cancel may come after the end in the stream
    if (this.#job?.id === job.id && job.version < this.#job.version) return;
    this.#job = job;
    history.replaceState(null, "", `#${job.id}`);
    this.#history.current = job.id;
    this.#history.update(job);
    this.#view.show(job, this.#drawn);
    this.#showCode();
  }

  /** Names of the fields that the server filled with random values. */
  get #drawn() {
    return this.#fields
      .filter((field) => field.random && !(field.name in this.#sent))
      .map(({ name }) => name);
  }

  async #follow(job) {
    const following = new AbortController();
    this.#following = following;
    const queue = setInterval(() => this.#readPosition(job.id), POSITION_MS);
    const onEvent = (event) => {
      if (following.signal.aborted) return;
      if (event.type === "progress") this.#progress(event.progress);
      if (event.type === "preview") this.#view.preview(event.preview);
      if (event.type === "output") this.#view.output(event.output.name, event.output.value);
      if (event.job) this.#show(event.job);
    };
    try {
      await follow(job.id, onEvent, following.signal);
    } catch (error) {
      if (!following.signal.aborted) this.#view.lost(messageOf(error));
    } finally {
      clearInterval(queue);
    }
  }

  #progress(progress) {
    if (this.#job.status === "queued") this.#readPosition(this.#job.id);
    else this.#view.progress(progress);
  }

  /** The place in the queue is in no event. */
  async #readPosition(id) {
    if (this.#job.id !== id || this.#job.status !== "queued" || document.hidden) return;
    const job = await read(id).catch(() => undefined);
    if (job !== undefined && this.#job.id === id) this.#show(job);
  }

  async #cancel() {
    try {
      const job = await cancel(this.#job.id);
      if (job.id === this.#job.id) this.#show(job);
    } catch (error) {
      this.#view.lost(messageOf(error));
    }
  }

  #showCode() {
    const { inputs, problems } = this.#form.inputs;
    // the values just used include the seed that was drawn for them
    const isUsed = this.#job !== undefined && problems.length === 0 && isSame(inputs, this.#sent);
    const seeds = isUsed ? this.#drawn.filter((field) => this.#job.inputs?.[field] != null) : [];
    const used = Object.fromEntries(seeds.map((field) => [field, this.#job.inputs[field]]));
    const outputs = Object.entries(this.#outputs).map(([output, schema]) => {
      const many = schema.items !== undefined;
      return [output, { kind: (many ? schema.items : schema)["x-kind"], many }];
    });
    const notes = problems.map(({ field, message }) => `${field} ${message}`);
    this.#code.show(
      {
        url: BASE.href.replace(/\/$/, ""),
        name: this.#workflow.name,
        fields: this.#fields,
        inputs: { ...inputs, ...used },
        outputs: Object.fromEntries(outputs),
        files: localNames(),
        keys: hasKey(),
      },
      notes.length > 0 ? `Left out: ${notes.join("; ")}.` : "",
    );
  }
}

function messageOf(error) {
  if (error.problem?.code === "contract_mismatch")
    return "The workflow has changed. Reload this page.";
  const retry = error.problem?.budget ? " Try again in a moment." : "";
  return `${error.message}${retry}`;
}

async function start() {
  try {
    const workflow = await admitted(main, () =>
      requestJson(`workflows/${encodeURIComponent(name)}`),
    );
    await new WorkflowPage(workflow).show();
  } catch (error) {
    main.replaceChildren(
      h(
        "section",
        { class: "card" },
        h("h1", {}, "This page cannot be shown"),
        h("p", { role: "alert" }, error.message),
        h("p", {}, h("a", { href: BASE.href }, "All workflows")),
      ),
    );
  }
}

start();
