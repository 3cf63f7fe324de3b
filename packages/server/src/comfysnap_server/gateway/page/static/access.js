/** Asks for the key of a server that wants one. */

import { ApiError, hasKey, setKey } from "./api.js";
import { h, newId } from "./dom.js";

/**
 * Run `load` until the server lets it in; meanwhile, `place` has a form for the key.
 */
export async function admitted(place, load) {
  for (let message = ""; ; message = "This key is not valid.") {
    try {
      const loaded = await load();
      showForget();
      return loaded;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      if (!hasKey()) message = "";
      setKey("");
      setKey(await askedKey(place, message));
    }
  }
}

function askedKey(place, message) {
  const [id, about] = [newId("key"), newId("about")];
  const input = h("input", {
    id,
    type: "password",
    autocomplete: "off",
    required: true,
    spellcheck: "false",
    "aria-describedby": about,
    "aria-invalid": message !== "" && "true",
  });
  return new Promise((resolve) => {
    const form = h(
      "form",
      {
        class: "card access",
        onsubmit: (event) => {
          event.preventDefault();
          const key = input.value.trim();
          if (key !== "") resolve(key);
        },
      },
      h("h1", {}, "This server needs a key"),
      h("label", { for: id }, "API key"),
      input,
      h(
        "p",
        { class: "hint", id: about },
        message || "It stays in this tab, and is gone when you close it.",
      ),
      h("button", { class: "primary" }, "Continue"),
    );
    if (message !== "") form.querySelector(".hint").className = "error";
    place.replaceChildren(form);
    input.focus();
  });
}

function showForget() {
  const button = document.getElementById("forget");
  button.hidden = !hasKey();
  button.onclick = () => {
    setKey("");
    location.reload();
  };
}
