#!/usr/bin/env python3
"""What the tokens of trained models choose: VORT's alphas, log-linear attention's lambdas.

    inside.py --checkpoints DIR     # what recall.py wrote for lags or lengths; writes DIR/inside.json

By layer and kind of token, over 32 rows like those of training: alphas as counts in 19 bins from 0.05
to 1, lambdas as 5th, 25th, 50th, 75th and 95th percentile at each level.
"""
import argparse
import json
import pathlib

import numpy as np
import torch

import checkpoint
import memories
import recall_data
import stream_data as data

ROWS = 32
BINS = np.linspace(0.05, 1, 20)
PERCENTILES = (5, 25, 50, 75, 95)


def kinds(tokens, task):
    pair = tokens < data.PAIRS
    late = tokens >= (data.KEYS - data.KEPT) * data.VALUES
    pairs = {"pair, asked for soon": pair & ~late, "pair, asked for late": pair & late} \
        if task == "marked" else {"pair": pair}
    return {**pairs, "query": (tokens >= data.PAIRS) & (tokens < data.PAIRS + data.KEYS),
            "item": (tokens >= data.ITEMS) & (tokens < data.NOISE),
            "noise": (tokens >= data.NOISE) & (tokens < data.NEXT), "next": tokens == data.NEXT}


@torch.no_grad()
def look(folder, task):
    model = checkpoint.load(folder, memories.Decoder)
    tokens = data.training_batch(task, 1 << 20, ROWS)[0].astype(np.int64)
    seen = {}
    for number, layer in enumerate(model.model.layers):
        layer.attn.register_forward_pre_hook(lambda module, x, number=number: seen.update(
            {number: module.alphas(*x) if hasattr(module, "alphas") else module.lambdas(*x)}))
    model(torch.from_numpy(tokens))
    result = {}
    for number, values in seen.items():
        for kind, where in kinds(tokens, task).items():
            if not where.any():
                continue
            of = values.numpy()[where][:, 0]                    # of the one head
            result[f"{number} {kind}"] = np.histogram(of, BINS)[0].tolist() if of.ndim == 1 else \
                np.percentile(of, PERCENTILES, axis=0).T.round(4).tolist()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", required=True, type=pathlib.Path)
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.checkpoints.glob("*/config.json"))
    recall_data.write_results(args.checkpoints / "inside.json", {
        folder.name: look(folder, folder.name.split("-")[1]) for folder in folders
        if json.loads((folder / "config.json").read_text()).get("num_levels") != 1})


if __name__ == "__main__":
    main()
