"""Starts every part and calls it directly, with no mesh between. When a test fails, this tells whether a part is to blame.

    $(tests/parts/install)/bin/python tests/parts/check.py
"""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def served(name: str, *arguments: str):
    """The address of a server that runs for as long as the block."""
    program = Path(sys.executable).with_name("node") if name.endswith(".mjs") else sys.executable
    with subprocess.Popen([program, HERE / name, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = (line for line in process.stdout if not line.startswith("{"))
            word, _, address = next(lines, "").strip().partition(" ")
            assert word == "ready", f"{name} did not start"
            yield address
        finally:
            process.terminate()
    assert process.returncode == 0, f"{name} ended with {process.returncode}"


def called(name: str, *arguments: str) -> list[dict]:
    """What a caller printed, but for its progress."""
    done = subprocess.run([sys.executable, HERE / name, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    lines = map(json.loads, done.stdout.splitlines())
    return [line for line in lines if "event" not in line]


def fetched(*arguments: str) -> bytes:
    return subprocess.run(["curl", "--silent", "--fail", "--noproxy", "*", *arguments], stdout=subprocess.PIPE, check=True).stdout


def check_language_model() -> None:
    with served("llama_server.py") as address:
        asked = ["--base-url", f"http://{address}/v1"]
        [chat] = called("openai_caller.py", *asked, "--mode", "chat")
        [stream] = called("openai_caller.py", *asked, "--mode", "stream")
        assert chat["text"] == stream["text"] != "" and stream["chunks"] > 10, (chat, stream)


def check_embedding() -> None:
    with served("embedding_server.py") as address:
        [answer] = called("openai_caller.py", "--base-url", f"http://{address}/v1", "--mode", "embedding")
        assert answer["length"] == 384, answer


def check_grpc() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for listening in [], ["--unix", f"{folder}/socket"]:
            with served("grpc_echo_server.py", *listening) as address:
                calls = called("grpc_echo_caller.py", "--target", address, "--metadata", "x-countersign-id=forged")
                assert all(["x-countersign-id", "forged"] in call["trailing_metadata"]["seen"] for call in calls), calls


def check_websocket() -> None:
    with served("websocket_echo_server.py") as address:
        head, *answers = called("websocket_caller.py", "--url", f"ws://{address}/path", "--size", "70000")
        assert head["path"] == "/path" and all(answer["intact"] for answer in answers), (head, answers)


def check_plain() -> None:
    with served("plain_server.py") as address:
        seen = json.loads(fetched("-H", "x-a: 1", "-H", "X-A: 2", f"{address}/echo-headers"))
        assert [value for name, value in seen["headers"] if name.lower() == "x-a"] == ["1", "2"], seen
        for framing in "expect:", "transfer-encoding: chunked":
            body = ["-H", framing, "--data-binary", f"@{__file__}"]
            assert json.loads(fetched(*body, f"{address}/length"))["length"] == Path(__file__).stat().st_size
        assert fetched(f"{address}/events?count=2") == b"data: 0\n\ndata: 1\n\n"
        assert len(fetched(f"{address}/bytes/100000")) == 100000


def check_tokens() -> None:
    with served("oidc/provider.mjs", "--plain") as address:
        form = ["-d", "grant_type=client_credentials", "-d", "resource=https://llm.mesh.test", "-d", "scope=llm:read"]
        granted = json.loads(fetched("-u", "reader-service:a+secret+of+tests+%26+more", *form, f"{address}/token"))
        keys = json.loads(fetched(f"{address}/jwks"))["keys"]
        assert granted["access_token"].count(".") == 2 and len(keys) == 2, (granted, keys)
    with tempfile.TemporaryDirectory() as folder:
        [made] = called("token_maker.py", "--folder", folder, "tokens", "--issuer", "https://a", "--audience", "b")
        [proofs] = called("token_maker.py", "--folder", folder, "proofs", "--url", "https://c/", "--token", made["good"])
        assert len(made) > 30 and len(proofs) > 10, (made, proofs)


if __name__ == "__main__":
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check()
            print("ok", name.removeprefix("check_"), flush=True)
