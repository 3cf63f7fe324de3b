/** An incremental parser of server-sent events. Pure. */

export class SseParser {
  #rest = "";
  #data = [];
  #id = "";
  #endedWithCr = false;

  /** The events that a piece of the stream completes, as `{ id, data }`. */
  feed(text) {
    if (text === "") return [];
    const given = this.#endedWithCr && text.startsWith("\n") ? text.slice(1) : text;
    this.#endedWithCr = text.endsWith("\r");
    const lines = (this.#rest + given).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    const found = [];
    for (const line of lines) {
      if (line !== "") this.#take(line);
      else if (this.#data.length > 0) {
        found.push({ id: this.#id, data: this.#data.join("\n") });
        this.#data = [];
      }
    }
    return found;
  }

  #take(line) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") this.#data.push(value);
    if (name === "id" && !value.includes("\0")) this.#id = value;
  }
}
