#!/usr/bin/env python3
"""Trains the byte-level BPE tokenizer on the training part and encodes both parts.

    tokens.py --corpus DIR --out DIR     # reads train.jsonl, heldout.jsonl

Writes tokenizer.json, train.bin and heldout.bin (little-endian uint16 token ids; every document is
preceded by <|endoftext|>) and heldout.json (the number of UTF-8 bytes behind heldout.bin).
"""
import argparse
import json
import os

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 4096
END_OF_TEXT = "<|endoftext|>"


def texts(path):
    with open(path) as fh:
        for line in fh:
            yield json.loads(line)["text"].replace(END_OF_TEXT, "")


def train_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[END_OF_TEXT],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(texts(path), trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    # Every text begins with the token that stands before every document in training.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))])
    return tokenizer


def encode(tokenizer, path, out):
    """Returns (documents, bytes of text, tokens)."""
    count, size, total = 0, 0, 0
    with open(out, "wb") as fh:
        batch = []

        def write():
            nonlocal total
            for e in tokenizer.encode_batch(batch):
                ids = np.array(e.ids, "<u2")
                total += len(ids)
                fh.write(ids.tobytes())
            batch.clear()

        for text in texts(path):
            batch.append(text)
            count += 1
            size += len(text.encode())
            if len(batch) == 512:
                write()
        write()
    return count, size, total


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    tokenizer = train_tokenizer(os.path.join(args.corpus, "train.jsonl"))
    tokenizer.save(os.path.join(args.out, "tokenizer.json"))
    for part in ("train", "heldout"):
        documents, size, total = encode(tokenizer, os.path.join(args.corpus, part + ".jsonl"),
                                        os.path.join(args.out, part + ".bin"))
        print(f"{part}: {documents} documents, {size} bytes, {total} tokens, "
              f"{size / total:.3f} bytes a token")
        if part == "heldout":
            with open(os.path.join(args.out, "heldout.json"), "w") as fh:
                json.dump({"documents": documents, "bytes": size, "tokens": total}, fh)


if __name__ == "__main__":
    main()
