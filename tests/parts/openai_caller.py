"""The official OpenAI client, unmodified, as the user of an AI service has it. The last line printed is the result.

Exit codes: 0 the answer came whole; 1 an error status came; 3 the connection failed or broke.
"""

import sys
import time

import openai

import part


def main() -> int:
    parser = part.arguments(__doc__)
    parser.add_argument("--base-url", required=True, help="http://127.0.0.1:PORT/v1")
    parser.add_argument("--mode", choices=["chat", "stream", "embedding"], required=True)
    parser.add_argument("--model", default="smollm2")
    # The small model has much to say about lighthouses: it always reaches --max-tokens.
    parser.add_argument("--prompt", default="Tell a long story about a lighthouse.")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--stall-after", type=int, metavar="CHUNKS", help="then stop reading, keep the connection, sleep")
    parser.add_argument("--api-key", default="not-needed", help="sent as a bearer token, which the mesh is to replace")
    chosen = part.parse(parser)
    # No second try by the client: the test is to see what happened to the first.
    client = openai.OpenAI(base_url=chosen.base_url, api_key=chosen.api_key, max_retries=0)
    result = {"mode": chosen.mode, "started": time.monotonic()}
    try:
        {"chat": chat, "stream": stream, "embedding": embedding}[chosen.mode](client, chosen, result)
    except openai.APIStatusError as error:
        content_type = error.response.headers.get("content-type")
        result |= {"error": "status", "status": error.status_code, "content_type": content_type, "body": error.response.text}
    except Exception as error:  # The client lets errors of its HTTP library through when a stream breaks.
        result |= {"error": "connection", "kind": type(error).__name__, "message": str(error)}
    result["seconds"] = round(time.monotonic() - result.pop("started"), 3)
    part.say(result)
    return {"status": part.REFUSED, "connection": part.BROKEN}.get(result.get("error"), part.DONE)


def question(chosen) -> dict:
    messages = [{"role": "user", "content": chosen.prompt}]
    return {"model": chosen.model, "messages": messages, "max_tokens": chosen.max_tokens, "temperature": 0}


def chat(client: openai.OpenAI, chosen, result: dict) -> None:
    completion = client.chat.completions.create(**question(chosen))
    choice = completion.choices[0]
    result |= {"model": completion.model, "text": choice.message.content, "finish_reason": choice.finish_reason}
    result["completion_tokens"] = completion.usage.completion_tokens


def stream(client: openai.OpenAI, chosen, result: dict) -> None:
    # Filled in as it goes, so that a stream that breaks tells how far it came.
    result |= {"text": "", "chunks": 0, "finish_reason": None}
    for chunk in client.chat.completions.create(stream=True, **question(chosen)):
        if result["chunks"] == 0:
            result["seconds_to_first_chunk"] = round(time.monotonic() - result["started"], 3)
            part.say({"event": "first_chunk"})
        result["chunks"] += 1
        result["text"] += chunk.choices[0].delta.content or ""
        result["finish_reason"] = chunk.choices[0].finish_reason
        if result["chunks"] == chosen.stall_after:
            part.say({"event": "stalled", "chunks": result["chunks"]})
            time.sleep(chosen.limit)
    if result["finish_reason"] is None:
        raise ConnectionError("the stream ended without a finish_reason")


def embedding(client: openai.OpenAI, chosen, result: dict) -> None:
    answer = client.embeddings.create(model=chosen.model, input=chosen.prompt)
    vector = answer.data[0].embedding
    result |= {"model": answer.model, "length": len(vector), "first_numbers": vector[:3]}


if __name__ == "__main__":
    sys.exit(main())
