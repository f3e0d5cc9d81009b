"""How much memory a GPU needs, from the files of a model, without torch: whether a run can fit, and what would.

Bytes per parameter in mixed precision with AdamW, as the Trainer does it:

    parameters   4   float32
    gradients    4   float32; DDP keeps a second copy in its buckets
    optimizer    8   two moments in float32
    copies       2   bfloat16 copies that autocast makes for the forward pass

FSDP divides all of them by the number of processes, and gathers two layers at a time. The activations that a layer
keeps for the backward pass follow Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, section 4.1, without the
attention matrices, which fused attention does not keep; the constants are what torch's memory tracker finds in GPT-NeoX
(layer norm, MLP) and Llama (RMS norm in float32, gated MLP), see tests/llm/test_memory.py. With checkpointing, 2 x
hidden bytes per token and layer are kept, and one layer at a time is computed again. The logits are kept in bfloat16
and float32, with a gradient in float32.

An estimate: fragmentation, buffers of NCCL and the CUDA context come on top (`SPARE`).
"""

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from common.config import require
from common.errors import UserError

GIB = 2**30
SPARE = 0.08  # share of a GPU's memory that is not ours to use
_LOGITS = 2 + 4 + 4  # bytes per token and entry of the vocabulary


@dataclass(frozen=True)
class Model:
    """The sizes that matter."""

    parameters: int
    hidden: int
    intermediate: int  # width of the MLP
    gated: bool  # the MLP multiplies two branches (SwiGLU)
    layers: int
    vocabulary: int

    @property
    def layer_bytes(self) -> int:
        """What a layer keeps of a token for the backward pass."""
        return 43 * self.hidden + 8 * self.intermediate if self.gated else 24 * self.hidden + 4 * self.intermediate


@dataclass(frozen=True)
class Setup:
    """What decides the memory besides the model."""

    mode: str
    tasks: int
    batch_size: int
    accumulation: int
    block_size: int
    checkpointing: bool

    def __str__(self) -> str:
        checkpointing = " trainer.dist.activation_checkpointing=true" if self.checkpointing else ""
        return (
            f"trainer.dist.mode={self.mode}{checkpointing} trainer.batch_size={self.batch_size} "
            f"trainer.accumulation={self.accumulation}"
        )


def read(folder: Path) -> Model:
    """The sizes of a model in a folder; shapes stand in the header of a safetensors file
    (https://huggingface.co/docs/safetensors/index#format).

    Raises:
        UserError: config.json names none of the usual sizes.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)

    def size(*names: str) -> int:
        found: list[int] = [config[name] for name in names if name in config]
        require(bool(found), f"{folder}/config.json has no {names[0]}: its memory cannot be estimated")
        return found[0]

    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        shapes |= _shapes(file)
    parameters = sum(math.prod(shape) for shape in shapes.values())
    if not shapes:  # pickled weights, most often float32
        parameters = sum(file.stat().st_size for file in folder.glob("pytorch_model*.bin")) // 4
    hidden = size("hidden_size", "n_embd")
    return Model(
        parameters=parameters,
        hidden=hidden,
        intermediate=config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
        gated=any("gate_proj" in name for name in shapes) or config.get("hidden_act") == "silu",
        layers=size("num_hidden_layers", "n_layer"),
        vocabulary=size("vocab_size"),
    )


def _shapes(file: Path) -> dict[str, list[int]]:
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def estimate(model: Model, setup: Setup) -> dict[str, float]:
    """Bytes on each GPU, by what they are for."""
    tokens = setup.batch_size * setup.block_size
    share = model.parameters / setup.tasks if setup.mode == "fsdp" else model.parameters
    layer = (model.parameters - 2 * model.vocabulary * model.hidden) / model.layers
    gathered = 2 * max(layer, model.vocabulary * model.hidden)  # the next one is fetched while one computes
    kept = 2 * model.hidden * model.layers + model.layer_bytes
    if not setup.checkpointing:
        kept = model.layer_bytes * model.layers
    return {
        "parameters": 4 * share,
        "gradients": (8 if setup.mode == "ddp" and setup.tasks > 1 else 4) * share,
        "optimizer": 8 * share,
        "copies": 2 * (gathered if setup.mode == "fsdp" else model.parameters),
        "activations": kept * tokens + _LOGITS * tokens * model.vocabulary,
    }


def check(name: str, folder: Path, setup: Setup, available: int | None) -> None:
    """Before submission.

    Args:
        name: of the model, for people.
        available: GiB of a GPU; None: not known, nothing is refused.

    Raises:
        UserError: the run cannot fit; with the nearest settings that would.
    """
    if available is None:
        return
    model, usable = read(folder), available * (1 - SPARE) * GIB
    needed = sum(estimate(model, setup).values())
    if needed <= usable:
        return
    fitting = next((other for other in _others(setup) if sum(estimate(model, other).values()) <= usable), None)
    raise UserError(
        f"{name} ({model.parameters / 1e9:.2f} billion parameters) needs about {needed / GIB:.0f} GiB per GPU with "
        f"{setup}, but of {available} about {usable / GIB:.0f} can be used. "
        + (f"This would fit: {fitting}." if fitting else "Take more GPUs, or a smaller trainer.block_size.")
        + " All alternatives: --estimate"
    )


def table(name: str, folder: Path, setup: Setup, available: int | None) -> str:
    """What --estimate prints: GiB per GPU for this configuration and its alternatives."""
    model = read(folder)
    modes = ["single"] if setup.tasks == 1 else ["ddp", "fsdp"]
    columns = {
        f"{mode}{' + checkpointing' if checkpointing else ''}": estimate(
            model, dataclasses.replace(setup, mode=mode, checkpointing=checkpointing)
        )
        for mode in modes
        for checkpointing in (False, True)
    }
    rows = {part: [column[part] for column in columns.values()] for part in next(iter(columns.values()))}
    rows["total"] = [sum(column.values()) for column in columns.values()]
    name_of_unit, unit = ("GiB", GIB) if max(rows["total"]) >= GIB else ("MiB", 2**20)
    of = f" of {available} GiB" if available else ""
    return "\n".join(
        [
            f"{name}: {model.parameters / 1e6:,.1f} million parameters, {setup.tasks} process(es) with "
            f"{setup.batch_size} rows of {setup.block_size} tokens each. {name_of_unit} per GPU{of}:",
            " " * 12 + "".join(f"{column:>22}" for column in columns),
            *(f"{part:12}" + "".join(f"{value / unit:22.2f}" for value in values) for part, values in rows.items()),
        ]
    )


def _others(setup: Setup) -> list[Setup]:
    """Settings to try instead, those that change least first. None changes what is computed."""
    batch_sizes = [size for size in range(setup.batch_size, 0, -1) if setup.batch_size % size == 0]
    modes = [setup.mode] if setup.tasks == 1 else [setup.mode, "fsdp"]
    return [
        dataclasses.replace(
            setup,
            mode=mode,
            checkpointing=checkpointing,
            batch_size=size,
            accumulation=setup.accumulation * setup.batch_size // size,
        )
        for mode in modes
        for checkpointing in (setup.checkpointing, True)
        for size in batch_sizes
    ]
