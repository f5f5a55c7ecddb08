#!/usr/bin/env bash
# golden_llama.sh NODE [MODEL]: writes tests/data/gemma3_llama.json, llama.cpp's greedy continuations of a few prompts.
# For development only. NODE: a folder in which npm has installed node-llama-cpp 3.22.1 (see compare_llama.sh).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
node=$(realpath "$1")
model=$(realpath "${2:-$root/models/gemma-3-270m-q4_k_m.gguf}")
script=$(mktemp "$node/golden-XXXXXX.mjs")  # beside node_modules, where its import is looked for
trap 'rm -f "$script"' EXIT
cat >"$script" <<'END_OF_SCRIPT'
import {getLlama} from "node-llama-cpp";
const [path] = process.argv.slice(2);
const prompts = [
  "The capital of France is",
  "The three primary colors are",
  "def fibonacci(n):\n",
  "Water boils at a temperature of",
  "Once upon a time, in a small village by the sea, there lived an old fisherman who",
  "Die Hauptstadt von Italien ist",
];
const tokens = 24;
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 1, logLevel: "error"});
const model = await llama.loadModel({modelPath: path, gpuLayers: 0});
const results = [];
for (const prompt of prompts) {
  const context = await model.createContext({contextSize: 128, batchSize: 64, threads: 1});
  const prompt_ids = [model.tokens.bos, ...model.tokenize(prompt)], output_ids = [];
  for await (const id of context.getSequence().evaluate(prompt_ids, {temperature: 0, yieldEogToken: true})) {
    output_ids.push(id);
    if (output_ids.length === tokens) break;
  }
  await context.dispose();
  results.push({prompt, prompt_ids, output_ids});
}
const about = "Greedy continuations by Gemma 3 270M Q4_K_M (models/gemma-3-270m-q4_k_m.gguf), by the llama.cpp of node-llama-cpp 3.22.1 on CPU.";
console.log(`{"about": ${JSON.stringify(about)},\n "results": [\n  ${results.map((r) => JSON.stringify(r)).join(",\n  ")}\n]}`);
process.exit(0);
END_OF_SCRIPT
node "$script" "$model" >"$root/tests/data/gemma3_llama.json.part"
mv "$root/tests/data/gemma3_llama.json.part" "$root/tests/data/gemma3_llama.json"
