"""Recall from far back: what is written among other tokens is asked for a while later.

Tokens: pair (key, value) = key * VALUES + value; query = PAIRS + key; answer = PAIRS + KEYS + value;
then VALUES items, VALUES tokens of noise, a token that asks for the next item, one to begin with.

`zipf`, `uniform`: half of the tokens are pairs, half are queries for the pair that stood a lag ago;
the lags' chances fall with 1 / lag, or all lags are alike. `associative`: 8 pairs among noise, then
queries. `copying`: 6 items among noise, then 6 tokens that ask for them in their order.
"""
import numpy as np

KEYS, VALUES = 64, 8
PAIRS = KEYS * VALUES
ITEMS = PAIRS + KEYS + VALUES
NOISE = ITEMS + VALUES
NEXT = NOISE + VALUES
BEGIN = NEXT + 1
VOCABULARY = BEGIN + 1
LENGTH = 128                                          # of training
COUNT = 256                                           # prompts of an accuracy
LAGS = ((1, 4), (5, 16), (17, 48), (49, 120))         # from, to
FACTORS = (1, 2, 4, 8, 16)                            # times the length of training
WRITTEN = {"associative": 8, "copying": 6}
LAGGED, LONG = ("zipf", "uniform"), tuple(WRITTEN)


def lagged(rng, task, count, last=None):
    """Tokens and answers [count, LENGTH], -1 where nothing is asked; last [count]: of the last query."""
    rows, at = np.arange(count)[:, None], np.arange(LENGTH)
    asks = rng.random((count, LENGTH)) < 0.5
    asks[:, :4], asks[:, -1] = False, True
    nth = (~asks).cumsum(1) - 1                       # of the latest pair
    order = rng.random((count, KEYS)).argsort(1)
    values = rng.integers(VALUES, size=(count, LENGTH))
    chance = rng.random((count, LENGTH))
    lag = np.ceil(at ** chance if task == "zipf" else at * chance).astype(np.int64).clip(1)
    if last is not None:
        lag[:, -1] = last
    asked = nth[rows, np.maximum(at - lag, 0)]
    key = order[rows, asked % KEYS]
    latest = asked + (nth - asked) // KEYS * KEYS     # keys come again after KEYS pairs
    tokens = np.where(asks, PAIRS + key, order[rows, nth % KEYS] * VALUES + values[rows, nth])
    return tokens, np.where(asks, PAIRS + KEYS + values[rows, latest], -1)


def among_noise(rng, task, count, length, queries):
    """Tokens and answers [count, length], the last `queries` [count] of which ask."""
    written, rows = WRITTEN[task], np.arange(count)[:, None]
    tokens = NOISE + rng.integers(VALUES, size=(count, length))
    tokens[:, 0] = BEGIN
    room = np.arange(length) * np.ones((count, 1))
    free = (room >= 1) & (room < length - queries[:, None])
    places = np.sort(np.where(free, rng.random((count, length)), 2).argsort(1)[:, :written], 1)
    values = rng.integers(VALUES, size=(count, written))
    keys = rng.random((count, KEYS)).argsort(1)[:, :written]
    pairs = task == "associative"
    tokens[rows, places] = keys * VALUES + values if pairs else ITEMS + values
    asked = room - (length - queries[:, None])        # the how manieth query
    which = rng.integers(written, size=(count, length)) if pairs else asked.clip(0).astype(np.int64)
    tokens = np.where(asked < 0, tokens, PAIRS + keys[rows, which] if pairs else NEXT)
    return tokens, np.where(asked < 0, -1, PAIRS + KEYS + values[rows, which])


def training_batch(task, seed, batch):
    rng = np.random.default_rng([4, (LAGGED + LONG).index(task), seed])
    if task in LAGGED:
        made = lagged(rng, task, batch)
    else:
        queries = rng.integers(16, LENGTH - 16, batch) if task == "associative" else np.full(batch, 6)
        made = among_noise(rng, task, batch, LENGTH, queries)
    return tuple(part.astype(np.int16) for part in made)


def settings(task):
    """What a model of the task is evaluated at: [key of the results, settings]."""
    return {task: LAGS if task in LAGGED else FACTORS}


def evaluation(task, setting):
    """Prompts [COUNT, tokens], each ending with one query, and their answers [COUNT]."""
    if task in LAGGED:
        rng = np.random.default_rng([5, LAGGED.index(task), *setting])
        low, high = setting
        tokens, answers = lagged(rng, task, COUNT, rng.integers(low, high + 1, COUNT))
    else:
        rng = np.random.default_rng([6, LONG.index(task), setting])
        queries = np.arange(COUNT) % WRITTEN[task] + 1 if task == "copying" else np.ones(COUNT, int)
        tokens, answers = among_noise(rng, task, COUNT, LENGTH * setting, queries)
    return tokens, answers[:, -1]
