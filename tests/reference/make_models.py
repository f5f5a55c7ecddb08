"""Writes a tiny model of every architecture, as its usual converter would, and what the oracle says of it.

make_models.py [--search] OUT_DIR: for each NAME of MODELS, OUT_DIR/NAME.gguf (chatglm-6b: a folder) and OUT_DIR/NAME.json:
  {"architecture", "model": file or folder,
   "prompts": [{"ids", "observations": [{"kind", "layer", "token", "head" of a score, "values"}],
                "greedy": 8 ids, "gaps": of the best logit to the second for each, "decode": logits behind the first two}]}
--search looks for seeds to put into MODELS. The same weights each time: integers of at most 12 bits by a power of two, also
once gains of norms are folded in."""
import itertools
import json
import struct
import sys
from pathlib import Path

import numpy as np

from formats import write_folder, write_gguf
from forward import Cache, forward, load

CONTEXT, WINDOW, GREEDY = 64, 8, 8
END_OF_TEXT, SINK, END_OF_TURN = 0, 1, 2  # the control tokens; the sink's row is massive in llama
CONTROL = 3
CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
          "{{ '<|im_start|>assistant\\n' }}")
VOCAB = 260


class Draw:
    """Numbers from a seed: raw output of PCG64, which numpy keeps stable."""

    def __init__(self, seed):
        self.bits = np.random.PCG64(seed)

    def integers(self, shape, low, high):
        raw = self.bits.random_raw(int(np.prod(shape)))
        return (raw % np.uint64(high - low + 1)).astype(np.int64).reshape(shape) + low

    def matrix(self, rows, cols, shift, limit=100):
        return self.integers((rows, cols), -limit, limit) * 2.0 ** -shift

    def gain(self, size):
        j = self.integers(size, 2, 8)
        j[-1] = 5  # odd, for mean_folds
        return j / 4

    def bias(self, size, limit):
        return self.integers(size, -int(limit * 256), int(limit * 256)) / 256


def mean_folds(matrix, gain, shift):
    """The matrix with its last column changed such that rows of matrix x gain have a mean that is an integer in their units:
    what a LayerNorm's mean adds to them keeps them integers of 12 bits. For widths that are powers of two."""
    width, k, j = matrix.shape[1], np.rint(matrix * 2 ** shift).astype(np.int64), np.rint(gain * 4).astype(np.int64)
    rest = k[:, :-1] @ j[:-1]
    last = -rest * pow(int(j[-1]), -1, width) % width
    k[:, -1] = np.where(last > width // 2, last - width, last)
    return k * 2.0 ** -shift


# ---- GGUF: metadata and tensors as llama.cpp's converter writes them -----------------------------------------------------

def tokenizer_meta():
    """A byte-level vocabulary with ChatML's marks and one merge."""
    tokens, extra = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'], itertools.count(256)
    for byte in range(256):
        printable = 0x21 <= byte <= 0x7e or 0xa1 <= byte <= 0xac or byte >= 0xae
        tokens.append(chr(byte if printable else next(extra)))
    tokens.append('th')
    assert len(tokens) == VOCAB
    return {
        'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'smollm', 'tokenizer.ggml.tokens': tokens,
        'tokenizer.ggml.token_type': [3] * CONTROL + [1] * (VOCAB - CONTROL), 'tokenizer.ggml.merges': ['t h'],
        'tokenizer.ggml.bos_token_id': SINK, 'tokenizer.ggml.eos_token_id': END_OF_TURN, 'tokenizer.ggml.padding_token_id': END_OF_TURN,
        'tokenizer.ggml.add_bos_token': False, 'tokenizer.chat_template': CHATML}


def gguf(arch, draw, layers=3, width=40, heads=4, kv_heads=2, head_dim=8, ff=56, tied=False, key_length=True, qkv_bias=False,
         fused_qkv=False, fused_up=False, qk_norm=False, post_norm=False, sink=False, embed=(6, 110), limit=100, behind=False, meta=None, extra=None):
    """embed: shift and limit of the embedding table. limit: of the other weights, in their units. behind: norms stand
    behind matrices alone, and are of all heads of q and of k together. meta: more keys, without their architecture. extra: more tensors."""
    own = {'block_count': layers, 'context_length': CONTEXT, 'embedding_length': width, 'feed_forward_length': ff,
           'attention.head_count': heads, 'attention.head_count_kv': kv_heads, 'attention.layer_norm_rms_epsilon': 1e-5}
    if key_length:
        own.update({'attention.key_length': head_dim, 'attention.value_length': head_dim})
    own.update(meta or {})
    q_rows, kv_rows = heads * head_dim, kv_heads * head_dim
    t = {'token_embd.weight': draw.matrix(VOCAB, width, *embed)}
    if sink:
        t['token_embd.weight'][SINK, [3, 17, 30]] = [15.0, -15.75, 14.5]
    for l in range(layers):
        b = f'blk.{l}.'
        if not behind:
            t[b + 'attn_norm.weight'] = draw.gain(width)
        q, k, v = draw.matrix(q_rows, width, 8, limit), draw.matrix(kv_rows, width, 9, limit), draw.matrix(kv_rows, width, 8, limit)
        biases = [draw.bias(rows, 0.75) for rows in (q_rows, kv_rows, kv_rows)]
        if fused_qkv:
            t[b + 'attn_qkv.weight'] = np.vstack([q, k, v])
            if qkv_bias:
                t[b + 'attn_qkv.bias'] = np.concatenate(biases)
        else:
            for name, matrix, bias in zip('qkv', (q, k, v), biases):
                t[f'{b}attn_{name}.weight'] = matrix
                if qkv_bias:
                    t[f'{b}attn_{name}.bias'] = bias
        if qk_norm:
            t[b + 'attn_q_norm.weight'], t[b + 'attn_k_norm.weight'] = (draw.gain(rows if behind else head_dim) for rows in (q_rows, kv_rows))
        t[b + 'attn_output.weight'] = draw.matrix(width, q_rows, 9)
        if not behind:
            t[b + 'ffn_norm.weight'] = draw.gain(width)
        gate, up = draw.matrix(ff, width, 8), draw.matrix(ff, width, 8)
        if fused_up:
            t[b + 'ffn_up.weight'] = np.vstack([gate, up])
        else:
            t[b + 'ffn_gate.weight'], t[b + 'ffn_up.weight'] = gate, up
        t[b + 'ffn_down.weight'] = draw.matrix(width, ff, 10)
        if post_norm:
            t[b + 'post_attention_norm.weight'], t[b + 'post_ffw_norm.weight'] = draw.gain(width), draw.gain(width)
    t['output_norm.weight'] = draw.gain(width)
    if not tied:
        t['output.weight'] = draw.matrix(VOCAB, width, 7)
    t.update(extra or {})
    return own, t


def gpt2(draw):
    layers, width, heads = 3, 32, 4
    ff = 4 * width
    own = {'block_count': layers, 'context_length': CONTEXT, 'embedding_length': width, 'feed_forward_length': ff,
           'attention.head_count': heads, 'attention.layer_norm_epsilon': 1e-5}

    def norm(name):
        t[name + '.weight'], t[name + '.bias'] = draw.gain(width), draw.bias(width, 0.5)
        return t[name + '.weight']

    def linear(name, matrix, limit):
        t[name + '.weight'], t[name + '.bias'] = matrix, draw.bias(len(matrix), limit)

    t = {}
    final = norm('output_norm')
    t['token_embd.weight'] = mean_folds(draw.matrix(VOCAB, width, 6, 60), final, 6)
    t['position_embd.weight'] = draw.matrix(CONTEXT, width, 7, 60)
    for l in range(layers):
        b = f'blk.{l}.'
        gain = norm(b + 'attn_norm')
        qkv = np.vstack([draw.matrix(width, width, 8), draw.matrix(width, width, 9), draw.matrix(width, width, 8)])
        linear(b + 'attn_qkv', mean_folds(qkv, gain, 9), 1)
        linear(b + 'attn_output', draw.matrix(width, width, 9), 0.5)
        gain = norm(b + 'ffn_norm')
        linear(b + 'ffn_up', mean_folds(draw.matrix(ff, width, 8), gain, 8), 1)
        linear(b + 'ffn_down', draw.matrix(width, ff, 10), 0.5)
    return own, t


def llama3_factors(head_dim, base, factor, low, high, original):
    """rope_freqs of Llama 3.1: slow frequencies divided by factor, fast ones kept, those between in between."""
    f = base ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = original * f / (2 * np.pi)  # in the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def yarn_meta(magnitude):
    """YaRN as converters write it, and a factor of attention with which q and k grow by so much."""
    factor = 4.0
    return {'rope.scaling.type': 'yarn', 'rope.scaling.factor': factor, 'rope.scaling.original_context_length': CONTEXT // 4,
            'rope.scaling.attn_factor': float(magnitude / (0.1 * np.log(factor) + 1))}


GGUF_MODELS = {
    # Llama 3.2: factors of frequencies; a token with massive entries.
    'llama': ('llama', lambda draw: gguf('llama', draw, sink=True, embed=(6, 32), meta={
        'rope.freq_base': 500.0, 'vocab_size': VOCAB, 'rope.dimension_count': 8},
        extra={'rope_freqs.weight': llama3_factors(8, 500.0, 8, 1, 4, 96)})),
    # A Llama of the first kind: a head for each query, linear scaling, tied.
    'llama-linear': ('llama', lambda draw: gguf('llama', draw, width=32, kv_heads=4, tied=True, key_length=False, embed=(6, 55), meta={
        'rope.scaling.type': 'linear', 'rope.scaling.factor': 2.5, 'rope.freq_base': 10000.0, 'vocab_size': VOCAB,
        'rope.dimension_count': 8})),
    'qwen2': ('qwen2', lambda draw: gguf('qwen2', draw, width=48, heads=6, ff=64, tied=True, key_length=False, qkv_bias=True,
                                         embed=(6, 55), meta={'rope.freq_base': 1000.0})),
    'qwen3': ('qwen3', lambda draw: gguf('qwen3', draw, head_dim=16, qk_norm=True, meta={'rope.freq_base': 1000.0})),
    'gemma2': ('gemma2', lambda draw: gguf('gemma2', draw, layers=4, head_dim=16, tied=True, post_norm=True, embed=(8, 110), meta={
        'attn_logit_softcapping': 4.0, 'final_logit_softcapping': 6.0, 'attention.sliding_window': WINDOW})),
    # As the models of 4B and more: the layers that see everything have scaled positions.
    'gemma3': ('gemma3', lambda draw: gguf('gemma3', draw, layers=7, width=48, kv_heads=1, tied=True, post_norm=True, qk_norm=True,
                                           embed=(8, 110), meta={
        'rope.scaling.type': 'linear', 'rope.scaling.factor': 8.0, 'rope.freq_base': 1000000.0, 'attention.sliding_window': WINDOW})),
    # Window 0 as in Phi-4.
    'phi3': ('phi3', lambda draw: gguf('phi3', draw, width=48, heads=6, ff=64, key_length=False, fused_qkv=True, fused_up=True, meta={
        'rope.scaling.original_context_length': CONTEXT, 'rope.dimension_count': 8, 'rope.freq_base': 10000.0,
        'attention.sliding_window': 0})),
    'gpt2': ('gpt2', gpt2),
    'olmo2': ('olmo2', lambda draw: gguf('olmo2', draw, width=32, heads=4, kv_heads=4, head_dim=8, key_length=False, post_norm=True, qk_norm=True,
                                         behind=True, meta={'rope.freq_base': 1000.0})),
    # A window in three layers of four, whose positions are not stretched as those of the fourth. As its 32B and that of OLMo 2: fewer heads of
    # keys than of queries, so that the rows that are normed have not one length.
    'olmo3': ('olmo2', lambda draw: gguf('olmo2', draw, layers=5, width=32, heads=4, kv_heads=2, head_dim=8, key_length=False, post_norm=True,
                                         qk_norm=True, behind=True, meta={'rope.freq_base': 1000.0, 'attention.sliding_window': WINDOW, **yarn_meta(1.25)})),
    # No positions in the fourth layer.
    'smollm3': ('smollm3', lambda draw: gguf('smollm3', draw, layers=5, tied=True, embed=(6, 55), meta={
        'rope.freq_base': 1000.0, 'vocab_size': VOCAB, 'rope.dimension_count': 8})),
    'granite': ('granite', lambda draw: gguf('granite', draw, embed=(6, 110), meta={
        'embedding_scale': 12.0, 'residual_scale': 0.375, 'attention.scale': 0.25, 'logit_scale': 2.0, 'rope.freq_base': 10000.0,
        'vocab_size': VOCAB, 'rope.dimension_count': 8})),
    # Longer than at first, as Qwen's for 128k; with the factor of attention all weights are integers of 12 bits again.
    'qwen2-yarn': ('qwen2', lambda draw: gguf('qwen2', draw, width=48, heads=3, kv_heads=1, head_dim=16, ff=64, tied=True, key_length=False, qkv_bias=True,
                                              embed=(6, 55), limit=48, meta={'rope.freq_base': 1000.0, **yarn_meta(1.5)})),
    'qwen3-yarn': ('qwen3', lambda draw: gguf('qwen3', draw, head_dim=16, qk_norm=True, meta={'rope.freq_base': 1000.0, **yarn_meta(1.25)})),
    # Ministral: positions as far as its scores do not grow with them.
    'mistral3': ('mistral3', lambda draw: gguf('mistral3', draw, head_dim=16, meta={
        'rope.freq_base': 10000.0, 'rope.dimension_count': 16, 'attention.temperature_scale': 0.1, 'rope.scaling.type': 'yarn',
        'rope.scaling.factor': 16.0, 'rope.scaling.original_context_length': CONTEXT, 'rope.scaling.yarn_log_multiplier': 1.0,
        'rope.scaling.yarn_beta_fast': 8.0, 'rope.scaling.yarn_beta_slow': 1.0})),
    # Phi 4 mini: three quarters of each head turn, by factors for long contexts, and grow.
    'phi4-mini': ('phi3', lambda draw: gguf('phi3', draw, width=64, heads=4, kv_heads=2, head_dim=16, ff=64, tied=True, key_length=False,
                                            fused_qkv=True, fused_up=True, embed=(6, 55), limit=48, meta={
        'rope.scaling.original_context_length': CONTEXT // 2, 'rope.dimension_count': 12, 'rope.freq_base': 10000.0,
        'attention.sliding_window': CONTEXT, 'rope.scaling.attn_factor': 1.5},
        extra={'rope_factors_long.weight': np.array([1.0, 1.25, 2.0, 4.5, 12.0, 20.0]),
               'rope_factors_short.weight': np.array([1.0, 1.0, 1.0, 1.5, 2.0, 2.5])})),
    'glm4': ('glm4', lambda draw: gguf('glm4', draw, head_dim=16, qkv_bias=True, fused_up=True, post_norm=True, meta={
        'rope.dimension_count': 8, 'rope.freq_base': 10000.0})),
    'chatglm': ('chatglm', lambda draw: gguf('chatglm', draw, width=48, heads=3, kv_heads=1, head_dim=16, ff=64, key_length=False,
                                             qkv_bias=True, fused_qkv=True, fused_up=True, meta={
        'rope.dimension_count': 8, 'rope.freq_base': 5000.0})),
}


def write_gguf_model(name, draw, out):
    arch, make = GGUF_MODELS[name]
    own, tensors = make(draw)
    # No architecture in the name: llama.cpp wants certain tokens of models whose name has "phi3".
    meta = {'general.architecture': arch, 'general.type': 'model', 'general.name': 'tiny'}
    meta.update({f'{arch}.{key}': value for key, value in own.items()})
    meta.update({'general.file_type': 0, 'general.quantization_version': 2})
    meta.update(tokenizer_meta())
    path = out / (name + '.gguf')
    write_gguf(path, meta, tensors)
    return path


# ---- ChatGLM-6B: a Hugging Face folder ----------------------------------------------------------------------------------

GLM = {'mask': 256, 'gmask': 257, 'sop': 260, 'eop': 261, 'vocab': 264}


def sentencepiece_model(count, marks):
    """A ModelProto (sentencepiece_model.proto) that stands in for ChatGLM-6B's ice_text.model: single letters, and its marks."""
    names = {'[gMASK]': marks['gmask'], '<sop>': marks['sop'], '<eop>': marks['eop'], '<unk>': 0, '\u2581': 1}
    letters = iter([chr(c) for c in range(0x21, 0x7f)] + [chr(c) for c in range(0x4e00, 0x4f00)])
    by_id = {i: name for name, i in names.items()}
    field = lambda key, value: bytes([key, len(value)]) + value
    model = b''
    for i in range(count):
        text = by_id.get(i) or next(letters)
        kind = 2 if text == '<unk>' else 3 if i in marks.values() and i in by_id else 1
        model += field(0x0a, field(0x0a, text.encode()) + b'\x15' + struct.pack('<f', -float(i)) + bytes([0x18, kind]))
    return model + field(0x12, b'\x18\x02')


def write_chatglm_6b(draw, out):
    layers, width, heads, ff, vocab = 3, 32, 2, 96, GLM['vocab']
    head_dim = width // heads
    config = {
        'architectures': ['ChatGLMModel'], 'bos_token_id': GLM['sop'], 'eos_token_id': GLM['eop'], 'mask_token_id': GLM['mask'],
        'gmask_token_id': GLM['gmask'], 'pad_token_id': 3, 'hidden_size': width, 'inner_hidden_size': ff, 'layernorm_epsilon': 1e-5,
        'max_sequence_length': CONTEXT, 'model_type': 'chatglm', 'num_attention_heads': heads, 'num_layers': layers,
        'position_encoding_2d': True, 'torch_dtype': 'float16', 'use_cache': True, 'vocab_size': vocab}
    t = {}

    def norm(name):
        t[name + '.weight'], t[name + '.bias'] = draw.gain(width), draw.bias(width, 0.5)
        return t[name + '.weight']

    def linear(name, matrix, limit):
        t[name + '.weight'], t[name + '.bias'] = matrix, draw.bias(len(matrix), limit)

    t['transformer.word_embeddings.weight'] = draw.matrix(vocab, width, 6)
    for l in range(layers):
        p = f'transformer.layers.{l}.'
        gain = norm(p + 'input_layernorm')
        t[p + 'attention.rotary_emb.inv_freq'] = 10000.0 ** (-np.arange(0, head_dim // 2, 2) / (head_dim // 2))
        by_head = [draw.matrix(head_dim, width, shift) for _ in range(heads) for shift in (8, 9, 8)]  # q, k, v of each
        linear(p + 'attention.query_key_value', mean_folds(np.vstack(by_head), gain, 9), 1)
        linear(p + 'attention.dense', draw.matrix(width, width, 8), 0.5)
        gain = norm(p + 'post_attention_layernorm')
        linear(p + 'mlp.dense_h_to_4h', mean_folds(draw.matrix(ff, width, 8), gain, 8), 1)
        linear(p + 'mlp.dense_4h_to_h', draw.matrix(width, ff, 9), 0.5)
    gain = norm('transformer.final_layernorm')
    t['lm_head.weight'] = mean_folds(draw.matrix(vocab, width, 7), gain, 7)
    second = {k: v for k, v in t.items() if k.startswith(('transformer.layers.2', 'transformer.final', 'lm_head'))}
    write_folder(out / 'chatglm-6b', config, [{k: v for k, v in t.items() if k not in second}, second])
    (out / 'chatglm-6b' / 'ice_text.model').write_bytes(sentencepiece_model(config['vocab_size'], GLM))
    return out / 'chatglm-6b'


# ---- what the oracle says -----------------------------------------------------------------------------------------------

def prompts(name, draw):
    words = draw.integers(20, CONTROL, 255).tolist()
    if name == 'chatglm-6b':
        marks = [GLM['gmask'], GLM['sop']]
        return [marks, words[:18] + marks]
    return [words[:1], [SINK] + words[1:]]


def record(model, ids):
    observations = []

    def observe(kind, layer, token, values, head=None):
        where = {'kind': kind, 'layer': layer, 'token': token} | ({} if head is None else {'head': head})
        observations.append(where | {'values': [float(f'{v:.9g}') for v in values]})

    cache, greedy, gaps, decode = Cache(model), [], [], []
    logits = forward(model, ids, cache, observe)[-1]
    for step in range(GREEDY):
        second, best = np.sort(logits)[-2:]
        greedy.append(int(np.argmax(logits)))
        gaps.append(float(f'{best - second:.9g}'))
        logits = forward(model, greedy[-1:], cache)[-1]
        if step < 2:
            decode.append([float(f'{v:.9g}') for v in logits])
    return {'ids': ids, 'observations': observations, 'greedy': greedy, 'gaps': gaps, 'decode': decode}


def make(name, seed, out):
    """Whether the greedy tokens of this seed's model are clear, not all the same, and none of them a mark."""
    draw = Draw(seed)
    path = write_chatglm_6b(draw, out) if name == 'chatglm-6b' else write_gguf_model(name, draw, out)
    model = load(path)
    records = [record(model, ids) for ids in prompts(name, draw)]
    result = {'architecture': model.architecture, 'model': path.name, 'prompts': records}
    (out / (name + '.json')).write_text(json.dumps(result, separators=(',', ':')))
    marks = set(GLM.values()) if name == 'chatglm-6b' else set(range(CONTROL))
    return all(min(r['gaps']) > 0.05 and len(set(r['greedy'])) >= 4 and not marks & set(r['greedy']) for r in records)


# Model and a seed that makes it clear, with inner values that rounding does not move far (tests/parties/architectures_test.cpp says how far).
MODELS = {'llama': 1, 'llama-linear': 34, 'qwen2': 2, 'qwen3': 5, 'gemma2': 4419, 'gemma3': 279,
          'phi3': 2, 'gpt2': 1153, 'glm4': 4, 'chatglm': 2, 'olmo2': 18, 'olmo3': 1, 'smollm3': 80, 'granite': 12, 'qwen2-yarn': 2, 'qwen3-yarn': 4, 'mistral3': 3,
          'phi4-mini': 12, 'chatglm-6b': 21}


def main():
    search, out = sys.argv[1] == '--search', Path(sys.argv[-1])
    out.mkdir(parents=True, exist_ok=True)
    for name, seed in MODELS.items():
        if search:
            print(name, next(s for s in itertools.count(1) if make(name, s, out)), flush=True)
        elif not make(name, seed, out):
            sys.exit(f'{name}: seed {seed} leaves its greedy tokens unclear; look for another with --search')


if __name__ == '__main__':
    main()
