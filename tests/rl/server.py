"""A small server that speaks as much of vLLM's protocol as rl.grpo uses, and serves a model with transformers.

    python tests/rl/server.py <folder of the model> <port> [requests after which it ends and never starts again]

Its completions depend on the weights, the prompts and the seed alone.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class Server(BaseHTTPRequestHandler):
    model: Any
    left: int  # requests until it ends

    def do_GET(self) -> None:
        self._answer({"data": [{"id": "tiny"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).left -= 1
        if self.left == 0:
            Path("ended").touch()
            os._exit(1)
        if self.path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            type(self).model = AutoModelForCausalLM.from_pretrained(body["kwargs"]["weights_path"], dtype=torch.float32)
            self._answer({"results": [None]})
        elif self.path == "/v1/completions":
            self._answer(self._complete(body))
        else:
            self._answer({})

    @torch.inference_mode()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        draw = torch.Generator().manual_seed(body["seed"])
        choices: list[dict[str, Any]] = []
        end = self.model.config.eos_token_id
        rows = torch.tensor([prompt for prompt in body["prompt"] for _ in range(body["n"])])  # of one length here
        alive = torch.ones(len(rows), dtype=torch.bool)
        tokens: list[list[int]] = [[] for _ in rows]
        scores: list[list[float]] = [[] for _ in rows]
        for _ in range(body["max_tokens"]):
            logs = torch.log_softmax(self.model(input_ids=rows).logits[:, -1] / body["temperature"], dim=-1)
            drawn = torch.multinomial(logs.exp(), 1, generator=draw)
            for number in torch.nonzero(alive).flatten().tolist():
                tokens[number].append(int(drawn[number]))
                scores[number].append(float(logs[number, drawn[number]]))
            alive &= drawn.flatten() != end
            rows = torch.cat([rows, drawn], dim=1)
        for number, (ids, values) in enumerate(zip(tokens, scores, strict=True)):
            choices.append({"index": number, "token_ids": ids, "logprobs": {"token_logprobs": values}})
        return {"choices": choices}

    def _answer(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    folder, port, *rest = sys.argv[1:]
    if Path("ended").exists():
        sys.exit(1)
    Server.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    Server.left = int(rest[0]) if rest else -1
    ThreadingHTTPServer(("", int(port)), Server).serve_forever()
