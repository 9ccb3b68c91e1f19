// The network in onnxruntime: WebAssembly on one thread, which needs no setting of the server.

import { env, InferenceSession, Tensor } from "./ort.js";

/**
 * Fetch and start the network.
 *
 * @param {object} about its metadata.
 * @param {(share: number) => void} progress receives the share of the bytes that have arrived.
 * @returns {Promise<(pixels: Uint8Array) => Promise<object>>} predicts one image.
 */
export async function open(about, progress) {
  const shares = [0, 0];
  const report = (k) => (share) => {
    shares[k] = share;
    progress((shares[0] + shares[1]) / 2);
  };
  const [wasm, model] = await Promise.all([
    download("ort.wasm", about.site.files["ort.wasm"], report(0)),
    download("model.onnx", about.site.files["model.onnx"], report(1)),
  ]);
  env.wasm.numThreads = 1;
  env.wasm.wasmBinary = wasm;
  if (about.format !== "sscjax" || about.version !== 3) {
    throw new Error(`model.json is of format ${about.format} ${about.version}, expected sscjax 3`);
  }
  const session = await InferenceSession.create(model, { executionProviders: ["wasm"] });
  const size = about.preparation.image_size;
  return async (pixels) => {
    const images = new Tensor("uint8", pixels, [1, size, size, 3]);
    const outputs = await session.run({ [about.input.name]: images });
    return {
      probabilities: Array.from(outputs.probabilities.data),
      distance: outputs.distance.data[0],
      maps: outputs.maps ? byClass(outputs.maps) : null,
    };
  };
}

/** Of [1, h, w, C] a map [h, w] for each class. */
function byClass({ data, dims: [, rows, columns, classes] }) {
  const values = Array.from({ length: classes }, (_, k) =>
    Float32Array.from({ length: rows * columns }, (_, pixel) => data[pixel * classes + k]),
  );
  return { values, rows, columns };
}

async function download(name, { bytes, sha256 }, progress) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
  const content = new Uint8Array(bytes);
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (received + value.length > bytes) throw new Error(`${name} is not the exported file`);
    content.set(value, received);
    received += value.length;
    progress(received / bytes);
  }
  if (received !== bytes) throw new Error(`${name} is incomplete`);
  // Browsers hash on https and localhost only.
  if (crypto.subtle && (await digest(content)) !== sha256) throw new Error(`${name} is damaged`);
  return content;
}

async function digest(content) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
