"""Recall from far back: what is written among other tokens is asked for a while later.

Tokens: pair (key, value) = key * VALUES + value; query = PAIRS + key; answer = PAIRS + KEYS + value;
then VALUES items, VALUES tokens of noise, a token that asks for the next item, one to begin with.

`zipf`, `uniform`, `marked`: 2 of 5 tokens are pairs, the others are queries for the pair that stood a lag
ago; the lags' chances fall with 1 / lag, or all lags are alike, or the key tells: 7 of 8 pairs are asked
for within SOON tokens, the others, whose keys are the last KEPT, later (half of the queries).
`associative`: 8 pairs among noise, then queries. `copying`: 6 items among noise, then 6 tokens that ask
for them in their order.
"""
import numpy as np

KEYS, VALUES = 128, 8
PAIRS = KEYS * VALUES
ITEMS = PAIRS + KEYS + VALUES
NOISE = ITEMS + VALUES
NEXT = NOISE + VALUES
BEGIN = NEXT + 1
VOCABULARY = BEGIN + 1
COUNT = 256                                           # prompts of an accuracy
SOON, KEPT = 32, 32
LAGS = ((1, 8), (9, SOON), (SOON + 1, 96), (97, 240))  # from, to
FACTORS = (1, 2, 4, 8, 16)                            # times the length of training
WRITTEN = {"associative": 8, "copying": 6}
LAGGED, LONG = ("zipf", "uniform", "marked"), tuple(WRITTEN)
LENGTHS = dict.fromkeys(LAGGED, 256) | dict.fromkeys(LONG, 128)  # of training


def lagged(rng, task, count, last=None):
    """Tokens and answers [count, length], -1 where nothing is asked; last [count]: lag of the last query."""
    length, marked = LENGTHS[task], task == "marked"
    sizes = np.array([KEYS - KEPT, KEPT] if marked else [KEYS])     # keys of a kind
    rows, at = np.arange(count)[:, None], np.arange(length)
    asks = rng.random((count, length)) < 0.6
    asks[:, :4], asks[:, -1] = False, True
    kind = np.zeros((count, length), np.int64)
    if marked:
        kind = rng.random((count, length)) < np.where(asks, 0.5, 0.125)
        kind = np.where(at < 4, at % 2, kind)
    chance = rng.random((count, length))
    if task == "zipf":
        lag = np.ceil(at ** chance)
    elif task == "uniform":
        lag = np.ceil(at * chance)
    else:
        kind = np.where(asks & (at <= SOON), 0, kind)
        lag = np.ceil(np.where(kind, SOON + chance * (at - SOON), chance * at.clip(max=SOON)))
    if last is not None:
        lag[:, -1] = last
        kind[:, -1] = marked & (last > SOON)
    # How many pairs of a kind [count, kind, length] there were; the one that is asked for.
    nth = np.stack([(~asks & (kind == k)).cumsum(1) for k in range(len(sizes))], 1) - 1
    now, asked = nth[rows, kind, at], nth[rows, kind, (at - lag.astype(np.int64)).clip(0)].clip(0)
    order = np.concatenate([rng.random((count, size)).argsort(1) for size in sizes], 1)
    size, first = sizes[kind], sizes[0] * kind
    key = first + order[rows, first + np.where(asks, asked, now) % size]
    latest = asked + (now - asked) // size * size               # keys come again
    value = rng.integers(VALUES, size=(count, len(sizes), length))[rows, kind, np.where(asks, latest, now)]
    return (np.where(asks, PAIRS + key, key * VALUES + value),
            np.where(asks, PAIRS + KEYS + value, -1))


def among_noise(rng, task, count, length, begin):
    """Tokens and answers [count, length]; row i asks from token begin[i] on, for copying 6 times."""
    written, rows, pairs = WRITTEN[task], np.arange(count)[:, None], task == "associative"
    tokens = NOISE + rng.integers(VALUES, size=(count, length))
    tokens[:, 0] = BEGIN
    at = np.arange(length) - begin[:, None]           # the how manieth query
    room = np.where((at < 0) & (np.arange(length) > 0), rng.random((count, length)), 2)
    places = np.sort(room.argsort(1)[:, :written], 1)
    values = rng.integers(VALUES, size=(count, written))
    keys = rng.random((count, KEYS)).argsort(1)[:, :written]
    tokens[rows, places] = keys * VALUES + values if pairs else ITEMS + values
    asks = (at >= 0) & (pairs | (at < written))
    which = rng.integers(written, size=(count, length)) if pairs else at.clip(0, written - 1)
    tokens = np.where(asks, PAIRS + keys[rows, which] if pairs else NEXT, tokens)
    return tokens, np.where(asks, PAIRS + KEYS + values[rows, which], -1)


def training_batch(task, seed, batch):
    rng = np.random.default_rng([4, (LAGGED + LONG).index(task), seed])
    if task in LAGGED:
        made = lagged(rng, task, batch)
    else:
        length = LENGTHS[task]
        begin = rng.integers(16, length - (16 if task == "associative" else 5), batch)
        made = among_noise(rng, task, batch, length, begin)
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
        length = LENGTHS[task] * setting
        queries = np.arange(COUNT) % WRITTEN[task] + 1 if task == "copying" else np.ones(COUNT, int)
        tokens, answers = among_noise(rng, task, COUNT, length, length - queries)
    return tokens, answers[:, -1]
