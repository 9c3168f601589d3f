"""float64 references of the models whose memories have several states a head, by their definitions over all tokens
so far: no levels or nodes are kept, so nothing is shared with how a server keeps them. Importing this adds them to
fla_models.load.

log_linear, log_linear_mamba2: o_t = sum_s lambda_t[level(t, s)] beta_s v_s (k_s . G_{t..s+1} q_t).
vort: o_t = sum_i w_{t-i}(alpha_i) (phi(k_i) . phi(q_t)) v_i, the weights from the Gamma function.
"""
import math

import numpy as np

import fla_models
from fla_models import Mamba2
from model import ACT, l2norm, Model, rmsnorm, sigmoid, silu, softplus


def fenwick_level(t, s):
    """0 for the token itself, else 1 + the bit where the buckets of t and s part."""
    if s == t:
        return 0
    while True:
        top = t.bit_length() - 1
        if s < 1 << top:
            return top + 1
        t, s = t - (1 << top), s - (1 << top)


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


class Past:
    """Lists of what the tokens so far brought, each [H, ...]."""

    def __init__(self, model, st):
        if model.forget or 'past' not in st:
            st['past'] = []
        self.tokens, self.t = st['past'], st['n']

    def append(self, **token):
        self.tokens.append((self.t, token))

    def log_linear(self, q, lam, levels, drop=False):
        """Reads with lam [H, levels]: levels from `levels` on count as the last, or as nothing."""
        x, o = q.copy(), 0
        for s, token in reversed(self.tokens):
            level = fenwick_level(self.t, s)
            beta = token.get('beta')
            score = (token['k'] * x).sum(-1)
            if level < levels or not drop:
                weight = lam[:, min(level, levels - 1)] * score * (1 if beta is None else beta)
                o = o + weight[:, None] * token['v']
            if beta is not None:
                x = x - (beta * score)[:, None] * token['k']
            x = x * np.exp(token['g'])[:, None]
        return o

    def power_law(self, q):
        """Numerator and denominator."""
        num, den = 0, 0
        for i, token in self.tokens:
            lag = self.t - i
            w = np.array([math.exp(math.lgamma(lag + a) - math.lgamma(a) - math.lgamma(lag + 1))
                          for a in token['alpha']])
            score = w * (token['k'] * q).sum(-1)
            num, den = num + score[:, None] * token['v'], den + score
        return num, den


class ConvolvedHeads(Model):
    expand_k, expand_v = 1.0, 1.0

    def qkv(self, i, x, st):
        self.heads()
        act = silu if self.c.get('use_short_conv', True) else ACT['identity']
        q, k, v = (self.proj(i, n, x, st, act) for n in 'qkv')
        return q.reshape(self.H, self.K), k.reshape(self.H, self.K), v.reshape(self.H, self.V)

    def gated(self, i, o, x):
        return self.out(i, o, x, self.t(i, 'attn.o_norm.weight'), self.c.get('use_output_gate', True))


class LogLinear(ConvolvedHeads):
    def mixer(self, i, x, st):
        c = self.c
        delta, levels = c.get('transition', 'scalar') == 'delta', c.get('num_levels', 15)
        q, k, v = self.qkv(i, x, st)
        if c.get('qk_norm', 'l2' if delta else None) == 'l2':
            q, k = l2norm(q), l2norm(k)
        g = -np.exp(self.t(i, 'attn.A_log')) * softplus(self.lin(i, 'attn.a_proj', x) + self.t(i, 'attn.dt_bias'))
        dl = self.lin(i, 'attn.l_proj', x).reshape(self.H, levels)
        if c.get('lambda_mode', 'adaptive') == 'fixed':
            lam = softplus(self.t(i, 'attn.L') * dl)
        else:
            w, p = self.w, f'{self.prefix}layers.{i}.attn.lambda_mlp.'
            hidden = gelu(dl @ w[p + '0.weight'].T + w[p + '0.bias'])
            lam = softplus(hidden @ w[p + '2.weight'].T + w[p + '2.bias'])
        past = Past(self, st)
        past.append(k=k, v=v, g=g, **({'beta': sigmoid(self.lin(i, 'attn.b_proj', x))} if delta else {}))
        return self.gated(i, past.log_linear(q * self.K ** -0.5, lam, levels), x)


class LogLinearMamba2(Mamba2):
    levels = 15

    def mixer_tail(self, i, x):
        return self.lin(i, 'mixer.in_proj', x)[-self.levels * self.t(i, 'mixer.A_log').size:]

    def memory(self, i, x, st, q, k, v, g):
        lam = softplus(self.t(i, 'mixer.L') * self.mixer_tail(i, x).reshape(-1, self.levels))
        past = Past(self, st)
        past.append(k=k, v=v, g=g)
        return past.log_linear(q, lam, self.levels, drop=True)

    def step(self, token, state):
        h = self.emb[token]
        for i in range(self.L):
            h = h + self.mixer(i, rmsnorm(h, self.t(i, 'mixer_norm.weight'), self.eps), state[i])
            h = h + self.mlp(i, rmsnorm(h, self.t(i, 'mlp_norm.weight'), self.eps))
            state[i]['n'] += 1
        return self.head @ rmsnorm(h, self.w[self.prefix + 'norm_f.weight'], self.eps)


class Vort(ConvolvedHeads):
    def mixer(self, i, x, st):
        low = self.c.get('alpha_min', 0.05)
        q, k, v = self.qkv(i, x, st)
        q, k = ACT['elu'](q), ACT['elu'](k)
        past = Past(self, st)
        past.append(k=k, v=v, alpha=low + (1 - low) * sigmoid(self.lin(i, 'attn.alpha_proj', x)))
        num, den = past.power_law(q)
        return self.gated(i, num / np.maximum(den, 1e-6)[:, None] if self.c.get('normalizer', True) else num, x)


fla_models.MODELS |= {'log_linear': LogLinear, 'log_linear_mamba2': LogLinearMamba2, 'vort': Vort}
