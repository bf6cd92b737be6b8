"""What of a model is trained: all of it, adapters beside its matrices, or the norm gains alone.

It knows neither the loss nor the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import InputError
from edgekit.train.frozen import Learns
from edgekit.train.lora import SCALE, add_adapters, merge_adapters
from edgekit.train.pieces import piece

if TYPE_CHECKING:
    import torch

Method = Literal["full", "lora", "norms"]
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class Trained:
    """The parameters that learn, by name, and how to put them back into the model's own."""

    method: Method
    parameters: dict[str, torch.nn.Parameter]

    def optimizer(self) -> Any:
        """Return an AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101); only matrices decay."""
        import torch

        parameters = self.parameters.values()
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
        on_gpu = all(p.is_cuda for p in parameters)  # there, one kernel moves all weights
        return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, fused=on_gpu or None)

    def values(self) -> dict[str, torch.Tensor]:
        """Return the weights as they are now; not copies."""
        return {name: parameter.detach() for name, parameter in self.parameters.items()}

    def restore(self, values: dict[str, torch.Tensor]) -> None:
        """Set the weights to `values`, each whole."""
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(piece(values[name], parameter))


def choose(
    model: Any,
    method: Method,
    rank: int = 0,
    seed: int = 0,
    scale: float = SCALE,
    learns: Learns = lambda _name: True,
) -> Trained:
    """Freeze `model` but for what `method` trains. Adapters of `rank` are added for "lora".

    `learns` says of each parameter's name, or of each layer's that could have an adapter, whether
    it may learn; for `scale` see `add_adapters`. Raises InputError if the model has nothing of the
    kind.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    match method:
        case "lora":
            chosen = add_adapters(model, rank, seed, scale, learns)
        case "norms":
            named = model.named_parameters()
            chosen = {n: p for n, p in named if n.endswith("norm.weight") and learns(n)}
        case "full":
            chosen = {name: p for name, p in model.named_parameters() if learns(name)}
    if not chosen:
        raise InputError(f"the model has nothing that the method {method!r} could train")
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return Trained(method, chosen)


def finish(model: Any, trained: Trained) -> None:
    """Make `model` an ordinary one again: adapters are added to their matrices."""
    if trained.method == "lora":
        merge_adapters(model)
