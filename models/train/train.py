#!/usr/bin/env python3
"""Trains the demo model.

    train.py --tokens DIR --out DIR [--steps N] [--batch B] [--window T] [--seed S] [--limit SECONDS]

Reads train.bin, heldout.bin and heldout.json (from tokens.py). bf16 products over fp32 weights,
AdamW, linear warm-up and cosine decay. The held-out loss is measured through training and the best
weights are written to OUT/model.safetensors (bf16) with config.json.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import checkpoint
import retnet


def read_tokens(folder, part, device):
    ids = np.fromfile(os.path.join(folder, part + ".bin"), "<u2").astype(np.int32)
    return torch.from_numpy(ids).to(device)


def windows(data, batch, length, generator):
    """Endless batches [B, T + 1]: each epoch cuts the text at a new offset and shuffles the cuts."""
    while True:
        offset = int(torch.randint(length, (1,), generator=generator))
        cuts = (len(data) - 1 - offset) // length
        order = torch.randperm(cuts, generator=generator) * length + offset
        reach = torch.arange(length + 1)
        for i in range(0, cuts - batch + 1, batch):
            yield data[(order[i:i + batch, None] + reach).to(data.device)].long()


def optimizer_for(model, rate, decay):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay},
                              {"params": vectors, "weight_decay": 0.0}], lr=rate, betas=(0.9, 0.95),
                             **({"fused": True} if matrices[0].is_cuda else {}))


def heldout_bits(loss, data, length, batch, size):
    """Bits per byte with a fresh state for each window (so a little pessimistic)."""
    cuts = (len(data) - 1) // length
    rows = data[:cuts * length + 1].long()
    x = torch.stack([rows[i * length:i * length + length + 1] for i in range(cuts)])
    with torch.no_grad():
        nats = sum(float(loss(x[i:i + batch])) * len(x[i:i + batch]) for i in range(0, cuts, batch))
    return nats * length / math.log(2) / (size * cuts * length / len(data))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=13000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluations", type=int, default=13)
    parser.add_argument("--limit", type=float, default=1e9,
                        help="seconds after which training stops with the best weights so far")
    args = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    model = retnet.RetNet(retnet.CONFIG).to(device)
    train, held = (read_tokens(args.tokens, part, device) for part in ("train", "heldout"))
    with open(os.path.join(args.tokens, "heldout.json")) as fh:
        size = json.load(fh)["bytes"]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, {len(train)} training tokens, "
          f"{args.steps * args.batch * args.window / len(train):.1f} epochs, {device}", flush=True)

    def loss_of(x):
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            logits, _ = model(x[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten())

    step_loss = torch.compile(loss_of) if cuda else loss_of
    optimizer = optimizer_for(model, args.rate, args.decay)
    batches = windows(train, args.batch, args.window, torch.Generator().manual_seed(args.seed))
    best, best_bits, begin, mean = None, math.inf, time.time(), 0.0
    marks = {round(args.steps * (i + 1) / args.evaluations) for i in range(args.evaluations)}
    for step in range(1, args.steps + 1):
        if step < args.warmup:
            scale = step / args.warmup
        else:
            done = (step - args.warmup) / max(1, args.steps - args.warmup)
            scale = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = args.rate * scale
        loss = step_loss(next(batches))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        mean = mean + 0.01 * (loss.detach() - mean) if step > 1 else loss.detach()
        late = step % 50 == 0 and time.time() - begin > args.limit
        if step in marks or late or step in (1, 20, 100):
            bits = heldout_bits(loss_of, held, args.window, args.batch, size)
            spent = time.time() - begin
            print(f"step {step} train loss {float(mean):.4f} held-out {bits:.4f} bits/byte "
                  f"{spent:.0f} s {step * args.batch * args.window / spent / 1e6:.3f} M tokens/s",
                  flush=True)
            if bits < best_bits:
                best_bits = bits
                best = {n: p.detach().clone() for n, p in model.named_parameters()}
        if late:
            break
    checkpoint.save(retnet.CONFIG, {n: p.to("cpu", torch.bfloat16) for n, p in best.items()}, args.out)
    print(f"best held-out {best_bits:.4f} bits/byte after {time.time() - begin:.0f} s, "
          f"peak memory {torch.cuda.max_memory_allocated() / 2**30 if cuda else 0:.1f} GiB")


if __name__ == "__main__":
    main()
