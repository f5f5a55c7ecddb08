#!/usr/bin/env python3
"""Development only: compares the oracle under tests/reference with other implementations, on the tiny models, and what tests/data has of real
models with llama.cpp.
check_reference.py TINY [--chatglm FOLDER] [--node FOLDER [--models FOLDER]]
  TINY:      what tests/reference/make_models.py wrote
  --chatglm: a folder with modeling_chatglm.py and configuration_chatglm.py of the original ChatGLM-6B
  --node:    a folder in which npm has installed node-llama-cpp 3.22.1 (see compare_llama.sh): llama.cpp
  --models:  a folder with the real models (make test-models): llama.cpp along float32's answers
Needs: pip install numpy, and for all but llama.cpp torch and transformers; without these llama.cpp alone is asked."""
import argparse, json, subprocess, sys, tempfile, types
from pathlib import Path

import numpy as np
try:
    import torch
    import transformers
except ImportError:
    torch = None

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'tests' / 'reference'))
from formats import read_folder, read_gguf  # noqa: E402
from forward import Cache, forward, load  # noqa: E402


def oracle(model, ids):
    """(rows that enter the layers [layer][token], logits [token])"""
    rows = {}
    logits = forward(model, ids, Cache(model), lambda kind, layer, token, values, head=None:
                     rows.setdefault(layer, []).append(values) if kind == 'norm.attn' else None)
    return [np.array(rows[l]) for l in sorted(rows)], logits


# ---- transformers -------------------------------------------------------------------------------------------------------

# Models that hf_model builds; the others are compared with llama.cpp alone.
HF = ('llama', 'llama-linear', 'qwen2', 'qwen3', 'gemma2', 'gemma3', 'phi3', 'gpt2', 'glm4', 'chatglm')


def rope(meta, **more):
    arch = meta['general.architecture']
    return {'rope_type': 'default', 'rope_theta': meta.get(f'{arch}.rope.freq_base', 10000.0), **more}


def hf_model(name, meta, t):
    """The same model as transformers builds it, in float64, from the GGUF's tensors."""
    arch = meta['general.architecture']
    key = lambda k, default=None: meta.get(f'{arch}.{k}', default)
    layers, width, heads = key('block_count'), key('embedding_length'), key('attention.head_count')
    kv = key('attention.head_count_kv', heads)
    dim = key('attention.key_length', width // heads)
    base = dict(vocab_size=len(t['token_embd.weight']), hidden_size=width, intermediate_size=key('feed_forward_length'),
                num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim,
                max_position_embeddings=key('context_length'), rms_norm_eps=key('attention.layer_norm_rms_epsilon'),
                tie_word_embeddings='output.weight' not in t, attn_implementation='eager',
                bos_token_id=1, eos_token_id=2, pad_token_id=2)
    window = key('attention.sliding_window')
    if name == 'llama':
        config = transformers.LlamaConfig(**base, rope_parameters=rope(
            meta, rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=96))
    elif name == 'llama-linear':
        config = transformers.LlamaConfig(**base, rope_parameters=rope(meta, rope_type='linear', factor=2.5))
    elif arch == 'qwen2':
        config = transformers.Qwen2Config(**base, rope_parameters=rope(meta))
    elif arch == 'qwen3':
        config = transformers.Qwen3Config(**base, rope_parameters=rope(meta))
    elif arch == 'gemma2':
        config = transformers.Gemma2Config(**base, query_pre_attn_scalar=dim, sliding_window=window, rope_parameters=rope(meta),
                                           attn_logit_softcapping=key('attn_logit_softcapping'),
                                           final_logit_softcapping=key('final_logit_softcapping'))
    elif arch == 'gemma3':
        config = transformers.Gemma3TextConfig(**base, query_pre_attn_scalar=dim, sliding_window=window, rope_parameters={
            'full_attention': rope(meta, rope_type='linear', factor=8.0),
            'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0}})
    elif arch == 'phi3':
        config = transformers.Phi3Config(**base, sliding_window=None, rope_parameters=rope(meta))
    elif arch == 'glm4':
        config = transformers.Glm4Config(**base, attention_bias=True, rope_parameters=rope(meta, partial_rotary_factor=0.5))
    elif arch == 'chatglm':
        config = transformers.GlmConfig(**base, attention_bias=True, rope_parameters=rope(meta, partial_rotary_factor=0.5))
    elif arch == 'gpt2':
        config = transformers.GPT2Config(vocab_size=base['vocab_size'], n_positions=key('context_length'), n_embd=width, n_layer=layers,
                                         n_head=heads, layer_norm_epsilon=key('attention.layer_norm_epsilon'),
                                         attn_implementation='eager', bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()

    def unpermuted(w, count):  # llama.cpp's converter makes rotary pairs adjacent
        return w.reshape(count, dim // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape) if arch == 'llama' else w

    state = {}
    shift = 1 if arch in ('gemma2', 'gemma3') else 0  # their gains are stored with 1 added
    if arch == 'gpt2':
        names = {'attn_norm': 'ln_1', 'ffn_norm': 'ln_2', 'attn_qkv': 'attn.c_attn', 'attn_output': 'attn.c_proj',
                 'ffn_up': 'mlp.c_fc', 'ffn_down': 'mlp.c_proj'}
        state = {'transformer.wte.weight': t['token_embd.weight'], 'transformer.wpe.weight': t['position_embd.weight'],
                 'transformer.ln_f.weight': t['output_norm.weight'], 'transformer.ln_f.bias': t['output_norm.bias'],
                 'lm_head.weight': t['token_embd.weight']}
        for n, v in t.items():
            if n.startswith('blk.'):
                _, l, part, what = n.split('.')
                state[f'transformer.h.{l}.{names[part]}.{what}'] = v.T if v.ndim == 2 else v
    else:
        sandwich = arch in ('gemma2', 'gemma3')
        names = {'attn_norm': 'input_layernorm', 'ffn_norm': 'pre_feedforward_layernorm' if sandwich else 'post_attention_layernorm',
                 'post_attention_norm': 'post_attention_layernorm' if sandwich else 'post_self_attn_layernorm',
                 'post_ffw_norm': 'post_feedforward_layernorm' if sandwich else 'post_mlp_layernorm',
                 'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj', 'attn_v': 'self_attn.v_proj',
                 'attn_output': 'self_attn.o_proj', 'attn_q_norm': 'self_attn.q_norm', 'attn_k_norm': 'self_attn.k_norm',
                 'attn_qkv': 'self_attn.qkv_proj',
                 'ffn_gate': 'mlp.gate_proj', 'ffn_down': 'mlp.down_proj',
                 'ffn_up': 'mlp.gate_up_proj' if 'blk.0.ffn_gate.weight' not in t else 'mlp.up_proj'}
        state = {'model.embed_tokens.weight': t['token_embd.weight'], 'model.norm.weight': t['output_norm.weight'] - shift,
                 'lm_head.weight': t.get('output.weight', t['token_embd.weight'])}
        for n, v in t.items():
            if not n.startswith('blk.'):
                continue
            _, l, part, what = n.split('.')
            if part == 'attn_qkv' and arch == 'chatglm':
                for q, rows in zip('qkv', np.split(v, [heads * dim, (heads + kv) * dim])):
                    state[f'model.layers.{l}.self_attn.{q}_proj.{what}'] = rows
                continue
            v = unpermuted(v, heads) if part == 'attn_q' else unpermuted(v, kv) if part == 'attn_k' else v
            state[f'model.layers.{l}.{names[part]}.{what}'] = v - (shift if part.endswith('norm') else 0)
    missing, unexpected = model.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in state.items()}, strict=False)
    missing = [n for n in missing if 'inv_freq' not in n]
    assert not missing and not unexpected, (missing, unexpected)
    return model


def compare_transformers(name, path, sequences):
    meta, tensors = read_gguf(path)
    hf, own, worst_rows, worst_logits = hf_model(name, meta, tensors), load(path), 0.0, 0.0
    for ids in sequences:
        rows, logits = oracle(own, ids)
        with torch.no_grad():
            out = hf(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        for mine, theirs in zip(rows, out.hidden_states):
            worst_rows = max(worst_rows, np.abs(mine - theirs[0].numpy()).max())
        worst_logits = max(worst_logits, np.abs(logits - out.logits[0].numpy()).max())
    print(f'{name:13} transformers {transformers.__version__}: rows that enter layers differ by {worst_rows:.1e} at most, '
          f'logits by {worst_logits:.1e}', flush=True)


# ---- the original ChatGLM-6B ----------------------------------------------------------------------------------------------

def compare_chatglm(folder, path, records):
    """Runs the original modeling code with what it imports from transformers stubbed where later versions lack it."""
    package = types.ModuleType('original')
    package.__path__ = [str(folder)]
    sys.modules['original'] = package
    nothing = lambda *a, **k: (lambda f: f)
    for n in ('add_code_sample_docstrings', 'add_start_docstrings', 'add_start_docstrings_to_model_forward'):
        if not hasattr(transformers.utils, n):
            setattr(transformers.utils, n, nothing)
    from original.configuration_chatglm import ChatGLMConfig
    from original import modeling_chatglm as original
    config, tensors = read_folder(path)
    known = {k: v for k, v in config.items() if k not in ('architectures', 'torch_dtype', 'model_type')}
    config = ChatGLMConfig(**known)
    core = original.ChatGLMModel(config, empty_init=False).float()
    head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    state = {n.removeprefix('transformer.'): torch.from_numpy(v).float() for n, v in tensors.items() if n.startswith('transformer.')}
    missing, unexpected = core.load_state_dict(state, strict=False)
    print('chatglm-6b    not loaded:', [n for n in [*missing, *unexpected] if 'inv_freq' not in n])
    head.weight.data = torch.from_numpy(tensors['lm_head.weight'])
    core, head, own = core.double().eval(), head.double(), load(path)
    for block in core.layers:  # the original never passes it on: its blocks assume the real model's 28
        block.num_layers = config.num_layers
    for halved in (True, False):
        if not halved:  # the original rounds its frequencies to float16
            for layer in core.layers:
                r = layer.attention.rotary_emb
                n = 2 * len(r.inv_freq)
                r.inv_freq = 1.0 / (10000.0 ** (torch.arange(0, n, 2).double() / n))
                r.max_seq_len_cached = None
        worst_rows = worst_logits = 0.0
        for r in records:
            ids = r['ids'] + r['greedy']
            rows, logits = oracle(own, ids)
            with torch.no_grad():
                out = core(torch.tensor([ids]), output_hidden_states=True, use_cache=False, return_dict=True, output_attentions=False)
                theirs = head(out.last_hidden_state).permute(1, 0, 2)[0].numpy()
            for mine, hidden in zip(rows, out.hidden_states):
                worst_rows = max(worst_rows, np.abs(mine - hidden[:, 0].numpy()).max())
            worst_logits = max(worst_logits, np.abs(logits - theirs).max())
        print(f'chatglm-6b    modeling_chatglm.py, frequencies {"as it rounds them" if halved else "unrounded"}: rows that enter layers '
              f'differ by {worst_rows:.1e} at most, logits by {worst_logits:.1e}', flush=True)


# ---- llama.cpp ----------------------------------------------------------------------------------------------------------

NODE = '''
import {getLlama} from "node-llama-cpp";
import {readFileSync, writeFileSync} from "node:fs";
const jobs = JSON.parse(readFileSync(process.argv[2]));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 1, logLevel: "error"});
const answers = [];
for (const {path, sequences} of jobs) {
  const model = await llama.loadModel({modelPath: path, gpuLayers: 0});
  const context = await model.createContext({contextSize: 64, batchSize: 64, threads: 1, sequences: 1, flashAttention: false,
    experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
  const sequence = context.getSequence();
  const all = [];
  for (const ids of sequences) {
    await sequence.clearHistory();
    const items = ids.map((id) => [id, {generateNext: {logits: true, options: {temperature: 0}}}]);
    const out = await sequence.controlledEvaluate(items);
    all.push(out.map(({next}) => Array.from(next.logits.entries())));
  }
  answers.push(all);
  await context.dispose();
  await model.dispose();
}
writeFileSync(process.argv[3], JSON.stringify(answers));
process.exit(0);
'''


def ask_llama_cpp(node, script_text, jobs):
    with tempfile.TemporaryDirectory() as work:
        script, wanted, found = Path(node) / 'check_reference.mjs', Path(work) / 'jobs.json', Path(work) / 'answers.json'
        script.write_text(script_text)
        wanted.write_text(json.dumps(jobs))
        done = subprocess.run(['node', script.name, str(wanted), str(found)], cwd=node, capture_output=True, text=True)
        script.unlink()
        if not found.exists():
            sys.exit(done.stdout[-2000:] + done.stderr[-4000:])
        return json.loads(found.read_text())


def compare_llama_cpp(node, jobs):
    all_answers = ask_llama_cpp(node, NODE, [{'path': str(path), 'sequences': sequences} for _, path, sequences in jobs])
    for (name, path, sequences), answers in zip(jobs, all_answers):
        own, worst, same, count = load(path), 0.0, 0, 0
        for ids, tokens in zip(sequences, answers):
            _, logits = oracle(own, ids)
            theirs = np.zeros_like(logits)
            for i, entries in enumerate(tokens):
                for token, value in entries:
                    theirs[i, token] = value
            worst = max(worst, np.abs(logits - theirs).max())
            same += int((logits.argmax(1) == theirs.argmax(1)).sum())
            count += len(ids)
        print(f'{name:13} llama.cpp: best token the same at {same} of {count} positions, logits differ by {worst:.1e} at most', flush=True)


# Of each line the best token behind the prompt and behind each token of the answer but the last.
NODE_REAL = '''
import {getLlama} from "node-llama-cpp";
import {readFileSync, writeFileSync} from "node:fs";
const [{path, lines}] = JSON.parse(readFileSync(process.argv[2]));
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, maxThreads: 2, logLevel: "error"});
const model = await llama.loadModel({modelPath: path, gpuLayers: 0});
const context = await model.createContext({contextSize: 256, batchSize: 64, threads: 2, sequences: 1, flashAttention: false,
  experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
const sequence = context.getSequence();
const all = [];
for (const {prompt, answer} of lines) {
  await sequence.clearHistory();
  const items = [...prompt, ...answer.slice(0, -1)].map((id, i) =>
    i + 1 >= prompt.length ? [id, {generateNext: {token: true, options: {temperature: 0}}}] : id);
  const out = await sequence.controlledEvaluate(items);
  all.push(out.slice(prompt.length - 1).map(({next}) => next.token));
}
writeFileSync(process.argv[3], JSON.stringify(all));
process.exit(0);
'''
REAL = {'SmolLM2-135M-Instruct.Q4_1.gguf': 'smollm2_greedy', 'qwen2.5-coder-0.5b-instruct.gguf': 'qwen25_coder_05b_greedy',
        'qwen2.5-coder-1.5b-instruct.gguf': 'qwen25_coder_15b_greedy'}


def compare_real(node, models):
    """llama.cpp, which rounds activations to 8 bits, along the answers of another engine in float32."""
    for name, data in REAL.items():
        if not (models / name).exists():
            continue
        results = json.loads((Path(__file__).resolve().parent.parent / 'tests' / 'data' / f'{data}.json').read_text())['results']
        lines = [{'prompt': r['prompt_ids'], 'answer': r['float_output_ids']} for r in results]
        theirs = ask_llama_cpp(node, NODE_REAL, [{'path': str((models / name).resolve()), 'lines': lines}])
        steps = [step for r, tokens in zip(results, theirs) for step in zip(tokens, r['float_output_ids'], r['float_top2_gap'])]
        others = [gap for token, own, gap in steps if token != own]
        print(f'{name}: llama.cpp chooses as float32 in {len(steps) - len(others)} of {len(steps)}, the others by gaps of {max(others, default=0):.2f} at most',
              flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('tiny', type=Path)
    parser.add_argument('--chatglm', type=Path)
    parser.add_argument('--node', type=Path)
    parser.add_argument('--models', type=Path)
    args = parser.parse_args()
    jobs = []
    for record in sorted(args.tiny.glob('*.json')):
        stored = json.loads(record.read_text())
        path = (args.tiny / stored['model']).resolve()
        sequences = [p['ids'] + p['greedy'] for p in stored['prompts']]
        if path.is_dir():
            if args.chatglm and torch:
                compare_chatglm(args.chatglm, path, stored['prompts'])
            continue
        jobs.append((record.stem, path, sequences))
        if torch and record.stem in HF:
            compare_transformers(*jobs[-1])
    if args.node:
        compare_llama_cpp(args.node, jobs)
    if args.node and args.models:
        compare_real(args.node, args.models)


main()
