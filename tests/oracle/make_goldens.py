"""Writes the small checkpoints of tests/goldens/ that cover the options of each family, with the logits of the
float64 reference:  python3 tests/oracle/make_goldens.py [DIR]   (DIR: default tests/goldens)

Every parameter is random. The last column printed is the relative change of the logits when the memory is cleared
before every token: a comparison says something only far below it. The goldens named *-a are not made here: they are
flash-linear-attention's own logits.
"""
import json
import os
import shutil
import struct
import sys
import zlib

import numpy as np

import fla_models

TOKENS, VOCAB = 48, 64


def tensors_of(c):
    """name -> shape, of the layout that flash-linear-attention writes today."""
    D, H, m = c['hidden_size'], c.get('num_heads', c.get('num_attention_heads')), c['model_type']
    Hk, HV = c.get('num_kv_heads') or H, c.get('num_v_heads') or H
    if m == 'gated_deltanet':
        K = c['head_dim']
        V = round(K * c['expand_v'])
    else:
        K, V = round(D * c['expand_k']) // H, round(D * c['expand_v']) // H
        HV = H
    if m == 'delta_net':
        Hk = H
    q, k = H * K, (H if m == 'gated_deltanet' else Hk) * K
    v = (HV if m in ('gated_deltanet', 'delta_net') else Hk) * V
    t = {'q_proj.weight': (q, D), 'k_proj.weight': (k, D), 'v_proj.weight': (v, D), 'o_proj.weight': (D, HV * V)}
    gated = {'retnet': c.get('use_output_gate', True), 'delta_net': c.get('use_gate', False),
             'gated_deltanet': c.get('use_gate', True)}.get(m, False)
    if gated:
        t['g_proj.weight'] = (HV * V, D)
    if m in ('delta_net', 'gated_deltanet'):
        if c.get('use_short_conv', True):
            W = c.get('conv_size', 4)
            t |= {f'{s}_conv1d.weight': (n, 1, W) for s, n in (('q', q), ('k', k), ('v', v))}
        if m == 'gated_deltanet' or c.get('use_beta', True):
            t['b_proj.weight'] = (HV, D)
        t['o_norm.weight'] = (V,)
    if m == 'gated_deltanet':
        t |= {'a_proj.weight': (HV, D), 'A_log': (HV,), 'dt_bias': (HV,)}
    affine = c.get('elementwise_affine', True)
    if m == 'retnet' and affine:
        t['g_norm_swish_gate.weight' if c.get('fuse_norm', True) and gated else 'g_norm.weight'] = (V,)
    if m == 'linear_attn':
        if affine:
            t['norm.weight'] = (V,)
        layers = {'elementwise_product': ('layer1', 'layer2'), 'hedgehog': ('layer',), 't2r': ('layer',)}
        for s in 'k' if c.get('tie_feature_map_qk') else 'qk':
            for layer in layers.get(c['feature_map'], ()):
                t[f'feature_map_{s}.{layer}.weight'] = (K, K)
                if c['feature_map'] != 't2r':
                    t[f'feature_map_{s}.{layer}.bias'] = (K,)
    out = {'model.embeddings.weight': (VOCAB, D), 'model.norm.weight': (D,)}
    if not c.get('tie_word_embeddings'):
        out['lm_head.weight'] = (VOCAB, D)
    for i in range(c['num_hidden_layers']):
        p, size = f'model.layers.{i}.', c['intermediate_size']
        out |= {p + 'attn.' + n: s for n, s in t.items()}
        out |= {p + 'attn_norm.weight': (D,), p + 'mlp_norm.weight': (D,), p + 'mlp.gate_proj.weight': (size, D),
                p + 'mlp.up_proj.weight': (size, D), p + 'mlp.down_proj.weight': (D, size)}
    return out


def random_values(rng, name, shape):
    x = rng.standard_normal(shape)
    if name.endswith('A_log'):
        return rng.uniform(-4, 0, shape)
    if len(shape) == 3:
        return 0.5 * x
    if len(shape) == 2:
        return x * (1 if 'embeddings' in name else shape[1] ** -0.5)
    return 1 + 0.25 * x if name.endswith('.weight') else 0.5 * x


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


def make(root, name, config, dtype='BF16', edit=None, shards=1):
    """`dtype`: of all tensors, or a function of the name. `edit` changes the name -> values."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    c = {'hidden_size': 32, 'num_hidden_layers': 2, 'vocab_size': VOCAB, 'intermediate_size': 48,
         'eos_token_id': 2, 'bos_token_id': 1} | config
    values = {n: random_values(rng, n, s) for n, s in tensors_of(c).items()}
    if edit:
        values = edit(values, rng)
    kinds = {n: dtype(n) if callable(dtype) else dtype for n in values}
    files = {n: (kinds[n], v.shape, store(v, kinds[n])) for n, v in values.items()}
    d = os.path.join(root, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    with open(d + '/config.json', 'w') as fh:
        json.dump(c, fh, indent=1)
        fh.write('\n')
    if shards == 1:
        write_safetensors(d + '/model.safetensors', files)
    else:
        weight_map = {n: f'model-{i % shards + 1:05}-of-{shards:05}.safetensors' for i, n in enumerate(files)}
        for f in set(weight_map.values()):
            write_safetensors(f'{d}/{f}', {n: t for n, t in files.items() if weight_map[n] == f})
        with open(d + '/model.safetensors.index.json', 'w') as fh:
            json.dump({'metadata': {}, 'weight_map': weight_map}, fh)
    tokens = rng.integers(0, VOCAB, TOKENS)
    model = fla_models.load(d)
    logits = model.run(tokens)
    assert np.isfinite(logits).all()
    write_safetensors(d + '/golden.safetensors',
                      {'logits': ('F32', logits.shape, store(logits, 'F32')),
                       'tokens': ('I32', tokens.shape, tokens.astype('<i4').tobytes())})
    model.forget = True
    print(f'{name:32s} {np.linalg.norm(model.run(tokens) - logits) / np.linalg.norm(logits):.3f}')


# ------------------------------------------------------------------------------------- older layouts
def joined_mlp(values, rng):
    for n in [n for n in values if n.endswith('up_proj.weight')]:
        gate = n.replace('up_proj', 'gate_proj')
        values[gate] = np.concatenate([values[gate], values.pop(n)])
    return values


def without_prefix(values, rng):
    values = {n.removeprefix('model.'): v for n, v in values.items()}
    return values | {'layers.0.attn.rotary.inv_freq': np.ones(4)}


def convolution_bias(values, rng):
    return values | {n.replace('.weight', '.bias'): rng.standard_normal(v.shape[0]) * 0.5
                     for n, v in values.items() if '_conv1d' in n}


def unused_and_biased(values, rng):
    extra = {n.replace('A_log', 'D'): v for n, v in values.items() if n.endswith('A_log')}
    extra |= {n.replace('.weight', '.bias'): rng.standard_normal(v.shape[0])
              for n, v in values.items() if n.endswith('b_proj.weight')}
    return values | extra


def mixed(name):
    return ('F32' if name.endswith(('norm.weight', 'A_log', 'dt_bias', 'k_proj.weight', 'layer1.weight')) else
            'F16' if name.endswith(('v_proj.weight', 'down_proj.weight')) else 'BF16')


def main(root):
    r = {'model_type': 'retnet', 'num_heads': 4, 'expand_k': 1.0, 'expand_v': 2.0}
    make(root, 'retnet-grouped', r | {'num_kv_heads': 2, 'hidden_size': 64, 'expand_k': 0.5}, edit=joined_mlp)
    make(root, 'retnet-one-key-head',
         r | {'num_heads': 3, 'num_kv_heads': 1, 'hidden_size': 48, 'expand_v': 1.5, 'fuse_norm': False}, mixed)
    make(root, 'retnet-relu-no-gate', r | {'feature_map': 'relu', 'use_output_gate': False,
                                           'elementwise_affine': False, 'expand_v': 1.0}, 'F32')
    make(root, 'retnet-silu-tied', r | {'feature_map': 'silu', 'tie_word_embeddings': True, 'num_heads': 2,
                                        'use_short_conv': True, 'norm_eps': 1e-3}, 'F16', without_prefix)

    a = {'model_type': 'linear_attn', 'num_heads': 4, 'expand_k': 1.0, 'expand_v': 1.0,
         'feature_map': 'elementwise_product'}
    make(root, 'linear_attn-grouped', a | {'num_kv_heads': 2, 'expand_v': 1.5}, mixed)
    make(root, 'linear_attn-tied-map', a | {'tie_feature_map_qk': True, 'expand_k': 0.5, 'tie_word_embeddings': True})
    make(root, 'linear_attn-elu-norms', a | {'feature_map': 'elu', 'norm_q': True, 'norm_k': True,
                                             'norm_feature_map': True, 'num_kv_heads': 1})
    make(root, 'linear_attn-relu', a | {'feature_map': 'relu', 'norm_k': True, 'norm_q': True})
    make(root, 'linear_attn-identity', {k: v for k, v in a.items() if k != 'num_heads'} |
         {'feature_map': 'identity', 'num_attention_heads': 2, 'elementwise_affine': False})
    make(root, 'linear_attn-t2r', a | {'feature_map': 't2r', 'norm_feature_map': True, 'num_heads': 2})
    make(root, 'linear_attn-hedgehog', a | {'feature_map': 'hedgehog', 'norm_feature_map': True, 'num_kv_heads': 2})
    make(root, 'linear_attn-dpfp', a | {'feature_map': 'dpfp'})

    d = {'model_type': 'delta_net', 'num_heads': 4, 'expand_k': 1.0, 'expand_v': 1.0}
    make(root, 'delta_net-gate-bias', d | {'use_gate': True, 'conv_size': 3, 'expand_v': 2.0}, edit=convolution_bias)
    make(root, 'delta_net-elu-sum', d | {'qk_activation': 'elu', 'qk_norm': 'sum', 'use_beta': False})
    make(root, 'delta_net-relu', d | {'qk_activation': 'relu', 'allow_neg_eigval': True, 'expand_k': 0.5}, mixed)
    make(root, 'delta_net-relu-sum', d | {'qk_activation': 'relu', 'qk_norm': 'sum', 'num_heads': 2})
    make(root, 'delta_net-identity-no-conv', d | {'qk_activation': 'identity', 'use_short_conv': False,
                                                  'allow_neg_eigval': True, 'use_beta': False})
    make(root, 'delta_net-no-conv', d | {'use_short_conv': False, 'use_gate': True}, edit=joined_mlp)

    g = {'model_type': 'gated_deltanet', 'num_heads': 2, 'head_dim': 16, 'expand_v': 2.0}
    make(root, 'gated_deltanet-grouped', g | {'num_v_heads': 4, 'expand_v': 0.5, 'allow_neg_eigval': True}, mixed,
         shards=3)
    make(root, 'gated_deltanet-no-gate', g | {'use_gate': False, 'expand_v': 1.0, 'num_heads': 3},
         edit=unused_and_biased)
    make(root, 'gated_deltanet-no-conv', g | {'use_short_conv': False, 'num_v_heads': 6}, 'F16')


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(__file__)), 'goldens'))
