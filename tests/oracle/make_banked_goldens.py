"""As make_goldens.py, for the memories with several states a head: long enough for many blocks, for carries between
the levels and for a far past.  python3 tests/oracle/make_banked_goldens.py [DIR]
"""
import os
import sys

import numpy as np

import banked_models  # registers its models
from make_goldens import make, mixed
from tensor_shapes import mamba2_mixer_tensors

SIZES = {'hidden_size': 16, 'vocab_size': 32, 'intermediate_size': 24, 'num_heads': 2}


def convolved_heads_tensors(c):
    """name -> shape"""
    D, H, m, V = c['hidden_size'], c['num_heads'], c['model_type'], c['vocab_size']
    k, v = round(D * c.get('expand_k', 1)), round(D * c.get('expand_v', 1))
    t = {'q_proj.weight': (k, D), 'k_proj.weight': (k, D), 'v_proj.weight': (v, D), 'o_proj.weight': (D, v),
         'o_norm.weight': (v // H,)}
    if c.get('use_output_gate', True):
        t['g_proj.weight'] = (v, D)
    if c.get('use_short_conv', True):
        t |= {f'{s}_conv1d.weight': (n, 1, c.get('conv_size', 4)) for s, n in (('q', k), ('k', k), ('v', v))}
    if m == 'vort':
        t |= {'alpha_proj.weight': (H, D), 'alpha_proj.bias': (H,)}
    else:
        levels, hidden = c['num_levels'], c.get('lambda_hidden', 64)
        t |= {'a_proj.weight': (H, D), 'A_log': (H,), 'dt_bias': (H,), 'l_proj.weight': (H * levels, D)}
        if c['transition'] == 'delta':
            t['b_proj.weight'] = (H, D)
        if c.get('lambda_mode') == 'fixed':
            t['L'] = (H, levels)
        else:
            t |= {'lambda_mlp.0.weight': (hidden, levels), 'lambda_mlp.0.bias': (hidden,),
                  'lambda_mlp.2.weight': (levels, hidden), 'lambda_mlp.2.bias': (levels,)}
    return block_tensors(c, 'model.', 'attn.', t, {'attn_norm': D, 'mlp_norm': D}, {'norm': D})


def block_tensors(c, root, mixer, mixer_tensors, layer_norms, norms):
    D, size = c['hidden_size'], c['intermediate_size']
    out = {root + 'embeddings.weight': (c['vocab_size'], D)}
    if not c.get('tie_word_embeddings'):
        out['lm_head.weight'] = (c['vocab_size'], D)
    extra = {'rmsnorm': {}, 'dyt': {'bias': D, 'alpha': 1}}[c.get('norm_type', 'rmsnorm')]
    for name, width in norms.items():
        out |= {f'{root}{name}.{n}': (w,) for n, w in ({'weight': width} | extra).items()}
    for i in range(c['num_hidden_layers']):
        p = f'{root}layers.{i}.'
        out |= {p + mixer + n: s for n, s in mixer_tensors.items()}
        for name, width in layer_norms.items():
            out |= {f'{p}{name}.{n}': (w,) for n, w in ({'weight': width} | extra).items()}
        out |= {p + 'mlp.gate_proj.weight': (size, D), p + 'mlp.up_proj.weight': (size, D),
                p + 'mlp.down_proj.weight': (D, size)}
    return out


def log_linear_mamba2_tensors(c):
    D, levels = c['hidden_size'], 15
    t = mamba2_mixer_tensors(c)
    heads, columns = t['A_log'][0], t['in_proj.weight'][0]
    t |= {'in_proj.weight': (columns + levels * heads, D), 'L': (heads, levels)}
    return block_tensors(c, 'backbone.', 'mixer.', t, {'mixer_norm': D, 'mlp_norm': D}, {'norm_f': D})


def slow(values, rng):
    """Decays that leave something of hundreds of tokens ago; keys small enough for a stable delta rule."""
    for n, v in values.items():
        if n.endswith('A_log'):
            values[n] = rng.uniform(-7, -3, v.shape)
        elif n.endswith('.alpha'):
            values[n] = np.full(v.shape, 0.7)
        elif n.endswith('k_proj.weight'):
            values[n] = 0.5 * v
    return values


def main(root):
    log_linear = SIZES | {'model_type': 'log_linear', 'num_levels': 15, 'transition': 'scalar'}

    def make_log_linear(name, config, dtype='BF16'):
        make(root, 'log_linear-' + name, log_linear | config, dtype, slow, tensors=convolved_heads_tensors, length=200)
    make_log_linear('delta', {'transition': 'delta'})
    make_log_linear('delta-fixed-no-norm', {'transition': 'delta', 'lambda_mode': 'fixed', 'num_levels': 7,
                                            'qk_norm': None, 'expand_k': 0.5, 'expand_v': 1.5,
                                            'use_output_gate': False}, mixed)
    make_log_linear('fixed-four-levels', {'lambda_mode': 'fixed', 'num_levels': 4, 'use_short_conv': False})
    make_log_linear('dyt-normed', {'norm_type': 'dyt', 'qk_norm': 'l2', 'num_levels': 6, 'lambda_hidden': 16,
                                   'conv_size': 3, 'tie_word_embeddings': True}, 'F32')

    mamba = SIZES | {'model_type': 'log_linear_mamba2', 'expand': 2, 'head_dim': 8, 'state_size': 8, 'conv_kernel': 4,
                     'n_groups': 1, 'num_heads': 77, 'hidden_act': 'silu', 'residual_in_fp32': False, 'chunk_size': 64}
    make(root, 'log_linear_mamba2-one-group', mamba, 'BF16', slow, tensors=log_linear_mamba2_tensors, length=150)
    make(root, 'log_linear_mamba2-two-groups', mamba | {'n_groups': 2, 'D_has_hdim': True, 'dt_limit': [0.1, 1.5],
                                                        'use_conv_bias': False, 'norm_before_gate': True},
         mixed, slow, tensors=log_linear_mamba2_tensors, length=150)

    def make_vort(name, config, dtype, tolerance):
        make(root, 'vort-' + name, SIZES | {'model_type': 'vort', 'norm_eps': 0.01} | config, dtype,
             tensors=convolved_heads_tensors, length=300)
        with open(f'{root}/vort-{name}/tolerance', 'w') as fh:
            fh.write(tolerance + '\n')
    make_vort('plain', {}, 'BF16', '1e-3')
    make_vort('no-normalizer', {'normalizer': False, 'alpha_min': 0.3, 'epsilon': 1e-4, 'horizon': 2000,
                                'use_short_conv': False, 'use_output_gate': False, 'expand_k': 0.5, 'expand_v': 2},
              mixed, '1e-3')


if __name__ == '__main__':
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.dirname(__file__)), 'goldens'))
