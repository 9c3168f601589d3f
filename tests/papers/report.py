#!/usr/bin/env python3
"""Tables (printed) and plots (PNG beside this file) of what measure.py wrote.

    report.py --checkpoints DIR      # needs numpy and matplotlib
"""
import argparse
import json
import pathlib

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import measure  # noqa: E402
import recall_data as data  # noqa: E402

HERE = pathlib.Path(__file__).parent
NAMES = {"linear_attention": "linear attention", "retnet": "RetNet", "deltanet": "DeltaNet",
         "gated_deltanet": "Gated DeltaNet", "vla_star": "VLA star", "vla_v3": "VLA v3",
         "log_linear": "log-linear, adaptive", "log_linear_fixed": "log-linear, fixed"}


def by_memory(results):
    """{memory: {key: [seeds, ...]}} of {"memory-seed": {key: [...]}}."""
    grouped = {}
    for folder, rows in results.items():
        for key, row in rows.items():
            grouped.setdefault(folder.rsplit("-", 1)[0], {}).setdefault(key, []).append(row)
    return {name: {k: np.array(v, float) for k, v in grouped[name].items()}
            for name in NAMES if name in grouped}


def table(head, rows):
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def spread(shares):
    """Mean and standard deviation, in %."""
    return f"{100 * shares.mean():.1f} ± {100 * shares.std(ddof=1):.1f}"


def extent(values):
    """Median, least and greatest."""
    middle, least, most = (f"{x:,.{0 if x >= 100 else 1}f}"
                           for x in (np.median(values), values.min(), values.max()))
    return f"{middle} ({least} to {most})"


def curves(name, memories, tasks, at, label):
    """A table and a panel for each task: shares of right answers over `at`."""
    figure, axes = plt.subplots(1, len(tasks), figsize=(9, 3.6), sharey=True)
    for axis, task in zip(axes, tasks):
        table([f"{task}: {label}", *map(str, at)],
              [[NAMES[memory], *(spread(rows[task][:, i]) for i in range(len(at)))]
               for memory, rows in memories.items()])
        for memory, rows in memories.items():
            axis.errorbar(at, rows[task].mean(0), rows[task].std(0, ddof=1), label=NAMES[memory],
                          marker="o", markersize=3, linewidth=1)
        axis.set(title=task, xlabel=label, ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("served answers that are right")
    axes[0].legend(fontsize=8)
    finish(figure, name)


def finish(figure, name):
    figure.tight_layout()
    figure.savefig(HERE / f"{name}.png", dpi=100)


def recall(folder):
    memories = by_memory(json.loads((folder / "recall.json").read_text()))
    curves("recall", memories, tuple(data.WRITES), data.LOADS, "pairs / d_h")


def norms(folder):
    results = json.loads((folder / "norms.json").read_text())
    positions, memories = measure.POSITIONS, by_memory(results)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, layer in zip(axes, ("0 state", "1 state")):
        least = memories["linear_attention"][layer]
        table([f"layer {layer[0]}: tokens read", *(f"{p:,}" for p in positions),
               "linear attention / this at 1,000"],
              [[NAMES[name], *(extent(rows[layer][:, i]) for i in range(len(positions))),
                extent((least / rows[layer])[:, positions.index(1000)])]
               for name, rows in memories.items()])
        for name, rows in memories.items():
            axis.loglog(positions, np.median(rows[layer], 0), label=NAMES[name], marker="o",
                        markersize=3)
        axis.set(title=f"layer {layer[0]}", xlabel="tokens read")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("Frobenius norm of the state")
    axes[0].legend(fontsize=8)
    finish(figure, "norms")


def numerics(folder):
    results = json.loads((folder / "numerics.json").read_text())
    memories = by_memory(results)
    settings = list(next(iter(memories.values())))
    table(["right, % (answers unlike plain, %)", *settings],
          [[NAMES[name], *("{:.1f} ({:.1f})".format(*100 * rows[setting].mean(0)) for setting in settings)]
           for name, rows in memories.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoints", required=True, type=pathlib.Path)
    args = parser.parse_args()
    recall(args.checkpoints)
    norms(args.checkpoints)
    numerics(args.checkpoints)


if __name__ == "__main__":
    main()
