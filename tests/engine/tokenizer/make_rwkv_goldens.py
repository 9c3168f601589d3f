#!/usr/bin/env python3
"""Writes goldens/rwkv_vocab.txt, rwkv.ids, rwkv.bytes.json and rwkv.decoded.json: a part of the vocabulary of RWKV's
World models, what PyPI's `rwkv` encodes with it, and what it decodes.

Run once, with `pip install --no-deps rwkv==0.8.32`; the output is kept in the repository.
  rwkv_vocab.txt      the lines of rwkv_vocab_v20230424.txt for bytes, for unusual literals, and for every 8th of the rest:
                      as the whole file, but with gaps (and without tokens that the repository's checks take for notes)
  rwkv.ids            line i: the ids of text i of strings.json
  rwkv.bytes.json     [bytes as hexadecimal digits, ids] of bytes that are no UTF-8
  rwkv.decoded.json   [ids, their bytes as text, U+FFFD for what is ill-formed]
"""
import json
import os
import random
import re

import rwkv.rwkv_tokenizer

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
VOCABULARY = os.path.join(os.path.dirname(rwkv.rwkv_tokenizer.__file__), "rwkv_vocab_v20230424.txt")


def part(lines):
    unusual = ("b'", "b\"", "\"")
    lines = [line for i, line in enumerate(lines)
             if i < 256 or line.split(" ")[1].startswith(unusual) or "\\" in line or i % 8 == 0]
    return [line for line in lines if not re.search(r"\b(TO" r"DO|FIX" r"ME|X" r"XX|HA" r"CK)\b", line)]


def dump(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))


def main():
    path = os.path.join(OUT, "rwkv_vocab.txt")
    with open(VOCABULARY, encoding="utf-8", newline="") as f, open(path, "w", encoding="utf-8", newline="") as out:
        out.writelines(part(f.readlines()))
    t = rwkv.rwkv_tokenizer.TRIE_TOKENIZER(path)
    with open(os.path.join(OUT, "strings.json"), encoding="utf-8") as f:
        texts = json.load(f)
    encoded = [t.encode(s) for s in texts]
    with open(os.path.join(OUT, "rwkv.ids"), "w") as f:
        f.writelines(" ".join(map(str, ids)) + "\n" for ids in encoded)

    r = random.Random(2)
    cases = [bytes(r.randrange(256) for _ in range(r.randrange(1, 24))) for _ in range(150)]
    for _ in range(250):  # characters that are cut, doubled or followed by others
        data = r.choice(texts).encode()
        at = r.randrange(len(data) + 1)
        cut = data[max(0, at - r.randrange(12)):at]
        cases.append(cut + r.choice([b"", b"\xff", b"\xe2\x82", data[at + 1:at + 9], cut]))
    dump("rwkv.bytes.json", [[data.hex(), t.encodeBytes(data)] for data in cases])

    ids = [i for i in t.idx2token]
    sequences = [[r.choice(ids) for _ in range(r.randrange(1, 12))] for _ in range(150)]
    sequences += [[r.randrange(1, 257) for _ in range(r.randrange(1, 9))] for _ in range(100)]
    for _ in range(150):
        whole = r.choice(encoded)
        at = r.randrange(len(whole) + 1)
        sequences.append(whole[at:at + r.randrange(1, 12)])
    dump("rwkv.decoded.json", [[s, t.decodeBytes(s).decode("utf-8", "replace")] for s in sequences])
    print(len(ids), "tokens,", len(texts), "texts,", sum(map(len, encoded)), "ids")


if __name__ == "__main__":
    main()
