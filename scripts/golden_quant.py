#!/usr/bin/env python3
"""Development only: writes tests/data/quant_golden.json, random blocks dequantised by the package `gguf`, all as hex.
golden_quant.py OUT.json      (pip install gguf)"""
import json, sys
import gguf
import numpy as np

# Where a block has its half-precision scales; all its other bytes are random.
SCALES = {'Q4_0': [0], 'Q4_1': [0, 2], 'Q5_0': [0], 'Q5_1': [0, 2], 'Q8_0': [0], 'IQ4_NL': [0], 'IQ4_XS': [0], 'Q2_K': [80, 82],
          'Q3_K': [108], 'Q4_K': [0, 2], 'Q5_K': [0, 2], 'Q6_K': [208]}
rnd, out = np.random.default_rng(1), {}

def entry(name, raw):
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    values = np.asarray(gguf.dequantize(raw, kind), dtype=np.float32)
    assert np.isfinite(values).all()
    out[name] = {'type': int(kind), 'block_bytes': size, 'block_elements': elements, 'raw': raw.tobytes().hex(), 'values': values.tobytes().hex()}

numbers = np.concatenate([rnd.normal(size=60), [0.0, -0.0, 6e-8, -3e-5]]).astype(np.float32)  # the last two are subnormal halves
entry('F32', numbers.reshape(1, -1))
entry('F16', numbers.astype(np.float16).reshape(1, -1))
entry('BF16', (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(1, -1))
for name, places in SCALES.items():
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    raw = rnd.integers(0, 256, size=(4, size), dtype=np.uint8)
    for place in places:  # positive, negative, subnormal, large; the second scale in another order
        scales = np.array([0.0123, -0.0456, 7e-7, -61.0], dtype=np.float16) * np.float16(rnd.uniform(0.5, 1))
        raw[:, place:place + 2] = np.roll(scales, place % 4 // 2).view(np.uint8).reshape(4, 2)
    entry(name, raw.reshape(1, -1))
json.dump(out, open(sys.argv[1], 'w'), indent=0)
