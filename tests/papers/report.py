#!/usr/bin/env python3
"""Tables (printed) and plots (PNG beside this file) of what measure.py and positions.py wrote.

    report.py [--recall DIR] [--lags DIR] [--lengths DIR] [--positions DIR]   # numpy and matplotlib
"""
import argparse
import json
import pathlib

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import measure  # noqa: E402
import recall_data  # noqa: E402
import stream_data  # noqa: E402

HERE = pathlib.Path(__file__).parent
NAMES = {"linear_attention": "linear attention", "retnet": "RetNet", "deltanet": "DeltaNet",
         "gated_deltanet": "Gated DeltaNet", "vla_star": "VLA star", "vla_v3": "VLA v3",
         "log_linear": "adaptive lambda", "log_linear_fixed": "fixed lambda",
         "log_linear_equal": "one lambda for all levels", "vort": "VORT",
         "vort_fixed": "one exponent for all tokens", "exponential": "one exponential"}


def by_memory(results):
    """{memory: {key: [seeds, ...]}} of {"memory-seed": {key: [...]}}."""
    grouped = {}
    for folder, rows in results.items():
        for key, row in rows.items():
            grouped.setdefault(folder.split("-")[0], {}).setdefault(key, []).append(row)
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


def curves(folder, name, label, at, scale="linear"):
    """Served accuracies over `at`: a table and a panel for each task; against the training code's."""
    served, trained = (json.loads((folder / f"{of}.json").read_text()) for of in ("recall", "trained"))
    apart = [abs(p - q) for model, rows in served.items() for task, row in rows.items()
             for p, q in zip(row, trained[model][task])]
    print(f"Of {len(apart)} accuracies {sum(x < 5e-5 for x in apart)} are those of the training code; "
          f"the greatest difference is {100 * max(apart):.2f} %.\n")
    memories = by_memory(served)
    tasks = list(next(iter(memories.values())))
    labels = [f"{x[0]} to {x[1]}" if isinstance(x, tuple) else str(x) for x in at]
    places = [x[1] if isinstance(x, tuple) else x for x in at]
    figure, axes = plt.subplots(1, len(tasks), figsize=(9, 3.6), sharey=True)
    for axis, task in zip(axes, tasks):
        table([f"{task}: {label}", *labels],
              [[NAMES[memory], *(spread(rows[task][:, i]) for i in range(len(at)))]
               for memory, rows in memories.items()])
        for memory, rows in memories.items():
            axis.errorbar(places, rows[task].mean(0), rows[task].std(0, ddof=1), label=NAMES[memory],
                          marker="o", markersize=3, linewidth=1, capsize=2)
        axis.set(title=task, xlabel=label, ylim=(0, 1.02), xscale=scale)
        axis.set_xticks(places, labels)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("served answers that are right")
    axes[0].legend(fontsize=8)
    finish(figure, name)


def finish(figure, name):
    figure.tight_layout()
    figure.savefig(HERE / f"{name}.png", dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)


def recall(folder):
    curves(folder, "recall", "pairs / d_h", recall_data.LOADS)
    norms(folder)
    numerics(folder)


def lags(folder):
    curves(folder, "lags", "tokens since the pair", stream_data.LAGS, "log")
    numerics(folder)
    inside = json.loads((folder / "inside.json").read_text())
    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True)
    edges = np.linspace(0.05, 1, 20)
    for axis, (layer, task) in zip(axes.flat, ((x, y) for x in "01" for y in stream_data.LAGGED)):
        for kind in ("pair", "query"):
            counts = sum(np.array(inside[f"vort-{task}-{seed}"][f"{layer} {kind}"]) for seed in (1, 2, 3))
            axis.stairs(counts / counts.sum(), edges, label=kind)
        axis.set(title=f"{task}, layer {layer}", yscale="log", ylim=(1e-4, 1))
        axis.grid(alpha=0.3)
    axes[1][0].set_xlabel("alpha")
    axes[0][0].set_ylabel("share of the tokens")
    axes[0][0].legend(fontsize=8)
    finish(figure, "alphas")


def lengths(folder):
    curves(folder, "lengths", "times the length of training", stream_data.FACTORS, "log")
    inside = json.loads((folder / "inside.json").read_text())
    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True, sharey=True)
    panels = [(memory, task) for memory in ("log_linear", "log_linear_fixed") for task in stream_data.LONG]
    for axis, (memory, task) in zip(axes.flat, panels):
        asking = "query" if task == "associative" else "next"
        for layer in "01":
            # [seeds, levels, percentiles]
            of = np.array([inside[f"{memory}-{task}-{seed}"][f"{layer} {asking}"] for seed in (1, 2, 3)])
            for seed in range(3):
                middle = of[seed, :, 2]
                axis.errorbar(np.arange(len(middle)) + 0.1 * seed + 0.35 * int(layer) - 0.25, middle,
                              [middle - of[seed, :, 0], of[seed, :, 4] - middle], fmt="o", markersize=2,
                              linewidth=1, color=f"C{layer}",
                              label=f"layer {layer}" if seed == 0 else None)
        axis.axvspan(7.5, 11.5, alpha=0.1)
        axis.set(title=f"{NAMES[memory]}, {task}", yscale="log", ylim=(1e-3, 100))
        axis.grid(alpha=0.3)
    axes[1][0].set_xlabel("level (shaded: not met in training)")
    axes[0][0].set_ylabel("lambda of the tokens that ask")
    axes[0][0].legend(fontsize=8)
    finish(figure, "lambdas")


def positions(folder):
    """Of files WHO-WHERE.json."""
    figure, axis = plt.subplots(figsize=(6, 3.8))
    runs = {tuple(path.stem.split("-", 1)): json.loads(path.read_text()) for path in folder.glob("*.json")}
    wheres = sorted({where for _, where in runs})
    for (who, where), rows in sorted(runs.items(), key=lambda run: run[0][::-1]):
        measured = [row for row in rows if "median_itl_ms" in row]
        table([f"{who}, {where}", *(f"{row['position']:,}" for row in rows)],
              [[key, *(f"{row[key]:,.3g}" if key in row else "" for row in rows)]
               for key in rows[0] if key.endswith("_ms")])
        axis.loglog([row["position"] for row in measured],
                    [row.get("median_tpot_ms", row["median_itl_ms"]) for row in measured],
                    marker="o", markersize=3, label=f"{who}, {where}",
                    linestyle="-" if who == "evenflow" else "--", color=f"C{wheres.index(where)}")
    axis.set(xlabel="position", ylabel="ms a token")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    finish(figure, "positions")


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
    """Of all tasks together."""
    memories = by_memory(json.loads((folder / "numerics.json").read_text()))
    table(["right, % (answers unlike plain, %)", *(NAMES[name] for name in memories)],
          [[setting, *("{:.1f} ({:.1f})".format(*100 * rows[setting].mean(0))
                       for rows in memories.values())] for setting in next(iter(memories.values()))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reports = {report.__name__: report for report in (recall, lags, lengths, positions)}
    for name in reports:
        parser.add_argument("--" + name, metavar="DIR", type=pathlib.Path)
    for name, folder in vars(parser.parse_args()).items():
        if folder:
            reports[name](folder)


if __name__ == "__main__":
    main()
