"""The forward pass of every architecture in float64, with all inner values: the oracle of the C++ reference.

Written from the published descriptions alone: the papers, Hugging Face's modeling files for what a layer does, llama.cpp's
graphs for what a GGUF file of that architecture means. Slow and plain on purpose; nothing is folded into anything.

forward.py MODEL ID...   prints the greedy continuation of a prompt given as token ids."""
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from formats import read_folder, read_gguf


# ---- pieces -------------------------------------------------------------------------------------------------------------

@dataclass
class Linear:
    weight: np.ndarray               # rows x columns
    bias: np.ndarray | None = None   # rows

    def __call__(self, x):
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


@dataclass
class RmsNorm:  # arXiv 1910.07467
    gain: np.ndarray
    eps: float

    def __call__(self, x):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.eps) * self.gain


@dataclass
class LayerNorm:  # arXiv 1607.06450
    gain: np.ndarray
    bias: np.ndarray
    eps: float

    def __call__(self, x):
        centred = x - np.mean(x, axis=-1, keepdims=True)
        return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + self.eps) * self.gain + self.bias


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):  # arXiv 1606.08415, section 2
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)))


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def cap(x, limit):
    return limit * np.tanh(x / limit) if limit else x


# ---- rotary positions, arXiv 2104.09864 ---------------------------------------------------------------------------------

def frequencies(base, dims, scale=1.0, factors=None):
    """Radians a position for each of dims/2 pairs. Linear scaling divides the position; Llama 3's factors each frequency."""
    f = base ** (-np.arange(0, dims, 2) / dims) / scale
    return f if factors is None else f / factors


def yarn(base, dims, factor, original, fast, slow):
    """arXiv 2309.00071, section 3.2: a pair that turns r times in the original context keeps its frequency where r > fast, has it
    divided by the factor where r < slow, and something between in between, by a ramp over the pairs' numbers."""
    f = frequencies(base, dims)
    pair = lambda turns: dims * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(base))
    low, high = max(np.floor(pair(fast)), 0), min(np.ceil(pair(slow)), dims - 1)
    ramp = np.clip((np.arange(dims // 2) - low) / max(high - low, 0.001), 0, 1)
    return f / factor * ramp + f * (1 - ramp)


def rotate(x, positions, freqs, adjacent, magnitude=1.0):
    """x: [token][head][entry]. The first 2 len(freqs) entries of a head turn, and grow by the magnitude. Pairs are neighbours, or i and
    i + len(freqs)."""
    n = len(freqs)
    angle = positions[:, None, None] * freqs
    first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if adjacent else (slice(0, n), slice(n, 2 * n))
    a, b, out = x[..., first], x[..., second], x.copy()
    cos, sin = np.cos(angle) * magnitude, np.sin(angle) * magnitude
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out


def rotate_2d(x, positions, blocks, freqs):
    """ChatGLM-6B: the first half of a head turns with the position, the second with the place in the block, each in halves."""
    half = x.shape[-1] // 2
    return np.concatenate([rotate(x[..., :half], positions, freqs, False), rotate(x[..., half:], blocks, freqs, False)], axis=-1)


# ---- a model ------------------------------------------------------------------------------------------------------------

@dataclass
class Layer:
    attn_norm: object
    qkv: Linear                       # q, k, v stacked, heads in order
    o: Linear
    mlp_norm: object
    up: Linear                        # gate then up, or up alone
    down: Linear
    q_norm: object = None             # by head
    k_norm: object = None
    post_attn: object = None
    post_mlp: object = None
    freqs: np.ndarray | None = None   # None: heads do not turn
    magnitude: float = 1.0            # YaRN, longrope: of cos and sin
    window: int = 0                   # keys that a query sees, itself included; 0: all


@dataclass
class Model:
    architecture: str
    heads: int
    kv_heads: int
    head_dim: int
    embed: np.ndarray                 # vocab x width
    layers: list
    final_norm: object
    head: np.ndarray                  # vocab x width
    context: int
    embed_scale: float = 1.0
    residual_scale: float = 1.0       # Granite: of what attention and MLP put out
    logit_scale: float = 1.0
    positions: np.ndarray | None = None  # GPT-2: context x width
    rotary: str = 'adjacent'          # or 'halves', '2d', 'none'
    gated: bool = True
    act: object = silu
    score_scale: float = 0.0
    score_cap: float = 0.0
    logit_cap: float = 0.0
    alpha: float = 0.0                # ChatGLM-6B: residual = alpha norm(x) + sublayer
    marks: dict = field(default_factory=dict)  # ChatGLM-6B: ids of mask, gmask, sop


def load(path):
    return from_chatglm_6b(path) if Path(path).is_dir() else from_gguf(path)


def from_gguf(path):
    meta, t = read_gguf(path)
    arch = meta['general.architecture']
    assert arch in ('llama', 'qwen2', 'qwen3', 'gemma2', 'gemma3', 'phi3', 'gpt2', 'glm4', 'chatglm', 'smollm3', 'granite', 'mistral3', 'olmo2'), arch

    def key(name, default=None):
        value = meta.get(f'{arch}.{name}', default)
        assert value is not None, f'{arch}.{name} is missing'
        return value

    layers, width, heads = key('block_count'), key('embedding_length'), key('attention.head_count')
    kv_heads = key('attention.head_count_kv', heads)
    head_dim = key('attention.key_length', width // heads)
    gemma = arch in ('gemma2', 'gemma3')

    def norm(name, size=width):
        gain = t[name + '.weight']
        assert gain.shape == (size,)
        if arch == 'gpt2':
            return LayerNorm(gain, t[name + '.bias'], key('attention.layer_norm_epsilon'))
        return RmsNorm(gain, key('attention.layer_norm_rms_epsilon'))

    def linear(*names):  # stacked in this order
        biases = [t.get(n + '.bias') for n in names]
        assert all((b is None) == (biases[0] is None) for b in biases)
        return Linear(np.vstack([t[n + '.weight'] for n in names]), None if biases[0] is None else np.concatenate(biases))

    # Rotary positions. Gemma 3: layers with a window have their own base and no scaling.
    dims = key('rope.dimension_count', head_dim)
    scaling, base, original = key('rope.scaling.type', 'none'), key('rope.freq_base', 10000.0), key('rope.scaling.original_context_length', 0)
    magnitude = key('rope.scaling.attn_factor', 1.0)
    if scaling == 'yarn':
        factor = key('rope.scaling.factor')
        whole = yarn(base, dims, factor, original, key('rope.scaling.yarn_beta_fast', 32.0), key('rope.scaling.yarn_beta_slow', 1.0))
        magnitude *= (1 + 0.1 * np.log(factor)) / (1 + 0.1 * key('rope.scaling.yarn_log_multiplier', 0.0) * np.log(factor))
    elif 'rope_factors_long.weight' in t:  # longrope: by the length that the conversation may get
        whole = frequencies(base, dims, factors=t[f'rope_factors_{"long" if key("context_length") > original else "short"}.weight'])
    else:
        whole = frequencies(base, dims, key('rope.scaling.factor', 1.0) if scaling == 'linear' else 1.0, t.get('rope_freqs.weight'))
    if key('attention.temperature_scale', 0.0):  # Llama 4's and Ministral's: 1 up to the original context
        assert key('context_length') <= original
    local = frequencies(key('rope.freq_base_swa', {'gemma3': 10000.0, 'olmo2': base}[arch]), dims) if arch in ('gemma3', 'olmo2') else whole
    period = {'gemma2': 2, 'gemma3': 6, 'olmo2': 4}.get(arch, 0)  # each such layer sees everything
    still = {'smollm3': 4}.get(arch, 0)               # each such layer has no positions
    window = key('attention.sliding_window', 0)

    model_layers = []
    for l in range(layers):
        b = f'blk.{l}.'
        windowed = window > 0 and not (period and (l + 1) % period == 0)
        turns = not (still and (l + 1) % still == 0)
        fused_qkv, fused_up = b + 'attn_qkv.weight' in t, b + 'ffn_gate.weight' not in t
        layer = Layer(
            attn_norm=norm(b + 'attn_norm') if arch != 'olmo2' else lambda x: x,
            mlp_norm=norm(b + 'ffn_norm') if arch != 'olmo2' else lambda x: x,
            qkv=linear(b + 'attn_qkv') if fused_qkv else linear(b + 'attn_q', b + 'attn_k', b + 'attn_v'),
            o=linear(b + 'attn_output'), down=linear(b + 'ffn_down'),
            up=linear(b + 'ffn_up') if fused_up else linear(b + 'ffn_gate', b + 'ffn_up'),
            freqs=(local if windowed else whole) if turns else None, window=window if windowed else 0,
            magnitude=1.0 if windowed and local is not whole else magnitude)
        if arch in ('qwen3', 'gemma3'):
            layer.q_norm, layer.k_norm = norm(b + 'attn_q_norm', head_dim), norm(b + 'attn_k_norm', head_dim)
        if arch == 'olmo2':  # of all heads together
            layer.q_norm, layer.k_norm = norm(b + 'attn_q_norm', heads * head_dim), norm(b + 'attn_k_norm', kv_heads * head_dim)
        if gemma or arch in ('glm4', 'olmo2'):
            layer.post_attn, layer.post_mlp = norm(b + 'post_attention_norm'), norm(b + 'post_ffw_norm')
        assert layer.qkv.weight.shape == ((heads + 2 * kv_heads) * head_dim, width)
        model_layers.append(layer)

    # Gemma's scale is query_pre_attn_scalar^-1/2, which no key holds: it is head_dim but for the 27B models.
    large = (arch, layers) in (('gemma2', 46), ('gemma3', 62))
    return Model(
        architecture=arch, heads=heads, kv_heads=kv_heads, head_dim=head_dim, context=key('context_length'),
        embed=t['token_embd.weight'], head=t.get('output.weight', t['token_embd.weight']),
        layers=model_layers, final_norm=norm('output_norm'),
        embed_scale=np.sqrt(width) if gemma else key('embedding_scale', 1.0),
        residual_scale=key('residual_scale', 1.0), logit_scale=1 / key('logit_scale', 1.0),
        positions=t['position_embd.weight'] if arch == 'gpt2' else None,
        rotary='none' if arch == 'gpt2' else 'adjacent' if arch in ('llama', 'glm4', 'chatglm', 'smollm3', 'granite', 'mistral3') else 'halves',
        gated=arch != 'gpt2', act=gelu_tanh if gemma or arch == 'gpt2' else silu,
        score_scale=key('attention.scale', 0.0) or (width // heads if large else head_dim) ** -0.5,
        score_cap=key('attn_logit_softcapping', 0.0) if arch == 'gemma2' else 0.0,
        logit_cap=key('final_logit_softcapping', 0.0) if gemma else 0.0)


def from_chatglm_6b(folder):
    c, t = read_folder(folder)
    assert c['model_type'] == 'chatglm' and c['position_encoding_2d']
    heads, width = c['num_attention_heads'], c['hidden_size']
    head_dim = width // heads

    def linear(name):
        return Linear(t[name + '.weight'], t[name + '.bias'])

    def norm(name):
        return LayerNorm(t[name + '.weight'], t[name + '.bias'], c['layernorm_epsilon'])

    def by_kind(rows):  # [head][q, k, v][entry] -> [q, k, v][head][entry]
        shape = rows.shape
        return rows.reshape(heads, 3, head_dim, -1).swapaxes(0, 1).reshape(shape)

    layers = []
    for l in range(c['num_layers']):
        p = f'transformer.layers.{l}.'
        qkv = linear(p + 'attention.query_key_value')
        layers.append(Layer(
            attn_norm=norm(p + 'input_layernorm'), mlp_norm=norm(p + 'post_attention_layernorm'),
            qkv=Linear(by_kind(qkv.weight), by_kind(qkv.bias)), o=linear(p + 'attention.dense'),
            up=linear(p + 'mlp.dense_h_to_4h'), down=linear(p + 'mlp.dense_4h_to_h'), freqs=frequencies(10000.0, head_dim // 2)))
    return Model(
        architecture='chatglm-6b', heads=heads, kv_heads=heads, head_dim=head_dim, context=c['max_sequence_length'],
        embed=t['transformer.word_embeddings.weight'], head=t['lm_head.weight'], layers=layers,
        final_norm=norm('transformer.final_layernorm'), rotary='2d', gated=False, act=gelu_tanh, score_scale=head_dim ** -0.5,
        alpha=np.sqrt(2 * c['num_layers']),
        marks={'mask': c['mask_token_id'], 'gmask': c['gmask_token_id'], 'sop': c['bos_token_id']})


# ---- the forward pass ---------------------------------------------------------------------------------------------------

class Cache:
    """One conversation: its tokens, and each layer's turned keys and its values, [token][kv head][entry]."""

    def __init__(self, model):
        self.ids = []
        shape = (0, model.kv_heads, model.head_dim)
        self.keys = [np.zeros(shape) for _ in model.layers]
        self.values = [np.zeros(shape) for _ in model.layers]


def prefix_length(model, ids):
    """ChatGLM-6B: tokens before the mark of the answer's start see each other both ways; all others see what came before."""
    return ids.index(model.marks['sop']) if model.marks else 0


def block_positions(model, ids):
    """ChatGLM-6B: (position, place in the block) of each token. Those of the answer, its start mark the first, share the
    position of the mask that they fill."""
    prefix = prefix_length(model, ids)
    mask = model.marks['gmask'] if model.marks['gmask'] in ids else model.marks['mask']
    t = np.arange(len(ids))
    return np.where(t < prefix, t, ids.index(mask)), np.where(t < prefix, 0, t - prefix + 1)


def forward(model, ids, cache, observe=lambda kind, layer, token, values, head=None: None):
    """Logits of each of ids, which follow what the cache holds. A prompt with a prefix has to come whole."""
    m, start, n = model, len(cache.ids), len(ids)
    cache.ids += list(ids)
    total = start + n
    queries, keys = np.arange(start, total)[:, None], np.arange(total)[None, :]
    prefix = prefix_length(m, cache.ids)
    assert start == 0 or prefix < start

    def see(kind, layer, rows):
        for i, row in enumerate(rows):
            observe(kind, layer, start + i, row)

    def turned(x, layer):
        freqs = layer.freqs
        if m.rotary == 'none' or freqs is None:
            return x
        if m.rotary == '2d':
            positions, blocks = (p[start:] for p in block_positions(m, cache.ids))
            return rotate_2d(x, positions, blocks, freqs)
        return rotate(x, np.arange(start, total), freqs, m.rotary == 'adjacent', layer.magnitude)

    def grown(heads, layer):  # as large as they are once turned, which those who fold the magnitude into the weights show
        out = heads.copy()
        if layer.magnitude != 1 and layer.freqs is not None:
            out[..., :2 * len(layer.freqs)] *= layer.magnitude
        return out.reshape(n, -1)

    x = m.embed[list(ids)] * m.embed_scale
    if m.positions is not None:
        x = x + m.positions[start:total]
    see('embed', 0, x)

    for l, layer in enumerate(m.layers):
        # Attention.
        see('norm.attn', l, x)
        normed = layer.attn_norm(x)
        qkv = layer.qkv(normed)
        q, k, v = (part.reshape(n, -1, m.head_dim) for part in np.split(
            qkv, [m.heads * m.head_dim, (m.heads + m.kv_heads) * m.head_dim], axis=1))
        if layer.q_norm:
            see('qkv', l, qkv)
            by_row = lambda x, of: of(x.reshape(n, -1, of.gain.size)).reshape(x.shape)
            q, k = by_row(q, layer.q_norm), by_row(k, layer.k_norm)
            see('qk', l, np.concatenate([grown(q, layer), grown(k, layer)], axis=1))
        else:
            see('qkv', l, np.concatenate([grown(q, layer), grown(k, layer), v.reshape(n, -1)], axis=1))
        q = turned(q, layer)
        cache.keys[l] = np.concatenate([cache.keys[l], turned(k, layer)])
        cache.values[l] = np.concatenate([cache.values[l], v])
        visible = (keys <= queries) | (keys < prefix)
        if layer.window:
            visible &= queries - keys < layer.window
        mixed = np.zeros_like(q)
        for h in range(m.heads):
            g = h // (m.heads // m.kv_heads)
            raw = q[:, h] @ cache.keys[l][:, g].T
            for i in range(n):
                observe('score', l, start + i, raw[i] if m.marks else raw[i, :start + i + 1], h)
            scores = np.where(visible, cap(raw * m.score_scale, m.score_cap), -np.inf)
            mixed[:, h] = softmax(scores) @ cache.values[l][:, g]
        mixed = mixed.reshape(n, -1)
        see('attention', l, mixed)
        out = layer.o(mixed) * m.residual_scale
        see('o', l, out)
        if layer.post_attn:
            out = layer.post_attn(out)
            see('post.attn', l, out)
        x = (m.alpha * normed if m.alpha else x) + out

        # MLP.
        see('norm.mlp', l, x)
        normed = layer.mlp_norm(x)
        inner = layer.up(normed)
        see('gate_up', l, inner)
        if m.gated:
            gate, up = np.split(inner, 2, axis=1)
            inner = m.act(gate) * up
        else:
            inner = m.act(inner)
        see('activation', l, inner)
        out = layer.down(inner) * m.residual_scale
        see('down', l, out)
        if layer.post_mlp:
            out = layer.post_mlp(out)
            see('post.mlp', l, out)
        x = (m.alpha * normed if m.alpha else x) + out

    see('norm.final', len(m.layers), x)
    logits = cap(m.final_norm(x) @ m.head.T * m.logit_scale, m.logit_cap)
    see('logits', len(m.layers), logits)
    return logits


def main():
    model = load(sys.argv[1])
    cache, ids = Cache(model), [int(word) for word in sys.argv[2:]]
    for _ in range(16):
        ids = [int(np.argmax(forward(model, ids, cache)[-1]))]
        print(ids[0], end=' ', flush=True)
    print()


if __name__ == '__main__':
    main()
