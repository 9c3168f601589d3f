"""What the float64 references share: functions, the steps of a state, and the skeleton around the mixers."""
import math

import numpy as np

F = np.float64


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def logsigmoid(x):
    return -softplus(-x)


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


def layernorm(x, w, b, eps):
    c = x - x.mean(-1, keepdims=True)
    y = c / np.sqrt((c * c).mean(-1, keepdims=True) + eps)
    y = y if w is None else y * w
    return y if b is None else y + b


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


class Model:
    forget = False
    root, eps_default = 'model.', 1e-6

    def __init__(self, cfg, w):
        self.c, self.w = cfg, w
        self.prefix = '' if 'embeddings.weight' in w else self.root
        self.D, self.L = cfg['hidden_size'], cfg['num_hidden_layers']
        self.eps = cfg.get('norm_eps', cfg.get('rms_norm_eps', cfg.get('layer_norm_epsilon', self.eps_default)))
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

    def proj(self, i, name, x, st, act, has_conv=True):
        """name in q, k, v, ...: projection, short convolution if the model has one, activation."""
        y = self.lin(i, f'attn.{name}_proj', x)
        if self.c.get('use_short_conv', has_conv):
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

    def hybrid(self, i):
        """The object of config field attn that lists layer i, if any."""
        specs = self.c.get('attn') or []
        return next((a for a in (specs if isinstance(specs, list) else [specs]) if i in a['layers']), None)

    def attention(self, i, a, x, st):
        """Softmax attention over the newest window_size tokens; st['kv']: those, oldest first."""
        H, Hk = a['num_heads'], a.get('num_kv_heads') or a['num_heads']
        d, base = self.D // H, a.get('rope_theta', 10000.0)
        q = rotary(self.lin(i, 'attn.q_proj', x).reshape(H, d), st['n'], base)
        k = rotary(self.lin(i, 'attn.k_proj', x).reshape(Hk, d), st['n'], base)
        v = self.lin(i, 'attn.v_proj', x).reshape(Hk, d)
        st['kv'] = ([] if self.forget else st.get('kv', [])) + [(k, v)]
        st['kv'] = st['kv'][-a['window_size']:]
        k, v = (np.repeat(np.stack(part), H // Hk, 1) for part in zip(*st['kv']))
        p = softmax(np.einsum('hd,jhd->hj', q, k) * d ** -0.5)
        return self.lin(i, 'attn.o_proj', np.einsum('hj,jhd->hd', p, v).ravel())

    def norm_weight(self, i, *names):
        return next((self.t(i, n) for n in names if self.has(i, n)), None)

    def step(self, token, state):
        h = self.emb[token]
        for i in range(self.L):
            p, hybrid = f'{self.prefix}layers.{i}.', self.hybrid(i)
            x = self.norm(p + 'attn_norm', h)
            h = h + (self.attention(i, hybrid, x, state[i]) if hybrid else self.mixer(i, x, state[i]))
            h = h + self.mlp(i, self.norm(p + 'mlp_norm', h))
            state[i]['n'] += 1
        return self.head @ self.norm(self.prefix + 'norm', h)

    def norm(self, name, x):
        """A block's norm, by norm_type."""
        w, kind = self.w, self.c.get('norm_type', 'rmsnorm')
        if kind == 'rmsnorm':
            return rmsnorm(x, w[name + '.weight'], self.eps)
        y = w[name + '.alpha'] * x
        y = np.tanh(y) if kind == 'dyt' else np.vectorize(math.erf)(y + w[name + '.shift'])
        return w[name + '.weight'] * y + w[name + '.bias']

    def run(self, tokens):
        st = self.new_state()
        return np.stack([self.step(int(t), st) for t in tokens])
