/** The list of workflows. */

import { admitted } from "./access.js";
import { requestJson } from "./api.js";
import { h, prose } from "./dom.js";

const main = document.getElementById("main");

function entry({ name, title, description, default: isDefault }) {
  return h(
    "li",
    { class: "card" },
    h("h2", {}, h("a", { href: `w/${encodeURIComponent(name)}` }, title || name)),
    description ? h("p", {}, prose(description)) : null,
    h("p", { class: "hint" }, h("code", {}, name), isDefault ? " · the default" : null),
  );
}

async function start() {
  try {
    const workflows = await admitted(main, () => requestJson("workflows"));
    const none = h(
      "p",
      { class: "empty" },
      "No workflows yet. To add one, run: comfysnap new NAME EXPORT.json",
    );
    main.replaceChildren(
      h("div", { class: "title" }, h("h1", {}, "Workflows")),
      workflows.length === 0 ? none : h("ul", { class: "workflows" }, workflows.map(entry)),
    );
  } catch (error) {
    main.replaceChildren(h("p", { class: "error alert", role: "alert" }, error.message));
  }
}

start();
