"""Serves the checkpoints beside this file: recall_test.py PROGRAM FOLDER_FOR_STUBS.

trained.json there holds what the training code computed from the same weights for the same prompts.
"""
import json
import pathlib
import sys
import unittest

import served

PROGRAM, STUBS = sys.argv[1:]
del sys.argv[1:]
EVENFLOW = served.import_client(STUBS)

import measure  # noqa: E402

HERE = pathlib.Path(__file__).parent / "checkpoints"
STORED = json.loads((HERE / "trained.json").read_text())
LONGEST = 300  # tokens of a prompt; of shorter ones every second setting is asked for


class RecallTest(unittest.TestCase):

    def test_every_checkpoint_has_a_figure(self):
        self.assertEqual({path.parent.name for path in HERE.glob("*/config.json")}, set(STORED))

    def test_served_accuracy_is_the_stored_one(self):
        for name, stored in STORED.items():
            with served.Server(PROGRAM, EVENFLOW, HERE / name) as server:
                for kind, row in stored.items():
                    data = measure.data_of(kind)
                    for setting, expected in list(zip(data.settings(kind)[kind], row))[1::2]:
                        if data.evaluation(kind, setting)[0].shape[1] > LONGEST:
                            continue
                        with self.subTest(model=name, kind=kind, setting=setting):
                            self.assertAlmostEqual(
                                measure.accuracy(server, kind, setting), expected,
                                delta=measure.tolerance(expected, data.COUNT))


if __name__ == "__main__":
    unittest.main()
