import { writeFile } from "node:fs/promises";
import { Client } from "@comfysnap/client";
import { flux } from "./workflows.js";

const client = new Client(process.env["COMFYSNAP_URL"] ?? "http://127.0.0.1:8000");
const { images } = await client.infer(flux, { prompt: "a fox in the snow", seed: 7 });
for (const image of images) {
  const content = await client.download(image);
  await writeFile(image.name, new Uint8Array(await content.arrayBuffer()));
  console.log("saved", image.name);
}
