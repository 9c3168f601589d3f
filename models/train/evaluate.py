#!/usr/bin/env python3
"""Measures and samples a checkpoint folder (config.json, model.safetensors, tokenizer.json).

    evaluate.py bits --model DIR --text FILE [--nats OUT]    # .jsonl from corpus.py, or plain text
    evaluate.py sample --model DIR --prompt TEXT [--tokens N] [--temperature T] [--top-p P] [--seed S]
    evaluate.py excerpt --corpus DIR --out FILE   # at most 64 KiB of permissively licensed held-out text

`bits` prints bits per byte of the model beside those of gzip -9 and xz -9 on the same bytes. The text
is one stream with the state carried from beginning to end; <|endoftext|> stands before each document
(before the whole of a plain file), and its own cost counts except for the first. OUT: a JSON list of
each token's cost.
"""
import argparse
import gzip
import json
import lzma
import math
import os

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import checkpoint
import retnet

SEGMENT = 1024
PERMISSIVE = {"Apache-2.0", "BSD-3-Clause", "BSD-2-Clause", "MIT", "MIT or Apache-2.0", "PostgreSQL",
              "public domain", "BSL-1.0", "PSF-2.0"}


def open_model(folder):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    return checkpoint.load(folder, retnet.RetNet).to(device), tokenizer, device


def read_documents(path):
    with open(path, newline="") as fh:
        if path.endswith(".jsonl"):
            return [json.loads(line)["text"] for line in fh]
        return [fh.read()]


@torch.no_grad()
def bits(args):
    model, tokenizer, device = open_model(args.model)
    documents = read_documents(args.text)
    ids = [i for e in tokenizer.encode_batch(documents) for i in e.ids]
    raw = "".join(documents).encode()
    stream = torch.tensor(ids, device=device)[None]
    states, each = None, []
    for at in range(0, stream.shape[1] - 1, SEGMENT):
        inputs, targets = stream[:, at:at + SEGMENT], stream[0, at + 1:at + SEGMENT + 1]
        logits, states = model(inputs, states, at)
        each += F.cross_entropy(logits[0, :len(targets)], targets, reduction="none").tolist()
    nats = sum(each)
    if args.nats:
        with open(args.nats, "w") as fh:
            json.dump(each, fh)
    print(json.dumps({
        "text": os.path.basename(args.text), "documents": len(documents), "bytes": len(raw),
        "tokens": len(ids), "model": round(nats / math.log(2) / len(raw), 4),
        "gzip": round(8 * len(gzip.compress(raw, 9)) / len(raw), 4),
        "xz": round(8 * len(lzma.compress(raw, preset=9)) / len(raw), 4)}))


def draw(logits, temperature, top_p, generator):
    if temperature == 0:
        return int(logits.argmax())
    p, order = torch.softmax(logits.cpu().double() / temperature, -1).sort(descending=True)
    p = p * (p.cumsum(-1) - p < top_p)
    return int(order[torch.multinomial(p, 1, generator=generator)])


@torch.no_grad()
def sample(args):
    model, tokenizer, device = open_model(args.model)
    generator = torch.Generator().manual_seed(args.seed)
    ids = tokenizer.encode(args.prompt).ids
    logits, states = model(torch.tensor([ids], device=device))
    written = []
    for position in range(len(ids), len(ids) + args.tokens):
        token = draw(logits[0, -1], args.temperature, args.top_p, generator)
        if token == model.c["eos_token_id"]:
            break
        written.append(token)
        logits, states = model(torch.tensor([[token]], device=device), states, position)
    print(f"--- prompt {args.prompt!r} temperature {args.temperature} top_p {args.top_p} "
          f"seed {args.seed} tokens {len(written)}\n{args.prompt}{tokenizer.decode(written)}")


def excerpt(args):
    from packages import PACKAGES
    free = {name for name, _, licence in PACKAGES if licence in PERMISSIVE}
    total, used, parts = 0, {}, []
    with open(os.path.join(args.corpus, "heldout.jsonl")) as fh:
        for line in fh:
            d = json.loads(line)
            package, size = d["id"].split(":")[0], len(d["text"].encode()) + 1
            if package in free and 800 <= size <= 6000 and used.get(package, 0) < 2 and total + size <= 65536:
                used[package] = used.get(package, 0) + 1
                total += size
                parts.append(d["text"])
                print(d["id"])
    with open(args.out, "w") as fh:
        fh.write("\n".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("bits")
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--nats", metavar="OUT")
    p.set_defaults(run=bits)
    p = commands.add_parser("sample")
    p.add_argument("--model", required=True)
    p.add_argument("--prompt", required=True)
    p.add_argument("--tokens", type=int, default=160)
    p.add_argument("--temperature", type=float, default=0.8)
    p.add_argument("--top-p", type=float, default=0.95)
    p.add_argument("--seed", type=int, default=1)
    p.set_defaults(run=sample)
    p = commands.add_parser("excerpt")
    p.add_argument("--corpus", required=True)
    p.add_argument("--out", required=True)
    p.set_defaults(run=excerpt)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
