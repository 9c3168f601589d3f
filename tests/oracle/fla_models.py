"""float64, token-by-token reference for checkpoints in the format of flash-linear-attention (numpy only).

    m = load(directory); state = m.new_state(); logits = m.step(token, state)

It shares nothing with the server: one token at a time, the state written for every token, K-first: S[h, k, v].
`m.forget` = True clears the recurrent state before every token, which tells how much the logits see of the memory.
"""
import json
import os
import struct

import numpy as np

F = np.float64


# ------------------------------------------------------------------------------------- files
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
            a = (np.frombuffer(b, '<u2').astype(np.uint32) << 16).view(np.float32).astype(F)
        elif t in ('F16', 'F32', 'F64'):
            a = np.frombuffer(b, {'F16': '<f2', 'F32': '<f4', 'F64': '<f8'}[t]).astype(F)
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


# ------------------------------------------------------------------------------------- functions
def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def silu(x):
    return x * sigmoid(x)


def relu(x):
    return np.maximum(x, 0)


def elu1(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


ACT = {'relu': relu, 'silu': silu, 'swish': silu, 'elu': elu1, 'identity': lambda x: x}


def rmsnorm(x, w, eps):
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if w is None else y * w


def l2norm(x, eps=1e-6):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps)


def rotary(x, position, base=10000.0):
    d = x.shape[-1]
    a = position * base ** (-np.arange(0, d, 2, dtype=F) / d)
    c, s = np.cos(a), np.sin(a)
    x1, x2 = x[..., :d // 2], x[..., d // 2:]
    return np.concatenate([x1 * c - x2 * s, x2 * c + x1 * s], -1)


def read_state(q, S):                       # q [H,K], S [H,K,V] -> [H,V]
    return np.einsum('hk,hkv->hv', q, S)


def write_state(S, k, u, decay=1.0):        # decay broadcasts against [H,K]
    S *= np.broadcast_to(decay, k.shape)[..., None]
    S += k[..., None] * u[..., None, :]


def delta_write(S, k, v, beta, decay=1.0):
    S *= np.broadcast_to(decay, k.shape)[..., None]
    write_state(S, k, beta[:, None] * (v - read_state(k, S)))


# ------------------------------------------------------------------------------------- models
class Model:
    forget = False

    def __init__(self, cfg, w):
        self.c, self.w = cfg, w
        self.prefix = '' if 'embeddings.weight' in w else 'model.'
        self.D, self.L = cfg['hidden_size'], cfg['num_hidden_layers']
        self.eps = cfg.get('norm_eps', cfg.get('rms_norm_eps', 1e-6))
        self.emb = w[self.prefix + 'embeddings.weight']
        self.head = self.emb if cfg.get('tie_word_embeddings') else w['lm_head.weight']

    def t(self, i, name):                   # layer tensor
        return self.w[f'{self.prefix}layers.{i}.{name}']

    def has(self, i, name):
        return f'{self.prefix}layers.{i}.{name}' in self.w

    def lin(self, i, name, x):
        y = self.t(i, name + '.weight') @ x
        return y + self.t(i, name + '.bias') if self.has(i, name + '.bias') else y

    def heads(self):
        self.H = self.c.get('num_heads', self.c.get('num_attention_heads'))
        self.Hk = self.c.get('num_kv_heads') or self.H
        self.K = round(self.D * self.c.get('expand_k', self.expand_k)) // self.H
        self.V = round(self.D * self.c.get('expand_v', self.expand_v)) // self.H

    def mlp(self, i, x):
        g = self.t(i, 'mlp.gate_proj.weight') @ x
        if self.has(i, 'mlp.up_proj.weight'):
            u = self.t(i, 'mlp.up_proj.weight') @ x
        else:                               # files from before February 2025
            g, u = np.split(g, 2)
        return self.t(i, 'mlp.down_proj.weight') @ (silu(g) * u)

    def conv(self, i, name, x, st, act):
        """st[name]: last W-1 inputs, oldest first, [W-1, C]."""
        w = self.t(i, name + '.weight')[:, 0, :]                     # [C, W]
        W = w.shape[1]
        old = st.setdefault(name, np.zeros((W - 1, x.size)))
        xx = np.concatenate([old, x[None]])
        y = (xx * w.T).sum(0)
        if self.has(i, name + '.bias'):
            y = y + self.t(i, name + '.bias')
        st[name] = xx[1:]
        return act(y)

    def proj(self, i, name, x, st, act):
        """name in q, k, v: projection, short convolution if the model has one, activation."""
        y = self.lin(i, f'attn.{name}_proj', x)
        if self.c.get('use_short_conv', True):
            return self.conv(i, f'attn.{name}_conv1d', y, st, act)
        return act(y)

    def new_state(self):
        return [{'n': 0} for _ in range(self.L)]

    def S(self, st, H, K, V):
        if self.forget:
            st.pop('S', None)
        return st.setdefault('S', np.zeros((H, K, V)))

    def out(self, i, o, x, norm, gated):
        """Norm of each head, optional gate from g_proj, o_proj."""
        y = rmsnorm(o, norm, self.eps)
        if gated:
            y = y * silu(self.lin(i, 'attn.g_proj', x)).reshape(y.shape)
        return self.lin(i, 'attn.o_proj', y.ravel())

    def norm_weight(self, i, *names):
        return next((self.t(i, n) for n in names if self.has(i, n)), None)

    def step(self, token, state):
        h = self.emb[token]
        for i in range(self.L):
            h = h + self.mixer(i, rmsnorm(h, self.t(i, 'attn_norm.weight'), self.eps), state[i])
            h = h + self.mlp(i, rmsnorm(h, self.t(i, 'mlp_norm.weight'), self.eps))
            state[i]['n'] += 1
        return self.head @ rmsnorm(h, self.w[self.prefix + 'norm.weight'], self.eps)

    def run(self, tokens):
        st = self.new_state()
        return np.stack([self.step(int(t), st) for t in tokens])


class RetNet(Model):
    expand_k, expand_v = 1.0, 2.0

    def mixer(self, i, x, st):
        self.heads()
        H, Hk, K, V = self.H, self.Hk, self.K, self.V
        q = self.lin(i, 'attn.q_proj', x).reshape(H, K)
        k = self.lin(i, 'attn.k_proj', x).reshape(Hk, K)
        v = self.lin(i, 'attn.v_proj', x).reshape(Hk, V)
        phi = ACT[self.c.get('feature_map') or 'identity']
        q, k = (rotary(phi(a), st['n']) for a in (q, k))
        k, v = np.repeat(k, H // Hk, 0), np.repeat(v, H // Hk, 0)
        S = self.S(st, H, K, V)
        write_state(S, k, v, (1 - 2.0 ** (-5.0 - np.arange(H)))[:, None])
        return self.out(i, read_state(q * K ** -0.5, S), x,
                        self.norm_weight(i, 'attn.g_norm_swish_gate.weight', 'attn.g_norm.weight'),
                        self.c.get('use_output_gate', True))


class LinearAttn(Model):
    expand_k, expand_v = 1.0, 1.0

    def phi(self, i, s, x):
        f = self.c.get('feature_map', 'elementwise_product')
        p = f'attn.feature_map_{s}.'
        if self.c.get('tie_feature_map_qk') and not any(n.startswith(f'{self.prefix}layers.{i}.{p}') for n in self.w):
            p = f'attn.feature_map_{"k" if s == "q" else "q"}.'

        def lin(name):
            y = x @ self.t(i, p + name + '.weight').T
            return y + self.t(i, p + name + '.bias') if self.has(i, p + name + '.bias') else y
        if f in ACT:
            return ACT[f](x)
        if f == 'elementwise_product':
            return lin('layer1') * lin('layer2')
        if f == 't2r':
            return relu(lin('layer'))
        if f == 'hedgehog':
            y = lin('layer')
            return softmax(np.concatenate([2 * y, -2 * y], -1))
        if f == 'dpfp':
            u = np.concatenate([relu(x), -relu(x)], -1)
            return np.concatenate([u * np.roll(u, j, -1) for j in range(1, 5)], -1)
        raise NotImplementedError(f)

    def mixer(self, i, x, st):
        self.heads()
        H, Hk, K, V = self.H, self.Hk, self.K, self.V
        q = self.lin(i, 'attn.q_proj', x).reshape(H, K)
        k = np.repeat(self.lin(i, 'attn.k_proj', x).reshape(Hk, K), H // Hk, 0)
        v = np.repeat(self.lin(i, 'attn.v_proj', x).reshape(Hk, V), H // Hk, 0)
        q, k = self.phi(i, 'q', q), self.phi(i, 'k', k)
        if self.c.get('norm_q'):
            q = q / (q.sum(-1, keepdims=True) + 1e-4)
        if self.c.get('norm_k'):
            k = k / (k.sum(-1, keepdims=True) + 1e-4)
        q = q * q.shape[-1] ** -0.5
        S = self.S(st, H, q.shape[-1], V)
        write_state(S, k, v)
        o = read_state(q, S)
        if self.c.get('norm_feature_map'):
            st['z'] = (0 if self.forget else st.get('z', 0)) + k
            o = o / ((q * st['z']).sum(-1, keepdims=True) + 1e-10)
        return self.out(i, o, x, self.norm_weight(i, 'attn.norm.weight'), False)


class DeltaNet(Model):
    expand_k, expand_v = 1.0, 1.0

    def mixer(self, i, x, st):
        c = self.c
        self.heads()
        H, K, V = self.H, self.K, self.V
        act = ACT[c.get('qk_activation', 'silu')]
        q = self.proj(i, 'q', x, st, act).reshape(H, K)
        k = self.proj(i, 'k', x, st, act).reshape(H, K)
        v = self.proj(i, 'v', x, st, silu).reshape(H, V)
        if c.get('qk_norm', 'l2') == 'l2':
            q, k = l2norm(q), l2norm(k)
        else:
            q, k = q / q.sum(-1, keepdims=True), k / k.sum(-1, keepdims=True)
        beta = sigmoid(self.lin(i, 'attn.b_proj', x)) if c.get('use_beta', True) else np.ones(H)
        if c.get('allow_neg_eigval'):
            beta = 2 * beta
        S = self.S(st, H, K, V)
        delta_write(S, k, v, beta)
        return self.out(i, read_state(q * K ** -0.5, S), x, self.t(i, 'attn.o_norm.weight'),
                        c.get('use_gate', False))


class GatedDeltaNet(Model):
    def mixer(self, i, x, st):
        c = self.c
        H = c.get('num_heads', 6)
        HV, K = c.get('num_v_heads') or H, c.get('head_dim', 256)
        V = round(K * c.get('expand_v', 2.0))
        q, k, v = (self.proj(i, n, x, st, silu) for n in 'qkv')
        q = np.repeat(l2norm(q.reshape(H, K)), HV // H, 0) * K ** -0.5
        k = np.repeat(l2norm(k.reshape(H, K)), HV // H, 0)
        beta = sigmoid(self.lin(i, 'attn.b_proj', x)) * (2 if c.get('allow_neg_eigval') else 1)
        g = -np.exp(self.t(i, 'attn.A_log')) * softplus(self.lin(i, 'attn.a_proj', x) + self.t(i, 'attn.dt_bias'))
        S = self.S(st, HV, K, V)
        delta_write(S, k, v.reshape(HV, V), beta, np.exp(g)[:, None])
        return self.out(i, read_state(q, S), x, self.t(i, 'attn.o_norm.weight'), c.get('use_gate', True))


MODELS = {'retnet': RetNet, 'linear_attn': LinearAttn, 'delta_net': DeltaNet, 'gated_deltanet': GatedDeltaNet}


def load(directory):
    with open(os.path.join(directory, 'config.json')) as fh:
        cfg = json.load(fh)
    return MODELS[cfg['model_type']](cfg, read_checkpoint(directory))
