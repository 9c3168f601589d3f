#!/usr/bin/env python3
"""Times the next token of a softmax transformer against the tokens before it; beside positions.py.

    transformer.py --size demo|1.3b [--hugging-face] --out FILE [--positions 1000,10000]

Random weights and random keys and values: what is measured does not depend on them. Sizes are those of
models/demo and of `--random retnet-1.3b`, with as many parameters in as many layers. Without
--hugging-face (Llama of `transformers` with its DynamicCache) a plain PyTorch module is timed, with a
cache of fixed size, on a GPU as one CUDA graph a step. Needs PyTorch.
"""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

SIZES = {"demo": {"hidden": 256, "layers": 6, "heads": 4, "vocabulary": 4096},
         "1.3b": {"hidden": 2048, "layers": 24, "heads": 16, "vocabulary": 32000}}
STEPS = 100


def inner(size):
    """Of the gated MLP: a layer of both kinds has 14 hidden^2 parameters."""
    return round(10 / 3 * size["hidden"])


class Plain:
    """One token after `position` others; tensors on `device`."""

    def __init__(self, size, position, device, dtype):
        def random(*shape):
            return torch.randn(shape, device=device, dtype=dtype) * shape[-1] ** -0.5
        d, self.heads = size["hidden"], size["heads"]
        self.layers = [{"qkv": random(3 * d, d), "o": random(d, d), "in": random(2 * inner(size), d),
                        "out": random(d, inner(size)),
                        "cache": torch.randn(2, 1, self.heads, position, d // self.heads, device=device,
                                             dtype=dtype)} for _ in range(size["layers"])]
        self.embedding, self.head = random(size["vocabulary"], d), random(size["vocabulary"], d)
        self.one = torch.ones(d, device=device, dtype=dtype)
        self.token = torch.zeros(1, dtype=torch.long, device=device)

    def norm(self, x):
        return F.rms_norm(x, self.one.shape, self.one)

    def step(self):
        x = self.embedding[self.token]
        for layer in self.layers:
            q, k, v = F.linear(self.norm(x), layer["qkv"]).view(3, 1, self.heads, 1, -1)
            keys, values = layer["cache"]
            keys[:, :, -1:], values[:, :, -1:] = k, v
            attended = F.scaled_dot_product_attention(q, keys, values)
            x = x + F.linear(attended.reshape(x.shape), layer["o"])
            a, b = F.linear(self.norm(x), layer["in"]).chunk(2, -1)
            x = x + F.linear(F.silu(a) * b, layer["out"])
        self.token.copy_(F.linear(self.norm(x), self.head).argmax(-1))

    def stepper(self, device):
        if device == "cpu":
            return self.step
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay


def hugging_face(size, position, device, dtype):
    import transformers
    config = transformers.LlamaConfig(
        vocab_size=size["vocabulary"], hidden_size=size["hidden"], intermediate_size=inner(size),
        num_hidden_layers=size["layers"], num_attention_heads=size["heads"],
        max_position_embeddings=1 << 21)
    model = transformers.LlamaForCausalLM(config).to(device, dtype).eval()
    cache = transformers.DynamicCache()
    for layer in range(size["layers"]):
        cache.update(*torch.randn(2, 1, size["heads"], position, size["hidden"] // size["heads"],
                                  device=device, dtype=dtype), layer)
    state = {"token": torch.zeros(1, 1, dtype=torch.long, device=device)}

    def step():
        out = model(state["token"], past_key_values=cache, use_cache=True)
        state["token"] = out.logits[:, -1:].argmax(-1)
    return step


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--hugging-face", action="store_true")
    parser.add_argument("--positions", default="1000,10000,100000,300000,1000000")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    size, rows = SIZES[args.size], []
    for position in map(int, args.positions.split(",")):
        row = {"position": position}
        try:
            step = hugging_face(size, position, device, dtype) if args.hugging_face else \
                Plain(size, position, device, dtype).stepper(device)
            times, until = [], time.time() + 30
            while len(times) < STEPS + 10 and (time.time() < until or len(times) < 12):
                begin = time.perf_counter()
                step()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(1e3 * (time.perf_counter() - begin))
            row["median_itl_ms"] = round(statistics.median(times[10:]), 4)
            step = None
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            row["error"] = str(error).split("\n")[0][:100]
        row["cache_bytes"] = 2 * size["layers"] * size["hidden"] * position * dtype.itemsize
        rows.append(row)
        print(row, flush=True)
    with open(args.out, "w") as fh:
        json.dump(rows, fh, indent=1)


if __name__ == "__main__":
    main()
