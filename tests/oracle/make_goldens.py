"""Writes the small checkpoints of tests/goldens/ that cover the options of each family, with the logits of the
float64 reference:  python3 tests/oracle/make_goldens.py [DIR]   (DIR: default tests/goldens)

Every parameter is random. The last column printed is the relative change of the logits when the memory is cleared
before every token: a comparison says something only far below it. The goldens named *-a are not made here, see
make_fla_goldens.py.
"""
import json
import os
import shutil
import sys
import zlib

import numpy as np

import fla_models
from checkpoint_files import store, write_safetensors
from tensor_shapes import tensors_of

TOKENS, VOCAB = 48, 64


def random_values(rng, name, shape):
    x = rng.standard_normal(shape)
    if name.endswith('A_log'):
        return rng.uniform(-4, 0, shape)
    if len(shape) == 3:
        return 0.5 * x
    if len(shape) == 2:
        return x * (1 if 'embeddings' in name else shape[1] ** -0.5)
    return 1 + 0.25 * x if name.endswith('.weight') else 0.5 * x


def make(root, name, config, dtype='BF16', edit=None, shards=1, tensors=tensors_of, length=TOKENS):
    """`dtype`: of all tensors, or a function of the name. `edit` changes the name -> values. `length`: tokens."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    c = {'hidden_size': 32, 'num_hidden_layers': 2, 'vocab_size': VOCAB, 'intermediate_size': 48,
         'eos_token_id': 2, 'bos_token_id': 1} | config
    values = {n: random_values(rng, n, s) for n, s in tensors(c).items()}
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
    tokens = rng.integers(0, c['vocab_size'], length)
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
    values = {n.removeprefix('model.').removeprefix('backbone.'): v for n, v in values.items()}
    return values | {'layers.0.attn.rotary.inv_freq': np.ones(4)}


def convolution_bias(values, rng):
    return values | {n.replace('.weight', '.bias'): rng.standard_normal(v.shape[0]) * 0.5
                     for n, v in values.items() if '_conv1d' in n}


def unused_and_biased(values, rng):
    extra = {n.replace('A_log', 'D'): v for n, v in values.items() if n.endswith('A_log')}
    extra |= {n.replace('.weight', '.bias'): rng.standard_normal(v.shape[0])
              for n, v in values.items() if n.endswith('b_proj.weight')}
    return values | extra


def derf(values, rng):
    for n in [n for n in values if n.endswith(('attn_norm.weight', 'mlp_norm.weight', 'model.norm.weight'))]:
        norm = n.removesuffix('weight')
        values |= {norm + 'bias': 0.3 * rng.standard_normal(values[n].shape), norm + 'alpha': rng.uniform(0.5, 1, 1),
                   norm + 'shift': rng.uniform(-0.3, 0.3, 1)}
    return values


def joined_shifts(values, rng):
    """The six x_* of RWKV-7 as one tensor."""
    for n in [n for n in values if n.endswith('attn.x_r')]:
        parts = [values.pop(n[:-1] + s).ravel() for s in 'rwkvag']
        values[n[:-1] + 'x'] = np.stack(parts)
    return values


def wide_bounds(values, rng):
    return {n: 3 * v if n.endswith('lower_bounds') else v for n, v in values.items()}


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

    z = {'model_type': 'kla', 'num_heads': 2, 'head_dim': 16, 'expand_v': 1.0}
    make(root, 'kla-grouped', z | {'num_v_heads': 4, 'allow_neg_eigval': True}, mixed)
    make(root, 'kla-q-norm', z | {'qk_norm': 'relaxed_kaczmarz_q_norm', 'expand_v': 1.5})

    a = {'model_type': 'gla', 'num_heads': 4, 'expand_k': 0.5, 'expand_v': 1.0}
    make(root, 'gla-grouped-conv-clamp', a | {'num_kv_heads': 2, 'use_short_conv': True, 'conv_size': 3, 'expand_k': 1.0,
                                              'clamp_min': -0.03}, mixed, edit=convolution_bias)
    make(root, 'gla-relu-no-gate', a | {'feature_map': 'relu', 'use_output_gate': False, 'elementwise_affine': False,
                                        'num_kv_heads': 1}, 'F32')

    h = {'model_type': 'hgrn2', 'expand_ratio': 8, 'num_heads': None}
    make(root, 'hgrn2-conv-no-bounds', h | {'use_short_conv': True, 'use_lower_bound': False, 'norm_eps': 1e-3}, mixed)
    make(root, 'hgrn2-heads-bounds', h | {'expand_ratio': None, 'num_heads': 2, 'elementwise_affine': False,
                                          'num_hidden_layers': 4}, edit=wide_bounds)

    make(root, 'hgrn2-default-ratio', {'model_type': 'hgrn2', 'num_heads': 2, 'hidden_size': 128, 'num_hidden_layers': 1,
                                       'intermediate_size': 16}, length=24)

    k = {'model_type': 'kda', 'num_heads': 2, 'head_dim': 16, 'expand_v': 1.0}
    make(root, 'kda-grouped', k | {'num_v_heads': 4, 'expand_v': 0.5, 'allow_neg_eigval': True}, mixed)
    make(root, 'kda-lower-bound-no-conv', k | {'lower_bound': -5.0, 'safe_gate': True, 'use_short_conv': False,
                                               'expand_v': 2.0}, 'F16')

    make(root, 'gla-derf', a | {'norm_type': 'derf'}, edit=derf)

    m = {'model_type': 'mamba2', 'expand': 2, 'head_dim': 16, 'state_size': 8, 'n_groups': 1, 'conv_kernel': 4,
         'num_heads': 77, 'dt_limit': [0.0, {'__float__': 'Infinity'}], 'hidden_act': 'silu'}
    make(root, 'mamba2-two-groups', m | {'n_groups': 2, 'D_has_hdim': True, 'norm_before_gate': True,
                                         'use_conv_bias': False}, mixed)
    make(root, 'mamba2-four-groups', m | {'n_groups': 4, 'use_bias': True, 'dt_limit': [0.4, 1.1], 'conv_kernel': 3})
    make(root, 'mamba2-no-norm', m | {'rmsnorm': False, 'tie_word_embeddings': True, 'head_dim': 32,
                                      'state_size': 24}, 'F32')
    make(root, 'mamba2-old-names', {n: v for n, v in m.items() if n != 'dt_limit'} |
         {'rms_norm': True, 'layer_norm_epsilon': 1e-3, 'time_step_limit': [0.1, float('inf')], 'n_groups': 2}, 'F16',
         without_prefix)

    make(root, 'retnet-hybrid-bias', r | {'attn': {'layers': [1], 'num_heads': 4, 'num_kv_heads': 2, 'qkv_bias': True,
                                                   'window_size': 7, 'rope_theta': 100.0}}, mixed)
    make(root, 'gated_deltanet-hybrid-list', g | {'expand_v': 1.0, 'num_hidden_layers': 3, 'attn': [
        {'layers': [2], 'num_heads': 8, 'num_kv_heads': 1, 'window_size': 20},
        {'layers': [0], 'num_heads': 1, 'num_kv_heads': None, 'qkv_bias': False, 'window_size': 64}]})
    make(root, 'gla-hybrid-derf', a | {'norm_type': 'derf', 'attn': {
        'layers': [0], 'num_heads': 2, 'window_size': 1, 'rope_theta': 500000}}, edit=derf)

    v = {'model_type': 'vla', 'mode': 'star', 'num_heads': 2, 'expand_k': 1.0, 'expand_v': 1.0}
    make(root, 'vla-elu-no-conv', v | {'feature_map': 'elu', 'use_short_conv': False, 'lambda0': 2.0, 'mu': 0.95}, mixed)
    make(root, 'vla-sym', v | {'mode': 'sym', 'gamma': 0.97, 'expand_k': 0.5, 'expand_v': 2.0, 'mu': 0.9})
    make(root, 'vla-unit', v | {'mode': 'unit', 'use_output_gate': False, 'conv_size': 3, 'lambda0': 0.1}, 'F16')
    make(root, 'vla-exact', v | {'mode': 'exact', 'use_write_gate': False, 'feature_map': 'elu', 'mu': 0.999,
                                 'gamma': 0.9})
    make(root, 'vla-rls', v | {'mode': 'rls', 'num_heads': 4, 'gamma': 0.99})
    make(root, 'vla-rls-no-leak', v | {'mode': 'rls', 'mu': 1.0, 'use_short_conv': False, 'use_write_gate': False,
                                       'num_heads': 1, 'expand_v': 0.5, 'norm_type': 'derf'}, 'F32', derf)
    n = {'mode': 'v3', 'feature_map': 'elu', 'mu': 1.0, 'gamma': 1.0, 'use_write_gate': False, 'lambda0': 0.1}
    make(root, 'vla-v3', v | n, mixed)
    make(root, 'vla-v3-no-conv', v | n | {'use_short_conv': False, 'use_output_gate': False, 'lambda0': 10.0,
                                          'num_heads': 4, 'expand_v': 2.0, 'norm_eps': 1e-5})

    v = {'model_type': 'rwkv7', 'head_dim': 16, 'num_heads': 2, 'value_dim': [32, 32], 'hidden_act': 'sqrelu'}
    make(root, 'rwkv7-wide-values', v | {'value_dim': [64, 64, 64], 'num_hidden_layers': 3, 'fuse_norm': True}, mixed)
    make(root, 'rwkv7-no-pre-norm', v | {'norm_first': False, 'norm_bias': False, 'fuse_norm': False, 'norm_eps': 1e-3,
                                         'head_dim': None, 'num_heads': 4, 'value_dim': None}, 'F32')
    make(root, 'rwkv7-joined-shifts', v | {'head_dim': 8, 'value_dim': 16}, 'F16', joined_shifts)
    make(root, 'rwkv7-hybrid', v | {'num_hidden_layers': 3, 'value_dim': None, 'attn': {
        'layers': [1], 'num_heads': 2, 'num_kv_heads': 1, 'qkv_bias': True, 'window_size': 6}})
    make(root, 'rwkv7-default-head-dim', {n: x for n, x in v.items() if n != 'head_dim'} |
         {'hidden_size': 64, 'value_dim': None, 'intermediate_size': 16}, length=24)


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(__file__)), 'goldens'))
