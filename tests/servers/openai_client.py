"""What openai's Python client, as it is, gets from a server: `python openai_client.py < request.json`.

Takes {"url", "model", "prompts", "most", "extra"} and prints a list: the models, then of each prompt the
answer, its reason to end and its tokens, streamed and whole in turns. Runs in an environment of its own,
which has openai and nothing of this project.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai


def chat(client: Any, *, is_streamed: bool, **asked: Any) -> list[Any]:
    """Text, reason to end, tokens of the prompt and of the answer."""
    if not is_streamed:
        whole = client.chat.completions.create(**asked)
        usage, choice = whole.usage, whole.choices[0]
        return [choice.message.content, choice.finish_reason, usage.prompt_tokens, usage.completion_tokens]
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    pieces = list(client.chat.completions.create(**asked))
    choices = [choice for piece in pieces for choice in piece.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    (reason,) = (choice.finish_reason for choice in choices if choice.finish_reason)
    (usage,) = (piece.usage for piece in pieces if piece.usage)
    return [text, reason, usage.prompt_tokens, usage.completion_tokens]


def main() -> None:
    """Ask for everything, one after the other."""
    asked = json.load(sys.stdin)
    client = openai.OpenAI(base_url=f"{asked['url']}/v1", api_key="none", max_retries=0)
    found: list[Any] = [sorted(each.id for each in client.models.list())]
    for k, prompt in enumerate(asked["prompts"]):
        fields = {"messages": [{"role": "user", "content": prompt}], "max_tokens": asked["most"]}
        fields |= {"model": asked["model"], "temperature": 0.0, "extra_body": asked["extra"]}
        found.append(chat(client, is_streamed=k % 2 == 0, **fields))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
