#!/usr/bin/python3
"""Measures checkpoints through the server (needs grpc and numpy, no PyTorch, no GPU).

    measure.py recall norms numerics endurance --program build/cpu/evenflow --checkpoints DIR
    measure.py bits --program build/cpu/evenflow [--nats OUT]      # of models/demo

DIR is what models/train/recall.py wrote (norms, endurance: for its experiment `recall`); recall.json, norms.json
and so on go there. `recall` asks what that script asked and fails where an accuracy differs by more than
one standard error.
"""
import argparse
import json
import math
import pathlib
import re
import sys
import tempfile

import numpy as np

import served
import recall_data
import stream_data

POSITIONS = (100, 300, 1000, 3000, 10000)
COMMITS = 2      # whose norms a number is the mean of
WINDOW = 16      # tokens between two commits, unless told
LATE = 128       # questions after 10,000 tokens


def data_of(kind):
    return recall_data if kind in recall_data.WRITES else stream_data


def accuracy(server, kind, setting):
    prompts, answers = data_of(kind).evaluation(kind, setting)
    return round(float(np.mean(np.array(server.answers(prompts)) == answers)), 4)


def tolerance(p, count):
    """One standard error of `count` answers, at least one answer."""
    return max((p * (1 - p) / count) ** 0.5, 1 / count) + 1e-4  # figures are rounded to 1e-4


def recall(args, evenflow, folders):
    trained = json.loads((args.checkpoints / "trained.json").read_text())
    result, wrong = {}, 0
    for folder in folders:
        with served.Server(args.program, evenflow, folder) as server:
            for kind, expected in trained[folder.name].items():
                data = data_of(kind)
                settings = data.settings(kind)[kind]
                row = [accuracy(server, kind, setting) for setting in settings]
                result.setdefault(folder.name, {})[kind] = row
                far = [at for at, p, q in zip(settings, row, expected)
                       if abs(p - q) > tolerance(q, data.COUNT)]
                wrong += len(far)
                print(folder.name, kind, row, f"differs at {far}" if far else
                      f"differs by at most {max(abs(p - q) for p, q in zip(row, expected)):.4f}",
                      flush=True)
    return result, wrong


def numerics(args, evenflow, folders):
    """[share right, share unlike the answers of the defaults] of a folder's last kind and setting.

    For states in bf16, for window lengths, and for prompts sent in two parts.
    """
    trained = json.loads((args.checkpoints / "trained.json").read_text())
    changed = [("fp32", window) for window in (1, 2, 4, 8, 32, 64)] + \
              [("bf16", window) for window in (1, 16, 64)]
    settings = {"plain": []} | {
        f"{dtype}, window {window}": ["--state-dtype", dtype, "--window", str(window)]
        for dtype, window in changed} | {"cut": []}
    result = {}
    for folder in folders:
        kind = list(trained[folder.name])[-1]
        data = data_of(kind)
        prompts, answers = data.evaluation(kind, data.settings(kind)[kind][-1])
        for setting, options in settings.items():
            with served.Server(args.program, evenflow, folder, *options) as server:
                said = np.array(server.answers(prompts, cut=setting == "cut"))
            plain = said if setting == "plain" else plain
            result.setdefault(folder.name, {})[setting] = [
                round(float(np.mean(of)), 4) for of in (said == answers, said != plain)]
        print(folder.name, result[folder.name], flush=True)
    return result, 0


def norms_of(server):
    """{layer and plane: norms at POSITIONS} of one session's states while it reads random pairs."""
    stream = np.random.default_rng(3).integers(recall_data.PAIRS, size=POSITIONS[-1])
    result, position = {}, 0
    with server.client.stream() as session:
        for until in POSITIONS:
            begin = until - COMMITS * WINDOW
            session.read(stream[position:begin].tolist())
            before = [server.series(f"evenflow_state_norm_{part}") for part in ("sum", "count")]
            session.read(stream[begin:until].tolist())
            after = [server.series(f"evenflow_state_norm_{part}") for part in ("sum", "count")]
            position = until
            for labels in after[0]:
                total, count = (a[labels] - b.get(labels, 0) for a, b in zip(after, before))
                key = "{layer} {plane}".format(**dict(re.findall(r'(\w+)="([^"]*)"', labels)))
                result.setdefault(key, []).append(round(total / count, 4) if count else None)
    return result


def norms(args, evenflow, folders):
    """Norms of each layer's state while one session reads 10,000 random pairs."""
    result = {}
    for folder in folders:
        with served.Server(args.program, evenflow, folder) as server:
            result[folder.name] = norms_of(server)
        print(folder.name, result[folder.name], flush=True)
    return result, 0


def endurance(args, evenflow, folders):
    """[shares right after POSITIONS, then of the last: share unlike fp32's, norms of layers 0 and 1].

    The questions are of load 1 and stand after so many pairs of the same 16 keys.
    """
    asked = [recall_data.sequences(np.random.default_rng(7), np.full(LATE, recall_data.KEY_DIM),
                                   np.full(LATE, tokens), tokens + 1) for tokens in POSITIONS]
    settings = {"fp32, window 16": []} | {
        f"bf16, window {window}": ["--state-dtype", "bf16", "--window", str(window)]
        for window in (16, 1)}
    result = {}
    for folder in folders:
        for setting, options in settings.items():
            with served.Server(args.program, evenflow, folder, *options) as server:
                of = norms_of(server)
                said = np.array([server.answers(prompts) for prompts, _ in asked])
            plain = plain if options else said[-1]
            right = (said == [answers[:, -1] for _, answers in asked]).mean(1)
            result.setdefault(folder.name, {})[setting] = [
                *right.round(4).tolist(), round(float(np.mean(said[-1] != plain)), 4),
                *(of[layer][-1] for layer in ("0 state", "1 state"))]
        print(folder.name, result[folder.name], flush=True)
    return result, 0


MEASURES = {"recall": recall, "norms": norms, "numerics": numerics, "endurance": endurance}


def bits(args, evenflow):
    """Bits per byte of the demo model's held-out text, each token read by itself and named beforehand.

    Only the text's next token is allowed, so the server draws it and tells its probability. --nats OUT: a
    JSON list of each token's cost.
    """
    demo = served.SOURCE / "models" / "demo"
    text = (demo / "heldout.txt").read_bytes().decode()
    nats = []
    with served.Server(args.program, evenflow, demo) as server, server.client.stream() as session:
        tokens = server.client.tokenize(text, add_special_tokens=True)[:args.tokens]
        session.read(tokens[:1])
        for token in tokens[1:]:
            pieces = list(session.generate(max_tokens=1, allowed_token_ids=[token], logprobs=0,
                                           ignore_eos=True))
            said, = (piece for piece in pieces if piece.token_ids)
            assert said.token_ids == [token]
            nats.append(-said.logprobs[0].logprob)
        size = len(server.client.detokenize(tokens[1:]).encode())
    if args.nats:
        args.nats.write_text(json.dumps(nats))
    print(f"{len(tokens)} tokens, {size} bytes, {sum(nats) / math.log(2) / size:.5f} bits per byte")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="+", choices=[*MEASURES, "bits"])
    parser.add_argument("--program", required=True)
    parser.add_argument("--checkpoints", type=pathlib.Path)
    parser.add_argument("--only", default="*", metavar="GLOB", help="of the checkpoints' folders [all]")
    parser.add_argument("--nats", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--tokens", type=int, help="of the held-out text [all]")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as stubs:
        evenflow = served.import_client(stubs)
        for what in args.what:
            if what == "bits":
                bits(args, evenflow)
                continue
            folders = sorted(path.parent for path in args.checkpoints.glob(args.only + "/config.json"))
            result, wrong = MEASURES[what](args, evenflow, folders)
            recall_data.write_results(args.checkpoints / (what + ".json"), result)
            failed += wrong
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
