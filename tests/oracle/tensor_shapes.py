"""Names and shapes of the tensors that a config asks for, in the layout that flash-linear-attention writes today."""


def mixer_tensors(c):
    """name -> shape: the mixers with one decay a head, or none."""
    D, H, m = c['hidden_size'], c.get('num_heads', c.get('num_attention_heads')), c['model_type']
    Hk, HV = c.get('num_kv_heads') or H, c.get('num_v_heads') or H
    if m in ('gated_deltanet', 'kla'):
        K = c['head_dim']
        V = round(K * c['expand_v'])
    else:
        K, V = round(D * c['expand_k']) // H, round(D * c['expand_v']) // H
        HV = H
    if m == 'delta_net':
        Hk = H
    q, k = H * K, (H if m in ('gated_deltanet', 'kla') else Hk) * K
    v = (HV if m in ('gated_deltanet', 'kla', 'delta_net') else Hk) * V
    t = {'q_proj.weight': (q, D), 'k_proj.weight': (k, D), 'v_proj.weight': (v, D), 'o_proj.weight': (D, HV * V)}
    gated = {'retnet': c.get('use_output_gate', True), 'delta_net': c.get('use_gate', False),
             'gated_deltanet': c.get('use_gate', True), 'kla': c.get('use_gate', True)}.get(m, False)
    if gated:
        t['g_proj.weight'] = (HV * V, D)
    if m in ('delta_net', 'gated_deltanet', 'kla'):
        if c.get('use_short_conv', True):
            W = c.get('conv_size', 4)
            t |= {f'{s}_conv1d.weight': (n, 1, W) for s, n in (('q', q), ('k', k), ('v', v))}
        if m in ('gated_deltanet', 'kla') or c.get('use_beta', True):
            t['b_proj.weight'] = (HV, D)
        t['o_norm.weight'] = (V,)
    if m in ('gated_deltanet', 'kla'):
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
    return t


def channel_mixer_tensors(c):
    """name -> shape: the mixers with one decay a key channel."""
    D, m = c['hidden_size'], c['model_type']
    if m == 'hgrn2':
        K = c.get('expand_ratio', 128) or D // c['num_heads']
        streams, t = {s: (D // K) * K for s in 'qfi'}, {'o_proj.weight': (D, D)}
    elif m == 'gla':
        H = c['num_heads']
        Hk, K, V = c.get('num_kv_heads') or H, round(D * c['expand_k']) // H, round(D * c['expand_v']) // H
        streams = {'q': H * K, 'k': Hk * K, 'v': Hk * V}
        t = {'gk_proj.0.weight': (16, D), 'gk_proj.1.weight': (Hk * K, 16), 'gk_proj.1.bias': (Hk * K,),
             'o_proj.weight': (D, H * V)}
        if c.get('use_output_gate', True):
            t['g_proj.weight'] = (H * V, D)
    else:
        H, K = c['num_heads'], c['head_dim']
        HV, V = c.get('num_v_heads') or H, round(K * c['expand_v'])
        streams = {'q': H * K, 'k': H * K, 'v': HV * V}
        t = {'f_proj.0.weight': (V, D), 'f_proj.1.weight': (HV * K, V), 'b_proj.weight': (HV, D), 'A_log': (HV,),
             'dt_bias': (HV * K,), 'g_proj.0.weight': (V, D), 'g_proj.1.weight': (HV * V, V),
             'g_proj.1.bias': (HV * V,), 'o_norm.weight': (V,), 'o_proj.weight': (D, HV * V)}
    if m != 'kda' and c.get('elementwise_affine', True):
        t['g_norm.weight'] = (D if m == 'hgrn2' else V,)
    t |= {f'{s}_proj.weight': (n, D) for s, n in streams.items()}
    if c.get('use_short_conv', m == 'kda'):
        t |= {f'{s}_conv1d.weight': (n, 1, c.get('conv_size', 4)) for s, n in streams.items()}
    return t


def mamba2_mixer_tensors(c):
    D, G, N = c['hidden_size'], c['n_groups'], c['state_size']
    inner = int(c['expand'] * D)
    H, mixed = inner // c['head_dim'], inner + 2 * G * N
    t = {'in_proj.weight': (inner + mixed + H, D), 'conv1d.weight': (mixed, 1, c['conv_kernel']), 'A_log': (H,),
         'dt_bias': (H,), 'D': (inner if c.get('D_has_hdim') else H,), 'out_proj.weight': (D, inner)}
    if c.get('use_conv_bias', True):
        t['conv1d.bias'] = (mixed,)
    if c.get('use_bias'):
        t |= {'in_proj.bias': (inner + mixed + H,), 'out_proj.bias': (D,)}
    if c.get('rmsnorm', c.get('rms_norm', True)):
        t['norm.weight'] = (inner,)
    return t


def mamba2_tensors_of(c):
    D = c['hidden_size']
    out = {'backbone.embeddings.weight': (c['vocab_size'], D), 'backbone.norm_f.weight': (D,)}
    if not c.get('tie_word_embeddings'):
        out['lm_head.weight'] = (c['vocab_size'], D)
    for i in range(c['num_hidden_layers']):
        p = f'backbone.layers.{i}.'
        out |= {p + 'norm.weight': (D,)} | {p + 'mixer.' + n: s for n, s in mamba2_mixer_tensors(c).items()}
    return out


def hybrid_layers(c):
    """layer -> its object in config field attn"""
    attn = c.get('attn') or []
    return {i: a for a in (attn if isinstance(attn, list) else [attn]) for i in a['layers']}


def attention_tensors(c, a):
    D = c['hidden_size']
    rows = (a.get('num_kv_heads') or a['num_heads']) * (D // a['num_heads'])
    t = {'q_proj.weight': (D, D), 'k_proj.weight': (rows, D), 'v_proj.weight': (rows, D), 'o_proj.weight': (D, D)}
    if a.get('qkv_bias'):
        t |= {'q_proj.bias': (D,), 'k_proj.bias': (rows,), 'v_proj.bias': (rows,)}
    return t


def vla_mixer_tensors(c):
    D, H = c['hidden_size'], c['num_heads']
    K, V = round(D * c['expand_k']) // H, round(D * c['expand_v']) // H
    streams = {'q': H * K, 'k': H * K, 'v': H * V}
    t = {f'{s}_proj.weight': (n, D) for s, n in streams.items()}
    t |= {'o_norm.weight': (V,), 'o_proj.weight': (D, H * V)}
    if c.get('use_short_conv', True):
        t |= {f'{s}_conv1d.weight': (n, 1, c.get('conv_size', 4)) for s, n in streams.items()}
    if c.get('use_write_gate', True):
        t |= {'b_proj.weight': (H, D), 'b_proj.bias': (H,)}
    if c.get('use_output_gate', True):
        t['g_proj.weight'] = (H * V, D)
    if c.get('mode') == 'v3':
        t['u_proj.weight'] = (H, K, K)
    return t


def rwkv7_tensors_of(c):
    D, L, size = c['hidden_size'], c['num_hidden_layers'], c['intermediate_size']
    K = c.get('head_dim', 64) or D // c['num_heads']
    Dv = c['value_dim'][0] if isinstance(c['value_dim'], list) else c['value_dim'] or D
    names = ['pre_norm', 'attn_norm', 'ffn_norm'] if c.get('norm_first', True) else ['attn_norm', 'ffn_norm']
    norms = {f'layers.{i}.{n}' for i in range(L) for n in names if i == 0 or n != 'pre_norm'} | {'norm'}
    out = {'model.embeddings.weight': (c['vocab_size'], D), 'lm_head.weight': (c['vocab_size'], D)}
    out |= {f'model.{n}.weight': (D,) for n in sorted(norms)}
    if c.get('norm_bias', True):
        out |= {f'model.{n}.bias': (D,) for n in sorted(norms)}
    for i in range(L):
        t = {f'x_{s}': (1, 1, D) for s in 'rwkvag'} | {'k_k': (D,), 'k_a': (D,), 'r_k': (D // K, K)}
        t |= {'r_proj.weight': (D, D), 'k_proj.weight': (D, D), 'v_proj.weight': (Dv, D), 'o_proj.weight': (D, Dv),
              'g_norm.weight': (Dv,), 'g_norm.bias': (Dv,)}
        for s, rank, rows in (('w', 6, D), ('a', 10, D), ('v', 7, Dv), ('g', 12, Dv)):
            if s != 'v' or i > 0:
                t |= {f'{s}_lora.lora.0.weight': (rank, D), f'{s}_lora.lora.2.weight': (rows, rank)}
                t |= {f'{s}_lora.lora.2.bias': (rows,)} if s != 'g' else {}
        p = f'model.layers.{i}.'
        hybrid = hybrid_layers(c).get(i)
        out |= {p + 'attn.' + n: s for n, s in (attention_tensors(c, hybrid) if hybrid else t).items()}
        out |= {p + 'ffn.x_k': (D,), p + 'ffn.key.weight': (size, D), p + 'ffn.value.weight': (D, size)}
    return out


def tensors_of(c):
    """name -> shape, of the layout that flash-linear-attention writes today."""
    D, m = c['hidden_size'], c['model_type']
    if m == 'mamba2':
        return mamba2_tensors_of(c)
    if m == 'rwkv7':
        return rwkv7_tensors_of(c)
    mixers = {'gla': channel_mixer_tensors, 'hgrn2': channel_mixer_tensors, 'kda': channel_mixer_tensors,
              'vla': vla_mixer_tensors}
    t = mixers.get(m, mixer_tensors)(c)
    out = {'model.embeddings.weight': (c['vocab_size'], D), 'model.norm.weight': (D,)}
    if m == 'hgrn2' and c.get('use_lower_bound', True):
        out['model.lower_bounds'] = (c['num_hidden_layers'], D)
    if not c.get('tie_word_embeddings'):
        out['lm_head.weight'] = (c['vocab_size'], D)
    hybrid = hybrid_layers(c)
    for i in range(c['num_hidden_layers']):
        p, size = f'model.layers.{i}.', c['intermediate_size']
        out |= {p + 'attn.' + n: s for n, s in (attention_tensors(c, hybrid[i]) if i in hybrid else t).items()}
        out |= {p + 'attn_norm.weight': (D,), p + 'mlp_norm.weight': (D,), p + 'mlp.gate_proj.weight': (size, D),
                p + 'mlp.up_proj.weight': (size, D), p + 'mlp.down_proj.weight': (D, size)}
    return out
