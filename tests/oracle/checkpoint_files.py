"""Checkpoints in the safetensors format (numpy only)."""
import json
import os
import struct

import numpy as np


def read_safetensors(path):
    """name -> ndarray (BF16/F16/F32/F64 -> float64, integers kept)."""
    with open(path, 'rb') as fh:
        n = struct.unpack('<Q', fh.read(8))[0]
        head = json.loads(fh.read(n).decode('utf-8'))
        data = fh.read()
    out = {}
    for name, e in head.items():
        if name == '__metadata__':
            continue
        b, t = data[e['data_offsets'][0]:e['data_offsets'][1]], e['dtype']
        if t == 'BF16':
            a = (np.frombuffer(b, '<u2').astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        elif t in ('F16', 'F32', 'F64'):
            a = np.frombuffer(b, {'F16': '<f2', 'F32': '<f4', 'F64': '<f8'}[t]).astype(np.float64)
        elif t in ('I32', 'I64'):
            a = np.frombuffer(b, {'I32': '<i4', 'I64': '<i8'}[t])
        else:
            raise ValueError(f'{name}: dtype {t}')
        out[name] = a.reshape(e['shape'])
    return out


def read_checkpoint(directory):
    index = os.path.join(directory, 'model.safetensors.index.json')
    if not os.path.exists(index):
        return read_safetensors(os.path.join(directory, 'model.safetensors'))
    out = {}
    for name in sorted(set(json.load(open(index))['weight_map'].values())):
        out |= read_safetensors(os.path.join(directory, name))
    return out


def store(x, dtype):
    """Bytes of an array in a file's dtype."""
    x = np.ascontiguousarray(x, np.float32)
    if dtype == 'BF16':
        u = x.view(np.uint32)
        return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype('<u2').tobytes()
    return x.astype({'F32': '<f4', 'F16': '<f2'}[dtype]).tobytes()


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)"""
    head, offset = {'__metadata__': {'format': 'pt'}}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(head).encode()
    text += b' ' * (-len(text) % 8)
    with open(path, 'wb') as fh:
        fh.write(struct.pack('<Q', len(text)) + text + b''.join(d for _, _, d in tensors.values()))
