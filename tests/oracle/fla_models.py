"""float64, token-by-token reference for checkpoints in the format of flash-linear-attention (numpy only).

    m = load(directory); state = m.new_state(); logits = m.step(token, state)

It shares nothing with the server: one token at a time, the state written for every token, K-first: S[h, k, v].
Families with several states a head are in banked_models.py.
`m.forget` = True clears the recurrent state before every token, which tells how much the logits see of the memory.
"""
import json
import math
import os

import numpy as np

from checkpoint_files import read_checkpoint
from model import (ACT, delta_write, l2norm, layernorm, logsigmoid, Model, read_state, relu, rmsnorm, rotary,
                   sigmoid, silu, softmax, softplus, write_state)
from vla_models import VLA


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
    sizes = 6, 256, 2.0                     # defaults of num_heads, head_dim, expand_v
    query = key = staticmethod(l2norm)

    def strength(self, beta, k):
        return beta

    def decay(self, i, x):
        return -np.exp(self.t(i, 'attn.A_log')) * softplus(self.lin(i, 'attn.a_proj', x) + self.t(i, 'attn.dt_bias'))

    def read(self, i, x, st):
        """The memory's outputs, [HV, V]."""
        c = self.c
        H = c.get('num_heads', self.sizes[0])
        HV, K = c.get('num_v_heads') or H, c.get('head_dim', self.sizes[1])
        V = round(K * c.get('expand_v', self.sizes[2]))
        q, k, v = (self.proj(i, n, x, st, silu) for n in 'qkv')
        q = np.repeat(self.query(q.reshape(H, K)), HV // H, 0) * K ** -0.5
        k = np.repeat(self.key(k.reshape(H, K)), HV // H, 0)
        beta = sigmoid(self.lin(i, 'attn.b_proj', x)) * (2 if c.get('allow_neg_eigval') else 1)
        beta = self.strength(beta, k)
        S = self.S(st, HV, K, V)
        delta_write(S, k, v.reshape(HV, V), beta, np.exp(self.decay(i, x)).reshape(HV, -1))
        return read_state(q, S)

    def mixer(self, i, x, st):
        return self.out(i, self.read(i, x, st), x, self.t(i, 'attn.o_norm.weight'), self.c.get('use_gate', True))


class Kaczmarz(GatedDeltaNet):              # arXiv 2605.08587, equation of beta_t
    key = staticmethod(lambda k: k)

    def query(self, q):
        return l2norm(q) if self.c.get('qk_norm') == 'relaxed_kaczmarz_q_norm' else q

    def strength(self, beta, k):
        return beta / ((k * k).sum(-1) + 1e-6)


class KDA(GatedDeltaNet):
    sizes = 16, 128, 1.0

    def low_rank(self, i, name, x):
        return self.lin(i, name + '.1', self.lin(i, name + '.0', x))

    def decay(self, i, x):
        a = np.exp(self.t(i, 'attn.A_log'))
        f = (self.low_rank(i, 'attn.f_proj', x) + self.t(i, 'attn.dt_bias')).reshape(a.size, -1)
        bound = self.c.get('lower_bound')
        return -a[:, None] * softplus(f) if bound is None else bound * sigmoid(a[:, None] * f)

    def mixer(self, i, x, st):
        y = rmsnorm(self.read(i, x, st), self.t(i, 'attn.o_norm.weight'), self.eps)
        return self.lin(i, 'attn.o_proj', y.ravel() * sigmoid(self.low_rank(i, 'attn.g_proj', x)))


class GLA(Model):
    expand_k, expand_v = 0.5, 1.0

    def mixer(self, i, x, st):
        c = self.c
        self.heads()
        H, Hk, K, V = self.H, self.Hk, self.K, self.V
        act = silu if c.get('use_short_conv', False) else ACT['identity']
        phi = ACT[c.get('feature_map') or 'identity']
        q = phi(self.proj(i, 'q', x, st, act, False)).reshape(H, K)
        k = phi(self.proj(i, 'k', x, st, act, False)).reshape(Hk, K)
        v = self.proj(i, 'v', x, st, act, False).reshape(Hk, V)
        g = logsigmoid(self.lin(i, 'attn.gk_proj.1', self.lin(i, 'attn.gk_proj.0', x))).reshape(Hk, K) / 16
        if c.get('clamp_min') is not None:
            g = np.maximum(g, c['clamp_min'])
        k, v, g = (np.repeat(a, H // Hk, 0) for a in (k, v, g))
        S = self.S(st, H, K, V)
        write_state(S, k, v, np.exp(g))
        return self.out(i, read_state(q * K ** -0.5, S), x,
                        self.norm_weight(i, 'attn.g_norm_swish_gate.weight', 'attn.g_norm.weight'),
                        c.get('use_output_gate', True))


class HGRN2(Model):
    def mixer(self, i, x, st):
        c = self.c
        K = c.get('expand_ratio', 128) or self.D // c['num_heads']
        H = self.D // K
        q, f, v = (self.proj(i, n, x, st, ACT['identity'], False) for n in 'qfi')
        g = logsigmoid(f)
        if i > 0 and c.get('use_lower_bound', True):
            p = softmax(self.w[self.prefix + 'lower_bounds'], 0)
            bound = p[1:i + 1].sum(0)
            g = np.log(bound + (1 - bound) * sigmoid(f))
        S = self.S(st, H, K, K)
        write_state(S, -np.expm1(g).reshape(H, K), v.reshape(H, K), np.exp(g).reshape(H, K))
        o = read_state(silu(q).reshape(H, K) * K ** -0.5, S).ravel()
        return self.lin(i, 'attn.o_proj', rmsnorm(o, self.norm_weight(i, 'attn.g_norm.weight'), 1e-5))


class Mamba2(Model):
    root, eps_default = 'backbone.', 1e-5

    def mixer(self, i, x, st):
        c = self.c
        inner, P = int(c.get('expand', 2) * self.D), c.get('head_dim', 64)
        H, G, N = inner // P, c.get('n_groups', 1), c.get('state_size', 128)
        z, xbc, dt = np.split(self.lin(i, 'mixer.in_proj', x), [inner, 2 * (inner + G * N)])
        dt = dt[:H]
        v, k, q = np.split(self.conv(i, 'mixer.conv1d', xbc, st, silu), [inner, inner + G * N])
        v, k, q = v.reshape(H, P), np.repeat(k.reshape(G, N), H // G, 0), np.repeat(q.reshape(G, N), H // G, 0)
        limit = c.get('dt_limit', c.get('time_step_limit', (0, {'__float__': 'Infinity'})))
        low, high = (float(a['__float__'] if isinstance(a, dict) else a) for a in limit)
        dt = np.clip(softplus(dt + self.t(i, 'mixer.dt_bias')), low, high)[:, None]
        g = -np.exp(self.t(i, 'mixer.A_log')) * dt[:, 0]
        d = self.t(i, 'mixer.D')
        y = (self.memory(i, x, st, q, k, dt * v, g) + d.reshape(H, -1) * v).reshape(G, -1)
        z = silu(z).reshape(G, -1)
        if not c.get('rmsnorm', c.get('rms_norm', True)):
            y = y * z
        else:
            w = self.t(i, 'mixer.norm.weight').reshape(G, -1)
            y = rmsnorm(y, w, self.eps) * z if c.get('norm_before_gate') else rmsnorm(y * z, w, self.eps)
        return self.lin(i, 'mixer.out_proj', y.ravel())

    def memory(self, i, x, st, q, k, v, g):
        S = self.S(st, k.shape[0], k.shape[1], v.shape[1])
        write_state(S, k, v, np.exp(g)[:, None])
        return read_state(q, S)

    def step(self, token, state):
        h = self.emb[token]
        for i in range(self.L):
            h = h + self.mixer(i, rmsnorm(h, self.t(i, 'norm.weight'), self.eps), state[i])
            state[i]['n'] += 1
        return self.head @ rmsnorm(h, self.w[self.prefix + 'norm_f.weight'], self.eps)


class RWKV7(Model):
    eps_default = 1e-5

    def norm(self, name, x):
        return layernorm(x, self.w[name + '.weight'], self.w.get(name + '.bias'), self.eps)

    def shifted(self, name, x, st):
        """x(t - 1) - x(t)"""
        before = st.get(name, np.zeros_like(x))
        st[name] = x
        return before - x

    def lora(self, i, s, x, act=ACT['identity']):
        return self.lin(i, f'attn.{s}_lora.lora.2', act(self.lin(i, f'attn.{s}_lora.lora.0', x)))

    def kappa(self, i, k, H):
        k = (k * self.t(i, 'attn.k_k')).reshape(H, -1)
        return l2norm(k) if self.c.get('fuse_norm', True) else k / np.maximum(np.linalg.norm(k, axis=-1, keepdims=True),
                                                                              1e-12)

    def mixer(self, i, x, st, shared):
        K = self.c.get('head_dim', 64) or self.D // self.c['num_heads']
        H = self.D // K
        if self.has(i, 'attn.x_x'):         # older files
            mix = dict(zip('rwkvag', self.t(i, 'attn.x_x')))
        else:
            mix = {s: self.t(i, f'attn.x_{s}').ravel() for s in 'rwkvag'}
        d = self.shifted('attn', x, st)
        x = {s: x + d * m for s, m in mix.items()}
        r, k, v = (self.lin(i, f'attn.{s}_proj', x[s]) for s in 'rkv')
        w = np.exp(-math.exp(-0.5) * sigmoid(self.lora(i, 'w', x['w'], np.tanh))).reshape(H, K)
        a, g = sigmoid(self.lora(i, 'a', x['a'])), self.lora(i, 'g', x['g'], sigmoid)
        first = shared.setdefault('v', v)
        if i > 0:
            v = v + (first - v) * sigmoid(self.lora(i, 'v', x['v']))
        kappa = self.kappa(i, k, H)
        k = (k * (1 + (a - 1) * self.t(i, 'attn.k_a'))).reshape(H, K)
        r, a, v = r.reshape(H, K), a.reshape(H, K), v.reshape(H, -1)
        S = self.S(st, H, K, v.shape[1])
        old = read_state(kappa, S)          # before the decay
        write_state(S, kappa * a, -old, w)
        write_state(S, k, v)
        o = layernorm(read_state(r, S), None, None, K * self.eps).ravel()
        o = o * self.t(i, 'attn.g_norm.weight') + self.t(i, 'attn.g_norm.bias')
        bonus = (r * k * self.t(i, 'attn.r_k')).sum(-1, keepdims=True) * v
        return self.lin(i, 'attn.o_proj', (o + bonus.ravel()) * g)

    def ffn(self, i, x, st):
        d = self.shifted('ffn', x, st)
        return self.lin(i, 'ffn.value', relu(self.lin(i, 'ffn.key', x + d * self.t(i, 'ffn.x_k'))) ** 2)

    def step(self, token, state):
        h, shared = self.emb[token], {}
        for i in range(self.L):
            p = f'{self.prefix}layers.{i}.'
            if i == 0 and self.c.get('norm_first', True):
                h = self.norm(p + 'pre_norm', h)
            x, hybrid = self.norm(p + 'attn_norm', h), self.hybrid(i)
            h = h + (self.attention(i, hybrid, x, state[i]) if hybrid else self.mixer(i, x, state[i], shared))
            h = h + self.ffn(i, self.norm(p + 'ffn_norm', h), state[i])
            state[i]['n'] += 1
        return self.head @ self.norm(self.prefix + 'norm', h)


MODELS = {'retnet': RetNet, 'linear_attn': LinearAttn, 'delta_net': DeltaNet, 'gated_deltanet': GatedDeltaNet,
          'gla': GLA, 'hgrn2': HGRN2, 'kda': KDA, 'mamba2': Mamba2, 'rwkv7': RWKV7,
          'kla': Kaczmarz, 'vla': VLA}


def load(directory):
    with open(os.path.join(directory, 'config.json')) as fh:
        cfg = json.load(fh)
    return MODELS[cfg['model_type']](cfg, read_checkpoint(directory))
