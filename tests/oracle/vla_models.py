"""VLA (arXiv 2605.11196) in all its modes, as fla_models.py has the others."""
import math

import numpy as np

from model import ACT, Model, elu1, read_state, sigmoid, silu


def unit(x, eps=1e-12):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), eps)


class VLA(Model):
    """A = (mu-weighted sum of u u^T + lambda0 I)^-1 by Sherman-Morrison, per head; S is written along A k^."""
    expand_k, expand_v = 1.0, 1.0

    def penalize(self, A, h, u, least=1.0):
        """Adds u u^T to the inverse of A[h]; returns the new A[h] u."""
        y = A[h] @ u
        y = y / max(1 + u @ y, least)
        A[h] = A[h] - np.outer(y, A[h] @ u)
        A[h] = (A[h] + A[h].T) / 2
        return y

    def write(self, S, h, w, e, beta, v):
        S[h] += np.outer(w, beta * (v - e @ S[h]))

    def mixer(self, i, x, st):
        c = self.c
        self.heads()
        H, K, V = self.H, self.K, self.V
        act = silu if c.get('use_short_conv', True) else ACT['identity']
        q = self.proj(i, 'q', x, st, act).reshape(H, K)
        k = self.proj(i, 'k', x, st, act).reshape(H, K)
        v = self.proj(i, 'v', x, st, act).reshape(H, V)
        S = self.S(st, H, K, V)
        if self.forget:
            st.pop('A', None), st.pop('z', None)
        A = st.setdefault('A', np.stack([np.eye(K) / c.get('lambda0', 0.5)] * H))
        advance = self.v3 if c.get('mode') == 'v3' else self.others
        o = advance(i, x, st, A, S, q, k, v)
        return self.out(i, o, x, self.t(i, 'attn.o_norm.weight'), c.get('use_output_gate', True))

    def others(self, i, x, st, A, S, q, k, v):
        c, mode = self.c, self.c.get('mode', 'star')
        H, K = k.shape
        if c.get('feature_map') == 'elu':
            q, k = elu1(q), elu1(k)
        b = sigmoid(self.lin(i, 'attn.b_proj', x)) if c.get('use_write_gate', True) else np.ones(H)
        mu, k, o = c.get('mu', 0.99), unit(k, 1e-6), np.zeros_like(v)
        A /= mu
        leak = np.zeros(K)
        leak[st['n'] % K] = math.sqrt((1 - mu) * c.get('lambda0', 0.5) * K)
        S *= c.get('gamma', 1.0)
        for h in range(H):
            if mu < 1:
                a = self.penalize(A, h, leak)
                if mode == 'rls':
                    self.write(S, h, a, leak, 1.0, 0.0)
            self.penalize(A, h, k[h])
            a = A[h] @ k[h]
            if mode in ('star', 'sym'):
                w = unit(a)
                self.write(S, h, w, w, b[h] * (k[h] @ w if mode == 'star' else 1), v[h])
                o[h] = unit(A[h] @ q[h]) @ S[h]
            else:
                scale = {'unit': np.linalg.norm(a), 'exact': k[h] @ a, 'rls': 1.0}[mode]
                self.write(S, h, a / max(scale, 1e-12), k[h], b[h], v[h])
                o[h] = q[h] @ S[h]
        return o

    def v3(self, i, x, st, A, S, q, k, v):
        H, K = k.shape
        u = unit(np.einsum('hij,hj->hi', self.t(i, 'attn.u_proj.weight'), k), 1e-6) / math.sqrt(K)
        q, k = elu1(q), elu1(k)
        z = st.setdefault('z', np.zeros((H, K)))
        z += k
        key = unit(k, 1e-6)
        for h in range(H):
            self.penalize(A, h, u[h], 1e-4)
            if (st['n'] + 1) % 20 == 0:
                A[h] += 1e-3 * np.eye(K)
            self.write(S, h, unit(A[h] @ key[h]), key[h], 1.0, v[h])
        return read_state(q, S) / np.maximum((q * z).sum(-1, keepdims=True), 1e-6)
