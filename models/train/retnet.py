"""RetNet in PyTorch, with the parameter names and formulas of flash-linear-attention's checkpoints.

One function serves training (a batch of windows), evaluation (a long text in segments) and sampling
(one token a call): retention in chunks, with the recurrent state carried between calls.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {
    "architectures": ["RetNetForCausalLM"], "attn": None, "attn_mode": "chunk",
    "attnres_block_size": None, "bos_token_id": 0, "conv_size": 4, "dtype": "bfloat16",
    "elementwise_affine": True, "eos_token_id": 0, "expand_k": 1.0, "expand_v": 2.0,
    "feature_map": None, "fuse_cross_entropy": True, "fuse_linear_cross_entropy": False,
    "fuse_norm": False, "fuse_swiglu": True, "hidden_act": "swish", "hidden_ratio": 2,
    "hidden_size": 256, "initializer_range": 0.02, "intermediate_size": None,
    "max_position_embeddings": 2048, "model_type": "retnet", "norm_eps": 1e-06, "num_heads": 4,
    "num_hidden_layers": 6, "num_kv_heads": None, "pad_token_id": None,
    "tie_word_embeddings": False, "use_cache": True, "use_l2warp": False, "use_output_gate": True,
    "use_short_conv": False, "vocab_size": 4096,
}
CHUNK = 128


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        y = x.float()
        return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


def rotate(x, cos, sin):
    """Half-split rotary embedding of x [B, T, H, K]; cos, sin [T, 1, K/2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Retention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, self.heads = c["hidden_size"], c["num_heads"]
        dk, dv = int(d * c["expand_k"]), int(d * c["expand_v"])
        self.k, self.v = dk // self.heads, dv // self.heads
        self.q_proj, self.k_proj = linear(d, dk), linear(d, dk)
        self.v_proj, self.g_proj, self.o_proj = linear(d, dv), linear(d, dv), linear(dv, d)
        self.g_norm = RMSNorm(self.v, c["norm_eps"])

    def decays(self, size, chunks, device):
        """Powers of gamma [H]: inside a chunk, from its start, to its end, and from chunk to chunk."""
        log = torch.log1p(-2.0 ** (-5 - torch.arange(self.heads, device=device).float()))
        i = torch.arange(size, device=device).float()
        n = torch.arange(chunks + 1, device=device).float()

        def causal(rows, columns, scale):
            gap = rows[:, None] - columns[None, :]
            return torch.exp(log[:, None, None] * scale * gap.clamp(min=0)) * (gap >= 0)

        inside = causal(i, i, 1)                                        # [H, C, C]
        start = torch.exp(log * (i[:, None] + 1))                       # [C, H]
        end = torch.exp(log * (size - 1 - i[:, None]))                  # [C, H]
        between = causal(n, n[1:], size)                                # [H, N+1, N]
        first = torch.exp(log[:, None] * size * n)                      # [H, N+1]
        return inside, start, end, between, first

    def forward(self, x, cos, sin, state):
        """x [B, T, D], state [B, H, K, V] before x -> y [B, T, D], state after x."""
        b, t, _ = x.shape
        size = CHUNK if t % CHUNK == 0 else t
        shape = (b, t // size, size, self.heads, -1)
        q = rotate(self.q_proj(x).view(b, t, self.heads, self.k), cos, sin) * self.k ** -0.5
        k = rotate(self.k_proj(x).view(b, t, self.heads, self.k), cos, sin)
        q, k, v = q.view(shape), k.view(shape), self.v_proj(x).view(shape)
        inside, start, end, between, first = self.decays(size, t // size, x.device)
        scores = torch.einsum("bnihk,bnjhk->bnhij", q, k) * inside
        o = torch.einsum("bnhij,bnjhv->bnihv", scores, v)
        writes = torch.einsum("bnjhk,bnjhv->bnhkv", k * end[..., None], v)
        # State before each chunk, and after the last one.
        states = torch.einsum("hnm,bmhkv->bnhkv", between, writes)
        if state is not None:
            states = states + first.t()[..., None, None] * state[:, None]
        o = o + torch.einsum("bnihk,bnhkv->bnihv", q * start[..., None], states[:, :-1])
        o = self.g_norm(o).reshape(b, t, -1) * F.silu(self.g_proj(x))
        return self.o_proj(o), states[:, -1]


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        d = c["hidden_size"]
        inner = (c.get("intermediate_size")
                 or 256 * math.ceil(int(d * c["hidden_ratio"] * 2 / 3) / 256))
        self.gate_proj, self.up_proj, self.down_proj = linear(d, inner), linear(d, inner), linear(inner, d)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(c["hidden_size"], c["norm_eps"]), Retention(c)
        self.mlp_norm, self.mlp = RMSNorm(c["hidden_size"], c["norm_eps"]), Mlp(c)

    def forward(self, h, cos, sin, state):
        y, state = self.attn(self.attn_norm(h), cos, sin, state)
        h = h + y
        return h + self.mlp(self.mlp_norm(h)), state


class RetNet(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.model = nn.Module()
        self.model.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.model.norm = RMSNorm(c["hidden_size"], c["norm_eps"])
        self.lm_head = linear(c["hidden_size"], c["vocab_size"])
        for name, p in self.named_parameters():
            if p.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=c["initializer_range"] / (
                    math.sqrt(2 * c["num_hidden_layers"]) if residual else 1))

    def forward(self, tokens, states=None, position=0):
        """tokens [B, T] at `position` -> logits [B, T, vocabulary], states after them."""
        half = self.model.layers[0].attn.k // 2
        inverse = 10000.0 ** (-torch.arange(half, device=tokens.device).double() / half)
        p = torch.arange(tokens.shape[1], device=tokens.device).double() + position
        angle = p[:, None, None] * inverse                              # [T, 1, K/2]
        cos, sin = angle.cos().float(), angle.sin().float()
        h, after = self.model.embeddings(tokens), []
        for i, layer in enumerate(self.model.layers):
            h, state = layer(h, cos, sin, None if states is None else states[i])
            after.append(state)
        return self.lm_head(self.model.norm(h)), after
