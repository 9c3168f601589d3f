#!/usr/bin/env python3
"""Trains memories on an experiment's tasks and writes checkpoints and accuracies.

    recall.py recall|lags|lengths --out DIR [--graph] [--memories a,b] [--steps N] [--batch B] [--rate R]

recall: on recall_data.py; lags and lengths: on stream_data.py. The seeds and tasks of a memory are
trained side by side, as one batched model. DIR/MEMORY-TASK-SEED/ (in `recall`, with its one task,
MEMORY-SEED) holds a checkpoint in bf16, DIR/trained.json the accuracies of those weights, computed here
in fp32.
"""
import argparse
import collections
import copy
import itertools
import json
import math
import multiprocessing
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import checkpoint
import memories
import recall_data
import stream_data

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": recall_data.VOCABULARY, "num_heads": 1,
         "intermediate_size": 128, "tie_word_embeddings": True, "hidden_act": "swish", "norm_eps": 1e-6,
         "bos_token_id": None, "eos_token_id": None}
KEY_DIM = recall_data.KEY_DIM
HEAD = {"expand_k": KEY_DIM / 64, "expand_v": KEY_DIM / 64}
PLAIN = {"use_short_conv": False}
CONFIGS = {
    "linear_attention": {"model_type": "linear_attn", "feature_map": "elu", **HEAD},
    "retnet": {"model_type": "retnet", **HEAD},
    "deltanet": {"model_type": "delta_net", **HEAD, **PLAIN},
    "gated_deltanet": {"model_type": "gated_deltanet", "head_dim": KEY_DIM, "expand_v": 1.0, **PLAIN},
    "vla_star": {"model_type": "vla", "mode": "star", **HEAD, **PLAIN},
    "vla_v3": {"model_type": "vla", "mode": "v3", "feature_map": "elu", "lambda0": 0.1, **HEAD, **PLAIN},
}
LEVELS = {"model_type": "log_linear", "num_levels": 12, **HEAD, **PLAIN}
LENGTHS = {
    "log_linear": {**LEVELS, "lambda_mode": "adaptive"},
    "log_linear_fixed": {**LEVELS, "lambda_mode": "fixed"},
    "log_linear_equal": {**LEVELS, "lambda_mode": "fixed"},     # of all levels, the same number
}
SMALL = {"expand_k": 8 / 64, "expand_v": 8 / 64}
POWERS = {"model_type": "vort", "epsilon": 1e-5, **PLAIN, **SMALL}
LAGS = {
    "vort": POWERS,
    "vort_fixed": POWERS,                                       # all tokens have one exponent
    "exponential": {**LEVELS, "num_levels": 1, "lambda_mode": "fixed", "feature_map": "elu", **SMALL},
}
Experiment = collections.namedtuple("Experiment", "data tasks configs seeds steps batch")
EXPERIMENTS = {
    "recall": Experiment(recall_data, ("recall",), CONFIGS, (1, 2, 3), 3000, 128),
    "lags": Experiment(stream_data, stream_data.LAGGED, LAGS, (1, 2, 3), 3250, 32),
    "lengths": Experiment(stream_data, stream_data.LONG, LENGTHS, (1, 2, 3, 4, 5, 6), 3000, 64),
}
ZEROS = {"vort_fixed": "alpha_proj.weight", "log_linear_equal": "l_proj.weight",
         "exponential": "a_proj.weight"}                        # parameters that stay 0
# Peaks. In `recall` the best of 2e-3, 5e-3 and 1e-2, tried with one seed each; the others' not tried.
RATES = {"linear_attention": 2e-3, "retnet": 2e-3, "deltanet": 1e-2}
RATE = 5e-3


def batches(experiment, runs, steps, batch):
    """Tokens and answers [steps, runs, batch, length], int16: the same for every memory."""
    wanted = [(task, step * len(experiment.seeds) + seed - 1, batch)
              for step in range(steps) for task, seed in runs]
    with multiprocessing.Pool() as pool:
        made = pool.starmap(experiment.data.training_batch, wanted, chunksize=64)
    shape = (steps, len(runs), batch, -1)
    return tuple(torch.from_numpy(np.stack(part).reshape(shape)) for part in zip(*made))


def stacked(config, runs, zeros):
    """A model without weights, and the weights of all runs, each [runs, ...]."""
    models = []
    for _, seed in runs:
        torch.manual_seed(seed)
        models.append(memories.Decoder(config))
    weights, _ = torch.func.stack_module_state(models)
    for name in weights:
        if zeros and name.endswith(zeros):
            weights[name].detach().zero_()
    return copy.deepcopy(models[0]).to("meta"), weights


class Adam:
    """AdamW on stacked weights [runs, ...]; gradients are clipped by run. A CUDA graph can hold a step."""

    def __init__(self, weights, betas=(0.9, 0.98), decay=0.01, norm=1.0):
        self.weights, self.betas, self.norm = weights, betas, norm
        self.decay = [decay if w.dim() > 2 else 0.0 for w in weights]
        self.mean = [torch.zeros_like(w) for w in weights]
        self.square = [torch.zeros_like(w) for w in weights]

    @torch.no_grad()
    def step(self, rate, bias):
        """Tensors: rate []; bias [2], 1 - beta^t of both betas."""
        size = sum(w.grad.pow(2).flatten(1).sum(1) for w in self.weights).sqrt()
        scale = (self.norm / (size + 1e-6)).clamp(max=1)
        for w, decay, mean, square in zip(self.weights, self.decay, self.mean, self.square):
            grad = w.grad * scale.view(-1, *[1] * (w.dim() - 1))
            mean.lerp_(grad, 1 - self.betas[0])
            square.lerp_(grad * grad, 1 - self.betas[1])
            change = mean / bias[0] / ((square / bias[1]).sqrt() + 1e-8)
            w.sub_(rate * (change + decay * w))
            w.grad.zero_()


def train(config, runs, zeros, peak, made, args):
    """The weights of all runs, (task, seed) each, in bf16."""
    device, (tokens, answers) = args.device, made
    skeleton, weights = stacked(config, runs, zeros)
    weights = {n: w.detach().to(device) for n, w in weights.items()}
    trained = [w.requires_grad_() for n, w in weights.items() if not (zeros and n.endswith(zeros))]
    run = torch.func.vmap(lambda w, x: torch.func.functional_call(skeleton, w, (x,)))
    for w in trained:
        w.grad = torch.zeros_like(w)
    optimizer = Adam(trained)
    x, y = (part[0].to(device).long() for part in (tokens, answers))
    rate, bias = torch.zeros((), device=device), torch.ones(2, device=device)
    losses = torch.zeros(len(x), device=device)

    def step_once():
        nats = F.cross_entropy(run(weights, x).flatten(0, 2), y.flatten(), ignore_index=-1,
                               reduction="none").view(y.shape)
        each = nats.sum((1, 2)) / (y >= 0).sum((1, 2))
        each.sum().backward()
        losses.copy_(each.detach())
        optimizer.step(rate, bias)

    if args.graph:  # one launch a step: the kernels are small
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # at rate 0
            for _ in range(3):
                step_once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step_once()
        for moment in (*optimizer.mean, *optimizer.square):
            moment.zero_()
    begin, steps = time.time(), len(tokens)
    for step in range(steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate.fill_(peak * min(1, (step + 1) / 100) * (0.01 + 0.99 * cosine))
        bias.copy_(torch.tensor([1 - b ** (step + 1) for b in optimizer.betas]))
        x.copy_(tokens[step])
        y.copy_(answers[step])
        graph.replay() if args.graph else step_once()
        if step % 500 == 0 or step == steps - 1:
            print(f"  step {step} loss {[round(v, 3) for v in losses.tolist()]} "
                  f"{time.time() - begin:.1f} s", flush=True)
    return [{n: w[i].detach().to(torch.bfloat16).cpu() for n, w in weights.items()}
            for i in range(len(x))]


@torch.no_grad()
def accuracies(model, data, task, device):
    """{what is measured: [share of right answers, ...]}, as data.settings says."""
    def share(prompts, answers):
        rows = max(1, (1 << 26) // prompts.shape[1] ** 2)   # at a time: T x T numbers each
        said = [model(part.to(device))[:, -1].argmax(-1).cpu() for part in
                torch.from_numpy(prompts).split(rows)]
        return round(float((torch.cat(said).numpy() == answers).mean()), 4)

    return {name: [share(*data.evaluation(name, setting)) for setting in settings]
            for name, settings in data.settings(task).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--out", required=True)
    parser.add_argument("--graph", action="store_true", help="replay a step as a CUDA graph")
    parser.add_argument("--memories", help="[the experiment's]")
    parser.add_argument("--steps", type=int, help="[the experiment's]")
    parser.add_argument("--batch", type=int, help="[the experiment's]")
    parser.add_argument("--rate", type=float, help="peak of all [each memory's]")
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    experiment = EXPERIMENTS[args.experiment]
    data, tasks, configs = experiment.data, experiment.tasks, experiment.configs
    runs = list(itertools.product(tasks, experiment.seeds))
    steps, batch = args.steps or experiment.steps, args.batch or experiment.batch
    begin = time.time()
    made = [part.to(args.device) for part in batches(experiment, runs, steps, batch)]
    print(f"{steps} batches made in {time.time() - begin:.0f} s", flush=True)
    results = {}
    for name in args.memories.split(",") if args.memories else configs:
        config = {**SIZES, "vocab_size": data.VOCABULARY, **configs[name]}
        peak = args.rate or RATES.get(name, RATE)
        print(f"{name}, rate {peak}", flush=True)
        torch.set_float32_matmul_precision("high")
        checkpoints = train(config, runs, ZEROS.get(name), peak, made, args)
        torch.set_float32_matmul_precision("highest")
        for (task, seed), weights in zip(runs, checkpoints):
            run = f"{name}-{seed}" if len(tasks) == 1 else f"{name}-{task}-{seed}"
            folder = os.path.join(args.out, run)
            checkpoint.save(config, weights, folder)
            model = checkpoint.load(folder, memories.Decoder).to(args.device)
            results[run] = accuracies(model, data, task, args.device)
            print(" ", run, json.dumps(results[run]), flush=True)
        recall_data.write_results(os.path.join(args.out, "trained.json"), results)
    print(f"{time.time() - begin:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
