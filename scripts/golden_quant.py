#!/usr/bin/env python3
"""Development only: writes tests/data/quant_golden.json, random blocks dequantised by the package `gguf`.
golden_quant.py OUT.json      (pip install gguf)"""
import json, sys
import gguf
import numpy as np

rnd, out = np.random.default_rng(1), {}
for name, size in (('F32', 4), ('F16', 2), ('Q8_0', 34), ('Q4_0', 18), ('Q4_1', 20)):
    kind, elements = gguf.GGMLQuantizationType[name], 32 if name.startswith('Q') else 64
    count = 4 if name.startswith('Q') else 1
    raw = rnd.integers(0, 256, size=count * size * (1 if name.startswith('Q') else elements), dtype=np.uint8)
    if name.startswith('Q'):       # scales that are numbers: one of them denormal
        blocks = raw.reshape(count, size); blocks[:, 0:2] = rnd.normal(size=count).astype(np.float16).view(np.uint8).reshape(count, 2)
        blocks[0, 0:2] = [7, 0]
        if name == 'Q4_1': blocks[:, 2:4] = rnd.normal(size=count).astype(np.float16).view(np.uint8).reshape(count, 2)
    else:
        raw = rnd.normal(size=elements).astype(np.float32 if name == 'F32' else np.float16).view(np.uint8)
    values = gguf.dequantize(raw.reshape(1, -1) if name.startswith('Q') else raw.view(np.float32 if name == 'F32' else np.float16).reshape(1, -1), kind)
    out[name] = {'type': int(kind), 'hex': raw.tobytes().hex(), 'values': [float(v) for v in np.asarray(values, dtype=np.float32).ravel()]}
json.dump(out, open(sys.argv[1], 'w'), separators=(',', ':'))
