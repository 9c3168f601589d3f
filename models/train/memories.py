"""Small models of several memories in PyTorch, each in its parallel form: a whole sequence in one block.

`Decoder(config)` is the model of a checkpoint's config.json; its parameters have the names that the
server reads: flash-linear-attention's for `retnet`, `linear_attn` (feature map "elu"), `delta_net` and
`gated_deltanet`, the server's own for `vla` (modes "star" and "v3"), `log_linear` and `vort`.
check_logits.py compares it with what the server computes.

Shapes: x [B, T, D]; q, k, w, e [B, T, H, K]; v, o [B, T, H, V]; a number a head [B, T, H].
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

import retnet
from retnet import Mlp, RMSNorm, linear


def causal(t, device, below=0):
    """[T, T]: 1 where the column is at least `below` before the row."""
    return torch.ones(t, t, device=device).tril(-below)


def additive(q, k, v, weights=1.0):
    """S <- S + k v^T; o = S^T q, where token i reads token j with weights[..., i, j]."""
    scores = torch.einsum("bihk,bjhk->bhij", q, k) * causal(q.shape[1], q.device) * weights
    return torch.einsum("bhij,bjhv->bihv", scores, v)


def fading(log_decay):
    """[B, H, T, T]: what is left at the row's token of what the column's wrote."""
    l = log_decay.cumsum(1).transpose(1, 2)
    return torch.exp((l[..., :, None] - l[..., None, :]).clamp(max=0))


def delta(q, w, e, beta, v, log_decay=None, weights=None):
    """S <- exp(log_decay) S; S <- S + w (beta (v - S^T e))^T; o = S^T q, weights as above.

    What a token writes, u, depends on what all before it wrote: (I + L) u = beta v, L strictly lower.
    """
    t, fade = q.shape[1], 1.0 if log_decay is None else fading(log_decay)
    beta = beta.transpose(1, 2)[..., None]                              # [B, H, T, 1]
    erased = beta * torch.einsum("bihk,bjhk->bhij", e, w) * fade * causal(t, q.device, 1)
    written, one = beta * v.transpose(1, 2), torch.eye(t, device=q.device)
    scores = torch.einsum("bihk,bjhk->bhij", q, w) * fade * causal(t, q.device)
    if weights is None:
        u = torch.linalg.solve_triangular(erased + one, written, upper=False, unitriangular=True)
        return (scores @ u).transpose(1, 2)
    # scores (I + L)^-1: what is left of each token's beta v for the query, after all erasing since.
    left = torch.linalg.solve_triangular(erased + one, scores, upper=False, left=False,
                                         unitriangular=True)
    return ((left * weights) @ written).transpose(1, 2)


def unit(x, least):
    return x / x.norm(dim=-1, keepdim=True).clamp(min=least)


def l2(x):
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


class Mixer(nn.Module):
    """Projections to heads, short convolutions where the config wants them, head norm, gate, output."""

    def __init__(self, c, sizes, conv, gate, norm):
        super().__init__()
        d, (self.heads, self.k, self.v) = c["hidden_size"], sizes
        for name, size in (("q", self.k), ("k", self.k), ("v", self.v)):
            setattr(self, name + "_proj", linear(d, self.heads * size))
            if conv:
                rows = self.heads * size
                setattr(self, name + "_conv1d", nn.Conv1d(rows, rows, c.get("conv_size", 4),
                                                          groups=rows, bias=False))
        if gate:
            self.g_proj = linear(d, self.heads * self.v)
        setattr(self, norm, RMSNorm(self.v, c.get("norm_eps", 1e-6)))
        self.norm_name = norm
        self.o_proj = linear(self.heads * self.v, d)

    def project(self, x, name, activation):
        y = getattr(self, name + "_proj")(x)
        conv = getattr(self, name + "_conv1d", None)
        if conv is not None:
            y = conv(F.pad(y.transpose(1, 2), (conv.kernel_size[0] - 1, 0))).transpose(1, 2)
        return activation(y).view(*x.shape[:2], self.heads, -1)

    def output(self, x, o):
        o = getattr(self, self.norm_name)(o).flatten(2)
        return self.o_proj(o * F.silu(self.g_proj(x)) if hasattr(self, "g_proj") else o)


def expanded(c, heads):
    heads = c.get("num_heads", heads)
    return (heads, *(int(c["hidden_size"] * c.get(f, 1.0)) // heads for f in ("expand_k", "expand_v")))


def identity(x):
    return x


def elu1(x):
    return F.elu(x) + 1


class Retention(retnet.Retention):
    """RetNet, as of the demo model."""

    def forward(self, x):
        half = self.k // 2
        inverse = 10000.0 ** (-torch.arange(half, device=x.device).float() / half)
        angle = torch.arange(x.shape[1], device=x.device).float()[:, None, None] * inverse
        return super().forward(x, angle.cos(), angle.sin(), None)[0]


class LinearAttention(Mixer):
    """Feature map elu(x) + 1, no normaliser: the norm over a head's values follows."""

    def __init__(self, c):
        super().__init__(c, expanded(c, 4), False, False, "norm")
        assert c["feature_map"] == "elu" and not c.get("norm_feature_map")

    def forward(self, x):
        q, k = (self.project(x, name, elu1) for name in "qk")
        return self.output(x, additive(q * self.k ** -0.5, k, self.project(x, "v", identity)))


class DeltaNet(Mixer):
    def __init__(self, c):
        super().__init__(c, expanded(c, 16), c.get("use_short_conv", True), c.get("use_gate"), "o_norm")
        self.b_proj = linear(c["hidden_size"], self.heads)

    def forward(self, x):
        q, k = (l2(self.project(x, name, F.silu)) for name in "qk")
        beta = torch.sigmoid(self.b_proj(x))
        return self.output(x, delta(q * self.k ** -0.5, k, k, beta, self.project(x, "v", F.silu)))


class Gated(Mixer):
    """With a decay a head that depends on the token."""

    def __init__(self, c, sizes, *args):
        super().__init__(c, sizes, *args)
        self.a_proj = linear(c["hidden_size"], self.heads)
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        # Decays of 1e-3 to 1e-1 a token, one head's 1e-2: a head that forgets at once learns slowly.
        step = 1e-3 * 100 ** ((torch.arange(self.heads) + 0.5) / self.heads)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus of it is `step`

    def log_decay(self, x):
        return -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)


class GatedDeltaNet(Gated):
    def __init__(self, c):
        heads, k = c.get("num_heads", 6), c.get("head_dim", 256)
        super().__init__(c, (heads, k, int(k * c.get("expand_v", 2.0))), c.get("use_short_conv", True),
                         c.get("use_gate", True), "o_norm")
        self.b_proj = linear(c["hidden_size"], heads)

    def forward(self, x):
        q, k = (l2(self.project(x, name, F.silu)) for name in "qk")
        beta = torch.sigmoid(self.b_proj(x))
        return self.output(x, delta(q * self.k ** -0.5, k, k, beta, self.project(x, "v", F.silu),
                                    self.log_decay(x)))


class Vla(Mixer):
    """A token's directions come from A = M^-1, M the sum of what keys have penalised so far."""

    def __init__(self, c):
        super().__init__(c, expanded(c, 4), c.get("use_short_conv", True),
                         c.get("use_output_gate", True), "o_norm")
        self.mode, self.lambda0 = c.get("mode", "star"), c.get("lambda0", 0.5)
        assert self.mode in ("star", "v3") and c.get("gamma", 1.0) == 1.0
        self.mu = c.get("mu", 0.99)
        self.activation = F.silu if c.get("use_short_conv", True) else identity
        self.elu = c.get("feature_map") == "elu"
        if self.mode == "v3":
            self.u_proj = nn.Module()
            self.u_proj.weight = nn.Parameter(torch.randn(self.heads, self.k, self.k) * self.k ** -0.5)
        elif c.get("use_write_gate", True):
            self.b_proj = nn.Linear(c["hidden_size"], self.heads)
            nn.init.constant_(self.b_proj.bias, 2.0)

    def star_inverse(self, k):
        """A [B, T, H, K, K] after each token's key and leak: M <- mu M + k k^T + p p^T."""
        t = k.shape[1]
        i = torch.arange(t, device=k.device)
        added = k[..., :, None] * k[..., None, :]
        leak = (1 - self.mu) * self.lambda0 * self.k
        # p p^T of token i has its only element at (i mod K, i mod K).
        added = added + leak * torch.diag_embed(
            (i[:, None] % self.k == torch.arange(self.k, device=k.device)).float())[:, None]
        gap = (i[:, None] - i).clamp(min=0).float()
        past = self.mu ** gap * causal(t, k.device)
        m = torch.einsum("ij,bjhkl->bihkl", past, added)
        first = self.lambda0 * self.mu ** (i + 1).float()
        return torch.linalg.inv_ex(m + first[:, None, None, None] * torch.eye(self.k, device=k.device))[0]

    def v3_inverse(self, u):
        """The same for penalties u without forgetting; A gains 1e-3 I with every 20th token."""
        one = torch.eye(self.k, device=u.device)
        m, parts = self.lambda0 * one, []
        for block in u.split(20, dim=1):
            added = (block[..., :, None] * block[..., None, :]).cumsum(1)
            a = torch.linalg.inv_ex(added + m)[0]
            if block.shape[1] == 20:
                a = torch.cat([a[:, :-1], a[:, -1:] + 1e-3 * one], 1)
                m = torch.linalg.inv_ex(a[:, -1:])[0]
            parts.append(a)
        return torch.cat(parts, 1)

    def star(self, x, q, k, v):
        if self.elu:
            q, k = elu1(q), elu1(k)
        k = unit(k, 1e-6)
        a = self.star_inverse(k)
        w = unit((a @ k[..., None])[..., 0], 1e-12)
        beta = (k * w).sum(-1)
        if hasattr(self, "b_proj"):
            beta = beta * torch.sigmoid(self.b_proj(x))
        return delta(unit((a @ q[..., None])[..., 0], 1e-12), w, w, beta, v)

    def v3(self, q, k, v):
        u = unit(torch.einsum("hkl,bthl->bthk", self.u_proj.weight, k), 1e-6) * self.k ** -0.5
        q, k = elu1(q), elu1(k)
        seen, key = k.cumsum(1), unit(k, 1e-6)
        w = unit((self.v3_inverse(u) @ key[..., None])[..., 0], 1e-12)
        q = q / (q * seen).sum(-1, keepdim=True).clamp(min=1e-6)
        return delta(q, w, key, torch.ones_like(q[..., 0]), v)

    def forward(self, x):
        q, k, v = (self.project(x, name, self.activation) for name in "qkv")
        return self.output(x, self.v3(q, k, v) if self.mode == "v3" else self.star(x, q, k, v))


class LogLinear(Gated):
    """Token j counts with the weight of the Fenwick level that holds it: bit_length(i xor j)."""

    def __init__(self, c):
        super().__init__(c, expanded(c, 4), c.get("use_short_conv", True),
                         c.get("use_output_gate", True), "o_norm")
        self.levels, self.activation = c.get("num_levels", 15), (
            F.silu if c.get("use_short_conv", True) else identity)
        self.l_proj = linear(c["hidden_size"], self.heads * self.levels)
        self.erases = c.get("transition", "scalar") == "delta"
        if self.erases:
            self.b_proj = linear(c["hidden_size"], self.heads)
        self.normed = c.get("qk_norm", "l2" if self.erases else None) == "l2"
        self.map = elu1 if c.get("feature_map") == "elu" else identity
        if c.get("lambda_mode", "adaptive") == "fixed":
            self.L = nn.Parameter(torch.ones(self.heads, self.levels))
        else:
            hidden = c.get("lambda_hidden", 64)
            self.lambda_mlp = nn.Sequential(nn.Linear(self.levels, hidden), nn.GELU(),
                                            nn.Linear(hidden, self.levels))
            nn.init.zeros_(self.lambda_mlp[2].weight)
            nn.init.constant_(self.lambda_mlp[2].bias, math.log(math.e - 1))  # lambda = 1

    def lambdas(self, x):
        """[B, T, H, levels]"""
        columns = self.l_proj(x).view(*x.shape[:2], self.heads, self.levels)
        return F.softplus(self.lambda_mlp(columns) if hasattr(self, "lambda_mlp") else self.L * columns)

    def level_weights(self, x):
        """[B, H, T, T]"""
        t, lam = x.shape[1], self.lambdas(x)
        i = torch.arange(t, device=x.device)
        level = torch.frexp((i[:, None] ^ i).float())[1].clamp(max=self.levels - 1)
        level = level.long().expand(x.shape[0], self.heads, t, t)
        return torch.gather(lam.transpose(1, 2), 3, level)

    def forward(self, x):
        q, k, v = (self.project(x, name, self.activation) for name in "qkv")
        q, k = self.map(q), self.map(k)
        if self.normed:
            q, k = l2(q), l2(k)
        q, weights = q * self.k ** -0.5, self.level_weights(x)
        if self.erases:
            beta = torch.sigmoid(self.b_proj(x))
            return self.output(x, delta(q, k, k, beta, v, self.log_decay(x), weights))
        return self.output(x, additive(q, k, v, fading(self.log_decay(x)) * weights))


class Vort(Mixer):
    """A token counts Gamma(lag + alpha) / (Gamma(alpha) Gamma(lag + 1)) after `lag` more, alpha its own."""

    def __init__(self, c):
        super().__init__(c, expanded(c, 4), c.get("use_short_conv", True),
                         c.get("use_output_gate", True), "o_norm")
        self.activation = F.silu if c.get("use_short_conv", True) else identity
        self.alpha_proj, self.least = nn.Linear(c["hidden_size"], self.heads), c.get("alpha_min", 0.05)
        self.normalizer = c.get("normalizer", True)

    def alphas(self, x):
        """[B, T, H]"""
        return self.least + (1 - self.least) * torch.sigmoid(self.alpha_proj(x))

    def forward(self, x):
        q, k, v = (self.project(x, name, self.activation) for name in "qkv")
        alpha = self.alphas(x).transpose(1, 2)[..., None, :]                     # of the column's token
        i = torch.arange(x.shape[1], device=x.device)
        lag = (i[:, None] - i).clamp(min=0).float()
        weights = torch.exp(torch.lgamma(lag + alpha) - torch.lgamma(alpha) - torch.lgamma(lag + 1))
        v = torch.cat([v, torch.ones_like(v[..., :1])], -1)
        o = additive(elu1(q), elu1(k), v, weights)
        if self.normalizer:
            return self.output(x, o[..., :-1] / o[..., -1:].clamp(min=1e-6))
        return self.output(x, o[..., :-1])


MIXERS = {"retnet": Retention, "linear_attn": LinearAttention, "delta_net": DeltaNet,
          "gated_deltanet": GatedDeltaNet, "vla": Vla, "log_linear": LogLinear, "vort": Vort}


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        eps = c.get("norm_eps", 1e-6)
        self.attn_norm, self.attn = RMSNorm(c["hidden_size"], eps), MIXERS[c["model_type"]](c)
        self.mlp_norm, self.mlp = RMSNorm(c["hidden_size"], eps), Mlp(c)

    def forward(self, h):
        h = h + self.attn(self.attn_norm(h))
        return h + self.mlp(self.mlp_norm(h))


class Decoder(nn.Module):
    """tokens [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = nn.Module()
        self.model.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.model.embeddings.weight, std=c["hidden_size"] ** -0.5)
        self.model.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = RMSNorm(c["hidden_size"], c.get("norm_eps", 1e-6))
        if not c.get("tie_word_embeddings"):
            self.lm_head = linear(c["hidden_size"], c["vocab_size"])

    def forward(self, tokens):
        h = self.model.embeddings(tokens)
        for layer in self.model.layers:
            h = layer(h)
        tied = self.c.get("tie_word_embeddings")
        return F.linear(self.model.norm(h), (self.model.embeddings if tied else self.lm_head).weight)
