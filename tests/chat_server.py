"""A tiny server on the loopback device that speaks OpenAI's chat protocol, as far as the client asks it."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Answers `answer` word by word. asked: the bodies of all requests; models: the names it knows."""

    daemon_threads = True

    def __init__(self, answer: str, models: tuple[str, ...] = ("tiny",)):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.models, self.asked = answer, models, []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": "us"}
            for name in self.server.models
        ]
        self._send(200, {"object": "list", "data": rows})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        if asked["model"] not in self.server.models:
            self._send(404, {"error": {"message": f"the model {asked['model']} does not exist"}})
        elif self.server.answer == "GARBAGE":
            self._send(200, {"object": "other"})
        elif asked.get("stream"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for word in self.server.answer.split(" "):
                delta = [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]
                self._event({"choices": delta})
            if self.server.answer.endswith("BREAK"):
                return
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.wfile.write(b"data: [DONE]\n\n")
        else:
            said = {"role": "assistant", "content": self.server.answer}
            choices = [{"index": 0, "message": said, "finish_reason": "stop"}]
            self._send(
                200,
                {
                    "id": "1",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "tiny",
                    "choices": choices,
                },
            )

    def _event(self, more):
        one = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", **more}
        self.wfile.write(f"data: {json.dumps(one)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status, body):
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@contextlib.contextmanager
def serving(answer: str, models: tuple[str, ...] = ("tiny",)) -> Iterator[ChatServer]:
    """A server that runs while the block does."""
    server = ChatServer(answer, models)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
