"""The Python package against a scripted service: python_client_test.py FOLDER_FOR_STUBS."""
import concurrent.futures
import pathlib
import shutil
import sys
import threading
import unittest

import grpc

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"
BUILD = pathlib.Path(sys.argv.pop(1))
sys.path.insert(0, str(PACKAGE))
from generate_stubs import generate  # noqa: E402

generate(BUILD)
shutil.copytree(PACKAGE / "evenflow", BUILD / "evenflow", dirs_exist_ok=True)
sys.path[0] = str(BUILD)

import evenflow  # noqa: E402
from evenflow.v1 import generation_pb2 as pb  # noqa: E402
from evenflow.v1 import generation_pb2_grpc, models_pb2, models_pb2_grpc  # noqa: E402
from evenflow.v1 import sessions_pb2, sessions_pb2_grpc  # noqa: E402


class Generation(generation_pb2_grpc.GenerationServicer):

    def __init__(self):
        self.request = None
        self.cancelled = threading.Event()

    def Generate(self, request, context):
        self.request = request
        if request.prompt.text == b"busy":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no slot")
        context.add_callback(lambda: self.cancelled.set())
        for i in range(request.options.max_tokens):
            yield pb.GenerateResponse(token_ids=[i], text="é".encode(), position=i + 1)
        yield pb.GenerateResponse(position=request.options.max_tokens,
                                  finish=pb.Finish(reason=pb.FINISH_REASON_LENGTH))

    def Stream(self, requests, context):
        assert next(requests).WhichOneof("message") == "config"
        for index, request in enumerate(requests):
            text = request.append.input.text
            reading = not request.append.HasField("generate")
            if not reading:
                yield pb.StreamResponse(append_index=index,
                                        response=pb.GenerateResponse(text=b"<" + text + b">"))
            reason = pb.FINISH_REASON_READ if reading else pb.FINISH_REASON_LENGTH
            yield pb.StreamResponse(append_index=index,
                                    response=pb.GenerateResponse(finish=pb.Finish(reason=reason)))


class Models(models_pb2_grpc.ModelsServicer):

    def Get(self, request, context):
        return models_pb2.Model(name="scripted")

    def Tokenize(self, request, context):
        return models_pb2.TokenizeResponse(token_ids=request.text)

    def Detokenize(self, request, context):
        return models_pb2.DetokenizeResponse(text=bytes(request.token_ids))


class Sessions(sessions_pb2_grpc.SessionsServicer):

    def __init__(self):
        self.created, self.deleted = None, []

    def Create(self, request, context):
        self.created = request
        return sessions_pb2.Session(session_id="s1")

    def Get(self, request, context):
        return sessions_pb2.Session(session_id=request.session_id, position=42)

    def Delete(self, request, context):
        self.deleted.append(request.session_id)
        return sessions_pb2.DeleteSessionResponse()


class ClientTest(unittest.TestCase):

    def setUp(self):
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        self.generation, self.sessions = Generation(), Sessions()
        generation_pb2_grpc.add_GenerationServicer_to_server(self.generation, self.server)
        models_pb2_grpc.add_ModelsServicer_to_server(Models(), self.server)
        sessions_pb2_grpc.add_SessionsServicer_to_server(self.sessions, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.client = evenflow.Client(f"127.0.0.1:{port}")

    def tearDown(self):
        self.client.close()
        self.server.stop(None)

    def test_generate(self):
        pieces = list(self.client.generate("hi", max_tokens=3, temperature=0.0, stop="x", seed=2))
        self.assertEqual("".join(piece.text for piece in pieces), "ééé")
        self.assertEqual([piece.finish is not None for piece in pieces], [False] * 3 + [True])
        options = self.generation.request.options
        self.assertEqual(list(options.stop), [b"x"])
        self.assertTrue(options.sampling.HasField("temperature"))
        self.assertEqual(options.sampling.seed, 2)
        self.assertFalse(self.generation.request.HasField("expected_position"))

    def test_token_ids_and_expected_position(self):
        list(self.client.generate([5, 6], expected_position=0, max_tokens=1))
        self.assertEqual(list(self.generation.request.prompt.token_ids.ids), [5, 6])
        self.assertTrue(self.generation.request.HasField("expected_position"))

    def test_leaving_early_cancels(self):
        for _ in self.client.generate("hi", max_tokens=1000000):
            break
        self.assertTrue(self.generation.cancelled.wait(10))

    def test_unknown_option(self):
        with self.assertRaisesRegex(TypeError, "did you mean 'temperature'"):
            self.client.generate("hi", temprature=1)

    def test_error(self):
        with self.assertRaises(grpc.RpcError) as raised:
            list(self.client.generate("busy"))
        self.assertEqual(raised.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

    def test_session(self):
        with self.client.session(idle_timeout=1.5) as session:
            self.assertEqual(self.sessions.created.idle_timeout.ToMilliseconds(), 1500)
            list(session.generate("hi", max_tokens=1))
            self.assertEqual(self.generation.request.session_id, "s1")
            list(session.generate(max_tokens=1))
            self.assertFalse(self.generation.request.HasField("prompt"))
            self.assertEqual(session.position, 42)
        self.assertEqual(self.sessions.deleted, ["s1"])

    def test_stream(self):
        with self.client.stream() as stream:
            self.assertEqual(stream.read("background").finish.reason, pb.FINISH_REASON_READ)
            for turn in ("one", "two"):
                text = "".join(piece.text for piece in stream.generate(turn, max_tokens=1))
                self.assertEqual(text, f"<{turn}>")

    def test_models(self):
        self.assertEqual(self.client.model().name, "scripted")
        self.assertEqual(self.client.tokenize("é"), [0xC3, 0xA9])
        self.assertEqual(self.client.detokenize([0xC3, 0xA9]), "é")


if __name__ == "__main__":
    unittest.main()
