// What a photo shows, and which of its pixels say so.
//
//     node explain.js photo.jpg [heat.png]

import { readFile, writeFile } from "node:fs/promises";

import { call, connect, explained } from "./client.js";

async function main(photo, heat = "heat.png") {
  if (!photo) throw new Error("usage: node explain.js photo.jpg [heat.png]");
  const image = { encoded: await readFile(photo) };
  const client = connect();
  try {
    const prediction = await call(client, "predict", { image, topK: 5 });
    for (const { className, probability } of prediction.top) {
      console.log(`${(100 * probability).toFixed(2).padStart(6)} %  ${className}`);
    }
    const methods = [{ gradCam: {} }];
    const { explanations } = await call(client, "explain", { image, methods, overlay: true });
    const [{ methodName, targetName, overlay, warnings }] = explanations;
    await writeFile(heat, overlay); // A PNG file: the map in colours over what the model saw.
    console.log(`${heat}: ${methodName} of ${targetName}`);
    for (const warning of warnings) console.warn(`warning: ${warning}`);
  } finally {
    client.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(explained(error));
  process.exitCode = 1;
});
