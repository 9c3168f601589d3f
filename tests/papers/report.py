#!/usr/bin/env python3
"""Tables (printed) and plots (PNG beside this file) of what measure.py and positions.py wrote.

    report.py [--recall DIR] [--lags DIR] [--lengths DIR] [--bits DIR] [--positions DIR]

Needs numpy and matplotlib. DIR of bits holds trained.json and served.json, of positions WHO-WHERE.json.
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


def seeds(inside, memory, task):
    """What inside.py saw in each seed's model."""
    return [rows for run, rows in inside.items() if run.rsplit("-", 1)[0] == f"{memory}-{task}"]


def table(head, rows):
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def spread(shares):
    """Mean and standard deviation, in %."""
    return f"{100 * shares.mean():.1f} ± {100 * shares.std(ddof=1):.1f}"


def extent(values, digits=1):
    """Median, least and greatest."""
    middle, least, most = (f"{x:,.{0 if x >= 100 else digits}f}"
                           for x in (np.median(values), values.min(), values.max()))
    return f"{middle} ({least} to {most})"


def curves(folder, name, tasks, label, at, scale="linear"):
    """Served accuracies over `at`: a table and a panel for each task; against the training code's."""
    served, trained = (json.loads((folder / f"{of}.json").read_text()) for of in ("recall", "trained"))
    apart = [abs(p - q) for model, rows in served.items() for task, row in rows.items()
             for p, q in zip(row, trained[model][task])]
    print(f"Of {len(apart)} accuracies {sum(x < 5e-5 for x in apart)} are those of the training code; "
          f"the greatest difference is {100 * max(apart):.2f} %.\n")
    memories = by_memory(served)
    labels = [f"{x[0]} to {x[1]}" if isinstance(x, tuple) else str(x) for x in at]
    places = [x[1] if isinstance(x, tuple) else x for x in at]
    figure, axes = plt.subplots(1, len(tasks), figsize=(1.8 + 3.6 * len(tasks), 3.6), sharey=True)
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
    curves(folder, "recall", recall_data.WRITES, "pairs / d_h", recall_data.LOADS)
    norms(folder)
    numerics(folder)
    endurance(folder)


def lags(folder):
    curves(folder, "lags", stream_data.LAGGED, "tokens since the pair", stream_data.LAGS, "log")
    numerics(folder)
    inside = json.loads((folder / "inside.json").read_text())
    figure, axes = plt.subplots(2, len(stream_data.LAGGED), figsize=(12, 5), sharex=True)
    edges = np.linspace(0.05, 1, 20)
    for axis, (layer, task) in zip(axes.flat, ((x, y) for x in "01" for y in stream_data.LAGGED)):
        runs = seeds(inside, "vort", task)
        for key in (key for key in runs[0] if key[0] == layer):
            counts = sum(np.array(run[key]) for run in runs)
            axis.stairs(counts / counts.sum(), edges, label=key[2:])
        axis.legend(fontsize=8)
        axis.set(title=f"{task}, layer {layer}", yscale="log", ylim=(1e-4, 1))
        axis.grid(alpha=0.3)
    axes[1][0].set_xlabel("alpha")
    axes[0][0].set_ylabel("share of the tokens")
    finish(figure, "alphas")


def lengths(folder):
    curves(folder, "lengths", stream_data.LONG, "times the length of training", stream_data.FACTORS, "log")
    numerics(folder)
    inside = json.loads((folder / "inside.json").read_text())
    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True, sharey=True)
    panels = [(memory, task) for memory in ("log_linear", "log_linear_fixed") for task in stream_data.LONG]
    for axis, (memory, task) in zip(axes.flat, panels):
        asking = "query" if task == "associative" else "next"
        for layer in "01":
            # [seeds, levels, percentiles]
            of = np.array([run[f"{layer} {asking}"] for run in seeds(inside, memory, task)])
            for seed in range(len(of)):
                middle = of[seed, :, 2]
                axis.errorbar(np.arange(len(middle)) + 0.07 * seed + 0.45 * int(layer) - 0.4, middle,
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


def bits(folder):
    trained, served = (np.array(json.loads((folder / f"{of}.json").read_text())) / np.log(2)
                       for of in ("trained", "served"))
    print(f"bits a token apart: {abs(trained - served).max():.1e} at most, "
          f"{abs(trained - served).mean():.1e} on average\n")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    at = np.arange(1, len(trained) + 1)
    for of, name, style in ((trained, "training code", "-"), (served, "served", "--")):
        axes[0].plot(at, of.cumsum() / at, style, label=name)
    axes[0].set(ylabel="bits a token, mean up to here", ylim=(0, None))
    axes[0].legend(fontsize=8)
    axes[1].plot(at, served - trained, ".", markersize=2)
    axes[1].set(ylabel="bits a token, served less training code")
    for axis in axes:
        axis.set_xlabel("token")
        axis.grid(alpha=0.3)
    finish(figure, "bits")


def positions(folder):
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


def endurance(folder):
    """With what states in bf16 do to short prompts."""
    short, late = (by_memory(json.loads((folder / f"{name}.json").read_text()))
                   for name in ("numerics", "endurance"))
    settings, positions = list(next(iter(late.values()))), measure.POSITIONS
    table(["right after so many tokens, %", *(f"{p:,}" for p in positions)],
          [[NAMES[name], *(spread(rows[settings[0]][:, i]) for i in range(len(positions)))]
           for name, rows in late.items()])
    last, unlike, *norms = range(len(positions) - 1, len(positions) + 3)
    table(["after 10,000 tokens", *(NAMES[name] for name in late)],
          [[f"{setting}: right, % (answers unlike fp32, %)",
            *("{:.1f} ({:.1f})".format(*100 * rows[setting][:, [last, unlike]].mean(0))
              for rows in late.values())] for setting in settings] +
          [[f"{setting}: norm of layer {layer} / that in fp32",
            *(extent(rows[setting][:, norm] / rows[settings[0]][:, norm], 2) for rows in late.values())]
           for setting in settings[1:] for layer, norm in enumerate(norms)])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    places = np.arange(len(late))
    for i, setting in enumerate(settings[1:]):
        for j, (of, column, what) in enumerate(((short, 1, "97"), (late, unlike, "10,000"))):
            axes[0].bar(places + 0.2 * (2 * i + j) - 0.3,
                        [100 * rows[setting][:, column].mean() for rows in of.values()], 0.2,
                        label=f"{setting}, {what} tokens", color=f"C{i}", alpha=1 - 0.5 * j)
    axes[0].set_xticks(places, [NAMES[name].replace(" ", "\n", 1) for name in late], fontsize=7)
    axes[0].set_ylabel("answers unlike those in fp32, %")
    for i, (name, rows) in enumerate(late.items()):
        for setting, style in ((settings[0], "-"), (settings[-1], ":")):
            axes[1].semilogx(positions, 100 * rows[setting][:, :len(positions)].mean(0), style,
                             color=f"C{i}", label=NAMES[name] if style == "-" else None)
    axes[1].set(xlabel="tokens read", ylabel=f"right, % (dotted: {settings[-1]})", ylim=(0, 100))
    for axis in axes:
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    finish(figure, "numerics")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    reports = {report.__name__: report for report in (recall, lags, lengths, bits, positions)}
    for name in reports:
        parser.add_argument("--" + name, metavar="DIR", type=pathlib.Path)
    for name, folder in vars(parser.parse_args()).items():
        if folder:
            reports[name](folder)


if __name__ == "__main__":
    main()
