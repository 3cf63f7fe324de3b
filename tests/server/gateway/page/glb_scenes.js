// What is read from each GLB file in Base64: a scene in short, or why it is not shown.
import { readFileSync } from "node:fs";
import { readGlb, Unshowable } from "./glb.js";

function scene(file) {
  const bytes = new Uint8Array(Buffer.from(file, "base64"));
  try {
    const { items, images, ...rest } = readGlb(bytes.buffer);
    const short = items.map(({ primitive: { box, ...primitive }, matrix }) => ({ ...primitive, matrix }));
    return { ...rest, items: short, images: images.map(({ type, bytes }) => [type, bytes.length]) };
  } catch (error) {
    if (!(error instanceof Unshowable)) throw error;
    return { refused: error.message };
  }
}

const asArrays = (_, value) => (ArrayBuffer.isView(value) ? Array.from(value) : value);
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(scene), asArrays));
