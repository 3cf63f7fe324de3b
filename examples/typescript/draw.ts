import { writeFile } from "node:fs/promises";
import { Client } from "@comfysnap/client";
import { flux } from "./workflows.js";

const client = new Client(process.env["COMFYSNAP_URL"] ?? "http://127.0.0.1:8000");
const { images } = await client.infer(flux, { prompt: "a fox in the snow", seed: 7 });
for (const image of images) {
  await writeFile(image.name, (await client.download(image)).stream());
  console.log("saved", image.name);
}
