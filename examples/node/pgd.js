// Projected gradient descent (Madry et al. 2018), written here: the server gives the gradients alone.
//
//     node pgd.js photo.png [adversarial.png]
//
// The photo is used as it is, so the model must take its size. It moves by at most EPS of 255 levels.

import { readFile, writeFile } from "node:fs/promises";

import { PNG } from "pngjs";

import { call, connect, explained } from "./client.js";

const EPS = 4; // Levels by which a value may move.
const STEPS = 10; // Each moves every value by one level, so that the picture always is one of whole levels.

/** The levels of a PNG file's pixels, [height, width, 3]. */
async function read(path) {
  const { width, height, data } = PNG.sync.read(await readFile(path));
  const levels = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) levels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return { width, height, levels };
}

/** The picture as a PNG file. */
function encoded({ width, height, levels }) {
  return PNG.sync.write({ width, height, data: Buffer.from(levels) }, { inputColorType: 2, colorType: 2 });
}

/** The picture as a message: 8 bits for each value, a quarter of what floating-point numbers would take. */
function message({ width, height, levels }) {
  return { tensor: { shape: [height, width, 3], dtype: "DTYPE_UINT8", data: Buffer.from(levels) } };
}

/** What one step needs: the gradient of how far `other` is above `label`, and all logits. */
async function differentiate(client, picture, label, other) {
  const summands = [
    { target: { classIndex: other }, weight: 1 },
    { target: { classIndex: label }, weight: -1 },
  ];
  const request = { images: [message(picture)], goals: [{ summands }], format: "GRADIENT_FORMAT_BFLOAT16" };
  const { logits, gradient } = await call(client, "differentiate", request);
  return { logits: numbers(logits), gradient: bfloat16(gradient.data) };
}

/** The numbers of a tensor of FLOAT32. A copy lies where a Float32Array may begin. */
function numbers({ data }) {
  return new Float32Array(new Uint8Array(data).buffer);
}

/** The numbers of bfloat16, which are the upper halves of float32. */
function bfloat16(data) {
  const bits = new Uint32Array(data.length / 2);
  for (let i = 0; i < bits.length; i++) bits[i] = (data[2 * i] | (data[2 * i + 1] << 8)) << 16;
  return new Float32Array(bits.buffer);
}

/** The classes by falling logit. */
function ranked(logits) {
  return Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
}

/** One level along the gradient's sign, at most EPS from the photo, within 0 to 255. */
function stepped(levels, gradient, original) {
  return levels.map((level, i) => {
    const moved = level + Math.sign(gradient[i]);
    return Math.min(255, original[i] + EPS, Math.max(0, original[i] - EPS, moved));
  });
}

async function main(photo, out = "adversarial.png") {
  if (!photo) throw new Error("usage: node pgd.js photo.png [adversarial.png]");
  const original = await read(photo);
  const client = connect();
  try {
    const request = { images: [message(original)], forwardOnly: true };
    const [label, runnerUp] = ranked(numbers((await call(client, "differentiate", request)).logits));
    let { levels } = original;
    let other = runnerUp;
    for (let step = 0; step < STEPS; step++) {
      const { logits, gradient } = await differentiate(client, { ...original, levels }, label, other);
      other = ranked(logits).find((index) => index !== label);
      levels = stepped(levels, gradient, original.levels);
    }
    const file = encoded({ ...original, levels });
    await writeFile(out, file);
    for (const [name, image] of [[photo, message(original)], [out, { encoded: file }]]) {
      const { top } = await call(client, "predict", { image, preprocess: "PREPROCESS_AS_IS", topK: 1 });
      console.log(`${name}: ${top[0].className} ${(100 * top[0].probability).toFixed(1)} %`);
    }
    const moved = levels.reduce((most, level, i) => Math.max(most, Math.abs(level - original.levels[i])), 0);
    console.log(`${moved} of 255 levels at most`);
  } finally {
    client.close();
  }
}

main(...process.argv.slice(2)).catch((error) => {
  console.error(explained(error));
  process.exitCode = 1;
});
