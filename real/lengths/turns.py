"""Prompts that go on from answers: the tokens of each, once it is complete, in the prompts that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from traces.prompt_blocks import PromptBlocks

from .prompts import Prompts


class Place(NamedTuple):
    """Where an answer lies in a later prompt: row, first token, and the token behind the last."""

    row: int
    start: int
    end: int


class Turns:
    """The prompts of a run, token ids by request id, each of the length that its trace says.

    Where `blocks` say that a prompt holds the answer to an earlier one, that is put into it when it is
    complete: an answer that is longer than its place is cut, and beyond a shorter one the prompt stays as it
    is. `prompts` are copied where that may happen.
    """

    def __init__(self, prompts: Prompts, blocks: PromptBlocks | None = None) -> None:
        self.places = {} if blocks is None else places_of(blocks)
        self.prompts = [list(prompt) for prompt in prompts] if self.places else prompts

    def answered(self, id: int, answer: Sequence[int]) -> None:
        """The answer to a request is complete."""
        for row, start, end in self.places.get(id, ()):
            kept = answer[: end - start]
            prompt = self.prompts[row]
            assert isinstance(prompt, list)
            prompt[start : start + len(kept)] = kept


def with_other_prompts(places: Mapping[int, Sequence[Place]], differ: Mapping[int, int]) -> set[int]:
    """The rows whose prompts are not the same in two runs, since they hold an answer that is not: `differ`
    has, by request id, the first token in which answers differ.
    """
    return {
        place.row
        for id, first in differ.items()
        for place in places.get(id, ())
        if first < place.end - place.start
    }


def places_of(blocks: PromptBlocks) -> dict[int, list[Place]]:
    """Request id -> where its answer lies in other prompts."""
    if blocks.answers is None:
        return {}
    of_answer = {hash: row for row, hash in enumerate(blocks.answers.tolist()) if hash >= 0}
    found: dict[int, list[Place]] = {}
    for row in range(len(blocks)):
        start = 0
        for hash, end in zip(*blocks.of(row), strict=True):
            if hash in of_answer:
                found.setdefault(of_answer[hash], []).append(Place(row, start, end))
            start = end
    return found
