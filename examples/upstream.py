"""An API behind a proxy: answers each request with what it received. `python examples/upstream.py --port 9000`."""

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps
from typing import Any


class Echo(BaseHTTPRequestHandler):
    """Answers with the method, the target, the header fields and the length of the body."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece

    def answer(self) -> None:
        """Answer a request."""
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        fields = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        received = {"method": self.command, "target": self.path, "headers": fields, "body_bytes": len(body)}
        content = self.encoded(received)
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def encoded(self, received: dict[str, Any]) -> bytes:
        """Return the answer's body."""
        return f"{dumps(received)}\n".encode()

    def log_message(self, *_: Any) -> None:
        """Write no log."""


for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
    setattr(Echo, f"do_{method}", Echo.answer)

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=9000)
    ThreadingHTTPServer(("127.0.0.1", arguments.parse_args().port), Echo).serve_forever()
