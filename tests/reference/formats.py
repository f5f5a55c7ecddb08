"""Model files, read and written from the format's published descriptions (ggml's docs/gguf.md; the safetensors README).

Arrays are numpy, rows first as in the mathematics: GGUF's extents come in the other order. What is read is float64."""
import json
import struct
from pathlib import Path

import numpy as np

# GGUF value types: struct letters; 8 is a text, 9 an array.
SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
TEXT, ARRAY = 8, 9
TENSOR_TYPES = {0: np.dtype('<f4'), 1: np.dtype('<f2')}  # F32, F16
ALIGNMENT = 32


def padded(length):
    return -(-length // ALIGNMENT) * ALIGNMENT


def read_gguf(path):
    """(metadata, tensors) of a GGUF file of version 2 or 3; each tensor is F32 or F16."""
    data, at = Path(path).read_bytes(), 0

    def take(letter):
        nonlocal at
        value, = struct.unpack_from('<' + letter, data, at)
        at += struct.calcsize('<' + letter)
        return value

    def take_text():
        nonlocal at
        length = take('Q')
        at += length
        return data[at - length:at].decode()

    def take_value(kind):
        if kind == TEXT:
            return take_text()
        if kind == ARRAY:
            inner, count = take('I'), take('Q')
            return [take_value(inner) for _ in range(count)]
        return take(SCALARS[kind])

    assert take('I') == 0x46554747, 'no GGUF file'
    assert take('I') in (2, 3), 'unknown version'
    tensor_count, meta_count = take('Q'), take('Q')
    meta = {}
    for _ in range(meta_count):
        key = take_text()
        meta[key] = take_value(take('I'))
    infos = []
    for _ in range(tensor_count):
        name = take_text()
        extents = [take('Q') for _ in range(take('I'))]
        infos.append((name, extents[::-1], TENSOR_TYPES[take('I')], take('Q')))
    assert meta.get('general.alignment', ALIGNMENT) == ALIGNMENT
    start, tensors = padded(at), {}
    for name, shape, dtype, offset in infos:
        count = int(np.prod(shape))
        tensors[name] = np.frombuffer(data, dtype, count, start + offset).astype(np.float64).reshape(shape)
    return meta, tensors


def write_gguf(path, meta, tensors):
    """Version 3, F32 tensors. Types of values: int is u32, float f32, bool, str, and lists of str or of int (i32)."""
    def text(value):
        raw = value.encode()
        return struct.pack('<Q', len(raw)) + raw

    def value(v):
        if isinstance(v, bool):
            return struct.pack('<I?', 7, v)
        if isinstance(v, int):
            return struct.pack('<II', 4, v)
        if isinstance(v, float):
            return struct.pack('<If', 6, v)
        if isinstance(v, str):
            return struct.pack('<I', TEXT) + text(v)
        inner = TEXT if isinstance(v[0], str) else 5
        return struct.pack('<IIQ', ARRAY, inner, len(v)) + b''.join(text(x) if inner == TEXT else struct.pack('<i', x) for x in v)

    head = struct.pack('<IIQQ', 0x46554747, 3, len(tensors), len(meta))
    head += b''.join(text(k) + value(v) for k, v in meta.items())
    body = b''
    for name, array in tensors.items():
        head += text(name) + struct.pack('<I', array.ndim) + struct.pack(f'<{array.ndim}Q', *array.shape[::-1])
        head += struct.pack('<IQ', 0, len(body))
        raw = array.astype('<f4').tobytes()
        body += raw.ljust(padded(len(raw)), b'\0')
    Path(path).write_bytes(head.ljust(padded(len(head)), b'\0') + body)


def read_safetensors(path):
    data = Path(path).read_bytes()
    length, = struct.unpack_from('<Q', data)
    header = json.loads(data[8:8 + length])
    header.pop('__metadata__', None)
    tensors = {}
    for name, info in header.items():
        begin, end = (8 + length + offset for offset in info['data_offsets'])
        raw = data[begin:end]
        if info['dtype'] == 'BF16':  # the upper half of a float32
            values = (np.frombuffer(raw, '<u2').astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, {'F32': '<f4', 'F16': '<f2'}[info['dtype']])
        tensors[name] = values.astype(np.float64).reshape(info['shape'])
    return tensors


def read_folder(folder):
    """(config, tensors) of a Hugging Face folder: config.json, and model.safetensors or the shards that its index names."""
    folder = Path(folder)
    config = json.loads((folder / 'config.json').read_text())
    index = folder / 'model.safetensors.index.json'
    if not index.exists():
        return config, read_safetensors(folder / 'model.safetensors')
    places, tensors = json.loads(index.read_text())['weight_map'], {}
    for shard in sorted(set(places.values())):
        tensors.update(read_safetensors(folder / shard))
    assert set(tensors) == set(places), 'the index names other tensors than the shards hold'
    return config, tensors


def write_folder(folder, config, shards):
    """F16 shards, each a dict of arrays, with their index."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')
    places, total = {}, 0
    for i, tensors in enumerate(shards):
        name = f'model-{i + 1:05}-of-{len(shards):05}.safetensors'
        header, body = {'__metadata__': {'format': 'pt'}}, b''
        for key, array in tensors.items():
            raw = array.astype('<f2').tobytes()
            header[key] = {'dtype': 'F16', 'shape': list(array.shape), 'data_offsets': [len(body), len(body) + len(raw)]}
            body += raw
            places[key] = name
        text = json.dumps(header, separators=(',', ':')).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        (folder / name).write_bytes(struct.pack('<Q', len(text)) + text + body)
        total += len(body)
    index = {'metadata': {'total_size': total}, 'weight_map': places}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2) + '\n')
