"""Associative recall: pairs of a key and a value are written, then keys are asked for.

A pair is one token, so that no layer is needed to bring a key and its value together (of the memories
compared, some have a short convolution for that and some have not): what is measured is the memory.
Tokens: pair (key, value) = key * VALUES + value; query = PAIRS + key; answer = PAIRS + KEYS + value.

`static`: each of n keys is written once. `overwrite`: n keys are written once, then 2 n times one of
them anew; the latest value counts.
"""
import json

import numpy as np

KEYS, VALUES, KEY_DIM = 64, 16, 16
PAIRS = KEYS * VALUES
VOCABULARY = PAIRS + KEYS + VALUES
LOADS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # pairs / KEY_DIM
LENGTH = 128  # of training
COUNT = 256  # prompts of an accuracy
WRITES = {"static": 1, "overwrite": 3}                # a key, on average


def sequences(rng, pairs, writes, length):
    """Rows with `pairs` [B] keys and `writes` [B] pairs, then queries up to `length`.

    Returns tokens [B, length] and answers [B, length], -1 where nothing is asked.
    """
    rows, at = np.arange(len(pairs)), np.arange(length)
    order = rng.random((len(pairs), KEYS)).argsort(1)
    which = (rng.random((len(pairs), length)) * pairs[:, None]).astype(np.int64)
    which = np.where(at < pairs[:, None], at, which)
    keys = order[rows[:, None], np.minimum(which, KEYS - 1)]
    values = rng.integers(VALUES, size=(len(pairs), length))
    asked = at >= writes[:, None]
    tokens = np.where(asked, PAIRS + keys, keys * VALUES + values)
    latest, answers = np.zeros((len(pairs), KEYS), np.int64), np.full(tokens.shape, -1)
    for t in range(length):
        key, ask = keys[:, t], asked[:, t]
        latest[rows, key] = np.where(ask, latest[rows, key], values[:, t])
        answers[:, t] = np.where(ask, PAIRS + KEYS + latest[rows, key], -1)
    return tokens, answers


def training_batch(task, seed, batch):
    """A mixture of static and overwrite and of all loads."""
    rng = np.random.default_rng([1, seed])
    pairs = np.round(KEY_DIM * rng.choice(LOADS, batch)).astype(np.int64)
    writes = pairs * rng.choice(list(WRITES.values()), batch)
    tokens, answers = sequences(rng, pairs, writes, LENGTH)
    return tokens.astype(np.int16), answers.astype(np.int16)


def settings(task):
    """What is evaluated: {kind: loads}."""
    return {kind: LOADS for kind in WRITES}


def evaluation(task, load):
    """Prompts [COUNT, writes + 1], each ending with one query, and their answers [COUNT]."""
    rng = np.random.default_rng([2, int(load * 100), WRITES[task]])
    pairs = np.full(COUNT, round(KEY_DIM * load))
    writes = pairs * WRITES[task]
    tokens, answers = sequences(rng, pairs, writes, writes[0] + 1)
    return tokens, answers[:, -1]


def write_results(path, results):
    """A JSON object with a line for each of its entries."""
    lines = (f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in results.items())
    with open(path, "w") as fh:
        fh.write("{\n" + ",\n".join(lines) + "\n}\n")
