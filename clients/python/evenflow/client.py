"""Client, Session and Stream over proto/evenflow/v1. Failed calls raise grpc.RpcError."""
import dataclasses
import difflib
import queue
from typing import Iterator, List, Optional, Sequence, Union

import grpc
from evenflow.v1 import generation_pb2 as pb
from evenflow.v1 import generation_pb2_grpc
from evenflow.v1 import models_pb2
from evenflow.v1 import models_pb2_grpc
from evenflow.v1 import sessions_pb2
from evenflow.v1 import sessions_pb2_grpc

Prompt = Union[str, bytes, Sequence[int], None]  # text or token ids


@dataclasses.dataclass
class Piece:
    """One streamed message. `finish` is set in the last one only."""
    text: str
    token_ids: List[int]
    position: int  # of the session, after these tokens
    logprobs: list
    finish: Optional[pb.Finish]


def _piece(response: pb.GenerateResponse) -> Piece:
    return Piece(text=response.text.decode("utf-8", errors="replace"),
                 token_ids=list(response.token_ids), position=response.position,
                 logprobs=list(response.logprobs),
                 finish=response.finish if response.HasField("finish") else None)


def _input(prompt: Prompt) -> Optional[pb.Input]:
    if prompt is None:
        return None
    if isinstance(prompt, str):
        return pb.Input(text=prompt.encode())
    if isinstance(prompt, bytes):
        return pb.Input(text=prompt)
    return pb.Input(token_ids=pb.TokenIds(ids=prompt))


def _options(options: dict) -> pb.GenerateOptions:
    """Keyword arguments by the names of the fields of GenerateOptions and Sampling."""
    own = set(pb.GenerateOptions.DESCRIPTOR.fields_by_name) - {"sampling"}
    sampling = set(pb.Sampling.DESCRIPTOR.fields_by_name)
    for name in options:
        if name not in own | sampling:
            near = difflib.get_close_matches(name, own | sampling, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"unknown option {name!r}{hint}")
    options = dict(options)
    if "stop" in options:
        stops = options["stop"]
        stops = [stops] if isinstance(stops, (str, bytes)) else stops
        options["stop"] = [s.encode() if isinstance(s, str) else s for s in stops]
    if isinstance(options.get("logit_bias"), dict):
        options["logit_bias"] = [pb.LogitBias(token_id=token, bias=bias)
                                 for token, bias in options["logit_bias"].items()]
    message = pb.GenerateOptions(**{k: v for k, v in options.items() if k in own})
    chosen = {k: v for k, v in options.items() if k in sampling}
    if chosen:
        message.sampling.CopyFrom(pb.Sampling(**chosen))
    return message


class Client:
    """A connection to one server. Thread-safe, and a context manager."""

    def __init__(self, address: str = "127.0.0.1:50051", model: str = ""):
        self._channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
        self._generation = generation_pb2_grpc.GenerationStub(self._channel)
        self._models = models_pb2_grpc.ModelsStub(self._channel)
        self._sessions = sessions_pb2_grpc.SessionsStub(self._channel)
        self._model = model

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def generate(self, prompt: Prompt, *, session_id: str = "",
                 expected_position: Optional[int] = None, priority: int = 0, request_id: str = "",
                 timeout: Optional[float] = None, **options) -> Iterator[Piece]:
        """Yields pieces as they come. Leaving the loop early cancels the request.

        options: max_tokens, temperature, seed, stop, ... (fields of GenerateOptions and Sampling).
        """
        request = pb.GenerateRequest(model=self._model, request_id=request_id,
                                     session_id=session_id, expected_position=expected_position,
                                     prompt=_input(prompt), priority=priority,
                                     options=_options(options))
        return self._pieces(request, timeout)

    def _pieces(self, request: pb.GenerateRequest, timeout: Optional[float]) -> Iterator[Piece]:
        call = self._generation.Generate(request, timeout=timeout)
        try:
            for response in call:
                yield _piece(response)
        finally:
            call.cancel()

    def session(self, session_id: str = "", idle_timeout: Optional[float] = None) -> "Session":
        """Makes a session whose memory stays between requests. Seconds until it ends if idle."""
        request = sessions_pb2.CreateSessionRequest(model=self._model, session_id=session_id)
        if idle_timeout is not None:
            request.idle_timeout.FromNanoseconds(round(idle_timeout * 1e9))
        return Session(self, self._sessions.Create(request).session_id)

    def stream(self, session_id: str = "", timeout: Optional[float] = None) -> "Stream":
        """Opens a bidirectional stream on a session, or on a new one that ends with it."""
        config = pb.StreamConfig(model=self._model, session_id=session_id)
        return Stream(self._generation, config, timeout)

    def model(self) -> models_pb2.Model:
        return self._models.Get(models_pb2.GetModelRequest(model=self._model))

    def tokenize(self, text: str, add_special_tokens: bool = False) -> List[int]:
        request = models_pb2.TokenizeRequest(model=self._model, text=text.encode(),
                                             add_special_tokens=add_special_tokens)
        return list(self._models.Tokenize(request).token_ids)

    def detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        request = models_pb2.DetokenizeRequest(model=self._model, token_ids=token_ids,
                                               skip_special_tokens=skip_special_tokens)
        return self._models.Detokenize(request).text.decode("utf-8", errors="replace")


class Session:
    """A session of the server. As a context manager it is deleted at the end."""

    def __init__(self, client: Client, session_id: str):
        self.id = session_id
        self._client = client

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_) -> None:
        self.delete()

    def generate(self, prompt: Prompt = None, **options) -> Iterator[Piece]:
        return self._client.generate(prompt, session_id=self.id, **options)

    def get(self) -> sessions_pb2.Session:
        return self._client._sessions.Get(sessions_pb2.GetSessionRequest(session_id=self.id))

    @property
    def position(self) -> int:
        return self.get().position

    def delete(self) -> None:
        self._client._sessions.Delete(sessions_pb2.DeleteSessionRequest(session_id=self.id))


class Stream:
    """Turns on one bidirectional stream. One thread takes the answers; interrupt() is for any."""

    def __init__(self, stub: generation_pb2_grpc.GenerationStub, config: pb.StreamConfig,
                 timeout: Optional[float]):
        self._requests = queue.SimpleQueue()
        self._requests.put(pb.StreamRequest(config=config))
        self._appends = 0
        self._call = stub.Stream(iter(self._requests.get, None), timeout=timeout)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_) -> None:
        self._requests.put(None)
        self._call.cancel()

    def read(self, prompt: Prompt) -> Piece:
        """Lets the model read without writing; returns when it has."""
        return list(self._append(pb.Append(input=_input(prompt))))[-1]

    def generate(self, prompt: Prompt = None, **options) -> Iterator[Piece]:
        """Sends a turn at once and yields the answer's pieces; take all of them before the next."""
        return self._append(pb.Append(input=_input(prompt), generate=_options(options)))

    def interrupt(self) -> None:
        """Ends the answer that is being generated; its last piece says so."""
        self._send(pb.Append(interrupt=True))

    def _send(self, append: pb.Append) -> int:
        self._requests.put(pb.StreamRequest(append=append))
        self._appends += 1
        return self._appends - 1

    def _append(self, append: pb.Append) -> Iterator[Piece]:
        return self._answer(self._send(append))

    def _answer(self, index: int) -> Iterator[Piece]:
        for message in self._call:
            if message.append_index != index:
                continue  # what an interrupt was answered with
            piece = _piece(message.response)
            yield piece
            if piece.finish:
                return
