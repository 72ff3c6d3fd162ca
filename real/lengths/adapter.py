"""The LoRA adapter that teaches a model to predict lengths, switched on only while the model is asked.

Knows nothing of questions or answers. Needs peft.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from traces.errors import InputError
from traces.files import atomic_write

from ..engines.model import LoadedModel

NOTE = "seqsched.json"
"""A file beside peft's: the weights that the adapter was trained on, and how."""


class Adapter:
    """An adapter in the layers of `loaded.model`, switched off at first: the model computes as without it.

    Raises InputError where `path` holds no adapter, or one for another shape. `warnings` say where the note
    beside it names other weights.
    """

    def __init__(self, loaded: LoadedModel, path: Path | str) -> None:
        from peft import PeftModel

        folder = Path(path)
        if not (folder / "adapter_config.json").is_file():
            raise InputError(f"adapter {path}: no LoRA adapter there (adapter_config.json is missing)")
        try:
            # The weights keep the model's own type, so that asking costs no casts.
            family: Any = PeftModel
            read = family.from_pretrained(loaded.model, str(folder), autocast_adapter_dtype=False)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            line = " ".join(str(error).split())[:200]
            raise InputError(f"adapter {path}: does not fit {loaded.shape.name} ({line})") from None
        self.path = str(path)
        self.layers = read.eval().base_model
        self.layers.disable_adapter_layers()
        self.note = _read_note(folder)
        self.warnings = _differences(self.note, identity(loaded))

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Inside the block the adapter is switched on."""
        self.layers.enable_adapter_layers()
        try:
            yield
        finally:
            self.layers.disable_adapter_layers()


def identity(loaded: LoadedModel) -> dict[str, Any]:
    """What identifies these weights: model, kind of weights, and a few of the numbers."""
    embedding = loaded.model.get_input_embeddings().weight
    few = embedding[-1, :4].detach().to("cpu", torch.float32).tolist()
    return {"model": loaded.shape.name, "weights": loaded.weights, "few": [round(x, 6) for x in few]}


def write_note(folder: Path, about: dict[str, Any]) -> None:
    """Write `about` beside the adapter's files."""
    with atomic_write(folder / NOTE) as file:
        file.write(json.dumps(about, indent=2, allow_nan=False) + "\n")


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / NOTE}: not readable ({error})") from None
    return note if isinstance(note, dict) else {}


def _differences(note: dict[str, Any], mine: dict[str, Any]) -> tuple[str, ...]:
    """A warning where the adapter was trained on other weights than the loaded ones."""
    base = note.get("base")
    if not isinstance(base, dict):
        return ()
    few = base.get("few", [])
    same = len(few) == len(mine["few"]) and all(
        abs(a - b) <= 0.02 * abs(b) + 1e-4 for a, b in zip(few, mine["few"], strict=True)
    )
    if same:
        return ()
    was = f"{base.get('model')} with {base.get('weights')} weights"
    return (f"it was trained on other weights ({was}) than these: expect nonsense",)
